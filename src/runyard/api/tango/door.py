"""The routes of the TANGO door. They can only report: of a project, a step of it, and how that stands.

Requests of real members carry made-up `Host` and `Origin` headers and no credentials (spec/tango.md 1.4): the gate and
the check of credentials pass these routes over. `[doors.tango] allow` says who may call.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
from litestar import Response, Router, route

from runyard.api.access import PUBLIC
from runyard.api.context import AnyRequest, Context
from runyard.model.errors import ConfigError, Forbidden, NotFound, RunyardError, TooLarge
from runyard.project.update import MAX_UPDATE, read_json, read_update
from runyard.project.wire import ALIASES, MANAGER_OPERATIONS, BadReport, bare, read_report, read_target
from runyard.service.projects import Projects
from runyard.settings import Tango

#: Bytes of a report's body, where it has one.
MAX_REPORT = 2 * MAX_UPDATE
_METHODS: list[Any] = ["GET", "HEAD", "POST", "OPTIONS"]
_OK = b'{"status":200}'


class TangoDoor:
    """One for each server."""

    def __init__(self, context: Context, settings: Tango) -> None:
        self._context = context
        self._compat = settings.compat_errors_200
        try:
            self._allow = [ipaddress.ip_network(text, strict=False) for text in settings.allow]
        except ValueError as error:
            raise ConfigError(f"doors.tango.allow: {error}") from None

    def router(self) -> Router:
        @route("/status_report", http_method=_METHODS, include_in_schema=False, opt=PUBLIC, name="tango-report")
        async def status_report(request: AnyRequest) -> Response[bytes]:
            return await self._answer(request, self._report)

        @route("/status_update", http_method=_METHODS, include_in_schema=False, opt=PUBLIC, name="tango-update")
        async def status_update(request: AnyRequest) -> Response[bytes]:
            return await self._answer(request, self._update)

        return Router(path="/", route_handlers=[status_report, status_update])

    async def _answer(self, request: AnyRequest, act: Any) -> Response[bytes]:
        if request.method == "OPTIONS":
            # The first web pages called members directly, and members answer this way.
            headers = {"Allow": ", ".join(_METHODS), "Access-Control-Allow-Origin": "*"}
            return Response(b"", status_code=200, headers=headers)
        status, body = 200, _OK
        try:
            self._check_peer(request)
            await act(request)
        except BadReport as error:
            status, body = 400, _error(str(error))
        except RunyardError as error:
            status, body = error.status, _error(error.detail)
        if self._compat and status < 500:
            status = 200
        headers = {"Retry-After": "1"} if status in (503, 507) else {}
        return Response(body, status_code=status, headers=headers, media_type="application/json")

    def _check_peer(self, request: AnyRequest) -> None:
        if not self._allow:
            return
        client = request.scope.get("client")
        try:
            peer = ipaddress.ip_address(client[0]) if client else None
        except ValueError:
            peer = None
        if peer is None or not any(peer in network for network in self._allow):
            raise Forbidden("reports are taken from the addresses in [doors.tango] allow only")

    @property
    def _projects(self) -> Projects:
        projects = self._context.projects
        if projects is None:
            raise NotFound("this server has no projects")
        return projects

    async def _report(self, request: AnyRequest) -> None:
        given = {name: value for name, value in (await _parameters(request)).items() if isinstance(value, str)}
        await self._projects.report(read_report(given))

    async def _update(self, request: AnyRequest) -> None:
        given = await _parameters(request)
        names: dict[str, str] = {}
        for name in ("container_id", "user_id", "project_id"):
            names[name] = bare(str(given.get(name) or ""))
            if not names[name]:
                raise BadReport(f"{name} is missing: an update says container_id, user_id, project_id and update_id")
        kind, content = read_update(given)
        container, user, project = names.values()
        message = await self._projects.update(user, project, container, kind, content)
        if message is not None:
            await self._context.messages.append([message])


async def _parameters(request: AnyRequest) -> dict[str, Any]:
    """The parameters of the query, and of a body as JSON or as a form; what stands in the query counts."""
    query = request.scope["query_string"].decode("latin-1")
    _, found = read_target("/", query, MANAGER_OPERATIONS)
    values: dict[str, Any] = dict(found)
    if request.method != "POST":
        return values
    body = await request.body()
    if len(body) > MAX_REPORT:
        raise TooLarge(f"a report is at most {MAX_REPORT} bytes long", limit=MAX_REPORT)
    text = body.strip()
    if text.startswith(b"{"):
        given: dict[str, Any] = read_json(text)
        return {ALIASES.get(key, key): value for key, value in given.items()} | values
    if text:
        _, form = read_target("/", text.decode("utf-8", "replace"), MANAGER_OPERATIONS)
        values = dict(form) | values
    return values


def _error(message: str) -> bytes:
    return msgspec.json.encode({"status": "error", "message": message})
