"""What the agent must not forget: a file of JSON lines, written before the deed (intents) or before the tale (exits).

It outlives the agent, not the kernel: after a restart of the host every process is gone, so nothing here is synced to
the disk. A last line that was torn is dropped. When the disk is full, what can't be written waits in memory.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import attrgetter

import msgspec

from runyard.agent.log import Log
from runyard.model.ids import RunKey
from runyard.model.wire import Exited, Started

#: The journal's name in its folder.
FILE = "journal.jsonl"


class _Record(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


class Boot(_Record, frozen=True):
    """The head of the file. `seq`: the number of the last report before it."""

    boot_id: str
    seq: int


class Intent(_Record, frozen=True):
    """This run is about to be started; all that a later agent needs to look after it."""

    run: RunKey
    stdout: str
    stop_signal: int
    grace: float
    time_limit: float | None
    group: str | None
    """Folder of its cgroup."""
    tmpdir: str | None = None
    """Its own folder for temporary files."""


class Born(_Record, frozen=True):
    """The run has a process. `uptime`: taken just before its start."""

    seq: int
    run: RunKey
    pid: int
    at: float
    uptime: float


class Stopping(_Record, frozen=True):
    """The run was told to end; whoever is left at `kill_at` (uptime) is to be killed."""

    run: RunKey
    signal: int
    kill_at: float
    timed_out: bool
    reason: str | None


class Reaped(_Record, frozen=True):
    """The main process of a stopped run has ended; the rest of its tree is still being ended."""

    run: RunKey
    at: float
    exit_code: int | None
    signal: int | None
    reason: str | None
    cpu_seconds: float | None
    max_rss: int | None


class Acked(_Record, frozen=True):
    upto: int


Record = Boot | Intent | Born | Stopping | Reaped | Exited | Acked


class Entry:
    """What the journal knows about a run that has not ended."""

    __slots__ = ("born", "intent", "reaped", "stopping")

    def __init__(self, intent: Intent) -> None:
        self.intent = intent
        self.born: Born | None = None
        self.stopping: Stopping | None = None
        self.reaped: Reaped | None = None


class Past:
    """The state that a journal adds up to."""

    def __init__(self) -> None:
        self.boot_id: str | None = None
        self.seq = 0
        self.runs: dict[RunKey, Entry] = {}
        self.reports: list[Started | Exited] = []

    def add(self, record: Record) -> None:
        if isinstance(record, Intent):
            self.runs[record.run] = Entry(record)
        elif isinstance(record, Born):
            self.seq = max(self.seq, record.seq)
            self.reports.append(Started(record.seq, record.run, record.pid, record.at))
            if (entry := self.runs.get(record.run)) is not None:
                entry.born = record
        elif isinstance(record, Exited):
            self.seq = max(self.seq, record.seq)
            self.reports.append(record)
            self.runs.pop(record.run, None)
        elif isinstance(record, Acked):
            del self.reports[: bisect_right(self.reports, record.upto, key=attrgetter("seq"))]
        elif isinstance(record, Boot):
            self.boot_id, self.seq = record.boot_id, max(self.seq, record.seq)
        elif (entry := self.runs.get(record.run)) is not None:
            if isinstance(record, Stopping):
                entry.stopping = record
            else:
                entry.reaped = record


class Journal:
    def __init__(self, folder: str, log: Log) -> None:
        """Raises OSError if the folder can't be made or the file not be opened."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.folder = folder
        self._path = os.path.join(folder, FILE)
        self._log = log
        self._encode = msgspec.json.Encoder().encode_lines
        self._decode = msgspec.json.Decoder(Record).decode
        self._pending: list[Record] = []
        self._failing = False
        self.floor = 1 << 20
        self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = 0
        """Bytes of whole lines in the file."""

    @property
    def behind(self) -> bool:
        """Something waits in memory because it could not be written."""
        return self._failing

    @property
    def large(self) -> bool:
        return self.size > self.floor

    def load(self) -> Past:
        """Read the file, and cut off a torn last line. Raises OSError."""
        past = Past()
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                self.size += len(line)
                try:
                    past.add(self._decode(line))
                except msgspec.MsgspecError as error:
                    self._log.warning(f"{self._path}:{number}: a line that is no record is passed over: {error}")
        os.ftruncate(self._fd, self.size)
        return past

    def note(self, record: Record) -> None:
        """Have `record` written with the next `flush`."""
        self._pending.append(record)

    def write(self, records: Sequence[Record]) -> None:
        """Write `records` now, after everything noted before. Raises OSError; `records` are not kept then."""
        waiting = len(self._pending)
        self._pending += records
        try:
            self._flush()
        except OSError:
            del self._pending[waiting:]
            raise

    def flush(self) -> None:
        """Write what was noted. If the disk refuses, it stays in memory for the next `flush`."""
        if self._pending:
            try:
                self._flush()
            except OSError as error:
                if not self._failing:
                    self._log.warning(
                        f"can't write {self._path}: {error.strerror}; it is kept in memory and tried again"
                    )
                self._failing = True
            else:
                if self._failing:
                    self._log.info(f"{self._path} can be written again")
                self._failing = False

    def compact(self, records: Iterable[Record]) -> None:
        """Put `records`, which say the present state, in place of the whole file. A failure leaves the old file."""
        data = self._encode(list(records))
        fresh = self._path + ".new"
        try:
            fd = os.open(fresh, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write(fd, data)
                os.replace(fresh, self._path)
            except OSError:
                os.close(fd)
                os.unlink(fresh)
                raise
        except OSError as error:
            self._log.warning(f"can't rewrite {self._path}: {error.strerror}; going on with the old one")
            self.floor = 2 * self.size + (1 << 20)
            return
        os.close(self._fd)
        self._fd, self.size = fd, len(data)
        self.floor = 4 * self.size + (1 << 20)
        self._pending.clear()
        self._failing = False

    def remove(self) -> None:
        """Nothing in it is needed any more. Not to be written to afterwards."""
        with suppress(OSError):
            os.unlink(self._path)

    def _flush(self) -> None:
        data = self._encode(self._pending)
        try:
            _write(self._fd, data)
        except OSError:
            # A part of a line may be there: cut it off, or the next record would be glued to it.
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)
        self._pending.clear()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
