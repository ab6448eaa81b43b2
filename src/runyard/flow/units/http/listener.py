"""The HTTP server of a flow's process: one event loop in a thread of its own, and listeners that nodes share by path.

Why this and no framework: a request crosses from the loop to the flow and back, and each layer between costs as much as
the whole echo. `bench/echo.py` measures it against a bare handler on uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import uvloop

from runyard.flow.units.http.wire import Exchange, Wire

MAX_HELD = 512 * 1024 * 1024
"""Bytes of request bodies that one listener holds at once."""
BACKLOG = 1024
_TICK = 1.0

Handler = Callable[[Exchange], None]


class BadEndpoint(ValueError):
    """An endpoint that can't be served."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node listens: `http[s]://host:port[/path]`."""

    scheme: str
    host: str
    port: int
    path: str
    """Begins with a slash and ends with none; empty is everything."""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Raises BadEndpoint with what is wrong. Without a port it is 80, or 443 for https."""
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError as error:
            raise BadEndpoint(f"endpoint {text!r} is invalid: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadEndpoint(f"endpoint {text!r} is invalid: it must be http[s]://host:port[/path]")
        if parts.query or parts.fragment or parts.username is not None:
            raise BadEndpoint(f"endpoint {text!r} is invalid: it has more than scheme, host, port and path")
        if port is None:
            port = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, parts.hostname, port, unquote(parts.path).rstrip("/"))


class Server:
    """The event loop of this process's listeners. It runs while there is one."""

    _lock = threading.Lock()
    _one: Server | None = None

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.listeners: dict[tuple[str, int], Listener] = {}
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._woken = False
        self._thread = threading.Thread(target=self.loop.run_forever, name="http", daemon=True)
        self._thread.start()

    @classmethod
    def join(cls, endpoint: Endpoint, handler: Handler, tls: Tls | None, limits: Limits) -> Route:
        """Begins to serve an endpoint.

        Raises OSError if the address can't be bound, BadEndpoint if another node has the path, or has the port with
        other settings.
        """
        with cls._lock:
            server = cls._one or cls()
            cls._one = server
            try:
                return server._join(endpoint, handler, tls, limits)
            finally:
                server._rest()

    def _join(self, endpoint: Endpoint, handler: Handler, tls: Tls | None, limits: Limits) -> Route:
        listener = self.listeners.get((endpoint.host, endpoint.port)) if endpoint.port else None
        if listener is None:
            # Here and not in the loop: a slow name server must not hold up the other listeners.
            context = tls.context() if tls else None
            sockets = _bind(endpoint.host, endpoint.port)
            listener = Listener(self, endpoint, tls, limits)
            self.call(lambda: listener.start(sockets, context))
            self.listeners[(endpoint.host, listener.port)] = listener
        elif (listener.tls, listener.scheme) != (tls, endpoint.scheme):
            raise BadEndpoint(f"another node listens on port {endpoint.port} with another scheme or certificate")
        return listener.add(endpoint.path, handler, limits)

    def leave(self, route: Route) -> None:
        """Ends the serving of a route; the last one of a listener closes it. May be called twice."""
        with self._lock:
            listener = route.listener
            if listener.remove(route):
                self.listeners.pop((listener.host, listener.port), None)
                self.call(listener.stop)
            self._rest()

    def _rest(self) -> None:
        """Ends the loop's thread when nobody needs it."""
        if self.listeners:
            return
        Server._one = None
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def call(self, function: Callable[[], Any]) -> None:
        """Runs a coroutine function in the loop, to its end."""
        asyncio.run_coroutine_threadsafe(function(), self.loop).result(30)

    def soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Runs a function in the loop, from any thread. Many calls in a row wake the loop once."""
        self._calls.append((function, arguments))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for an answer any more
                self.loop.call_soon_threadsafe(self._run_calls)

    def _run_calls(self) -> None:
        # First: what is appended from here on either is seen below, or wakes the loop again.
        self._woken = False
        calls = self._calls
        while calls:
            function, arguments = calls.popleft()
            function(*arguments)


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate and its key, PEM files."""

    cert: str
    key: str
    password: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError is one) if the files don't fit together or the password is wrong."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A callable, for without one OpenSSL would ask on the terminal.
        context.load_cert_chain(self.cert, self.key, lambda: self.password)
        context.set_alpn_protocols(["http/1.1"])
        return context


