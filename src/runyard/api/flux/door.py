"""The routes of the Flux door, at `/v1` and the document's unversioned paths (spec/flux-restful.md, 1)."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec
from litestar import Response, Router, route
from litestar.exceptions import HTTPException
from litestar.response import Stream as StreamResponse

import runyard
from runyard.api.access import DOOR, authorization_of, call_of, caller_of
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, Context
from runyard.api.flux.answer import NO_OUTPUT, NOT_AUTHENTICATED, Refused, detail
from runyard.api.flux.events import NAMES
from runyard.api.flux.follower import Follower, View, chosen_cursor
from runyard.api.flux.jobs import Jobs
from runyard.api.flux.listing import USUAL, Row, filtered, page, searched, sorted_rows
from runyard.api.flux.output import JobOutput
from runyard.api.flux.parameter import Parameters
from runyard.api.flux.record import brief
from runyard.api.flux.stopper import Stopper
from runyard.api.flux.submitter import Submitter
from runyard.api.flux.token import TOKEN_ROUTES
from runyard.auth.authenticator import Disabled, InvalidToken
from runyard.auth.caller import Caller
from runyard.model.errors import Conflict, Forbidden, RunyardError, Unauthenticated
from runyard.settings import Flux

_METHODS: list[Any] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]
_SSE = "text/event-stream"
_PLAIN = "text/plain"
_FORM = "application/x-www-form-urlencoded"
#: Bytes of output up to which an answer is made in one piece.
_SMALL = 256 * 1024
#: Seconds that a request may wait: the released client gives up after 5.
_MAX_WAIT = 4.0
#: Parameters of one request at most.
_FIELDS = 1000
_ID = "{id}"

Answer = Response[bytes] | StreamResponse
Act = Callable[[AnyRequest, "Query", str], Awaitable[Answer]]

_encoder = msgspec.json.Encoder()


class Query(Parameters):
    """The query of a request. The last of several values wins."""

    def __init__(self, request: AnyRequest) -> None:
        super().__init__(_pairs(request.scope["query_string"]))


class Pages(Protocol):
    """The pages for people, which stand at some of the document's paths beside the JSON."""

    async def jobs(self, request: AnyRequest) -> Answer: ...
    async def form(self, request: AnyRequest) -> Answer: ...
    async def submit(self, request: AnyRequest) -> Answer: ...
    async def to_job(self, request: AnyRequest, ref: str) -> Answer: ...


