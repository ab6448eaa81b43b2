"""Who made a request, for handlers; and what a specification may ask for. `runyard.auth.caller` has the rules.

While accounts are on, `Credentials` stands before each handler of every front door. What it finds out lies in the ASGI
scope; what it refuses goes to the exception handlers of the door. Two options of a route change that:

* `opt=PUBLIC`: the route needs no credentials, and none are looked at;
* `opt=DOOR`: the handler calls `caller_of` itself, which raises what would have been raised: for doors that make
  their own answers of everything.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from runyard.api.context import AnyRequest, Context, context_of
from runyard.api.socket import refuse_socket
from runyard.auth.audit import Call
from runyard.auth.authenticator import Authenticator
from runyard.auth.caller import Caller, Role
from runyard.core.record import JobRecord
from runyard.model.check import refuse
from runyard.model.errors import RunyardError, Unauthenticated
from runyard.model.event import AUDIT, Event
from runyard.model.job import Condition, Dependency, JobSpec

#: Where the credentials' check leaves the caller in the ASGI scope, or why there is none.
CALLER = "runyard.caller"
#: The cookie that holds a browser's token.
SESSION = b"runyard-session"
PUBLIC = {"credentials": "none"}
DOOR = {"credentials": "asked for by the door"}

AnyConnection = ASGIConnection[Any, Any, Any, Any]


class Credentials:
    """Litestar's middleware around each route handler. (A guard would have the handler copied for each request.)"""

    def __init__(self, app: ASGIApp, auth: Authenticator) -> None:
        self._app = app
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = scope["route_handler"].opt.get("credentials")
        if wanted != PUBLIC["credentials"]:
            found: Caller | RunyardError
            try:
                found = await self._auth.identify(_authorization(scope), _call(scope))
                if scope.get("method", "GET") in ("GET", "HEAD"):
                    found.must_read()
            except RunyardError as error:
                if scope["type"] == ScopeType.WEBSOCKET:
                    await refuse_socket(send, error)
                    return
                if wanted != DOOR["credentials"]:
                    raise
                found = error
            scope[CALLER] = found  # type: ignore[literal-required]
        await self._app(scope, receive, send)


def caller_of(request: AnyRequest) -> Caller:
    """The caller of this request; while accounts are off, the user who runs the server, as an admin.

    Raises Unauthenticated if accounts are on and the request proves nobody; also Disabled and TooMany.
    """
    found: Caller | RunyardError | None = request.scope.get(CALLER)  # type: ignore[assignment]
    if isinstance(found, Caller):
        return found
    if found is not None:
        raise found
    context = context_of(request)
    if context.auth is not None and context.auth.enabled:
        raise Unauthenticated("credentials are needed")
    return Caller(context.owner)


def authorization_of(connection: AnyConnection) -> bytes | None:
    """The raw `Authorization` header; else what a browser's session cookie stands for.

    A cookie comes with requests that other sites make, too: `runyard.api.gate` refuses those.
    """
    return _authorization(connection.scope)


def _authorization(scope: Any) -> bytes | None:
    session: bytes | None = None
    header: bytes
    value: bytes
    for header, value in scope["headers"]:
        if header == b"authorization":
            return value
        if header == b"cookie":
            session = session or session_of(value)
    return None if session is None else b"Bearer " + session


def session_of(cookies: bytes) -> bytes | None:
    """The session in a `Cookie` header."""
    for part in cookies.split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == SESSION:
            return value
    return None


def call_of(connection: AnyConnection) -> Call:
    """The request, as the audit trail and the limits on failed logins know it."""
    return _call(connection.scope)


def _call(scope: Any) -> Call:
    client = scope.get("client")
    return Call(client[0] if client else "local", scope.get("method", ""), scope["path"])


