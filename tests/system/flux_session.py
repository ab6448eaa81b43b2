"""What the README of the released client shows, in its own environment: run by `.flux-client/bin/python`.

Prints a JSON object with each answer. The client is unmodified.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from flux_restful_client.main import get_client


def settle(client: Any, job: int) -> Any:
    """As flux-cloud waits: until there is a return code."""
    end = time.monotonic() + 60
    while (record := client.jobs(job))["returncode"] == "" and time.monotonic() < end:
        time.sleep(0.05)
    return record


def main() -> None:
    client = get_client()
    found: dict[str, Any] = {"nodes": client.list_nodes()}
    found["submit"] = client.submit(
        ["printenv", "GREETING"],
        envars={"GREETING": "hello"},
        num_tasks=1,
        cores_per_task=1,
        option_flags={"mpi": "none"},
        exclusive=False,
        workdir=None,
    )
    job = found["submit"]["id"]
    found["info"] = settle(client, job)
    found["output"] = client.output(job)
    long = client.submit("sleep 1000")["id"]
    found["cancel"] = client.cancel(long)
    found["cancelled"] = settle(client, long)
    found["cancel again"] = client.cancel(long)
    found["list"] = client.jobs()
    found["details"] = client.jobs(detail=True, listing=True)
    found["search"] = client.search("printenv", start=0, length=10)
    found["unknown"] = client.jobs(7)
    found["bad"] = client.submit("true", num_nodes=999)
    stream = client.session.get(f"{client.host}/v1/jobs/{job}/output/stream", headers=client.headers)
    found["stream"] = stream.text
    if "stop" in sys.argv:
        found["stop"] = client.stop_service()
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
