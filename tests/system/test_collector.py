"""What programs report, on the installed product: all ways in, while they run and to the last line; and crashes."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.client import Client
from tests.helpers import wait_until
from tests.system.server import Server

PYTHON = sys.executable


def _messages(http: httpx2.Client, job: str) -> list[dict[str, Any]]:
    """All messages of the job, once it has ended and everything is told."""
    answer = http.get(f"/api/v1/jobs/{job}/messages", headers={"Accept": "application/x-ndjson"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines() if line]


def _values(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["body"]["values"] for message in messages if message["type"] == "metrics"]


def test_all_ways_of_reporting(http: httpx2.Client, client: Client) -> None:
    program = """
import sys
from runyard import report
with report.run():
    for step in range(3):
        report.metrics(a=step, step=step)
        print('@runyard {"type":"metrics","body":{"b":%d}}' % step)
        print("epoch", step, "loss=0.5", file=sys.stderr)
    print('@k12ai {"type":"runlog","body":{"log":"hello"}}')
    print("@runyard nonsense")
    report.image("picture", [[0, 255]])
    report.predict(0, "cat")
    {}["lr"]
"""
    rules = [{"pattern": r"epoch (?P<step>\d+) loss=(?P<loss>[0-9.]+)", "category": "val"}]
    job = client.submit(command=[PYTHON, "-c", program], report={"rules": rules})
    found = _messages(http, job.id)
    values = _values(found)
    assert [value for value in values if "a" in value] == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert [value for value in values if "b" in value] == [{"b": 0}, {"b": 1}, {"b": 2}]
    assert [value for value in values if "loss" in value] == [{"loss": 0.5}] * 3
    assert {message["source"] for message in found} == {"report", "stdout", "rule", "server"}
    assert [m["body"] for m in found if m["type"] == "log"] == [{"log": "hello"}]
    assert [m["body"]["code"] for m in found if m["type"] == "info"] == ["bad_report"]
    assert [m["body"]["prediction"] for m in found if m["type"] == "predict"] == ["cat"]
    (error,) = [m["body"] for m in found if m["type"] == "error"]
    assert error["detail"]["exc_type"] == "KeyError"
    assert error["detail"]["traceback"][-1]["linenum"] == 13
    # What was printed is in the output as well.
    assert "@runyard nonsense" in http.get(f"/api/v1/jobs/{job.id}/logs?stream=stdout").text


def test_a_run_is_heard_while_it_runs(http: httpx2.Client, client: Client, tmp_path: Path) -> None:
    program = """
import os, sys, time
from runyard import report
report.metrics(early=1)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
report.metrics(late=1)
"""
    job = client.submit(command=[PYTHON, "-c", program, str(tmp_path / "go")])
    wait_until(lambda: _values(http.get(f"/api/v1/jobs/{job.id}/messages").json()["items"]) == [{"early": 1}])
    (tmp_path / "go").touch()
    assert _values(_messages(http, job.id)) == [{"early": 1}, {"late": 1}]


def test_a_program_that_says_nothing_has_its_traceback_read(http: httpx2.Client, client: Client) -> None:
    job = client.submit(script=f"{PYTHON} -c 'import json; json.loads(\"x\")'; exit 3")
    (error,) = _messages(http, job.id)
    assert (error["type"], error["source"], error["body"]["status"]) == ("error", "server", "crash")
    assert error["body"]["detail"]["exc_type"] == "JSONDecodeError"


def test_tasks_say_who_they_are(http: httpx2.Client, client: Client) -> None:
    program = "from runyard import report; report.metrics(one=1)"
    job = client.submit(command=[PYTHON, "-c", program], resources={"tasks": 2})
    assert sorted(message["rank"] for message in _messages(http, job.id)) == [0, 1]


def test_event_files_are_read_on_request(http: httpx2.Client, client: Client, tmp_path: Path) -> None:
    program = """
import os, struct
from runyard.report import eventfile
value = b"\\x0a\\x04loss\\x15" + struct.pack("<f", 0.5)
summary = b"\\x2a" + bytes([len(value) + 2]) + b"\\x0a" + bytes([len(value)]) + value
body = b"\\x09" + struct.pack("<d", 1e9) + b"\\x10\\x07" + summary
os.mkdir("logs")
with open("logs/events.out.tfevents.1.host", "wb") as file:
    file.write(eventfile.record(body))
