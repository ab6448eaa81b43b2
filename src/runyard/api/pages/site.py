"""The routes of the pages. What they show and do, they do for the caller, as every front door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from litestar import Response, Router, route
from litestar.exceptions import HTTPException

import runyard
from runyard.api.access import DOOR, PUBLIC, caller_of, find_own, find_seen, owner_filter
from runyard.api.context import AnyRequest, Context
from runyard.api.flux.answer import Refused
from runyard.api.flux.submitter import Submitter
from runyard.api.pages import view
from runyard.api.pages.messages import MessagesPart
from runyard.api.pages.reference import groups
from runyard.api.pages.renderer import FILES, HEADERS, file, page, redirect
from runyard.api.pages.session import SessionRoutes, local_path
from runyard.auth.caller import Caller
from runyard.core.record import JobRecord
from runyard.model.errors import Conflict, RunyardError, Unauthenticated
from runyard.model.event import EVENT_TYPES, Event
from runyard.model.ids import f58
from runyard.model.state import ENDED, LIVE, State
from runyard.service.feed import Selection
from runyard.settings import Flux
from runyard.store.listing import Filter
from runyard.store.output import Stream

#: Jobs of one page, events of a job on its page, bytes of output there, replicas to choose from.
ROWS, EVENTS, TAIL, REPLICAS = 100, 200, 64 * 1024, 100
#: Names of states for the filter: groups first.
STATES: dict[str, frozenset[State]] = {"live": LIVE, "ended": ENDED} | {str(s): frozenset({s}) for s in State}
_TYPES = " ".join(type for type in EVENT_TYPES if type.startswith(("job.", "run.")))
#: Parameters of one address at most.
_FIELDS = 100
_CHOICES = ("q", "state", "owner")
_STREAMS = {"stdout": Stream.OUT, "stderr": Stream.ERR}


class OutputPane(msgspec.Struct, kw_only=True):
    """What a job's page shows of one output, and where the rest comes from."""

    stream: str
    text: str
    offset: int
    """Of the byte behind the text."""
    cut: bool
    """There is more before the text."""
    whole_url: str
    follow_url: str
    """Empty when no more will come."""


