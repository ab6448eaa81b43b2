"""Nodes: what there is, and what is free of it."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from runyard.api.context import AnyRequest, context_of
from runyard.telemetry.host import HostSample


class Units(msgspec.Struct):
    """Cores or GPUs, by their indices."""

    total: list[int]
    free: list[int]


class Amount(msgspec.Struct):
    """Bytes."""

    total: int
    free: int


class NodeDoc(msgspec.Struct, kw_only=True):
    name: str
    executor: str
    state: str
    """`up` or `down`."""
    cores: Units
    gpus: Units
    memory: Amount
    """As reserved by jobs, not as used."""
    runs: int
    host: HostSample | None
    """The host's own figures, of the node on which the server runs."""


class NodeList(msgspec.Struct):
    items: list[NodeDoc]


@get(
    "/nodes",
    responses={200: ResponseSpec(NodeList, description="All nodes.", generate_examples=False)},
    summary="List nodes",
)
async def list_nodes(request: AnyRequest) -> Response[bytes]:
    """The nodes with what is free for reservation."""
    context = context_of(request)
    engine = context.service.engine
    items = [
        NodeDoc(
            name=node.name,
            executor=node.executor,
            state="up" if up else "down",
            cores=Units(node.cores, cores),
            gpus=Units(node.gpus, gpus),
            memory=Amount(node.memory, free.memory),
            runs=engine.reactor.scheduler.pool.runs(node.name),
            host=context.host.sample() if node.executor == "local" else None,
        )
        for node, up, free, cores, gpus in engine.reactor.scheduler.pool.nodes
    ]
    return Response(msgspec.json.encode(NodeList(items)), media_type="application/json")


NODE_ROUTES = [list_nodes]
