"""The native door over real HTTP: what it refuses, and that each refusal says what was wrong and leaves no trace."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.api.openapi import openapi_document
from runyard.client import Client
from runyard.model.job import JobDoc
from tests.system.server import LOOPBACK, Server, clean_env

JOBS, BATCH = "/api/v1/jobs", "/api/v1/jobs:batch"
PROBLEM = "application/problem+json"
OK = {"command": ["true"]}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def ended(client: Client) -> JobDoc:
    return client.wait(client.submit(command=["true"], name="ended").id, 60)


@pytest.fixture(scope="module")
def live(client: Client) -> Iterator[JobDoc]:
    job = client.submit(command=["true"], name="live", hold=True)
    yield client.job(job.id)
    client.cancel(job.id)


def check(answer: httpx2.Response, status: int, code: str, says: str, field: str | None = None) -> None:
    """A problem document with that status and code, whose words hold `says`, and which names the field."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["Content-Type"] == PROBLEM
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"] and says in problem["detail"], problem["detail"]
    if field is not None:
        (error,) = problem["errors"]
        assert error["field"] == field and error["rule"] and "value" in error


def newest(http: httpx2.Client) -> str | None:
    items = http.get(JOBS, params={"limit": 1}).json()["items"]
    return items[0]["id"] if items else None


def job(**fields: Any) -> bytes:
    return json.dumps(OK | fields).encode()


SPECS = [
    # body, words, field
    (b'{"comand": ["true"]}', "did you mean 'command'", "comand"),
    (job(restart={"polcy": "always"}), "did you mean 'policy'", "restart.polcy"),
    (job(after=[{"jobb": "x"}]), "did you mean 'job'", None),
    (job(zzzzzz=1), "known fields: command, script", "zzzzzz"),
    (b'{"command": "true"}', "Expected `array", "command"),
    (b'{"command": ["sleep", 5]}', "got `int`", "command[1]"),
    (job(replicas="two"), "Expected `int`", "replicas"),
    (job(hold="yes"), "Expected `bool`", "hold"),
    (job(lifecycle="forever"), "forever", "lifecycle"),
    (job(env={"A": 1}), "Expected `str`", None),
    (b"{}", "exactly one of `command`, `script`", "command"),
    (job(script="true"), "exactly one of `command`, `script`", "command"),
    (b'{"command": []}', "must name a program", "command"),
    (b'{"command": [""]}', "must name a program", "command"),
    (b'{"script": "  \\n"}', "must not be empty", "script"),
    (job(command=["echo", "a\0b"]), "NUL", "command[1]"),
    (job(env={"A\0": "1"}), "NUL", "env"),
    (job(env={"A=B": "1"}), "`=`", "env"),
    (job(cwd="relative"), "absolute", "cwd"),
    (job(cwd="/a\0"), "NUL", "cwd"),
    (job(umask="9"), "octal", "umask"),
    (job(name=""), "1 to 255 characters", "name"),
    (job(name="n" * 256), "1 to 255 characters", "name"),
    (job(name="12345"), "read as a job id", "name"),
    (job(name="two\nlines"), "printable", "name"),
    (job(labels={"a=b": ""}), "`=`", "labels"),
    (job(labels={str(number): "" for number in range(65)}), "at most 64", "labels"),
    (job(priority=1_000_001), "between -1000000 and 1000000", "priority"),
    (job(priority=10**30), "between -1000000 and 1000000", "priority"),
    (job(replicas=0), "between 1 and 10000", "replicas"),
    (job(replicas=100_000), "between 1 and 10000", "replicas"),
    (job(time_limit="soon"), '"1h30m"', "time_limit"),
    (job(time_limit=-1), "between", "time_limit"),
    (job(resources={"memory": "much"}), '"512M"', "resources.memory"),
    (job(resources={"cores_per_task": -1}), "between", "resources.cores_per_task"),
    (job(stop={"signal": "SIGNOTHING"}), "SIGTERM", "stop.signal"),
    (job(limits={"nice": 40}), "between -20 and 19", "limits.nice"),
    (job(executor="moon"), "there is: local", "executor"),
    (job(lifecycle="cron"), "schedule", "schedule"),
    (job(schedule={"cron": "* * * * *"}), "only there", "schedule"),
    (job(lifecycle="cron", schedule={"cron": "*/5 * 99 * *"}), "'99' at column 7", "schedule.cron"),
    (job(lifecycle="cron", schedule={"cron": "* * *"}), "has 3", "schedule.cron"),
    (job(lifecycle="cron", schedule={"cron": "@often"}), "@hourly", "schedule.cron"),
    (job(lifecycle="cron", schedule={"cron": "0 0 31 2 *"}), "", "schedule.cron"),
    (
        job(lifecycle="cron", schedule={"cron": "* * * * *", "timezone": "Mars/Base"}),
        "Europe/Berlin",
        "schedule.timezone",
    ),
    (job(after=["no-such-job"]), "no such job", "after[0]"),
    (job(after=["99999999999"]), "no such job", "after[0]"),
    (job(name="self", after=["self"]), "no such job", "after[0]"),
    (job(after=[str(number) for number in range(1001)]), "at most 1000", "after"),
    (b"", "the body is empty", None),
    (b"{", "line 1 column 2", None),
    (b'{"command": ["true"],}', "line 1 column 22", None),
    (b"nonsense", "not JSON", None),
    (b"null", "not NoneType", None),
    (b'["true"]', "not list", None),
    (b'{"command": ["\\ud800"]}', "surrogate", None),
    (b'{"command": ["true"], "name": "a\\udc00b"}', "surrogate", None),
    (b'{"command": ["\xff"]}', "not UTF-8: byte 0xff at offset 14", None),
    (b'{"command": ["true"], "time_limit": NaN}', "not JSON", None),
    (b"[" * 200_000, "nested too deeply", None),
    (b'{"labels":' * 50_000, "nested too deeply", None),
]


