"""Copies output streams of jobs to this process's own, several at once."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import TextIO

from runyard.cli import exits


class Pumps:
    """One thread for each stream. They are daemons: leaving must not wait for a job's next output."""

    def __init__(self) -> None:
        self._results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._running = 0

    def start(self, source: Callable[[], Iterable[bytes]], target: TextIO) -> None:
        """Copy what `source` yields to `target`, byte for byte and at once."""
        self._running += 1
        threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def join(self) -> int:
        """Wait until every stream has ended. Raises what broke one first; 141 says that a reader has gone."""
        while self._running:
            error = self._results.get()
            self._running -= 1
            if isinstance(error, BrokenPipeError):
                return exits.BROKEN_PIPE
            if error is not None:
                raise error
        return exits.OK

    def _copy(self, source: Callable[[], Iterable[bytes]], target: TextIO) -> None:
        try:
            copy(source(), target)
        except BaseException as error:
            self._results.put(error)
        else:
            self._results.put(None)


def copy(chunks: Iterable[bytes], target: TextIO) -> None:
    """Write bytes past a text stream: output of jobs need not be text.

    And past its buffer: a thread that is stopped with the buffer's lock in its hand would break the process's end.
    """
    target.flush()
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(target.fileno(), rest) :]
