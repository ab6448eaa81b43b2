"""A project manager as the tests of members need it: it writes down what it is told, and answers as it is told to."""

from __future__ import annotations

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runyard.project.update import read_json, read_update
from runyard.project.wire import MANAGER_OPERATIONS, STATUS_UPDATE, read_report, read_target
from tests.helpers import wait_until
from tests.system.members import LOOPBACK, Said

OK = Said(b'{"status":200}', 200, "application/json")


class FakeManager:
    """`answers` are given first, one a request; then everything is taken. Only what was taken is written down."""

    def __init__(self, forms: tuple[str, ...] = ("path", "query"), port: int = 0) -> None:
        self.reports: list[tuple[str, str, str]] = []
        """Container, project and word, in order."""
        self.updates: list[tuple[str, dict[str, Any]]] = []
        self.answers: deque[Said] = deque()
        self.asked = 0
        self.port = port
        self._forms = forms
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def words(self, project: str) -> list[str]:
        return [word for _, of, word in list(self.reports) if of == project]

    def until(self, project: str, *words: str) -> None:
        wait_until(lambda: self.words(project) == list(words), 60, f"{words} of {project} in {self.reports}")

    def __enter__(self) -> FakeManager:
        manager = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                operation, given = read_target(path, query, MANAGER_OPERATIONS)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                manager.asked += 1
                form = "path" if path.strip("/") else "query"
                if operation is None or form not in manager._forms:
                    said = Said(b"<html>no such page</html>", 404, "text/html")
                elif manager.answers:
                    said = manager.answers.popleft()
                elif operation == STATUS_UPDATE:
                    said = OK
                    manager.updates.append(read_update(read_json(body)))
                else:
                    said = OK
                    report = read_report(given)
                    manager.reports.append((report.container, report.project, report.word))
                self.send_response(said.status)
                self.send_header("Content-Type", said.content_type)
                self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                self.wfile.write(said.body)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: pytest shows what failed."""

        self._server = ThreadingHTTPServer((LOOPBACK, self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None