class FluxDoor:
    """One for each server."""

    def __init__(self, context: Context, settings: Flux, submitter: Submitter, pages: Pages) -> None:
        self._context = context
        self._engine = context.service.engine
        self._jobs = Jobs(context)
        self._submitter = submitter
        self._pages = pages
        self._stopper = Stopper(context, settings)
        self._follower = Follower(context, self._jobs)
        #: By path, where `{id}` stands for any one part, then by method.
        self._routes: dict[tuple[str, ...], dict[str, Act]] = {
            ("jobs",): {"GET": self._list},
            ("jobs", "search"): {"GET": self._search},
            ("jobs", "submit"): {"POST": self._submit},
            ("jobs", _ID): {"GET": self._show},
            ("jobs", _ID, "cancel"): {"POST": self._cancel},
            ("jobs", _ID, "output"): {"GET": self._output},
            ("jobs", _ID, "output", "stream"): {"GET": self._stream},
            ("jobs", _ID, "events"): {"GET": self._job_events},
            ("nodes",): {"GET": self._nodes},
            ("service", "stop"): {"POST": self._stop},
            ("events",): {"GET": self._all_events},
            ("version",): {"GET": self._version},
        }

    def router(self) -> Router:
        @route(
            [
                "/v1",
                "/v1/{rest:path}",
                "/jobs",
                "/jobs/{rest:path}",
                "/nodes",
                "/service",
                "/service/{rest:path}",
            ],
            http_method=_METHODS,
            include_in_schema=False,
            name="flux",
            opt=DOOR,
        )
        async def flux(request: AnyRequest) -> Response[bytes] | StreamResponse:
            return await self._answer(request)

        return Router(path="/", route_handlers=[flux, *TOKEN_ROUTES])

    async def _answer(self, request: AnyRequest) -> Answer:
        parts = request.scope["path"].strip("/").split("/")
        try:
            if parts[0] != "v1" and (page := await self._page(request, parts)) is not None:
                return page
            act, ref = self._find(request.method, parts[1:] if parts[0] == "v1" else parts)
            answer = await act(request, Query(request), ref)
        except Refused as refused:
            answer = JsonAnswer(_encoder.encode(refused.body), refused.status, refused.headers)
        except RunyardError as error:
            answer = refusal(error)
        except HTTPException as error:
            answer = JsonAnswer(_encoder.encode({"detail": error.detail}), error.status_code)
        if parts[0] == "jobs":
            answer.headers["Vary"] = "Accept"
        return answer

    def _find(self, method: str, parts: list[str]) -> tuple[Act, str]:
        """The route, and the id in the path. Raises Refused."""
        found = self._routes.get(tuple(parts))
        ref = ""
        if found is None and len(parts) > 1 and parts[0] == "jobs":
            ref = parts[1]
            found = self._routes.get(("jobs", _ID, *parts[2:]))
        if found is None:
            raise detail(404, "Not Found")
        act = found.get(method)
        if act is None:
            raise detail(405, "Method Not Allowed", {"Allow": ", ".join(found)})
        return act, ref

    async def _page(self, request: AnyRequest, parts: list[str]) -> Answer | None:
        """The page that a browser wants at this path, if it is one that wants a page."""
        html = "text/html" in request.headers.get("accept", "")
        if parts == ["jobs", "submit"] and request.method == "POST":
            form = _kind(request) in (_FORM, "multipart/form-data")
            return await self._pages.submit(request) if form and html else None
        if request.method != "GET" or not html:
            return None
        if parts == ["jobs"]:
            return await self._pages.jobs(request)
        if parts == ["jobs", "submit"]:
            return await self._pages.form(request)
        if len(parts) == 2 and parts[0] == "jobs" and parts[1] != "search":
            return await self._pages.to_job(request, parts[1])
        return None

    # Jobs ---------------------------------------------------------------------------------------------------------

    async def _list(self, request: AnyRequest, query: Query, _: str) -> Answer:
        caller = caller_of(request)
        details = query.boolean("details") or query.boolean("detail") or False
        listing = query.boolean("listing") or False
        limit = _limit(query) if details else None
        offset = query.natural("offset") or 0
        if offset > self._context.max_batch:
            raise detail(400, f"offset must be at most {self._context.max_batch}: narrow the list by its filters")
        narrow = any(name in query for name in ("state", "result", "user", "name", "since", "ids"))
        most = USUAL if limit is None else min(limit, self._context.max_batch)
        records = await self._jobs.visible(caller, USUAL + offset if narrow or offset else most)
        if not details and not narrow and not offset:
            return self._tagged(request, {"jobs": [brief(record) for record in records]})
        rows = await self._jobs.rows(records)
        problems: dict[str, str] = {}
        if "ids" in query:
            rows, problems = await self._chosen(caller, query.text("ids") or "")
        rows = sorted_rows(filtered(rows, query), {"sort": query.text("sort") or ""})[offset:][:most]
        body: Any
        if not details:
            body = {"jobs": [{key: row[key] for key in ("id", "f58", "name", "state")} for row in rows]}
            if problems:
                body["errors"] = problems
        else:
            body = rows if listing else {row["id_str"]: row for row in rows}
        return self._tagged(request, body)

    async def _chosen(self, caller: Caller, ids: str) -> tuple[list[Row], dict[str, str]]:
        """The jobs with those ids, and what is wrong with the other ids."""
        rows, problems = [], {}
        for text in [word for part in ids.split(",")[:USUAL] if (word := part.strip())]:
            try:
                rows.append(self._jobs.detailed(await self._jobs.find(text, caller)))
            except Refused as refused:
                problems[text] = refused.body["detail"]
        return rows, problems

    async def _search(self, request: AnyRequest, query: Query, _: str) -> Answer:
        caller = caller_of(request)
        text = query.get("search[value]") or query.get("search") or query.get("query")
        regex = query.boolean("regex") or query.boolean("search[regex]") or False
        records = await self._jobs.visible(caller, USUAL)
        rows = await self._jobs.rows(records)
        found = await asyncio.to_thread(searched, filtered(rows, query), text, regex=regex)
        answer = page(sorted_rows(found, query.values), query) | {"recordsTotal": len(rows)}
        return self._tagged(request, answer)

    def _tagged(self, request: AnyRequest, body: Any) -> Answer:
        """An answer that a poller need not fetch twice."""
        content = _encoder.encode(body)
        tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return JsonAnswer(b"", 304, {"ETag": tag})
        return JsonAnswer(content, 200, {"ETag": tag})

    async def _show(self, request: AnyRequest, query: Query, ref: str) -> Answer:
        if ref in ("submit", "search"):
            raise detail(405, "Method Not Allowed")
        record = await self._jobs.find(ref, caller_of(request))
        return JsonAnswer(_encoder.encode(self._jobs.detailed(record)))

    async def _submit(self, request: AnyRequest, query: Query, _: str) -> Answer:
        body, values = await request.body(), query.values
        # curl and urllib call any body a form, unless they are told otherwise.
        if _kind(request) == _FORM and not body.lstrip().startswith((b"{", b"[")):
            values, body = _pairs(body) | values, b""
        answer = await self._submitter.submit(request, values, body)
        return JsonAnswer(answer.body, answer.status)

    async def _cancel(self, request: AnyRequest, query: Query, ref: str) -> Answer:
        caller = caller_of(request)
        try:
            record = await self._jobs.find(ref, caller)
        except Refused as refused:
            if refused.status == 404:
                raise _not_cancelled(ref, "unknown job id") from None
            raise
        caller.must_change(record.owner)
        try:
            await self._context.service.cancel(record)
        except Conflict:
            raise _not_cancelled(ref, "job is inactive") from None
        return JsonAnswer(_encoder.encode({"Message": "Job is requested to cancel.", "id": ref}))

    # Output -------------------------------------------------------------------------------------------------------

    async def _output(self, request: AnyRequest, query: Query, ref: str) -> Answer:
        try:
            record = await self._jobs.find(ref, caller_of(request))
        except Refused as refused:
            if refused.status == 404:
                raise Refused(404, {**refused.body, "Message": NO_OUTPUT}) from None
            raise
        wait = query.duration("wait")
        if wait:
            await self._engine.ended(record.id, min(max(wait, 0.0), _MAX_WAIT))
            record = await self._jobs.find(ref, caller_of(request))
        output = JobOutput(self._context.output, record)
        offset, tail = query.natural("offset") or 0, query.natural("tail")
        if tail is not None:
            output.skip(tail)
        if output.size == 0:
            return JsonAnswer(_encoder.encode({"Message": NO_OUTPUT}))
        if output.size <= _SMALL:
            return JsonAnswer(b"".join([piece async for piece in output.lines(offset)]))
        return self._streamed(request, output.lines(offset), "application/json", {})

    async def _stream(self, request: AnyRequest, query: Query, ref: str) -> Answer:
        record = await self._jobs.find(ref, caller_of(request))
        output = JobOutput(self._context.output, record)
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if _SSE in request.headers.get("accept", ""):
            return self._streamed(request, _events(output), _SSE, headers)
        if output.ended:
            headers["Content-Length"] = str(output.size)
        return self._streamed(request, _without_beats(output.live()), _PLAIN, headers)

    def _streamed(
        self, request: AnyRequest, pieces: AsyncIterator[bytes], kind: str, headers: dict[str, str]
    ) -> Answer:
        opened = self._context.streams.open(caller_of(request), pieces)
        return StreamResponse(opened, status_code=200, media_type=kind, headers=headers)

    # Events -------------------------------------------------------------------------------------------------------

    async def _job_events(self, request: AnyRequest, query: Query, ref: str) -> Answer:
        record = await self._jobs.find(ref, caller_of(request))
        return await self._events(request, query, record.id)

    async def _all_events(self, request: AnyRequest, query: Query, _: str) -> Answer:
        return await self._events(request, query, None)

    async def _events(self, request: AnyRequest, query: Query, job: int | None) -> Answer:
        caller = caller_of(request)
        caller.must_read()
        names = frozenset(word.strip() for word in (query.text("types") or "").split(",") if word.strip())
        if not names <= set(NAMES):
            raise detail(400, f"types must be some of {', '.join(NAMES)}, separated by commas")
        after = chosen_cursor(self._engine, request.headers.get("last-event-id") or query.text("after"))
        view = View(caller, job, names, query.text("user"))
        if _SSE not in request.headers.get("accept", ""):
            return JsonAnswer(_encoder.encode(await self._follower.read(view, after)))
        # Read now: a cursor that is too old is refused, and does not become an empty stream.
        await self._engine.feed.page(after.after, 1, view.selection)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return self._streamed(request, self._follower.follow(view, after), _SSE, headers)

    # The rest -----------------------------------------------------------------------------------------------------

    async def _nodes(self, request: AnyRequest, query: Query, _: str) -> Answer:
        caller_of(request).must_read()
        nodes = self._jobs.nodes()
        if query.boolean("details") or query.boolean("detail"):
            return JsonAnswer(_encoder.encode(nodes))
        return JsonAnswer(_encoder.encode({"nodes": [node.name for node in nodes if node.state == "up"]}))

    async def _stop(self, request: AnyRequest, query: Query, _: str) -> Answer:
        auth, caller = self._context.auth, caller_of(request)
        if auth is not None and not auth.enabled and (await auth.directory()).usable:
            # Whoever has made accounts wants this to be an admin's, though nothing else asks for one.
            caller = await auth.identify(authorization_of(request), call_of(request))
        try:
            caller.must_administrate("stops the service")
        except Forbidden:
            raise detail(403, "The user doesn't have enough privileges") from None
        self._stopper.begin()
        return JsonAnswer(_encoder.encode({"Message": "Service stop requested."}))

    async def _version(self, request: AnyRequest, query: Query, _: str) -> Answer:
        return JsonAnswer(_encoder.encode({"version": runyard.__version__, "api": ["v1"], "pid": os.getpid()}))