class Site:
    """One for each server."""

    def __init__(self, context: Context, settings: Flux, submitter: Submitter) -> None:
        self._context = context
        self._engine = context.service.engine
        self._settings = settings
        self._submitter = submitter
        self._messages = MessagesPart(context)

    def router(self) -> Router:
        @route("/", http_method=["GET"], include_in_schema=False, opt=DOOR)
        async def home(request: AnyRequest) -> Response[bytes]:
            return await self.jobs(request)

        @route("/job/{ref:str}", http_method=["GET"], include_in_schema=False, opt=DOOR)
        async def job(request: AnyRequest, ref: str) -> Response[bytes]:
            return await self._guarded(request, lambda caller: self._job(request, caller, ref))

        @route("/job/{ref:str}/cancel", http_method=["GET", "POST"], include_in_schema=False, opt=DOOR)
        async def cancel(request: AnyRequest, ref: str) -> Response[bytes]:
            return await self._guarded(request, lambda caller: self._cancel(request, caller, ref))

        @route("/job/{ref:str}/picture/{seq:str}/{place:str}", http_method=["GET"], include_in_schema=False, opt=DOOR)
        async def picture(request: AnyRequest, ref: str, seq: str, place: str) -> Response[bytes]:
            async def show(caller: Caller) -> Response[bytes]:
                return await self._messages.picture(await find_seen(request, ref), seq, place)

            return await self._guarded(request, show)

        @route(["/docs", "/redoc"], http_method=["GET"], include_in_schema=False, opt=PUBLIC)
        async def docs(request: AnyRequest) -> Response[bytes]:
            return page("docs.html", title="API", groups=groups())

        @route("/page/{name:str}", http_method=["GET"], include_in_schema=False, opt=PUBLIC)
        async def about(request: AnyRequest, name: str) -> Response[bytes]:
            if name != "about":
                return _refused(404, "There is no such page", f"There is nothing by the name of {name[:100]!r}.")
            return page("about.html", title="About", version=runyard.__version__)

        @route("/static/{name:str}", http_method=["GET"], include_in_schema=False, opt=PUBLIC)
        async def static(request: AnyRequest, name: str) -> Response[bytes]:
            return _static(request, name)

        routes = [home, job, cancel, picture, docs, about, static, *SessionRoutes(self._context).handlers()]
        return Router(path="/", route_handlers=routes)

    # What the Flux door leaves to the pages -------------------------------------------------------------------------

    async def jobs(self, request: AnyRequest) -> Response[bytes]:
        return await self._guarded(request, lambda caller: self._table(request, caller))

    async def form(self, request: AnyRequest) -> Response[bytes]:
        async def show(caller: Caller) -> Response[bytes]:
            return self._form(caller, {}, [])

        return await self._guarded(request, show)

    async def submit(self, request: AnyRequest) -> Response[bytes]:
        return await self._guarded(request, lambda caller: self._submit(request, caller))

    async def to_job(self, request: AnyRequest, ref: str) -> Response[bytes]:
        return redirect("/job/" + quote(ref, safe=""))

    # ----------------------------------------------------------------------------------------------------------------

    async def _guarded(
        self, request: AnyRequest, show: Callable[[Caller], Awaitable[Response[bytes]]]
    ) -> Response[bytes]:
        """The page for this caller; the login for nobody in particular; a page that says why else."""
        try:
            return await show(caller_of(request))
        except Unauthenticated:
            if "fragment" in request.query_params:
                return _refused(401, "Please log in", "Your session has ended.")
            if request.method != "GET":
                return _login(401)
            here = _here(request)
            return redirect("/login?" + urlencode({"next": here})) if here != "/" else _login(200)
        except RunyardError as error:
            return _refused(error.status, error.title, error.detail)
        except HTTPException as error:
            return _refused(error.status_code, "This can't be read", error.detail)

    # The table ------------------------------------------------------------------------------------------------------

    async def _table(self, request: AnyRequest, caller: Caller) -> Response[bytes]:
        asked = _query(request)
        choice = {name: asked.get(name, "").strip() for name in _CHOICES}
        before = asked.get("before", "")
        wanted = Filter(
            q=choice["q"][:200] or None,
            states=STATES.get(choice["state"], frozenset()),
            owner=owner_filter(caller, choice["owner"] or None),
            before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
            limit=ROWS,
        )
        cursor = self._engine.feed.last
        found = await asyncio.to_thread(self._engine.store.list_jobs, wanted)
        records = [self._engine.record(record.id) or record for record in found.jobs]
        now = self._engine.clock()
        kept = {name: value for name, value in choice.items() if value}
        here = _url("/", kept | ({"before": before} if before else {}))
        values: dict[str, Any] = {
            "rows": [view.row(record, now, caller.may_change(record.owner)) for record in records],
            "next_url": "" if found.next is None else _url("/", kept | {"before": str(found.next)}),
            "here": here,
        }
        if "fragment" in asked:
            return page("table.html", **values)
        return page(
            "jobs.html",
            title="Jobs",
            **values,
            q=choice["q"],
            state=choice["state"],
            owner=choice["owner"],
            **self._common(caller),
            states=list(STATES),
            types=_TYPES,
            live_url=_url("/api/v1/events", {"after": str(cursor)}),
            fragment_url=here + ("&" if "?" in here else "?") + "fragment=table",
        )

    def _common(self, caller: Caller) -> dict[str, Any]:
        auth = self._context.auth
        return {"caller": caller, "accounts": auth is not None and auth.enabled}

    # One job --------------------------------------------------------------------------------------------------------

    async def _job(self, request: AnyRequest, caller: Caller, ref: str) -> Response[bytes]:
        # Before the record is looked at: what happens from here on comes as events.
        cursor, heard = self._engine.feed.last, self._context.messages.feed.last
        record = await find_seen(request, ref)
        asked = _query(request)
        if asked.get("fragment") == "messages":
            return page("messages.html", job=record, **await self._messages.values(record.id))
        facts = await self._facts(caller, record)
        if "fragment" in asked:
            return page("facts.html", **facts)
        number = asked.get("replica", "0")
        replica = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0
        live = record.state not in ENDED
        own = f"/api/v1/jobs/{record.id}"
        return page(
            "job.html",
            title=f"Job {f58(record.id)}",
            message="The job is requested to stop." if "stopped" in asked else "",
            outputs=await asyncio.to_thread(self._panes, record, min(replica, len(record.replicas) - 1)),
            replicas=len(record.replicas),
            shown_replicas=min(len(record.replicas), REPLICAS),
            replica=replica,
            types=_TYPES if live else "",
            live_url=_url(f"{own}/events", {"after": str(cursor)}) if live else "",
            fragment_url=f"/job/{record.id}?fragment=facts",
            said_url=_url(f"{own}/messages", {"after": str(heard)}) if live else "",
            own=own,
            **await self._messages.values(record.id),
            **facts,
            **self._common(caller),
        )

    async def _facts(self, caller: Caller, record: JobRecord) -> dict[str, Any]:
        nodes = {share.node: None for replica in record.replicas for share in replica.shares}
        return {
            "job": view.row(record, self._engine.clock(), caller.may_change(record.owner)),
            "why": self._context.service.why(record),
            "resources": record.spec.resources,
            "nodes": ", ".join(nodes),
            "events": [view.event_line(event) for event in await self._events(record)],
        }

    async def _events(self, record: JobRecord) -> list[Event]:
        """The job's first events, as far as they are kept."""
        feed, after = self._engine.feed, self._engine.store.horizon() - 1
        found: list[Event] = []
        while after < feed.last and len(found) < EVENTS:
            events, after = await feed.page(after, EVENTS - len(found), Selection(job=record.id))
            found += events
        return found

    def _panes(self, record: JobRecord, replica: int) -> list[OutputPane]:
        """The ends of the outputs of that replica's last run."""
        reader, live = self._context.output, record.state not in ENDED
        panes = []
        for name, stream in _STREAMS.items():
            if stream is Stream.ERR and record.spec.output.merge:
                continue
            place = reader.place(record, stream, replica, None)
            size, first = reader.size(place), reader.start(place)
            begin = max(first, size - TAIL)
            text = self._engine.output.read(place.run, stream, begin, size - begin) if size > begin else b""
            if begin > first:
                # A line that is cut says nothing.
                text = text[text.find(b"\n") + 1 :]
            logs = f"/api/v1/jobs/{record.id}/logs"
            choice = {"stream": name, "replica": str(replica)}
            panes.append(
                OutputPane(
                    stream=name,
                    text=text.decode("utf-8", "replace"),
                    offset=begin + len(text) if begin == first else size,
                    cut=begin > first,
                    whole_url=_url(logs, choice),
                    follow_url=_url(logs, choice | {"follow": "true"}) if live else "",
                )
            )
        return panes

    async def _cancel(self, request: AnyRequest, caller: Caller, ref: str) -> Response[bytes]:
        record = await find_own(request, ref)
        if request.method == "GET":
            row = view.row(record, self._engine.clock(), True)
            return page("confirm.html", title="Stop a job", job=row, **self._common(caller))
        after = local_path(str((await request.form()).get("next") or "")) or f"/job/{record.id}?stopped=1"
        try:
            await self._context.service.cancel(record)
        except Conflict as error:
            return _refused(error.status, "It has ended already", error.detail)
        return redirect(after)

    # The form -------------------------------------------------------------------------------------------------------

    async def _submit(self, request: AnyRequest, caller: Caller) -> Response[bytes]:
        caller.must_submit()
        form = {name: str(value) for name, value in (await request.form()).items() if value}
        try:
            asked = self._submitter.read(request, _parameters(form), b"")
            number = await self._submitter.take(request, asked)
        except Refused as refused:
            return self._form(caller, form, _errors(refused.body), refused.status)
        return self._form(caller, form, [], submitted={"id": number, "f58": f58(number)})

    def _form(
        self,
        caller: Caller,
        values: Mapping[str, str],
        errors: list[str],
        status: int = 200,
        submitted: dict[str, Any] | None = None,
    ) -> Response[bytes]:
        server = self._submitter.server()
        return page(
            "form.html",
            status,
            title="Submit a job",
            values=values,
            errors=errors,
            submitted=submitted,
            launchers=self._settings.launchers,
            nodes=server.nodes,
            gpus=server.gpus,
            **self._common(caller),
        )


