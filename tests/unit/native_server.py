"""A small HTTP server that keeps the native API's contract for jobs in memory, and breaks connections when told to.

It is there for what the real server can't be asked to do: lose an answer, cut a stream at a given byte.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from runyard.model.check import build_spec
from runyard.model.errors import InvalidInput
from runyard.model.job import KIND, Lifecycle

NOW = "2026-11-21T08:00:00Z"
ENDED = ("succeeded", "failed", "cancelled", "timed_out")
Program = Callable[["NativeServer", str], None]


class NativeServer:
    """The jobs, their output and their events. `faults` holds what to do wrong, once each, by method and path."""

    def __init__(self, port: int = 0) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[tuple[str, str, int, int], bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.keys: dict[str, str] = {}
        self.batches: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[tuple[str, str, dict[str, str], dict[str, str]]] = []
        self.faults: dict[tuple[str, str], list[str | int]] = {}
        self.programs: dict[str, Program] = {}
        self.changed = threading.Condition()
        self.http = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self.http.daemon_threads = True
        self.http.state = self  # type: ignore[attr-defined]
        self.closing = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def fail(self, method: str, path: str, *faults: str | int) -> None:
        """`"lost"`: do it, then drop the connection. `"cut:N"`: drop it after N bytes of body.
        `"end:N"`: end the body there as if that were all. A number: answer so."""
        self.faults[method, path] = list(faults)

    def submit(self, raw: dict[str, Any]) -> dict[str, Any]:
        spec = msgspec.to_builtins(build_spec(raw))
        with self.changed:
            ref = str(1000 + len(self.jobs))
            self.jobs[ref] = {
                "id": ref,
                "f58": f"ƒ{ref}",
                "name": spec["name"],
                "kind": KIND[Lifecycle(spec["lifecycle"])],
                "origin": "native",
                "owner": "tester",
                "labels": spec["labels"],
                "state": "pending",
                "reason": None,
                "priority": spec["priority"],
                "hold": spec["hold"],
                "submitted_at": NOW,
                "started_at": None,
                "ended_at": None,
                "exit_code": None,
                "signal": None,
                "version": 0,
                "runs": [],
                "spec": spec,
            }
            self.event(ref, "job.submitted")
        program = self.programs.get((spec.get("command") or [""])[0])
        if program is not None:
            threading.Thread(target=program, args=(self, ref), daemon=True).start()
        return self.jobs[ref]

    def event(self, ref: str, kind: str, **fields: Any) -> None:
        with self.changed:
            job = self.jobs[ref]
            job["version"] = len(self.events) + 1
            event = {"seq": job["version"], "at": NOW, "type": kind, "job": ref, "state": job["state"]}
            self.events.append(event | {"replica": None, "attempt": None, "data": None} | fields)
            self.changed.notify_all()

    def start(self, ref: str, attempt: int = 1) -> None:
        with self.changed:
            self.jobs[ref] |= {"state": "running", "started_at": NOW}
            self.jobs[ref]["runs"] = [{"replica": 0, "attempt": attempt, "state": "running", "started_at": NOW}]
            self.event(ref, "run.started", replica=0, attempt=attempt)

    def write(self, ref: str, data: bytes, stream: str = "stdout", attempt: int = 1) -> None:
        with self.changed:
            key = (ref, stream, 0, attempt)
            self.logs[key] = self.logs.get(key, b"") + data
            self.changed.notify_all()

    def end_run(self, ref: str, state: str, attempt: int = 1) -> None:
        with self.changed:
            self.jobs[ref]["runs"] = [{"replica": 0, "attempt": attempt, "state": state}]
            self.event(ref, "run.exited", replica=0, attempt=attempt)

    def end(self, ref: str, state: str, exit_code: int | None = None, signal: str | None = None) -> None:
        with self.changed:
            for run in self.jobs[ref]["runs"]:
                run["state"] = state
            self.jobs[ref] |= {"state": state, "exit_code": exit_code, "signal": signal, "ended_at": NOW}
            self.event(ref, f"job.{state}")

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.closing or condition(), seconds)

    def close(self) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.http.shutdown()
        self.http.server_close()


class _Cut(Exception):
    """Break the connection now."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        self.state: NativeServer = self.server.state  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        self.params = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        path = unquote(parts.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.state.changed:
            self.state.requests.append((self.command, path, self.params, dict(self.headers)))
            self.state.changed.notify_all()
            faults = self.state.faults.get((self.command, path), [])
            self.fault = faults.pop(0) if faults else None
        try:
            if isinstance(self.fault, int):
                self._problem(self.fault, "unavailable" if self.fault == 503 else "", "told to fail")
            else:
                route = parts.path.removeprefix("/api/v1").strip("/").split("/")
                self._route([unquote(part) for part in route], body)
        except (_Cut, BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: list[str], body: bytes) -> None:
        state = self.state
        match self.command, *path:
            case "GET", "version":
                self._json(200, {"version": "9.9", "api": "v1"})
            case "POST", "jobs":
                self._submit(json.loads(body))
            case "POST", "jobs:batch":
                key = self.headers["Idempotency-Key"]
                if key not in state.batches:
                    state.batches[key] = [self._item(json.loads(line)) for line in body.splitlines()]
                self._json(200, {"items": state.batches[key]})
            case "GET", "jobs":
                self._list()
            case "GET", "events":
                self._events()
            case "GET", "nodes":
                halves = {"total": [0, 1], "free": [1]}
                node = {"name": "here", "executor": "local", "state": "up", "cores": halves, "gpus": halves, "runs": 1}
                memory = {"total": 1 << 30, "free": 1 << 29}
                self._json(200, {"items": [node | {"memory": memory, "host": {"cpu_percent": 12.5}}]})
            case "GET", "schedules":
                item = {"job": "1", "name": "n", "cron": "@daily", "timezone": "UTC", "next_fire_at": NOW}
                self._json(200, {"items": [item], "next": None})
            case "POST", "schedules:preview":
                self._json(200, {"fire_times": [NOW] * json.loads(body)["count"]})
            case method, "jobs", ref, *action:
                job = state.jobs.get(ref) or next((job for job in state.jobs.values() if job["name"] == ref), None)
                if job is None:
                    self._problem(404, "not_found", f"there is no job {ref}")
                else:
                    self._job(method, job, action[0] if action else "", body)
            case _:
                self._problem(404, "not_found", "no such route")

    def _submit(self, spec: dict[str, Any]) -> None:
        key = self.headers["Idempotency-Key"]
        if key not in self.state.keys:
            try:
                self.state.keys[key] = self.state.submit(spec)["id"]
            except InvalidInput as error:
                self._problem(400, "invalid_input", error.detail, **error.fields)
                return
        self._json(201, self.state.jobs[self.state.keys[key]])

    def _item(self, spec: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"status": 201, "job": self.state.submit(spec)}
        except InvalidInput as error:
            return {"status": 400, "problem": {"code": error.code, "detail": error.detail} | error.fields}

    def _list(self) -> None:
        states = self.params["state"].split(",") if "state" in self.params else None
        found = [job for job in reversed(self.state.jobs.values()) if states is None or job["state"] in states]
        start, limit = int(self.params.get("cursor", 0)), int(self.params["limit"])
        more = start + limit < len(found)
        self._json(200, {"items": found[start : start + limit], "next": str(start + limit) if more else None})

    def _job(self, method: str, job: dict[str, Any], action: str, body: bytes) -> None:
        state, ref = self.state, job["id"]
        if method == "PATCH":
            job |= json.loads(body)
        elif method == "DELETE":
            if job["state"] not in ENDED:
                self._problem(409, "conflict", f"job {ref} is {job['state']}")
                return
            del state.jobs[ref]
            self._head(204, "text/plain", 0)
            return
        elif action == "logs":
            self._logs(ref)
            return
        elif action == "wait":
            state.until(lambda: job["state"] in ENDED, float(self.params["timeout"]))
        elif action == "why":
            self._json(200, {"job": ref, "state": job["state"], "reason": None, "summary": "it waits for nothing"})
            return
        elif action == "runs":
            self._json(200, {"items": job["runs"], "next": None})
            return
        elif action == "cancel":
            if job["state"] in ENDED:
                self._problem(409, "conflict", f"job {ref} has ended")
                return
            state.end(ref, "cancelled", signal="SIGTERM")
        elif action in ("restart", "signal"):
            state.event(ref, f"job.{action}", data=json.loads(body))
        self._json(200, job)

    def _logs(self, ref: str) -> None:
        params, runs = self.params, self.state.jobs[ref]["runs"]
        attempt = int(params.get("attempt", runs[0]["attempt"] if runs else 0))
        key = (ref, params["stream"], int(params["replica"]), attempt)
        data = self.state.logs.get(key, b"")
        start = int(params.get("offset", 0))
        if "tail" in params:
            start = len(data) - len(b"".join(data.splitlines(True)[-int(params["tail"]) :]))
        self._head(200, "text/plain", None, {"X-Log-Offset": str(start), "X-Log-Size": str(len(data))})

        at = start

        def over() -> bool:
            run = self.state.jobs[ref]["runs"][0]
            return "follow" not in params or run["attempt"] > attempt or run["state"] in ENDED

        def news() -> bool:
            return len(self.state.logs.get(key, b"")) > at or over()

        def pieces() -> Iterator[bytes]:
            nonlocal at
            while True:
                # First whether it is over, then what is left: the other way round would lose the last words.
                last = over()
                data = self.state.logs.get(key, b"")
                yield data[at:]
                at = len(data)
                if last:
                    return
                self.state.until(news, 5)

        self._chunks(pieces())

    def _events(self) -> None:
        params, state = self.params, self.state
        types = params["type"].split(",") if "type" in params else None
        after = len(state.events) if params.get("after") == "latest" else int(params.get("after", 0))

        def found(after: int) -> list[dict[str, Any]]:
            return [
                event
                for event in state.events[after:]
                if (types is None or event["type"] in types) and params.get("job") in (None, event["job"])
            ]

        if self.headers.get("Accept") == "application/x-ndjson":
            self._head(200, "application/x-ndjson", None)

            at = after

            def news() -> bool:
                return len(state.events) > at

            def lines() -> Iterator[bytes]:
                nonlocal at
                while not state.closing:
                    ready, at = found(at), len(state.events)
                    yield b"".join(json.dumps(event).encode() + b"\n" for event in ready) or b"\n"
                    state.until(news, 5)

            self._chunks(lines())
            return
        state.until(lambda: bool(found(after)), float(params.get("wait", 0)))
        items = found(after)[: int(params.get("limit", 100))]
        self._json(200, {"items": items, "next": items[-1]["seq"] if items else max(after, len(state.events))})

    def _chunks(self, pieces: Iterator[bytes]) -> None:
        fault, _, number = str(self.fault).partition(":")
        budget = int(number) if number else None
        for piece in pieces:
            if budget is not None:
                piece, budget = piece[:budget], budget - len(piece)
            if piece:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
            if budget is not None and budget <= 0:
                if fault == "cut":
                    raise _Cut
                break
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        if self.fault == "lost":
            raise _Cut
        kind = "application/json" if status < 400 else "application/problem+json"
        self._head(status, kind, len(body))
        self.wfile.write(body)

    def _problem(self, status: int, code: str, detail: str, **more: Any) -> None:
        self._json(status, {"type": "about:blank", "status": status, "detail": detail, "code": code} | more)

    def _head(self, status: int, kind: str, length: int | None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[NativeServer]:
    """A server that listens, and is gone afterwards."""
    server = NativeServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
