"""Hooks: who is told of events, by HTTP or by a program of this host (`[[hooks]]` in the configuration)."""

from __future__ import annotations

import difflib
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from runyard.model.errors import ConfigError
from runyard.model.event import EVENT_TYPES
from runyard.model.quantity import Duration, parse_duration

#: What `JobDoc.origin` can be.
FRONT_DOORS = ("native", "flux", "meproc", "modelbox", "tango", "k12ai")
MAX_TIMEOUT, MAX_RETRIES = 3600.0, 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """One hook. Exactly one of `url` and `command` is given."""

    name: str
    """Its cursor, its log lines and its figures go by this name."""
    url: str = ""
    """Gets each event by POST."""
    command: list[str] = []
    """A program with its arguments, started for each event, which it gets on standard input."""
    events: list[str] = msgspec.field(default_factory=lambda: ["run.started", "run.exited"])
    jobs: list[str] = []
    """Patterns (`*`, `?`, `[…]`) for the names of the jobs that it is about; empty means all jobs, and nodes too."""
    origins: list[str] = []
    """Front doors by which the jobs came in; empty means all."""
    secret: str = ""
    """Key of the signature; empty means that deliveries are not signed."""
    secret_file: str = ""
    """A file that holds the secret."""
    timeout: Duration = 10.0
    """Of one attempt."""
    retries: int = 8
    """Attempts after the first."""


_KEYS = Hook.__struct_fields__


def read_hooks(value: Any, where: str) -> list[Hook]:
    """The hooks in plain data: an array of tables, or the same as JSON text. `where` names it in errors.

    Raises ConfigError. Secrets and addresses are never repeated in it.
    """
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigError(f"{where}: expected a JSON array of hooks: {error}") from None
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ConfigError(f"{where}: hooks are tables; write [[hooks]], and the keys of each one below")
    hooks: list[Hook] = []
    for number, table in enumerate(value, 1):
        hook = _hook(table, f"{where}[{number}]")
        if any(other.name == hook.name for other in hooks):
            raise ConfigError(
                f"{where}[{number}].name = {hook.name!r}: another hook has this name, and with it its cursor"
            )
        hooks.append(hook)
    return hooks


def _hook(table: dict[str, Any], where: str) -> Hook:
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f"{where}: there is no setting {key}; {_nearest(key, _KEYS, 'a hook has')}")
    table = dict(table)
    if isinstance(table.get("timeout"), str):
        try:
            table["timeout"] = parse_duration(table["timeout"])
        except ValueError as error:
            raise ConfigError(f"{where}.timeout: {error}") from None
    try:
        hook = msgspec.convert({"name": ""} | table, Hook)
    except msgspec.ValidationError as error:
        # msgspec names the field and both types, not the value.
        raise ConfigError(f"{where}: {error}") from None
    if table.get("secret") == "" or table.get("secret_file") == "":
        raise ConfigError(f"{where}: the secret is empty: leave it out if deliveries shall not be signed")
    _check(hook, where)
    return hook


def _check(hook: Hook, where: str) -> None:
    if not _NAME.fullmatch(hook.name):
        raise ConfigError(f"{where}.name = {hook.name!r}: must be 1 to 64 letters, digits, `.`, `_`, `-`")
    if bool(hook.url) == bool(hook.command):
        raise ConfigError(f"{where}: exactly one of url and command must be given")
    if hook.url and not is_address(hook.url):
        raise ConfigError(f"{where}.url: must be an address such as https://example.org/runyard")
    if hook.command and (not hook.command[0] or any("\0" in word for word in hook.command)):
        raise ConfigError(f'{where}.command: must name a program, for example ["/usr/local/bin/notify", "--urgent"]')
    if hook.command and (hook.secret or hook.secret_file):
        raise ConfigError(f"{where}: a secret signs what goes over HTTP; a command has no use for it")
    if hook.secret and hook.secret_file:
        raise ConfigError(f"{where}: secret and secret_file exclude each other")
    if not 0 < hook.timeout <= MAX_TIMEOUT:
        raise ConfigError(
            f"{where}.timeout = {hook.timeout:g}: must be more than 0, and at most {MAX_TIMEOUT:g} seconds"
        )
    if not 0 <= hook.retries <= MAX_RETRIES:
        raise ConfigError(f"{where}.retries = {hook.retries}: must be from 0 to {MAX_RETRIES}")
    if not hook.events:
        raise ConfigError(f"{where}.events: must name at least one type of event")
    for key, known in (("events", EVENT_TYPES), ("origins", FRONT_DOORS)):
        for word in getattr(hook, key):
            if word not in known:
                raise ConfigError(f"{where}.{key}: there is no {word!r}; {_nearest(word, known, 'known are')}")


def is_address(url: str) -> bool:
    """Whether it is an address of HTTP."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        return False


def _nearest(word: str, known: tuple[str, ...], else_: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"{else_} {', '.join(known)}"
