"""The messages of jobs: in, durably and bounded; out, by cursor.

Whoever appends waits for the disk. While one transaction is written, everything that comes in gathers for the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import msgspec

from runyard.message.line import body_bytes
from runyard.message.sampling import Allowance, choose, notice
from runyard.model.errors import RunyardError, Unavailable
from runyard.model.message import Message, NewMessage
from runyard.model.state import ENDED
from runyard.service.engine import Engine
from runyard.service.feed import Selection
from runyard.service.message_feed import MessageFeed
from runyard.service.message_keeper import KeepPolicy, MessageKeeper
from runyard.service.series import SeriesCache, SeriesList
from runyard.store.batch import Batch
from runyard.store.messages import MessageQueries, message_values

log = logging.getLogger(__name__)

#: Messages in one transaction, about.
MAX_STEP = 10_000
#: Bytes of bodies that wait for their transaction; who brings more waits until there is room.
MAX_PENDING = 64 * 1024 * 1024
#: Seconds' worth of the rate that a job may say at once.
BURST = 2.0
#: Jobs whose allowance is kept in mind.
_MOST_ALLOWANCES = 10_000
_ENDINGS = frozenset(f"job.{state}" for state in ENDED)


class Appended(msgspec.Struct, frozen=True):
    """What became of messages: how many were kept, how many the sampling of a flood has left out, the last `seq`."""

    kept: int
    dropped: int
    last: int


class _Waiting(msgspec.Struct):
    """Messages that wait for their transaction, with their bodies as JSON."""

    messages: list[NewMessage]
    bodies: list[bytes]
    dropped: int
    keep: Callable[[Batch, Appended], None] | None
    future: asyncio.Future[Appended]


class Messages:
    """One per server; `context.messages`. All methods are for the event loop's thread."""

    def __init__(
        self, engine: Engine, policy: KeepPolicy | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` is a steady one, in seconds."""
        self.engine = engine
        self.policy = policy or KeepPolicy()
        self.queries = MessageQueries(engine.store)
        self.feed = MessageFeed(self.queries)
        self.keeper = MessageKeeper(engine, self.queries, self.policy)
        self._series = SeriesCache(self.queries)
        self._clock = clock
        self._allowances: dict[int, Allowance] = {}
        self._notices: dict[int, asyncio.TimerHandle] = {}
        self._held: Counter[int] = Counter()
        self._inbox: list[_Waiting] = []
        self._pending = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Once the engine has started."""
        self._tasks = [
            asyncio.create_task(self._loop(), name="messages"),
            asyncio.create_task(self._watch(), name="messages' ends"),
            asyncio.create_task(self.keeper.run(lambda: self.feed.last), name="messages' keeper"),
        ]

    async def close(self) -> None:
        """Ends every stream; what was brought until now is written. Before the engine is closed."""
        self.feed.close()
        for job in list(self._notices):
            self._tell(job)
        self._closed = True
        self._work.set()
        self._room.set()
        if self._tasks:
            for task in self._tasks[1:]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # The way in ---------------------------------------------------------------------------------------------------

    async def append(
        self, messages: Sequence[NewMessage], keep: Callable[[Batch, Appended], None] | None = None
    ) -> Appended:
        """Keeps messages, in this order; when it returns they are on disk, and readers get them.

        `keep` adds to the same transaction (offsets of a file, for example). A job that floods is sampled: kinds in
        `model.message.PRECIOUS` and what the server says are never left out. Raises StorageFull, Unavailable;
        InvalidInput and TooLarge for a body that can't be written, and then keeps none.
        """
        if self.engine.trouble is not None:
            raise self.engine.trouble
        bodies = [body_bytes(message.body) for message in messages]
        while self._pending > MAX_PENDING and not self._closed:
            await self._room.wait()
        if self._closed:
            raise Unavailable("the server is stopping")
        chosen = self._sample(messages, [len(body) for body in bodies])
        dropped = len(messages) - len(chosen)
        if not chosen and keep is None:
            return Appended(0, dropped, self.feed.last)
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        taken = [messages[place] for place in chosen], [bodies[place] for place in chosen]
        self._put(_Waiting(*taken, dropped, keep, future))
        return await future

    def _put(self, item: _Waiting) -> None:
        self._inbox.append(item)
        self._pending += sum(map(len, item.bodies))
        self._work.set()

    def _sample(self, messages: Sequence[NewMessage], sizes: Sequence[int]) -> list[int]:
        """The places of those that are kept."""
        jobs: dict[int, list[int]] = {}
        for place, message in enumerate(messages):
            jobs.setdefault(message.job, []).append(place)
        chosen: list[int] = []
        for job, places in jobs.items():
            kept = self._sample_job(job, [messages[place] for place in places], [sizes[place] for place in places])
            chosen += [places[number] for number in kept]
        return sorted(chosen)

    def _sample_job(self, job: int, messages: Sequence[NewMessage], sizes: Sequence[int]) -> list[int]:
        now, rate = self._clock(), float(self.policy.max_rate)
        allowance = self._allowances.get(job)
        if allowance is None:
            if len(self._allowances) >= _MOST_ALLOWANCES:
                self._forget_allowances(now)
            allowance = self._allowances[job] = Allowance(rate * BURST, now)
        allowance.fill(rate, rate * BURST, now)
        chosen = choose(allowance, messages, sizes)
        if allowance.untold and job not in self._notices:
            later = asyncio.get_running_loop().call_later
            self._notices[job] = later(allowance.patience(now), self._tell, job)
        return chosen

    def _forget_allowances(self, now: float) -> None:
        """Of jobs that have said nothing for so long that theirs is full again."""
        for job, allowance in list(self._allowances.items()):
            if now - allowance.at > BURST and not allowance.untold:
                del self._allowances[job]

    def _tell(self, job: int) -> None:
        """Puts a notice among the job's messages, of how many were left out."""
        self._notices.pop(job).cancel()
        allowance = self._allowances[job]
        if self._closed or not allowance.untold:
            return
        message = notice(job, allowance, self._clock())
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        # Nobody waits for it.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._put(_Waiting([message], [body_bytes(message.body)], 0, None, future))

    def settle(self, job: int) -> None:
        """Has said now how many of the job's messages were left out: before its last message is appended."""
        if job in self._notices:
            self._tell(job)

    # The loop -----------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._inbox:
                items = self._take()
                try:
                    await self._step(items)
                except Exception as error:
                    if not isinstance(error, RunyardError):
                        log.error("messages could not be stored", exc_info=True)
                    for item in items:
                        if not item.future.done():
                            item.future.set_exception(error)
                self._pending -= sum(len(body) for item in items for body in item.bodies)
                self._room.set()
                self._room = asyncio.Event()
            if self._closed:
                return

    def _take(self) -> list[_Waiting]:
        count = size = 0
        for place, item in enumerate(self._inbox, 1):
            size += len(item.messages)
            count = place
            if size >= MAX_STEP:
                break
        items, self._inbox = self._inbox[:count], self._inbox[count:]
        return items

    async def _step(self, items: list[_Waiting]) -> None:
        batch = Batch()
        seq, now = self.feed.last, self.engine.clock()
        fresh: list[tuple[Message, int]] = []
        answers: list[tuple[asyncio.Future[Appended], Appended]] = []
        for item in items:
            rows = []
            for new, body in zip(item.messages, item.bodies, strict=True):
                seq += 1
                at = now if new.at is None else new.at
                message = Message(seq, new.job, new.kind, at, new.body, new.source, new.rank)
                rows.append(message_values(message, body))
                fresh.append((message, len(body)))
            batch.add_messages(rows)
            answer = Appended(len(rows), item.dropped, seq)
            if item.keep is not None:
                item.keep(batch, answer)
            answers.append((item.future, answer))
        added = [(message.job, 1, size) for message, size in fresh]
        self.keeper.count(batch, added)
        try:
            await self.engine.writer.commit(batch)
        except Exception:
            self.keeper.uncount(added)
            raise
        self.feed.publish(fresh)
        self.keeper.written({job for job, _, _ in added})
        for future, answer in answers:
            if not future.done():
                future.set_result(answer)

    async def _watch(self) -> None:
        """Streams of one job end with it: so whoever waits there is to look again when it has ended."""
        feed = self.engine.feed
        async for batch in feed.follow(feed.last, Selection(types=_ENDINGS)):
            for event in batch:
                self.feed.wake(event.job)
        # The server is about to stop.
        self.feed.close()

    # The way out --------------------------------------------------------------------------------------------------

    async def page(
        self, job: int | None, after: int | None, limit: int, kinds: Collection[str] = ()
    ) -> tuple[list[Message], int]:
        """Up to `limit` messages behind the cursor `after` (None: from the oldest) of one job, or of all; and the
        cursor behind what was looked at. Raises Expired."""
        return await self.feed.page(job, after, limit, kinds)

    def follow(
        self, job: int | None, after: int | None, kinds: Collection[str] = (), beat: float | None = None
    ) -> AsyncIterator[Collection[Message]]:
        """Messages in batches; an empty batch says that nothing came for `beat` seconds. Of one job, it ends when the
        job has ended, nobody holds it open (`hold`), and everything was seen."""
        ended = None if job is None else lambda: self.engine.record(job) is None and not self._held[job]
        return self.feed.follow(job, after, kinds, ended, beat)

    async def series(self, job: int, names: Sequence[str] | None, points: int) -> SeriesList:
        """The job's metrics as curves: those names, or all; each with at most `points` points."""
        return await self._series.read(job, names, points)

    def hold(self, job: int) -> None:
        """More messages of this job may come, even if it ends: streams of it stay open until `release`."""
        self._held[job] += 1

    def release(self, job: int) -> None:
        """What `hold` was for has been said."""
        self._held[job] -= 1
        if self._held[job] <= 0:
            del self._held[job]
            self.feed.wake(job)
