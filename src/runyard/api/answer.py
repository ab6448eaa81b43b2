"""Answers that are JSON already, sent without the detours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send


class JsonAnswer(Response[bytes]):
    """Litestar's own response makes header objects, cookies and encoders for each answer: a tenth of a small request.

    Not for answers to HEAD.
    """

    def __init__(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(body, status_code=status, media_type="application/json", headers=dict(headers or {}))

    def to_asgi_response(self, app: Any, request: Any, **_: Any) -> ASGIResponse:
        return _Send(self.status_code or 200, self.content, self.headers)


class _Send(ASGIResponse):
    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        length = str(len(body)).encode()
        self._head = [*head, (b"content-type", b"application/json"), (b"content-length", length)]
        self._status, self._body = status, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self._status, "headers": self._head})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})
