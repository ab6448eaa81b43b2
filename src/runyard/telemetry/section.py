"""One part of the figures (processor, GPUs, containers, …), sampled only while somebody asks for it.

Whoever asks gets the last sample. Only the first one, after a time in which nobody asked, waits for a new one. A part
that can't be had is empty and says why; it keeps no other part waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that one sample may take; who asks waits no longer.
LIMIT = 5.0
#: Seconds after which a sample is no longer shown, if no newer one can be had.
STALE = 30.0
#: A section rests at least this many times as long as a sample takes.
REST = 10


class Degraded(Exception):
    """A sample that can't be had; the text says why, for a person."""


class Section(Generic[T]):
    """All methods are for the event loop's thread."""

    def __init__(
        self,
        name: str,
        take: Callable[[], Awaitable[T]],
        empty: T,
        interval: float,
        linger: float,
        clock: Callable[[], float] = time.monotonic,
        limit: float = LIMIT,
    ) -> None:
        """`take` makes a sample; it may raise Degraded. `interval`: seconds between two samples; `linger`: how long it
        goes on after the last question."""
        self.name = name
        self.value = empty
        self.reason: str | None = None
        """Why there is nothing, or nothing new."""
        self.at: float | None = None
        """Of the last sample, by `clock`."""
        self._take = take
        self._empty = empty
        self._interval = interval
        self._linger = linger
        self._clock = clock
        self._limit = limit
        self._asked = float("-inf")
        self._took = 0.0
        self._sample: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None

    async def ask(self) -> T:
        """The last sample, while it is good; else a new one, for which it waits up to `limit` seconds."""
        self._asked = self._clock()
        if self._loop is None or self._loop.done():
            await self.refresh()
            if self._loop is None or self._loop.done():
                self._loop = asyncio.create_task(self._go_on(), name=f"telemetry {self.name}")
        elif self.at is None and self.reason is None:
            await self.refresh()
        return self.peek()

    def peek(self) -> T:
        """The last sample as it is; the empty one when that is too old."""
        if self.at is not None and self._clock() - self.at > max(STALE, 3 * self._interval, 2 * REST * self._took):
            return self._empty
        return self.value

    def kick(self) -> asyncio.Task[None]:
        """Begins to take a sample, unless one is under way."""
        if self._sample is None or self._sample.done():
            self._sample = asyncio.create_task(self._once(), name=f"telemetry sample of {self.name}")
        return self._sample

    async def refresh(self) -> None:
        """Takes a sample, and waits for it up to `limit` seconds."""
        done, _ = await asyncio.wait([self.kick()], timeout=self._limit)
        if not done:
            self._degrade(f"no answer within {self._limit:g} s")

    def close(self) -> None:
        for task in (self._loop, self._sample):
            if task is not None:
                task.cancel()

    async def _go_on(self) -> None:
        while self._clock() - self._asked < self._linger:
            await asyncio.sleep(max(self._interval, REST * self._took))
            await self.refresh()

    async def _once(self) -> None:
        begun = self._clock()
        try:
            self.value = await self._take()
            self.reason = None
        except Degraded as error:
            self.value = self._empty
            self._degrade(str(error))
        except Exception as error:
            # A defect of ours, or of a library: one part of the figures, and not worth a server.
            self.value = self._empty
            if self.reason is None:
                log.exception("telemetry: no %s", self.name)
            self.reason = f"{type(error).__name__}: {error}"
        self.at = self._clock()
        self._took = self.at - begun

    def _degrade(self, reason: str) -> None:
        if reason != self.reason:
            log.info("telemetry: no %s: %s", self.name, reason)
        self.reason = reason
