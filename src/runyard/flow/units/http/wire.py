"""HTTP/1.1 on one connection: requests come in whole, and are answered in their order.

Bounds: a request's head, its body, the bodies that all connections hold together, the time to send a request and to
take an answer. Past a bound the client gets 413, 414, 431, 503 or 408, and the connection ends.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

import httptools

MAX_TARGET = 16 * 1024
"""Bytes of a request's target."""
MAX_HEAD = 64 * 1024
"""Bytes of all the header names and values of a request."""
MAX_HEADERS = 256
MAX_CONNECTIONS = 10_000
REQUEST_TIME = 60.0
"""Seconds for a client to send a request, once begun, and to take its answer."""
LINGER = 2.0
"""Seconds that a refused client may go on sending, unread, so that it sees why."""

_METHOD = re.compile(rb"[A-Z]{1,32} /")
_SAFE = (
    b"Referrer-Policy: strict-origin-when-cross-origin\r\n"
    b"Content-Security-Policy: default-src 'self'  data: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    b"frame-ancestors 'none'\r\n"
    b"X-Frame-Options: DENY\r\n"
)


class Exchange:
    """A request, and the answer that it is owed."""

    __slots__ = ("_wire", "answered", "body", "headers", "keep_alive", "method", "target")

    def __init__(
        self, wire: Wire, method: str, target: str, headers: dict[str, str], body: bytes, keep_alive: bool
    ) -> None:
        self._wire: Wire | None = wire
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.answered = False

    @property
    def path(self) -> str:
        """The target without the query."""
        return self.target.partition("?")[0]

    def answer(self, status: int, body: bytes = b"", kind: bytes = b"", more: bytes = b"", safe: bool = True) -> bool:
        """Sends the answer, in the thread of the loop; False if there is one already, or nobody to take it.

        `kind` is the content type; `more` are further header lines, each with its end; `safe` adds the safe headers.
        """
        if self.answered:
            return False
        self.answered = True
        wire, self._wire = self._wire, None
        if wire is None:
            return False
        wire.send(self, status, body, kind, more, safe)
        return True

    def drop(self) -> None:
        """The client has gone."""
        self._wire = None


class Service(Protocol):
    """What a connection needs of its listener."""

    max_body: int
    max_held: int
    held: int
    """Bytes of bodies that all the connections hold now."""
    wires: set[Wire]
    closing: bool

    def serve(self, exchange: Exchange) -> None:
        """Takes a request in. It is answered at once or later."""


