"""The gate before every door: where a request comes from, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send, WebSocketReceiveMessage

from runyard.api.problem import MEDIA_TYPE, problem_body
from runyard.api.socket import refuse_socket
from runyard.api.tango.address import report_path
from runyard.auth.origin import OriginRules, refusal
from runyard.model.errors import Forbidden, NotFound, RunyardError, TooLarge

#: Body and headers of a refusal.
Shape = Callable[[RunyardError], tuple[bytes, Mapping[str, str]]]


class Gate:
    """ASGI middleware. Refuses what comes from a foreign page or for a foreign host, and bodies past `max_body`."""

    def __init__(
        self, app: ASGIApp, rules: OriginRules, max_body: int, shapes: Mapping[str, Shape] = MappingProxyType({})
    ) -> None:
        """`shapes`: how refusals look at paths that begin so; elsewhere they are problem documents."""
        self._app = app
        self._shapes = shapes
        self._rules = rules
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._socket(scope, receive, send)
            return
        report = report_path(scope["path"], scope["query_string"])
        if report is not None:
            scope["path"] = report
            scope["raw_path"] = report.encode()
        host = origin = site = length = None
        chunked = False
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                chunked = True
        # Reports carry made-up headers, and can only report (design, section 6).
        reason = refusal(self._rules, host, origin, site) if report is None else None
        if reason is not None:
            await self._refuse(scope, send, Forbidden(reason))
            return
        if length is not None and length.isdigit() and int(length) > self._max_body:
            await self._refuse(scope, send, self._too_large())
            return
        if chunked:
            await self._count(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Browsers let any page open a WebSocket anywhere: nothing but this keeps it out."""
        head = dict(scope["headers"])
        reason = refusal(self._rules, head.get(b"host"), head.get(b"origin"), head.get(b"sec-fetch-site"))
        if reason is not None:
            await refuse_socket(send, Forbidden(reason))
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            if not begun and message["type"] == "websocket.close":
                # Litestar's way to say that there is no such route.
                return
            begun = True
            await send(message)

        await self._app(scope, receive, watched)
        if not begun:
            await refuse_socket(send, NotFound("there is no WebSocket at this address"))

    async def _refuse(self, scope: Scope, send: Send, error: RunyardError) -> None:
        path = scope["path"]
        shape = next((shape for prefix, shape in self._shapes.items() if path.startswith(prefix)), _problem)
        body, headers = shape(error)
        head = [(b"content-length", str(len(body)).encode()), _CLOSE]
        head += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": error.status, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._max_body} bytes ([server] max_body): send it in parts",
            limit=self._max_body,
        )

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """For bodies without a length: stops reading when there is too much."""
        seen = 0

        async def counted() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_body:
                    raise self._too_large()
            return message

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and seen > self._max_body:
                message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        await self._app(scope, counted, closing)


#: The rest of the request is not read.
_CLOSE = (b"connection", b"close")


def _problem(error: RunyardError) -> tuple[bytes, Mapping[str, str]]:
    return msgspec.json.encode(problem_body(error)), {"Content-Type": MEDIA_TYPE}
