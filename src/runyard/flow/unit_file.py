"""Reads the TOML file of a flow unit (spec/modelbox.md 5.10)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from runyard.flow.problem import Position, Problem
from runyard.flow.unit_library import MAX_FILE_BYTES, Option, OptionType, Port, UnitInfo

MAX_PORTS = 256
MAX_NAME = 255
TYPES = ("python", "inference", "yolo_postprocess", "java", "c++")
_REQUIRED = ("name", "device", "version", "description", "type")
_GROUP = re.compile(r"[A-Z]\w*(/\w+)?")
_AT = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_MARKED = re.compile(rb"^\s*(\[\s*base\s*\]|base\s*[.=])", re.MULTILINE)


class NotAUnit(Exception):
    """The file describes something else, such as a flow."""


def read_unit(path: Path) -> tuple[UnitInfo | None, list[Problem]]:
    """What a TOML file says, and what is wrong with it. Raises NotAUnit if it is about no unit at all."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES or not path.is_file():
            raise NotAUnit(f"{path} is larger than {MAX_FILE_BYTES:,} bytes, or no file")
        raw = path.read_bytes()
    except OSError as error:
        return None, [Problem(f"can't read it: {error.strerror}", file=str(path))]
    if not _MARKED.search(raw):
        raise NotAUnit(f"{path} has no [base]")
    return parse_unit(raw, path)


def parse_unit(raw: bytes, path: Path) -> tuple[UnitInfo | None, list[Problem]]:
    """As `read_unit`, of the bytes of the file at `path`."""
    try:
        document = tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        return None, [Problem(f"it is not UTF-8: byte {raw[error.start]:#04x} at {error.start}", file=str(path))]
    except RecursionError:
        return None, [Problem("it is nested too deeply", file=str(path))]
    except tomllib.TOMLDecodeError as error:
        return None, [toml_problem(error, raw.decode(), str(path))]
    base = document.get("base")
    if not isinstance(base, dict) or "graph" in document:
        raise NotAUnit(f"{path} has no [base] or is a flow")
    return _Reader(path).read(document, base)


def toml_problem(error: tomllib.TOMLDecodeError, text: str, file: str = "") -> Problem:
    """What the TOML parser says, with the place as a position."""
    match = _AT.fullmatch(str(error))
    if match is None:
        return Problem(f"not valid TOML: {error}", file=file)
    lines = text.split("\n")
    line, column = (int(match[2]), int(match[3])) if match[2] else (len(lines), len(lines[-1]) + 1)
    return Problem(
        f"not valid TOML: {match[1]}",
        position=Position(line, column),
        file=file,
        text=lines[line - 1] if line <= len(lines) else "",
    )


class _Reader:
    """Reads one document and keeps the problems on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def read(self, document: dict[str, Any], base: dict[str, Any]) -> tuple[UnitInfo | None, list[Problem]]:
        for key in _REQUIRED:
            if not isinstance(base.get(key), str) or not base[key]:
                self._note(f"base.{key} must be a text that is not empty", base.get("name"))
        kind = base.get("type")
        if isinstance(kind, str) and kind and kind not in TYPES:
            self._note(f"base.type {kind!r} is none of {', '.join(TYPES)}", base.get("name"))
        name = base.get("name")
        if isinstance(name, str) and (len(name) > MAX_NAME or "\0" in name):
            self._note(f"base.name is longer than {MAX_NAME} characters or has a NUL", None)
        if kind in ("python", "java", "inference") and not isinstance(base.get("entry"), str):
            self._note("base.entry must say where the unit's class or model is", name)
        if kind == "python" and "@" not in str(base.get("entry", "@")):
            self._note("base.entry must be module@Class", name)
        config = self._table(document, "config", name)
        native = kind in ("python", "java")
        info = UnitInfo(
            name=str(name),
            device=str(base.get("device")),
            type=str(kind),
            version=str(base.get("version", "")),
            description=str(base.get("description", "")),
            group=self._group(base.get("group_type")),
            inputs=self._ports(document, "input", name),
            outputs=self._ports(document, "output", name),
            options=tuple(Option(key, _option_type(value), _text(value)) for key, value in config.items()),
            flow_stream=self._flag(base, "stream", native),
            condition=self._flag(base, "condition"),
            loop=self._flag(base, "loop"),
            expand=self._flag(base, "expand"),
            collapse=self._flag(base, "collapse"),
            collapse_all=self._flag(base, "collapse_all", True),
            same_count=self._flag(base, "stream_same_count"),
            exception_visible=self._flag(base, "exception_visible"),
            input_contiguous=self._flag(base, "is_input_contiguous", True),
            max_batch_size=self._count(base, "max_batch_size"),
            default_batch_size=self._count(base, "default_batch_size"),
            entry=str(base.get("entry", "")),
            virtual_type=str(base.get("virtual_type", "")),
            config={"plugin": base["plugin"], **config} if isinstance(base.get("plugin"), str) else config,
            encryption={key: str(value) for key, value in self._table(document, "encryption", name).items()},
            file=self.path,
        )
        if info.expand and info.collapse:
            self._note("a unit can't expand and collapse at once", name)
        return (None if self.problems else info), self.problems

    def _note(self, message: str, name: object) -> None:
        about = f"unit {name!r}: " if isinstance(name, str) and name else ""
        self.problems.append(Problem(about + message, file=str(self.path)))

    def _table(self, document: dict[str, Any], key: str, name: object) -> dict[str, Any]:
        table = document.get(key, {})
        if isinstance(table, dict):
            return table
        self._note(f"[{key}] must be a table", name)
        return {}

    def _ports(self, document: dict[str, Any], key: str, name: object) -> tuple[Port, ...]:
        """The ports of `[input]` or `[output]`: tables input1, input2, … without a gap."""
        tables = self._table(document, key, name)
        ports: list[Port] = []
        for number in range(1, min(len(tables), MAX_PORTS) + 1):
            table = tables.get(f"{key}{number}")
            if not isinstance(table, dict) or not isinstance(table.get("name"), str) or not table["name"]:
                self._note(f"{key}.{key}{number} must be a table with a name; ports are numbered from 1 on", name)
                break
            ports.append(Port(table["name"], str(table.get("type", "")), str(table.get("device", "cpu"))))
        if len(tables) > MAX_PORTS:
            self._note(f"{key} has more than {MAX_PORTS} ports", name)
        twice = {port.name for port in ports if sum(other.name == port.name for other in ports) > 1}
        if twice:
            self._note(f"{key} port {sorted(twice)[0]!r} is there twice", name)
        return tuple(ports)

    def _flag(self, base: dict[str, Any], key: str, default: bool = False) -> bool:
        value = base.get(key, default)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            self._note(f"base.{key} must be true or false, not {value!r}", base.get("name"))
            return default
        return value

    def _count(self, base: dict[str, Any], key: str) -> int | None:
        value = base.get(key)
        if value is None:
            return None
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self._note(f"base.{key} must be a whole number of at least 1, not {value!r}", base.get("name"))
            return None
        return value

    @staticmethod
    def _group(value: object) -> str:
        """The palette's group; what does not look like one is ignored."""
        return value if isinstance(value, str) and _GROUP.fullmatch(value) else "Generic"


def _option_type(value: object) -> OptionType:
    if isinstance(value, bool):
        return OptionType.BOOL
    if isinstance(value, int):
        return OptionType.INTEGER
    if isinstance(value, float):
        return OptionType.NUMBER
    return OptionType.LIST if isinstance(value, list) else OptionType.STRING


def _text(value: object) -> str:
    """A default as one would write it in a node."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    return str(value)
