"""Keeps the messages within their bounds: by age, by count and size of each job, and not beyond their job."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from runyard.message.surplus import Kept, surplus
from runyard.model.errors import RunyardError
from runyard.service.engine import Engine
from runyard.store.batch import Batch
from runyard.store.messages import MessageQueries, Total, set_horizon, set_last

log = logging.getLogger(__name__)

DAY = 86_400.0
#: Messages that one transaction removes.
STEP = 2000
#: A job with this many times what is allowed is seen to at once.
_MUCH = 1.5
#: Jobs that one pass looks for in the store.
_LOOK = 5000
_NONE = Total(0, 0)


class KeepPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`[messages]` in the configuration."""

    max_rate: int = 25_000
    """Of one job, in a second; a message costs one for each KiB."""
    max_age: float | None = 30 * DAY
    """Seconds; None keeps them as long as their job."""
    max_per_job: int = 500_000
    max_size_per_job: int = 256 * 1024 * 1024
    """Bytes of bodies."""
    interval: float = 60.0
    """Seconds between two passes."""


class MessageKeeper:
    """Counts the messages of each job, and removes those that are too many. For the event loop's thread."""

    def __init__(self, engine: Engine, queries: MessageQueries, policy: KeepPolicy) -> None:
        self._engine = engine
        self._queries = queries
        self._policy = policy
        #: As they will be when everything is written that was handed to the writer.
        self.totals = queries.totals()
        self._much = asyncio.Event()
        self._sweeping = asyncio.Lock()
        self._looked = 0

    def count(self, batch: Batch, added: Iterable[tuple[int, int, int]]) -> None:
        """`batch` adds (or, with negative numbers, removes) messages: job, count and bytes of each."""
        for job in self._change(added, 1):
            total = self.totals.get(job, _NONE)
            batch.set_message_total(job, total.count, total.size)

    def written(self, jobs: Iterable[int]) -> None:
        """These jobs have said more, and it is on disk."""
        if any(self._is_over(self.totals.get(job, _NONE), _MUCH) for job in jobs):
            self._much.set()

    def uncount(self, added: Iterable[tuple[int, int, int]]) -> None:
        """That batch could not be written."""
        self._change(added, -1)

    def _change(self, added: Iterable[tuple[int, int, int]], sign: int) -> set[int]:
        counts: Counter[int] = Counter()
        sizes: Counter[int] = Counter()
        for job, count, size in added:
            counts[job] += sign * count
            sizes[job] += sign * size
        for job, count in counts.items():
            total = self.totals.get(job, _NONE)
            total = Total(total.count + count, total.size + sizes[job])
            if total.count > 0:
                self.totals[job] = total
            else:
                self.totals.pop(job, None)
        return set(counts)

    def _is_over(self, total: Total, times: float = 1.0) -> bool:
        policy = self._policy
        return total.count > policy.max_per_job * times or total.size > policy.max_size_per_job * times

    async def run(self, last: Callable[[], int]) -> None:
        """Sweeps now and then, and when a job has said far too much. `last` gives the newest `seq` of all."""
        while True:
            try:
                async with asyncio.timeout(self._policy.interval):
                    await self._much.wait()
            except TimeoutError:
                pass
            self._much.clear()
            try:
                await self.sweep(self._engine.clock(), last())
            except (RunyardError, OSError, SQLAlchemyError) as error:
                log.warning("messages could not be removed, that is tried again: %s", error)
                await asyncio.sleep(self._policy.interval)
            except Exception:
                # A defect must not end the removing for good.
                log.exception("messages could not be removed, that is tried again")
                await asyncio.sleep(self._policy.interval)

    async def sweep(self, now: float, last: int) -> int:
        """One pass; how many messages it has removed. Raises what `Store.commit` raises."""
        async with self._sweeping:
            removed = 0
            if self._policy.max_age is not None:
                removed += await self._old(now - self._policy.max_age, last)
            totals = list(self.totals.items())
            for job in await asyncio.to_thread(self._orphans, [job for job, _ in totals]):
                removed += await self._remove(job, await asyncio.to_thread(self._all, job), last)
            for job in [job for job, total in totals if self._is_over(total)]:
                removed += await self._remove(job, await asyncio.to_thread(self._surplus, job), last)
            return removed

    async def _old(self, before: float, last: int) -> int:
        removed = 0
        while aged := await asyncio.to_thread(self._queries.aged, before, STEP):
            batch = Batch()
            batch.delete_messages(message.seq for message in aged)
            set_horizon(batch, aged[-1].seq + 1)
            await self._commit(batch, [(message.job, -1, -message.size) for message in aged], last)
            removed += len(aged)
        return removed

    def _orphans(self, jobs: list[int]) -> list[int]:
        """Of those, jobs that are gone and have left messages. Each call looks at the next few, the oldest first."""
        # Job 0 is the server itself.
        some = heapq.nsmallest(_LOOK, (job for job in jobs if job > self._looked))
        self._looked = some[-1] if len(some) == _LOOK else 0
        known = self._engine.store.states(some)
        return [job for job in some if job not in known]

    def _all(self, job: int) -> list[Kept]:
        return list(self._queries.of_job(job))

    def _surplus(self, job: int) -> list[Kept]:
        kept = self._all(job)
        gone = set(surplus(kept, self._policy.max_per_job, self._policy.max_size_per_job))
        return [message for message in kept if message.seq in gone]

    async def _remove(self, job: int, messages: list[Kept], last: int) -> int:
        for start in range(0, len(messages), STEP):
            step = messages[start : start + STEP]
            batch = Batch()
            batch.delete_messages(message.seq for message in step)
            await self._commit(batch, [(job, -1, -message.size) for message in step], last)
        return len(messages)

    async def _commit(self, batch: Batch, removed: list[tuple[int, int, int]], last: int) -> None:
        set_last(batch, last)
        self.count(batch, removed)
        try:
            await self._engine.writer.commit(batch)
        except BaseException:
            # Also when it is cancelled: it may have been written then, and the next start counts by the store.
            self.uncount(removed)
            raise
