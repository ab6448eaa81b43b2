"""Routes at the root: liveness, readiness, version, metrics, the API's description."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Response, get, route
from litestar.openapi.datastructures import ResponseSpec

import runyard
from runyard.api.access import PUBLIC, caller_of
from runyard.api.context import AnyRequest, context_of
from runyard.telemetry.exposition import Exposition, busiest


class Health(msgspec.Struct, omit_defaults=True):
    """`status` is `ok` or `unavailable`; `checks` says of each part whether it is `ok`, or what is wrong with it."""

    status: str
    checks: dict[str, str] = {}


class Version(msgspec.Struct):
    version: str
    api: str


def _plain(body: Health | Version, status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


def _says(kind: Any, text: str, **media: Any) -> ResponseSpec:
    return ResponseSpec(kind, description=text, generate_examples=False, **media)


@route(
    "/livez",
    http_method=["GET", "HEAD"],
    opt=PUBLIC,
    responses={200: _says(Health, "It is.")},
    summary="Is the server alive?",
)
async def live(request: AnyRequest) -> Response[bytes]:
    """Answers while the event loop turns."""
    return _plain(Health("ok"))


@route(
    "/readyz",
    http_method=["GET", "HEAD"],
    opt=PUBLIC,
    responses={200: _says(Health, "It can."), 503: _says(Health, "It can't now.")},
    summary="Can the server take and run jobs?",
)
async def ready(request: AnyRequest) -> Response[bytes]:
    """200 when the store can write and an agent is there; 503 with what is missing else."""
    engine = context_of(request).service.engine
    checks = {
        "store": "ok" if engine.trouble is None else engine.trouble.detail,
        "nodes": "ok" if engine.reactor.scheduler.pool.any_up("local") else "no agent can be reached",
        "server": "stopping" if engine.closing else "ok",
    }
    fine = all(value == "ok" for value in checks.values())
    return _plain(Health("ok" if fine else "unavailable", checks), 200 if fine else 503)


@get(
    "/version",
    opt=PUBLIC,
    responses={200: _says(Version, "Of the server, and of its API.")},
    summary="The server's version",
)
async def version(request: AnyRequest) -> Response[bytes]:
    return _plain(Version(runyard.__version__, "v1"))


@get(
    "/metrics",
    responses={200: _says(str, "The exposition.", media_type="text/plain")},
    summary="Figures for Prometheus",
)
async def metrics(request: AnyRequest) -> Response[bytes]:
    """In Prometheus's text format."""
    engine = context_of(request).service.engine
    pool = engine.reactor.scheduler.pool
    nodes = [(node.name, up, pool.runs(node.name)) for node, up, *_ in pool.nodes]
    body = engine.metrics.render(engine.store.counts, len(engine.reactor.jobs), nodes)
    return Response(body + await _telemetry(request), media_type=engine.metrics.content_type)


async def _telemetry(request: AnyRequest) -> bytes:
    """What host, GPUs and jobs use; of the jobs those that the caller may see."""
    context, caller = context_of(request), caller_of(request)
    telemetry = context.telemetry
    host, disks, gpus, sample = await asyncio.gather(
        telemetry.host.ask(), telemetry.disks.ask(), telemetry.gpus.ask(), telemetry.runs.ask()
    )
    live = context.service.engine.reactor.jobs
    jobs = {job: point for job, point in sample.jobs.items() if job in live and caller.may_see(live[job].owner)}
    shown = busiest(jobs, telemetry.settings.metrics_jobs)
    names = {job: live[job].spec.name or "" for job in shown}
    missing = {section.name: section.reason is not None for section in (telemetry.host, telemetry.gpus, telemetry.runs)}
    return Exposition(None if host is None else host[0], disks, gpus.gpus, shown, names, missing).render()


HEALTH_ROUTES = [live, ready, version, metrics]
