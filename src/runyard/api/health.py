"""Routes at the root: liveness, readiness, version, metrics, the API's description."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get

import runyard
from runyard.api.context import AnyRequest, context_of


def _plain(body: dict[str, Any], status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


@get("/livez", summary="Is the server alive?")
async def live(request: AnyRequest) -> Response[bytes]:
    """Answers while the event loop turns."""
    return _plain({"status": "ok"})


@get("/readyz", summary="Can the server take and run jobs?")
async def ready(request: AnyRequest) -> Response[bytes]:
    """200 when the store can write and an agent is there; 503 with what is missing else."""
    engine = context_of(request).service.engine
    checks = {
        "store": "ok" if engine.trouble is None else engine.trouble.detail,
        "nodes": "ok" if engine.reactor.scheduler.pool.any_up() else "no agent can be reached",
        "server": "stopping" if engine.closing else "ok",
    }
    fine = all(value == "ok" for value in checks.values())
    return _plain({"status": "ok" if fine else "unavailable", "checks": checks}, 200 if fine else 503)


@get("/version", summary="The server's version")
async def version(request: AnyRequest) -> Response[bytes]:
    return _plain({"version": runyard.__version__, "api": "v1"})


@get("/metrics", summary="Figures for Prometheus")
async def metrics(request: AnyRequest) -> Response[bytes]:
    """In Prometheus's text format."""
    engine = context_of(request).service.engine
    pool = engine.reactor.scheduler.pool
    nodes = [(node.name, up, pool.runs(node.name)) for node, up, *_ in pool.nodes]
    body = engine.metrics.render(engine.store.counts, len(engine.reactor.jobs), nodes)
    return Response(body, media_type=engine.metrics.content_type)


HEALTH_ROUTES = [live, ready, version, metrics]
