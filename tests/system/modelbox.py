"""A client of the ModelBox door, and graphs for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.system.server import LOOPBACK, Server, ask_until

Json = dict[str, Any]
PATH = "/v1/modelbox/job"
SAFE_HEADERS = ("referrer-policy", "content-security-policy", "x-frame-options")
#: Fed by nobody: it runs, and needs no port.
IDLE = (
    "digraph { in1[type=input]; d[flowunit=base64_decoder]; out1[type=output]; in1 -> d:in_data; d:out_data -> out1 }"
)
#: The document's example with the quote that it lacks. Its port is one for the tests to replace.
EXAMPLE = r"""
  {
      "job_id": "flow-example",
      "job_graph": {
        "graph": {
          "format":"graphviz",
          "graphconf": [
            " digraph demo { ",
            "          httpserver_sync_receive[type=flowunit, flowunit=httpserver_sync_receive, device=cpu, deviceid=0, label=\"<Out_1>\", request_url=\"http://localhost:54321/example\", max_requests=10, time_out=5]",
            "          httpserver_sync_reply[type=flowunit, flowunit=httpserver_sync_reply, device=cpu, deviceid=0, label=\"<In_1>\"]",
            "          httpserver_sync_receive:out_request_info -> httpserver_sync_reply:in_reply_info",
            "  }"
          ]
        },
        "driver": {
          "dir": "/usr/local/lib/"
        }
      }
  }
"""  # noqa: E501


def graph(dot: str = IDLE) -> Json:
    return {"graph": {"format": "graphviz", "graphconf": dot}}


def toml(dot: str = IDLE) -> str:
    return f"[graph]\nformat = 'graphviz'\ngraphconf = '''{dot}'''\n"


def unit(folder: Path, name: str, opening: str) -> Json:
    """A graph with a Python unit of that name, which is written into the folder; `opening` is a line of its `open`."""
    home = folder / name
    home.mkdir(parents=True)
    (home / "unit.toml").write_text(
        f"""[base]
name = "{name}"
device = "cpu"
version = "1.0.0"
description = "For a test."
type = "python"
entry = "unit@Unit"
[input]
input1 = {{name = "in_1"}}
[output]
output1 = {{name = "out_1"}}
"""
    )
    (home / "unit.py").write_text(
        f"""import os, signal, sys, threading
import _flowunit as modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        {opening}
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def process(self, data_context):
        return modelbox.Status.StatusCode.STATUS_SUCCESS
"""
    )
    dot = f"digraph {{ in1[type=input]; u[flowunit={name}]; out1[type=output]; in1 -> u:in_1; u:out_1 -> out1 }}"
    return {**graph(dot), "driver": {"dir": str(folder)}}


class Door:
    """The door of one server, by its main port or another."""

    def __init__(self, server: Server, port: int | None = None) -> None:
        self.http = httpx2.Client(base_url=f"http://{LOOPBACK}:{port or server.port}", timeout=90)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def put(self, id: str, graph: Any, **more: Any) -> httpx2.Response:
        return self.http.put(PATH, content=json.dumps({"job_id": id, "job_graph": graph, **more}))

    def create(self, id: str, graph: Any) -> None:
        answer = self.put(id, graph)
        assert (answer.status_code, answer.content) == (201, b""), answer.text

    def get(self, id: str) -> httpx2.Response:
        return self.http.get(f"{PATH}/{id}")

    def status(self, id: str) -> str:
        answer = self.get(id)
        return answer.json()["job_status"] if answer.status_code == 200 else str(answer.status_code)

    def until(self, id: str, status: str) -> Json:
        """The job once it has that status."""
        body: Json = ask_until(lambda: self.get(id).json(), lambda body: body.get("job_status") == status, 60, status)
        return body

    def list(self) -> dict[str, Json]:
        answer = self.http.get(f"{PATH}/list/all")
        assert answer.status_code == 200
        return {job["job_id"]: job for job in answer.json()["job_list"]}

    def delete(self, id: str) -> int:
        return self.http.delete(f"{PATH}/{id}").status_code


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Status and the number of the error code."""
    assert set(answer.json()) == {"error_code", "error_msg"}
    return answer.status_code, answer.json()["error_code"].removeprefix("MODELBOX_")
