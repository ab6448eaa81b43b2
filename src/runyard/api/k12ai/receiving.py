"""How messages are received: popped, looked at, streamed, by WebSocket; and how others push some (spec 3.6, 3.7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Response, WebSocket
from litestar.response import Stream as StreamResponse

from runyard.api.access import caller_of
from runyard.api.context import AnyRequest, Context
from runyard.api.k12ai.asking import check_key, refused
from runyard.api.socket import GOING, refuse_socket, speak
from runyard.api.streams import joined
from runyard.auth.caller import Caller, Role
from runyard.model.check import refuse
from runyard.model.errors import InvalidInput, RunyardError, TooLarge
from runyard.model.message import MAX_BODY, MAX_DEPTH, check_kind, depth
from runyard.service.queues import MOST, Item, Queues, Wanted
from runyard.settings import K12ai

#: Seconds of silence after which a stream says that it is still there; that a pop waits at most.
BEAT, MAX_WAIT = 15.0, 60.0
MAX_KEYS, MAX_KEY, MAX_RAW = 100, 255, MAX_BODY
_SSE = "text/event-stream"


class Receiving:
    """The handlers of one server."""

    def __init__(self, context: Context, queues: Queues, settings: K12ai) -> None:
        self._context, self._queues, self._settings = context, queues, settings

    def _reader(self, caller: Caller) -> str | None:
        """Whose queues these are: with accounts, users have their own, with what their tasks say."""
        accounts = self._context.auth is not None and self._context.auth.enabled
        return caller.name if accounts and caller.role is Role.USER else None

    # Queues -----------------------------------------------------------------------------------------------------------

    async def pop(self, request: AnyRequest) -> bytes:
        """A JSON array, oldest first."""
        check_key(request, self._settings)
        caller = caller_of(request)
        query = request.query_params
        queues = [key for key in query.get("key", "unknown").split(",") if key]
        if not 1 <= len(queues) <= MAX_KEYS or any(len(key) > MAX_KEY for key in queues):
            raise refuse("key", len(queues), f"must be 1 to {MAX_KEYS} names of at most {MAX_KEY} characters")
        most = _number(query.get("max"), "max", 1, MOST, MOST)
        reader = self._reader(caller)
        if query.get("peek", "") in ("1", "true", "True"):
            after = _number(query["after"], "after", 0, 1 << 62, 0) if "after" in query else None
            found = await self._queues.peek(queues, reader, most, after)
        else:
            caller.must_submit()
            if wait := _seconds(query.get("wait")):
                async with _presence(request) as there:
                    found = await self._queues.pop(queues, reader, most, wait, there)
            else:
                found = await self._queues.pop(queues, reader, most)
        if query.get("format") == "str":
            found = [msgspec.json.encode(text.decode()) for text in found]
        return b"[%s]" % b",".join(found)

    async def push(self, request: AnyRequest, queue: str) -> Response[str]:
        """Puts the raw body into a queue; answers 0, or -1 if it can't be kept."""
        try:
            check_key(request, self._settings)
            caller = caller_of(request)
            caller.must_submit()
            body = await request.body()
            # A line break in it would forge events in others' streams.
            if len(queue) > MAX_KEY or not queue.isprintable():
                raise refuse("key", queue[:MAX_KEY], f"must be at most {MAX_KEY} printable characters")
            await self._queues.push(queue, _value(body), self._reader(caller) or "")
        except (TooLarge, InvalidInput):
            return Response("-1", media_type="text/plain", status_code=200)
        except RunyardError as error:
            return Response("-1", media_type="text/plain", status_code=error.status)
        return Response("0", media_type="text/plain", status_code=200)

    # Streams ----------------------------------------------------------------------------------------------------------

    async def stream(self, request: AnyRequest) -> Response[Any] | StreamResponse:
        """Server-sent events."""
        try:
            wanted, after = await self._wanted(request)
            pieces = self._open(request, _sse(self._queues.follow(wanted, after, BEAT)))
        except RunyardError as error:
            status, body, headers = refused(error, self._settings.message_form)
            return Response(body, status_code=status, media_type="application/json", headers=headers)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamResponse(pieces, media_type=_SSE, headers=headers)

    async def socket(self, socket: WebSocket[Any, Any, Any]) -> None:
        """A frame for each message."""
        request: Any = socket
        try:
            wanted, after = await self._wanted(request)
            texts = self._open(request, _frames(self._queues.follow(wanted, after)))
        except RunyardError as error:
            await refuse_socket(socket.send, error)
            return
        await socket.accept()
        if await speak(socket, texts):
            await socket.close(GOING)

    def _open(self, request: AnyRequest, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        return self._context.streams.open(caller_of(request), pieces)

    async def _wanted(self, request: AnyRequest) -> tuple[Wanted, int | None]:
        check_key(request, self._settings)
        caller = caller_of(request)
        caller.must_read()
        query = request.query_params
        words = (word.strip() for word in query.get("types", "").split(","))
        types = frozenset(check_kind(word, "types") for word in words if word)
        last = request.headers.get("last-event-id", query.get("after", "latest"))
        after: int | None = self._queues.position()
        if last != "latest":
            after = _number(last, "after", 0, 1 << 62, 0) or None
            await self._queues.check(after)
        wanted = Wanted(
            app=query.get("appId"),
            types=types,
            user=query.get("user"),
            uuid=query.get("service_uuid"),
            owner=self._reader(caller),
        )
        return wanted, after


@asynccontextmanager
async def _presence(request: AnyRequest) -> AsyncIterator[Callable[[], bool]]:
    """Whether whoever has asked still waits for the answer. The body was read, or there is none."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.create_task(leave())
    try:
        yield lambda: not leaving.done()
    finally:
        leaving.cancel()


async def _sse(batches: AsyncIterator[Collection[Item]]) -> AsyncIterator[bytes]:
    # Said at once, so that a client knows that the stream stands.
    yield b": k12ai\n\n"
    async for batch in batches:
        if not batch:
            yield b":\n\n"
        for piece in joined(_event(item, last) for item, last in _marked(batch)):
            yield piece


def _marked(batch: Collection[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last one of its number: only behind that one a reader may go on."""
    items = list(batch)
    for place, item in enumerate(items):
        yield item, place + 1 == len(items) or items[place + 1].seq != item.seq


def _event(item: Item, last: bool) -> bytes:
    mark = b"id: %d\n" % item.seq if last else b""
    return b"%sevent: %s\ndata: %s\n\n" % (mark, item.type.encode(), item.text)


async def _frames(batches: AsyncIterator[Collection[Item]]) -> AsyncIterator[bytes]:
    async for batch in batches:
        for item in batch:
            yield item.text


def _value(body: bytes) -> Any:
    """The JSON value of what is pushed; what is no JSON is wrapped. Raises TooLarge, InvalidInput."""
    if len(body) > MAX_RAW and len(body.decode("utf-8", "replace")) > MAX_RAW:
        raise TooLarge(f"at most {MAX_RAW} characters are taken", limit=MAX_RAW)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"raw": body.decode("utf-8", "replace")}
    return {"raw": body.decode()} if depth(value) > MAX_DEPTH else value


def _number(text: str | None, name: str, low: int, high: int, missing: int) -> int:
    if text is None:
        return missing
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise refuse(name, text, f"must be a whole number from {low} to {high}")
    return int(text)


def _seconds(text: str | None) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_WAIT:
        raise refuse("wait", text, f"must be a number of seconds from 0 to {MAX_WAIT:g}")
    return value
