"""supervisord's configuration, read as supervisor itself reads it: comments, `%(…)s` expansions, quoting."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runyard.importers.report import Entry, Report
from runyard.model.check import MAX_REPLICAS
from runyard.model.errors import InvalidInput
from runyard.model.signals import signal_name, signal_number

_EXPANSION = re.compile(r"%(?:%|\(([^)]*)\)(0?[0-9]{0,2})([sd])|)")
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
_OUTPUT = "Runyard keeps all output itself: `runyard logs`"
_EVENTS = "there are no supervisor events here: see hooks, and `runyard events`"
#: Options that need no counterpart.
_IGNORED = {
    "priority": "orders starts and stops only, lower first; give `after` to a job that must wait for another",
    "redirect_stderr": "stdout and stderr are kept apart, and `runyard logs` shows both",
    "stopasgroup": "the whole process tree is always stopped",
    "killasgroup": "the whole process tree is always killed",
    "serverurl": "there is no supervisor to call",
    **{
        f"{stream}_{option}": _EVENTS if option in ("events_enabled", "capture_maxbytes") else _OUTPUT
        for stream in ("stdout", "stderr")
        for option in ("logfile", "logfile_maxbytes", "logfile_backups", "syslog", "events_enabled", "capture_maxbytes")
    },
}
_MAPPED = frozenset(
    {"command", "process_name", "numprocs", "numprocs_start", "autostart", "autorestart", "startsecs", "startretries"}
    | {"exitcodes", "stopsignal", "stopwaitsecs", "user", "directory", "umask", "environment"}
)
#: Sections that are about supervisord itself.
_OWN = frozenset({"supervisord", "supervisorctl", "unix_http_server", "inet_http_server", "include"})
_REFUSED = {
    "eventlistener": "reads supervisor's event protocol on its stdin, which nobody speaks here; a hook gets Runyard's "
    "events, as JSON, by HTTP or on the stdin of a command",
    "fcgi-program": "shares a listening socket that supervisor opens; let the program listen by itself, or put a web "
    "server before it",
}

Section = dict[str, str]


class Surroundings:
    """What a configuration may refer to: its own folder, the name of the host, and supervisord's environment."""

    def __init__(self, here: str = "/", host: str = "", env: Mapping[str, str] | None = None) -> None:
        self.here = here
        self.names = {"here": here, "host_node_name": host, **{f"ENV_{name}": v for name, v in (env or {}).items()}}


def read_supervisord(
    text: str,
    around: Surroundings | None = None,
    included: Callable[[str], Iterable[tuple[str, str]]] = lambda pattern: (),
) -> Report:
    """The jobs for the programs in `text`. `included` gives name and text of the files that a pattern of `[include]`
    means. Raises InvalidInput if the text is no configuration."""
    around = around or Surroundings()
    report = Report(format="supervisord")
    parser = _parsed(text, "the file")
    if parser.has_option("include", "files"):
        try:
            patterns = _expand(parser.get("include", "files"), around.names).split()
        except ValueError as error:
            raise InvalidInput(f"[include] files: {error}") from None
        for pattern in patterns:
            files = list(included(pattern))
            report.notes.append(f"[include] {pattern}: {', '.join(name for name, _ in files) or 'no file'}")
            for name, more in files:
                _parse_into(parser, more, name)
    sections = {name: {key: value or "" for key, value in parser.items(name)} for name in parser.sections()}
    groups = _groups(report, sections)
    for title, section in sections.items():
        kind, _, name = title.partition(":")
        kind, name = kind.strip(), name.strip()
        if kind == "program" and name:
            entry = report.entry(f"[{title}]", name)
            try:
                jobs = _Program(entry, name, section, groups.get(name), around, sections.get("supervisord", {})).jobs()
                report.take(entry, *jobs)
            except ValueError as error:
                entry.error = str(error)
        elif kind in _REFUSED:
            report.entry(f"[{title}]", name).error = _REFUSED[kind]
        elif kind != "group" and not (title in _OWN or kind in ("rpcinterface", "ctlplugin")):
            report.notes.append(f"[{title}]: is no section of supervisord's, and ignored")
    if report.entries:
        report.notes.append(
            "[supervisord] and the like: only user, umask, directory and environment mean something here"
        )
    return report


