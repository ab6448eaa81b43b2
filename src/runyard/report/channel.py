"""Where reports go: lines of JSON, appended to a file of the run, or marked lines on standard output.

The server names the file in `RUNYARD_REPORT` and takes away from its beginning what it has read. Lines of several
processes (ranks, data loaders, children) do not mix: each is appended with one write.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

#: Names the file. `-` means standard output; without it there is nobody to tell.
VARIABLE = "RUNYARD_REPORT"
RANK = "RUNYARD_TASK_RANK"
#: Begins a line of standard output that is a report.
MARK = b"@runyard "
#: Characters of a line: the body may have 1,000,000 (spec 1.6).
MAX_LINE = 1_000_000
#: Bytes that the server has not read yet, above which reports are dropped; and what is kept back for precious ones.
MAX_UNREAD = 16 * 1024 * 1024
RESERVE = 4 * 1024 * 1024
#: Bytes written between two looks at the size of the file.
_LOOK = 256 * 1024
#: Never dropped.
PRECIOUS = frozenset({"error", "status"})


class Channel:
    """One for a process, and for the children that it forks. From any thread."""

    def __init__(self, target: str, rank: str = "", out: int = 1) -> None:
        """`target` is the value of `RUNYARD_REPORT`; `out` the descriptor of standard output."""
        self.dropped = 0
        """Reports that could not be told, since the last that could."""
        self._rank = int(rank) if rank.isdecimal() else None
        self._mark = b""
        self._fd = -1
        self._written = 0
        self._room = MAX_UNREAD
        self.unlock()
        if not target:
            return
        if target != "-":
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(target, flags, 0o600)
                self._room -= os.fstat(self._fd).st_blocks * 512
                return
            except OSError:
                # Another account, or another machine's file system: standard output is there in any case.
                pass
        self._fd, self._mark = out, MARK

    @classmethod
    def from_environment(cls) -> Channel:
        return cls(os.environ.get(VARIABLE, ""), os.environ.get(RANK, ""))

    @property
    def active(self) -> bool:
        """Somebody listens."""
        return self._fd >= 0

    def unlock(self) -> None:
        """For a child that was forked while another thread spoke."""
        # The handler of a signal may speak while its own thread does.
        self._mutex = threading.RLock()

    def send(self, kind: str, body: Any) -> bool:
        """Tells it, if that is possible at once. Raises TypeError or ValueError about a body that JSON can't carry."""
        if self._fd < 0:
            return False
        line: dict[str, Any] = {"type": kind, "body": body, "at": round(time.time(), 6)}
        if self._rank is not None:
            line["rank"] = self._rank
        text = _encode(line)
        if len(text) > MAX_LINE:
            said = f"a report of {len(text)} characters was left out: at most {MAX_LINE} are taken"
            line["body"] = {"code": 100011, "type": kind, "size": len(text), "text": said}
            text = _encode({**line, "type": "info"})
        with self._mutex:
            if self.dropped:
                if not self._write(_encode({"type": "info", "body": _notice(self.dropped), "at": line["at"]}), False):
                    # It makes no difference for what must get through.
                    self.dropped += 0 if kind in PRECIOUS else 1
                    return kind in PRECIOUS and self._write(text, True)
                self.dropped = 0
            told = self._write(text, kind in PRECIOUS)
            self.dropped += not told
            return told

    def _write(self, text: str, precious: bool) -> bool:
        # Half of a surrogate pair, as names of files have it, is no character that JSON could carry.
        data = b"%s%s\n" % (self._mark, text.encode("utf-8", "replace"))
        if not self._mark and not self._fits(len(data) - (RESERVE if precious else 0)):
            return False
        try:
            done = os.write(self._fd, data)
            if done != len(data):
                # The disk is full, or a pipe is: the piece that is there must not spoil the next line.
                os.write(self._fd, b"\n")
                return False
        except OSError:
            return False
        self._written += done
        return True

    def _fits(self, size: int) -> bool:
        """Whether the file may grow by `size` bytes: what the server has read from its beginning does not count."""
        if self._written > _LOOK or size > self._room - self._written:
            try:
                self._room = MAX_UNREAD - os.fstat(self._fd).st_blocks * 512
            except OSError:
                return False
            self._written = 0
        return size <= self._room - self._written


def _notice(count: int) -> dict[str, Any]:
    text = f"{count} reports were left out: the program reports faster than the server reads, or the disk is full"
    return {"code": "dropped", "count": count, "text": text}


def _encode(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
