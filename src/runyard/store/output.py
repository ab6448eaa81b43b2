"""Output files of runs: where they lie, and how to read them. The children write them, nobody else.

A file is `<root>/<3 days>/<65 seconds>/<job>.<replica>.<attempt>.out` or `.err`, where the folders come from the time
in the job's id: no folder ever holds much, and the oldest output is found without asking the database. What a flow
reports about itself lies beside them, in the folder `….flow`; what its program reports, in `….rep`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from runyard.model.ids import RunKey

CHUNK = 64 * 1024
TAIL_LIMIT = 16 * 1024 * 1024
"""Bytes from the end in which `tail` looks for lines."""
_OUTER, _INNER = 52, 40
"""Bits of a job id below the outer and the inner folder's number: 2^28 and 2^16 ms."""
_FRESH = 4096
_BLOCK = 4096
_FARTHEST = 1 << 62
"""No file is as long, and the system takes no offset that is much larger."""
#: FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, see fallocate(2).
_PUNCH_HOLE = 0x02 | 0x01
_libc = ctypes.CDLL(None, use_errno=True)


#: Suffix of the file in which a run's program reports.
REPORT = ".rep"


class Stream(StrEnum):
    OUT = "out"
    ERR = "err"


class OutputFile(NamedTuple):
    run: RunKey
    path: str
    size: int
    modified: float
    """Unix seconds."""


def report_beside(stdout: str) -> str:
    """The path of a run's report file, from that of its stdout."""
    return os.path.splitext(stdout)[0] + REPORT


