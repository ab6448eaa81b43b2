"""Logs: the output of runs, by offset, from the end, followed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery, HeaderParameter, QueryParameter
from litestar.response import Stream as StreamResponse

from runyard.api.access import caller_of, find_seen
from runyard.api.context import AnyRequest, context_of
from runyard.api.native.jobs import Ref
from runyard.api.problem import MEDIA_TYPE as PROBLEM
from runyard.api.problem import Problem, refusal
from runyard.store.output import Stream

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_STREAMS = {"stdout": Stream.OUT, "stderr": Stream.ERR}
#: Litestar adds the character set.
MEDIA_TYPE = "text/plain"


def _output(text: str) -> ResponseSpec:
    return ResponseSpec(bytes, description=text, media_type=MEDIA_TYPE, generate_examples=False)


@get(
    "/jobs/{ref:str}/logs",
    responses={
        200: _output("The bytes as the program wrote them."),
        206: _output("The part that `Range` asks for."),
        400: refusal("The request is refused."),
        404: refusal("There is no such job or run."),
        416: refusal("The range begins behind the end."),
    },
    summary="Read a run's output",
)
async def read_logs(
    request: AnyRequest,
    ref: Ref,
    stream: FromQuery[Literal["stdout", "stderr"]] = "stdout",
    replica: Annotated[int, QueryParameter(ge=0)] = 0,
    attempt: Annotated[int | None, QueryParameter(ge=1, description="The last one if not given.")] = None,
    offset: Annotated[int | None, QueryParameter(ge=0, description="First byte.")] = None,
    limit: Annotated[int | None, QueryParameter(ge=0, description="Bytes at most.")] = None,
    tail: Annotated[int | None, QueryParameter(ge=0, description="Begin this many lines before the end.")] = None,
    follow: Annotated[bool, QueryParameter(description="Until the run has ended; without `attempt`, the job.")] = False,
    search: Annotated[
        str | None, QueryParameter(min_length=1, max_length=1000, description="Only the lines that contain this text.")
    ] = None,
    byte_range: Annotated[str | None, HeaderParameter(name="Range")] = None,
) -> Response[bytes] | StreamResponse:
    """Output as raw bytes. `X-Log-Offset` says where the first byte stands in the file, `X-Log-Size` how long it is."""
    context, caller = context_of(request), caller_of(request)
    record = await find_seen(request, ref)
    place = context.output.place(record, _STREAMS[stream], replica, attempt)
    size, first = context.output.size(place), context.output.start(place)
    if offset is not None:
        place.offset = offset
    elif tail is not None:
        place.offset = await asyncio.to_thread(context.output.tail, place, tail)
    headers = {"X-Log-Size": str(size), "X-Log-Attempt": str(place.run.attempt), "Accept-Ranges": "bytes"}
    if search is not None:
        found = context.output.search(place, search.encode())
        return StreamResponse(context.streams.open(caller, found), media_type=MEDIA_TYPE, headers=headers)
    if follow:
        place.offset = max(place.offset, first)
        headers["X-Log-Offset"] = str(place.offset)
        pieces = _without_beats(context.output.follow(place, onward=attempt is None))
        return StreamResponse(context.streams.open(caller, pieces), media_type=MEDIA_TYPE, headers=headers)
    status = 200
    upto = size if limit is None else min(size, place.offset + limit)
    asked = None if byte_range is None else _range(byte_range, size)
    if asked is not None:
        place.offset, upto = asked
        if place.offset >= size:
            return _behind_the_end(size)
        status = 206
        place.offset = max(place.offset, min(first, upto - 1))
        headers["Content-Range"] = f"bytes {place.offset}-{upto - 1}/{size}"
    place.offset = max(place.offset, first) if place.offset < size else place.offset
    headers["X-Log-Offset"] = str(place.offset)
    length = max(0, upto - place.offset)
    if length <= _SMALL:
        body = b"".join([piece async for piece in context.output.read(place, upto)])
        return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)
    headers["Content-Length"] = str(length)
    return StreamResponse(
        context.streams.open(caller, context.output.read(place, upto)),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


#: Bytes up to which an answer is made in one piece.
_SMALL = 256 * 1024


def _range(text: str, size: int) -> tuple[int, int] | None:
    """Offset and end that a `Range` asks for; None for one that RFC 9110 says to ignore."""
    asked = _RANGE.fullmatch(text.strip())
    if asked is None or asked.group() == "bytes=-":
        return None
    first, last = asked.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _behind_the_end(size: int) -> Response[bytes]:
    body = Problem(
        title="There is nothing in this range",
        status=416,
        detail=f"the output has {size} bytes so far; ask for bytes before that, or follow it",
        code="range_not_satisfiable",
    )
    headers = {"Content-Range": f"bytes */{size}"}
    return Response(msgspec.json.encode(body), status_code=416, media_type=PROBLEM, headers=headers)


async def _without_beats(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if piece:
            yield piece


LOG_ROUTES = [read_logs]
