"""Messages: what jobs say, as pages, streams and WebSockets by one cursor; said by HTTP; and as curves."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import msgspec
from litestar import Response, WebSocket, get, post, websocket
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream as StreamResponse

from runyard.api.access import caller_of, find_own, find_seen
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, Context, context_of
from runyard.api.native.following import BEAT, SSE, Accept, LastId, Wait, poll, read_cursor, responses, seen, streamed
from runyard.api.native.jobs import MAX_LIMIT, NDJSON, Limit, Ref, says
from runyard.api.problem import refusal
from runyard.api.socket import DONE, GOING, refuse_socket, speak
from runyard.api.streams import joined
from runyard.auth.caller import Role
from runyard.message.line import decode, to_message
from runyard.model.check import refuse
from runyard.model.errors import InvalidInput, RunyardError, TooLarge
from runyard.model.message import MAX_BATCH, Message, NewMessage, check_kind
from runyard.service.document import moment
from runyard.service.messages import Appended, Messages
from runyard.service.series import SeriesList
from runyard.service.service import Answer, Replay
from runyard.store.batch import Batch

MAX_POINTS = 4096
MAX_CHOSEN = 1000
_CACHED = 4096
#: Bytes of a body that are looked through at once.
_QUICK = 64 * 1024

_encoder = msgspec.json.Encoder()

After = Annotated[
    str | None,
    QueryParameter(description="Cursor: the `seq` of the last message seen, or `latest`. The oldest if absent."),
]
Kinds = Annotated[str | None, QueryParameter(name="kind", description="Kinds, separated by commas: metrics,error,…")]


class MessageList(msgspec.Struct):
    """`next` is the cursor behind what was looked at: `after` of the next call."""

    items: list[dict[str, Any]]
    next: int


class MessagesTaken(msgspec.Struct):
    """`kept` are on disk now; `dropped` were left out because the job says too much."""

    kept: int
    dropped: int
    last: int
    """The newest `seq`."""


@dataclass
class _MessagesBody(Operation):
    def __post_init__(self) -> None:
        message = Schema(
            type="object",  # type: ignore[arg-type]
            required=["type"],
            properties={
                "type": Schema(type="string", description="metrics, error, info, log, …"),  # type: ignore[arg-type]
                "body": Schema(description="An object or a text; of metrics, numbers by name."),
                "at": Schema(type="number", description="Unix seconds; now if absent."),  # type: ignore[arg-type]
                "rank": Schema(type="integer", minimum=0),  # type: ignore[arg-type]
            },
        )
        many = Schema(type="array", items=message, max_items=MAX_BATCH)  # type: ignore[arg-type]
        lines = Schema(type="string", description="One message on each line.")  # type: ignore[arg-type]
        self.request_body = RequestBody(
            {
                "application/json": OpenAPIMediaType(Schema(one_of=[message, many])),
                NDJSON: OpenAPIMediaType(lines),
            },
            required=True,
        )


_RESPONSES = responses(MessageList)


@get("/messages", responses=_RESPONSES, summary="Read or follow messages")
async def list_messages(
    request: AnyRequest,
    after: After = None,
    job: Annotated[str | None, QueryParameter(description="Of this job only: id or name.")] = None,
    kinds: Kinds = None,
    limit: Limit = 100,
    wait: Wait = 0.0,
    last_event_id: LastId = None,
    accept: Accept = "*/*",
) -> Response[bytes] | StreamResponse:
    """What jobs say, each message once, in order: go on from `next`, or from the last `id` of a stream."""
    number = None if job is None else (await find_seen(request, job)).id
    return await _respond(request, number, after, kinds, limit, wait, last_event_id, accept, ends=False)


@get("/jobs/{ref:str}/messages", responses=_RESPONSES, summary="Read or follow a job's messages")
async def list_job_messages(
    request: AnyRequest,
    ref: Ref,
    after: After = None,
    kinds: Kinds = None,
    limit: Limit = 100,
    wait: Wait = 0.0,
    last_event_id: LastId = None,
    accept: Accept = "*/*",
) -> Response[bytes] | StreamResponse:
    """What one job says. A stream ends when the job has, and everything was told."""
    record = await find_seen(request, ref)
    return await _respond(request, record.id, after, kinds, limit, wait, last_event_id, accept, ends=True)


async def _respond(
    request: AnyRequest,
    job: int | None,
    after: str | None,
    kinds: str | None,
    limit: int,
    wait: float,
    last_event_id: str | None,
    accept: str,
    ends: bool,
) -> Response[bytes] | StreamResponse:
    messages = context_of(request).messages
    feed, docs = messages.feed, _docs_of(messages)
    wanted = read_kinds(kinds)
    cursor = read_cursor(last_event_id if last_event_id is not None else after, feed.last, "a message")

    async def see(found: Collection[Message]) -> list[Message]:
        return await _visible(request, found) if job is None else list(found)

    if SSE in accept or NDJSON in accept:
        # Read the first page now: a cursor that is too old is answered as a problem, not as an empty stream.
        await messages.page(job, cursor, 1, wanted)
        follow = messages.follow if ends else feed.follow
        batches = seen(follow(job, cursor, wanted, beat=BEAT), see)
        return streamed(request, accept, _sse(batches, docs) if SSE in accept else _lines(batches, docs))
    # Who sees all of them needs no more than these; of the others many may be dropped.
    at_once = limit if job is not None or caller_of(request).is_admin else max(limit, MAX_LIMIT)

    async def page(after: int | None) -> tuple[list[Message], int]:
        found, following = await messages.page(job, after, at_once, wanted)
        return await see(found), following

    found, following = await poll(page, cursor, limit, wait, lambda: feed.last, lambda left: feed.changed(job, left))
    return JsonAnswer(b'{"items":[%s],"next":%d}' % (b",".join(map(docs.get, found)), following))


@websocket("/jobs/{ref:str}/messages/ws")
async def follow_messages(socket: WebSocket[Any, Any, Any], ref: Ref) -> None:
    """A frame for each message of a job. Closed with 1000 when the job has ended and everything was told."""
    request: Any = socket
    context: Context = context_of(request)
    try:
        record = await find_seen(request, ref)
        messages = context.messages
        wanted = read_kinds(socket.query_params.get("kind"))
        cursor = read_cursor(socket.query_params.get("after"), messages.feed.last, "a message")
        await messages.page(record.id, cursor, 1, wanted)
        batches = messages.follow(record.id, cursor, wanted)
        texts = context.streams.open(caller_of(request), _frames(batches, _docs_of(messages)))
    except RunyardError as error:
        await refuse_socket(socket.send, error)
        return
    await socket.accept()
    if await speak(socket, texts):
        live = context.service.engine.record(record.id) is not None
        await socket.close(GOING if live or messages.feed.closed else DONE)


@post(
    "/jobs/{ref:str}/messages",
    operation_class=_MessagesBody,
    responses={
        201: says(MessagesTaken, "The messages are stored, durably."),
        400: refusal("The request is refused."),
        404: refusal("There is no such job."),
        413: refusal("There are too many, or one is too large."),
    },
    summary="Say something for a job",
)
async def add_messages(
    request: AnyRequest,
    ref: Ref,
    idempotency_key: Annotated[str | None, HeaderParameter(name="Idempotency-Key", max_length=255)] = None,
) -> Response[bytes]:
    """Takes up to 1000 messages of one job: an object, an array, or NDJSON. All are taken, or none."""
    context = context_of(request)
    record = await find_own(request, ref)
    body = await request.body()
    now = context.service.engine.clock()
    lines = NDJSON in request.headers.get("content-type", "")
    if len(body) > _QUICK:
        # A million numbers take a second, and others want to be answered meanwhile.
        new = await asyncio.to_thread(read_messages, body, lines, record.id, now)
    else:
        new = read_messages(body, lines, record.id, now)

    async def act(keep: Callable[[Batch, Answer], None]) -> Answer:
        def finish(batch: Batch, taken: Appended) -> None:
            keep(batch, _taken(taken))

        return _taken(await context.messages.append(new, None if replay is None else finish))

    replay = None
    if idempotency_key is not None:
        digest = hashlib.sha256(b"%d messages %s" % (record.id, body)).digest()
        replay = Replay(idempotency_key, caller_of(request).name, digest)
    answer = await context.service.once(replay, act)
    return JsonAnswer(answer.body, answer.status, {"Idempotency-Replayed": "true"} if answer.replayed else {})


@get(
    "/jobs/{ref:str}/metrics",
    responses={
        200: says(SeriesList, "The curves."),
        400: refusal("The request is refused."),
        404: refusal("There is no such job."),
    },
    summary="Read a job's metrics as curves",
)
async def read_metrics(
    request: AnyRequest,
    ref: Ref,
    names: Annotated[str | None, QueryParameter(description="Names, separated by commas; all if absent.")] = None,
    points: Annotated[int, QueryParameter(ge=2, le=MAX_POINTS, description="Points of each curve at most.")] = 500,
) -> Response[bytes]:
    """The numbers that a job has reported, by name. Of a long curve the lowest and highest points stay."""
    record = await find_seen(request, ref)
    chosen = None if names is None else [name for name in names.split(",") if name]
    if chosen is not None and len(chosen) > MAX_CHOSEN:
        raise refuse("names", len(chosen), f"at most {MAX_CHOSEN} names")
    return JsonAnswer(_encoder.encode(await context_of(request).messages.series(record.id, chosen, points)))


# Taking in ------------------------------------------------------------------------------------------------------------


def read_messages(body: bytes, lines: bool, job: int, now: float) -> list[NewMessage]:
    """The checked messages in a body. Raises InvalidInput, TooLarge."""
    raw: Any
    if lines:
        texts = [line for line in body.split(b"\n") if line.strip()]
        _check_count(len(texts))
        raw = [_located(number, lambda text=text: decode(text)) for number, text in enumerate(texts)]  # type: ignore[misc]
    else:
        raw = decode(body)
        if not isinstance(raw, list):
            return [to_message(raw, job, now, "http")]
        _check_count(len(raw))
    if not raw:
        raise InvalidInput("there is no message in the body: send an object, an array of them, or one on each line")
    return [
        _located(number, lambda item=item: to_message(item, job, now, "http"))  # type: ignore[misc]
        for number, item in enumerate(raw)
    ]


def _check_count(count: int) -> None:
    if count > MAX_BATCH:
        raise TooLarge(f"{count} messages in one request, at most {MAX_BATCH} are taken: send them in parts")


def _located(number: int, make: Callable[[], Any]) -> Any:
    """What `make` gives; its errors say which message they are about."""
    try:
        return make()
    except RunyardError as error:
        for part in error.fields.get("errors", ()):
            part["field"] = f"[{number}].{part['field']}"
        error.detail = f"message {number}: {error.detail}"
        raise


def _taken(taken: Appended) -> Answer:
    return Answer(201, _encoder.encode(MessagesTaken(taken.kept, taken.dropped, taken.last)))


# Showing --------------------------------------------------------------------------------------------------------------


def message_doc(message: Message) -> dict[str, Any]:
    """A message as JSON-ready data: ids as text, for they pass 2^53."""
    return {
        "seq": message.seq,
        "job": str(message.job) if message.job else None,
        "type": message.kind,
        "at": moment(message.at),
        "source": message.source,
        "rank": message.rank,
        "body": message.body,
    }


class _Docs:
    """Messages as JSON. Many read the same at the same time: each is written once."""

    def __init__(self) -> None:
        self._texts: OrderedDict[int, bytes] = OrderedDict()

    def get(self, message: Message) -> bytes:
        text = self._texts.get(message.seq)
        if text is None:
            text = _encoder.encode(message_doc(message))
            if len(text) < _LARGE:
                self._texts[message.seq] = text
                if len(self._texts) > _CACHED:
                    self._texts.popitem(last=False)
        return text


#: Bytes beyond which a document is not kept.
_LARGE = 4096
_docs: WeakKeyDictionary[Messages, _Docs] = WeakKeyDictionary()


def _docs_of(messages: Messages) -> _Docs:
    return _docs.setdefault(messages, _Docs())


async def _visible(request: AnyRequest, messages: Collection[Message]) -> list[Message]:
    """Those of jobs that the caller may see; to admins also what is no job's."""
    caller = caller_of(request)
    if caller.is_admin:
        return list(messages)
    if caller.role is not Role.USER:
        return [message for message in messages if message.job]
    owners = await context_of(request).owners({message.job for message in messages})
    return [message for message in messages if owners.get(message.job) == caller.name]


