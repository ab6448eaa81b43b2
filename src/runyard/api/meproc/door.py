"""The routes of the Meproc door. Answers have Meproc's envelope, whatever happens."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

import msgspec
from litestar import Response, Router, route
from litestar.exceptions import HTTPException

from runyard.api.access import DOOR as PROVED_HERE
from runyard.api.access import caller_of, owner_filter, permitted
from runyard.api.context import AnyRequest, Context
from runyard.api.meproc.registry import DOOR, Entry, Registry
from runyard.api.meproc.task import (
    CONF,
    EXISTS,
    NAME_REQUIRED,
    NOT_EXISTS,
    START_FAILED,
    Refusal,
    Task,
    job_of,
    read_task,
)
from runyard.api.problem import refusal_headers
from runyard.core.inputs import Amend, Cancel, Tick
from runyard.core.record import Intent, JobRecord
from runyard.model.errors import Forbidden, NotFound, RunyardError
from runyard.model.ids import RunKey
from runyard.model.job import JobDoc
from runyard.settings import Meproc
from runyard.store.batch import Batch
from runyard.store.output import Stream

log = logging.getLogger(__name__)

#: Bytes of output shown of each replica, unless `tail` asks for another amount.
OUTPUT_CAP = 1024 * 1024
#: Bytes of one answer at most: with many replicas each gets its share.
ANSWER_CAP = 64 * 1024 * 1024
#: Runs that are looked at for the output of one day.
MAX_RUNS = 1000

_METHODS: list[Any] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]


class MeprocDoor:
    """One for each server."""

    def __init__(self, context: Context, settings: Meproc) -> None:
        self._context = context
        self._engine = context.service.engine
        self._settings = settings
        self._script_dir = settings.script_dir or os.getcwd()
        self._registry = Registry(self._engine)
        #: Names of tasks that are being taken in.
        self._starting: set[str] = set()
        self._engine.environments[DOOR] = environment

    def router(self) -> Router:
        @route(
            ["/proc", "/Proc", "/proc/index", "/Proc/index"],
            http_method=_METHODS,
            include_in_schema=False,
            opt=PROVED_HERE,
            name="meproc",
        )
        async def proc(request: AnyRequest) -> Response[bytes]:
            return await self._answer(request, self._proc)

        @route(
            ["/proc/output", "/Proc/output"],
            http_method=_METHODS,
            include_in_schema=False,
            opt=PROVED_HERE,
            name="meproc-output",
        )
        async def output(request: AnyRequest) -> Response[bytes]:
            return await self._answer(request, self._output)

        @route(
            ["/proc/{rest:path}", "/Proc/{rest:path}"], http_method=_METHODS, include_in_schema=False, opt=PROVED_HERE
        )
        async def unknown(request: AnyRequest) -> Response[bytes]:
            return await self._answer(request, _unknown)

        return Router(path="/", route_handlers=[proc, output, unknown])

    async def _answer(self, request: AnyRequest, act: Callable[[AnyRequest], Awaitable[bytes]]) -> Response[bytes]:
        status = 200
        headers: dict[str, str] = {}
        try:
            caller_of(request)
            body = await act(request)
        except Refusal as refusal:
            status, body = refusal.code, envelope(refusal.code, refusal.msg)
        except RunyardError as error:
            status, body, headers = error.status, envelope(error.status, error.detail), refusal_headers(error)
        except HTTPException as error:
            status, body = error.status_code, envelope(error.status_code, error.detail)
        return Response(body, status_code=status, media_type="application/json", headers=headers)

    async def _proc(self, request: AnyRequest) -> bytes:
        if request.method not in ("GET", "POST", "PUT", "DELETE"):
            raise Refusal(405, "Method not allowed")
        name = self._name(request)
        if request.method == "GET":
            return self._registry.listing(name, owner_filter(caller_of(request), None))
        body = await request.body() if request.method != "DELETE" else b""
        if request.method == "DELETE":
            await self._delete(request, _needed(name))
        elif request.method == "PUT":
            if name is None and body.strip():
                log.warning("a client starts tasks by PUT, as before Meproc of November 2023: it should POST")
                await self._start(request, body)
            else:
                await self._restart(request, _needed(name))
        elif not body.strip() and name is not None:
            log.warning("a client restarts tasks by POST, as before Meproc of November 2023: it should PUT")
            await self._restart(request, name)
        else:
            await self._start(request, body)
        return envelope(200, "OK")

    def _name(self, request: AnyRequest) -> str | None:
        """The argument `name`: percent-decoded; or raw, if only so a task is called."""
        raw = arguments(request).get("name")
        if not raw:
            return None
        decoded = unquote_plus(raw)
        return raw if decoded not in self._registry and raw in self._registry else decoded

    # Starting -----------------------------------------------------------------------------------------------------

    async def _start(self, request: AnyRequest, body: bytes) -> None:
        caller_of(request).must_submit()
        task = read_task(body, self._settings)
        roster = self._engine.reactor.roster
        earlier = [roster.jobs[job] for job in roster.names.get(task.name, ())]
        # What is being stopped has given its name back; its successor waits until it is gone.
        taken = [record for record in earlier if record.intent is not Intent.CANCEL]
        if task.name in self._registry or task.name in self._starting or taken:
            raise Refusal(403, EXISTS)
        if task.cron is not None and len(task.cron.split()) > 5:
            log.warning("task %r: only the first five fields of cron %r count", task.name, task.cron)
        await self._submit(request, task, [record.id for record in earlier])

    async def _submit(self, request: AnyRequest, task: Task, predecessors: list[int]) -> None:
        """Makes the task a job, which starts when the predecessors have ended. Raises Refusal."""
        self._check_deadlock(task)
        idle = self._registry.closure(task)
        spec = job_of(task, self._settings, self._script_dir, shutil.which("melang"), idle, predecessors)
        owner = caller_of(request).name
        self._starting.add(task.name)
        try:
            outcome = await self._context.service.submit(
                await permitted(request, [spec]),
                lambda outcomes: outcomes[0],
                origin=DOOR,
                owner=owner,
                keep=lambda batch, outcome: self._keep(batch, task, outcome, owner),
            )
            if isinstance(outcome, Forbidden):
                raise outcome
            if isinstance(outcome, RunyardError):
                raise Refusal(400, f"{START_FAILED}: {outcome.detail}")
            self._registry.add(Entry(task, int(outcome.id), owner))
        finally:
            self._starting.discard(task.name)
        if task.deps:
            self._tell_dependants(task.name)

    def _tell_dependants(self, name: str, without: str | None = None) -> None:
        """What other tasks wait for may be more now, or less: they depend on the task `name`."""
        for entry in self._registry.dependants(name):
            if entry.job in self._engine.reactor.jobs:
                self._engine.put(Amend(job=entry.job, idle=self._registry.closure(entry.task, without)))

    def _keep(self, batch: Batch, task: Task, outcome: JobDoc | RunyardError, owner: str) -> None:
        if isinstance(outcome, JobDoc):
            self._registry.save(Entry(task, int(outcome.id), owner), batch)

    def _check_deadlock(self, task: Task) -> None:
        circle = self._registry.deadlock(task)
        if circle is not None:
            raise Refusal(400, f"Deadlock: the tasks would wait for each other: {' -> '.join(circle)}")

    async def _restart(self, request: AnyRequest, name: str) -> None:
        entry, record = self._find(name)
        caller_of(request).must_change(_owner(entry, record))
        if entry is None:
            assert record is not None
            await self._context.service.restart(record)
        elif record is None:
            if name in self._starting:
                raise Refusal(403, EXISTS)
            await self._submit(request, entry.task, [])
        else:
            if name in entry.task.deps and record.active:
                raise Refusal(400, f"Deadlock: the tasks would wait for each other: {name} -> {name}")
            self._check_deadlock(entry.task)
            await self._context.service.restart(record, self._registry.closure(entry.task))

    async def _delete(self, request: AnyRequest, name: str) -> None:
        entry, record = self._find(name)
        caller_of(request).must_change(_owner(entry, record))

        def finish(batch: Batch) -> None:
            if entry is not None:
                self._registry.unsave(name, batch)

        if entry is not None and entry.task.deps:
            self._tell_dependants(name, without=name)
        live = record is not None and record.id in self._engine.reactor.jobs
        try:
            await self._engine.ask(Cancel(job=record.id) if record is not None and live else Tick(), finish)
        except NotFound:
            # It has ended in this very moment.
            await self._engine.ask(Tick(), finish)
        if entry is not None:
            self._registry.remove(entry)

    def _find(self, name: str) -> tuple[Entry | None, JobRecord | None]:
        """The task and its job, one of which may be missing: a job of another door has no task here, and the job of a
        task that ended long ago may have been removed. Raises Refusal if there is neither."""
        entry = self._registry.get(name)
        if entry is not None:
            return entry, self._engine.find(entry.job)
        roster = self._engine.reactor.roster
        record = roster.live(name) if name in roster.names else None
        if record is None or record.intent is Intent.CANCEL:
            raise Refusal(403, NOT_EXISTS)
        return None, record

    # Output -------------------------------------------------------------------------------------------------------

    async def _output(self, request: AnyRequest) -> bytes:
        name = _needed(self._name(request))
        entry, record = self._find(name)
        caller_of(request).must_see(_owner(entry, record))
        given = arguments(request)
        tail = given.get("tail", str(OUTPUT_CAP))
        if not (tail.isascii() and tail.isdigit()) or len(tail) > 9:
            raise Refusal(400, "tail must be a number of bytes")
        try:
            day = datetime.strptime(given["date"], "%Y-%m-%d").date() if "date" in given else datetime.now(UTC).date()
        except ValueError:
            raise Refusal(400, "date must be written YYYY-MM-DD") from None
        count = len(record.replicas) if record is not None else entry.task.replica if entry is not None else 0
        wanted: dict[int, list[RunKey | bytes]] = {index: [] for index in range(count)}
        runs = (await self._context.service.runs(record, MAX_RUNS, None))[0] if record is not None else []
        for run in runs:
            ended = run.ended_at.date() if run.ended_at is not None else None
            begun = run.started_at.date() if run.started_at is not None else ended
            if record is None or (begun is not None and not (begun <= day and (ended is None or ended >= day))):
                continue
            if run.started_at is None and run.reason is not None:
                wanted[run.replica].append(f"{run.reason}\n".encode())
            else:
                wanted[run.replica].append(RunKey(record.id, run.replica, run.attempt))
        share = ANSWER_CAP // max(count, 1)
        texts = await asyncio.to_thread(self._collect, wanted, min(int(tail), share))
        return envelope(200, "OK", {f"{name}:{index}": text for index, text in texts.items()})

    def _collect(self, wanted: dict[int, list[RunKey | bytes]], most: int) -> dict[int, str]:
        """For each replica the end of its runs' output, oldest first, in base64. `wanted` has the newest first; of a
        run that could not be started, the reason."""
        files = self._engine.output
        texts: dict[int, str] = {}
        for index, runs in wanted.items():
            pieces: list[bytes] = []
            left = most
            for run in runs:
                if left <= 0:
                    break
                if isinstance(run, bytes):
                    piece = run[-left:]
                else:
                    start = max(files.start(run, Stream.OUT), files.size(run, Stream.OUT) - left)
                    piece = files.read(run, Stream.OUT, start, left)
                left -= len(piece)
                pieces.append(piece)
            texts[index] = base64.b64encode(b"".join(reversed(pieces))).decode()
        return texts


def _owner(entry: Entry | None, record: JobRecord | None) -> str:
    return record.owner if record is not None else entry.owner if entry is not None else ""


async def _unknown(_: AnyRequest) -> bytes:
    raise Refusal(404, "Not Found")


def arguments(request: AnyRequest) -> dict[str, str]:
    """The query's arguments as they came. A pair without exactly one `=` is dropped; the last duplicate wins."""
    pairs = request.scope["query_string"].decode("latin-1").split("&")
    return {key: value for pair in pairs if pair.count("=") == 1 for key, value in [pair.split("=")]}


def envelope(code: int, msg: str, data: Any = msgspec.UNSET) -> bytes:
    body: dict[str, Any] = {"code": code, "msg": msg}
    if data is not msgspec.UNSET:
        body["data"] = data
    return msgspec.json.encode(body)


def _needed(name: str | None) -> str:
    if name is None:
        raise Refusal(400, NAME_REQUIRED)
    return name


def environment(record: JobRecord, run: RunKey) -> dict[str, str]:
    """The variables of one replica's run (spec/meproc.md, 14 and 20)."""
    alias = f"{record.spec.name}:{run.replica}"
    given = {"MEPROC_ALIAS": alias, "MEPROC_INDEX": str(run.replica)}
    conf = record.spec.env.get(CONF)
    if conf is not None:
        data = {"conf": msgspec.Raw(conf.encode()), "alias": alias}
        given["EVAL_DATA"] = msgspec.json.encode(data).decode()
    return given
