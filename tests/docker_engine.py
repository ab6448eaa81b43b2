"""A Docker Engine for hosts without one: HTTP on a Unix socket, with the answers that its API documents (1.41).

The containers are real processes of the test, or none at all; their figures are the test's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NANO = 10**9


class Box:
    """One container of K12AI, or with other labels, one of somebody else."""

    def __init__(self, key: str, name: str, labels: dict[str, str], pid: int = 4321) -> None:
        self.id = (key * 64)[:64]
        self.name = name
        self.labels = labels
        self.pid = pid
        self.running = True
        self.cpu = 1 * NANO
        self.system = 100 * NANO
        self.used, self.limit = 355155968, 4143292416
        self.vanished = False
        """It is in the list, and gone when it is looked at."""

    def stats(self, one_shot: bool) -> dict[str, Any]:
        # Each look finds half a second of work of the one and a second of each of two cores.
        self.cpu, before = self.cpu + NANO // 2, self.cpu
        self.system, system = self.system + 2 * NANO, self.system
        now = {"cpu_usage": {"total_usage": self.cpu}, "system_cpu_usage": self.system, "online_cpus": 2}
        past = {"cpu_usage": {"total_usage": before}, "system_cpu_usage": system, "online_cpus": 2}
        nothing = {"cpu_usage": {"total_usage": 0}, "throttling_data": {}}
        return {
            "read": "2026-11-22T09:00:00.000000000Z",
            "cpu_stats": now,
            "precpu_stats": nothing if one_shot else past,
            "memory_stats": {"usage": self.used, "limit": self.limit, "stats": {}},
        }


class Engine(ThreadingMixIn, UnixStreamServer):
    """`with Engine() as engine:`; `engine.address` is what DOCKER_HOST would say."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        # pytest's own folders are too deep for the path of a socket.
        self._folder = tempfile.mkdtemp(prefix="docker-")
        self.path = Path(self._folder, "docker.sock")
        super().__init__(str(self.path), _Answers)
        self.address = f"unix://{self.path}"
        self.boxes: list[Box] = []
        self.asked: list[str] = []
        self.top: list[int] = []
        """Pids that `top` names in every container."""
        self.silent = threading.Event()
        """While it is set, figures are not answered."""
        self._released = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        shutil.rmtree(self._folder)

    def find(self, ref: str) -> Box | None:
        found = [box for box in self.boxes if box.id.startswith(ref) or box.name == ref]
        return found[0] if len(found) == 1 and not found[0].vanished else None

    def wait_released(self) -> None:
        self._released.wait(60)


class _Answers(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.server.asked.append(parts.path)
        if parts.path == "/containers/json":
            wanted = json.loads(query.get("filters", "{}")).get("label", [])
            shown = [
                {"Id": box.id, "Names": [f"/{box.name}"], "Labels": box.labels, "State": "running"}
                for box in self.server.boxes
                if box.running and all(label in box.labels for label in wanted)
            ]
            return self._json(200, shown)
        _, _, ref, what = parts.path.split("/", 3)
        box = self.server.find(ref)
        if box is None:
            return self._json(404, {"message": f"No such container: {ref}"})
        if what == "json":
            state = {"Status": "running", "Pid": box.pid if box.running else 0, "StartedAt": "2026-11-22T08:00:00.5Z"}
            return self._json(200, {"Id": box.id, "State": state, "Config": {"Labels": box.labels}})
        if what == "stats":
            if self.server.silent.is_set():
                self.close_connection = True
                return self.server.wait_released()
            return self._json(200, box.stats(query.get("one-shot") == "true"))
        if what == "top":
            return self._json(200, {"Titles": ["PID"], "Processes": [[str(pid)] for pid in self.server.top]})
        return self._json(404, {"message": "page not found"})

    def do_POST(self) -> None:
        _, _, ref, what = urlsplit(self.path).path.split("/", 3)
        self.server.asked.append(f"{what} {ref}")
        box = self.server.find(ref)
        if box is None:
            return self._json(404, {"message": f"No such container: {ref}"})
        status, box.running = (204 if box.running else 304), False
        self.send_response(status)
        self.end_headers()

    def _json(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""