def _parameters(form: Mapping[str, str]) -> dict[str, Any]:
    """The form's fields as the API has them: options with or without `-o`, one variable a line."""
    values: dict[str, Any] = dict(form)
    if "option_flags" in values:
        values["option_flags"] = " ".join(word.removeprefix("-o") for word in values["option_flags"].split())
    if "envars" in values:
        lines = [line.strip() for line in values["envars"].splitlines() if line.strip()]
        values["envars"] = dict(line.partition("=")[::2] for line in lines)
    return values


def _errors(body: Mapping[str, Any]) -> list[str]:
    if "Errors" in body:
        return list(body["Errors"])
    found = body.get("detail")
    if isinstance(found, list):
        return [f"{item['loc'][-1]}: {item['msg']}" for item in found]
    return [str(body.get("Error") or body.get("Message") or found)]


def _refused(status: int, title: str, text: str) -> Response[bytes]:
    return page("refused.html", status, title=title, text=text)


def _login(status: int) -> Response[bytes]:
    return page("login.html", status, title="Log in", message="", name="", next="/")


def _static(request: AnyRequest, name: str) -> Response[bytes]:
    kind = FILES.get(name)
    if kind is None:
        return _refused(404, "There is no such file", f"There is nothing by the name of {name[:100]!r}.")
    content, tag = file(name)
    headers = {
        "ETag": tag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": HEADERS["Content-Security-Policy"],
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def _query(request: AnyRequest) -> dict[str, str]:
    text = request.scope["query_string"].decode("latin-1")
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=_FIELDS))
    except ValueError:
        return {}


def _here(request: AnyRequest) -> str:
    """Path and query of the request."""
    return _url(quote(request.scope["path"]), _query(request))


def _url(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
