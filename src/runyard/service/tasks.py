"""The tasks of the K12AI door: jobs that are told about from their start to their one end (spec/k12ai.md, 4).

What is told, and that it was told, is one transaction: so a crash of the server neither repeats nor loses an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from runyard.core.inputs import Cancel
from runyard.core.record import JobRecord
from runyard.model.errors import Conflict, Expired, Forbidden, NotFound, RunyardError
from runyard.model.ids import RunKey
from runyard.model.job import JobDoc, JobSpec
from runyard.model.message import ERROR, STATUS, NewMessage
from runyard.model.state import ENDED
from runyard.service.collector import Collector
from runyard.service.feed import Selection
from runyard.service.frameworks import Framework, Frameworks, read_code
from runyard.service.messages import Appended, Messages
from runyard.service.preparation import give_to, prepare
from runyard.service.service import Service
from runyard.settings import K12ai
from runyard.store.batch import Batch
from runyard.store.output import Stream
from runyard.training.codes import Code
from runyard.training.ending import Claim, End, Ending, claim_of, ending
from runyard.training.operation import RUNCODE
from runyard.training.parameters import Problem
from runyard.training.reply import Refusal
from runyard.training.request import Ask
from runyard.training.task import Stage, Task, told

log = logging.getLogger(__name__)

#: `JobDoc.origin` and `kind` of a task's job; where the store keeps tasks.
ORIGIN, KIND = "k12ai", "task"
#: Ended tasks that are remembered, for those who have not read their messages yet.
MOST_ENDED = 50_000
#: Lines of output in the message about a program that ended badly, and bytes in which they are looked for.
LAST_LINES, LAST_BYTES = 50, 64 * 1024
#: Seconds for what an ended program has said to be read.
PATIENCE = 60.0
#: Seconds before the events are followed again after a failure.
_REST = 1.0
_EVENTS = frozenset({"run.started", "job.restarted", "job.deleted", *(f"job.{state}" for state in ENDED)})

#: Gives a specification back as its submitter may submit it.
Permit = Callable[[JobSpec], Awaitable[JobSpec]]


class Tasks:
    """One per server. All methods are for the event loop's thread."""

    def __init__(
        self,
        service: Service,
        messages: Messages,
        collector: Collector,
        frameworks: Frameworks,
        settings: K12ai,
        root: Path,
    ) -> None:
        """`root` is the folder of the projects."""
        self.frameworks, self.root = frameworks, root
        self._service, self._engine = service, service.engine
        self._messages, self._collector = messages, collector
        self._settings = settings
        self._tasks: dict[int, Task] = {}
        self._apps: dict[str, dict[int, Task]] = {}
        #: By user, project and (where they exclude each other by phase) phase.
        self._live: dict[tuple[str, ...], Task] = {}
        self._starting: set[tuple[str, ...]] = set()
        self._telling: dict[int, asyncio.Task[None]] = {}
        self._again: set[int] = set()
        self._follower: asyncio.Task[None] | None = None
        #: What was told of a task whose preparation has failed: for `Queues`.
        self.tell_problem: Callable[[Ask, str, Problem], Awaitable[None]] = _nobody
        #: Is told of each task that begins.
        self.on_begin: Callable[[Task], None] = lambda task: None
        self._engine.environments[ORIGIN] = self._environment

    # Life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Loads the tasks, and goes on where an earlier server has stopped. The engine has started."""
        kept = self._engine.store.door_records(ORIGIN)
        for body in kept.values():
            task = msgspec.json.decode(body, type=Task)
            self._remember(task)
            if task.live:
                self._live[self._key(task.user, task.uuid, task.phase)] = task
        self._follower = asyncio.create_task(self._follow(self._engine.feed.last), name="k12ai tasks")
        # Those whose place another one has taken, since `scope` was changed, too.
        for task in [task for task in self._tasks.values() if task.live]:
            self._advance(task)
        await self._forget_old()

    def close(self) -> None:
        """Tells nothing any more."""
        if self._follower is not None:
            self._follower.cancel()
        for telling in self._telling.values():
            telling.cancel()

    async def _follow(self, after: int) -> None:
        feed = self._engine.feed
        while True:
            try:
                async for events in feed.follow(after, Selection(types=_EVENTS)):
                    gone = Batch()
                    for event in events:
                        after = event.seq
                        task = self._tasks.get(event.job)
                        if task is None:
                            continue
                        if event.type == "job.deleted" and not task.live:
                            self._forget(task)
                            gone.keep_for_door(ORIGIN, str(task.job), None)
                        else:
                            self._noticed(task, event.type)
                    if gone:
                        # What can't be written now is removed by the next server.
                        with suppress(RunyardError):
                            await self._engine.writer.commit(gone)
                return
            except Expired as error:
                after = int(error.fields["oldest"]) - 1
            except Exception:
                # The database can't be read, or a defect of ours: tasks must be told about all the same.
                log.exception("the events of tasks can't be followed, and that is tried again")
                await asyncio.sleep(_REST)

    def _noticed(self, task: Task, event: str) -> None:
        key = self._key(task.user, task.uuid, task.phase)
        if event == "job.restarted" and not task.live and key not in self._live and key not in self._starting:
            # Somebody has brought its job back by another door: it lives, and ends, once more.
            task.stage, task.anew, task.wanted, task.wanted_at = Stage.ACCEPTED, self._messages.feed.last, None, 0.0
            task.running_at = task.ended_at = None
            self._live[key] = task
            self.on_begin(task)
        if task.live:
            self._advance(task)

    # Knowing ------------------------------------------------------------------------------------------------------

    def get(self, job: int) -> Task | None:
        return self._tasks.get(job)

    def of_app(self, app: str) -> Iterable[Task]:
        """The tasks whose messages are in the queues of an application, oldest first."""
        return self._apps.get(app, {}).values()

    def live(self) -> list[Task]:
        return list(self._live.values())

    def all(self) -> Iterable[Task]:
        """Oldest first."""
        return self._tasks.values()

    def find(self, user: str, uuid: str, phase: str) -> Task | None:
        """The live task that a request means."""
        return self._live.get(self._key(user, uuid, phase))

    def _key(self, user: str, uuid: str, phase: str) -> tuple[str, ...]:
        return (user, uuid, phase) if self._settings.scope == "phase" else (user, uuid)

    def _remember(self, task: Task) -> None:
        self._tasks[task.job] = task
        self._apps.setdefault(task.app, {})[task.job] = task

    def _forget(self, task: Task) -> None:
        self._tasks.pop(task.job, None)
        of_app = self._apps.get(task.app, {})
        of_app.pop(task.job, None)
        if not of_app:
            self._apps.pop(task.app, None)
        key = self._key(task.user, task.uuid, task.phase)
        if self._live.get(key) is task:
            del self._live[key]

    async def _forget_old(self) -> None:
        """Ended tasks whose messages nobody gets any more, and those whose jobs are gone."""
        ended = [task for task in self._tasks.values() if not task.live]
        before = self._engine.clock() - self._settings.queue_expiry
        known = await asyncio.to_thread(self._engine.store.states, [task.job for task in ended]) if ended else {}
        surplus = len(ended) - MOST_ENDED
        batch = Batch()
        for place, task in enumerate(ended):
            if place < surplus or task.job not in known or (task.ended_at or 0.0) < before:
                self._forget(task)
                batch.keep_for_door(ORIGIN, str(task.job), None)
        if batch:
            await self._engine.writer.commit(batch)

    def _environment(self, record: JobRecord, run: RunKey) -> dict[str, str]:
        """The variables of a task's run (spec 3.5)."""
        task = self._tasks.get(record.id)
        if task is None:
            return {}
        token = task.token if isinstance(task.token, str) else msgspec.json.encode(task.token).decode()
        return {
            "K12AI_APPID": task.app,
            "K12AI_TOKEN": token.replace("\0", ""),
            "K12AI_OP": task.op,
            "K12AI_USER": task.user,
            "K12AI_UUID": task.uuid,
            "K12AI_SERVICE": task.service,
            "K12AI_JOB_ID": str(record.id),
        }

    # Beginning ----------------------------------------------------------------------------------------------------

    async def begin(self, ask: Ask, framework: Framework, owner: str, permit: Permit) -> None:
        """Starts or resumes a task. What is wrong with its parameters is told as a message.

        Raises Refusal; also what `permit` raises, Unavailable and StorageFull.
        """
        key = self._key(ask.user, ask.uuid, ask.op.phase)
        if key in self._live or key in self._starting:
            raise Refusal(Code.ALREADY_RUNNING)
        most = self._settings.max_tasks
        # One that has just been submitted is in both.
        if most and len(self._live.keys() | self._starting) >= most:
            raise Refusal(Code.TOO_MANY, f"{most} tasks are at work ([doors.k12ai] max_tasks): try again later")
        if str(ask.op) == "train.start" and not isinstance(ask.params, dict):
            raise Refusal(Code.BAD_PARAMETERS, "service_params must be an object")
        self._starting.add(key)
        # Once begun it goes through, even if whoever asked has gone: a job of which no task is known would never start.
        await asyncio.shield(asyncio.ensure_future(self._begin_or_tell(ask, framework, owner, permit, key)))

    async def _begin_or_tell(
        self, ask: Ask, framework: Framework, owner: str, permit: Permit, key: tuple[str, ...]
    ) -> None:
        try:
            await self._begin(ask, framework, owner, permit, key)
        except Problem as problem:
            await self.tell_problem(ask, owner, problem)
        except OSError as error:
            text = f"the files of {ask.user}/{ask.uuid} can't be written: {error.strerror or error}"
            await self.tell_problem(ask, owner, Problem(Code.START_FAILED, text))
        finally:
            self._starting.discard(key)

    async def _begin(self, ask: Ask, framework: Framework, owner: str, permit: Permit, key: tuple[str, ...]) -> None:
        spec = await asyncio.to_thread(prepare, framework, ask, self.root, self._settings)
        spec = await permit(spec)
        if spec.user is not None:
            await asyncio.to_thread(give_to, self.root / ask.user / ask.uuid, spec.user)
        made: list[Task] = []

        def keep(batch: Batch, outcome: JobDoc | RunyardError) -> None:
            if isinstance(outcome, JobDoc):
                task = self._new(ask, framework, owner, int(outcome.id))
                self._remember(task)
                self._live[key] = task
                made.append(task)
                self._save(batch, task)

        try:
            outcome = await self._service.submit(
                [spec], lambda outcomes: outcomes[0], origin=ORIGIN, owner=owner, kind=KIND, keep=keep
            )
        except BaseException:
            for task in made:
                self._forget(task)
            raise
        if isinstance(outcome, Forbidden):
            raise outcome
        if isinstance(outcome, RunyardError):
            raise Problem(Code.START_FAILED, outcome.detail)
        self.on_begin(made[0])
        self._advance(made[0])

    def _new(self, ask: Ask, framework: Framework, owner: str, job: int) -> Task:
        return Task(
            job=job,
            owner=owner,
            op=str(ask.op),
            user=ask.user,
            uuid=ask.uuid,
            service=framework.name,
            app=ask.app,
            token=ask.token,
            callback=ask.callback,
            begun=self._engine.clock(),
            says_running=framework.service.says_running or bool(framework.service.agent),
            since=self._messages.feed.last,
        )

    def _save(self, batch: Batch, task: Task) -> None:
        batch.keep_for_door(ORIGIN, str(task.job), msgspec.json.encode(task))

    # Ending -------------------------------------------------------------------------------------------------------

    async def end(self, task: Task, wish: str) -> None:
        """Stops, pauses or robs a live task; its message follows when it is gone. The first wish counts."""
        before = task.wanted, task.wanted_at
        if task.wanted is None:
            task.wanted, task.wanted_at = wish, self._engine.clock()
        try:
            await self._engine.ask(Cancel(job=task.job), lambda batch: self._save(batch, task))
        except (NotFound, Conflict):
            # It has ended at this very moment, of itself.
            task.wanted, task.wanted_at = before
            self._advance(task)
        except BaseException:
            task.wanted, task.wanted_at = before
            raise

    # Telling ------------------------------------------------------------------------------------------------------

    def _advance(self, task: Task) -> None:
        """Something has happened to the task: tells what there is to tell, one thing after the other."""
        if task.job in self._telling:
            self._again.add(task.job)
            return
        telling = asyncio.create_task(self._tell(task), name=f"k12ai task {task.job}")
        self._telling[task.job] = telling
        self._messages.hold(task.job)
        telling.add_done_callback(lambda _: self._told(task))

    def _told(self, task: Task) -> None:
        del self._telling[task.job]
        self._messages.release(task.job)
        if task.job in self._again:
            self._again.discard(task.job)
            if task.live and not self._engine.closing:
                self._advance(task)

    async def _tell(self, task: Task) -> None:
        pause = 0.5
        while not self._engine.closing:
            try:
                await self._tell_all(task)
                return
            except RunyardError as error:
                # The store can't write: the end must be told all the same.
                log.warning("task %s: what happens can't be told yet: %s", task.job, error.detail)
            except Exception:
                log.exception("task %s: what happens can't be told, and is tried again", task.job)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30.0)

    async def _tell_all(self, task: Task) -> None:
        if not task.live:
            # What has failed came after its end was told.
            return
        if task.stage is Stage.ACCEPTED:
            await self._say(task, Stage.STARTING, told(task, Code.STARTING))
        record = await self._service.look_up(str(task.job))
        if record is not None and record.hold and record.state not in ENDED:
            try:
                await self._service.amend(record, None, False)
            except Conflict:
                # It was cancelled before it began.
                record = await self._service.look_up(str(task.job))
        if task.stage is Stage.STARTING and record is not None and record.started_at is not None:
            task.running_at = record.started_at
            said = [] if task.says_running else [told(task, Code.RUNNING)]
            await self._say(task, Stage.RUNNING, *said)
        if record is None or record.state in ENDED:
            while not await self._engine.ended(task.job, PATIENCE):
                if self._engine.closing:
                    return
            await self._collector.drained(task.job, PATIENCE)
            record = self._engine.store.job(task.job)
            if record is None or record.state in ENDED:
                await self._tell_end(task, record)

    async def _tell_end(self, task: Task, record: JobRecord | None) -> None:
        if record is None:
            end = Ending(Code.STOPPED, "stopped")
        else:
            facts = await asyncio.to_thread(self._facts, record)
            end = await asyncio.to_thread(self._hooked, task, ending(task, facts, await self._claim(task)))
        task.ended_at = self._engine.clock() if record is None or record.ended_at is None else record.ended_at
        more: dict[str, Any] = dict(end.more)
        if end.code == Code.FINISHED and task.running_at is not None:
            more.setdefault("uptime", int(max(0.0, task.ended_at - task.running_at)))
        last = [told(task, end.code, end.word, **more)]
        if task.phase == RUNCODE and self._settings.finish_after_error and end.code > Code.KEY_MISSING:
            last.append(told(task, Code.FINISHED))
        self._messages.settle(task.job)
        await self._say(task, Stage.ENDED, *last)
        key = self._key(task.user, task.uuid, task.phase)
        if self._live.get(key) is task:
            del self._live[key]
        if len(self._tasks) > MOST_ENDED + len(self._live) + 1000:
            await self._forget_old()

    async def _say(self, task: Task, stage: Stage, *messages: tuple[str, dict[str, Any]]) -> None:
        """Tells it, and that it was told, in one transaction."""
        at = self._engine.clock()
        before = task.stage, task.code, task.last

        def keep(batch: Batch, appended: Appended) -> None:
            task.stage, task.last = stage, appended.last
            if messages:
                task.code = messages[0][1]["code"]
            elif stage is Stage.RUNNING:
                # The program says so itself.
                task.code = Code.RUNNING
            self._save(batch, task)

        try:
            await self._messages.append(
                [NewMessage(task.job, kind, body, at, "server") for kind, body in messages], keep
            )
        except BaseException:
            task.stage, task.code, task.last = before
            raise

    async def _claim(self, task: Task) -> Claim | None:
        """What the program itself has said of its end, first."""
        after: int = max(task.since, task.anew)
        while True:
            try:
                page, upto = await self._messages.page(task.job, after, 1000, (ERROR, STATUS))
            except Expired as error:
                after = int(error.fields["oldest"]) - 1
                continue
            for message in page:
                if (claim := claim_of(message, task.vision)) is not None:
                    return claim
            if upto <= after or not page:
                return None
            after = upto

    def _facts(self, record: JobRecord) -> End:
        """Blocks."""
        replica = record.replicas[0]
        started = record.started_at is not None
        bad = record.state in ENDED and record.exit_code != 0 and started
        return End(
            state=record.state,
            started=started,
            exit_code=record.exit_code,
            signal=record.signal,
            reason=replica.reason or record.reason,
            log=self._last_lines(RunKey(record.id, 0, replica.attempt)) if bad and replica.attempt else [],
        )

    def _last_lines(self, run: RunKey) -> list[str]:
        lines: list[str] = []
        for stream in (Stream.OUT, Stream.ERR):
            start = max(0, self._engine.output.size(run, stream) - LAST_BYTES)
            text = self._engine.output.read(run, stream, start, LAST_BYTES).decode("utf-8", "replace")
            lines += text.splitlines()[-LAST_LINES:]
        return [line[:1000] for line in lines[-LAST_LINES:]]

    def _hooked(self, task: Task, end: Ending) -> Ending:
        """The ending in the words of the framework's own hooks. Blocks."""
        framework = self.frameworks.get(task.service)
        detail = end.more.get("detail") or {}
        if framework is None or not framework.hooks or "exc_type" not in detail:
            return end
        try:
            code = framework.call("map_error", detail["exc_type"], detail["exc_text"])
        except Problem:
            return end
        return end if code is None else msgspec.structs.replace(end, code=read_code(code))


async def _nobody(ask: Ask, owner: str, problem: Problem) -> None:
    log.warning("the task %s of %s/%s can't begin: %s", ask.op, ask.user, ask.uuid, problem.text)
