"""The feed of messages: recent ones in memory, older ones from the store; readers go by cursor.

Nothing is queued for a reader: it asks for what lies behind its cursor. So a slow one costs nothing, and one that has
fallen behind what is in memory reads from the store. Each job has its own line: a job that says much wakes nobody who
reads another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable

from runyard.model.message import Message
from runyard.store.messages import PAGE_BYTES, MessageQueries

#: Messages, and bytes of their bodies, that are kept in memory.
RECENT, RECENT_BYTES = 20_000, 32 * 1024 * 1024
#: Messages read in one go.
PAGE = 1000
#: The line of all jobs together.
_ALL = -1


class MessageFeed:
    """Durable messages, followed. All methods are for the event loop's thread."""

    def __init__(self, queries: MessageQueries) -> None:
        self._queries = queries
        self.last = queries.last_seq()
        #: Everything behind this is in memory.
        self._floor = self.last
        #: Messages, with the bytes of their bodies.
        self._lines: dict[int, deque[tuple[Message, int]]] = {_ALL: deque()}
        self._bytes = 0
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        self.closed = False

    def publish(self, messages: Iterable[tuple[Message, int]]) -> None:
        """These messages, with the bytes of their bodies, are durable now; they follow on the last ones."""
        every = self._lines[_ALL]
        jobs = {_ALL}
        for message, size in messages:
            every.append((message, size))
            self._lines.setdefault(message.job, deque()).append((message, size))
            self._bytes += size
            self.last = message.seq
            jobs.add(message.job)
        while len(every) > RECENT or self._bytes > RECENT_BYTES:
            self._drop()
        for job in jobs:
            self.wake(job)

    def _drop(self) -> None:
        oldest, size = self._lines[_ALL].popleft()
        self._bytes -= size
        self._floor = oldest.seq
        line = self._lines[oldest.job]
        line.popleft()
        if not line:
            del self._lines[oldest.job]

    def wake(self, job: int) -> None:
        """Lets those who wait for this job's messages look again."""
        for future in self._waiting.pop(job, ()):
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Ends every stream."""
        self.closed = True
        for job in list(self._waiting):
            self.wake(job)

    async def changed(self, job: int | None, timeout: float | None = None) -> bool:
        """Waits until there is something new of the job (None: of any); False after `timeout` seconds, or once the feed
        is closed."""
        if self.closed:
            return False
        key = _ALL if job is None else job
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            others = self._waiting.get(key)
            if others is not None:
                others.discard(future)
                if not others:
                    del self._waiting[key]
        return not self.closed

    async def page(
        self, job: int | None, after: int | None, limit: int, kinds: Collection[str] = ()
    ) -> tuple[list[Message], int]:
        """Up to `limit` messages behind the cursor, and the cursor behind what was looked at.

        None starts with the oldest. Raises Expired if messages behind the cursor have been removed for their age.
        """
        if after is not None and after >= self._floor:
            return self._from_memory(_ALL if job is None else job, min(after, self.last), limit, kinds)
        last = self.last
        found, upto = await asyncio.to_thread(self._queries.page, after, limit, job, kinds, last)
        # What is on disk but not published yet comes with its own batch.
        return [message for message in found if message.seq <= last], min(upto, last)

    def _from_memory(self, job: int, after: int, limit: int, kinds: Collection[str]) -> tuple[list[Message], int]:
        behind: list[tuple[Message, int]] = []
        for message, size in reversed(self._lines.get(job, ())):
            if message.seq <= after:
                break
            if not kinds or message.kind in kinds:
                behind.append((message, size))
        found: list[Message] = []
        room = PAGE_BYTES
        for message, size in reversed(behind):
            room -= size
            if len(found) == limit or (found and room < 0):
                return found, found[-1].seq
            found.append(message)
        return found, self.last

    async def follow(
        self,
        job: int | None,
        after: int | None,
        kinds: Collection[str] = (),
        ended: Callable[[], bool] | None = None,
        beat: float | None = None,
    ) -> AsyncIterator[Collection[Message]]:
        """Messages in batches, for ever: until the feed is closed, or `ended` once everything has been seen.

        An empty batch says that nothing came for `beat` seconds.
        """
        while True:
            done = ended is not None and ended()
            seen = self.last
            found, after = await self.page(job, after, PAGE, kinds)
            if found:
                yield found
            elif after >= seen:
                if done or self.closed:
                    return
                if ended is not None and ended():
                    # While the store was read: nobody will be woken for that again.
                    continue
                if after >= self.last and not await self.changed(job, beat) and not self.closed:
                    yield ()
