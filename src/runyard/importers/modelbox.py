"""ModelBox's server configuration, `modelbox.conf`, in this server's words (spec/modelbox.md, 2). Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from runyard.model.errors import ConfigError
from runyard.model.quantity import parse_size

#: What the document says of keys that are not there.
IP, PORT, FLOW_PATH = "127.0.0.1", 1104, "/usr/local/etc/modelbox/graph"
MAX_INCLUDES = 1000
_JOBS, _EDITOR = "modelbox-plugin", "modelbox-plugin-editor"
_LEVELS = {
    "DEBUG": "debug",
    "INFO": "info",
    "NOTICE": "info",
    "WARN": "warning",
    "ERROR": "error",
    "FATAL": "critical",
    "OFF": "off",
}
_VARIABLE = re.compile(r"(\\?)\$\{(\w+)\}")


class Conf(msgspec.Struct, frozen=True):
    """What a `modelbox.conf` comes to."""

    settings: dict[str, Any]
    """By dotted key of our own configuration."""
    notes: list[str]
    """What has no effect here, and why."""
    user: str | None
    """Whom the server is to run as."""


def read_conf(
    text: str, path: str, env: Mapping[str, str], included: Callable[[str], Iterable[tuple[str, str]]]
) -> Conf:
    """`path` is for messages; `included` gives path and text of the files that a pattern of `include.files` means.

    Raises ConfigError that names file, key and value.
    """
    return _Reader(path, _tree(text, path, env, included)).read()


def _tree(
    text: str, path: str, env: Mapping[str, str], included: Callable[[str], Iterable[tuple[str, str]]]
) -> dict[str, Any]:
    """The file with those that it includes; where both say something the later file counts, plugins are added up."""
    tree = _parse(text, path, env)
    table = tree.get("include", {})
    patterns = table.get("files", []) if isinstance(table, dict) else None
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError(f"{path}: include.files must be an array of patterns, not {patterns!r}")
    count = 0
    for pattern in patterns:
        for place, more in included(pattern):
            count += 1
            if count > MAX_INCLUDES:
                raise ConfigError(f"{path}: include.files means more than {MAX_INCLUDES} files")
            _merge(tree, _parse(more, place, env))
    return tree


def _parse(text: str, path: str, env: Mapping[str, str]) -> dict[str, Any]:
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None

    def variable(found: re.Match[str]) -> str:
        escaped, name = found.groups()
        if escaped:
            return found.group()[1:]
        if name not in env:
            raise ConfigError(f"{path}: the environment variable {name} is not set, and a value needs it")
        return env[name]

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(variable, value)
        if isinstance(value, list):
            return [expand(item) for item in value]
        return {key: expand(item) for key, item in value.items()} if isinstance(value, dict) else value

    expanded: dict[str, Any] = expand(tree)
    return expanded


def _merge(tree: dict[str, Any], more: dict[str, Any], prefix: str = "") -> None:
    for key, value in more.items():
        mine = tree.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            _merge(mine, value, f"{prefix}{key}.")
        elif f"{prefix}{key}" == "plugin.files" and isinstance(mine, list) and isinstance(value, list):
            tree[key] = mine + [item for item in value if item not in mine]
        else:
            tree[key] = value


class _Reader:
    """Takes the keys that it knows; others belong to plugins, and are passed over."""

    def __init__(self, path: str, tree: Mapping[str, Any]) -> None:
        self._path, self._tree = path, tree
        self._settings: dict[str, Any] = {}
        self._notes: list[str] = []

    def read(self) -> Conf:
        self._put("host", self._text("server.ip") or IP)
        self._put("port", self._port())
        flow_path = self._text("server.flow_path")
        self._put("flow_path", FLOW_PATH if flow_path is None else flow_path)
        self._put("application_root", self._text("server.application_root") or "")
        self._put("allow", self._list("acl.allow") or [])
        self._put("enabled", self._plugins())
        self._log()
        if self._integer("server.init_timeout") is not None:
            self._notes.append("server.init_timeout has no effect: flows are created beside a server that is up")
        if self._flag("control.enable"):
            self._notes.append("control.enable has no effect: `runyard` talks to the server by HTTP")
        if self._flag("editor.enable"):
            self._notes.append("editor.enable has no effect: this server has no ModelBox editor")
        return Conf(self._settings, self._notes, self._text("server.user") or None)

    def _put(self, key: str, value: Any) -> None:
        self._settings[f"doors.modelbox.{key}"] = value

    def _port(self) -> int:
        value = self._value("server.port")
        if value is None:
            return PORT
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
            raise self._wrong("server.port", value, "a port from 0 to 65535")
        return value

    def _plugins(self) -> bool:
        """Is the job plugin among the plugins? It is if nothing is said of plugins."""
        if "plugin" not in self._tree:
            return True
        files = self._list("plugin.files")
        if not files:
            raise self._wrong("plugin.files", files, "an array with at least one plugin")
        names = [file.rpartition("/")[2] for file in files]
        for name in names:
            if not name.startswith(_JOBS):
                self._notes.append(f"plugin.files: {name} is passed over: native plugins can't be loaded here")
        jobs = any(name.startswith(_JOBS) and not name.startswith(_EDITOR) for name in names)
        if not jobs:
            self._notes.append(f"plugin.files lacks {_JOBS}.so: /v1/modelbox/job is not served")
        return jobs

    def _log(self) -> None:
        level = self._text("log.level")
        if level is not None:
            if level.upper() not in _LEVELS:
                raise self._wrong("log.level", level, f"one of {' '.join(_LEVELS)}")
            self._settings["log.level"] = _LEVELS[level.upper()]
        if path := self._text("log.path"):
            self._settings["log.path"] = path
            self._settings["log.screen"] = bool(self._flag("log.screen"))
        if (count := self._integer("log.num")) is not None:
            self._settings["log.keep"] = count
        size = self._value("log.size")
        if size is not None:
            try:
                self._settings["log.max_size"] = parse_size(str(size))
            except ValueError as error:
                raise self._wrong("log.size", size, f'a size such as "64MB": {error}') from None

    # Values -------------------------------------------------------------------------------------------------------

    def _value(self, key: str) -> Any:
        section, _, name = key.partition(".")
        table = self._tree.get(section, {})
        if not isinstance(table, Mapping):
            raise self._wrong(section, table, f"a table, [{section}]")
        return table.get(name)

    def _text(self, key: str) -> str | None:
        value = self._value(key)
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise self._wrong(key, value, "a text")
        return value

    def _list(self, key: str) -> list[str] | None:
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "an array of texts")
        return value

    def _flag(self, key: str) -> bool | None:
        value = self._value(key)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def _integer(self, key: str) -> int | None:
        value = self._value(key)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise self._wrong(key, value, "a whole number from 0")
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> ConfigError:
        return ConfigError(f"{self._path}: {key} = {value!r}: expected {expected}")
