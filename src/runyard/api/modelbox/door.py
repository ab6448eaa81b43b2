"""The routes of the ModelBox door (spec/modelbox.md, 1). Answers have its shapes and headers, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import msgspec
from litestar import Response, Router, route
from litestar.exceptions import HTTPException

from runyard.api.access import DOOR as CALLER_IS_ASKED
from runyard.api.access import caller_of, permitted
from runyard.api.context import AnyRequest, Context
from runyard.api.modelbox.acl import Acl
from runyard.api.modelbox.files import keep_oneshot, read_folders
from runyard.api.modelbox.refusal import Code, Refusal, refusal_of
from runyard.api.modelbox.registry import DOOR, Entry, Registry
from runyard.api.modelbox.request import Document, read_create, read_graph
from runyard.api.modelbox.status import Status
from runyard.api.problem import refusal_headers
from runyard.auth.caller import Caller
from runyard.core.inputs import Cancel, Tick
from runyard.core.record import JobRecord
from runyard.flowfiles import FlowFile, Known, plan
from runyard.model.check import check_flow
from runyard.model.errors import Conflict, InvalidInput, NotFound, RunyardError
from runyard.model.flow import DIGEST_LABEL, FILE_LABEL, Flow, Format
from runyard.model.job import JobDoc, JobSpec
from runyard.model.state import State
from runyard.service.flows import failure_of
from runyard.settings import Modelbox
from runyard.store.batch import Batch

log = logging.getLogger(__name__)

PATH = "/v1/modelbox/job"
#: On every answer (spec/modelbox.md, 1.7).
SAFE_HEADERS = {
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Content-Security-Policy": (
        "default-src 'self'  data: 'unsafe-inline' 'unsafe-eval' console-static.huaweicloud.com res.hc-cdn.com;"
        "object-src 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
}
#: Seconds beyond its job's grace that a deletion waits for the processes to be gone.
DELETE_PATIENCE = 30.0

_METHODS: list[Any] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]


class ModelboxDoor:
    """One for each server."""

    def __init__(self, context: Context, settings: Modelbox) -> None:
        self._context = context
        self._engine = context.service.engine
        self._settings = settings
        self._acl = Acl(settings.allow)
        self._flow_path = os.path.abspath(settings.flow_path) if settings.flow_path else ""
        self._registry = Registry(self._engine, context.flows)
        #: Ids that are being taken in, and those that are being deleted.
        self._creating: set[str] = set()
        self._deleting: dict[str, asyncio.Future[None]] = {}

    def router(self) -> Router:
        @route(
            [PATH, PATH + "/{rest:path}"], http_method=_METHODS, include_in_schema=False, name=DOOR, opt=CALLER_IS_ASKED
        )
        async def job(request: AnyRequest) -> Response[bytes]:
            return await self._answer(request)

        return Router(path="/", route_handlers=[job])

    async def _answer(self, request: AnyRequest) -> Response[bytes]:
        peer = request.scope["client"]
        if not self._acl.allows(peer[0] if peer is not None else None):
            return Response(b"Access Denied", status_code=403, media_type="text/plain", headers=SAFE_HEADERS)
        headers = SAFE_HEADERS
        try:
            status, body = await self._act(request)
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else _refusal(request, error)
            status, body = refusal.status, refusal.body
            if isinstance(error, RunyardError):
                headers = headers | refusal_headers(error)
        return Response(body, status_code=status, media_type="application/json", headers=headers)

    async def _act(self, request: AnyRequest) -> tuple[int, bytes]:
        caller = caller_of(request)
        parts = request.scope["path"].removeprefix(PATH).strip("/").split("/")
        if request.method in ("PUT", "POST"):
            await self._create(request, caller)
            return 201, b""
        if request.method == "DELETE":
            await self._delete(caller, parts[-1])
            return 204, b""
        if request.method != "GET":
            return 404, b""
        if parts == ["list", "all"]:
            jobs = [shown.document for shown in self._registry.listing() if caller.may_see(shown.owner)]
            return 200, msgspec.json.encode({"job_list": jobs})
        if len(parts) > 1:
            raise Refusal(Code.COMMAND, status=500)
        shown = self._registry.find(parts[0])
        if shown is None:
            raise Refusal(Code.NO_JOB, status=404)
        caller.must_see(shown.owner)
        return 200, msgspec.json.encode(shown.document)

    # Creating -----------------------------------------------------------------------------------------------------

    async def _create(self, request: AnyRequest, caller: Caller) -> None:
        caller.must_submit()
        create = read_create(await request.body())
        while (deletion := self._deleting.get(create.id)) is not None:
            await asyncio.wait([deletion])
        if create.id in self._creating or self._registry.find(create.id) is not None:
            raise Refusal(Code.EXISTS)
        document = read_graph(create)
        self._creating.add(create.id)
        try:
            entry = Entry(create.id, caller.name, self._engine.clock())
            await self._keep_oneshot(entry, document)
            await self._submit(entry, document, request=request)
        finally:
            self._creating.discard(create.id)
        self._judge(await self._context.flows.settled(entry.job, self._settings.create_timeout))

    async def _keep_oneshot(self, entry: Entry, document: Document) -> None:
        if not self._flow_path or os.path.isfile(self._flow_path):
            return
        try:
            await asyncio.to_thread(keep_oneshot, self._flow_path, entry.id, document)
        except (OSError, ValueError, TypeError) as error:
            await self._fail(entry, f"save graph file failed, {error}")

    async def _submit(
        self,
        entry: Entry,
        document: Document,
        *,
        labels: dict[str, str] | None = None,
        cwd: str | None = None,
        request: AnyRequest | None = None,
    ) -> None:
        """Makes the entry a job. Raises Refusal; then the entry stays as a failed one, with the reason.

        Raises RunyardError if whoever made the request may not do this; then there is no entry.
        """
        flow = Flow(graph=document.text, format=document.format)
        if not document.text.strip():
            await self._fail(entry, "Flow not initialized.")
        try:
            check_flow(flow)
        except InvalidInput as error:
            await self._fail(entry, error.detail)
        # The rule for names is this door's own.
        specs: list[JobSpec | RunyardError] = [JobSpec(flow=flow, name=entry.id, labels=labels or {}, cwd=cwd)]
        if request is not None:
            specs = await permitted(request, specs)
            if isinstance(specs[0], RunyardError):
                raise specs[0]

        def keep(batch: Batch, outcome: JobDoc | RunyardError) -> None:
            if isinstance(outcome, JobDoc):
                entry.job = int(outcome.id)
                self._registry.save(entry, batch)

        outcome = await self._context.service.submit(
            specs, lambda outcomes: outcomes[0], origin=DOOR, owner=entry.owner, keep=keep
        )
        if isinstance(outcome, RunyardError):
            await self._fail(entry, outcome.detail)
        self._registry.add(entry)

    async def _fail(self, entry: Entry, error: str) -> None:
        """Keeps the entry as one that failed before it was a job. Always raises Refusal."""
        refusal = Refusal(Code.BAD_GRAPH, error)
        entry.error = error
        await self._engine.ask(Tick(), lambda batch: self._registry.save(entry, batch))
        self._registry.add(entry)
        raise refusal

    def _judge(self, record: JobRecord | None) -> None:
        """Answers for a job that was created, has failed, or does not run yet."""
        if record is None or record.state is State.CANCELLED:
            raise Refusal(Code.BAD_GRAPH, "the job was deleted while it was being created")
        status = self._registry.status(record)
        if status is Status.FAILED:
            raise Refusal(Code.BAD_GRAPH, failure_of(self._engine.output, record))
        if status is Status.CREATING:
            waited = f"{self._settings.create_timeout:g} s"
            raise Refusal(
                Code.BAD_GRAPH, f"Operation timed out, not all units are open after {waited}; ask for its status"
            )
        if status is Status.DELETING:
            raise Refusal(Code.BAD_GRAPH, "the job is being deleted")

    # Deleting -----------------------------------------------------------------------------------------------------

    async def _delete(self, caller: Caller, id: str) -> None:
        """Ends the job and returns when its process is gone."""
        if (deletion := self._deleting.get(id)) is not None:
            await asyncio.wait([deletion])
            raise Refusal(Code.NO_JOB, status=404)
        shown = self._registry.find(id)
        if shown is None:
            raise Refusal(Code.NO_JOB, status=404)
        caller.must_change(shown.owner)
        self._deleting[id] = asyncio.get_running_loop().create_future()
        try:
            await self._end(shown.entry, shown.record)
        finally:
            self._deleting.pop(id).set_result(None)

    async def _end(self, entry: Entry | None, record: JobRecord | None) -> None:
        """Cancels the job, forgets the entry, and waits until the processes are gone. Raises Refusal if they stay."""

        def finish(batch: Batch) -> None:
            if entry is not None:
                self._registry.unsave(entry, batch)

        live = record is not None and record.id in self._engine.reactor.jobs
        try:
            await self._engine.ask(Cancel(job=record.id) if record is not None and live else Tick(), finish)
        except (NotFound, Conflict):
            # It has ended in this very moment.
            await self._engine.ask(Tick(), finish)
        if record is not None and not await self._engine.gone(record.id, record.spec.stop.grace + DELETE_PATIENCE):
            raise Refusal(Code.INTERNAL, f"the processes of job {record.id} do not end", 500)
        if entry is not None:
            self._registry.remove(entry)

    # Files --------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Makes the graphs of `flow_path` and `application_root` jobs; one that can't be is logged, and the next taken.

        A job whose file is as it was goes on if it still runs; one whose file is gone or has changed is ended.
        """
        await self._forget(self._registry.forgotten())
        entries = {entry.path: entry for entry in self._registry if entry.path}
        if not entries and not self._flow_path and not self._settings.application_root:
            return
        files, problems = await asyncio.to_thread(read_folders, self._flow_path, self._settings.application_root)
        for path, problem in problems:
            log.warning("the graph %s is not loaded: %s", path, problem)
        jobs = [Known(entry.path, entry.digest, entry.job in self._engine.reactor.jobs) for entry in entries.values()]
        # A file that another one of its name stands for has been read.
        names = {file.name for file in files}
        unread = [path for path, _ in problems if os.path.basename(path) not in names]
        todo = plan(files, jobs, revive=True, unread=unread)
        await asyncio.gather(*[self._unload_file(entries[path]) for path in todo.end])
        await asyncio.gather(*[self._load_file(file) for file in todo.start])

    async def _forget(self, entries: list[Entry]) -> None:
        def finish(batch: Batch) -> None:
            for entry in entries:
                self._registry.unsave(entry, batch)

        if entries:
            await self._engine.ask(Tick(), finish)
        for entry in entries:
            self._registry.remove(entry)

    async def _unload_file(self, entry: Entry) -> None:
        try:
            await self._end(entry, self._engine.record(entry.job) if entry.job else None)
        except Refusal as refusal:
            log.warning("the job %s, whose file has changed, does not end: %s", entry.id, refusal.detail)

    async def _load_file(self, file: FlowFile) -> None:
        if self._registry.find(file.name) is not None:
            log.warning("the graph %s is not loaded: a job %r exists already", file.path, file.name)
            return
        entry = Entry(file.name, self._context.owner, self._engine.clock(), path=file.path, digest=file.digest)
        labels = {FILE_LABEL: file.path, DIGEST_LABEL: file.digest}
        document = Document(file.text, Format(file.format))
        try:
            if file.error:
                await self._fail(entry, file.error)
            await self._submit(entry, document, labels=labels, cwd=os.path.dirname(file.path))
        except Refusal as refusal:
            log.warning("the graph %s can't be loaded: %s", file.path, refusal.detail)


def _refusal(request: AnyRequest, error: Exception) -> Refusal:
    """What others have raised, in this door's words."""
    if isinstance(error, RunyardError):
        return refusal_of(error)
    if isinstance(error, HTTPException):
        return Refusal(Code.COMMAND, error.detail, error.status_code)
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Refusal(Code.INTERNAL, "the server has a defect here; its log has the details", 500)


def shape(error: RunyardError) -> tuple[bytes, dict[str, str]]:
    """Body and headers of what the gate refuses before the door sees it."""
    return refusal_of(error).body, {"Content-Type": "application/json", **SAFE_HEADERS}