@dataclass(frozen=True, slots=True)
class Limits:
    keepalive: float = 200.0
    """Seconds that a connection may be idle."""
    max_body: int = 64 * 1024 * 1024
    """Bytes of a request's body."""


@dataclass(eq=False, slots=True)
class Route:
    """The serving of one endpoint."""

    listener: Listener
    path: str
    handler: Handler
    limits: Limits

    @property
    def port(self) -> int:
        return self.listener.port


class Listener:
    """One address, and the routes on it."""

    def __init__(self, server: Server, endpoint: Endpoint, tls: Tls | None, limits: Limits) -> None:
        self.server = server
        self.host = endpoint.host
        self.scheme = endpoint.scheme
        self.port = endpoint.port
        self.tls = tls
        self.wires: set[Wire] = set()
        self.max_body = limits.max_body
        self.keepalive = limits.keepalive
        self.max_held = MAX_HELD
        self.held = 0
        self.closing = False
        self._routes: dict[str, Route] = {}
        self._servers: list[asyncio.AbstractServer] = []
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, sockets: list[socket.socket], context: ssl.SSLContext | None) -> None:
        """Takes connections on these listening sockets."""
        loop = self.server.loop
        self.port = sockets[0].getsockname()[1]
        for sock in sockets:
            self._servers.append(
                await loop.create_server(lambda: Wire(self, loop), sock=sock, ssl=context, backlog=BACKLOG)
            )
        self._tick()

    async def stop(self) -> None:
        """Closes the address; connections end after the answers that were written."""
        self.closing = True
        if self._ticker is not None:
            self._ticker.cancel()
        for server in self._servers:
            server.close()
        for wire in list(self.wires):
            wire.end()
        # A turn of the loop writes what is left, and closes the sockets.
        for _ in range(3):
            await asyncio.sleep(0)

    def add(self, path: str, handler: Handler, limits: Limits) -> Route:
        """Raises BadEndpoint if the path has a handler."""
        if path in self._routes:
            raise BadEndpoint(f"another node serves {path or '/'} on port {self.port}")
        route = Route(self, path, handler, limits)
        self._routes = {**self._routes, path: route}
        self.max_body = max(item.limits.max_body for item in self._routes.values())
        self.keepalive = max(item.limits.keepalive for item in self._routes.values())
        return route

    def remove(self, route: Route) -> bool:
        """Whether that was the last one."""
        if self._routes.get(route.path) is not route:
            return False
        self._routes = {path: item for path, item in self._routes.items() if item is not route}
        return not self._routes

    def serve(self, exchange: Exchange) -> None:
        """Gives the request to the deepest route at or above its path."""
        path = exchange.path
        if "%" in path:
            path = unquote(path)
        if "//" in path or not path.startswith("/"):
            path = "/" + "/".join(part for part in _origin_form(path).split("/") if part)
        routes = self._routes
        path = path.rstrip("/")
        while (route := routes.get(path)) is None:
            if not path:
                exchange.answer(404)
                return
            path = path.rpartition("/")[0]
        route.handler(exchange)

    def _tick(self) -> None:
        """Ends the connections whose clients are silent."""
        loop = self.server.loop
        now = loop.time()
        for wire in list(self.wires):
            wire.expire(now, self.keepalive)
        self._ticker = loop.call_later(_TICK, self._tick)


def _origin_form(target: str) -> str:
    """The path of a target in absolute form (`GET http://host/path`), which a client of a proxy sends."""
    return target if target.startswith("/") else target.partition("://")[2].partition("/")[2]


def _bind(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of the host; all have the same port. Raises OSError if none can be bound,
    or if one of the addresses is in use."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"{host}: {error.strerror}") from None
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"{host[:80]}: no host name: {error}") from None
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = sockets[0].getsockname()[1] if sockets else port
            sock.bind((address[0], chosen, *address[2:]))
            sock.listen(BACKLOG)
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                missing = error  # as IPv6's localhost is on a host without it
                continue
            for other in sockets:
                other.close()
            raise OSError(error.errno, os.strerror(error.errno or 0)) from None
        sockets.append(sock)
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return sockets
