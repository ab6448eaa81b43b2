"""A small HTTP client for calls to members: many connections kept open, few bytes read, and never waiting for long.

Made by measurement: a heartbeat through httpx2 costs tens of times as much as through this (bench/tango.py), and
thousands of members are asked every other second. It knows GET, and keeps of an answer only what a reply can be long.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urljoin, urlsplit

import httptools
import msgspec

from runyard.project.wire import Address, address_of

MAX_REDIRECTS = 3
#: Bytes of an answer that are read: its head, and what chunks and trailers put around its body.
MAX_READ = 128 * 1024
#: Connections that are kept for one address, and seconds after which one that is not used is closed.
KEPT, IDLE = 64, 30.0


class Unreachable(Exception):
    """No connection could be made: nothing was sent. Says why."""


class Silent(Exception):
    """The request went out, and no answer came that could be used. Says why."""


class Answer(NamedTuple):
    status: int
    body: bytes
    """The first bytes, as many as were asked for at most."""
    location: str


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds."""

    connect: float = 2.0
    read: float = 5.0


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, client: Client, address: Address) -> None:
        self._client = client
        self.address = address
        self.transport: asyncio.Transport | None = None
        self.idle: asyncio.TimerHandle | None = None
        self.answered = False
        """The connection was good for an answer before."""
        self._waiting: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._limit = self._left = 0
        self._is_whole: Callable[[bytes], bool] = lambda _: False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none of asyncio's by type.
        self.transport = cast("asyncio.Transport", transport)

    def ask(
        self, target: str, limit: int, patience: float, is_whole: Callable[[bytes], bool]
    ) -> asyncio.Future[Answer]:
        """Sends the request; the future gets the answer, Silent, or ConnectionError if nothing at all came back."""
        loop = asyncio.get_running_loop()
        self._waiting = waiting = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._status, self._body, self._location, self._seen = 0, b"", "", False
        self._limit, self._is_whole, self._left = limit, is_whole, MAX_READ
        self._timer = loop.call_later(patience, self._late)
        assert self.transport is not None
        # The header on a request without a body is the real project manager's (spec 1.3).
        self.transport.write(
            f"GET {target} HTTP/1.1\r\nHost: {self.address.header}\r\nAccept: */*\r\nContent-Type: text/plain\r\n"
            "User-Agent: runyard\r\n\r\n".encode("latin-1", "replace")
        )
        return waiting

    # From the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self._location = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body += body[: self._limit - len(self._body)]

    def on_message_complete(self) -> None:
        if 100 <= self._status < 200:
            self._status = 0
            return
        self._done(keep=self._parser.should_keep_alive())

    # From the transport

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            # Nobody has asked.
            self._abort()
            return
        self._seen = True
        self._left -= len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Silent("it answered with another protocol"))
        except httptools.HttpParserError as error:
            self._fail(Silent(f"its answer is no HTTP ({error})"))
        else:
            self._look()

    def _look(self) -> None:
        """Ends an answer that need not be waited for, or is too long."""
        if self._waiting is None:
            return
        if len(self._body) >= self._limit or (self._status == 200 and self._is_whole(self._body)):
            self._done(keep=False)
        elif self._left < 0:
            self._late("its answer is too long")

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._client.lost(self)
        if self._waiting is None:
            return
        if self._status:
            # An answer without a length ends with the connection.
            self._done(keep=False)
        elif self._seen:
            self._fail(Silent("it closed the connection in the middle of its answer"))
        else:
            self._settle(ConnectionError("it closed the connection without an answer"))

    def _late(self, why: str = "it did not answer in time") -> None:
        if self._status and self._body:
            self._done(keep=False)
        else:
            self._fail(Silent(why))

    def _done(self, keep: bool) -> None:
        self.answered = True
        self._settle(Answer(self._status, self._body, self._location))
        if keep:
            self._client.keep(self)
        else:
            self._abort()

    def _fail(self, error: Exception) -> None:
        self._settle(error)
        self._abort()

    def _settle(self, outcome: Answer | Exception) -> None:
        waiting, self._waiting = self._waiting, None
        if self._timer is not None:
            self._timer.cancel()
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, Answer):
            waiting.set_result(outcome)
        else:
            waiting.set_exception(outcome)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Client:
    """Calls from one event loop. Close it at the end."""

    def __init__(self, timeouts: Timeouts | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        self._idle: dict[Address, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def get(
        self,
        url: str,
        *,
        limit: int,
        is_whole: Callable[[bytes], bool] = lambda _: False,
        once: bool = False,
    ) -> Answer:
        """The answer to GET, redirects followed. `is_whole` says of a body that has begun that it need not be waited
        for. With `once` the request is sent at most once: not a second time where a kept connection proves dead.

        Raises Unreachable or Silent.
        """
        for _ in range(MAX_REDIRECTS + 1):
            try:
                address = address_of(url)
            except ValueError as error:
                raise Silent(f"the address {url[:200]!r} {error}") from None
            parts = urlsplit(url)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            answer = await self._ask(address, target, limit, is_whole, once)
            if answer.status not in (301, 302, 307, 308) or not answer.location:
                return answer
            try:
                url = urljoin(url, answer.location)
            except ValueError:
                raise Silent(f"it redirects to {answer.location[:100]!r}, which is no address") from None
        raise Silent("it redirects again and again")

    async def _ask(
        self, address: Address, target: str, limit: int, is_whole: Callable[[bytes], bool], once: bool
    ) -> Answer:
        kept = self._idle.get(address)
        if kept and not once:
            connection = kept.pop()
            if connection.idle is not None:
                connection.idle.cancel()
            try:
                return await connection.ask(target, limit, self._timeouts.read, is_whole)
            except ConnectionError:
                # It was closed while nobody used it.
                pass
        connection = await self._connect(address)
        try:
            return await connection.ask(target, limit, self._timeouts.read, is_whole)
        except ConnectionError as error:
            raise Silent(str(error)) from None

    async def _connect(self, address: Address) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeouts.connect):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, address),
                    address.host,
                    address.port,
                    ssl=self._context() if address.tls else None,
                )
        except TimeoutError:
            raise Unreachable(f"no connection to {address.header} in {self._timeouts.connect:g} s") from None
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"no connection to {address.header}: {reason}") from None
        self._all.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    # From the connections

    def keep(self, connection: _Connection) -> None:
        """It may be used again."""
        kept = self._idle.setdefault(connection.address, [])
        if len(kept) >= KEPT or connection.transport is None or connection.transport.is_closing():
            connection._abort()
            return
        kept.append(connection)
        connection.idle = asyncio.get_running_loop().call_later(IDLE, connection._abort)

    def lost(self, connection: _Connection) -> None:
        """It is gone."""
        self._all.discard(connection)
        if connection.idle is not None:
            connection.idle.cancel()
        kept = self._idle.get(connection.address)
        if kept is not None and connection in kept:
            kept.remove(connection)
        if not kept:
            self._idle.pop(connection.address, None)

    async def close(self) -> None:
        for connection in list(self._all):
            connection._abort()
        await asyncio.sleep(0)
