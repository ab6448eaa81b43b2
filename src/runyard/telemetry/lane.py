"""A thread for calls that may hang: a driver that does not answer, a file system whose server is gone.

It is a daemon, so that a call that never returns keeps nobody from ending the server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """One thread, started with its first call; the calls wait for each other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.AbstractEventLoop, asyncio.Future[Any]]] | None = None

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """What `call` returns or raises, for the loop that asks."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(target=self._work, args=(self._calls,), name=self._name, daemon=True).start()
        self._calls.put((call, loop, future))
        return future

    @staticmethod
    def _work(calls: SimpleQueue[tuple[Callable[[], Any], asyncio.AbstractEventLoop, asyncio.Future[Any]]]) -> None:
        while True:
            call, loop, future = calls.get()
            try:
                value, error = call(), None
            except Exception as caught:
                value, error = None, caught
            if not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(_settle, future, value, error)
                except RuntimeError:
                    # The loop has been closed this very moment: nobody waits any more.
                    return


def _settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
