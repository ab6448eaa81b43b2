"""The gate before every door: where a request comes from, and how large it may be."""

from __future__ import annotations

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send, WebSocketReceiveMessage

from runyard.api.problem import MEDIA_TYPE, problem_body
from runyard.auth.origin import OriginRules, refusal
from runyard.model.errors import Forbidden, RunyardError, TooLarge


class Gate:
    """ASGI middleware. Refuses what comes from a foreign page or for a foreign host, and bodies past `max_body`."""

    def __init__(self, app: ASGIApp, rules: OriginRules, max_body: int) -> None:
        self._app = app
        self._rules = rules
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        host = origin = site = length = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"content-length":
                length = value
        reason = refusal(self._rules, host, origin, site)
        if reason is not None:
            await _refuse(send, Forbidden(reason))
            return
        if length is not None and length.isdigit() and int(length) > self._max_body:
            await _refuse(send, self._too_large())
            return
        if length is not None or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        else:
            await self._count(scope, receive, send)

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


async def _refuse(send: Send, error: RunyardError) -> None:
    body = msgspec.json.encode(problem_body(error))
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        _CLOSE,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