def refusal(error: RunyardError) -> Response[bytes]:
    """A failure in the words of this door."""
    headers: dict[str, str] = {}
    text = error.detail
    if isinstance(error, InvalidToken):
        # 401, not 403: the released client gets itself a new token only then.
        text, headers = "Could not validate credentials", {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    elif isinstance(error, Unauthenticated):
        text, headers = NOT_AUTHENTICATED, {"WWW-Authenticate": "Bearer"}
    elif isinstance(error, Disabled):
        text = "Inactive user"
    elif error.status in (429, 503, 507):
        headers = {"Retry-After": str(error.fields.get("retry_after", 1))}
    return JsonAnswer(_encoder.encode({"detail": text, "Message": text}), error.status, headers)


def _pairs(text: bytes) -> dict[str, Any]:
    """The values in a query or a form; the last of several with one name wins. Raises Refused (400)."""
    try:
        pairs = parse_qsl(
            text.decode("utf-8", "replace"), keep_blank_values=True, errors="replace", max_num_fields=_FIELDS
        )
    except ValueError:
        raise detail(400, f"there are more than {_FIELDS} parameters") from None
    return dict(pairs)


def _kind(request: AnyRequest) -> str:
    """The type of the body."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _not_cancelled(ref: str, reason: str) -> Refused:
    return Refused(400, {"Message": f"Job cannot be cancelled: [Errno 2] {reason}.", "id": ref})


def _limit(query: Query) -> int | None:
    """What can't be read is ignored, as in the original."""
    try:
        return query.natural("limit")
    except Refused:
        return None


async def _without_beats(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if piece:
            yield piece


async def _events(output: JobOutput) -> AsyncIterator[bytes]:
    """The output as server-sent events: a JSON text each."""
    yield b": runyard\n\n"
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async for piece in output.live():
        # A piece may end within a character.
        text = decoder.decode(piece)
        yield b"data: %s\n\n" % _encoder.encode(text) if text else b":\n\n"
    if rest := decoder.decode(b"", final=True):
        yield b"data: %s\n\n" % _encoder.encode(rest)
    yield b"event: end\ndata: {}\n\n"