async def permitted(request: AnyRequest, specs: Sequence[JobSpec | RunyardError]) -> list[JobSpec | RunyardError]:
    """The specifications as the caller may submit them: with the account they run as, or with the reason why not.

    Every door calls this before `Service.submit`. Raises Forbidden if the caller may submit nothing.
    """
    caller = caller_of(request)
    caller.must_submit()
    if caller.is_admin and caller.os_user is None:
        return list(specs)
    names = {spec.name for spec in specs if isinstance(spec, JobSpec) and spec.name is not None}
    made: list[JobSpec | RunyardError] = []
    for spec in specs:
        try:
            made.append(await _permitted(request, caller, spec, names) if isinstance(spec, JobSpec) else spec)
        except RunyardError as error:
            made.append(error)
    return made


async def _permitted(request: AnyRequest, caller: Caller, spec: JobSpec, names: set[str]) -> JobSpec:
    context = context_of(request)
    if caller.role is Role.USER and spec.after:
        after = [await _seen_need(context, caller, item, names) for item in spec.after]
        spec = msgspec.structs.replace(spec, after=after)
    return _as_account(caller, spec, context.min_uid)


async def _seen_need(context: Context, caller: Caller, item: str | Dependency, names: set[str]) -> str | Dependency:
    """What the job waits for, which tells how that went: a name means one's own job first. Raises Forbidden."""
    ref, condition = (item, None) if isinstance(item, str) else (item.job, item.condition)
    own = None if ref in names else await context.service.look_up(ref, caller.name)
    if own is None:
        return item
    caller.must_see(own.owner)
    newest = await context.service.look_up(ref)
    if condition == Condition.IDLE or newest is None or newest.id == own.id:
        return item
    return str(own.id) if isinstance(item, str) else msgspec.structs.replace(item, job=str(own.id))


def _as_account(caller: Caller, spec: JobSpec, min_uid: int) -> JobSpec:
    """Sees to the account of the operating system. Raises Forbidden, InvalidInput."""
    own = caller.os_user
    if spec.user is not None or spec.group is not None:
        if caller.is_admin:
            return spec
        if spec.group is not None or spec.user != own:
            raise caller.refused("only admins choose the account of the operating system that a job runs as")
    if own is None:
        return spec
    try:
        entry = pwd.getpwnam(own)
    except KeyError:
        raise refuse("user", own, "there is no such account on this host, and jobs run as their owners") from None
    if entry.pw_uid < min_uid and not caller.is_admin:
        raise caller.refused(
            f"jobs can't run as {own!r}: its number {entry.pw_uid} is below [auth] min_uid ({min_uid})"
        )
    if entry.pw_uid == os.geteuid():
        return spec
    # The server's own folder is closed to them. An account without a home begins at the root.
    home = entry.pw_dir if os.path.isdir(entry.pw_dir) else "/"
    return msgspec.structs.replace(spec, user=own, cwd=spec.cwd or home)


def owner_filter(caller: Caller, wanted: str | None) -> str | None:
    """Whose jobs a list shows: `wanted` if given. None means everybody's. Raises Forbidden."""
    if wanted is not None:
        caller.must_see(wanted)
        return wanted
    return caller.name if caller.role is Role.USER else None


async def find_seen(request: AnyRequest, ref: str) -> JobRecord:
    """The job that a reference means, if the caller may see it. Raises NotFound, Forbidden."""
    record = await _find(request, ref)
    caller_of(request).must_see(record.owner)
    return record


async def find_own(request: AnyRequest, ref: str) -> JobRecord:
    """The job that a reference means, if the caller may change it. Raises NotFound, Forbidden."""
    record = await _find(request, ref)
    caller_of(request).must_change(record.owner)
    return record


async def _find(request: AnyRequest, ref: str) -> JobRecord:
    caller = caller_of(request)
    own = caller.name if caller.role is Role.USER else None
    return await context_of(request).service.find(ref, own)


async def visible(request: AnyRequest, events: Collection[Event]) -> list[Event]:
    """Those of the events that the caller may see: of jobs that it may see, and of nodes; to admins all."""
    caller = caller_of(request)
    if caller.is_admin:
        return list(events)
    shown = [event for event in events if not event.type.startswith(AUDIT)]
    if caller.role is not Role.USER:
        return shown
    owners = await context_of(request).owners({event.job for event in shown if event.job})
    return [event for event in shown if not event.job or owners.get(event.job) == caller.name]