async def _sse(batches: AsyncIterator[Collection[Message]], docs: _Docs) -> AsyncIterator[bytes]:
    # Said at once, so that a client knows that the stream stands. No `event:` lines: one named `error` would be taken
    # by a browser's EventSource for the end of the connection.
    yield b": runyard\n\n"
    async for batch in batches:
        if not batch:
            yield b":\n\n"
        for piece in joined(b"id: %d\ndata: %s\n\n" % (message.seq, docs.get(message)) for message in batch):
            yield piece


async def _lines(batches: AsyncIterator[Collection[Message]], docs: _Docs) -> AsyncIterator[bytes]:
    async for batch in batches:
        if not batch:
            yield b"\n"
        for piece in joined(docs.get(message) + b"\n" for message in batch):
            yield piece


async def _frames(batches: AsyncIterator[Collection[Message]], docs: _Docs) -> AsyncIterator[bytes]:
    async for batch in batches:
        for message in batch:
            yield docs.get(message)


def read_kinds(text: str | None) -> frozenset[str]:
    """The kinds in a query parameter; none means all. Raises InvalidInput."""
    return frozenset(check_kind(word.strip()) for word in text.split(",")) if text else frozenset()


MESSAGE_ROUTES = [list_messages, list_job_messages, follow_messages, add_messages, read_metrics]