@pytest.mark.parametrize(("body", "says", "field"), SPECS)
def test_a_bad_job(http: httpx2.Client, ended: JobDoc, live: JobDoc, body: bytes, says: str, field: str | None) -> None:
    before = newest(http)
    check(http.post(JOBS, content=body), 400, "invalid_input", says, field)
    assert newest(http) == before
    assert http.get("/livez").status_code == 200
    if body.startswith(b"{") and says not in ("nested too deeply",):
        # The same mistake in a bulk request has the same words, and the others are taken.
        lines = body + b"\n" + b'{"command": ["true"], "hold": true, "name": "beside"}'
        answer = http.post(BATCH, content=lines, headers={"Content-Type": "application/x-ndjson"})
        bad, good = answer.json()["items"]
        assert bad["status"] == 400 and says in bad["problem"]["detail"] and good["status"] == 201
        http.post(f"{JOBS}/{good['job']['id']}/cancel")


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"{}", 400, "invalid_input", "JSON array"),
        (b"[]", 400, "invalid_input", "no job"),
        (b"", 400, "invalid_input", "empty"),
        (b"[{]", 400, "invalid_input", "line 1 column 3"),
        (b"[" + b",".join([b"{}"] * 10_001) + b"]", 413, "too_large", "max_batch"),
    ],
)
def test_a_bad_bulk_request(http: httpx2.Client, body: bytes, status: int, code: str, says: str) -> None:
    before = newest(http)
    check(http.post(BATCH, content=body), status, code, says)
    assert newest(http) == before


