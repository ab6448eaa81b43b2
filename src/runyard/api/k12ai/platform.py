"""The platform: `/k12ai/platform/stats` and `control` (spec/k12ai.md, 3).

The figures are served from the last samples; who comes first after a while waits for new ones. A part that can't be had
is empty, and `missing` says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from runyard.api.context import Context
from runyard.api.k12ai import stats
from runyard.api.k12ai.stats import Query, Scope, object_of, read_query
from runyard.auth.caller import Caller, Role
from runyard.core.record import JobRecord
from runyard.model.errors import Conflict, NotFound, RunyardError, Unavailable
from runyard.service.targets import local_runs
from runyard.settings import K12ai
from runyard.telemetry.container import NAME, OP, USER, UUID, Container
from runyard.telemetry.gpu import GpuSample
from runyard.telemetry.runs import Target
from runyard.training.codes import Code, text_of
from runyard.training.envelope import PLATFORM, VERSION, Sender
from runyard.training.reply import Refusal, reply
from runyard.training.request import need

log = logging.getLogger(__name__)

#: Puts a message of a kind into its queue: from whom, body, later body, whose (`Queues.tell`).
Tell = Callable[[str, Sender, Any, Any, str], Awaitable[object]]

#: Seconds that `container.stop` waits, beyond the job's own grace, for its end.
PATIENCE = 5.0
_SERVICE = "k12ai"
_encode = msgspec.json.encode


class Platform:
    """All methods are for the event loop's thread."""

    def __init__(self, context: Context, settings: K12ai, tell: Tell) -> None:
        self._context = context
        self._engine = context.service.engine
        self._telemetry = context.telemetry
        self._settings = settings
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()
        #: The containers of everybody as JSON, and what they were made from.
        self._prepared: tuple[tuple[object, ...], bytes] = ((), b"")
        context.at_start.append(self._start)
        context.at_end.append(self._end)

    async def _start(self) -> None:
        if self._settings.stats_interval:
            self._begin(self._tell_always())

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stats(self, raw: dict[str, Any], caller: Caller) -> bytes:
        """The body of an answer. Raises Refusal."""
        query = read_query(raw, self._settings.platform_app_id)
        if query.later:
            self._begin(self._answer_later(query, caller))
            return _encode(reply(form=self._settings.message_form))
        figures = self._worded(await self.figures(query.sections, query.scope, caller))
        if self._settings.stats_always_push:
            await self._send(query, figures, caller.name)
        now = time.time()
        # The document's message with the later releases' answer around it: no key of the two collides (3.1).
        answer = reply(data=figures or None, form=self._settings.message_form) | {
            "version": VERSION,
            "type": "info",
            "tag": PLATFORM,
            "op": "stats",
            "timestamp": int(now * 1000),
            "datetime": time.strftime(self._settings.datetime_format, time.localtime(now)),
            "info": figures,
        }
        return _encode(answer)

    async def control(self, raw: dict[str, Any], caller: Caller) -> bytes:
        """The body of an answer. Raises Refusal; Forbidden for what is not the caller's."""
        need(raw, "op")
        op = raw["op"]
        if op not in ("container.stop", "oss.remove"):
            known = "container.stop, oss.remove"
            raise Refusal(Code.NOT_ALLOWED, f"op {stats.shown(op)} is not supported by control; there are: {known}")
        found = object_of(raw, "service_params", "params")
        if found is None:
            raise Refusal(Code.KEY_MISSING, "the request lacks 'service_params'", ("KeyError", "'service_params'"))
        key, params = found
        if op == "oss.remove":
            raise Refusal(Code.OBJECT_STORE, "there is no object store on this server")
        if "id" not in params:
            raise Refusal(Code.KEY_MISSING, f"{key} lacks 'id'", ("KeyError", "'id'"))
        ref = params["id"]
        if not isinstance(ref, str) or not 1 <= len(ref) <= 255:
            raise Refusal(Code.NOT_ALLOWED, f"{key}.id {stats.shown(ref)} must be a text of 1 to 255 characters")
        later = stats.flag(raw, "async") or stats.flag(raw, "isasync")
        record = await self._job(ref, caller)
        if record is not None:
            await self._cancel(record, caller, later)
        else:
            await self._stop_container(ref, caller, later)
        return _encode(reply(form=self._settings.message_form))

    async def _tell_always(self) -> None:
        """The message of 2020 that schedulers watch, every `stats_interval` seconds."""
        query = Query(
            sections=frozenset({"cpus", "gpus"}),
            late=True,
            later=True,
            scope=Scope(),
            user="admin",
            uuid="admin",
            app=self._settings.platform_app_id,
        )
        while True:
            await asyncio.sleep(self._settings.stats_interval)
            try:
                await self._answer_later(query, None)
            except RunyardError as error:
                log.warning("the platform's figures could not be sent: %s", error)

    # Figures ------------------------------------------------------------------------------------------------------

    async def figures(self, sections: frozenset[str], scope: Scope, caller: Caller | None) -> dict[str, Any]:
        """The sections that were asked for; those that can't be had are empty. `caller` is None for the server's own
        messages."""
        telemetry = self._telemetry
        with_loads = not sections.isdisjoint({"containers", "services"})
        wanted = {
            "host": telemetry.host if "cpus" in sections or with_loads else None,
            "gpus": telemetry.gpus if "gpus" in sections or with_loads else None,
            "disks": telemetry.disks if "disks" in sections else None,
            "runs": telemetry.runs if with_loads else None,
            "containers": telemetry.containers if with_loads else None,
        }
        asked = [section for section in wanted.values() if section is not None]
        await asyncio.gather(*(section.ask() for section in asked))
        found: dict[str, Any] = {}
        host = telemetry.host.peek()
        if "cpus" in sections and host is not None:
            found |= stats.cpu_fields(*host)
        gpus = telemetry.gpus.peek()
        if "gpus" in sections:
            found["gpus"] = [stats.gpu_fields(gpu) for gpu in gpus.gpus]
        if "disks" in sections:
            found["disks"] = [stats.disk_fields(disk) for disk in telemetry.disks.peek()]
        if "containers" in sections:
            found["containers"] = msgspec.Raw(self._containers(scope, caller))
        if "services" in sections:
            found["services"] = self._services(scope, caller, gpus)
        missing = {section.name: section.reason for section in asked if section.reason is not None}
        if missing and found:
            found["missing"] = missing
        return found

    def _worded(self, figures: dict[str, Any]) -> dict[str, Any]:
        return stats.only_gpu(figures) if self._settings.single_gpu_as_object else figures

    def _containers(self, scope: Scope, caller: Caller | None) -> bytes:
        """As JSON. What everybody gets is made once for all who ask between two samples."""
        everything = scope == Scope() and (caller is None or _sees_all(caller))
        telemetry = self._telemetry
        made_from = (
            self._engine.reactor.seq,
            telemetry.host.at,
            telemetry.gpus.at,
            telemetry.runs.at,
            telemetry.containers.at,
        )
        if everything and self._prepared[0] == made_from:
            return self._prepared[1]
        gpus = telemetry.gpus.peek()
        loads = [
            stats.container_fields(container, gpus) for container in self._seen_containers(scope, caller)
        ] + self._job_loads(scope, caller)
        body = _encode(loads)
        if everything:
            self._prepared = (made_from, body)
        return body

    def _job_loads(self, scope: Scope, caller: Caller | None) -> list[Any]:
        host = self._telemetry.host.peek()
        memory = host[1].total if host is not None else 0
        jobs = self._telemetry.runs.peek().jobs
        return [stats.job_fields(record, jobs.get(record.id), memory) for record, _ in self._seen_jobs(scope, caller)]

    def _services(self, scope: Scope, caller: Caller | None, gpus: GpuSample) -> list[Any]:
        """Tasks that run, for clients that look for theirs again."""
        jobs = self._telemetry.runs.peek().jobs
        found = [stats.container_service(container, gpus) for container in self._seen_containers(scope, caller)]
        for record, targets in self._seen_jobs(scope, caller):
            if OP in record.spec.labels:
                point = jobs.get(record.id)
                found.append(stats.job_service(record, targets[0].pid, 0 if point is None else point.gpu_memory))
        return found

    def _seen_jobs(self, scope: Scope, caller: Caller | None) -> list[tuple[JobRecord, list[Target]]]:
        """The jobs with a process on this host, oldest first."""
        jobs: dict[int, list[Target]] = {}
        for target in local_runs(self._engine):
            jobs.setdefault(target.run.job, []).append(target)
        live = self._engine.reactor.jobs
        return [
            (live[job], targets)
            for job, targets in sorted(jobs.items())
            if (caller is None or caller.may_see(live[job].owner)) and scope.takes(stats.job_labels(live[job]))
        ]

    def _seen_containers(self, scope: Scope, caller: Caller | None) -> list[Container]:
        return [
            container
            for container in self._telemetry.containers.peek()
            if scope.takes(container.labels) and (caller is None or caller.may_see(container.labels.get(USER, "")))
        ]

    # Messages -----------------------------------------------------------------------------------------------------

    async def _answer_later(self, query: Query, caller: Caller | None) -> None:
        figures = self._worded(await self.figures(query.sections, query.scope, caller))
        await self._send(query, figures, "" if caller is None else caller.name)

    async def _send(self, query: Query, figures: dict[str, Any], owner: str) -> None:
        """The document's message, or that of 2020 for who asks in its words."""
        kind, op = ("resource", "query") if query.late else ("info", "stats")
        sender = Sender(
            op=op,
            user=query.user,
            uuid=query.uuid,
            service=_SERVICE,
            app=query.app,
            token=query.token,
            tag=PLATFORM,
        )
        data = reply(data=figures or None)
        del data["descr"]
        await self._tell(kind, sender, figures, data, owner)

    def _begin(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except RunyardError as error:
                log.warning("the platform's answer could not be sent: %s", error)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Control ------------------------------------------------------------------------------------------------------

    async def _job(self, ref: str, caller: Caller) -> JobRecord | None:
        """The job that stands among the containers under that id or a unique beginning of it, or has that name."""
        if len(ref) <= 12 and set(ref) <= set("0123456789abcdef"):
            shown = {target.run.job for target in local_runs(self._engine)}
            meant = [job for job in shown if stats.job_container(job).startswith(ref)]
            if len(meant) == 1:
                return self._engine.reactor.jobs[meant[0]]
        return await self._context.service.look_up(ref, caller.name)

    async def _cancel(self, record: JobRecord, caller: Caller, later: bool) -> None:
        caller.must_change(record.owner)
        try:
            await self._context.service.cancel(record)
        except Conflict:
            # It exists, and does not run: that is what was wanted.
            return
        if not later:
            await self._engine.ended(record.id, record.spec.stop.grace + PATIENCE)

    async def _stop_container(self, ref: str, caller: Caller, later: bool) -> None:
        docker = self._telemetry.docker
        try:
            container = await docker.find(ref)
        except NotFound:
            raise Refusal(Code.NOT_RUNNING, f"container:{ref}") from None
        caller.must_change(container.labels.get(USER, ""))
        if later:
            self._begin(self._end_container(container))
            return
        try:
            await self._end_container(container)
        except NotFound:
            raise Refusal(Code.NOT_RUNNING, f"container:{ref}") from None
        except Unavailable as error:
            raise Refusal(Code.START_FAILED, error.detail) from None

    async def _end_container(self, container: Container) -> None:
        await self._telemetry.docker.stop(container.id)
        if not container.pid:
            return
        english, chinese = text_of(Code.STOPPED)
        labels = container.labels
        sender = Sender(
            op=labels.get(OP, ""),
            user=labels.get(USER, ""),
            uuid=labels.get(UUID, ""),
            service=labels.get(NAME, ""),
            app=self._settings.app_id,
        )
        code = int(Code.STOPPED)
        body = {"code": code, "descr": english, "message": "stopped"}
        data = {"code": code, "message": {"en": english, "cn": chinese}, "expand": {"status": "stopped"}}
        await self._tell("error", sender, body, data, sender.user)


def _sees_all(caller: Caller) -> bool:
    return caller.role is not Role.USER and caller.may_see("")
