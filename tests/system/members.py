"""Members as tests need them: real HTTP servers that speak all spellings of the protocol, and do as they are told."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import quote

from runyard.project.wire import MEMBER_OPERATIONS, START, STATUS_REQUEST, STOP, read_target
from tests.helpers import wait_until

LOOPBACK = "127.0.0.1"


class Call(NamedTuple):
    operation: str
    user: str
    project: str
    target: str
    """Path and query as they came."""


class Said(NamedTuple):
    """An answer on the wire."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain"


class FakeMember:
    """One member, in threads of this process. Its tasks end when the test says so (`states`), or by `on_start`.

    `answers`, by operation, replace what it would say: a `Said`, or a function that writes to the handler itself.
    """

    def __init__(self, *, quoted: bool = False, forms: tuple[str, ...] = ("path", "query", "hybrid")) -> None:
        self.calls: list[Call] = []
        self.states: dict[tuple[str, str], str] = {}
        """By user and project."""
        self.answers: dict[str, Said | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.on_start: Callable[[str, str], None] = lambda user, project: None
        """Called before `start` is answered."""
        self._quoted = quoted
        self._forms = forms
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> FakeMember:
        member = self

        class Handler(_Handler):
            owner = member

        self._server = _Server((LOOPBACK, self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """It is gone: connections to it are refused. `start` brings it back to its port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def count(self, operation: str, project: str | None = None) -> int:
        """How often it was called; the checks of readiness do not count with a project."""
        return sum(call.operation == operation and project in (None, call.project) for call in list(self.calls))

    def until_called(self, operation: str, project: str, times: int = 1) -> None:
        """Waits until it was called so often."""
        wait_until(lambda: self.count(operation, project) >= times, 60, f"{times} calls of {operation}")

    def finish(self, state: str = "completed") -> None:
        """All its tasks are over."""
        with self._lock:
            for task in self.states:
                self.states[task] = state

    def respond(self, call: Call) -> Said:
        task = call.user, call.project
        with self._lock:
            self.calls.append(call)
            state = self.states.get(task, "ready")
        if call.operation == START:
            if not call.user or not call.project or state in ("started", "running"):
                return self._say("error")
            with self._lock:
                self.states[task] = "running"
            self.on_start(call.user, call.project)
            return self._say("starting")
        if call.operation == STOP:
            if task not in self.states:
                return self._say("error")
            with self._lock:
                if self.states[task] in ("started", "running"):
                    self.states[task] = "stopped"
            return self._say("finished")
        return self._say("ready" if not call.project else state)

    def _say(self, token: str) -> Said:
        return Said(f'"{token}"'.encode() if self._quoted else token.encode())

    def understands(self, path: str, query: str) -> bool:
        if path.strip("/"):
            return "path" in self._forms
        return ("hybrid" if "?" in query else "query") in self._forms


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Connections that are kept open end as well."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: FakeMember

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        operation, given = read_target(path, query, MEMBER_OPERATIONS)
        if operation is None or not self.owner.understands(path, query):
            self.write(Said(b"<!DOCTYPE html><title>404</title>", 404, "text/html"))
            return
        user, project = (given.get(name, "").strip('"') for name in ("user_id", "project_id"))
        answer = self.owner.answers.get(operation)
        said = self.owner.respond(Call(operation, user, project, self.path))
        if isinstance(answer, Said):
            said = answer
        elif answer is not None:
            self.close_connection = True
            answer(self)
            return
        self.write(said)

    def write(self, said: Said) -> None:
        self.send_response(said.status)
        self.send_header("Content-Type", said.content_type)
        self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        self.wfile.write(said.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: pytest shows what failed."""


@contextmanager
def members(*fakes: FakeMember) -> Iterator[tuple[FakeMember, ...]]:
    """Members that are up, and gone at the end."""
    try:
        yield tuple(fake.start() for fake in fakes)
    finally:
        for fake in fakes:
            fake.stop()


def report(manager: str, container: str, user: str, project: str, status: str, *, form: str = "path") -> int:
    """Sends a `status_report`, with the headers of a real member; the HTTP status of the answer."""
    query = f"container_id={quote(container)}&user_id={quote(user)}&project_id={quote(project)}&status={quote(status)}"
    target = f"/status_report?{query}" if form == "path" else f"/?status_report&{query}&"
    headers = {"Host": "0.0.0.0:8085", "Origin": "http://0.0.0.0:8888", "Content-Type": "text/plain"}
    with urllib.request.urlopen(urllib.request.Request(manager + target, headers=headers), timeout=60) as answer:
        status_code: int = answer.status
        return status_code


__all__ = ["START", "STATUS_REQUEST", "STOP", "Call", "FakeMember", "Said", "members", "report"]
