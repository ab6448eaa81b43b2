"""How a server with accounts starts, whom it lets in after that, and as whom jobs run."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.auth.accounts import Accounts
from runyard.cli import exits
from runyard.model.account import Role
from runyard.store.accounts import AccountStore
from tests.system.accounts import FULL, PASSWORD, WRITE, basic, bearer
from tests.system.native import JOBS, ended, submit
from tests.system.server import Server

EVERYWHERE = ("--host", "0.0.0.0", "--port", "0")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "without accounts, everybody"),
        ({"FLUX_REQUIRE_AUTH": "true"}, "there is no account yet"),
        ({"FLUX_REQUIRE_AUTH": "true", "FLUX_USER": "a:b", "FLUX_TOKEN": "x"}, "can't be the name of an account"),
    ],
)
def test_a_server_that_would_be_open_or_shut_to_all_does_not_start(
    tmp_path: Path, env: dict[str, str], says: str
) -> None:
    found = Server(tmp_path).run("serve", *EVERYWHERE, "--data-dir", str(tmp_path / "data"), env=env)
    assert (found.returncode, found.stdout) == (exits.USAGE, "")
    assert says in found.stderr and "Traceback" not in found.stderr


def test_the_documents_environment_opens_the_door_to_one_admin(serve: Callable[..., Server]) -> None:
    env = {"FLUX_USER": "fluxuser", "FLUX_TOKEN": "12345", "FLUX_USER_AUTH": "true"}
    server = serve("--host", "0.0.0.0", **env)
    with server.http() as nobody, basic(server, "fluxuser", "12345") as admin:
        assert nobody.get(JOBS).status_code == 401
        assert submit(admin, command=["true"], hold=True)["owner"] == "fluxuser"
        access = admin.post("/v1/login/access-token", data={"username": "fluxuser", "password": "12345"}).json()
        # What was given out before stays good after a new start.
        server.kill()
        server.start()
        with bearer(server, access["access_token"]) as again:
            (job,) = again.get(JOBS).json()["items"]
            assert again.delete(f"{JOBS}/{job['id']}").status_code == 409
            assert again.post(f"{JOBS}/{job['id']}/cancel", json={}).status_code == 200
        assert "FLUX_TOKEN is short" in server.log.read_text() and "12345" not in server.log.read_text()
        # Another password in the environment is the account's password from then on, and ends what came by the old one.
        server.kill()
        server.set_env(FLUX_TOKEN=PASSWORD)
        server.start()
        with basic(server, "fluxuser", PASSWORD) as changed, bearer(server, access["access_token"]) as ended_login:
            assert [http.get(JOBS).status_code for http in (changed, admin, ended_login)] == [200, 401, 401]


def test_without_accounts_nothing_is_asked_for_whatever_is_brought(serve: Callable[..., Server]) -> None:
    server = serve(FLUX_TOKEN="a-password-for-flux", FLUX_REQUIRE_AUTH="false")
    with server.http() as http:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}):
            assert http.get(JOBS, headers=header).status_code == 200
        assert submit(http, command=["true"], hold=True, user="root")["owner"] == pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start jobs as somebody else")
def test_jobs_run_as_their_owners(serve: Callable[..., Server], tmp_path: Path) -> None:
    data = tmp_path / "server" / "data"
    store = AccountStore.open(data, data)
    accounts, now, tokens = Accounts(store, "tester"), time.time(), {}
    for name, role, os_user in (
        ("ann", Role.USER, "nobody"),
        ("daemon", Role.USER, None),
        ("nobody-knows-me", Role.USER, None),
        ("chief", Role.ADMIN, "root"),
    ):
        accounts.add_user(name, now, role, os_user=os_user)
        tokens[name] = accounts.create_token(name, now, FULL if role is Role.ADMIN else WRITE, None).secret
    store.close()
    server = serve(RUNYARD_AUTH__ENABLED="true", FLUX_SERVER_MODE="multi-user")

    def output(http: httpx2.Client, **spec: Any) -> list[str]:
        job = submit(http, script='id -un; id -Gn; echo "$HOME"; pwd', **spec)
        assert ended(http, job["id"])["state"] == "succeeded", ended(http, job["id"])
        return http.get(f"{JOBS}/{job['id']}/logs").text.split("\n")

    nobody = pwd.getpwnam("nobody")
    with bearer(server, tokens["ann"]) as ann, bearer(server, tokens["chief"]) as chief:
        found = output(ann)
        assert found[0] == "nobody" and "root" not in found[1].split() and found[2] == nobody.pw_dir
        assert found[3] == (nobody.pw_dir if os.path.isdir(nobody.pw_dir) else "/")
        assert output(ann, user="nobody", cwd="/tmp")[3] == "/tmp"
        for spec in ({"user": "root"}, {"user": "0"}, {"user": "nobody", "group": "root"}):
            assert ann.post(JOBS, json={"command": ["id"], **spec}).status_code == 403
        task = {"name": "as-ann", "cmd": "id -un", "type": "once", "user": "root"}
        assert ann.post("/proc", json=task).status_code == 403
        assert output(chief)[0] == "root"
        assert output(chief, user="nobody", cwd="/")[0] == "nobody"
    for name, status in (("daemon", 403), ("nobody-knows-me", 400)):
        with bearer(server, tokens[name]) as client:
            answer = client.post(JOBS, json={"command": ["id"]})
            assert answer.status_code == status, answer.text