REQUESTS: list[tuple[str, str, Json, int, str, str]] = [
    ("GET", "/nowhere", {}, 404, "not_found", "/openapi.json"),
    ("GET", "/api/v1", {}, 404, "not_found", "/openapi.json"),
    ("GET", "/api/v2/jobs", {}, 404, "not_found", "/openapi.json"),
    ("PUT", JOBS, {}, 405, "method_not_allowed", "POST"),
    ("DELETE", JOBS, {}, 405, "method_not_allowed", "GET"),
    ("POST", "/livez", {}, 405, "method_not_allowed", "GET"),
    ("GET", BATCH, {}, 405, "method_not_allowed", "POST"),
    ("GET", f"{JOBS}/nobody", {}, 404, "not_found", "'nobody'"),
    ("GET", f"{JOBS}/0", {}, 404, "not_found", "'0'"),
    ("GET", f"{JOBS}/-1", {}, 404, "not_found", "'-1'"),
    ("GET", f"{JOBS}/{10**30}", {}, 404, "not_found", "its id"),
    ("GET", f"{JOBS}/%C6%92zzzzzzzzzzzzzz", {}, 404, "not_found", "F58"),
    ("GET", f"{JOBS}/%00", {}, 404, "not_found", "its id"),
    ("GET", f"{JOBS}/%FF%FE", {}, 404, "not_found", "its id"),
    ("GET", f"{JOBS}/nobody/why", {}, 404, "not_found", "'nobody'"),
    ("GET", f"{JOBS}/nobody/logs", {}, 404, "not_found", "'nobody'"),
    ("GET", f"{JOBS}/nobody/events", {}, 404, "not_found", "'nobody'"),
    ("POST", f"{JOBS}/nobody/cancel", {}, 404, "not_found", "'nobody'"),
    ("DELETE", f"{JOBS}/nobody", {}, 404, "not_found", "'nobody'"),
    ("GET", JOBS, {"params": {"state": "sleeping"}}, 400, "invalid_input", "pending, starting"),
    ("GET", JOBS, {"params": {"limit": 0}}, 400, "invalid_input", "limit"),
    ("GET", JOBS, {"params": {"limit": 1001}}, 400, "invalid_input", "limit"),
    ("GET", JOBS, {"params": {"limit": "many"}}, 400, "invalid_input", "limit"),
    ("GET", JOBS, {"params": {"label": "x"}}, 400, "invalid_input", "key=value"),
    ("GET", JOBS, {"params": {"since": "yesterday"}}, 400, "invalid_input", "RFC 3339"),
    ("GET", JOBS, {"params": {"since": "nan"}}, 400, "invalid_input", "RFC 3339"),
    ("GET", JOBS, {"params": {"since": "1e300"}}, 400, "invalid_input", "RFC 3339"),
    ("GET", JOBS, {"params": {"q": "x" * 501}}, 400, "invalid_input", "q"),
    *[
        ("GET", path, {"params": {"cursor": cursor}}, 400, "invalid_input", "earlier page")
        for path in (JOBS, f"{JOBS}/ended/runs")
        for cursor in ("x", "-1", "1.x", "9" * 19, "9" * 25, "٣", "1e3", f"1.{2**63}", f"{2**63}.0")
    ],
    ("GET", "/api/v1/events", {"params": {"after": "-1"}}, 400, "invalid_input", "latest"),
    ("GET", "/api/v1/events", {"params": {"type": "job.exploded"}}, 400, "invalid_input", "run.exited"),
    ("GET", "/api/v1/events", {"params": {"state": "x"}}, 400, "invalid_input", "pending"),
    ("GET", "/api/v1/events", {"params": {"wait": 3600}}, 400, "invalid_input", "wait"),
    ("GET", "/api/v1/events", {"params": {"job": "nobody"}}, 404, "not_found", "'nobody'"),
    ("GET", f"{JOBS}/ended/wait", {"params": {"timeout": "nan"}}, 400, "invalid_input", "timeout"),
    ("GET", f"{JOBS}/ended/wait", {"params": {"timeout": -1}}, 400, "invalid_input", "timeout"),
    ("POST", JOBS, {"json": OK, "headers": {"Idempotency-Key": "k" * 256}}, 400, "invalid_input", "Idempotency-Key"),
    ("PATCH", f"{JOBS}/live", {"json": {}}, 400, "invalid_input", "priority, hold"),
    ("PATCH", f"{JOBS}/live", {"json": {"priority": "high"}}, 400, "invalid_input", "whole number"),
    ("PATCH", f"{JOBS}/live", {"json": {"priority": True}}, 400, "invalid_input", "whole number"),
    ("PATCH", f"{JOBS}/live", {"json": {"priority": 10**9}}, 400, "invalid_input", "1000000"),
    ("PATCH", f"{JOBS}/live", {"json": {"hold": 1}}, 400, "invalid_input", "true or false"),
    ("PATCH", f"{JOBS}/live", {"json": {"name": "x"}}, 400, "invalid_input", "known fields: hold, priority"),
    ("PATCH", f"{JOBS}/live", {"content": b"{"}, 400, "invalid_input", "line 1 column 2"),
    ("PATCH", f"{JOBS}/ended", {"json": {"hold": True}}, 409, "conflict", "succeeded"),
    ("POST", f"{JOBS}/live/cancel", {"json": {"force": True}}, 400, "invalid_input", "'force'"),
    ("POST", f"{JOBS}/live/cancel", {"content": b"[]"}, 400, "invalid_input", "not list"),
    ("POST", f"{JOBS}/ended/cancel", {}, 409, "conflict", "succeeded"),
    ("POST", f"{JOBS}/live/signal", {"json": {}}, 400, "invalid_input", "SIGUSR1"),
    ("POST", f"{JOBS}/live/signal", {"json": {"signal": "SIGNO"}}, 400, "invalid_input", "SIGUSR1"),
    ("POST", f"{JOBS}/live/signal", {"json": {"signal": 4096}}, 400, "invalid_input", "SIGUSR1"),
    ("POST", f"{JOBS}/live/signal", {"json": {"signal": "USR1"}}, 409, "conflict", ""),
    ("POST", f"{JOBS}/ended/signal", {"json": {"signal": "USR1"}}, 409, "conflict", "succeeded"),
    ("DELETE", f"{JOBS}/live", {}, 409, "conflict", "cancel it first"),
    ("POST", "/api/v1/schedules:preview", {"json": {}}, 400, "invalid_input", "cron expression"),
    ("POST", "/api/v1/schedules:preview", {"json": {"cron": 5}}, 400, "invalid_input", "cron expression"),
    ("POST", "/api/v1/schedules:preview", {"json": {"cron": "1," * 600 + "1 * * * *"}}, 400, "invalid_input", "cron"),
    (
        "POST",
        "/api/v1/schedules:preview",
        {"json": {"cron": "* 24 * * *"}},
        400,
        "invalid_input",
        "hour '24' at column 3",
    ),
    (
        "POST",
        "/api/v1/schedules:preview",
        {"json": {"cron": "@daily", "timezone": "../../etc/passwd"}},
        400,
        "invalid_input",
        "not a time zone",
    ),
    ("POST", "/api/v1/schedules:preview", {"json": {"cron": "@daily", "count": 0}}, 400, "invalid_input", "1 and 1000"),
    ("POST", "/api/v1/schedules:preview", {"json": {"cron": "@daily", "count": 10**9}}, 400, "invalid_input", "1000"),
    ("POST", "/api/v1/schedules:preview", {"json": {"cron": "@daily", "count": "5"}}, 400, "invalid_input", "whole"),
]


