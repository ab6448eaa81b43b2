"""The routes of the K12AI door (spec/k12ai.md, 1.1)."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from litestar import Response, Router, WebSocket, get, post, route, websocket
from litestar.response import Stream as StreamResponse

from runyard.api.access import DOOR as CALLER_IS_ASKED
from runyard.api.access import PUBLIC, caller_of, owner_filter, permitted
from runyard.api.context import AnyRequest, Context
from runyard.api.k12ai.asking import answered, caller_in, check_key, must_be, refused
from runyard.api.k12ai.catalog import Catalog
from runyard.api.k12ai.platform import Platform
from runyard.api.k12ai.receiving import Receiving
from runyard.api.k12ai.stats import Scope
from runyard.model.errors import RunyardError
from runyard.model.framework import Service
from runyard.model.job import JobSpec
from runyard.service.callbacks import Callbacks
from runyard.service.frameworks import Frameworks
from runyard.service.queues import Queues
from runyard.service.redislists import RedisLists
from runyard.service.tasks import Tasks
from runyard.settings import K12ai
from runyard.training.codes import Code
from runyard.training.operation import EVALUATE, PREDICT, TRAIN
from runyard.training.render import Manner
from runyard.training.reply import Refusal, reply
from runyard.training.request import read_ask, read_body
from runyard.training.task import Task

PATH = "/k12ai"
#: Tasks of one listing.
MAX_TASKS = 1000
_SERVERS_PORT = 8119
_PHASES = frozenset({TRAIN, EVALUATE, PREDICT})
_encode = msgspec.json.encode

Act = Callable[[AnyRequest], Awaitable[bytes]]


class K12aiDoor:
    """One for each server."""

    def __init__(self, context: Context, settings: K12ai, services: Mapping[str, Service], root: Path) -> None:
        """`root` is the folder of the projects."""
        self._context, self._settings = context, settings
        frameworks = Frameworks(services)
        self._catalog = Catalog(frameworks)
        clock = context.service.engine.clock
        self.tasks = Tasks(context.service, context.messages, context.collector, frameworks, settings, root)
        self.queues = Queues(self.tasks, context.messages, self._manner, settings.queue_expiry, clock)
        self.callbacks = Callbacks(self.queues, self.tasks, context.service.engine, settings)
        self._redis = RedisLists(self.queues, context.service.engine, settings)
        self._receiving = Receiving(context, self.queues, settings)
        self.platform = Platform(context, settings, self.queues.tell)
        context.at_start.append(self._start)
        context.at_end.append(self._end)

    async def _start(self) -> None:
        await self.queues.start()
        await self.tasks.start()
        await self.callbacks.start()
        await self._redis.start()

    async def _end(self) -> None:
        self.tasks.close()
        await self.callbacks.close()
        await self._redis.close()

    def _manner(self) -> Manner:
        port = self._context.url.rpartition(":")[2]
        server = f"{socket.gethostname()}:{port or _SERVERS_PORT}"
        return Manner(server, self._settings.datetime_format, self._settings.emit_status)

    # Routes -----------------------------------------------------------------------------------------------------------

    def router(self) -> Router:
        asked: dict[str, Any] = {"include_in_schema": False, "opt": CALLER_IS_ASKED}

        @post(f"{PATH}/framework/{{task:str}}", status_code=200, name="k12ai-framework", **asked)
        async def framework(request: AnyRequest, task: str) -> Response[Any]:
            acts: dict[str, Act] = {"execute": self._execute, "schema": self._schema, "memstat": self._memstat}
            if task in _PHASES:
                return await self._answer(request, lambda request: self._execute(request, task))
            return await self._answer(request, acts.get(task, _unknown))

        @post(f"{PATH}/platform/{{task:str}}", status_code=200, name="k12ai-platform", **asked)
        async def platform(request: AnyRequest, task: str) -> Response[Any]:
            acts: dict[str, Act] = {"stats": self._stats, "control": self._control}
            return await self._answer(request, acts.get(task, _unknown))

        @get(f"{PATH}/private/popmsg", **asked)
        async def popmsg(request: AnyRequest) -> Response[Any]:
            return await self._answer(request, self._receiving.pop)

        @route(f"{PATH}/private/pushmsg", http_method=["GET", "POST"], status_code=200, **asked)
        async def pushmsg(request: AnyRequest) -> Response[str]:
            return await self._receiving.push(request, request.query_params.get("key", "unknown"))

        @route(f"{PATH}/private/message", http_method=["GET", "POST"], status_code=200, **asked)
        async def message(request: AnyRequest) -> Response[str]:
            query = request.query_params
            return await self._receiving.push(request, query.get("key") or f"k12ai.{query.get('type', 'unknown')}")

        @get(f"{PATH}/private/meminfo", **asked)
        async def meminfo(request: AnyRequest) -> Response[Any]:
            return await self._answer(request, self._meminfo)

        @get(f"{PATH}/private/dead", **asked)
        async def dead(request: AnyRequest) -> Response[Any]:
            return await self._answer(request, self._dead)

        @get(f"{PATH}/stream", **asked)
        async def stream(request: AnyRequest) -> Response[Any] | StreamResponse:
            return await self._receiving.stream(request)

        @get(f"{PATH}/jobs", **asked)
        async def jobs(request: AnyRequest) -> Response[Any]:
            return await self._answer(request, self._jobs)

        @get(f"{PATH}/services", **asked)
        async def services(request: AnyRequest) -> Response[Any]:
            return await self._answer(request, self._services)

        @get("/health", include_in_schema=False, opt=PUBLIC, media_type="text/plain")
        async def health() -> str:
            return "ok"

        @get("/status", include_in_schema=False, opt=PUBLIC, media_type="text/plain")
        async def status() -> str:
            return "Success"

        @websocket(f"{PATH}/ws", opt=CALLER_IS_ASKED)
        async def frames(socket: WebSocket[Any, Any, Any]) -> None:
            await self._receiving.socket(socket)

        handlers = [framework, platform, popmsg, pushmsg, message, meminfo, dead, stream, jobs, services]
        return Router(path="/", route_handlers=[*handlers, health, status, frames])

    async def _answer(self, request: AnyRequest, act: Act) -> Response[Any]:
        return await answered(request, act, self._settings.message_form)

    # Tasks ------------------------------------------------------------------------------------------------------------

    async def _execute(self, request: AnyRequest, phase: str | None = None) -> bytes:
        raw = read_body(await request.body())
        caller = await caller_in(request, raw)
        ask = read_ask(raw, phase, self._settings.app_id)
        must_be(caller, ask.user, self._accounts)
        framework = await self._catalog.get(ask.service)
        if ask.op.begins:
            caller.must_submit()
            await self.tasks.begin(ask, framework, caller.name, lambda spec: _permit(request, spec))
        else:
            task = self.tasks.find(ask.user, ask.uuid, ask.op.phase)
            if task is None:
                raise Refusal(Code.NOT_RUNNING)
            caller.must_change(task.owner)
            await self.tasks.end(task, ask.op.action)
        return _encode(reply(form=self._settings.message_form))

    @property
    def _accounts(self) -> bool:
        return self._context.auth is not None and self._context.auth.enabled

    async def _schema(self, request: AnyRequest) -> bytes:
        caller_of(request).must_read()
        code, data = await self._catalog.schema(await request.body())
        return _encode(reply(code, data, self._settings.message_form))

    async def _memstat(self, request: AnyRequest) -> bytes:
        raw = read_body(await request.body())
        caller = await caller_in(request, raw)
        caller.must_read()
        found = await self._catalog.memstat(raw)
        figures = await self.platform.figures(frozenset({"cpus", "gpus"}), Scope(), caller)
        gpus = figures.get("gpus", [])
        found["sys_cpu_memory_free_MB"] = figures.get("cpu_memory_free_MB", 0.0)
        found["sys_gpu_memory_free_MB"] = [gpu["gpu_memory_free_MB"] for gpu in gpus if isinstance(gpus, list)]
        return _encode(reply(data=found, form=self._settings.message_form))

    async def _jobs(self, request: AnyRequest) -> bytes:
        caller, query = caller_of(request), request.query_params
        owner = owner_filter(caller, None)
        user, uuid, live = query.get("user"), query.get("service_uuid"), query.get("live")
        found = [
            _shown(task)
            for task in reversed(list(self.tasks.all()))
            if owner in (None, task.owner)
            and user in (None, task.user)
            and uuid in (None, task.uuid)
            and (live is None or task.live == (live in ("1", "true")))
        ]
        return _encode(reply(data=found[:MAX_TASKS], form=self._settings.message_form))

    async def _services(self, request: AnyRequest) -> bytes:
        caller_of(request).must_read()
        return _encode(reply(data=await self._catalog.listing(), form=self._settings.message_form))

    async def _dead(self, request: AnyRequest) -> bytes:
        check_key(request, self._settings)
        caller_of(request).must_administrate("reads K12AI's dead letters")
        return _encode(reply(data=self.callbacks.dead(), form=self._settings.message_form))

    # The platform -----------------------------------------------------------------------------------------------------

    async def _stats(self, request: AnyRequest) -> bytes:
        raw = read_body(await request.body() or b"{}")
        caller = await caller_in(request, raw)
        caller.must_read()
        return await self.platform.stats(raw, caller)

    async def _control(self, request: AnyRequest) -> bytes:
        check_key(request, self._settings)
        raw = read_body(await request.body())
        caller = await caller_in(request, raw)
        caller.must_submit()
        return await self.platform.control(raw, caller)

    async def _meminfo(self, request: AnyRequest) -> bytes:
        caller = caller_of(request)
        caller.must_read()
        user = request.query_params.get("user")
        figures = await self.platform.figures(frozenset({"services"}), Scope(user or None), caller)
        return _encode({"services": figures.get("services", [])})


async def _unknown(request: AnyRequest) -> bytes:
    raise Refusal(Code.NOT_ALLOWED, f"there is nothing at {request.url.path[:200]}", status=404)


async def _permit(request: AnyRequest, spec: JobSpec) -> JobSpec:
    """The job as its submitter may submit it. Raises Forbidden."""
    [made] = await permitted(request, [spec])
    if isinstance(made, RunyardError):
        raise made
    return made


def _shown(task: Task) -> dict[str, Any]:
    return {
        "job": str(task.job),
        "op": task.op,
        "user": task.user,
        "service_uuid": task.uuid,
        "service_name": task.service,
        "appId": task.app,
        "code": task.code,
        "live": task.live,
        "begun": int(task.begun * 1000),
        "running": None if task.running_at is None else int(task.running_at * 1000),
        "ended": None if task.ended_at is None else int(task.ended_at * 1000),
    }


def shape(error: RunyardError) -> tuple[bytes, Mapping[str, str]]:
    """What the gate refuses, in this door's words."""
    _, body, headers = refused(error)
    return body, {"Content-Type": "application/json", **headers}