class Wire(asyncio.Protocol):
    """One connection."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._paused = False
        self._writable = True
        self._refused = False
        self._unfinished = False
        self._closing = False
        self._held = 0
        self._reset()
        self.since = loop.time()
        """When what this connection waits for began: a request's first byte, the last answer, a full send buffer."""
        self.busy = False
        """Whether a request is on its way in, or an answer on its way out; else the connection is idle."""

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._expects = False

    # The transport's calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._service.wires) >= MAX_CONNECTIONS:
            transport.abort()  # type: ignore[attr-defined]
            return
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclasses
        self._service.wires.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.wires.discard(self)
        self._release(self._held)
        self._transport = None
        self._closing = True
        for exchange in (self._current, *self._waiting):
            if exchange is not None:
                exchange.drop()
        self._waiting.clear()
        self._current = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if not self.busy and self._current is None:
            self.busy = True
            self.since = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request was answered as HTTP/1.1, and was the last one: what follows would be another protocol.
            self._refused = True
        except httptools.HttpParserError as error:
            reason = str(error.__context__ or error)
            if isinstance(error, httptools.HttpParserInvalidMethodError) and _METHOD.match(data):
                self._refuse(405)
            elif "overflow" in reason:
                self._refuse(413)
            else:
                self._refuse(400, reason.encode())

    def eof_received(self) -> bool:
        """A client that has sent its last request may still wait for the answer."""
        self._closing = True
        return self._current is not None or bool(self._waiting)

    def pause_writing(self) -> None:
        self._writable = False
        self.busy = True
        self.since = self._loop.time()

    def resume_writing(self) -> None:
        self._writable = True
        self.busy = False
        self.since = self._loop.time()
        self._next()

    # The parser's calls -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > MAX_TARGET:
            self._refuse(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD or len(self._headers) >= MAX_HEADERS:
            self._refuse(431)
            return
        key, text = name.decode("latin-1"), value.decode("latin-1")
        old = self._headers.get(key)
        self._headers[key] = text if old is None else f"{old}, {text}"
        if len(key) == 6 and key.lower() == "expect" and text.lower() == "100-continue":
            self._expects = True
        elif len(key) == 14 and key.lower() == "content-length" and _longer(text, self._service.max_body):
            self._refuse(413)

    def on_headers_complete(self) -> None:
        if self._expects and not self._refused and self._transport is not None and self._current is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._body.append(body)
        self._body_size += len(body)
        self._held += len(body)
        service = self._service
        service.held += len(body)
        if self._body_size > service.max_body:
            self._refuse(413)
        elif service.held > service.max_held:
            self._refuse(503)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        parser = self._parser
        exchange = Exchange(
            self,
            parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            self._headers,
            b"".join(self._body) if len(self._body) != 1 else self._body[0],
            parser.should_keep_alive() and not parser.should_upgrade(),
        )
        self.busy = False
        if self._current is None and self._writable:
            self._current = exchange
            self._service.serve(exchange)
            return
        self._waiting.append(exchange)
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    # Answers ------------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange, status: int, body: bytes, kind: bytes, more: bytes, safe: bool) -> None:
        """Writes the answer of the current exchange, and goes on to the next."""
        transport = self._transport
        if transport is None:
            return
        keep = exchange.keep_alive and not self._service.closing and (not self._closing or bool(self._waiting))
        head = b"%bContent-Length: %d\r\n\r\n" % (
            _head(status, kind, more, safe, keep, int(self._loop.time())),
            len(body),
        )
        transport.write(head + body if len(body) < 65536 else head)
        if len(body) >= 65536:
            transport.write(body)
        self._release(len(exchange.body))
        self._current = None
        if not keep:
            self._refused = True
            self._hang_up(transport)
            return
        if self._writable:
            self.since = self._loop.time()
            if self._waiting or self._paused:
                # Not from here: a pipeline of requests that are answered at once would nest as deep as it is long.
                self._loop.call_soon(self._next)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Ends the connection so that the answer gets through: a close with unread data would take it back."""
        if self._unfinished and transport.can_write_eof():
            transport.write_eof()
            self._loop.call_later(LINGER, transport.close)
        else:
            transport.close()

    def _next(self) -> None:
        """Takes the next of the waiting requests, or reads on."""
        if self._current is not None or not self._writable or self._transport is None:
            return
        if self._waiting:
            self._current = self._waiting.popleft()
            self._service.serve(self._current)
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _refuse(self, status: int, reason: bytes = b"") -> None:
        """Answers what is no acceptable request, and ends the connection; requests before it are dropped."""
        if self._refused or self._transport is None:
            return
        exchange = Exchange(self, "", "", {}, b"", False)
        self._unfinished = True
        for older in (self._current, *self._waiting):
            if older is not None:
                older.drop()
        self._waiting.clear()
        self._refused = True
        exchange.answer(status, reason, b"text/plain;charset=utf-8" if reason else b"")

    def expire(self, now: float, idle: float) -> None:
        """Ends the connection if its client has been silent for too long; `idle` is the time between requests."""
        if self._transport is None:
            return
        if self.busy and now - self.since > REQUEST_TIME:
            if self._writable and self._current is None:
                self._refuse(408)
            else:
                self._transport.abort()
        elif not self.busy and self._current is None and now - self.since > idle:
            self._transport.close()

    def end(self) -> None:
        """Ends the connection, after the answers that were written."""
        if self._transport is not None:
            self._transport.close()

    def _release(self, count: int) -> None:
        count = min(count, self._held)
        self._held -= count
        self._service.held -= count


def _longer(length: str, bound: int) -> bool:
    """Whether a `Content-Length` is beyond the bound. What is no number is the parser's to refuse."""
    return length.isdecimal() and (len(length) > 19 or int(length) > bound)


@lru_cache(maxsize=256)
def _head(status: int, kind: bytes, more: bytes, safe: bool, keep: bool, second: int) -> bytes:
    """An answer's head up to the length of its body. `second` is the clock's, so that the date is made anew in time."""
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {formatdate(usegmt=True)}\r\n".encode()
    if kind:
        head += b"Content-Type: " + kind + b"\r\n"
    if safe:
        head += _SAFE
    return head + more + (b"Connection: keep-alive\r\n" if keep else b"Connection: close\r\n")
