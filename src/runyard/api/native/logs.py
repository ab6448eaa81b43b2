"""Logs: the output of runs, by offset, from the end, followed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Stream as StreamResponse

from runyard.api.context import AnyRequest, context_of
from runyard.api.problem import Problem
from runyard.store.output import Stream

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_STREAMS = {"stdout": Stream.OUT, "stderr": Stream.ERR}
MEDIA_TYPE = "text/plain; charset=utf-8"


@get(
    "/jobs/{ref:str}/logs",
    responses={
        200: ResponseSpec(bytes, description="The bytes as the program wrote them.", generate_examples=False),
        206: ResponseSpec(bytes, description="The part that `Range` asks for.", generate_examples=False),
        404: ResponseSpec(Problem, description="There is no such job or run.", generate_examples=False),
        416: ResponseSpec(bytes, description="The range begins behind the end.", generate_examples=False),
    },
    summary="Read a run's output",
)
async def read_logs(
    request: AnyRequest,
    ref: str,
    stream: Literal["stdout", "stderr"] = "stdout",
    replica: Annotated[int, Parameter(ge=0)] = 0,
    attempt: Annotated[int | None, Parameter(ge=1, description="The last one if not given.")] = None,
    offset: Annotated[int | None, Parameter(ge=0, description="First byte.")] = None,
    limit: Annotated[int | None, Parameter(ge=0, description="Bytes at most.")] = None,
    tail: Annotated[int | None, Parameter(ge=0, description="Begin this many lines before the end.")] = None,
    follow: Annotated[bool, Parameter(description="Go on until the run has ended; without `attempt`, the job.")] = False,
    byte_range: Annotated[str | None, Parameter(header="Range")] = None,
) -> Response[bytes] | StreamResponse:
    """Output as raw bytes. `X-Log-Offset` says where the first byte stands in the file, `X-Log-Size` how long that is."""
    context = context_of(request)
    record = await context.service.find(ref)
    place = context.output.place(record, _STREAMS[stream], replica, attempt)
    size = context.output.size(place)
    if offset is not None:
        place.offset = offset
    elif tail is not None:
        place.offset = context.output.tail(place, tail)
    headers = {"X-Log-Size": str(size), "X-Log-Attempt": str(place.run.attempt), "Accept-Ranges": "bytes"}
    if follow:
        headers["X-Log-Offset"] = str(place.offset)
        pieces = _without_beats(context.output.follow(place, onward=attempt is None))
        return StreamResponse(context.stream(pieces), media_type=MEDIA_TYPE, headers=headers)
    status = 200
    upto = size if limit is None else min(size, place.offset + limit)
    asked = _RANGE.fullmatch(byte_range) if byte_range is not None else None
    if asked is not None and asked.group() != "bytes=-":
        first, last = asked.groups()
        place.offset = int(first) if first else max(0, size - int(last))
        upto = min(size, int(last) + 1) if first and last else size
        if place.offset >= size:
            return Response(b"", status_code=416, headers={"Content-Range": f"bytes */{size}"}, media_type=MEDIA_TYPE)
        if upto <= place.offset:
            upto = size
        else:
            status = 206
            headers["Content-Range"] = f"bytes {place.offset}-{upto - 1}/{size}"
    headers["X-Log-Offset"] = str(place.offset)
    length = max(0, upto - place.offset)
    if length <= _SMALL:
        body = b"".join([piece async for piece in context.output.read(place, upto)])
        return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)
    headers["Content-Length"] = str(length)
    return StreamResponse(
        context.stream(context.output.read(place, upto)), status_code=status, media_type=MEDIA_TYPE, headers=headers
    )


#: Bytes up to which an answer is made in one piece.
_SMALL = 256 * 1024


async def _without_beats(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if piece:
            yield piece


LOG_ROUTES = [read_logs]
