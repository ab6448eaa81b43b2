"""A member's address: a loop in a thread of its own that takes calls in all their spellings.

Source: spec/tango.md 1.2, 1.3, 1.6. A page in a browser must not start or stop anything here: the calls are plain GETs
without credentials, so what only browsers send is refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from runyard.member.connection import Answer, Connection, Request
from runyard.member.reporter import log
from runyard.member.service import STATUS_PATIENCE, STOP_PATIENCE, MemberService
from runyard.model.errors import ConfigError
from runyard.project.wire import ALIASES, MAX_PARAMETERS, MEMBER_OPERATIONS, STATUS_REQUEST, read_target

#: Connections at once; the one that has been idle the longest gives way.
MAX_CONNECTIONS = 256
_HELP = b"there are start, stop and status_request, with user_id and project_id\n"


class MemberServer:
    """Binds at once; `start` begins to answer. Raises ConfigError where it can't listen."""

    def __init__(self, service: MemberService, host: str, port: int) -> None:
        self._service = service
        self._host = host
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=256)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"can't listen on {host}:{port}: {reason}") from None
        self.port: int = self._socket.getsockname()[1]
        self._loopback = _is_loopback(self._socket.getsockname()[0])
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="member-call")
        #: The one that has been idle the longest comes first.
        self._open: dict[Connection, None] = {}
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="member-server", daemon=True)

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Hangs up on everybody, and frees the port."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(5.0)
        else:
            self._socket.close()
            self._loop.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _serve(self) -> None:
        with self._socket, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        make = lambda: Connection(self._respond, self._opened, self._closed)  # noqa: E731
        server = await asyncio.get_running_loop().create_server(make, sock=self._socket)
        await self._end.wait()
        server.close()
        for connection in list(self._open):
            connection.abort()

    def _opened(self, connection: Connection) -> None:
        self._open[connection] = None
        if len(self._open) > MAX_CONNECTIONS:
            for other in self._open:
                if not other.busy and other is not connection:
                    other.abort()
                    return
            connection.refuse(503, "too many connections")

    def _closed(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    # Calls --------------------------------------------------------------------------------------------------------

    async def _respond(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD", "OPTIONS", "POST"):
            return Answer(405, b"only GET, HEAD, OPTIONS and POST\n")
        operation, given = read_target(request.path, request.query, MEMBER_OPERATIONS)
        if operation is None and request.path.strip("/"):
            return Answer(404, b"not found: " + _HELP)
        if request.method == "POST" and request.body:
            body = _parameters(request.body)
            if body is None:
                return Answer(400, b"the body is neither a form nor a JSON object\n")
            if operation is None:
                operation = next((name for name in MEMBER_OPERATIONS if name in body), None)
            given = body | given
        if operation is None:
            # A bare address is asked by whoever wants to know whether somebody is there.
            return Answer(200, b"" if request.query else _HELP)
        if operation != STATUS_REQUEST:
            if (reason := self._suspicious(request)) is not None:
                log(f"{operation} refused: {reason}")
                return Answer(403, reason.encode())
            if request.method in ("HEAD", "OPTIONS"):
                return Answer(200, b"")
        elif request.method == "OPTIONS":
            return Answer(200, b"")
        return Answer(200, self._service.spell(await self._call(operation, given)))

    async def _call(self, operation: str, given: dict[str, str]) -> str:
        called = asyncio.get_running_loop().run_in_executor(self._pool, self._service.respond, operation, given)
        if operation == STATUS_REQUEST:
            await asyncio.wait([called], timeout=STATUS_PATIENCE)
            return called.result()[0] if called.done() else self._service.state(given)
        word, ended = await called
        if ended is not None:
            await asyncio.wait([asyncio.wrap_future(ended)], timeout=STOP_PATIENCE)
        return word

    def _suspicious(self, request: Request) -> str | None:
        """Why this may come from a page in a browser rather than from a project manager; None if it does not."""
        if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
            return "pages in browsers can't start or stop members"
        host = request.headers.get("host")
        if self._loopback and host is not None and not _is_here(host):
            # A name that somebody has pointed to this machine.
            return f"this member is called by address or as localhost, not as {host[:100]!r}"
        return None


def _parameters(body: bytes) -> dict[str, str] | None:
    text = body.strip()
    if not text.startswith(b"{"):
        return read_target("/", text.decode("utf-8", "replace"), ())[1]
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    items = list(found.items())[:MAX_PARAMETERS]
    return {ALIASES.get(key, key): str(value) for key, value in items if isinstance(value, str | int)}


def _is_here(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name.lower() == "localhost" or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