def _parsed(text: str, name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    _parse_into(parser, text, name)
    return parser


def _parse_into(parser: configparser.RawConfigParser, text: str, name: str) -> None:
    try:
        parser.read_string(text, name)
    except configparser.Error as error:
        raise InvalidInput(f"not a supervisord configuration: {' '.join(str(error).split())}") from None


def _groups(report: Report, sections: dict[str, Section]) -> dict[str, str]:
    """The group of each program that is in one."""
    groups: dict[str, str] = {}
    for title, section in sections.items():
        kind, _, name = title.partition(":")
        if kind != "group":
            continue
        members = [member.strip() for member in section.get("programs", "").split(",") if member.strip()]
        groups |= dict.fromkeys(members, name)
        report.notes.append(f"[{title}]: its programs get the label group={name}: `runyard ps -l group={name}`")
        report.notes += [
            f"[{title}]: there is no program {member!r}" for member in members if f"program:{member}" not in sections
        ]
    return groups


class _Program:
    """One `[program:x]`. Raises ValueError for what supervisord would refuse as well."""

    def __init__(
        self, entry: Entry, name: str, section: Section, group: str | None, around: Surroundings, server: Section
    ) -> None:
        self.entry, self.name, self.section, self.group, self.server = entry, name, section, group, server
        self.here = around.here
        self.names = around.names | {"program_name": name, "group_name": group or name}

    def jobs(self) -> list[dict[str, Any]]:
        self._ignored()
        base = self._restarting() | self._stopping() | self._common()
        count, first = self._number("numprocs", 1, most=MAX_REPLICAS, least=1), self._number("numprocs_start", 0)
        numbers = range(first, first + count)
        processes = [self._process(number, count) for number in numbers]
        if "numprocs" in self.section:
            self.entry.mapped["numprocs"] = "replicas"
        if all(process == processes[0] for process in processes):
            name = self.name if count > 1 else self._process_name(first, count)
            if count > 1 and first:
                self.entry.warnings.append(f"replicas are counted from 0, not from {first}")
            return [base | processes[0] | {"name": name, "replicas": count}]
        self.entry.mapped["numprocs"] = "a job for each process, because they differ by process_num"
        return [
            base | process | {"name": self._process_name(number, count)}
            for number, process in zip(numbers, processes, strict=True)
        ]

    def _process(self, number: int, count: int) -> dict[str, Any]:
        """What may be different for each process."""
        names = self.names | {"process_num": str(number), "numprocs": str(count)}
        own = _pairs(_expand(self.section.get("environment", ""), names))
        shared = _pairs(_expand(self.server.get("environment", ""), self.names))
        names |= {f"ENV_{key}": value for key, value in own.items()}
        line = self._option("command", names)
        try:
            command = shlex.split(line)
        except ValueError as error:
            raise ValueError(f"command: {error}: {line[:100]!r}") from None
        if not command:
            raise ValueError("command: is missing")
        self.entry.mapped["command"] = "command"
        process: dict[str, Any] = {"command": command}
        if env := shared | own:
            process["env"] = env
            self.entry.mapped["environment"] = "env"
        directory = self._option("directory", names) or _expand(self.server.get("directory", ""), self.names)
        if directory:
            if not directory.startswith("/"):
                warning = f"directory {directory!r} is taken from {self.here}, the file's folder"
                if warning not in self.entry.warnings:
                    self.entry.warnings.append(warning)
                directory = f"{self.here.rstrip('/')}/{directory}"
            process["cwd"] = directory
            self.entry.mapped["directory"] = "cwd"
        return process

    def _process_name(self, number: int, count: int) -> str:
        if "process_name" in self.section:
            self.entry.mapped["process_name"] = "name"
        pattern = self.section.get("process_name") or (
            "%(program_name)s" if count == 1 else "%(program_name)s_%(process_num)02d"
        )
        return _expand(pattern, self.names | {"process_num": str(number), "numprocs": str(count)})

    def _restarting(self) -> dict[str, Any]:
        mapped, warnings = self.entry.mapped, self.entry.warnings
        again = self._option("autorestart").lower() or "unexpected"
        retries, startsecs = self._number("startretries", 3), self._number("startsecs", 1)
        if again in _FALSE:
            mapped["autorestart"] = "lifecycle once"
            for option in ("startretries", "startsecs"):
                if option in self.section:
                    self.entry.ignored[option] = "there are no restarts, not even of a start that fails"
            return {"lifecycle": "once"}
        if again not in _TRUE and again != "unexpected":
            raise ValueError(f"autorestart: must be true, false or unexpected, not {again!r}")
        policy = "always" if again in _TRUE else "on-failure"
        mapped["autorestart"] = f"lifecycle service, restart.policy {policy}"
        mapped["startretries"] = f"restart.max {retries}"
        mapped["startsecs"] = f"restart.reset_after {startsecs} s: a run that was up so long is not a failed start"
        codes = [code.strip() for code in self._option("exitcodes").split(",") if code.strip()] or ["0"]
        if policy == "on-failure" and codes != ["0"]:
            warnings.append(f"exitcodes {','.join(codes)}: here only exit code 0 is an expected end")
        elif "exitcodes" in self.section:
            mapped["exitcodes"] = "restart.policy"
        return {"lifecycle": "service", "restart": {"policy": policy, "max": retries, "reset_after": startsecs}}

    def _stopping(self) -> dict[str, Any]:
        stop: dict[str, Any] = {}
        if word := self._option("stopsignal"):
            number = signal_number(word)
            if number is None:
                raise ValueError(f"stopsignal: {word!r} is no signal")
            stop["signal"] = signal_name(number)
            self.entry.mapped["stopsignal"] = "stop.signal"
        if "stopwaitsecs" in self.section:
            stop["grace"] = self._number("stopwaitsecs", 10)
            self.entry.mapped["stopwaitsecs"] = "stop.grace"
        return {"stop": stop} if stop else {}

    def _common(self) -> dict[str, Any]:
        job: dict[str, Any] = {}
        if not self._truth("autostart", True):
            job["hold"] = True
            self.entry.mapped["autostart"] = "hold: `runyard release` starts it"
        elif "autostart" in self.section:
            self.entry.mapped["autostart"] = "starts at once"
        if user := self._option("user") or self.server.get("user", ""):
            job["user"] = user
            self.entry.mapped["user"] = "user: the server must be allowed to run jobs as others"
        if umask := self._option("umask") or self.server.get("umask", ""):
            job["umask"] = umask
            self.entry.mapped["umask"] = "umask"
        if self.group is not None:
            job["labels"] = {"group": self.group}
            self.entry.mapped["group"] = f"label group={self.group}"
        return job

    def _ignored(self) -> None:
        for option in self.section:
            if option not in _MAPPED:
                self.entry.ignored[option] = _IGNORED.get(option, "is no option of a program that is known here")

    def _option(self, option: str, names: Mapping[str, str] | None = None) -> str:
        try:
            return _expand(self.section.get(option, ""), self.names if names is None else names)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None

    def _number(self, option: str, default: int, *, least: int = 0, most: int = 10**9) -> int:
        text = self._option(option) or str(default)
        if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise ValueError(f"{option}: must be a whole number from {least} to {most}, not {text[:50]!r}")
        return int(text)

    def _truth(self, option: str, default: bool) -> bool:
        text = self._option(option).lower()
        if text and text not in _TRUE | _FALSE:
            raise ValueError(f"{option}: must be true or false, not {text!r}")
        return text in _TRUE if text else default


def _expand(text: str, names: Mapping[str, str]) -> str:
    """`text` with its `%(name)s` replaced. Raises ValueError for a name that is not known, and for a lone `%`."""

    def one(match: re.Match[str]) -> str:
        name, width, kind = match.groups()
        if match.group() == "%%":
            return "%"
        if name is None:
            raise ValueError(f"a lone % at column {match.start() + 1} of {text[:100]!r}: write %%")
        if name not in names:
            hint = "; set it in the environment, and import again" if name.startswith("ENV_") else ""
            raise ValueError(f"%({name})s is not known here{hint}")
        value = names[name]
        if kind == "d":
            if not re.fullmatch(r"[0-9]{1,10}", value):
                raise ValueError(f"%({name})d is no number: {value[:50]!r}")
            return format(int(value), f"{width}d")
        return value.rjust(int(width or 0))

    return _EXPANSION.sub(one, text)


def _pairs(text: str) -> dict[str, str]:
    """`KEY="val",KEY2=val2`, in which a quoted value may hold commas. Raises ValueError."""
    lexer = shlex.shlex(text)
    lexer.wordchars += "/.+-():"
    try:
        words = list(lexer)
    except ValueError as error:
        raise ValueError(f"environment: {error}: {text[:100]!r}") from None
    pairs: dict[str, str] = {}
    for start in range(0, len(words), 4):
        triple = words[start : start + 3]
        if len(triple) != 3 or triple[1] != "=":
            raise ValueError(f'environment: expected KEY="value",KEY="value" at {" ".join(words[start:])[:100]!r}')
        pairs[triple[0]] = triple[2].strip("'\"")
    return pairs