"""
    job = client.submit(command=[PYTHON, "-c", program], cwd=str(tmp_path), report={"tensorboard": "logs"})
    (message,) = _messages(http, job.id)
    assert message["body"] == {"values": {"loss": 0.5}, "step": 7}
    assert message["at"].startswith("2001-09-09T01:46:40")


def test_typed_code_runs_as_a_job(http: httpx2.Client, client: Client, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("print('hello')\n1 / 0\n")
    job = client.submit(command=[PYTHON, "-m", "runyard.runcode", str(tmp_path / "code.py")])
    found = _messages(http, job.id)
    assert found[0]["type"] == "status" and found[-1]["type"] == "error"
    assert "".join(m["body"]["log"] for m in found if m["type"] == "log").startswith("hello\n")
    assert found[-1]["body"]["detail"]["traceback"][0]["filename"] == "pyrcode"


def test_silence_is_possible(http: httpx2.Client, client: Client) -> None:
    program = 'print(\'@runyard {"type":"metrics","body":{"b":1}}\')\nfrom runyard import report; report.log(\'x\')'
    job = client.submit(command=[PYTHON, "-c", program], env={"RUNYARD_REPORT": ""}, report={"lines": False})
    assert _messages(http, job.id) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to run a job as somebody else")
def test_another_account_reports_on_standard_output(http: httpx2.Client, client: Client) -> None:
    user = pwd.getpwnam("nobody")
    script = 'echo "@runyard {\\"type\\":\\"metrics\\",\\"body\\":{\\"uid\\":$(id -u)}}"; echo "$RUNYARD_REPORT"'
    job = client.submit(script=script, user=user.pw_name, cwd="/")
    assert _values(_messages(http, job.id)) == [{"uid": user.pw_uid}]
    assert http.get(f"/api/v1/jobs/{job.id}/logs?stream=stdout").text.splitlines()[-1] == "-"


@pytest.mark.parametrize(
    ("report", "field"),
    [
        ({"rules": [{"pattern": "("}]}, "report.rules[0].pattern"),
        ({"rules": [{"pattern": "loss"}]}, "report.rules[0].pattern"),
        ({"rules": [{"pattern": "(?P<step>x)"}]}, "report.rules[0].pattern"),
        ({"rules": [{"pattern": "(?P<a>x)", "category": ""}]}, "report.rules[0].category"),
        ({"rules": [{"pattern": "(?P<a>x)"}] * 1000}, "report.rules"),
        ({"rules": [{"patern": "x"}]}, "report.rules[0].patern"),
        ({"rules": "x"}, "report.rules"),
        ({"tensorboard": "relative"}, "report.tensorboard"),
        ({"tensorboard": ""}, "report.tensorboard"),
        ({"lines": "yes"}, "report.lines"),
        ({"line": True}, "report.line"),
    ],
)
def test_wrong_requests_are_explained(http: httpx2.Client, report: dict[str, Any], field: str) -> None:
    answer = http.post("/api/v1/jobs", json={"command": ["true"], "report": report})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field


def test_a_crash_of_the_server_loses_nothing_and_repeats_nothing(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    program = """
import os, sys, time
from runyard import report
folder = sys.argv[1]
def say(begin, end):
    for number in range(begin, end):
        report.metrics(file=number)
        print('@runyard {"type":"metrics","body":{"out":%d}}' % number, flush=True)
say(0, 300)
while not os.path.exists(folder + "/go"):
    time.sleep(0.01)
say(300, 600)
open(folder + "/done", "w").close()
"""
    flood = """
for number in range(5000):
    print('@runyard {"type":"metrics","body":{"out":%d}}' % number)
"""
    with server.client() as client:
        job = client.submit(command=[PYTHON, "-c", program, str(tmp_path)])
        wait_until(lambda: server.get(f"/api/v1/jobs/{job.id}/messages?limit=1").json()["items"])
        ended = client.submit(command=[PYTHON, "-c", flood])
        client.wait(ended.id, timeout=60)
    # The one is in the middle of what it says; of the other, ended, some may not be read.
    server.kill()
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists)
    server.start()
    with server.http() as http:
        values = _values(_messages(http, job.id))
        for name in ("file", "out"):
            assert [value[name] for value in values if name in value] == list(range(600))
        assert [value["out"] for value in _values(_messages(http, ended.id))] == list(range(5000))