class OutputFiles:
    """The output files under one folder. From any thread. Other failures than a missing file come as OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mutex = threading.Lock()
        # Folders that runs are about to use: made already, and not to be taken away even if they are empty.
        self._fresh: OrderedDict[int, str] = OrderedDict()

    def path(self, run: RunKey, stream: Stream) -> Path:
        return self._folder(run.job) / f"{run}.{stream}"

    def prepare(self, run: RunKey) -> tuple[str, str]:
        """The absolute paths for the run's stdout and stderr, in a folder that exists now."""
        shard = run.job >> _INNER
        with self._mutex:
            if shard in self._fresh:
                self._fresh.move_to_end(shard)
            else:
                folder = os.path.abspath(self._folder(run.job))
                os.makedirs(folder, exist_ok=True)
                self._fresh[shard] = folder
                if len(self._fresh) > _FRESH:
                    self._fresh.popitem(last=False)
            base = f"{self._fresh[shard]}/{run}"
        return f"{base}.out", f"{base}.err"

    def reports(self, run: RunKey) -> Path:
        """The folder for what a flow reports about itself in that run (`runyard.flow.report`)."""
        return self._folder(run.job) / f"{run}.flow"

    def report(self, run: RunKey) -> Path:
        """The file in which the run's program reports (`runyard.report`); it makes the file itself, if at all."""
        return self._folder(run.job) / f"{run}{REPORT}"

    def size(self, run: RunKey, stream: Stream) -> int:
        """In bytes; 0 if there is no such file."""
        try:
            return os.stat(self.path(run, stream)).st_size
        except FileNotFoundError:
            return 0

    def start(self, run: RunKey, stream: Stream) -> int:
        """The offset of the first byte that is still there: 0 unless `trim` has taken some away."""
        try:
            fd = os.open(self.path(run, stream), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            return os.lseek(fd, 0, os.SEEK_DATA)
        except OSError as error:
            # Nothing but a hole, or nothing at all.
            if error.errno == errno.ENXIO:
                return os.fstat(fd).st_size
            raise
        finally:
            os.close(fd)

    def trim(self, run: RunKey, stream: Stream, keep: int) -> int:
        """Gives all but about the last `keep` bytes back to the file system, and returns how many bytes that were.

        The writer does not notice, and offsets stay what they are: the beginning becomes a hole. Raises OSError where
        the file system has no holes.
        """
        path = self.path(run, stream)
        return self.free(path, self.size(run, stream) - keep)

    def free(self, path: Path, upto: int) -> int:
        """Gives the blocks of a file before `upto` back to the file system; returns how many bytes that were.

        Raises OSError where the file system has no holes.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0
        try:
            end = upto // _BLOCK * _BLOCK
            start = os.lseek(fd, 0, os.SEEK_DATA) if end > 0 else 0
            if end <= start:
                return 0
            if _libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(end)) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            return end - start
        except OSError as error:
            if error.errno == errno.ENXIO:
                return 0
            raise
        finally:
            os.close(fd)

    def read(self, run: RunKey, stream: Stream, offset: int = 0, limit: int = CHUNK) -> bytes:
        """At most `limit` bytes from `offset` on; nothing if the file ends before, or is missing."""
        if offset < 0 or limit < 0:
            raise ValueError(f"offset {offset} and limit {limit} must not be negative")
        if offset > _FARTHEST:
            return b""
        try:
            fd = os.open(self.path(run, stream), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def tail(self, run: RunKey, stream: Stream, lines: int) -> int:
        """The offset at which the last `lines` lines begin, looked for in the last `TAIL_LIMIT` bytes only.

        A last line without its newline counts. 0 if the file has no more lines, or is missing.
        """
        try:
            fd = os.open(self.path(run, stream), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            size = os.fstat(fd).st_size
            if lines <= 0:
                return size
            lowest = max(0, size - TAIL_LIMIT)
            # The newline that ends the file ends a line, and does not begin one more.
            end = size - 1 if os.pread(fd, 1, size - 1 if size else 0) == b"\n" else size
            while end > lowest:
                start = max(lowest, end - CHUNK)
                chunk = os.pread(fd, end - start, start)
                if (count := chunk.count(b"\n")) >= lines:
                    place = len(chunk)
                    for _ in range(lines):
                        place = chunk.rindex(b"\n", 0, place)
                    return start + place + 1
                lines -= count
                end = start
            return lowest
        finally:
            os.close(fd)

    def remove(self, runs: Iterable[RunKey]) -> None:
        """Remove the files of those runs, and their folders if those are empty then. Missing ones do not matter."""
        jobs: dict[int, int] = {}
        for run in runs:
            jobs[run.job >> _INNER] = run.job
            for stream in Stream:
                with suppress(FileNotFoundError):
                    os.unlink(self.path(run, stream))
            with suppress(FileNotFoundError):
                os.unlink(self.report(run))
            if os.path.isdir(reports := self.reports(run)):
                shutil.rmtree(reports, ignore_errors=True)
        for job in jobs.values():
            self._remove_folder(job)

    def remove_file(self, file: OutputFile) -> None:
        """Remove one file of `walk`."""
        with suppress(FileNotFoundError):
            os.unlink(file.path)
        self._remove_folder(file.run.job)

    def walk(self) -> Iterator[list[OutputFile]]:
        """All files, folder by folder, those of the oldest jobs first. Only one folder's list is held at a time."""
        for outer in _numbered(self.root):
            for inner in _numbered(outer):
                yield sorted(_files(inner))

    def _remove_folder(self, job: int) -> None:
        """The job's folder, if it is empty and no run is about to use it."""
        folder = self._folder(job)
        with self._mutex:
            if job >> _INNER not in self._fresh:
                with suppress(OSError):
                    folder.rmdir()
                    folder.parent.rmdir()

    def _folder(self, job: int) -> Path:
        return self.root / f"{job >> _OUTER:x}" / f"{job >> _INNER & (1 << _OUTER - _INNER) - 1:x}"


def _numbered(folder: str | Path) -> list[str]:
    """The folders in it whose names are hexadecimal numbers, in their order."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(ValueError):
                found.append((int(entry.name, 16), entry.path))
    return [path for _, path in sorted(found)]


def _files(folder: str) -> Iterator[OutputFile]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            name, _, stream = entry.name.rpartition(".")
            numbers = name.split(".")
            if stream in Stream.__members__.values() and len(numbers) == 3 and all(map(str.isdecimal, numbers)):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield OutputFile(RunKey(*map(int, numbers)), entry.path, status.st_size, status.st_mtime)
