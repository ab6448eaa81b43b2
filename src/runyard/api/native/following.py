"""What reading events and reading messages have in common: cursors, long polls, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Annotated, TypeVar

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream as StreamResponse

from runyard.api.access import caller_of
from runyard.api.context import AnyRequest, context_of
from runyard.api.native.jobs import NDJSON
from runyard.api.problem import refusal
from runyard.model.check import refuse
from runyard.model.event import Event
from runyard.model.message import Message

SSE = "text/event-stream"
#: Seconds of silence after which a stream says that it is still there.
BEAT = 15.0
MAX_WAIT = 60.0

Wait = Annotated[float, QueryParameter(ge=0, le=MAX_WAIT, description="Seconds to wait for the first event.")]
LastId = Annotated[str | None, HeaderParameter(name="Last-Event-ID")]
Accept = Annotated[str, HeaderParameter(name="Accept")]

T = TypeVar("T", Event, Message)


def responses(page: type[msgspec.Struct]) -> dict[int, ResponseSpec]:
    """For the description of the API: what readers get, where `page` is one page."""
    return {
        200: ResponseSpec(
            page,
            description=f"A page; or a stream, with `Accept: {NDJSON}` or `Accept: {SSE}`.",
            generate_examples=False,
        ),
        400: refusal("The request is refused."),
        404: refusal("There is no such job."),
        410: refusal("The cursor is older than what is kept."),
    }


def read_cursor(text: str | None, last: int, of: str) -> int | None:
    """The cursor that a reader gives: a `seq`, `latest`, or None. Raises InvalidInput."""
    if text is None:
        return None
    if text == "latest":
        return last
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise refuse("after", text, f"must be the `seq` of {of}, or `latest`")
    return int(text)


def streamed(request: AnyRequest, accept: str, pieces: AsyncIterator[bytes]) -> StreamResponse:
    """Raises TooMany."""
    opened = context_of(request).streams.open(caller_of(request), pieces)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamResponse(opened, media_type=SSE if SSE in accept else NDJSON, headers=headers)


async def seen(
    batches: AsyncIterator[Collection[T]], see: Callable[[Collection[T]], Awaitable[list[T]]]
) -> AsyncIterator[Collection[T]]:
    """What the caller may see. An empty batch is a sign of life; one that becomes empty is none."""
    async for batch in batches:
        found = await see(batch) if batch else batch
        if found or not batch:
            yield found


async def poll(
    page: Callable[[int | None], Awaitable[tuple[list[T], int]]],
    cursor: int | None,
    limit: int,
    wait: float,
    last: Callable[[], int],
    changed: Callable[[float], Awaitable[bool]],
) -> tuple[list[T], int]:
    """Up to `limit` of what `page` gives behind a cursor, and the cursor behind what was looked at; if there is
    nothing, waits up to `wait` seconds for it. `last` and `changed` are the feed's."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        newest = last()
        found, following = await page(cursor)
        if len(found) > limit:
            found, following = found[:limit], found[limit - 1].seq
        if not found and following < newest:
            cursor = following
            continue
        left = deadline - loop.time()
        if found or left <= 0 or not await changed(left):
            return found, following
        cursor = following
