"""The one configuration: defaults, one TOML file, environment, flags. The later wins, and each value knows its origin.

Durations are seconds or a text such as `"30d"`; sizes are bytes or a text such as `"8M"`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import platformdirs

from runyard.model.errors import ConfigError
from runyard.model.framework import read_services
from runyard.model.hook import Hook, read_hooks
from runyard.model.quantity import Duration, Size, parse_duration, parse_size
from runyard.settings import Config, Section


class Origin(msgspec.Struct, frozen=True):
    """Where a value came from, and the file or variable that said so."""

    kind: Literal["default", "file", "environment", "flag"]
    place: str = ""


class Loaded(msgspec.Struct, frozen=True):
    config: Config
    origins: dict[str, Origin]
    """By dotted key, such as `server.port`; one for every key there is."""
    path: str | None
    """The file that was read."""


def _leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(section, include_extras=True).items():
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


#: The type of each dotted key.
KEYS: dict[str, Any] = dict(_leaves(Config))
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})
_SECTIONS = frozenset(key[:place] for key in KEYS for place, char in enumerate(key) if char == ".")


def get(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def parse(
    text: str = "",
    *,
    path: str = "",
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    default_data_dir: str = "",
) -> tuple[Config, dict[str, Origin]]:
    """The configuration that a file's text, an environment and flags (by dotted key; None is not given) make together.

    Pure. Raises ConfigError that names place, key and value, and what was expected there.
    """
    values: dict[str, Any] = {}
    origins = {key: Origin("default") for key in KEYS}
    for key, value in _from_file(text, path):
        where = f"{path or 'the configuration file'}: {key}"
        values[key] = _convert(key, value, where, text=False, folder=os.path.dirname(path))
        origins[key] = Origin("file", path)
    for name, key, value in _from_env(env or {}):
        values[key], origins[key] = _convert(key, value, name, text=True), Origin("environment", name)
    for key, value in (flags or {}).items():
        if value is not None:
            flag = "--" + key.rpartition(".")[2].replace("_", "-")
            if key not in KEYS:
                raise ConfigError(f"{flag}: {_unknown(key)}")
            values[key], origins[key] = _convert(key, value, flag, text=False), Origin("flag", flag)
    values["data_dir"] = _absolute(values.get("data_dir") or default_data_dir, origins["data_dir"])
    if "hooks" in values:
        values["hooks"] = [_located(hook, origins["hooks"]) for hook in values["hooks"]]
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return msgspec.convert(tree, Config), origins


def load_config(
    path: str | Path | None = None, env: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Loaded:
    """Find and read the file, then `parse`. `env` is `os.environ` unless given.

    The file is `path`, else RUNYARD_CONFIG, else the first that exists of `./runyard.toml`, `runyard/config.toml` in
    the platform's configuration folder, and `/etc/runyard/config.toml`. Raises ConfigError, also when a file that was
    named does not exist.
    """
    env = os.environ if env is None else env
    file = _find(path, env)
    text = ""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{file}: the configuration file cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    config, origins = parse(
        text,
        path=str(file or ""),
        env=env,
        flags=flags,
        default_data_dir=str(platformdirs.user_state_path("runyard")),
    )
    return Loaded(config, origins, None if file is None else str(file))


def _find(path: str | Path | None, env: Mapping[str, str]) -> Path | None:
    named = path or env.get("RUNYARD_CONFIG")
    if named:
        file = Path(named).expanduser()
        if not file.is_file():
            how = "--config" if path else "RUNYARD_CONFIG"
            raise ConfigError(f"{file}: there is no such configuration file ({how} names it)")
        return file.absolute()
    places = [Path("runyard.toml"), platformdirs.user_config_path("runyard") / "config.toml"]
    places.append(Path("/etc/runyard/config.toml"))
    return next((place.absolute() for place in places if place.is_file()), None)


def _from_file(text: str, path: str) -> Iterator[tuple[str, Any]]:
    where = path or "the configuration file"
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from error
    yield from _settings(document, "", where)


def _settings(table: dict[str, Any], prefix: str, where: str) -> Iterator[tuple[str, Any]]:
    """The dotted keys and values in a table of the file."""
    for name, value in table.items():
        key = prefix + name
        if key in _SECTIONS:
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {key} is a section; write [{key}] and its keys below, not {value!r}")
            yield from _settings(value, f"{key}.", where)
        elif key in KEYS:
            yield key, value
        else:
            raise ConfigError(f"{where}: {_unknown(key)}")


def _from_env(env: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Variable, key and text of each setting. A single underscore is no setting (`RUNYARD_URL` is the client's),
    except for the keys without a section. Variables of Flux RESTful give way to ours."""
    yield from _from_flux(env)
    for name, value in sorted(env.items()):
        if not name.startswith("RUNYARD_"):
            continue
        key = name.removeprefix("RUNYARD_").lower().replace("__", ".")
        if key in KEYS:
            yield name, key, value
        elif "." in key:
            raise ConfigError(f"{name}: {_unknown(key)}")


