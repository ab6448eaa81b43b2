"""What a job uses: now, and how it went."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter, QueryParameter

from runyard.api.access import find_seen
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, context_of
from runyard.api.problem import refusal
from runyard.core.record import JobRecord
from runyard.model.check import refuse
from runyard.model.ids import RunKey
from runyard.telemetry.history import UsageSeries
from runyard.telemetry.sampler import total


class RunUsage(msgspec.Struct, kw_only=True):
    """What one run that is up uses at present."""

    replica: int
    attempt: int
    cpu_percent: float
    """Of one core, so it may pass 100."""
    cpu_seconds: float
    memory: int
    """Bytes resident, of the whole process tree."""
    io_read: int
    """Bytes fetched from storage."""
    io_write: int
    processes: int
    gpu_percent: float
    gpu_memory: int
    """Bytes."""
    gpu_memory_percent: float
    """Share of the time in which device memory was read or written."""


class Totals(msgspec.Struct, kw_only=True):
    """Of the present or last run of each replica, as far as it is known."""

    cpu_seconds: float | None
    memory_peak: int | None
    """Bytes: the most that one of the runs has used, or that was seen of all together."""


class UsageDoc(msgspec.Struct, kw_only=True):
    job: str
    runs: list[RunUsage]
    """Those that are up on the server's host."""
    history: UsageSeries
    """Of all runs of the job together, oldest first."""
    total: Totals
    missing: str | None
    """Why there are no present figures."""


@get(
    "/jobs/{ref:str}/usage",
    responses={
        200: ResponseSpec(UsageDoc, description="What it uses.", generate_examples=False),
        400: refusal("The request is refused."),
        404: refusal("There is no such job."),
    },
    summary="What a job uses",
)
async def show_usage(
    request: AnyRequest,
    ref: Annotated[str, PathParameter(description="Decimal id, F58 id, or name.")],
    since: Annotated[float | None, QueryParameter(description="Unix seconds: only the history after that.")] = None,
) -> Response[bytes]:
    """CPU, memory, I/O and GPUs of the job's processes, at present and in the past. The history is bounded: it gets
    coarser as it gets longer. It is kept in memory, and so begins anew with the server."""
    if since is not None and not math.isfinite(since):
        raise refuse("since", since, "must be a number of seconds")
    record = await find_seen(request, ref)
    telemetry = context_of(request).telemetry
    figures = (await telemetry.runs.ask()).runs if record.active else {}
    gpus = telemetry.gpus.peek()
    runs = []
    for index, replica in enumerate(record.replicas):
        found = figures.get(RunKey(record.id, index, replica.attempt))
        if found is not None:
            point = msgspec.structs.asdict(total([found], gpus, 0.0))
            del point["at"]
            runs.append(RunUsage(replica=index, attempt=replica.attempt, **point))
    history = telemetry.history.series(record.id)
    began = min((replica.started_at or math.inf for replica in record.replicas), default=math.inf)
    seen = history.cpu_seconds[-1] if history.at and history.at[-1] >= began else 0.0
    totals = _totals(record, runs, seen, max(history.memory, default=None))
    if since is not None:
        history = telemetry.history.series(record.id, since)
    doc = UsageDoc(
        job=str(record.id),
        runs=runs,
        history=history,
        total=totals,
        missing=_missing(record, runs, telemetry.runs.reason),
    )
    return JsonAnswer(msgspec.json.encode(doc))


def _totals(record: JobRecord, runs: list[RunUsage], seen: float, peak: int | None) -> Totals:
    seconds = [replica.cpu_seconds for replica in record.replicas] + [run.cpu_seconds for run in runs]
    peaks = [replica.max_rss for replica in record.replicas] + [peak]
    known = [value for value in seconds if value is not None]
    # What nobody waited for is missing from what the kernel says at the end.
    used = max(sum(known), seen)
    return Totals(
        cpu_seconds=round(used, 3) if known or seen else None,
        memory_peak=max((value for value in peaks if value is not None), default=None),
    )


def _missing(record: JobRecord, runs: list[RunUsage], reason: str | None) -> str | None:
    if runs:
        return None
    if not record.active:
        return f"the job is {record.state}: it has no process now"
    return reason or "none of its processes is on the server's host, or none has been measured yet"


USAGE_ROUTES = [show_usage]
