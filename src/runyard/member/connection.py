"""One connection to a member: HTTP requests come in, bounded in size and time, and are answered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, cast

import httptools

#: Bytes of a request's line and headers, and of its body.
MAX_HEAD, MAX_BODY = 16 * 1024, 64 * 1024
#: Seconds from a request's first byte to its last; without a request; and for a client to hear why it is refused.
REQUEST_TIME, IDLE_TIME, LINGER = 10.0, 120.0, 2.0

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request(NamedTuple):
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """By name, in lower case."""
    body: bytes


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Respond = Callable[[Request], Awaitable[Answer]]


class Connection(asyncio.Protocol):
    """`opened` and `closed` tell whoever counts connections."""

    def __init__(
        self, respond: Respond, opened: Callable[[Connection], None], closed: Callable[[Connection], None]
    ) -> None:
        self._respond = respond
        self._opened, self._closed = opened, closed
        self._transport: asyncio.Transport | None = None
        self._requests: deque[tuple[Request, bool]] = deque()
        self._work: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._fault: tuple[int, str] | None = None
        """Status and reason: what follows can't be understood, and is passed over."""
        # The request that comes in: whether its first byte is there, and its last header; and bytes of its head, as
        # they were received and as they were understood.
        self._begun = self._headed = False
        self._received = self._size = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    @property
    def busy(self) -> bool:
        """A whole request is being answered."""
        return self._work is not None

    @property
    def _deaf(self) -> bool:
        return self._fault is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._watch(IDLE_TIME, self.abort)
        self._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if not self._begun and not self.busy:
            self._begun = True
            self._watch(REQUEST_TIME, self._late)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._blame(400, "there is only HTTP/1.1 here")
        except httptools.HttpParserError as error:
            self._blame(400, f"this is no HTTP request ({error})")
        if not self._headed:
            self._received += len(data)
            self._check_head(self._received)
        if self._fault is not None:
            self.refuse(*self._fault)

    def refuse(self, status: int, text: str) -> None:
        """Says why, and hangs up once the client had time to hear it: closing at once would reset the connection."""
        self._fault = status, text
        if self._transport is not None and not self._transport.is_closing():
            self._requests.clear()
            self._write(Answer(status, text.encode()), keep=False, head=False)
            self._transport.write_eof()
            self._transport.resume_reading()
            self._watch(LINGER, self.abort)

    def _blame(self, status: int, text: str) -> None:
        # The first fault is the cause of the others.
        if self._fault is None:
            self._fault = status, text

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD:
            self._blame(431, f"the request's head has more than {MAX_HEAD} bytes")

    # From the parser ----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun, self._headed = True, False
        self._received = self._size = 0
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        self._check_head(self._size + len(self._url))
        self._headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._headed = True
        self._check_head(len(self._url))

    def on_body(self, body: bytes) -> None:
        if len(self._body) + len(body) > MAX_BODY:
            self._blame(413, f"the body has more than {MAX_BODY} bytes")
        if self._fault is None:
            self._body += body

    def on_message_complete(self) -> None:
        if self._fault is not None:
            return
        self._begun = False
        # Not urlsplit: `//` and `:` have no meaning here.
        path, _, query = self._url.decode("latin-1").partition("?")
        if path.startswith(("http://", "https://")):
            path = "/" + path.partition("//")[2].partition("/")[2]
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, path, query, self._headers, bytes(self._body))
        self._requests.append((request, self._parser.should_keep_alive()))
        if self._work is None:
            assert self._transport is not None
            # Nothing more is read until this one is answered.
            self._transport.pause_reading()
            if self._timer is not None:
                self._timer.cancel()
            self._work = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        while self._requests:
            request, keep = self._requests.popleft()
            try:
                answer = await self._respond(request)
            except Exception as error:
                # Somebody waits for an answer, and a connection that is busy never gives way.
                answer = Answer(500, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
            if self._transport is None or self._fault is not None:
                break
            self._write(answer, keep, head=request.method == "HEAD")
            if not keep:
                self._transport.close()
                break
        self._work = None
        if self._transport is not None and not self._transport.is_closing() and self._fault is None:
            self._transport.resume_reading()
            if self._begun:
                self._watch(REQUEST_TIME, self._late)
            else:
                self._watch(IDLE_TIME, self.abort)

    def _write(self, answer: Answer, keep: bool, head: bool) -> None:
        assert self._transport is not None
        lines = [
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        text = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        self._transport.write(text if head else text + answer.body)

    def _watch(self, seconds: float, act: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, act)

    def _late(self) -> None:
        self.refuse(408, f"the request did not end within {REQUEST_TIME:g} s")

    def abort(self) -> None:
        """Hangs up at once."""
        if self._transport is not None:
            self._transport.abort()
