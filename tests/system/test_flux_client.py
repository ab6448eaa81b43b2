"""The released client of Flux RESTful, unmodified: `make flux-client` installs it into an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.helpers import wait_until
from tests.system.flux import done, submit
from tests.system.server import LOOPBACK, Server, alive, clean_env

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / ".flux-client" / "bin"
SESSION = Path(__file__).with_name("flux_session.py")
SETTINGS = "host: http://127.0.0.1:5000\nconfig_editor: vim\nworkdir: null\nflux_user: null\nflux_token: null\n"
ACCESS = {
    "FLUX_USER": "fluxuser",
    "FLUX_TOKEN": "a long enough token",
    "FLUX_SECRET_KEY": "a shared secret of enough length",
}

pytestmark = pytest.mark.skipif(
    not (CLIENT / "flux-restful-cli").exists(), reason="the released client is not installed: make flux-client"
)


def run(server: Server, folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The client's program against the server, with a home of its own."""
    home = folder / "home"
    (home / ".flux-restful-cli").mkdir(parents=True, exist_ok=True)
    (home / ".flux-restful-cli" / "settings.yml").write_text(SETTINGS)
    clean = {name: value for name, value in clean_env().items() if not name.startswith(("FLUX_", "PYTHON"))}
    chosen = clean | {"HOME": str(home), "FLUX_RESTFUL_HOST": server.url} | env
    return subprocess.run(
        [str(CLIENT / arguments[0]), *arguments[1:]], env=chosen, capture_output=True, text=True, timeout=120
    )


def session(server: Server, folder: Path, *arguments: str, **env: str) -> dict[str, Any]:
    done = run(server, folder, "python", str(SESSION), *arguments, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def command(server: Server, folder: Path, *arguments: str, **env: str) -> Any:
    """What the command line prints, as JSON."""
    done = run(server, folder, "flux-restful-cli", *arguments, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def check_session(found: dict[str, Any]) -> None:
    job = found["submit"]["id"]
    assert found["submit"]["Message"] == "Job submit." and isinstance(job, int)
    assert len(found["nodes"]["nodes"]) == 1
    assert (found["info"]["id"], found["info"]["result"], found["info"]["returncode"]) == (job, "COMPLETED", 0)
    assert found["info"]["option_flags"] == {"mpi": "none"} and isinstance(found["info"]["runtime"], float)
    assert "".join(found["output"]["Output"]) == found["stream"] == "hello\n"
    assert found["cancel"]["Message"] == "Job is requested to cancel."
    assert found["cancelled"]["result"] == "CANCELED"
    assert found["cancel again"]["Message"] == "Job cannot be cancelled: [Errno 2] job is inactive."
    assert job in [entry["id"] for entry in found["list"]["jobs"]]
    assert job in [record["id"] for record in found["details"]]
    assert job in [record["id"] for record in found["search"]["data"]]
    assert found["unknown"] is None
    assert found["bad"]["Errors"][0].startswith("The server only has 1 nodes, you requested 999")


def test_the_client_does_all_that_it_can_without_accounts(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    found = session(server, tmp_path)
    check_session(found)
    submitted = command(server, tmp_path, "submit", "--num_tasks", "1", "--env", "A=b", "sh", "-c", "exec sleep 1000")
    job = str(submitted["id"])
    assert command(server, tmp_path, "info", job)["name"] == "sh"
    assert job in {str(entry["id"]) for entry in command(server, tmp_path, "list-jobs")["jobs"]}
    assert command(server, tmp_path, "cancel", job)["id"] == job
    logs = run(server, tmp_path, "flux-restful-cli", "logs", str(found["submit"]["id"]))
    assert logs.stdout.strip() == "hello"
    assert command(server, tmp_path, "list-nodes") == found["nodes"]
    assert command(server, tmp_path, "stop-service") == {"Message": "Service stop requested."}
    assert server.wait() == 0


def test_the_client_does_the_same_with_an_account(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(FLUX_REQUIRE_AUTH="true", **ACCESS)
    refused = run(server, tmp_path, "flux-restful-cli", "list-nodes", **ACCESS | {"FLUX_TOKEN": "wrong"})
    assert refused.returncode != 0
    # Each command asks for a token anew, and sends its request a second time, in another shape.
    submitted = command(server, tmp_path, "submit", "sleep", "1000", **ACCESS)
    job = str(submitted["id"])
    assert command(server, tmp_path, "info", job, **ACCESS)["user"] == "fluxuser"
    assert command(server, tmp_path, "cancel", job, **ACCESS)["Message"] == "Job is requested to cancel."
    check_session(session(server, tmp_path, **ACCESS))
    kept = session(server, tmp_path, "stop", **ACCESS)
    assert kept["stop"] == {"Message": "Service stop requested."}
    assert server.wait() == 0


def test_the_service_stops_with_its_jobs_or_without(serve: Callable[..., Server], tmp_path: Path) -> None:
    told = tmp_path / "told"
    server = serve(RUNYARD_DOORS__FLUX__STOP_COMMAND=f"touch,{told}")

    def start() -> int:
        with server.client() as client:
            job = client.submit(command=["sleep", "1000"])
            pid = server.until(client, job.id, "running").runs[0].pid
        assert pid is not None
        return pid

    def stop() -> None:
        with server.http() as http:
            assert http.post("/service/stop").json() == {"Message": "Service stop requested."}
        assert server.wait() == 0

    kept = start()
    stop()
    assert alive(kept) and told.exists()
    server.set_env(RUNYARD_DOORS__FLUX__ON_STOP="cancel")
    server.start()
    with server.client() as client:
        (job,) = client.jobs(state="running")
        assert job.runs[0].pid == kept
    ended = [kept, start()]
    stop()
    wait_until(lambda: not any(map(alive, ended)), 60, "the end of the jobs")


def test_a_port_of_its_own_strict_folders_and_streams_that_end_with_the_service(serve: Callable[..., Server]) -> None:
    server = serve(
        RUNYARD_DOORS__FLUX__PORT="0", RUNYARD_DOORS__FLUX__STRICT="true", FLUX_OPTION_FLAGS="-ompi=none -ok=v"
    )
    with httpx2.Client(base_url=f"http://{LOOPBACK}:{server.door_port('flux')}", timeout=60) as http:
        lost = submit(http, "true", workdir="/nowhere/at/all", option_flags="k=mine")
        record = done(http, lost)
        assert record["result"] == "FAILED" and "/nowhere/at/all" in record["reason"]
        assert record["option_flags"] == {"mpi": "none", "k": "mine"}
        job = http.post("/v1/jobs/submit", params={"command": "sh -c 'echo up; sleep 1000'"}).json()["id"]
        with http.stream("GET", f"/v1/jobs/{job}/output/stream") as answer:
            pieces = answer.iter_text()
            assert next(pieces) == "up\n"
            assert http.post("/v1/service/stop").status_code == 200
            assert list(pieces) == []
    assert server.wait() == 0
