"""A file that grows, read line by line: how far it was read is all there is to remember."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from runyard.message.line import MAX_LINE, is_marked
from runyard.message.rules import MAX_LINE as RULE_LINE

#: Bytes read in one go.
CHUNK = 256 * 1024
#: Longest mark with which a line may begin (`message.line.MARKS`).
_MARK = 16


class Place(msgspec.Struct, array_like=True):
    """How far a file was read. This is what is stored."""

    offset: int = 0
    """Of the first line that was not read."""
    skipping: bool = False
    """What is there is the rest of a line that was too long."""


class Lines(msgspec.Struct):
    """What one look has found."""

    lines: list[bytes]
    too_long: int = 0
    """Lines that were left out."""
    lost: int = 0
    """Bytes that were gone before they could be read."""
    more: bool = False
    """There is more already."""


class LineFile:
    """One file. Carriage returns end lines too: progress bars write them."""

    __slots__ = ("_end", "_size", "_trimmed", "_whole", "path", "place")

    def __init__(self, path: str | Path, place: Place, *, whole: bool, trimmed: bool) -> None:
        """`whole`: every line counts, up to the longest report; else only marked ones do, and of others the beginning.
        `trimmed`: the oldest output may be taken away while it is read."""
        self.path = path
        self.place = place
        self._whole, self._trimmed = whole, trimmed
        self._size = -1
        """When it was looked at last."""
        self._end: int | None = None
        """How long it was when the writer had ended: what others write behind that is not read."""

    def grew(self) -> bool:
        """Whether there is something that was not looked at."""
        try:
            return os.stat(self.path).st_size != self._size
        except OSError:
            return False

    def read(self, ended: bool) -> Lines:
        """The next whole lines; when the writer has `ended`, the last one counts without its newline.

        A missing file is empty. Raises OSError about one that can't be read.
        """
        try:
            # Of most runs there is nothing to read, and to find that out has to be cheap.
            if os.stat(self.path).st_size == self.place.offset:
                self._size = self.place.offset
                return Lines([])
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return Lines([])
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return Lines([])
            size = status.st_size
            if ended:
                size = self._end = size if self._end is None else min(size, self._end)
            lost = self._jump(fd, size)
            return self._lines(fd, size, ended, lost)
        finally:
            os.close(fd)

    def _jump(self, fd: int, size: int) -> int:
        """Goes to where there still is something; how many bytes that leaves out."""
        place = self.place
        if place.offset > size:
            # The program has emptied its own output.
            place.offset, place.skipping = 0, False
        if not self._trimmed or place.offset >= size:
            return 0
        try:
            start = os.lseek(fd, place.offset, os.SEEK_DATA)
        except OSError:
            # Nothing but a hole.
            start = size
        lost = start - place.offset
        if lost:
            place.offset, place.skipping = start, True
        return lost

    def _lines(self, fd: int, size: int, ended: bool, lost: int) -> Lines:
        place = self.place
        left = max(0, size - place.offset)
        data = os.pread(fd, min(CHUNK, left), place.offset)
        end = _last_break(data)
        counts = not place.skipping and (self._whole or is_marked(data[:_MARK]))
        if end < 0 and counts and len(data) == CHUNK:
            # A long report: all of it, or nothing.
            data = os.pread(fd, min(MAX_LINE + 1, left), place.offset)
            end = _last_break(data)
        if end < 0 and (place.skipping or len(data) > (MAX_LINE if counts else CHUNK - 1)):
            return self._pass_over(data, size, counts, lost)
        if end < 0 and not (ended and data):
            # It may yet become a line.
            self._size = size
            return Lines([], lost=lost)
        read = data[: end + 1] if end >= 0 else data
        lines = (read.replace(b"\r", b"\n") if b"\r" in read else read).split(b"\n")
        if place.skipping:
            # Up to the first break it is the end of what was left out.
            del lines[0]
        return Lines(lines, lost=lost, more=self._advance(len(read), size, skipping=False))

    def _pass_over(self, data: bytes, size: int, counts: bool, lost: int) -> Lines:
        """No end of the line in sight: its beginning may be of use to rules."""
        fresh = not self.place.skipping
        begin = [data[:RULE_LINE]] if fresh and not counts else []
        more = self._advance(len(data), size, skipping=True)
        return Lines(begin, too_long=int(fresh and counts), lost=lost, more=more)

    def _advance(self, count: int, size: int, *, skipping: bool) -> bool:
        """Whether there is more behind what was read."""
        self.place.offset += count
        self.place.skipping = skipping
        more = self.place.offset < size
        self._size = -1 if more else size
        return more


def _last_break(data: bytes) -> int:
    return max(data.rfind(b"\n"), data.rfind(b"\r"))
