"""The services that tasks can be started of: from the configuration, from Python entry points, and built in.

An entry point of the group `runyard.services` is a record like a table `[services.NAME]`, or an object (or a class, of
which one is made) with a record in `service` and any of the hooks that spec/k12ai.md, 3.8, names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import msgspec

from runyard.model.errors import ConfigError
from runyard.model.framework import Service, read_service
from runyard.training.codes import Code, code_of, is_failure
from runyard.training.parameters import Problem

log = logging.getLogger(__name__)

GROUP = "runyard.services"
#: Runs Python code that comes with the request (spec 4.4).
RUNCODE = "k12pyr"
_HOOKS = ("prepare", "command", "environ", "map_error", "schema", "memstat")


class TaskJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook gets to know of a task."""

    op: str
    phase: str
    user: str
    uuid: str
    service: str
    params: dict[str, Any]
    """As a tree, with what was stored before."""
    config: str
    """File with the parameters."""
    cache: str
    """Folder of the project."""


class Framework(msgspec.Struct, frozen=True):
    """A service, with the hooks it brings."""

    name: str
    service: Service
    hooks: dict[str, Callable[..., Any]] = {}
    source: str = "configuration"

    def call(self, hook: str, *args: Any) -> Any:
        """What the hook gives; None without one. May block. Raises Problem with the code that it chose, or that its
        exception stands for."""
        function = self.hooks.get(hook)
        if function is None:
            return None
        try:
            return function(*args)
        except Problem:
            raise
        except Exception as error:
            given = getattr(error, "code", None)
            # Other exceptions have codes as well, of HTTP for one.
            code = given if _is_failure(given) else code_of(type(error).__name__, str(error))
            log.warning("the hook %s of service %s failed", hook, self.name, exc_info=True)
            raise Problem(code, f"{hook} of {self.name}: {type(error).__name__}: {error}") from None


class Frameworks:
    """The services of one server, by name."""

    def __init__(self, configured: Mapping[str, Service]) -> None:
        self._known = {name: Framework(name, service) for name, service in configured.items()}
        self._searched = False

    def get(self, name: str) -> Framework | None:
        """May block the first time: entry points are looked for when somebody asks for more than is configured."""
        found = self._known.get(name)
        if found is None:
            self._search()
            found = self._known.get(name)
        return found

    def all(self) -> list[Framework]:
        """By name. May block, like `get`."""
        self._search()
        return [self._known[name] for name in sorted(self._known)]

    def _search(self) -> None:
        if self._searched:
            return
        from importlib.metadata import entry_points

        self._searched = True
        for entry in entry_points(group=GROUP):
            if entry.name in self._known:
                continue
            try:
                self._known[entry.name] = made(entry.name, entry.load())
            except Exception as error:
                # Somebody else's package: it must not keep the others from their work.
                log.error("the service %s of %s can't be used: %s", entry.name, entry.value, error)
        if RUNCODE not in self._known:
            service = Service(commands={"runcode": ["{python}", "-u", "-m", "runyard.runcode", "{code_file}"]})
            self._known[RUNCODE] = Framework(RUNCODE, service, source="built in")


def made(name: str, loaded: Any) -> Framework:
    """The service that an entry point has given. Raises ConfigError."""
    where = f"entry point {name}"
    if isinstance(loaded, type):
        loaded = loaded()
    record = loaded if isinstance(loaded, Mapping | Service) else getattr(loaded, "service", None)
    if isinstance(record, Mapping):
        record = read_service(name, record, where)
    if not isinstance(record, Service):
        raise ConfigError(f"{where}: must be a record, or an object with a record in `service`")
    hooks = {hook: function for hook in _HOOKS if callable(function := getattr(loaded, hook, None))}
    return Framework(name, record, {} if isinstance(loaded, Mapping | Service) else hooks, where)


def read_code(value: Any) -> int:
    """A code that `map_error` has given, checked."""
    return value if _is_failure(value) else int(Code.UNKNOWN)


def _is_failure(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and is_failure(value) and value <= Code.UNKNOWN
