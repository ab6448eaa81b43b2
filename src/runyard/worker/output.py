"""`sys.stdout` and `sys.stderr` of a process in which many runs go on: what is written goes to the files of the run
that writes it, told by a context variable. Tasks, and threads of `asyncio.to_thread` and executors, inherit it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, TextIO


class Output(io.TextIOBase):
    """One output file of a run, opened when something is written first; lines appear in it as they are ended."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: TextIO | None = None

    def file(self) -> TextIO:
        """Raises OSError."""
        if self._file is None:
            self._file = open(self._path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        return self._file

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return self.file().write(text)

    def flush(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.flush()

    def fileno(self) -> int:
        return self.file().fileno()

    @property
    def buffer(self) -> Any:
        return self.file().buffer

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


class Routed(io.TextIOBase):
    """Passes everything to the stream that `choose` gives at that moment."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, choose: Callable[[], Any]) -> None:
        self._choose = choose

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return int(self._choose().write(text))

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        self._choose().writelines(lines)

    def flush(self) -> None:
        self._choose().flush()

    def fileno(self) -> int:
        return int(self._choose().fileno())

    @property
    def buffer(self) -> Any:
        return self._choose().buffer
