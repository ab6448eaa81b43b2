"""The Flux door over HTTP: every route, both paths, and what it says to bad requests (spec/flux-restful.md, 1)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.helpers import wait_until
from tests.system.flux import Json, done, events, show, submit, text_of
from tests.system.native import ended, state_of
from tests.system.server import Server, ask_until, clean_env

EXAMPLES = Path(__file__).parents[2] / "examples" / "flux"
FLUX_ORDER = ["submit", "depend", "priority", "alloc", "start", "finish", "release", "free", "clean"]


# Submitting -------------------------------------------------------------------------------------------------------


def test_a_job_from_submission_to_its_output_on_both_paths(http: httpx2.Client) -> None:
    script = "echo out; echo err >&2; printf noeol"
    job = http.post("/jobs/submit", json={"command": ["sh", "-c", script], "runtime": 60}).json()
    assert set(job) == {"Message", "id", "f58"} and isinstance(job["id"], int)
    record = done(http, job["id"])
    assert (record["result"], record["returncode"], record["waitstatus"]) == ("COMPLETED", 0, 0)
    assert (record["name"], record["ntasks"], record["ncores"], record["duration"]) == ("sh", 1, 1, 60.0)
    assert record["t_submit"] <= record["t_run"] <= record["t_cleanup"] <= record["t_inactive"]
    number = job["id"]
    groups = f"{number:016x}"
    dotted = ".".join(groups[at : at + 4] for at in range(0, 16, 4))
    for ref in (str(number), job["f58"], "f" + job["f58"][1:], hex(number), dotted):
        for prefix in ("/v1", ""):
            assert http.get(f"{prefix}/jobs/{ref}").json() == record
    for prefix in ("/v1", ""):
        assert http.get(f"{prefix}/jobs/{number}/output").json() == {"Output": ["out\n", "err\n", "noeol"]}
        stream = http.get(f"{prefix}/jobs/{number}/output/stream")
        assert (stream.status_code, stream.text) == (200, "out\nerr\nnoeol")
        assert stream.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert http.get(f"/v1/jobs/{number}/output", params={"offset": 1}).json() == {"Output": ["err\n", "noeol"]}
    assert http.get(f"/v1/jobs/{number}/output", params={"tail": 1}).json() == {"Output": ["noeol"]}


@pytest.mark.parametrize(
    "request_of",
    [
        {"params": {"command": "printenv GREETING", "envars": "{'GREETING': 'hi'}"}},
        {"params": {"command": "printenv GREETING"}, "json": {"GREETING": "hi"}},
        {"params": {"command": "printenv GREETING"}, "json": {"envars": {"GREETING": "hi"}}},
        {"json": {"command": "printenv GREETING", "envars": {"GREETING": "hi"}, "num_nodes": None}},
        {"data": {"command": "printenv GREETING", "envars": '{"GREETING": "hi"}'}},
        {
            "content": b'{"command": "printenv GREETING", "envars": {"GREETING": "hi"}}',
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
    ],
)
def test_the_shapes_of_all_clients_run_the_same_job(http: httpx2.Client, request_of: Any) -> None:
    answer = http.post("/v1/jobs/submit", **request_of)
    assert answer.status_code == 200, answer.text
    assert done(http, answer.json()["id"])["returncode"] == 0
    assert text_of(http, answer.json()["id"]) == "hi\n"


def test_how_jobs_fail(http: httpx2.Client, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    jobs = {
        "exit": submit(http, "sh -c 'exit 3'"),
        "missing": submit(http, "no-such-program"),
        "plain": submit(http, str(plain)),
        "killed": submit(http, "sh -c 'kill -9 $$'"),
        "large": submit(http, "true", num_tasks=5000),
        "late": submit(http, "sleep 1000", runtime=1),
        "folder": submit(http, "pwd", workdir=str(tmp_path / "gone")),
    }
    found = {name: done(http, job) for name, job in jobs.items()}
    assert {name: (r["result"], r["returncode"], r["exception"]["type"]) for name, r in found.items()} == {
        "exit": ("FAILED", 3, ""),
        "missing": ("FAILED", 127, "exec"),
        "plain": ("FAILED", 126, "exec"),
        "killed": ("FAILED", 137, ""),
        "large": ("FAILED", 1, "alloc"),
        "late": ("TIMEOUT", 142, "timeout"),
        "folder": ("COMPLETED", 0, ""),
    }
    assert found["missing"]["exception_note"].endswith("start failed: no-such-program: No such file or directory")
    assert found["large"]["exception_note"] == "unsatisfiable request" and "5000 cores" in found["large"]["reason"]
    lines = http.get(f"/v1/jobs/{jobs['folder']}/output").json()["Output"]
    assert lines[-1] == "/tmp\n" and "No such file or directory" in lines[0]
    assert found["folder"]["workdir"] == str(tmp_path / "gone") and found["folder"]["command"] == ["pwd"]
    assert "runs in /tmp" in found["folder"]["annotations"]["user"]["warning"]


def test_each_task_of_a_job_is_a_process_that_knows_its_place(http: httpx2.Client) -> None:
    command = 'sh -c "echo $FLUX_TASK_RANK $FLUX_TASK_LOCAL_ID $FLUX_JOB_SIZE $FLUX_JOB_NNODES $FLUX_JOB_ID $A"'
    cores = http.get("/v1/nodes", params={"details": "true"}).json()[0]["cores"]
    for tasks in {1, min(2, cores)}:
        job = submit(http, command, num_tasks=tasks, envars='{"A": "b"}')
        record = done(http, job)
        assert (record["result"], record["ntasks"], record["ncores"]) == ("COMPLETED", tasks, tasks)
        expected = {f"{rank} {rank} {tasks} 1 {record['f58']} b\n" for rank in range(tasks)}
        assert set(http.get(f"/v1/jobs/{job}/output").json()["Output"]) == expected


def test_options_are_kept_and_a_repeated_request_is_not_a_second_job(http: httpx2.Client) -> None:
    asked = {"command": "true", "option_flags": "mpi=none,k=v"}
    headers = {"Idempotency-Key": "flux-options"}
    first = http.post("/v1/jobs/submit", params=asked, headers=headers).json()
    assert http.post("/v1/jobs/submit", params=asked, headers=headers).json() == first
    assert http.post("/v1/jobs/submit", params=asked | {"k": "1"}, headers=headers).status_code == 409
    assert show(http, first["id"])["option_flags"] == {"mpi": "none", "k": "v"}
    assert ended(http, str(first["id"]))["labels"] == {"flux.option.mpi": "none", "flux.option.k": "v"}


def test_what_does_not_fit_now_waits_and_why_says_for_whom(http: httpx2.Client) -> None:
    cores = http.get("/v1/nodes", params={"details": "true"}).json()[0]["cores"]
    holder = submit(http, "sleep 1000", num_nodes=1, exclusive="true")
    try:
        ask_until(lambda: show(http, holder), lambda record: record["state"] == "RUN")
        assert show(http, holder)["ncores"] == cores
        waiting = submit(http, "true")
        ask_until(lambda: show(http, waiting), lambda record: record["state"] == "SCHED")
        why = http.get(f"/api/v1/jobs/{waiting}/why").json()
        assert [blocker["job"] for blocker in why["blockers"]] == [str(holder)]
    finally:
        assert http.post(f"/v1/jobs/{holder}/cancel").status_code == 200
    assert done(http, waiting)["result"] == "COMPLETED" and done(http, holder)["result"] == "CANCELED"


# Cancelling -------------------------------------------------------------------------------------------------------


def test_a_cancel_is_taken_once_by_any_id(http: httpx2.Client) -> None:
    job = submit(http, "sleep 1000")
    # RUN begins with the allocation; a process that is not there yet can't be ended by a signal.
    state_of(http, str(job), "running")
    f58 = show(http, job)["f58"]
    assert http.post(f"/v1/jobs/{f58}/cancel").json() == {"Message": "Job is requested to cancel.", "id": f58}
    record = done(http, job)
    assert (record["result"], record["waitstatus"], record["returncode"]) == ("CANCELED", 36608, 143)
    again = http.post(f"/jobs/{job}/cancel")
    assert again.status_code == 400
    assert again.json() == {"Message": "Job cannot be cancelled: [Errno 2] job is inactive.", "id": str(job)}


def test_a_cancel_right_after_the_submission_wins(http: httpx2.Client) -> None:
    for _ in range(5):
        job = submit(http, "sleep 1000")
        assert http.post(f"/v1/jobs/{job}/cancel").status_code == 200
        assert done(http, job)["result"] == "CANCELED"


# Lists ------------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_in_every_form(http: httpx2.Client) -> None:
    job = submit(http, "echo listed")
    record = done(http, job)
    entry = {"id": job, "f58": record["f58"], "name": "echo", "state": "INACTIVE"}
    for path in ("/jobs", "/v1/jobs"):
        plain = http.get(path, headers={"Accept": "*/*"}).json()
        assert set(plain) == {"jobs"} and entry in plain["jobs"]
    assert http.get("/v1/jobs", params={"details": "1"}).json()[str(job)] == record
    listed = http.get("/v1/jobs", params={"detail": "true", "listing": "true"}).json()
    assert record in listed
    assert len(http.get("/v1/jobs", params={"details": "t", "listing": "t", "limit": 1}).json()) == 1
    assert http.get("/v1/jobs", params={"details": "t", "limit": 0}).json() == {}
    assert record in http.get("/v1/jobs", params={"details": "t", "listing": "t", "limit": "many"}).json()
    chosen = http.get("/v1/jobs", params={"ids": f"{job},zz,7"}).json()
    assert chosen["jobs"] == [entry] and set(chosen["errors"]) == {"zz", "7"}
    assert entry in http.get("/v1/jobs", params={"state": "inactive", "name": "echo"}).json()["jobs"]


def test_a_poller_need_not_read_the_same_list_twice(http: httpx2.Client) -> None:
    done(http, submit(http, "true"))
    asked: Any = {"params": {"state": "inactive", "name": "no such name"}}
    first = http.get("/v1/jobs", **asked)
    again = http.get("/v1/jobs", **asked, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_search_finds_what_its_text_is_in(http: httpx2.Client) -> None:
    jobs = [submit(http, f"echo needle-{n}") for n in range(3)]
    records = [done(http, job) for job in jobs]

    def found(**query: Any) -> Json:
        answer = http.get("/v1/jobs/search", params=query)
        assert answer.status_code == 200, answer.text
        page: Json = answer.json()
        assert set(page) == {"data", "draw", "recordsTotal", "recordsFiltered"} and page["recordsTotal"] >= 3
        return page

    everything = found(query="NEEDLE-", sort="t_submit")
    assert [row["id"] for row in everything["data"]] == jobs and everything["data"][0] == records[0]
    for key in ("query", "search", "search[value]"):
        assert [row["id"] for row in found(**{key: "needle-1"})["data"]] == [jobs[1]]
    assert found(query="needle-", start=1, length=1)["recordsFiltered"] == 1
    paged = found(query="needle-", start=1, length=1, draw=4)
    assert (paged["draw"], paged["recordsFiltered"], len(paged["data"])) == (4, 3, 1)
    assert [row["id"] for row in found(search=r"needle-[02]\b", regex="true", sort="id")["data"]] == jobs[::2]
    assert found(search="needle-[02]")["data"] == found(query="needle-", start=1000)["data"] == []


def test_nodes(http: httpx2.Client) -> None:
    names = http.get("/v1/nodes").json()
    assert names == http.get("/nodes").json() and list(names) == ["nodes"] and len(names["nodes"]) == 1
    (node,) = http.get("/nodes", params={"details": "yes"}).json()
    assert node["name"] == names["nodes"][0] and node["state"] == "up" and node["cores"] >= 1
    assert set(http.get("/v1/version").json()) >= {"version", "api"}


# Output -----------------------------------------------------------------------------------------------------------


def test_a_stream_ends_with_its_job_and_holds_nobody_up(http: httpx2.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    quiet = submit(http, f"sh -c 'while [ ! -e {gate} ]; do sleep 0.05; done; echo ready; printf end'")
    message = {"Message": "The output does not exist yet, or the jobid is incorrect."}
    assert http.get(f"/v1/jobs/{quiet}/output").json() == message
    with http.stream("GET", f"/v1/jobs/{quiet}/output/stream") as answer:
        # Meanwhile others are served, and the output that is not there yet is not waited for.
        assert http.get("/v1/nodes").status_code == 200 and http.get(f"/v1/jobs/{quiet}/output").json() == message
        gate.touch()
        assert answer.read() == b"ready\nend"
    assert done(http, quiet)["result"] == "COMPLETED"
    with http.stream("GET", f"/v1/jobs/{quiet}/output/stream", headers={"Accept": "text/event-stream"}) as answer:
        pieces = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert pieces == ["ready\nend", {}]


def test_output_of_any_kind_comes_through(http: httpx2.Client) -> None:
    job = submit(http, r"""sh -c 'printf "\377\376x\n"; printf "ü\n"; head -c 200000 /dev/zero | tr "\0" y'""")
    record = done(http, job)
    assert record["result"] == "COMPLETED"
    lines = http.get(f"/v1/jobs/{job}/output").json()["Output"]
    assert lines[:2] == ["\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}x\n", "ü\n"]
    assert "".join(lines[2:]) == "y" * 200_000
    large = submit(http, "seq 1 200000")
    done(http, large)
    whole = "".join(f"{n}\n" for n in range(1, 200_001))
    assert text_of(http, large) == http.get(f"/v1/jobs/{large}/output/stream").text == whole


def test_jobs_of_other_doors_have_all_their_output(http: httpx2.Client) -> None:
    spec = {"script": "echo out; echo err >&2", "replicas": 2, "name": "flux-foreign"}
    job = http.post("/api/v1/jobs", json=spec).json()["id"]
    assert done(http, job)["name"] == "flux-foreign"
    assert sorted(http.get(f"/v1/jobs/{job}/output").json()["Output"]) == ["err\n"] * 2 + ["out\n"] * 2
    follow = http.post("/api/v1/jobs", json=spec | {"script": "sleep 0.3; echo out; echo err >&2"}).json()["id"]
    assert sorted(http.get(f"/v1/jobs/{follow}/output/stream").text.split()) == ["err"] * 2 + ["out"] * 2


# Events -----------------------------------------------------------------------------------------------------------


def test_the_events_of_a_job_can_be_followed_and_resumed(http: httpx2.Client) -> None:
    job = submit(http, "true")
    with http.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as answer:
        seen = list(events(answer.iter_lines()))
    assert [entry["name"] for _, entry in seen] == FLUX_ORDER
    assert {entry["jobid"] for _, entry in seen} == {job} and seen[-1][1]["state"] == "INACTIVE"
    assert seen[5][1]["context"] == {"status": 0}
    for place in range(len(seen)):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": seen[place][0]}
        with http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
            assert list(events(answer.iter_lines())) == seen[place + 1 :]
    listed = http.get(f"/jobs/{job}/events").json()
    assert [entry["name"] for entry in listed] == FLUX_ORDER
    only = http.get(f"/v1/jobs/{job}/events", params={"types": "alloc,clean"}).json()
    assert [entry["name"] for entry in only] == ["alloc", "clean"]


def test_all_events_are_followed_from_now_on(http: httpx2.Client) -> None:
    headers = {"Accept": "text/event-stream"}
    with http.stream("GET", "/v1/events", params={"after": "latest", "types": "exception"}, headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": runyard"
        job = submit(http, "sleep 1000")
        state_of(http, str(job), "running")
        http.post(f"/v1/jobs/{job}/cancel")
        _, entry = next(events(lines))
    assert (entry["jobid"], entry["context"]) == (job, {"type": "cancel", "severity": 0, "note": ""})


# Refusals ---------------------------------------------------------------------------------------------------------

UNKNOWN = {"detail": "Job not found", "Message": "There is no job with id 7."}


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v1/nothing", 404, {"detail": "Not Found"}),
        ("GET", "/jobs/1/nothing", 404, {"detail": "Not Found"}),
        ("PUT", "/v1/jobs", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/v1/jobs/submit", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/jobs/submit", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/service/stop", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/v1/token", 405, {"detail": "Method Not Allowed"}),
        ("POST", "/v1/token", 400, {"Message": "Denied"}),
        ("GET", "/v1/jobs/7", 404, UNKNOWN),
        ("GET", "/jobs/7", 404, UNKNOWN),
        ("GET", "/v1/jobs/0", 404, UNKNOWN | {"Message": "There is no job with id 0."}),
        ("GET", "/v1/jobs/zz", 400, {"detail": "zz is not a valid Flux jobid"}),
        ("GET", "/v1/jobs/%27;--", 400, {"detail": "';-- is not a valid Flux jobid"}),
        ("GET", "/v1/jobs/..%2f..%2fetc%2fpasswd", 404, {"detail": "Not Found"}),
        ("GET", "/v1/jobs/99999999999999999999999", 400, None),
        ("GET", "/v1/jobs/zz/output", 400, None),
        ("GET", "/v1/jobs/zz/output/stream", 400, None),
        ("GET", "/v1/jobs/7/output/stream", 404, UNKNOWN),
        ("GET", "/v1/jobs/7/events", 404, UNKNOWN),
        ("POST", "/v1/jobs/zz/cancel", 400, {"detail": "zz is not a valid Flux jobid"}),
        (
            "POST", "/v1/jobs/7/cancel", 400,
            {"Message": "Job cannot be cancelled: [Errno 2] unknown job id.", "id": "7"},
        ),
        ("POST", "/v1/jobs/submit", 400, {"Message": "A 'command' is minimally required."}),
        ("GET", "/v1/jobs?details=maybe", 422, None),
        ("GET", "/v1/jobs?offset=-1", 422, None),
        ("GET", "/v1/jobs?offset=10001", 400, None),
        ("GET", "/v1/jobs/search?start=x", 422, None),
        ("GET", "/v1/jobs/search?start=%00", 422, None),
        ("GET", "/v1/jobs/search?search=(&regex=1", 400, None),
        ("GET", "/v1/jobs/search?regex=1&search=" + "(a*)*" * 150, 200, None),
        ("GET", "/v1/events?types=nothing", 400, None),
        ("GET", "/v1/events?after=x", 400, None),
        ("GET", "/v1/jobs/1/output?offset=-1", 404, None),
    ],
)  # fmt: skip
def test_a_bad_request_is_told_why(http: httpx2.Client, method: str, path: str, status: int, body: Json | None) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == body if body is not None else answer.json()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"[1]", 422),
        (b'{"command": ', 422),
        (b"[" * 200_000, 422),
        (b'{"command": "x", "num_tasks": {}}', 422),
        (b'{"command": "x", "workdir": "../../etc"}', 400),
        (b'{"command": ["x\\u0000y"]}', 400),
        (b'{"command": "\\ud800"}', 422),
        (json.dumps({"command": "x", "envars": {"A": "y" * 200_000}}).encode(), 400),
        (b'{"command": "' + b"x" * (9 * 1024 * 1024) + b'"}', 413),
    ],
)
def test_a_bad_body_makes_no_job(http: httpx2.Client, content: bytes, status: int) -> None:
    answer = http.post("/v1/jobs/submit", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert "id" not in answer.json()


def test_a_form_of_very_many_fields_is_refused(http: httpx2.Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = http.post("/v1/jobs/submit", content=b"a=1&" * 1_000_000, headers=form)
    assert (answer.status_code, answer.json()) == (400, {"detail": "there are more than 1000 parameters"})


def test_all_broken_rules_come_in_one_answer(http: httpx2.Client) -> None:
    query: Any = {"command": "echo 'x", "num_nodes": 9, "gpus_per_task": 1, "runtime": -1, "option_flags": "-o"}
    answer = http.post("/v1/jobs/submit", params=query)
    assert answer.status_code == 400 and answer.json()["Message"] == "Invalid submit request"
    assert answer.json()["Errors"] == [
        "No closing quotation",
        "The server only has 1 nodes, you requested 9",
        "This server does not support gpus: gpus_per_task cannot be set.",
        "node count must not be greater than task count",
        "Please provide options as key=value, -o is invalid.",
        "Runtime must be >= 0, found -1",
    ]


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_job_has_a_folder_for_temporary_files_that_is_gone_after_it(http: httpx2.Client, tasks: int) -> None:
    script = "touch $FLUX_JOB_TMPDIR/x && echo $FLUX_JOB_TMPDIR"
    job = http.post("/v1/jobs/submit", json={"command": ["sh", "-c", script], "num_tasks": tasks}).json()["id"]
    assert done(http, job)["result"] == "COMPLETED"
    (folder,) = set(text_of(http, job).split())
    wait_until(lambda: not Path(folder).exists(), 60, "the end of the folder")


def test_a_launcher_is_started_once_for_one_key(http: httpx2.Client, tmp_path: Path) -> None:
    launcher = tmp_path / "nextflow"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    query, headers = {"command": str(launcher), "is_launcher": "true"}, {"Idempotency-Key": str(tmp_path)}
    first, second = (http.post("/v1/jobs/submit", params=query, headers=headers).json() for _ in range(2))
    assert first == second and first["id"] == "MANY"


def test_a_launcher_must_be_known_and_must_start(http: httpx2.Client) -> None:
    unknown = http.post("/v1/jobs/submit", params={"command": "sh -c true", "is_launcher": "true"})
    assert (unknown.status_code, unknown.json()) == (400, {"Message": "sh is not a known launcher. ", "id": "MANY"})
    # A server that is slow to start it believes that it has started.
    query = {"command": "/nowhere/nextflow run", "is_launcher": "true"}
    missing = ask_until(lambda: http.post("/v1/jobs/submit", params=query), lambda answer: answer.status_code == 400)
    assert "/nowhere/nextflow" in missing.json()["Message"]


def test_a_known_launcher_is_a_job_and_can_submit_others(http: httpx2.Client, tmp_path: Path) -> None:
    launcher = tmp_path / "snakemake"
    launcher.write_text('#!/bin/sh\ncurl -sS -X POST "$FLUX_RESTFUL_HOST/v1/jobs/submit?command=echo+child"\n')
    launcher.chmod(0o755)
    answer = http.post("/v1/jobs/submit", params={"command": f"{launcher} --cores 2", "is_launcher": "true"}).json()
    assert (answer["Message"], answer["id"]) == ("Job submit, see jobs table for spawned jobs.", "MANY")
    record = done(http, answer["launcher_id"])
    assert (record["kind"], record["result"], record["ncores"]) == ("launcher", "COMPLETED", 0)
    child = json.loads(text_of(http, answer["launcher_id"]))["id"]
    assert done(http, child)["result"] == "COMPLETED" and text_of(http, child) == "child\n"


# The examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("submit_job.py", [], r"Job submit\. \d+\nhello from a job\nCOMPLETED\n"),
        ("submit_job_auth.py", ["user", "token"], r"\S+\n\S+: COMPLETED\n"),
        ("submit_jobs_and_list.py", [], r"ƒ\w+ sleep 1 COMPLETED .*\nƒ\w+ whoami 1 .*\nƒ\w+ printenv 2 COMPLETED .*\n"),
        ("cancel_job.py", [], r"Job is requested to cancel\.\nCANCELED\n"),
        ("list_nodes.py", [], r"\S+\n"),
    ],
)
def test_the_examples_do_what_they_say(server: Server, script: str, arguments: list[str], expected: str) -> None:
    done = run_example(server, script, *arguments)
    assert done.returncode == 0 and re.fullmatch(expected, done.stdout), done.stdout + done.stderr


def test_the_example_that_stops_the_service(serve: Callable[..., Server]) -> None:
    server = serve()
    done = run_example(server, "stop_service.py")
    assert (done.stdout, server.wait()) == ("Service stop requested.\n", 0), done.stderr


def run_example(server: Server, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    env = clean_env(FLUX_RESTFUL_HOST=server.url, PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


# Pages at the same paths --------------------------------------------------------------------------------------------


def test_browsers_get_pages_where_programs_get_json(http: httpx2.Client) -> None:
    job = submit(http, "true")
    html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path in ("/", "/jobs", "/jobs/submit", f"/job/{job}", "/page/about", "/docs", "/login", f"/job/{job}/cancel"):
        answer = http.get(path, headers=html)
        assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/html"), path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert not re.search(r"<script(?! src=\"/static/)|\son\w+=|javascript:|style=", answer.text), path
    found = http.get(f"/jobs/{job}", headers=html)
    assert (found.status_code, found.headers["Location"]) == (303, f"/job/{job}")
    assert "Accept" in http.get("/jobs").headers["Vary"] and http.get(f"/v1/jobs/{job}", headers=html).json()
    assert http.get("/page/nothing", headers=html).status_code == 404
    assert http.get("/static/..%2fsite.py").status_code == 404
    assert http.get("/job/nothing-of-that-name", headers=html).status_code == 404
    evil = "<script>alert(1)</script>"
    assert evil not in http.get("/", params={"q": evil, "state": evil, "owner": evil, "before": evil}).text
    assert http.post("/logout", headers={"Origin": "http://evil.example"}).status_code == 403
