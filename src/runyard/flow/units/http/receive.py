"""`httpserver_sync_receive` and `httpserver_async`: requests come into the flow, one session each (modelbox.md 6.2)."""

from __future__ import annotations

import json
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from runyard.flow.buffer import Buffer
from runyard.flow.configuration import Configuration
from runyard.flow.session import SessionContext
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Option, OptionType, Port, UnitInfo

if TYPE_CHECKING:
    import asyncio

    from runyard.flow.units.http.listener import Route, Server, Tls
    from runyard.flow.units.http.wire import Exchange

DEFAULT_ENDPOINT = "http://127.0.0.1:8080"
REPLY = "runyard.http.reply"
"""Key of the session's private value by which `httpserver_sync_reply` finds the request: a `Pending`."""
PORT = "out_request_info"
MAX_BODY = 64 * 1024 * 1024

_METHODS = frozenset(("GET", "POST", "PUT", "DELETE"))
_ALLOW = b"Allow: POST, GET, DELETE, PUT\r\n"
_HEALTH = json.dumps({"message": "success", "status": 200}, separators=(",", ":")).encode()
_log = logging.getLogger("runyard.flow.http")

_ENDPOINT_OPTIONS = (
    Option("endpoint", default=DEFAULT_ENDPOINT, description="http[s]://host:port[/path] to serve"),
    Option("request_url", description="another name of endpoint"),
    Option("max_requests", OptionType.INTEGER, "1000", "unanswered requests at most; beyond it, 429"),
    Option("keepalive_timeout_sec", OptionType.INTEGER, "200", "seconds that a connection may be idle"),
    Option("max_body_bytes", OptionType.INTEGER, str(MAX_BODY), "bytes of a request's body; beyond it, 413"),
    Option("cert", description="PEM file of the certificate, for https"),
    Option("key", description="PEM file of the private key"),
    Option("passwd", description="where the key's password is; key_pass says how to read this"),
    Option("key_pass", description="plain, env or file: passwd is the password, or names what holds it"),
)
_TIME_OPTIONS = (
    Option("time_out_ms", OptionType.INTEGER, "5000", "milliseconds for the flow to reply; after it, 408"),
    Option("time_out", OptionType.INTEGER, description="another name of time_out_ms; below 1000 it is in seconds"),
)


class HttpBuffer(Buffer):
    """A request's body. ModelBox marks it as text: `as_object()` is a str."""

    __slots__ = ()

    def as_object(self) -> Any:
        data = self.data
        return self.as_text() if isinstance(data, bytes) else super().as_object()


class Pending:
    """A request that the flow is to reply to, at most once."""

    __slots__ = ("_unit", "deadline", "exchange")

    def __init__(self, unit: HttpSyncReceive, exchange: Exchange, deadline: float) -> None:
        self._unit = unit
        self.exchange: Exchange | None = exchange
        """None once it is answered."""
        self.deadline = deadline

    def reply(self, body: bytes, kind: bytes) -> None:
        """Answers 200, from any thread. A second reply, or one after the time-out, is dropped."""
        self._unit.server.soon(self.finish, 200, body, kind)

    def finish(self, status: int, body: bytes = b"", kind: bytes = b"") -> None:
        """In the loop's thread."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._unit.unanswered -= 1
            exchange.answer(status, body, kind)


class _Receiver(FlowUnit):
    """What both units share: the endpoint, and the way of a request into the flow."""

    server: Server
    url = ""
    """Where it listens, once it is open; with port 0 the port that it got."""

    def __init__(self) -> None:
        self._route: Route | None = None
        self._endpoint = ""
        self._max_requests = 0
        self._root = False

    def open(self, config: Configuration) -> None:
        from runyard.flow.units.http.listener import BadEndpoint, Endpoint, Limits, Server

        self._endpoint = config.get_string("endpoint") or config.get_string("request_url") or DEFAULT_ENDPOINT
        self._max_requests = _count(config, "max_requests", 1000, 0)
        limits = Limits(
            keepalive=_count(config, "keepalive_timeout_sec", 200, 1),
            max_body=_count(config, "max_body_bytes", MAX_BODY, 0),
        )
        try:
            endpoint = Endpoint.parse(self._endpoint)
            tls = _tls(config, endpoint.scheme == "https")
            self._root = not endpoint.path
            self._route = route = Server.join(endpoint, self._take, tls, limits)
        except BadEndpoint as error:
            raise FlowError(StatusCode.STATUS_BADCONF, str(error)) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise FlowError(StatusCode.STATUS_FAULT, f"can't listen on {self._endpoint}: {reason}") from None
        self.server = route.listener.server
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self.url = f"{endpoint.scheme}://{host}:{route.port}{endpoint.path}"
        _log.info("node %s listens on %s", self.node_name, self.url)

    def close(self) -> None:
        route, self._route = self._route, None
        if route is not None:
            self.server.call(self._end)
            self.server.leave(route)

    def process(self, data_ctx: DataContext) -> None:
        data_ctx.output(PORT).extend(data_ctx.external())

    def _take(self, exchange: Exchange) -> None:
        """Answers what is for this unit alone, and hands on what is for the flow. In the loop's thread."""
        if exchange.method not in _METHODS:
            exchange.answer(405, more=_ALLOW, safe=False)
        elif self._root and exchange.target == "/health":
            exchange.answer(200, _HEALTH, b"application/json")
        elif self._full():
            exchange.answer(429)
        else:
            self._accept(exchange)

    def _full(self) -> bool:
        raise NotImplementedError

    def _accept(self, exchange: Exchange) -> None:
        raise NotImplementedError

    async def _end(self) -> None:
        """Answers whoever still waits."""

    def _hand_on(self, exchange: Exchange, prepare: Any) -> bool:
        """Sends the request as a session of its own; `prepare` is called with the session before that.

        False if the flow takes no more; the client has its answer then.
        """
        external = self.create_external_data()
        prepare(external.get_session_context())
        body = exchange.body
        meta = {
            "size": len(body),
            "method": exchange.method,
            "uri": exchange.target,
            "headers": exchange.headers,
            "endpoint": self._endpoint,
        }
        sent = external.send((HttpBuffer(body, meta=meta),), wait=False, last=True)
        if sent:
            return True
        external.close()
        exchange.answer({StatusCode.STATUS_BUSY: 429, StatusCode.STATUS_STOP: 503}.get(sent.code(), 500))
        return False