@pytest.mark.parametrize(("method", "path", "options", "status", "code", "says"), REQUESTS)
def test_a_bad_request(
    http: httpx2.Client,
    ended: JobDoc,
    live: JobDoc,
    method: str,
    path: str,
    options: Json,
    status: int,
    code: str,
    says: str,
) -> None:
    before = newest(http)
    answer = http.request(method, path, **options)
    check(answer, status, code, says)
    if status == 405:
        assert set(answer.headers["Allow"].split(", ")) - {"OPTIONS"}
    assert newest(http) == before
    # Nothing has happened to the two either.
    assert http.get(f"{JOBS}/{live.id}").json()["version"] == live.version
    assert http.get(f"{JOBS}/{ended.id}").json()["version"] == ended.version
    assert http.get("/readyz").status_code == 200


# Size -------------------------------------------------------------------------------------------------------------


TAKES_A_BODY = (JOBS, BATCH, f"{JOBS}/live/cancel", "/api/v1/schedules:preview")


@pytest.mark.parametrize(
    ("path", "chunked"),
    # Where nobody reads a body, nobody counts one without a length.
    [*((path, True) for path in TAKES_A_BODY), *((path, False) for path in (*TAKES_A_BODY, "/livez", "/nowhere"))],
)
def test_a_body_past_the_limit(http: httpx2.Client, live: JobDoc, path: str, chunked: bool) -> None:
    before = newest(http)
    body = b'{"command": ["' + b"x" * 10_000_000 + b'"]}'
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    answer = http.post(path, content=pieces if chunked else body)
    check(answer, 413, "too_large", "max_body")
    assert answer.json()["limit"] == 8 * 1024 * 1024
    assert newest(http) == before and http.get(f"{JOBS}/live").json()["version"] == live.version


