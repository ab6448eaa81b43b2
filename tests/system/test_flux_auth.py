"""Accounts at the Flux door: tokens in every way, ownership on every route, and no secret in a job's reach
(spec/flux-restful.md, 1.4, 1.5 and 2)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from runyard.model.account import Role
from tests.system.flux import accounts_of, done, submit, text_of
from tests.system.server import Server

ROOT, PASSWORD, SHARED = "boss", "correct horse battery", "a shared secret of enough length, and more"
ANN = ("ann", "annas own password")
DENIED = {"Message": "Denied"}
FORM = "/v1/login/access-token"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"FLUX_REQUIRE_AUTH": "1", "FLUX_USER": ROOT, "FLUX_TOKEN": PASSWORD, "FLUX_SECRET_KEY": SHARED}
    server = Server(tmp_path_factory.mktemp("flux"), env=env | {"RUNYARD_AUTH__MAX_FAILURES": "1000"})
    try:
        server.start()
        with accounts_of(server) as accounts:
            for name in (ANN[0], "gone"):
                accounts.add_user(name, time.time(), password=ANN[1])
            accounts.set_disabled("gone", True, time.time())
            accounts.add_user("looker", time.time(), Role.VIEWER, ANN[1])
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def root(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, auth=(ROOT, PASSWORD), timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def ann(server: Server) -> Iterator[httpx2.Client]:
    """By a token from the password form."""
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        answer = client.post(FORM, data={"grant_type": "password", "username": ANN[0], "password": ANN[1]})
        assert answer.status_code == 200 and answer.json()["token_type"] == "Bearer" and answer.json()["expires_in"] > 0
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


@pytest.fixture(scope="module")
def nobody(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def signed(secret: str = SHARED, **claims: Any) -> str:
    """A request for a token, as the released client makes it."""
    return jwt.encode({"user": ROOT, "pass": PASSWORD, "scope": "token"} | claims, secret, "HS256")


ROUTES = [
    ("GET", "/v1/jobs"),
    ("GET", "/jobs"),
    ("GET", "/v1/jobs?details=1"),
    ("GET", "/v1/jobs/search"),
    ("GET", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}/output"),
    ("GET", "/v1/jobs/{id}/output/stream"),
    ("GET", "/v1/jobs/{id}/events"),
    ("POST", "/v1/jobs/{id}/cancel"),
    ("POST", "/v1/jobs/submit?command=true"),
    ("GET", "/v1/events"),
    ("GET", "/v1/nodes"),
    ("POST", "/v1/service/stop"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_who_is_there(nobody: httpx2.Client, method: str, path: str) -> None:
    answer = nobody.request(method, path.format(id=7))
    assert answer.status_code == 401, answer.text
    assert answer.json()["detail"] == "Not authenticated" and answer.headers["WWW-Authenticate"] == "Bearer"
    wrong = nobody.request(method, path.format(id=7), headers={"Authorization": "Bearer x.y.z"})
    # 401, for only then the released client gets itself a new token.
    assert wrong.status_code == 401 and wrong.json()["detail"] == "Could not validate credentials"
    assert wrong.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_signed_request_gets_a_token(nobody: httpx2.Client) -> None:
    for header in (f"Bearer {signed()}", signed()):
        answer = nobody.post("/v1/token", headers={"Authorization": header})
        assert answer.status_code == 200 and answer.json()["token_type"] == "Bearer", answer.text
        access = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert nobody.get("/v1/nodes", headers=access).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Bearer " + "x" * 10_000,
        f"Bearer {signed('another secret of enough length ......')}",
        f"Bearer {signed(scope='write')}",
        f"Bearer {signed(user='')}",
        f"Bearer {signed(user=5)}",
        f"Bearer {signed(**{'pass': 'wrong'})}",
        f"Bearer {signed(user='unknown')}",
        f"Bearer {signed(user='gone', **{'pass': ANN[1]})}",
        f"Bearer {signed(iat=1_000_000_000)}",
        f"Bearer {jwt.encode({'user': ROOT, 'pass': PASSWORD, 'scope': 'token'}, '', 'none')}",
    ],
)
def test_a_bad_request_for_a_token_is_denied_and_never_401(nobody: httpx2.Client, header: str | None) -> None:
    answer = nobody.post("/v1/token", headers={} if header is None else {"Authorization": header})
    assert (answer.status_code, answer.json()) == (400, DENIED)


@pytest.mark.parametrize(
    ("form", "status", "detail"),
    [
        ({"username": ROOT, "password": "wrong"}, 400, "Incorrect email or password"),
        ({"username": "unknown", "password": "wrong"}, 400, "Incorrect email or password"),
        ({"username": "gone", "password": ANN[1]}, 400, "Inactive user"),
        (
            {"username": ROOT}, 422,
            [{"type": "missing", "loc": ["body", "password"], "msg": "Field required", "input": None}],
        ),
        ({}, 422, None),
    ],
)  # fmt: skip
def test_the_password_form_says_what_is_wrong(
    nobody: httpx2.Client, form: dict[str, str], status: int, detail: Any
) -> None:
    answer = nobody.post(FORM, data=form)
    assert answer.status_code == status, answer.text
    assert detail is None or answer.json()["detail"] == detail


def test_nobody_can_make_a_token_of_their_own(nobody: httpx2.Client, ann: httpx2.Client) -> None:
    """Defects of the original: the secret that every client knows signs access tokens, which need not expire."""
    now = int(time.time())
    own = ann.headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(own, options={"verify_signature": False})
    head, body, signature = own.split(".")
    unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
    forged = [
        jwt.encode({"sub": "1", "exp": now + 9999}, SHARED, "HS256"),
        jwt.encode(claims | {"sub": ROOT}, SHARED, "HS256"),
        f"{unsigned}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        signed(),
    ]
    for token in forged:
        answer = nobody.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, token
    assert claims["exp"] > now and "jti" in claims


def test_an_expired_token_is_401(serve: Callable[..., Server]) -> None:
    server = serve(
        FLUX_REQUIRE_AUTH="true", FLUX_USER=ROOT, FLUX_TOKEN=PASSWORD, RUNYARD_AUTH__ACCESS_TOKEN_LIFETIME="0"
    )
    with server.http() as http:
        token = http.post(FORM, data={"username": ROOT, "password": PASSWORD}).json()["access_token"]
        answer = http.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401 and "invalid_token" in answer.headers["WWW-Authenticate"]


def test_everybody_has_jobs_of_their_own(root: httpx2.Client, ann: httpx2.Client) -> None:
    theirs = submit(root, "echo for-root-only")
    own = submit(ann, "echo for-ann")
    assert done(root, theirs)["user"] == ROOT and done(ann, own)["user"] == "ann"
    # Ids can't be probed: a job of somebody else is not there.
    for path in (f"/v1/jobs/{theirs}", f"/v1/jobs/{theirs}/output", f"/v1/jobs/{theirs}/output/stream",
                 f"/v1/jobs/{theirs}/events"):  # fmt: skip
        assert ann.get(path).status_code == 404, path
        assert root.get(path.replace(str(theirs), str(own))).status_code == 200, path
    refused = ann.post(f"/v1/jobs/{theirs}/cancel")
    assert refused.json()["Message"] == "Job cannot be cancelled: [Errno 2] unknown job id."

    def ids(client: httpx2.Client, path: str) -> set[int]:
        found = client.get(path).json()
        rows = found if isinstance(found, list) else found.get("jobs", found.get("data"))
        return {row.get("jobid", row.get("id")) for row in rows}

    for path in ("/v1/jobs", "/v1/jobs?details=1&listing=1", "/v1/jobs/search", "/v1/events"):
        assert own in ids(ann, path) and theirs not in ids(ann, path), path
        assert {own, theirs} <= ids(root, path), path
    assert "for-root-only" not in ann.get("/v1/jobs?details=1").text


def test_where_accounts_are_made_but_not_asked_for_an_admin_stops_the_service(tmp_path: Path) -> None:
    server = Server(tmp_path, env={"FLUX_USER": ROOT, "FLUX_TOKEN": PASSWORD})
    try:
        server.start()
        with server.http() as http:
            assert http.get("/v1/jobs").status_code == 200
            assert http.post("/v1/service/stop").status_code == 401
            assert http.post("/v1/service/stop", auth=(ROOT, "wrong-word")).status_code == 401
            assert http.post("/v1/service/stop", auth=(ROOT, PASSWORD)).status_code == 200
        assert server.wait() == 0
    finally:
        server.close()


def test_only_an_admin_stops_the_service(ann: httpx2.Client, root: httpx2.Client) -> None:
    answer = ann.post("/v1/service/stop")
    assert answer.status_code == 403
    assert answer.json() == {"detail": "The user doesn't have enough privileges"}
    assert root.get("/v1/nodes").status_code == 200


def test_a_viewer_sees_everything_and_changes_nothing(server: Server, root: httpx2.Client) -> None:
    job = submit(root, "sleep 1000")
    with httpx2.Client(base_url=server.url, auth=("looker", ANN[1]), timeout=60) as looker:
        assert looker.get(f"/v1/jobs/{job}").json()["user"] == ROOT
        assert looker.post(f"/v1/jobs/{job}/cancel").status_code == 403
        assert looker.post("/v1/jobs/submit", params={"command": "true"}).status_code == 403
    assert root.post(f"/v1/jobs/{job}/cancel").status_code == 200
    assert done(root, job)["result"] == "CANCELED"


def test_a_disabled_account_is_told_so(server: Server) -> None:
    answer = httpx2.get(f"{server.url}/v1/jobs", auth=("gone", ANN[1]), timeout=60)
    assert (answer.status_code, answer.json()["detail"]) == (403, "Inactive user")


def test_a_launcher_gets_a_token_of_its_owner(ann: httpx2.Client, tmp_path: Path) -> None:
    launcher = tmp_path / "nextflow"
    launcher.write_text(
        '#!/bin/sh\ncurl -sS -X POST -H "Authorization: Bearer $RUNYARD_TOKEN" '
        '"$FLUX_RESTFUL_HOST/v1/jobs/submit?command=true"\n'
    )
    launcher.chmod(0o755)
    tmp_path.chmod(0o755)
    query = {"command": str(launcher), "is_launcher": "true"}
    started = ann.post("/v1/jobs/submit", params=query)
    assert started.status_code == 200, started.text
    number = started.json()["launcher_id"]
    assert done(ann, number)["result"] == "COMPLETED"
    child = json.loads(text_of(ann, number))["id"]
    assert done(ann, child)["user"] == "ann"


def test_no_secret_comes_into_a_jobs_reach(root: httpx2.Client, server: Server) -> None:
    job = submit(root, "env")
    done(root, job)
    environment = text_of(root, job)
    assert "FLUX_JOB_ID" in environment
    for secret in (PASSWORD, SHARED, "FLUX_TOKEN", "FLUX_SECRET_KEY"):
        assert secret not in environment
    log = server.log.read_text()
    assert PASSWORD not in log and SHARED not in log
