"""What the container starts, without the container."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx2

from tests.system.server import Server, clean_env, read_until

ENTRYPOINT = Path(__file__).parents[2] / "deploy" / "entrypoint.sh"


def test_a_container_listens_to_others_only_with_accounts(tmp_path: Path) -> None:
    """Without any argument it makes a token, tells it once, and is healthy."""
    data = tmp_path / "data"
    data.mkdir()
    env = clean_env(
        RUNYARD_DATA_DIR=str(data), RUNYARD_SERVER__HOST="0.0.0.0", RUNYARD_SERVER__PORT="0", FLUX_USER="ann"
    )
    env = {key: value for key, value in env.items() if key not in ("FLUX_TOKEN", "FLUX_REQUIRE_AUTH")}
    server = Server(tmp_path)
    server.log.touch()
    try:
        tokens = set()
        for start in range(2):
            command = ["sh", str(ENTRYPOINT)]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path
            ) as process:
                try:
                    said = read_until(process.stdout, "is listening on http://")
                    port = said.rpartition(":")[2].split()[0] if start else re.findall(r":(\d+)", said)[-1]
                    banner = read_until(process.stdout, "Flux token: ")
                    assert "Require auth: True" in banner and "Flux user: ********" in banner, banner
                    found = re.search("user ann has the token (.+)", said)
                    assert (found is not None) == (start == 0), said
                    if found is not None:
                        tokens.add(found.group(1))
                    (token,) = tokens
                    url = f"http://127.0.0.1:{port}/api/v1/jobs"
                    assert httpx2.get(url, timeout=60).status_code == 401
                    assert httpx2.get(url, auth=("ann", token), timeout=60).status_code == 200
                    healthy = subprocess.run(
                        [*command, "healthy"], env=env | {"RUNYARD_SERVER__PORT": port}, timeout=60, capture_output=True
                    )
                    assert healthy.returncode == 0, healthy.stderr
                    assert os.stat(data / "token").st_mode & 0o777 == 0o600
                finally:
                    process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
    finally:
        server.close()


def test_the_entrypoint_is_for_any_shell() -> None:
    assert subprocess.run(["sh", "-n", str(ENTRYPOINT)], capture_output=True).stderr == b""
    assert os.access(ENTRYPOINT, os.X_OK)