@pytest.mark.parametrize("request_line", [f"POST {JOBS}", "GET /k12ai/private/pushmsg?key=q"])
def test_a_body_that_never_ends_is_cut_off(server: Server, http: httpx2.Client, request_line: str) -> None:
    head = f"{request_line} HTTP/1.1\r\nHost: {LOOPBACK}:{server.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))
    sent = 0
    with socket.create_connection((LOOPBACK, server.port), 60) as raw:
        raw.sendall(head.encode())
        try:
            while sent < 200:
                raw.sendall(chunk)
                sent += 1
        except OSError:
            pass
    assert sent < 200, "the server took 200 MiB of a body that it had refused at 8"
    assert http.get("/livez").status_code == 200


def test_what_is_no_http_harms_nobody(server: Server, http: httpx2.Client) -> None:
    for garbage in (b"\0\1\2\3\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET  \r\n\r\n", b"\x16\x03\x01" + b"A" * 500):
        with socket.create_connection((LOOPBACK, server.port), 60) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65_536):
                pass
    assert http.get("/readyz").status_code == 200


def test_who_leaves_in_the_middle_of_a_body_is_not_worth_a_line_in_the_log(server: Server, http: httpx2.Client) -> None:
    before = server.log.stat().st_size
    for path in (JOBS, "/v1/jobs/submit", "/proc", "/v1/modelbox/job", "/status_report", "/k12ai/framework/train"):
        with socket.create_connection((LOOPBACK, server.port), 60) as raw:
            raw.sendall(f"POST {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: 9\r\n\r\n{{".encode())
            with suppress(OSError):
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65_536):
                    pass
    assert http.get("/readyz").status_code == 200
    assert server.log.stat().st_size == before, server.log.read_text()[-2000:]


