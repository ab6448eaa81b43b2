"""What a hosted flow tells about itself, and where: the agreement between `runyard.flowhost`, which writes, and the
server, which reads. Imports nothing of the flow runtime.

The reports of a run lie in a folder of its own:

* `flow.ndjson`: one line for each change of state, appended with one write, never changed. Read it by byte offset.
* `stats.json`: the latest statistics, replaced as a whole each second while they change.

The reason of a failure is the `error` of the last line of `flow.ndjson`.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

STATES_FILE = "flow.ndjson"
STATS_FILE = "stats.json"
_READ_MAX = 1024 * 1024
ERROR_MAX = 16 * 1024
"""Characters of an error's text that are kept."""


class FlowState(StrEnum):
    """What a hosted flow is about, in this order."""

    CREATING = "creating"
    """Checked and built; not all units are open."""
    RUNNING = "running"
    """All units are open."""
    STOPPING = "stopping"
    """Asked to end, by SIGTERM or by a unit."""
    ENDED = "ended"
    """Ended without a fault. The last report."""
    FAILED = "failed"
    """`error` says why. The last report."""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of `flow.ndjson`."""

    state: FlowState
    at: float
    """Seconds since 1970."""
    pid: int = 0
    error: str = ""
    """Chained text, outermost first, as ModelBox's `job_error_msg` has it (modelbox.md 3.4)."""
    code: str = ""
    """Name of the status of a failure, such as `STATUS_BADCONF`."""


_decoder = msgspec.json.Decoder(Report)
_encoder = msgspec.json.Encoder()


def read(folder: Path, offset: int = 0) -> tuple[list[Report], int]:
    """The reports from that byte on, and the offset for the next call. A line that is not complete is left for it.

    A file that is not there, yet or any more, has no reports.
    """
    try:
        with (folder / STATES_FILE).open("rb") as file:
            file.seek(offset)
            data = file.read(_READ_MAX)
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    reports = []
    for line in data[:end].splitlines():
        try:
            reports.append(_decoder.decode(line))
        except msgspec.DecodeError:
            continue
    return reports, offset + end


def last(folder: Path) -> Report | None:
    """The latest report, or None."""
    reports, offset = read(folder)
    while reports and (more := read(folder, offset))[0]:
        reports, offset = more
    return reports[-1] if reports else None


def stats(folder: Path) -> dict[str, Any] | None:
    """The latest statistics (keys: `runyard.flow.runtime`'s), with `at`, or None."""
    try:
        found = msgspec.json.decode((folder / STATS_FILE).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None


class Reporter:
    """Writes the reports of one run. Its errors of writing (a full disk) never stop the flow: they are swallowed."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is made; None reports to nobody."""
        self._folder = folder
        self._stats = b""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def state(self, state: FlowState, error: str = "", code: str = "") -> None:
        """Appends one line."""
        if self._folder is None:
            return
        report = Report(state, time.time(), os.getpid(), error[:ERROR_MAX], code)
        try:
            descriptor = os.open(
                self._folder / STATES_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                os.write(descriptor, _encoder.encode(report) + b"\n")
            finally:
                os.close(descriptor)
        except OSError:
            return

    def stats(self, values: dict[str, Any]) -> None:
        """Replaces the statistics; nothing is written if they are as they were but for the time."""
        if self._folder is None:
            return
        text = _encoder.encode({key: value for key, value in values.items() if key != "seconds"})
        if text == self._stats:
            return
        new = self._folder / (STATS_FILE + ".new")
        try:
            new.write_bytes(_encoder.encode(values | {"at": time.time()}))
            new.replace(self._folder / STATS_FILE)
        except OSError:
            return
        self._stats = text
