"""A session: everything that comes of one external datum source, such as one HTTP request (spec 5.1)."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from runyard.flow.buffer import BufferList
from runyard.flow.configuration import Configuration
from runyard.flow.status import Status

_guard = threading.Lock()
"""Held for a moment only: units of one session run in several threads."""


class SessionContext:
    """What all nodes share about one session: private values, options, an id, the last error.

    It may be made alone, for tests. `on_end` functions are called once, from any thread, when the session has left
    the flow: everything was processed, it was shut down, or the flow stopped.
    """

    __slots__ = ("__weakref__", "_ended", "_id", "_on_end", "_private", "last_error", "values")

    def __init__(self) -> None:
        self._id: str | None = None
        self._private: dict[str, Any] = {}
        self._on_end: list[Callable[[], None]] = []
        self._ended = False
        self.values: dict[str, Any] = {}
        self.last_error: tuple[str, str] | None = None

    def get_session_id(self) -> str:
        """A random UUID, as text."""
        with _guard:
            if self._id is None:
                self._id = str(uuid.uuid4())
            return self._id

    def set_private(self, key: str, value: Any) -> None:
        self._private[key] = value

    def get_private(self, key: str) -> Any:
        """The value kept under the key, or None."""
        return self._private.get(key)

    set_private_string = set_private
    set_private_int = set_private

    def get_private_string(self, key: str) -> str:
        """Raises RuntimeError where there is none."""
        value = self._private.get(key)
        if not isinstance(value, str):
            raise RuntimeError("invalid key.")
        return value

    def get_private_int(self, key: str) -> int:
        """Raises RuntimeError where there is none."""
        value = self._private.get(key)
        if not isinstance(value, int):
            raise RuntimeError("invalid key.")
        return value

    def get_session_config(self) -> Configuration:
        """The options of this session, to read and to set: `node.<name>.<option>`, `flowunit.<unit>.<option>`,
        `nodes.<option>` (spec 5.8)."""
        return Configuration(self.values)

    def on_end(self, call: Callable[[], None]) -> None:
        """Calls the function when the session ends; at once if it has ended."""
        with _guard:
            if not self._ended:
                self._on_end.append(call)
                return
        call()

    def end(self) -> list[Callable[[], None]]:
        """Marks the session as ended and gives out the functions to call. For the runtime."""
        with _guard:
            self._ended = True
            calls, self._on_end = self._on_end, []
        return calls


class ExternalData(Protocol):
    """The way in of one session at a source unit. All methods may be called from any thread."""

    def create_buffer_list(self) -> BufferList:
        """An empty list to fill and send."""

    def send(self, buffers: Iterable[Any], wait: bool = True, last: bool = False) -> Status:
        """Hands a datum (one or more buffers) to the source's `process`. `last` closes after it, at less cost.

        When the source's queue is full it waits for room; with `wait=False` it returns STATUS_BUSY. STATUS_INVALID
        after `close`, STATUS_STOP when the flow has stopped.
        """

    def close(self) -> Status:
        """There will be no more data. Closed by itself when the object is dropped."""

    def shutdown(self) -> Status:
        """Ends the session: units wait for no more events, nothing more is taken in. What has been sent still goes
        through the flow."""

    def get_session_context(self) -> SessionContext: ...

    def get_session_config(self) -> Configuration: ...
