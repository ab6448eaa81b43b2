"""The pure part of hooks: configuration, what is delivered to whom, the schedule, the signature."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.config import parse
from runyard.core.record import JobRecord
from runyard.model.errors import ConfigError
from runyard.model.event import EVENT_TYPES, Event
from runyard.model.hook import FRONT_DOORS, MAX_RETRIES, Hook, read_hooks
from runyard.model.job import JobDoc, JobSpec, RunDoc
from runyard.model.state import State
from runyard.service.delivery import delivery, environment, headers, judge, signature, wait_before, wanted
from runyard.service.hooks import read_secret

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:9/x"


def hook(**fields: Any) -> Hook:
    return read_hooks([{"name": "h", "url": URL} | fields], "hooks")[0]


def event(kind: str = "run.exited", job: int = 7, seq: int = 41, attempt: int = 2) -> Event:
    return Event(seq, 1000.5, kind, job, State.RUNNING if job else None, 0, attempt, {"exit_code": 3})


def record(name: str | None = "train-1", origin: str = "native") -> JobRecord:
    return JobRecord(
        id=7, spec=JobSpec(command=["x"], name=name), kind="batch", origin=origin, owner="me", submitted_at=999.0
    )


# Configuration ----------------------------------------------------------------------------------------------------


def test_hooks_come_from_the_file_and_know_it() -> None:
    text = """
    [[hooks]]
    name = "chat"
    url = "https://example.org/hook?key=1"
    secret_file = "secret"
    timeout = "5s"
    [[hooks]]
    name = "pager"
    command = ["/bin/notify", "-u"]
    events = ["job.failed"]
    jobs = ["prod-*"]
    origins = ["meproc"]
    retries = 0
    """
    config, origins = parse(text, path="/etc/runyard/c.toml")
    chat, pager = config.hooks
    assert (chat.events, chat.timeout, chat.retries) == (["run.started", "run.exited"], 5.0, 8)
    assert chat.secret_file == "/etc/runyard/secret"
    assert pager == Hook(
        name="pager",
        command=["/bin/notify", "-u"],
        events=["job.failed"],
        jobs=["prod-*"],
        origins=["meproc"],
        retries=0,
    )
    assert (origins["hooks"].kind, origins["hooks"].place) == ("file", "/etc/runyard/c.toml")


def test_hooks_come_from_the_environment_as_json_and_win() -> None:
    text = '[[hooks]]\nname = "a"\nurl = "http://a"'
    config, origins = parse(text, env={"RUNYARD_HOOKS": '[{"name": "b", "command": ["true"]}]'})
    assert [found.name for found in config.hooks] == ["b"]
    assert origins["hooks"].place == "RUNYARD_HOOKS"
    with pytest.raises(ConfigError, match=r"^RUNYARD_HOOKS: expected a JSON array"):
        parse(env={"RUNYARD_HOOKS": "b"})


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ({}, ["write [[hooks]]"]),
        (["x"], ["write [[hooks]]"]),
        ([{}], ["hooks[1].name", "64 letters"]),
        ([{"name": "a b", "url": URL}], ["hooks[1].name = 'a b'"]),
        ([{"name": "a", "url": URL}, {"name": "a", "url": URL}], ["hooks[2].name", "another hook"]),
        ([{"name": "a"}], ["exactly one of url and command"]),
        ([{"name": "a", "url": URL, "command": ["x"]}], ["exactly one of url and command"]),
        ([{"name": "a", "url": URL, "evnts": []}], ["no setting evnts", "did you mean events?"]),
        ([{"name": "a", "url": URL, "zzz": 1}], ["a hook has name, url"]),
        ([{"name": "a", "url": "ftp://x"}], ["hooks[1].url", "https://example.org"]),
        ([{"name": "a", "url": "http://x y"}], ["hooks[1].url"]),
        ([{"name": "a", "url": "http://[x"}], ["hooks[1].url"]),
        ([{"name": "a", "command": [""]}], ["hooks[1].command", "name a program"]),
        ([{"name": "a", "command": "x"}], ["hooks[1]", "`$.command`"]),
        ([{"name": "a", "url": URL, "events": ["run.exit"]}], ["'run.exit'", "did you mean run.exited?"]),
        ([{"name": "a", "url": URL, "events": []}], ["at least one"]),
        ([{"name": "a", "url": URL, "origins": ["web"]}], ["hooks[1].origins", "known are native"]),
        ([{"name": "a", "url": URL, "timeout": 0}], ["hooks[1].timeout = 0"]),
        ([{"name": "a", "url": URL, "timeout": "soon"}], ["hooks[1].timeout", "1h30m"]),
        ([{"name": "a", "url": URL, "retries": -1}], ["hooks[1].retries = -1", "from 0"]),
        ([{"name": "a", "url": URL, "retries": True}], ["hooks[1]", "`$.retries`"]),
        ([{"name": "a", "url": URL, "secret": ""}], ["the secret is empty"]),
        ([{"name": "a", "url": URL, "secret": "x", "secret_file": "y"}], ["exclude each other"]),
        ([{"name": "a", "command": ["x"], "secret": "x"}], ["no use for it"]),
    ],
)
def test_errors_in_hooks_teach(tables: object, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_hooks(tables, "c.toml: hooks")
    assert caught.value.detail.startswith("c.toml: hooks")
    for part in parts:
        assert part in caught.value.detail


@pytest.mark.parametrize("key", ["timeout", "retries", "events", "zzz"])
def test_errors_never_tell_a_secret(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_hooks([{"name": "a", "url": "http://u:hush@h", "secret": "hush", key: {}}], "hooks")
    assert "hush" not in caught.value.detail
    with pytest.raises(ConfigError) as caught:
        read_hooks([{"name": "a", "url": "http://u:hush@h:0", "secret": ["hush"]}], "hooks")
    assert "hush" not in caught.value.detail


def test_the_configuration_is_shown_without_secrets() -> None:
    hooks = '[{"name": "chat", "url": "http://u:hush@h/hush", "secret": "hush"}]'
    code = "from runyard.cli.app import run; run(['config', 'show', '-o', 'json'])"
    environment = {"PYTHONPATH": str(ROOT / "src"), "RUNYARD_HOOKS": hooks, "PATH": "/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    (shown,) = [row["value"] for row in msgspec.json.decode(done.stdout) if row["key"] == "hooks"]
    assert shown == ["chat"]
    assert "hush" not in done.stdout + done.stderr


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    found = hook(secret_file=str(file))
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        read_secret(found)
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_secret(found)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_secret(found)
    file.write_text("s e\n")
    assert read_secret(found) == "s e"
    assert read_secret(hook(secret="here")) == "here"


# What is delivered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kind", "job", "takes"),
    [
        ({}, "run.exited", record(), True),
        ({}, "job.failed", record(), False),
        ({"events": ["job.failed"]}, "job.failed", record(), True),
        ({"jobs": ["train-*"]}, "run.exited", record(), True),
        ({"jobs": ["train-?", "x"]}, "run.exited", record("x"), True),
        ({"jobs": ["Train-*"]}, "run.exited", record(), False),
        ({"jobs": ["*"]}, "run.exited", record(None), True),
        ({"jobs": ["?*"]}, "run.exited", record(None), False),
        ({"origins": ["meproc"]}, "run.exited", record(), False),
        ({"origins": ["meproc", "native"]}, "run.exited", record(), True),
        ({"events": ["node.down"]}, "node.down", None, True),
        ({"events": ["node.down"], "jobs": ["*"]}, "node.down", None, False),
        ({"events": ["node.down"], "origins": ["native"]}, "node.down", None, False),
    ],
)
def test_who_is_told(fields: dict[str, Any], kind: str, job: JobRecord | None, takes: bool) -> None:
    assert wanted(hook(**fields), event(kind, 7 if job else 0), job) is takes


def test_the_body_is_the_event_the_job_and_the_run() -> None:
    made = delivery(hook(), event(), record(), RunDoc(replica=0, attempt=2, state=State.FAILED, exit_code=3))
    content = msgspec.json.decode(made.body)
    assert content["event"] == {
        "seq": 41,
        "at": "1970-01-01T00:16:40.500000Z",
        "type": "run.exited",
        "job": "7",
        "state": "running",
        "replica": 0,
        "attempt": 2,
        "data": {"exit_code": 3},
    }
    assert msgspec.convert(content["job"], JobDoc).name == "train-1"
    assert msgspec.convert(content["run"], RunDoc).exit_code == 3
    assert made.id == "h-41"
    bare = msgspec.json.decode(delivery(hook(), event("node.down", 0, attempt=0), None, None).body)
    assert (bare["job"], bare["run"], bare["event"]["job"]) == (None, None, None)


def test_headers_say_what_it_is_and_sign_it() -> None:
    made = delivery(hook(), event(), record(), None)
    assert headers(made, "", 1700000000.9) == {
        "Content-Type": "application/json",
        "User-Agent": "runyard-hook",
        "X-Runyard-Event": "run.exited",
        "X-Runyard-Delivery": "h-41",
        "X-Runyard-Timestamp": "1700000000",
    }
    assert headers(made, "key", 1700000000.9)["X-Runyard-Signature"] == signature("key", 1700000000, made.body)


def test_the_signature_is_what_openssl_computes() -> None:
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", "key"], input=b'1700000000.{"a":1}', capture_output=True, check=True
    )
    assert signature("key", 1700000000, b'{"a":1}') == "sha256=" + done.stdout.decode().split()[-1]


@given(st.text(), st.integers(0, 2**40), st.binary())
def test_the_signature_depends_on_key_time_and_body(secret: str, now: int, body: bytes) -> None:
    signed = signature(secret, now, body)
    others = {signature(secret + "x", now, body), signature(secret, now + 1, body), signature(secret, now, body + b"x")}
    assert signed not in others and len(signed) == len("sha256=") + 64


def test_a_program_gets_what_it_needs_and_nothing_else() -> None:
    made = delivery(hook(), event(), record(), None)
    assert environment(hook(), made, {"PATH": "/bin"}) == {
        "PATH": "/bin",
        "RUNYARD_HOOK": "h",
        "RUNYARD_EVENT": "run.exited",
        "RUNYARD_DELIVERY": "h-41",
        "RUNYARD_JOB_ID": "7",
        "RUNYARD_JOB_NAME": "train-1",
        "RUNYARD_JOB_STATE": "running",
        "RUNYARD_REPLICA": "0",
        "RUNYARD_ATTEMPT": "2",
    }
    node = delivery(hook(), event("node.down", 0, attempt=0), None, None)
    assert environment(hook(), node, {}).keys() == {"RUNYARD_HOOK", "RUNYARD_EVENT", "RUNYARD_DELIVERY"}


def test_waits_double_up_to_five_minutes() -> None:
    assert [wait_before(retry) for retry in range(1, 11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert wait_before(10_000) == 300


@pytest.mark.parametrize(
    ("status", "final"),
    [
        *((status, None) for status in (200, 204, 299)),
        *((status, True) for status in (301, 400, 404, 410, 422)),
        *((status, False) for status in (408, 425, 429, 500, 503, 599)),
    ],
)
def test_what_a_status_means(status: int, final: bool | None) -> None:
    failure = judge(status)
    assert (None if failure is None else failure.final) is final


# Documentation ----------------------------------------------------------------------------------------------------


def test_the_page_knows_every_setting_and_every_outcome() -> None:
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    assert [name for name in Hook.__struct_fields__ if f"| `{name}` |" not in text] == []
    assert [door for door in FRONT_DOORS if f"`{door}`" not in text] == []
    assert f"at most {MAX_RETRIES}" in text
    assert set(hook().events) <= set(EVENT_TYPES)
    made = delivery(hook(), event(), record(), None)
    names = [*headers(made, "x", 0), *environment(hook(), made, {})]
    assert [name for name in names if name.startswith(("X-", "RUNYARD")) and f"`{name}`" not in text] == []


def test_the_python_snippet_checks_signatures() -> None:
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    made = delivery(hook(), event(), record(), None)
    good = headers(made, "key", 1700000000)
    assert names["is_genuine"]("key", good, made.body, now=1700000100)
    assert not names["is_genuine"]("other", good, made.body, now=1700000100)
    assert not names["is_genuine"]("key", good, made.body + b" ", now=1700000100)
    assert not names["is_genuine"]("key", good, made.body, now=1700001000)
    assert not names["is_genuine"]("key", good | {"X-Runyard-Timestamp": "1700000001"}, made.body, now=1700000100)


def test_the_shell_snippet_computes_the_signature(tmp_path: Path) -> None:
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    script = text.partition("```sh\n")[2].partition("```")[0]
    made = delivery(hook(), event(), record(), None)
    (tmp_path / "body.json").write_bytes(made.body)
    given = headers(made, "key", 1700000000)
    done = subprocess.run(
        ["/bin/sh", "-euc", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "SECRET": "key", "TIMESTAMP": "1700000000"}
        | {"SIGNATURE": given["X-Runyard-Signature"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "genuine\n"
