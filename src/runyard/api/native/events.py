"""Events: a page, a long poll, NDJSON or server-sent events; all by the same cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Annotated, Any

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter
from litestar.response import Stream as StreamResponse

from runyard.api.access import caller_of, find_seen, visible
from runyard.api.context import AnyRequest, context_of
from runyard.api.native.following import BEAT, SSE, Accept, LastId, Wait, poll, read_cursor, responses, seen, streamed
from runyard.api.native.jobs import MAX_LIMIT, NDJSON, Limit, Ref, parse_states
from runyard.api.streams import joined
from runyard.model.check import refuse
from runyard.model.event import EVENT_TYPES, Event
from runyard.service.document import event_doc
from runyard.service.feed import Selection

_encoder = msgspec.json.Encoder()

After = Annotated[
    str | None,
    QueryParameter(description="Cursor: the `seq` of the last event seen, or `latest`. The oldest if absent."),
]
Types = Annotated[str | None, QueryParameter(name="type", description="Event types, separated by commas.")]
States = Annotated[str | None, QueryParameter(name="state", description="States, separated by commas.")]


class EventList(msgspec.Struct):
    """`next` is the cursor behind what was looked at: `after` of the next call."""

    items: list[dict[str, Any]]
    next: int


_RESPONSES = responses(EventList)


@get("/events", responses=_RESPONSES, summary="Read or follow events")
async def list_events(
    request: AnyRequest,
    after: After = None,
    job: Annotated[str | None, QueryParameter(description="Of this job only: id or name.")] = None,
    types: Types = None,
    states: States = None,
    limit: Limit = 100,
    wait: Wait = 0.0,
    last_event_id: LastId = None,
    accept: Accept = "*/*",
) -> Response[bytes] | StreamResponse:
    """Every event once, in order: go on from `next`, or from the last `id` of a stream."""
    number = None if job is None else (await find_seen(request, job)).id
    return await _respond(request, number, after, types, states, limit, wait, last_event_id, accept)


@get("/jobs/{ref:str}/events", responses=_RESPONSES, summary="Read or follow a job's events")
async def list_job_events(
    request: AnyRequest,
    ref: Ref,
    after: After = None,
    types: Types = None,
    states: States = None,
    limit: Limit = 100,
    wait: Wait = 0.0,
    last_event_id: LastId = None,
    accept: Accept = "*/*",
) -> Response[bytes] | StreamResponse:
    """The events of one job. A stream ends when the job has."""
    record = await find_seen(request, ref)
    return await _respond(request, record.id, after, types, states, limit, wait, last_event_id, accept, ends=True)


async def _respond(
    request: AnyRequest,
    job: int | None,
    after: str | None,
    types: str | None,
    states: str | None,
    limit: int,
    wait: float,
    last_event_id: str | None,
    accept: str,
    ends: bool = False,
) -> Response[bytes] | StreamResponse:
    engine = context_of(request).service.engine
    feed = engine.feed
    wanted = Selection(job, _types(types), parse_states(states))
    cursor = read_cursor(last_event_id if last_event_id is not None else after, feed.last, "an event")

    async def see(found: Collection[Event]) -> list[Event]:
        return await visible(request, found)

    def ended() -> bool:
        return ends and job is not None and engine.record(job) is None

    if SSE in accept or NDJSON in accept:
        # Read the first page now: a cursor that is too old is answered as a problem, not as an empty stream.
        await feed.page(cursor, 1, wanted)
        batches = seen(feed.follow(cursor, wanted, ended, BEAT), see)
        return streamed(request, accept, _sse(batches) if SSE in accept else _lines(batches))
    # Who sees all of them needs no more than these; of the others many may be dropped.
    at_once = limit if caller_of(request).is_admin else max(limit, MAX_LIMIT)

    async def page(after: int | None) -> tuple[list[Event], int]:
        found, following = await feed.page(after, at_once, wanted)
        return await see(found), following

    found, following = await poll(page, cursor, limit, wait, lambda: feed.last, feed.changed)
    body = EventList([event_doc(event) for event in found], following)
    return Response(_encoder.encode(body), media_type="application/json")


async def _sse(batches: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    # Said at once, so that a client knows that the stream stands.
    yield b": runyard\n\n"
    async for batch in batches:
        if not batch:
            yield b":\n\n"
        for piece in joined(
            b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), _encoder.encode(event_doc(event)))
            for event in batch
        ):
            yield piece


async def _lines(batches: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async for batch in batches:
        for piece in joined(_encoder.encode(event_doc(event)) + b"\n" for event in batch):
            yield piece


def _types(text: str | None) -> frozenset[str]:
    chosen = frozenset(word.strip() for word in text.split(",")) if text else frozenset[str]()
    unknown = chosen - set(EVENT_TYPES)
    if unknown:
        raise refuse("type", min(unknown), f"must be some of {', '.join(EVENT_TYPES)}, separated by commas")
    return chosen


EVENT_ROUTES = [list_events, list_job_events]
