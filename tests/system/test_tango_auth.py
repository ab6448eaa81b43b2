"""Projects on a server with accounts: whose they are, who may do what with them, and what their members may say."""

from __future__ import annotations

import os
import pwd
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.auth.accounts import Accounts
from runyard.store.accounts import AccountStore
from tests.system.accounts import WRITE, Crowd, bearer
from tests.system.members import START, FakeMember, members, report
from tests.system.native import JOBS, Json, ended
from tests.system.server import Server, ask_until

PROJECTS = "/api/v1/projects"
ENV = {"RUNYARD_AUTH__ENABLED": "true", "RUNYARD_DOORS__TANGO__HEARTBEAT": "0.1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("server")
    server = Server(folder, env=ENV)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def callers(server: Server) -> Iterator[dict[str, httpx2.Client]]:
    crowd = Crowd(server.data)
    server.start()
    with ExitStack() as stack:
        stack.callback(crowd.close)
        yield {name: stack.enter_context(client) for name, client in crowd.clients(server).items()}


def create(client: httpx2.Client, name: str, *steps: Json, **fields: Any) -> httpx2.Response:
    return client.post(PROJECTS, json={"name": name, "steps": steps, **fields}, params={"start": "true"})


def test_a_project_and_its_jobs_are_their_owners(server: Server, callers: dict[str, httpx2.Client]) -> None:
    ann, bob = callers["ann"], callers["bob"]
    with members(FakeMember()) as (member,):
        steps = ({"container": "prepare", "command": ["true"]}, {"container": "bms", "url": member.url})
        for name, status in (("nobody", 401), ("ann-reads", 403), ("viewer", 403)):
            assert create(callers[name], "owned", *steps).status_code == status
        made = create(ann, "owned", *steps)
        assert made.status_code == 201, made.text
        ref = made.json()["id"]
        assert (made.json()["owner"], made.json()["user_id"]) == ("ann", "ann")
        member.until_called(START, ref)
        child = ann.get(f"{PROJECTS}/{ref}").json()["steps"][0]["job"]
        assert ended(ann, child)["owner"] == "ann"
        for path in (ref, f"{ref}/members", f"{ref}/metrics", f"{ref}/files"):
            found = {name: client.get(f"{PROJECTS}/{path}").status_code for name, client in callers.items()}
            assert found == {name: {"nobody": 401, "bob": 403}.get(name, 200) for name in callers}, path
        for job in (ref, child):
            for path in (job, f"{job}/logs", f"{job}/why", f"{job}/events", f"{job}/runs"):
                assert bob.get(f"{JOBS}/{path}").status_code == 403, path
        assert bob.get(PROJECTS).json()["items"] == []
        assert [project["id"] for project in ann.get(PROJECTS).json()["items"]] == [ref]
        says = {"container": "bms", "status": "success"}
        for action, body in (("start", {}), ("stop", {}), ("advance", {}), ("report", says)):
            for name, status in (("nobody", 401), ("bob", 403), ("ann-reads", 403), ("viewer", 403)):
                answer = callers[name].post(f"{PROJECTS}/{ref}/{action}", json=body)
                assert answer.status_code == status, (name, action)
        assert bob.delete(f"{PROJECTS}/{ref}").status_code == 403
        # Members bring no credentials, and no Host of ours.
        assert report(server.url, "bms", "ann", ref, "success", form="query") == 200
        assert ended(ann, ref)["state"] == "succeeded"
    assert ann.delete(f"{PROJECTS}/{ref}").status_code == 204


def test_only_admins_make_projects_for_others(callers: dict[str, httpx2.Client]) -> None:
    step = {"container": "user_edit"}
    refused = create(callers["bob"], "for-ann", step, user_id="ann")
    assert refused.status_code == 403 and "user_id must be 'bob'" in refused.json()["detail"]
    made = create(callers["root"], "for-ann", step, user_id="ann")
    assert made.status_code == 201 and made.json()["owner"] == "root"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start jobs as somebody else")
def test_steps_run_as_their_owner_in_a_folder_that_is_theirs(serve: Callable[..., Server], tmp_path: Path) -> None:
    data = tmp_path / "server" / "data"
    store = AccountStore.open(data, data)
    accounts, now = Accounts(store, "tester"), time.time()
    accounts.add_user("ann", now, os_user="nobody")
    token = accounts.create_token("ann", now, WRITE, None).secret
    store.close()
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as shared:
        os.chmod(shared, 0o755)
        secret = tmp_path / "secret.yaml"
        secret.write_text("secret: true\n")
        server = serve(**ENV, RUNYARD_AUTH__RUN_AS="true", RUNYARD_DOORS__TANGO__SHARED=shared)
        # What the server writes and reads there must lead it nowhere else.
        script = f"""
            id -un; test "$PWD" = "$TANGO_PROJECT_DIR" && echo here
            echo 'weight_file: best.pt' > neural_net_info.yaml
            rm project_info.yaml && ln -s {secret} project_info.yaml && ln -s {secret} basemodel.yaml
            mkfifo pipe deployment.yaml && mv -f pipe log.txt
        """
        with bearer(server, token) as ann:
            made = create(ann, "mine", {"container": "work", "job": {"script": script}}, {"container": "user_edit"})
            assert made.status_code == 201, made.text
            ref = made.json()["id"]
            waiting = ask_until(
                lambda: ann.get(f"{PROJECTS}/{ref}").json(),
                lambda project: project["ended_at"] or "person" in str(project["waits_for"]),
            )
            work = ended(ann, waiting["steps"][0]["job"])
            said = ann.get(f"{JOBS}/{work['id']}/logs").text
            assert work["state"] == "succeeded", (work["reason"], said)
            assert said.split() == ["nobody", "here"]
            assert ann.post(f"{PROJECTS}/{ref}/advance", json={}).status_code == 200
            assert ended(ann, ref)["state"] == "succeeded"
            found = ann.get(f"{PROJECTS}/{ref}/files").json()
            assert found["files"] == {"neural_net_info": {"weight_file": ["best.pt"]}}
            assert Path(found["folder"]).stat().st_uid == pwd.getpwnam("nobody").pw_uid
            assert ann.post(f"{PROJECTS}/{ref}/start", json={"fresh": True}).status_code == 200
            assert ended(ann, ref)
            assert secret.read_text() == "secret: true\n"