class HttpSyncReceive(_Receiver):
    """The client waits for the flow's reply."""

    info = UnitInfo(
        name="httpserver_sync_receive",
        description="Takes HTTP requests; httpserver_sync_reply answers them.",
        group="Input",
        outputs=(Port(PORT),),
        options=_ENDPOINT_OPTIONS + _TIME_OPTIONS,
        entry=f"{__name__}:HttpSyncReceive",
    )

    def __init__(self) -> None:
        super().__init__()
        self.unanswered = 0
        self.time_out = 5.0
        """Seconds."""
        self._waiting: deque[Pending] = deque()
        """In the order of their deadlines, those that are answered still among them."""
        self._timer: asyncio.TimerHandle | None = None

    def open(self, config: Configuration) -> None:
        if config.contains("time_out_ms") or not config.contains("time_out"):
            self.time_out = _count(config, "time_out_ms", 5000, 1) / 1000
        else:
            value = _count(config, "time_out", 0, 1)
            self.time_out = float(value) if value < 1000 else value / 1000
        super().open(config)

    def _full(self) -> bool:
        return self.unanswered > self._max_requests

    def _accept(self, exchange: Exchange) -> None:
        loop = self.server.loop
        pending = Pending(self, exchange, loop.time() + self.time_out)
        waiting = self._waiting
        while waiting and waiting[0].exchange is None:
            waiting.popleft()
        waiting.append(pending)
        self.unanswered += 1
        if self._timer is None:
            self._timer = loop.call_at(pending.deadline, self._expire)
        if not self._hand_on(exchange, lambda session: session.set_private(REPLY, pending)):
            pending.finish(500)

    def _expire(self) -> None:
        """408 for those whose time is over."""
        self._timer = None
        waiting = self._waiting
        now = self.server.loop.time()
        while waiting and (waiting[0].exchange is None or waiting[0].deadline <= now):
            waiting.popleft().finish(408)
        if waiting:
            self._timer = self.server.loop.call_at(waiting[0].deadline, self._expire)

    async def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._waiting.popleft().finish(503)


class HttpAsync(_Receiver):
    """The client gets 202 at once."""

    info = UnitInfo(
        name="httpserver_async",
        description="Takes HTTP requests and answers 202 when the flow has them.",
        group="Input",
        outputs=(Port(PORT),),
        options=_ENDPOINT_OPTIONS,
        entry=f"{__name__}:HttpAsync",
    )

    def __init__(self) -> None:
        super().__init__()
        self._alive = 0

    def _full(self) -> bool:
        return self._alive >= max(1, self._max_requests)

    def _accept(self, exchange: Exchange) -> None:
        self._alive += 1
        if self._hand_on(exchange, self._watch):
            exchange.answer(202)

    def _watch(self, session: SessionContext) -> None:
        session.on_end(lambda: self.server.soon(self._ended))

    def _ended(self) -> None:
        self._alive -= 1


def _count(config: Configuration, key: str, default: int, least: int) -> int:
    """A whole number within what makes sense."""
    value = config.get_int(key, default)
    if not least <= value <= 2**40:
        raise FlowError(StatusCode.STATUS_BADCONF, f"{key} must be at least {least}, not {value}")
    return value


def _tls(config: Configuration, wanted: bool) -> Tls | None:
    """The certificate of an https endpoint. Raises FlowError with ModelBox's messages."""
    from runyard.flow.units.http.listener import Tls

    cert, key = config.get_string("cert"), config.get_string("key")
    if not wanted and not cert:
        return None
    if not wanted:
        raise _bad("cert is set, but the endpoint is not https")
    if not _readable(cert):
        raise _bad("certificate file is invalid.")
    if not _readable(key):
        raise _bad("key file is invalid.")
    passwd, how = config.get_string("passwd"), config.get_string("key_pass")
    if not passwd:
        raise _bad("password not set")
    if not how:
        raise _bad("password key not set")
    tls = Tls(cert, key, _password(passwd, how))
    try:
        tls.context()
    except (OSError, ValueError) as error:
        raise _bad(f"certificate file is invalid. ({cert} with {key}: {error})") from None
    return tls


def _password(passwd: str, how: str) -> str:
    import os

    if how == "plain":
        return passwd
    if how == "env":
        if (found := os.environ.get(passwd)) is not None:
            return found
        raise _bad(f"passwd names the environment variable {passwd!r}, which is not set")
    if how == "file":
        try:
            with open(passwd, encoding="utf-8") as file:
                return file.read(4096).rstrip("\r\n")
        except (OSError, ValueError):
            raise _bad(f"passwd names the file {passwd!r}, which can't be read") from None
    raise _bad(
        "key_pass must be plain, env or file: it says how passwd gives the key's password. "
        "A password that modelbox-tool encrypted can't be read here"
    )


def _readable(path: str) -> bool:
    import os

    return bool(path) and os.path.isfile(path) and os.access(path, os.R_OK)


def _bad(message: str) -> FlowError:
    return FlowError(StatusCode.STATUS_BADCONF, message)
