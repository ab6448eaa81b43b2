"""Flows: check, submit, look into. As jobs they are under `/jobs` like any other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream as StreamResponse

from runyard.api.access import caller_of, find_seen, permitted
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, Context, context_of
from runyard.api.native.following import BEAT, SSE, Accept, streamed
from runyard.api.native.jobs import Ref, SpecBody, answered, replay, says
from runyard.api.problem import refusal
from runyard.core.record import JobRecord
from runyard.model.check import decode_spec, refuse
from runyard.model.errors import NotFound, RunyardError
from runyard.model.flow import FlowGraph, FlowStatus
from runyard.model.job import JobDoc
from runyard.model.state import State
from runyard.service.flowcheck import must_be_sound, read_graph
from runyard.service.flows import STATISTICS_INTERVAL, failure_of
from runyard.service.service import Answer
from runyard.store.batch import Batch

#: Seconds between two statistics of one stream, at least.
MIN_INTERVAL, MAX_INTERVAL = 0.2, 60.0

_encoder = msgspec.json.Encoder()
_REFUSED = refusal("The request is refused; `errors` has every fault of the graph.")
_MISSING = refusal("There is no such job, or it is no flow.")


@post(
    "/flows",
    operation_class=SpecBody,
    responses={
        200: says(FlowGraph, "With `check`: the graph, and what is wrong with it."),
        201: says(JobDoc, "The job is stored, durably."),
        400: _REFUSED,
        409: _REFUSED,
    },
    summary="Check and submit a flow",
)
async def submit_flow(
    request: AnyRequest,
    check: Annotated[bool, QueryParameter(description="Say what is wrong, and submit nothing.")] = False,
    idempotency_key: Annotated[str | None, HeaderParameter(name="Idempotency-Key", max_length=255)] = None,
) -> Response[bytes]:
    """Takes a job with a `flow`, if the graph is sound. (`POST /jobs` takes any, and an unsound one fails.)"""
    context, caller = context_of(request), caller_of(request)
    body = await request.body()
    spec = decode_spec(body)
    if spec.flow is None:
        raise refuse("flow", None, "is needed here")
    (allowed,) = await permitted(request, [spec])
    allowed = context.service.bounded(allowed)
    if isinstance(allowed, RunyardError):
        raise allowed
    if check:
        return JsonAnswer(_encoder.encode(await read_graph(spec.flow, spec.cwd)))
    await must_be_sound(spec.flow, spec.cwd)

    async def act(keep: Callable[[Batch, Answer], None]) -> Answer:
        def render(outcomes: list[JobDoc | RunyardError]) -> Answer:
            (outcome,) = outcomes
            if isinstance(outcome, RunyardError):
                raise outcome
            return Answer(201, _encoder.encode(outcome))

        return await context.service.submit([allowed], render, origin="native", owner=caller.name, keep=keep)

    return answered(await context.service.once(replay(idempotency_key, caller.name, b"flow", body), act))


@get(
    "/flows/{ref:str}/graph",
    responses={200: says(FlowGraph, "The graph."), 400: _REFUSED, 404: _MISSING},
    summary="Show a flow's graph",
)
async def show_graph(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """The nodes and edges, with what each unit is, and what is wrong with them."""
    record = await _flow(request, ref)
    assert record.spec.flow is not None
    return JsonAnswer(_encoder.encode(await read_graph(record.spec.flow, record.spec.cwd)))


@get(
    "/flows/{ref:str}/statistics",
    responses={
        200: says(FlowStatus, f"Now; or a stream, with `Accept: {SSE}`."),
        400: _REFUSED,
        404: _MISSING,
    },
    summary="Show a flow's statistics",
)
async def show_statistics(
    request: AnyRequest,
    ref: Ref,
    interval: Annotated[
        float,
        QueryParameter(ge=MIN_INTERVAL, le=MAX_INTERVAL, description="Seconds between two events of a stream."),
    ] = STATISTICS_INTERVAL,
    accept: Accept = "*/*",
) -> Response[bytes] | StreamResponse:
    """Where the flow stands, and the statistics of its present or last run. A stream has an event for each change, and
    ends when the job has."""
    context = context_of(request)
    record = await _flow(request, ref)
    if SSE not in accept:
        return JsonAnswer(_encoder.encode(_status(context, record)))
    return streamed(request, SSE, _sse(context, record, interval))


async def _flow(request: AnyRequest, ref: str) -> JobRecord:
    record = await find_seen(request, ref)
    if record.spec.flow is None:
        raise NotFound(f"job {record.id} is no flow, but a {record.kind}")
    return record


def _status(context: Context, record: JobRecord) -> FlowStatus:
    flows = context.flows
    state = flows.last_state(record)
    failed = record.state in (State.FAILED, State.TIMED_OUT) or state == "failed"
    return FlowStatus(
        job=str(record.id),
        name=record.spec.name,
        state=record.state,
        flow_state=state,
        error=failure_of(context.service.engine.output, record) if failed else "",
        statistics=flows.statistics(record),
    )


async def _sse(context: Context, record: JobRecord, interval: float) -> AsyncIterator[bytes]:
    # Said at once, so that a client knows that the stream stands.
    yield b": runyard\n\n"
    sent, silence = b"", 0.0
    async for present in context.flows.follow(record, interval):
        data: Any = _encoder.encode(_status(context, present))
        if data != sent:
            sent, silence = data, 0.0
            yield b"event: flow.statistics\ndata: %s\n\n" % data
            continue
        silence += interval
        if silence >= BEAT:
            silence = 0.0
            yield b":\n\n"


FLOW_ROUTES = [submit_flow, show_graph, show_statistics]
