"""The cheapest honest handler on our stack: what Litestar, uvicorn, the gate and the decoder cost without a job server.

Checks each job as we do and answers with a document of a job's size. `python -m bench.reference` prints its port.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any

import msgspec
import uvicorn
import uvloop
from litestar import Litestar, Request, Response, post

from runyard.api.gate import Gate
from runyard.auth.origin import OriginRules, own_names
from runyard.core.record import JobRecord
from runyard.model.check import decode_spec
from runyard.model.ids import JobIds
from runyard.model.job import JobSpec
from runyard.service.document import job_doc

_encoder = msgspec.json.Encoder()
_DOCUMENT = job_doc(
    JobRecord(
        id=JobIds().next(1_800_000_000.0),
        spec=JobSpec(command=["/bin/true"], hold=True),
        kind="batch",
        origin="native",
        owner="root",
        submitted_at=1_800_000_000.0,
    )
)


@post("/api/v1/jobs")
async def submit(request: Request[Any, Any, Any]) -> Response[bytes]:
    decode_spec(await request.body())
    return Response(_encoder.encode(_DOCUMENT), status_code=201, media_type="application/json")


async def serve() -> None:
    app = Litestar([submit], openapi_config=None, logging_config=None, request_max_body_size=None)
    gate: Any = Gate(app, OriginRules(own_names("127.0.0.1", []), frozenset()), 1 << 20)
    config = uvicorn.Config(
        gate, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, server_header=False
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve(sockets=[listener])


class Reference:
    """`with Reference() as port:` has it running in a process of its own."""

    def __enter__(self) -> int:
        command = [sys.executable, "-m", "bench.reference"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            process.kill()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
