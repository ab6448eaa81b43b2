"""What every front door calls: jobs in, documents and actions out. Doors map words, the rules are in core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec

from runyard.core import cron, explain
from runyard.core.inputs import Amend, Cancel, Delete, Known, NewJob, RestartJob, SendSignal, Submit
from runyard.core.record import JobRecord
from runyard.model.check import refuse
from runyard.model.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    RunyardError,
    TooMany,
    Unavailable,
)
from runyard.model.ids import parse_job_id
from runyard.model.job import Dependency, Explanation, JobDoc, JobSpec, RunDoc
from runyard.model.state import ENDED
from runyard.service.document import job_doc
from runyard.service.engine import Engine
from runyard.service.flows import check_unit_dirs
from runyard.store.batch import Batch
from runyard.store.listing import Filter
from runyard.store.query import Remembered

T = TypeVar("T")
#: The kind of a job that is a project, and the name of the executor that coordinates it.
PROJECT = "project"


class Bounds(msgspec.Struct, frozen=True):
    """How much is taken (`[limits]` in the configuration)."""

    max_replicas: int = 10_000
    max_jobs: int = 1_000_000
    max_batch: int = 10_000
    unit_dirs: tuple[str, ...] = ()
    """Where units of flows may come from; empty means from anywhere."""


class Replay(msgspec.Struct, frozen=True):
    """An `Idempotency-Key`: the key, whose it is, and a hash of the request."""

    key: str
    owner: str
    request: bytes


class Answer(msgspec.Struct, frozen=True):
    """A finished answer, which an `Idempotency-Key` may bring back later."""

    status: int
    body: bytes
    replayed: bool = False


class Service:
    """The jobs. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine, bounds: Bounds | None = None) -> None:
        self.engine = engine
        self.bounds = bounds or Bounds()
        #: By kind of job: who knows more about why such a job is where it is than the engine does.
        self.explainers: dict[str, Callable[[JobRecord, Explanation], Explanation]] = {}
        self._in_flight: dict[tuple[str, str], asyncio.Future[None]] = {}
        #: Takes nothing new in: it is about to end.
        self.stopping = False

    # Finding ------------------------------------------------------------------------------------------------------

    async def find(self, ref: str, owner: str | None = None) -> JobRecord:
        """The job that a decimal id, an F58 id or a name means; of a name, the newest live job, else the newest.

        With `owner`, a job of that owner comes first. Raises NotFound.
        """
        record = await self.look_up(ref, owner)
        if record is None:
            raise NotFound(f"there is no job {ref!r}: give its id, its F58 id or its name")
        return record

    async def look_up(self, ref: str, owner: str | None = None) -> JobRecord | None:
        """As `find`, but None if there is none."""
        engine = self.engine
        number = parse_job_id(ref)
        if number is not None:
            record = engine.find(number)
            if record is not None or not ref.startswith("f"):
                return record
        if owner is not None:
            own = [record for record in engine.reactor.roster.called(ref) if record.owner == owner]
            if own:
                return own[-1]
            ended = engine.store.find_by_name(ref, owner)
            if ended is not None:
                return engine.record(ended.id) or ended
        live = engine.reactor.roster.live(ref)
        if live is not None:
            return live
        found = engine.store.find_by_name(ref)
        # Between the two looks it may have ended, or been brought back.
        return None if found is None else engine.record(found.id) or found

    def document(self, record: JobRecord) -> JobDoc:
        return job_doc(record)

    async def list_jobs(self, wanted: Filter) -> tuple[list[JobDoc], int | None]:
        """A page of jobs, newest first, and where the next one begins. Live jobs are shown as they are now."""
        page = await asyncio.to_thread(self.engine.store.list_jobs, wanted)
        records = [self.engine.record(record.id) or record for record in page.jobs]
        return [job_doc(record) for record in records], page.next

    async def runs(
        self, record: JobRecord, limit: int, before: tuple[int, int] | None
    ) -> tuple[list[RunDoc], tuple[int, int] | None]:
        """A page of the job's runs, newest first."""
        page = await asyncio.to_thread(self.engine.store.runs, record.id, limit, before)
        return page.runs, page.next

    # Submitting ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        specs: Sequence[JobSpec | RunyardError],
        render: Callable[[list[JobDoc | RunyardError]], T],
        *,
        origin: str,
        owner: str,
        kind: str | None = None,
        keep: Callable[[Batch, T], None] | None = None,
    ) -> T:
        """Takes in jobs in one transaction. `render` makes the answer from the documents and refusals, in order.

        Specifications that were refused already may be among `specs`. `keep` adds to the transaction. Raises TooMany.
        """
        engine = self.engine
        if self.stopping:
            raise Unavailable("the server is stopping")
        checked = [self.bounded(spec, kind) for spec in specs]
        live = engine.reactor.roster.replicas
        asked = sum(1 if isinstance(spec, RunyardError) else spec.replicas for spec in checked)
        if live + asked > self.bounds.max_jobs:
            raise TooMany(
                f"{live} jobs are live, each replica counted, and the limit is {self.bounds.max_jobs} "
                f"([limits] max_jobs), so {asked} more are not taken now"
            )
        now = engine.clock()
        ids = [0 if isinstance(spec, RunyardError) else engine.ids.next(now) for spec in checked]
        others = await self._references(checked)
        new = [
            NewJob(id=job, spec=spec, kind=kind or spec.kind, origin=origin, owner=owner)
            for job, spec in zip(ids, checked, strict=True)
            if not isinstance(spec, RunyardError)
        ]

        def build() -> Submit:
            known = {
                ref: Known(record.id, record.state, record.started_at is not None)
                for ref, record in others.items()
                if record.state in ENDED
            }
            return Submit(jobs=new, known=known)

        def finish(batch: Batch) -> T:
            outcomes: list[JobDoc | RunyardError] = []
            for job, spec in zip(ids, checked, strict=True):
                record = engine.record(job)
                if isinstance(spec, RunyardError):
                    outcomes.append(spec)
                elif record is None:
                    outcomes.append(engine.refused[job])
                else:
                    outcomes.append(job_doc(record))
            answer = render(outcomes)
            if keep is not None:
                keep(batch, answer)
            return answer

        return await engine.ask(build, finish)

    def bounded(self, spec: JobSpec | RunyardError, kind: str | None = None) -> JobSpec | RunyardError:
        """The specification if this server takes such jobs, else why not."""
        if isinstance(spec, RunyardError):
            return spec
        if spec.executor == PROJECT and kind != PROJECT:
            return refuse("executor", spec.executor, "runs projects only: make one with /api/v1/projects")
        if spec.replicas > self.bounds.max_replicas:
            return refuse("replicas", spec.replicas, f"must be at most {self.bounds.max_replicas} on this server")
        if spec.flow is not None and (spec.user is not None or spec.group is not None):
            return refuse("user", spec.user, "flows run as the server's account only, and can't be this account's")
        if spec.flow is not None and self.bounds.unit_dirs:
            try:
                check_unit_dirs(spec.flow, spec.cwd, self.bounds.unit_dirs)
            except InvalidInput as error:
                return error
        if spec.executor not in self.engine.executors:
            known = ", ".join(sorted(self.engine.executors.keys() - {PROJECT}))
            return refuse("executor", spec.executor, f"is not configured here; there is: {known}")
        return spec

    async def _references(self, specs: Sequence[JobSpec | RunyardError]) -> dict[str, JobRecord]:
        refs = {
            item.job if isinstance(item, Dependency) else item
            for spec in specs
            if not isinstance(spec, RunyardError) and spec.after
            for item in spec.after
        }
        found = {ref: await self.look_up(ref) for ref in refs}
        return {ref: record for ref, record in found.items() if record is not None}

    async def once(self, replay: Replay | None, act: Callable[[Callable[[Batch, Answer], None]], Any]) -> Answer:
        """Does `act` unless the same request was answered before: then gives that answer again.

        `act` gets a function that keeps its answer; it must be called within its transaction. Raises Conflict if the
        key was used for another request, or if that one is not finished yet.
        """
        if replay is None:
            answer: Answer = await act(lambda batch, answer: None)
            return answer
        key = (replay.key, replay.owner)
        while (pending := self._in_flight.get(key)) is not None:
            await asyncio.wait([pending])
        kept: Remembered | None = self.engine.store.idempotent(replay.key, replay.owner)
        if kept is not None:
            if kept.request != replay.request:
                raise Conflict(f"the Idempotency-Key {replay.key!r} was used for another request; take a new key")
            return Answer(kept.status, kept.response, True)

        def keep(batch: Batch, answer: Answer) -> None:
            at = self.engine.clock()
            batch.remember(replay.key, replay.owner, replay.request, answer.status, answer.body, at)

        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = done
        try:
            answer = await act(keep)
            return answer
        finally:
            del self._in_flight[key]
            done.set_result(None)

    # Acting -------------------------------------------------------------------------------------------------------

    async def cancel(self, record: JobRecord) -> JobDoc:
        """Ends the job for good. Raises Conflict if it has ended."""
        self._must_live(record)
        return await self._act_on_live(Cancel(job=record.id), record.id)

    async def restart(self, record: JobRecord, idle: tuple[str, ...] | None = None) -> JobDoc:
        """Stops what runs, and starts anew; an ended job is brought back. `idle`: see `core.inputs.Amend`."""
        async with self.engine.archive:
            while True:
                stored = await self._ended(record.id)
                try:
                    return await self._act(RestartJob(job=record.id, record=stored, idle=idle), record.id)
                except NotFound:
                    if stored is not None:
                        raise
                    # It was live when it was looked at, and ended before its turn.

    async def _ended(self, job: int) -> JobRecord | None:
        """The last form of an ended job, once it is written; None for a live one. Raises NotFound."""
        engine = self.engine
        if job in engine.reactor.jobs:
            return None
        # It may end this very moment: its last form is about to be written.
        await engine.ended(job, 10.0)
        stored = engine.store.job(job)
        if stored is None:
            raise NotFound(f"there is no job {job}")
        return stored

    async def signal(self, record: JobRecord, number: int) -> JobDoc:
        """Raises Conflict if nothing of the job is running."""
        self._must_live(record)
        return await self._act_on_live(SendSignal(job=record.id, signal=number), record.id)

    async def amend(
        self, record: JobRecord, priority: int | None, hold: bool | None, version: int | None = None
    ) -> JobDoc:
        """Changes priority and hold. Raises PreconditionFailed if `version` is given and no longer the present one."""
        self._must_live(record)

        def build() -> Amend:
            present = self.engine.record(record.id)
            if version is not None and present is not None and present.version != version:
                raise PreconditionFailed(f"the job's version is {present.version} now, not {version}: read it again")
            return Amend(job=record.id, priority=priority, hold=hold)

        return await self._act_on_live(build, record.id)

    async def delete(self, record: JobRecord) -> None:
        """Removes an ended job with its runs and output. Raises Conflict if it is live."""
        engine = self.engine
        async with engine.archive:
            live = engine.reactor.jobs.get(record.id)
            if live is not None:
                raise Conflict(f"job {record.id} is {live.state}; cancel it first")
            # It may have ended this very moment: its last form is about to be written.
            await engine.ended(record.id, 10.0)
            if engine.store.job(record.id) is None:
                raise NotFound(f"there is no job {record.id}")
            runs = await asyncio.to_thread(engine.store.run_keys, [record.id])
            await engine.ask(Delete(job=record.id), lambda batch: None)
            await asyncio.to_thread(engine.output.remove, runs)

    async def wait(self, record: JobRecord, timeout: float) -> JobDoc:
        """The job's document once it has ended, or as it is after `timeout` seconds."""
        await self.engine.ended(record.id, timeout)
        return job_doc(await self.find(str(record.id)))

    async def _act(self, input: Any, job: int) -> JobDoc:
        def finish(batch: Batch) -> JobDoc:
            record = self.engine.record(job)
            if record is None:
                raise NotFound(f"there is no job {job}")
            return job_doc(record)

        return await self.engine.ask(input, finish)

    async def _act_on_live(self, input: Any, job: int) -> JobDoc:
        try:
            return await self._act(input, job)
        except NotFound:
            # It was live when it was looked at.
            raise Conflict(f"job {job} has ended at this very moment") from None

    def _must_live(self, record: JobRecord) -> None:
        if record.id not in self.engine.reactor.jobs:
            raise Conflict(f"job {record.id} has ended: it {record.state}")

    # Explaining ---------------------------------------------------------------------------------------------------

    def why(self, record: JobRecord, reader: str | None = None) -> Explanation:
        """With `reader`, other people's jobs are not called by their names."""
        explanation = explain.explain(self.engine.reactor, record, self.engine.clock(), reader)
        explainer = self.explainers.get(record.kind)
        return explanation if explainer is None else explainer(record, explanation)

    def preview(self, expression: str, timezone: str, count: int, after: float | None = None) -> list[float]:
        """The next fire times (Unix seconds) of a cron expression. Raises InvalidInput."""
        if not 1 <= count <= 1000:
            raise InvalidInput(f"count must be between 1 and 1000, not {count}")
        start = self.engine.clock() if after is None else after
        return list(islice(cron.fire_times(expression, timezone, start), count))

    def schedules(self) -> list[JobRecord]:
        """The live cron jobs, those first that fire first."""
        records = [record for record in self.engine.reactor.jobs.values() if record.spec.schedule is not None]
        return sorted(records, key=lambda record: (record.next_fire or float("inf"), record.id))
