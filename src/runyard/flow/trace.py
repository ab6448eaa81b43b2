"""A record of every call in the trace-event format of Chrome: open it in chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runyard.flow.runtime.lane import Call

MAX_EVENTS = 2_000_000
"""Events of one file; about 300 MB. Later ones are only counted."""
_HELD = 512
_log = logging.getLogger("runyard.flow")


class Trace:
    """Writes events as they come, a few hundred at a time. `ts` counts microseconds from the start of the flow.

    A disk that is full ends the trace, never the flow.
    """

    def __init__(self, path: str | Path, name: str = "") -> None:
        """Raises OSError where the file can't be written."""
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._begun = time.perf_counter()
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._count = 0
        self._file.write("[\n")
        self._add({"name": "process_name", "ph": "M", "pid": 1, "args": {"name": name or "flow"}})

    def call(self, call: Call) -> None:
        """A call of a unit. Sessions are shown in the arguments where the call is of one session."""
        node = call.node
        lane = call.lane or call.parts[0].lane
        args = {"batch_size": call.rows, "error": call.error[0] if call.error else "", "node": node.name}
        if call.lane is not None or len(call.parts) == 1:
            args["session"] = lane.session.context.get_session_id()
        name = "data_post" if call.post else "process"
        self.span(name, node.name, call.started, call.seconds, args)

    def span(self, name: str, node: str, started: float, seconds: float, args: dict[str, object] | None = None) -> None:
        """A stretch of time at a node; `started` by time.perf_counter."""
        self._add(
            {
                "name": f"{node} {name}",
                "cat": name,
                "ph": "X",
                "ts": round((started - self._begun) * 1e6, 1),
                "dur": round(seconds * 1e6, 1),
                "pid": 1,
                "tid": threading.get_ident() % 1_000_000,
                "args": args or {},
            }
        )

    def _add(self, event: dict[str, object]) -> None:
        with self._lock:
            self._count += 1
            if self._count > MAX_EVENTS or self._file.closed:
                return
            self._lines.append(json.dumps(event))
            if len(self._lines) >= _HELD:
                self._flush()

    def _flush(self) -> None:
        try:
            self._file.write(",\n".join(self._lines) + ",\n")
        except OSError as error:
            _log.warning("the trace ends here: %s", error.strerror or error)
            self._end()
        self._lines.clear()

    def _end(self) -> None:
        # What is still held back can't be written either.
        with suppress(OSError):
            self._file.close()

    def close(self) -> None:
        """Completes the file."""
        with self._lock:
            if self._file.closed:
                return
            left = max(0, self._count - MAX_EVENTS)
            self._lines.append(json.dumps({"name": "dropped events", "ph": "M", "pid": 1, "args": {"count": left}}))
            with suppress(OSError):
                self._file.write(",\n".join(self._lines) + "\n]\n")
            self._end()
