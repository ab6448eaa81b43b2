"""A small client of the Flux RESTful API, for the examples beside it. It needs Python's standard library only."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any


class FluxRestfulError(Exception):
    """The server has said no: `status`, and `answer` with its reasons."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(f"{status}: {answer}")
        self.status, self.answer = status, answer


class FluxRestfulClient:
    """User and token come from FLUX_USER and FLUX_TOKEN, the host from FLUX_RESTFUL_HOST, unless they are given."""

    def __init__(self, host: str | None = None, user: str | None = None, token: str | None = None) -> None:
        self.host = (host or os.environ.get("FLUX_RESTFUL_HOST") or "http://127.0.0.1:5000").rstrip("/")
        self.headers: dict[str, str] = {}
        user, token = user or os.environ.get("FLUX_USER"), token or os.environ.get("FLUX_TOKEN")
        if user and token:
            self.set_basic_auth(user, token)

    def set_basic_auth(self, user: str, token: str) -> None:
        self.headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()

    def submit(self, command: str | list[str], **options: Any) -> Any:
        """`options` as the API has them: `num_tasks`, `cores_per_task`, `runtime`, `envars`, `workdir` …"""
        return self._call("POST", "/jobs/submit", {"command": command, **options})

    def jobs(self, jobid: int | str | None = None) -> Any:
        """One job, or the list of all."""
        return self._call("GET", "/jobs" if jobid is None else f"/jobs/{jobid}")

    def output(self, jobid: int | str) -> Any:
        return self._call("GET", f"/v1/jobs/{jobid}/output")

    def stream_output(self, jobid: int | str) -> Iterator[str]:
        """Line by line, until the job has ended."""
        with self._open("GET", f"/v1/jobs/{jobid}/output/stream") as answer:
            for line in answer:
                yield line.decode("utf-8", "replace")

    def cancel(self, jobid: int | str) -> Any:
        return self._call("POST", f"/jobs/{jobid}/cancel")

    def list_nodes(self) -> Any:
        return self._call("GET", "/nodes")

    def stop_service(self) -> Any:
        return self._call("POST", "/service/stop")

    def _call(self, method: str, path: str, data: Any = None) -> Any:
        with self._open(method, path, data) as answer:
            return json.load(answer)

    def _open(self, method: str, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        headers = self.headers | ({} if body is None else {"Content-Type": "application/json"})
        request = urllib.request.Request(self.host + path, body, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode("utf-8", "replace")
            try:
                raise FluxRestfulError(error.code, json.loads(text)) from None
            except ValueError:
                raise FluxRestfulError(error.code, text) from None
