"""The collector: brings what programs report into the store, while they run and to the last line when they have ended.

Every run has a tail (`service.tail`) from its launch on. What is read is stored in one transaction with how far it was
read, so a crash of the server loses nothing and repeats nothing. Runs that ended shortly before a crash are found again
by their events: all up to the cursor kept in the store are done with.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
import time
from collections.abc import Callable, Sequence

import msgspec

from runyard.core.record import JobRecord, Replica
from runyard.message.line import body_bytes
from runyard.model.errors import Expired, InvalidInput, RunyardError, TooLarge
from runyard.model.ids import RunKey
from runyard.model.message import NewMessage
from runyard.model.state import ACTIVE
from runyard.service.engine import Engine
from runyard.service.messages import Appended, Messages
from runyard.service.tail import Tail, TailState
from runyard.store.batch import Batch

log = logging.getLogger(__name__)

#: Where the store keeps how far runs were read, and up to which event all ended runs are done with.
DOOR, CURSOR = "collector", "collector"
#: Seconds between looks at a run: the first one, the shortest, the longest.
FIRST, QUICK, SLOW = 0.2, 0.05, 1.0
#: Seconds between moments at which runs are looked at: together they cost less than one by one.
TICK = 0.02
#: Runs looked at in one go, unless they have said so many messages, or bytes, before.
TOGETHER, MANY_MESSAGES, MANY_BYTES = 256, 20_000, 32 * 1024 * 1024
#: Seconds between two notes of the cursor, and before another attempt when the store could not write.
NOTE_EVERY, RETRY = 5.0, 0.5
#: Bytes of a report file that are read before the file system gets them back.
FREE_FROM = 1024 * 1024
#: Executors without processes of their own.
WITHOUT_OUTPUT = frozenset({"project"})


class _Watched(msgspec.Struct):
    """A tail, and when it is looked at."""

    tail: Tail
    kept: bytes | None
    """Its state in the store."""
    pause: float = FIRST
    ended_after: int | None = None
    """Once the run has ended: an event before the one that says so."""
    freed: int = 0

    @property
    def has_much(self) -> bool:
        """Of the report file that was read, and that the file system can have back."""
        return self.tail.reported - self.freed >= FREE_FROM


class Collector:
    """One per server; `context.collector`. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine, messages: Messages, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is a steady one, in seconds. To be made before the engine starts."""
        self._engine, self._messages, self._clock = engine, messages, clock
        self._runs: dict[RunKey, _Watched] = {}
        self._due: list[tuple[float, RunKey]] = []
        self._wake = asyncio.Event()
        #: Of ended runs that are not read to their end, by job.
        self._ending: dict[int, set[RunKey]] = {}
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        #: Runs that are done with, whose state in the store is of use until the cursor is past their end.
        self._done: list[tuple[int, RunKey]] = []
        self._cursor = -1
        self._noted_at = 0.0
        #: What an earlier server has read, of runs that were not taken up again yet.
        self._kept = {_run_key(name): state for name, state in engine.store.door_records(DOOR).items()}
        engine.watchers.append(self)

    # For the engine -----------------------------------------------------------------------------------------------

    def launched(self, run: RunKey, record: JobRecord) -> None:
        """The run is about to be started."""
        if run not in self._runs and record.spec.executor not in WITHOUT_OUTPUT:
            self._watch(run, record)

    def ended(self, run: RunKey, record: JobRecord | None, replica: Replica) -> None:
        """The run's end is on disk, and nobody has been told yet."""
        watched = self._runs.get(run)
        if watched is None:
            if record is None or record.spec.executor in WITHOUT_OUTPUT:
                return
            watched = self._watch(run, record, replica.launched_at)
        self._end(watched, self._engine.feed.last, replica)

    # For others ---------------------------------------------------------------------------------------------------

    async def drained(self, job: int, timeout: float | None = None) -> bool:
        """Waits until everything is stored that the job's ended runs have said; False after `timeout` seconds."""
        if job not in self._ending:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job, []).append(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        return True

    # Life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Finds the runs again that an earlier server has left; the engine has started."""
        engine, store = self._engine, self._engine.store
        for record in list(engine.reactor.jobs.values()):
            for index, replica in enumerate(record.replicas):
                run = RunKey(record.id, index, replica.attempt)
                if replica.state in ACTIVE and run not in self._runs and record.spec.executor not in WITHOUT_OUTPUT:
                    self._watch(run, record, replica.launched_at)
        noted = store.meta(CURSOR)
        if noted is None:
            # What has ended before was no concern of a collector.
            batch = Batch()
            batch.set_meta(CURSOR, str(engine.feed.last))
            await engine.writer.commit(batch)
        self._cursor = engine.feed.last if noted is None else int(noted)
        await self._find_ended()
        self._done += [(self._cursor, run) for run in self._kept]
        self._kept.clear()

    async def run(self) -> None:
        """Reads, for ever."""
        while True:
            now = self._clock()
            wait = self._due[0][0] - now if self._due else NOTE_EVERY
            if wait > 0:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(wait, NOTE_EVERY)):
                        await self._wake.wait()
            else:
                try:
                    await self._round(now)
                except Exception:
                    # A defect must not end the reading of all runs, nor leave those waiting who wait for their end.
                    log.exception("a look at %d runs has failed; trying again", len(self._runs))
                    self._due.clear()
                    for run, watched in self._runs.items():
                        self._go_back(run, watched)
            await self._note()

    async def _find_ended(self) -> None:
        """Takes up the runs whose end is told by events behind the cursor."""
        engine = self._engine
        after: int | None = self._cursor
        while after is None or after < engine.store.last_seq():
            try:
                page = await asyncio.to_thread(engine.store.events, after, 1000, None, ("run.exited",))
            except Expired:
                after = None
                continue
            for event in page.events:
                run = RunKey(event.job, event.replica, event.attempt)
                if run in self._runs and self._runs[run].ended_after is not None:
                    continue
                record = engine.record(run.job) or await asyncio.to_thread(engine.store.job, run.job)
                if record is None or record.spec.executor in WITHOUT_OUTPUT:
                    continue
                last = record.replicas[event.replica]
                since = last.launched_at if last.attempt == event.attempt else record.submitted_at
                watched = self._runs.get(run) or self._watch(run, record, since)
                code = (event.data or {}).get("exit_code")
                self._end(watched, event.seq - 1, crashed=bool(code))
            after = page.upto

    # Tails --------------------------------------------------------------------------------------------------------

    def _watch(self, run: RunKey, record: JobRecord, since: float | None = None) -> _Watched:
        kept = self._kept.pop(run, None)
        state = None if kept is None else msgspec.json.decode(kept, type=TailState)
        since = since if since is not None else self._engine.clock()
        tail = Tail(run, record.spec, self._engine.output, since, state)
        watched = self._runs[run] = _Watched(tail, kept)
        self._messages.hold(run.job)
        self._plan(run, FIRST)
        return watched

    def _end(
        self, watched: _Watched, after: int, replica: Replica | None = None, *, crashed: bool | None = None
    ) -> None:
        tail = watched.tail
        tail.crashed = bool(crashed) if replica is None else bool(replica.exit_code)
        watched.ended_after = after
        self._ending.setdefault(tail.run.job, set()).add(tail.run)
        self._plan(tail.run, TICK / 2)

    def _plan(self, run: RunKey, delay: float) -> None:
        """`delay` is in seconds; what is due in the same tick is due at the same moment. 0 is at once."""
        at = self._clock() + delay
        if delay > 0:
            at = math.ceil(at / TICK) * TICK
        if not self._due or at < self._due[0][0]:
            # Whoever sleeps, sleeps for longer.
            self._wake.set()
        heapq.heappush(self._due, (at, run))

    # Reading ------------------------------------------------------------------------------------------------------

    async def _round(self, now: float) -> None:
        """Looks at the runs that are due, and stores what they say."""
        chosen: dict[RunKey, _Watched] = {}
        while self._due and self._due[0][0] <= now and len(chosen) < TOGETHER:
            _, run = heapq.heappop(self._due)
            # A run that has ended was planned twice.
            if run in self._runs:
                chosen[run] = self._runs[run]
        if not chosen:
            return
        # As it is now: one that ends while it is read must be read once more.
        asked = [(watched.tail, watched.ended_after is not None) for watched in chosen.values()]
        looks = await asyncio.to_thread(_read, asked, self._engine.clock())
        for run in list(chosen)[len(looks) :]:
            # Before all that is planned from now on.
            heapq.heappush(self._due, (now, run))
            del chosen[run]
        found = dict(zip(chosen, looks, strict=True))
        said = [message for look in looks for message in look.messages]
        # What the file system gets back has to be behind what is stored, also when no message came of it.
        changed = [
            (run, chosen[run].tail.remember()) for run, look in found.items() if look.messages or chosen[run].has_much
        ]
        if changed and not await self._store(said, changed, chosen):
            return
        for run, state in changed:
            self._runs[run].kept = state
        for (run, look), (_, ended) in zip(found.items(), asked, strict=False):
            watched = chosen[run]
            if look.more:
                self._plan(run, 0.0)
            elif ended:
                self._finish(run, watched)
            elif look.failed:
                self._go_back(run, watched)
            elif self._engine.record(run.job) is None and watched.ended_after is None:
                # Its job is gone, without a word about the run.
                self._end(watched, self._engine.feed.last, crashed=False)
            else:
                watched.pause = QUICK if look.messages else min(SLOW, watched.pause * 1.5)
                self._plan(run, watched.pause)
        self._free([watched for watched in chosen.values() if watched.tail.run in self._runs])

    async def _store(
        self, said: Sequence[NewMessage], changed: list[tuple[RunKey, bytes]], chosen: dict[RunKey, _Watched]
    ) -> bool:
        def keep(batch: Batch, appended: Appended) -> None:
            for run, state in changed:
                batch.keep_for_door(DOOR, str(run), state)

        try:
            try:
                await self._messages.append(said, keep)
            except (InvalidInput, TooLarge) as error:
                sound = [message for message in said if _is_sound(message)]
                log.error("%d messages can't be stored and are left out: %s", len(said) - len(sound), error.detail)
                await self._messages.append(sound, keep)
        except RunyardError as error:
            log.warning("messages of %d jobs can't be stored, trying again: %s", len(changed), error.detail)
            for run, watched in chosen.items():
                self._go_back(run, watched)
            return False
        return True

    def _go_back(self, run: RunKey, watched: _Watched) -> None:
        """What was read since the last transaction is read again."""
        state = TailState() if watched.kept is None else msgspec.json.decode(watched.kept, type=TailState)
        watched.tail = watched.tail.anew(state)
        self._plan(run, RETRY)

    def _finish(self, run: RunKey, watched: _Watched) -> None:
        """All is read and stored."""
        del self._runs[run]
        if watched.kept is not None and watched.ended_after is not None:
            # The event that tells its end is out by now.
            self._done.append((self._engine.feed.last, run))
        self._messages.release(run.job)
        ending = self._ending.get(run.job)
        if ending is not None:
            ending.discard(run)
            if not ending:
                del self._ending[run.job]
                for future in self._waiting.pop(run.job, ()):
                    if not future.done():
                        future.set_result(None)

    def _free(self, watched: Sequence[_Watched]) -> None:
        for one in watched:
            if one.has_much:
                one.freed = one.tail.reported
                with contextlib.suppress(OSError):
                    one.tail.give_back()

    async def _note(self) -> None:
        """Puts the cursor down from time to time, and forgets what lies behind it."""
        if self._clock() - self._noted_at < NOTE_EVERY:
            return
        self._noted_at = self._clock()
        open_ends = [self._runs[run].ended_after for runs in self._ending.values() for run in runs if run in self._runs]
        cursor = min([self._engine.feed.last, *(end for end in open_ends if end is not None)])
        if cursor <= self._cursor:
            return
        past = [run for seq, run in self._done if seq <= cursor]
        batch = Batch()
        batch.set_meta(CURSOR, str(cursor))
        for run in past:
            batch.keep_for_door(DOOR, str(run), None)
        try:
            await self._engine.writer.commit(batch)
        except RunyardError as error:
            log.warning("the collector's cursor can't be stored: %s", error.detail)
            return
        self._cursor = cursor
        self._done = [(seq, run) for seq, run in self._done if seq > cursor]


class _Look(msgspec.Struct):
    """What one look at a run has brought."""

    messages: list[NewMessage] = []
    more: bool = False
    """There is more already."""
    failed: bool = False


def _read(tails: Sequence[tuple[Tail, bool]], now: float) -> list[_Look]:
    """A look at each of them, or at the first ones, if those have much to say."""
    found: list[_Look] = []
    messages = size = 0
    for tail, ended in tails:
        begin = tail.passed
        try:
            look = _Look(*tail.read(now, ended))
        except OSError as error:
            log.warning("the reports of run %s can't be read: %s", tail.run, error)
            look = _Look(failed=True)
        except Exception:
            # A defect must not end the reading of the others.
            log.exception("the reports of run %s can't be read", tail.run)
            look = _Look(failed=True)
        found.append(look)
        messages += len(look.messages)
        size += tail.passed - begin
        if messages >= MANY_MESSAGES or size >= MANY_BYTES:
            break
    return found


def _is_sound(message: NewMessage) -> bool:
    try:
        body_bytes(message.body)
    except RunyardError:
        return False
    return True


def _run_key(name: str) -> RunKey:
    job, replica, attempt = name.split(".")
    return RunKey(int(job), int(replica), int(attempt))