def _from_flux(env: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """What the variables of Flux RESTful set (spec/flux-restful.md, section 3). Unlike there, `false` means false."""
    asked = [name for name in ("FLUX_REQUIRE_AUTH", "FLUX_USER_AUTH") if env.get(name)]
    for name in asked:
        if env[name].lower() not in _TRUE | _FALSE:
            raise ConfigError(f"{name} = {env[name]!r}: expected true or false")
    if asked:
        name = next((name for name in asked if env[name].lower() in _TRUE), asked[0])
        yield name, "auth.enabled", "true" if env[name].lower() in _TRUE else "false"
    mode = env.get("FLUX_SERVER_MODE")
    if mode:
        if mode not in ("single-user", "multi-user"):
            raise ConfigError(f"FLUX_SERVER_MODE = {mode!r}: expected 'single-user' or 'multi-user'")
        yield "FLUX_SERVER_MODE", "auth.run_as", "true" if mode == "multi-user" else "false"
    minutes = env.get("FLUX_ACCESS_TOKEN_EXPIRES_MINUTES")
    if minutes:
        if not (minutes.isascii() and minutes.isdigit() and len(minutes) < 10 and int(minutes)):
            raise ConfigError(f"FLUX_ACCESS_TOKEN_EXPIRES_MINUTES = {minutes!r}: expected a whole number from 1")
        yield "FLUX_ACCESS_TOKEN_EXPIRES_MINUTES", "auth.access_token_lifetime", str(60 * int(minutes))
    if env.get("FLUX_OPTION_FLAGS"):
        yield "FLUX_OPTION_FLAGS", "doors.flux.option_flags", env["FLUX_OPTION_FLAGS"]


def _unknown(key: str) -> str:
    name = key.rpartition(".")[2]
    # First the right name in the wrong section, then a slip of the pen.
    near = [known for known in KEYS if known.rpartition(".")[2] == name]
    near = near or difflib.get_close_matches(key, KEYS if "." in key else [*KEYS, *_SECTIONS], n=1)
    hint = f"did you mean {near[0]}?" if near else f"the sections are {', '.join(sorted(_SECTIONS))}"
    return f"there is no setting {key}; {hint}"


def _convert(key: str, value: Any, where: str, *, text: bool, folder: str = "") -> Any:
    """`value` in the type of `key`; `text` says that it comes from the environment and so is always a text, `folder` is
    that of the file it comes from."""
    kind = KEYS[key]
    if key == "hooks":
        return read_hooks(value, where)
    if key == "services":
        return read_services(value, where, folder)
    shown = repr(value)
    try:
        if kind == Duration:
            value = parse_duration(value) if isinstance(value, str) else value
        elif kind == Size:
            value = parse_size(value) if isinstance(value, str) else value
        elif text and get_origin(kind) is list:
            value = [part.strip() for part in value.split(",") if part.strip()]
        value = msgspec.convert(value, kind, strict=not text)
        if kind in (Duration, Size) and not 0 <= value < float("inf"):
            raise ValueError("it must be finite and not negative")
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{where} = {shown}: expected {_expected(kind)}: {error}") from error
    return value


def _located(hook: Hook, origin: Origin) -> Hook:
    if not hook.secret_file:
        return hook
    return msgspec.structs.replace(hook, secret_file=_absolute(hook.secret_file, origin))


def _expected(kind: Any) -> str:
    if kind == Duration:
        return 'a duration (seconds, or a text such as "90s", "1h30m", "30d")'
    if kind == Size:
        return 'a size (bytes, or a text such as "8M", "2GiB")'
    if get_origin(kind) is list:
        return f"a list, each {_expected(get_args(kind)[0])}"
    if get_origin(kind) is Annotated:
        base, meta = get_args(kind)
        bounds = f" up to {meta.le}" if meta.le is not None else ""
        return f"{_expected(base)} from {meta.ge}{bounds}"
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if kind is type(None):
        return "nothing"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_expected(part) for part in get_args(kind))
    return {str: "a text", int: "a whole number", bool: "true or false"}[kind]


def _absolute(value: str, origin: Origin) -> str:
    """Absolute: in a file a relative path is meant from the file's own folder, elsewhere from the current one."""
    base = Path(origin.place).parent if origin.kind == "file" else Path()
    return os.path.abspath(base / Path(value).expanduser())
