"""Flow documents, in TOML or JSON (spec/modelbox.md 4.1): read, checked for shape, and nothing interpreted."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runyard.flow.problem import BadFlow, Position, Problem
from runyard.flow.status import StatusCode
from runyard.flow.unit_file import toml_problem

MAX_BYTES = 8 * 1024 * 1024
"""Size of a document, or of the file with its graph."""
MAX_DIRECTORIES = 64
MAX_ARGUMENTS = 256
FORMATS = ("toml", "json")
LOG_LEVELS = {"DEBUG": 10, "INFO": 20, "NOTICE": 20, "WARN": 30, "WARNING": 30, "ERROR": 40, "FATAL": 50, "OFF": 60}
"""ModelBox's names of levels, as Python's numbers."""
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
PROFILE_DIR = "/tmp/modelbox/perf"

_SECTIONS = ("driver", "graph", "flow", "log", "profile", "args")
_DOT = ("graphviz",)
_COUNTS = ("queue_size", "batch_size", "queue_size_external")
_THREADS = ("thread-num", "max-thread-num", "max_executor_thread_num")


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a flow: what stands in the place of `$name` in a node's option if the caller gives nothing."""

    name: str
    default: str | None = None
    description: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is recorded while the flow runs, and where."""

    performance: bool = False
    trace: bool = False
    session: bool = False
    directory: str = PROFILE_DIR


@dataclass(frozen=True, slots=True)
class FlowDocument:
    """A flow as somebody wrote it. `dot` is the graph's text, `dot_file` the file it came from, if from one of its own.

    `defaults` are the counts of the `[graph]` section, which the graph's own attributes override. `threads` is 0 where
    the runtime is to choose. `file` is the document's own file; paths in it are meant from that file's directory.
    `dot_line` is the line of the document where the graph's text begins, 0 where it is not there letter by letter;
    `dot_prefix` is what stands before it on that line.
    """

    dot: str
    dot_file: str = ""
    dot_line: int = 0
    dot_prefix: str = ""
    name: str = ""
    description: str = ""
    version: str = ""
    strict: bool = True
    directories: tuple[str, ...] = ()
    skip_default: bool = False
    defaults: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0
    log_level: str = ""
    profile: Profile = field(default_factory=Profile)
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    file: str = ""


def load_document(path: str | Path) -> FlowDocument:
    """The document in a file: JSON or TOML by its suffix, else by its first character; or bare DOT (`.dot`, `.gv`).

    Raises BadFlow, and OSError if the file can't be read.
    """
    path = Path(path)
    text = _read_text(path)
    if path.suffix in (".dot", ".gv"):
        return FlowDocument(dot=text, dot_file=str(path), file=str(path))
    form = path.suffix[1:] if path.suffix[1:] in FORMATS else ""
    return parse_document(text, form, file=str(path))


def parse_document(text: str, form: str = "", *, file: str = "", files: bool = True) -> FlowDocument:
    """The document in a text. `form` is `toml` or `json`; "" means JSON if the text begins with `{`.

    `files=False` refuses `graphconffilepath`, for texts of strangers. Raises BadFlow with every fault.
    """
    if len(text) > MAX_BYTES:
        raise BadFlow([Problem(f"the document is longer than {MAX_BYTES:,} characters", file=file)])
    form = form or ("json" if text.lstrip("\ufeff \t\r\n").startswith("{") else "toml")
    if form not in FORMATS:
        message = f"Unsupport graph format: {form}"
        raise BadFlow([Problem(message, StatusCode.STATUS_NOTSUPPORT, hint="it is toml or json", file=file)])
    text = text.removeprefix("\ufeff")
    try:
        tree = tomllib.loads(text) if form == "toml" else json.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadFlow([toml_problem(error, text, file)]) from None
    except json.JSONDecodeError as error:
        place, line = Position(error.lineno, error.colno), text.split("\n")[error.lineno - 1]
        raise BadFlow([Problem(f"not valid JSON: {error.msg}", position=place, file=file, text=line)]) from None
    except RecursionError:
        raise BadFlow([Problem("the document is nested too deeply", file=file)]) from None
    except ValueError as error:
        raise BadFlow([Problem(f"not valid {form.upper()}: {error}", file=file)]) from None
    if _SURROGATE.search(text) and not _encodes(tree):
        raise BadFlow([Problem("half of a surrogate pair (\\ud800 to \\udfff) is no character", file=file)])
    document = build_document(tree, file=file, files=files)
    if document.dot_file or not document.dot.strip():
        return document
    at = text.find(document.dot)
    if at < 0 or text.find(document.dot, at + 1) >= 0:
        return document
    prefix = text[text.rfind("\n", 0, at) + 1 : at]
    return replace(document, dot_line=text.count("\n", 0, at) + 1, dot_prefix=prefix)


def build_document(tree: object, *, file: str = "", files: bool = True) -> FlowDocument:
    """The document in plain data, such as the `job_graph` of a request. Raises BadFlow with every fault."""
    if not isinstance(tree, Mapping):
        raise BadFlow([Problem(f"a flow is a table with [graph], not {type(tree).__name__}", file=file)])
    return _Reader(tree, file, files).read()


class _Reader:
    """Reads one document and keeps the faults on the way."""

    def __init__(self, tree: Mapping[str, Any], file: str, files: bool) -> None:
        self._tree, self._file, self._files = tree, file, files
        self._problems: list[Problem] = []

    def read(self) -> FlowDocument:
        graph, flow, driver = self._table("graph"), self._table("flow"), self._table("driver")
        if not graph and "graph" not in self._tree:
            self._note(f"there is no [graph]{self._nearest()}")
        if not self._flag(flow, "flow.enable", True):
            self._note("flow is disabled", StatusCode.STATUS_PERMIT, hint="flow.enable is false")
        form = graph.get("format")
        if form in (None, ""):
            self._note("graph.format is empty", hint='graph.format must be "graphviz"')
        elif form not in _DOT:
            self._note(
                f"Graph format not supported, support type:{','.join(_DOT)}",
                StatusCode.STATUS_NOTSUPPORT,
                hint=f"not {form!r}",
            )
        dot, dot_file = self._dot(graph)
        threads = [self._count(graph, f"graph.{key}") for key in _THREADS]
        document = FlowDocument(
            dot=dot,
            dot_file=dot_file,
            name=self._text(flow, "flow.name"),
            description=self._text(flow, "flow.desc"),
            version=self._text(flow, "flow.version"),
            strict=self._flag(graph, "graph.strict", True),
            directories=self._directories(driver),
            skip_default=self._flag(driver, "driver.skip-default", False),
            defaults={key: str(count) for key in _COUNTS if (count := self._count(graph, f"graph.{key}"))},
            threads=next((count for count in threads if count), 0),
            log_level=self._text(self._table("log"), "log.level"),
            profile=self._profile(),
            arguments=self._arguments(),
            file=self._file,
        )
        if self._problems:
            raise BadFlow(self._problems)
        return document

    def _dot(self, graph: Mapping[str, Any]) -> tuple[str, str]:
        """The graph's text, and the file it comes from."""
        text, path = graph.get("graphconf"), graph.get("graphconffilepath")
        if isinstance(text, list) and all(isinstance(line, str) for line in text):
            text = "\n".join(text)
        if text not in (None, ""):
            if not isinstance(text, str):
                self._note("graph.graphconf must be a text, or an array of lines")
            return str(text), ""
        if path in (None, ""):
            self._note(
                "graph config path is null.", StatusCode.STATUS_NOTFOUND, hint="put the graph into graph.graphconf"
            )
        elif not isinstance(path, str) or "\0" in path:
            self._note("graph.graphconffilepath must be the path of a file")
        elif not self._files:
            self._note("graph.graphconffilepath is not allowed here", hint="put the graph into graph.graphconf")
        else:
            file = Path(self._file).parent / path
            try:
                return _read_text(file), str(file)
            except OSError as error:
                self._note(f"graph.graphconffilepath {path!r}: {error.strerror}", StatusCode.STATUS_NOTFOUND)
            except BadFlow as error:
                self._problems.extend(error.problems)
        return "", ""

    def _directories(self, driver: Mapping[str, Any]) -> tuple[str, ...]:
        """The directories with units; a relative one is meant from the document's directory."""
        given = driver.get("dir")
        paths = [given] if isinstance(given, str) else [] if given is None else given
        if not isinstance(paths, list) or not all(isinstance(path, str) and "\0" not in path for path in paths):
            self._note("driver.dir must be a directory, or an array of directories")
            return ()
        if len(paths) > MAX_DIRECTORIES:
            self._note(f"driver.dir has more than {MAX_DIRECTORIES} directories")
        return tuple(str(Path(self._file).parent / path) for path in paths if path)

    def _profile(self) -> Profile:
        table = self._table("profile")
        return Profile(
            performance=self._flag(table, "profile.performance", self._flag(table, "profile.profile", False)),
            trace=self._flag(table, "profile.trace", False),
            session=self._flag(table, "profile.session", False),
            directory=self._text(table, "profile.dir") or PROFILE_DIR,
        )

    def _arguments(self) -> Mapping[str, Argument]:
        result = {}
        for name, table in self._table("args").items():
            if not isinstance(table, Mapping):
                self._note(f"[args.{name}] must be a table with `default`")
                continue
            default = table.get("default")
            if isinstance(default, list | Mapping):
                self._note(f"args.{name}.default must be a text, a number, true or false")
            known = default if default is None else as_text(default)
            result[name] = Argument(name, known, as_text(table.get("desc", "")), as_text(table.get("type", "")))
        if len(result) > MAX_ARGUMENTS:
            self._note(f"there are more than {MAX_ARGUMENTS} arguments")
        return result

    # Values -------------------------------------------------------------------------------------------------------

    def _table(self, key: str) -> Mapping[str, Any]:
        table = self._tree.get(key)
        if table is None:
            return {}
        if not isinstance(table, Mapping):
            self._note(f"[{key}] must be a table, not {type(table).__name__}")
            return {}
        return table

    def _text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key.partition(".")[2])
        if isinstance(value, list | Mapping):
            self._note(f"{key} must be a text")
        return "" if value is None else as_text(value)

    def _flag(self, table: Mapping[str, Any], key: str, default: bool) -> bool:
        value = table.get(key.partition(".")[2])
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if value in (None, ""):
            return default
        if not isinstance(value, bool):
            self._note(f"{key} must be true or false, not {_shown(value)}")
            return default
        return value

    def _count(self, table: Mapping[str, Any], key: str) -> int:
        value = table.get(key.partition(".")[2])
        if isinstance(value, str) and value.isascii() and value.isdecimal():
            value = int(value[:10])
        if value in (None, ""):
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            self._note(f"{key} must be a whole number of at least 1, not {_shown(value)}")
            return 0
        return value

    def _note(self, message: str, code: StatusCode = StatusCode.STATUS_BADCONF, *, hint: str = "") -> None:
        self._problems.append(Problem(message, code, hint=hint, file=self._file))

    def _nearest(self) -> str:
        near = [
            key for key in self._tree if key not in _SECTIONS and difflib.get_close_matches(key[:64], ["graph"], n=1)
        ]
        return f"; did you mean [graph] by [{near[0]}]?" if near else ""


def as_text(value: object) -> str:
    """A scalar as ModelBox's configuration keeps it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _encodes(tree: object) -> bool:
    """Whether all texts of a tree can be written as UTF-8."""
    try:
        json.dumps(tree, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    return repr(value)[:80]


def _read_text(path: Path) -> str:
    """A file's text. Raises BadFlow if it is too large or not UTF-8, and OSError."""
    if path.is_fifo() or path.is_char_device():
        raise BadFlow([Problem("it is no regular file", file=str(path))])
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise BadFlow([Problem(f"the file is larger than {MAX_BYTES:,} bytes", file=str(path))])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = f"it is not UTF-8: byte {raw[error.start]:#04x} at {error.start}"
        raise BadFlow([Problem(message, file=str(path))]) from None
