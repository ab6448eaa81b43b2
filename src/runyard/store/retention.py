"""How long things are kept, and their removal in small steps between which others get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import msgspec

from runyard.core.record import JobRecord
from runyard.model.ids import RunKey
from runyard.model.state import ENDED
from runyard.store.batch import Batch
from runyard.store.output import OutputFile, OutputFiles
from runyard.store.store import Store
from runyard.store.writer import Writer

DAY = 86_400.0
STEP = 500
"""Jobs, or runs, that one commit removes."""
_EVENT_STEP = 5_000


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept. Ages are seconds; None keeps without end. Live jobs, and their present output, always stay."""

    finished_jobs_max_age: float | None = 30 * DAY
    finished_jobs_max: int | None = 1_000_000
    events_max_age: float | None = 30 * DAY
    runs_per_job_max: int | None = 1000
    """For long-lived cron and service jobs. The last run of each replica stays in any case."""
    output_max_age: float | None = None
    """Since it was written last. None: as long as its job."""
    output_max_bytes: int | None = None
    """All files together; those of the oldest jobs go first."""
    idempotency_max_age: float | None = DAY


class Removed(msgspec.Struct):
    """What one pass removed."""

    jobs: int = 0
    runs: int = 0
    """Of jobs that stayed."""
    events: int = 0
    files: int = 0
    bytes: int = 0


# Policy: pure -------------------------------------------------------------------------------------------------------


def surplus_runs(keys: Iterable[RunKey], most: int) -> list[RunKey]:
    """Of one job's runs, those to remove: all but the newest `most`, and never the last one of a replica."""
    newest_first = sorted(keys, key=lambda key: (key.attempt, key.replica), reverse=True)
    seen: set[int] = set()
    surplus = []
    for place, key in enumerate(newest_first):
        if place >= most and key.replica in seen:
            surplus.append(key)
        seen.add(key.replica)
    return surplus


def stale_output(
    files: Iterable[OutputFile], policy: Policy, now: float, over: int, live: Callable[[int], JobRecord | None]
) -> Iterator[OutputFile]:
    """Which of the files, given oldest jobs first, to remove: the old ones, and any until `over` bytes are free."""
    oldest = None if policy.output_max_age is None else now - policy.output_max_age
    for file in files:
        record = live(file.run.job)
        if record is not None and _is_present(record, file.run):
            continue
        if over > 0 or (oldest is not None and file.modified < oldest):
            over -= file.size
            yield file


def _is_present(record: JobRecord, run: RunKey) -> bool:
    return run.replica < len(record.replicas) and run.attempt >= record.replicas[run.replica].attempt


# Removal ------------------------------------------------------------------------------------------------------------


class Retention:
    """Removes what the policy does not keep.

    `live` gives the record of a job that the engine holds (`Reactor.jobs.get`): such jobs stay. It must be safe to
    call from any thread.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        outputs: OutputFiles,
        policy: Policy,
        live: Callable[[int], JobRecord | None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._outputs = outputs
        self._policy = policy
        self._live = live

    async def apply(self, now: float) -> Removed:
        """One pass, on the event loop. Raises what `Store.commit` raises; what was removed until then stays so.

        Files go before their rows, so that the next pass finds again what a crash has left behind.
        """
        policy, removed = self._policy, Removed()
        if policy.finished_jobs_max is not None:
            ended = sum(count for state, count in self._store.counts().items() if state in ENDED)
            removed.jobs += await self._jobs(None, ended - policy.finished_jobs_max)
        if policy.finished_jobs_max_age is not None:
            removed.jobs += await self._jobs(now - policy.finished_jobs_max_age, None)
        if policy.runs_per_job_max is not None:
            removed.runs = await self._runs(policy.runs_per_job_max)
        if policy.events_max_age is not None:
            removed.events = await self._events(now - policy.events_max_age)
        if policy.idempotency_max_age is not None:
            batch = Batch()
            batch.forget_remembered(now - policy.idempotency_max_age)
            await self._writer.commit(batch)
        if policy.output_max_age is not None or policy.output_max_bytes is not None:
            removed.files, removed.bytes = await asyncio.to_thread(self._output, now)
        return removed

    async def _jobs(self, ended_before: float | None, most: int | None) -> int:
        """Remove the oldest ended jobs: those that ended before a time, at most so many."""
        count, after = 0, 0
        while most is None or count < most:
            step = STEP if most is None else min(STEP, most - count)
            ids = await asyncio.to_thread(self._store.ended_ids, step, ended_before, after)
            if not ids:
                break
            after = ids[-1]
            ids = [job for job in ids if self._live(job) is None]
            runs = await asyncio.to_thread(self._store.run_keys, ids)
            await asyncio.to_thread(self._outputs.remove, runs)
            batch = Batch()
            # Asked again: one may have been restarted meanwhile.
            gone = [job for job in ids if self._live(job) is None]
            for job in gone:
                batch.delete_job(job)
            await self._writer.commit(batch)
            count += len(gone)
        return count

    async def _runs(self, most: int) -> int:
        count = 0
        for job in await asyncio.to_thread(self._store.live_ids, most):
            surplus = surplus_runs(await asyncio.to_thread(self._store.run_keys, [job]), most)
            for start in range(0, len(surplus), STEP):
                step = surplus[start : start + STEP]
                await asyncio.to_thread(self._outputs.remove, step)
                batch = Batch()
                batch.delete_runs(step)
                await self._writer.commit(batch)
                count += len(step)
        return count

    async def _events(self, before: float) -> int:
        count = 0
        while True:
            first, below = await asyncio.to_thread(self._store.old_events, before, _EVENT_STEP)
            if below == first:
                return count
            batch = Batch()
            batch.trim_events(below)
            await self._writer.commit(batch)
            count += below - first

    def _output(self, now: float) -> tuple[int, int]:
        over = 0
        if self._policy.output_max_bytes is not None:
            total = sum(file.size for folder in self._outputs.walk() for file in folder)
            over = total - self._policy.output_max_bytes
        count = size = 0
        files = (file for folder in self._outputs.walk() for file in folder)
        for file in stale_output(files, self._policy, now, over, self._live):
            count, size = count + 1, size + file.size
            self._outputs.remove_file(file)
        return count, size
