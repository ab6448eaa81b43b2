"""Nodes: what there is, what is free of it, and how the machine is doing."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from runyard.api.context import AnyRequest, context_of
from runyard.telemetry.gpu import Gpu
from runyard.telemetry.host import Disk, HostSample


class Units(msgspec.Struct):
    """Cores or GPUs, by their indices."""

    total: list[int]
    free: list[int]


class Amount(msgspec.Struct):
    """Bytes."""

    total: int
    free: int


class NodeHost(HostSample, frozen=True, kw_only=True):
    """The machine's own figures, whoever uses it."""

    disks: list[Disk] = []
    gpus: list[Gpu] = []
    missing: dict[str, str] = {}
    """By part: why there are no figures of it."""


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
    host: NodeHost | None
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
    telemetry = context.telemetry
    sampled, disks, gpus = await asyncio.gather(telemetry.host.ask(), telemetry.disks.ask(), telemetry.gpus.ask())
    host = None
    if sampled is not None:
        missing = {key: why for key, why in telemetry.reasons.items() if key in ("disks", "gpus")}
        host = NodeHost(**msgspec.structs.asdict(sampled[0]), disks=disks, gpus=gpus.gpus, missing=missing)
    items = [
        NodeDoc(
            name=node.name,
            executor=node.executor,
            state="up" if up else "down",
            cores=Units(node.cores, cores),
            gpus=Units(node.gpus, gpus_free),
            memory=Amount(node.memory, free.memory),
            runs=engine.reactor.scheduler.pool.runs(node.name),
            host=host if node.executor == "local" else None,
        )
        for node, up, free, cores, gpus_free in engine.reactor.scheduler.pool.nodes
    ]
    return Response(msgspec.json.encode(NodeList(items)), media_type="application/json")


NODE_ROUTES = [list_nodes]
