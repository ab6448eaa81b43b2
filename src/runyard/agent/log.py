"""The agent's log: a small file that turns over once. The `logging` package would take much of the agent's memory."""

from __future__ import annotations

import os
import time


class Log:
    """Appends lines to `path`; past `limit` bytes the file becomes `path.1` and a new one is begun.

    A log that can't be written is no reason to stop looking after processes: errors are dropped.
    """

    def __init__(self, path: str, limit: int = 1 << 20) -> None:
        self._path, self._limit = path, limit
        self._fd = -1
        self._open()

    def info(self, text: str) -> None:
        self._write("info", text)

    def warning(self, text: str) -> None:
        self._write("warning", text)

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            self._fd = -1

    def _write(self, level: str, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        line = f"{stamp}.{int(now * 1000) % 1000:03}Z {level} [{os.getpid()}] {text}\n"
        if self._fd < 0:
            self._open()
        try:
            os.write(self._fd, line.encode("utf-8", "backslashreplace"))
            if os.fstat(self._fd).st_size > self._limit:
                os.replace(self._path, self._path + ".1")
                os.close(self._fd)
                self._open()
        except OSError:
            pass