def test_many_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    """The server takes more files than it was started with; programs keep that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = Server(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            server.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with ExitStack() as idle:
            for _ in range(400):
                idle.enter_context(socket.create_connection((LOOPBACK, server.port), 60))
            assert server.get("/livez").status_code == 200
        with server.client() as client:
            job = client.wait(client.submit(command=["sh", "-c", "ulimit -n"]).id, 60)
            assert b"".join(client.logs(job.id)) == b"256\n"
    finally:
        server.close()


# What only shows when the job is started --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"command": ["/no/such/program"]}, "/no/such/program"),
        ({"command": ["no-such-program-anywhere"]}, "no-such-program-anywhere"),
        ({"command": ["/etc/passwd"]}, "/etc/passwd"),
        ({"command": ["/"]}, "/"),
        ({"command": ["true"], "cwd": "/no/such/folder"}, "/no/such/folder"),
        ({"command": ["true"], "cwd": "/etc/passwd"}, "/etc/passwd"),
        ({"command": ["true"], "user": "no-such-user"}, "no-such-user"),
        ({"command": ["true"], "group": "no-such-group"}, "no-such-group"),
    ],
)
def test_a_job_that_cannot_be_started_fails_and_says_why(client: Client, spec: Json, says: str) -> None:
    job = client.wait(client.submit(spec).id, 60)
    assert job.state == "failed" and job.exit_code is None and job.signal is None
    assert job.reason is not None and says in job.reason
    assert job.reason in client.why(job.id).summary
    assert [run.pid or None for run in job.runs] == [None]


# Where requests come from -----------------------------------------------------------------------------------------


def routes() -> list[tuple[str, str]]:
    """Every route that the door describes, and some that it does not."""
    described = [
        (method.upper(), path.replace("{ref}", "live"))
        for path, operations in openapi_document()["paths"].items()
        for method in operations
    ]
    return [*described, ("GET", "/openapi.json"), ("GET", "/nowhere"), ("OPTIONS", JOBS), ("POST", "/livez")]


FOREIGN = [
    ({"Origin": "https://evil.example"}, "allowed_origins"),
    ({"Origin": "null"}, "allowed_origins"),
    ({"Origin": "http://localhost:1"}, "allowed_origins"),
    ({"Origin": f"http://{LOOPBACK}.evil.example"}, "allowed_origins"),
    ({"Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site"),
    ({"Sec-Fetch-Site": "same-site"}, "Sec-Fetch-Site"),
    ({"Host": "evil.example"}, "allowed_hosts"),
    ({"Host": f"{LOOPBACK}.evil.example:7070"}, "allowed_hosts"),
    ({"Host": "192.168.1.1"}, "allowed_hosts"),
    ({"Host": ""}, "allowed_hosts"),
]


@pytest.mark.parametrize(("headers", "says"), FOREIGN)
def test_foreign_pages_and_hosts_are_refused_on_every_route(
    http: httpx2.Client, live: JobDoc, headers: dict[str, str], says: str
) -> None:
    before = newest(http)
    for method, path in routes():
        body = job(name="stolen") if method in ("POST", "PATCH") else None
        answer = http.request(method, path, headers=headers, content=body)
        if method == "HEAD":
            assert answer.status_code == 403
        else:
            check(answer, 403, "forbidden", says)
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert newest(http) == before and http.get(f"{JOBS}/live").json()["version"] == live.version


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", LOOPBACK, "127.9.9.9", "[::1]", "runyard.localhost"])
def test_loopback_names_and_the_own_origin_are_served(server: Server, http: httpx2.Client, name: str) -> None:
    host = f"{name}:{server.port}"
    assert http.get("/livez", headers={"Host": host}).status_code == 200
    assert http.get("/livez", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200
    for site in ("same-origin", "none"):
        assert http.get("/livez", headers={"Host": host, "Sec-Fetch-Site": site}).status_code == 200


def test_allowed_hosts_and_origins_are_let_in(tmp_path: Path) -> None:
    page = "https://console.example"
    env = {"RUNYARD_SERVER__ALLOWED_HOSTS": "Box.Example", "RUNYARD_SERVER__ALLOWED_ORIGINS": page}
    server = Server(tmp_path, env=env).start()
    try:
        headers = {"Host": "box.example", "Origin": page, "Sec-Fetch-Site": "cross-site"}
        assert server.get("/livez", headers=headers).status_code == 200
        assert server.get("/livez", headers=headers | {"Origin": "https://other.example"}).status_code == 403
    finally:
        server.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_an_address_that_others_reach_is_refused_without_accounts(tmp_path: Path, host: str) -> None:
    ended = Server(tmp_path).run("serve", "--host", host, "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert ended.returncode == 2
    assert f"refusing to listen on {host!r}" in ended.stderr and "ssh -L" in ended.stderr
    assert "Traceback" not in ended.stderr and not (tmp_path / "data").exists()


def test_a_port_that_is_taken_and_a_folder_that_is_in_use(server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path)
    taken = other.run("serve", "--port", str(server.port), "--data-dir", str(tmp_path / "data"))
    assert taken.returncode == 2 and f"port {server.port}" in taken.stderr and "--port" in taken.stderr
    shared = other.run("serve", "--port", "0", "--data-dir", str(server.data))
    assert shared.returncode in (1, 5) and str(server.data) in shared.stderr
    assert "Traceback" not in taken.stderr + shared.stderr
    assert server.get("/readyz").status_code == 200


def test_the_environment_of_the_tests_is_clean() -> None:
    assert not [name for name in clean_env() if name.startswith("RUNYARD_")]
