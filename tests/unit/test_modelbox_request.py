"""What the ModelBox door makes of requests and jobs: codes, documents, statuses, peers (spec/modelbox.md, 1 and 3)."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from runyard.api.modelbox.acl import Acl
from runyard.api.modelbox.refusal import TEXTS, Code, Refusal, refusal_of
from runyard.api.modelbox.request import read_create, read_graph
from runyard.api.modelbox.status import Status, status_of
from runyard.core.record import Intent, JobRecord
from runyard.flow.report import FlowState
from runyard.model.check import MAX_GRAPH
from runyard.model.errors import ConfigError, Forbidden, StorageFull
from runyard.model.flow import Format
from runyard.model.job import JobSpec
from runyard.model.state import State


def refused(body: str | bytes) -> Refusal:
    raw = body if isinstance(body, bytes) else body.encode()
    with pytest.raises(Refusal) as caught:
        read_graph(read_create(raw))
    return caught.value


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        ("", "006", "empty"),
        ("{", "006", "line 1 column 2"),
        ('{"job_id": "ab', "006", "Unterminated string"),
        ('{"job_id": "ab", "job_graph": NaN}', "006", ""),
        (b'{"job_id": "\xff\xfe"}', "006", "UTF-8"),
        ("[" * 100_000, "006", ""),
        ("[]", "003", ""),
        ('"job_id"', "003", ""),
        ("null", "003", ""),
        ("{}", "003", ""),
        ('{"JOB_ID": "ab"}', "003", ""),
        ('{"job_id": 1}', "001", "job_id must be string, but is number"),
        ('{"job_id": null}', "001", "null"),
        ('{"job_id": ["ab"]}', "001", "array"),
        ('{"job_id": "ab"}', "004", ""),
        ('{"job_id": "a b", "job_graph_format": 1}', "004", ""),
        ('{"job_id": "a", "job_graph": {}}', "007", ""),
        ('{"job_id": "a b", "job_graph": {}, "job_graph_format": 1}', "007", ""),
        ('{"job_id": "ab", "job_graph": {}, "job_graph_format": 1}', "001", "job_graph_format must be string"),
        ('{"job_id": "ab", "job_graph": {}, "job_graph_format": null}', "001", "null"),
        ('{"job_id": "ab", "job_graph": {}, "job_graph_format": "yaml"}', "006", "Unsupport graph format: yaml"),
        ('{"job_id": "ab", "job_graph": {}, "job_graph_format": ""}', "006", "Unsupport graph format: "),
        ('{"job_id": "ab", "job_graph": {}, "job_graph_format": "toml"}', "001", "job_graph must be string"),
        ('{"job_id": "ab", "job_graph": 1, "job_graph_format": "toml"}', "001", "number"),
        ('{"job_id": "ab", "job_graph": 1}', "008", "number"),
        ('{"job_id": "ab", "job_graph": {"a": ' + "[" * 64 + "]" * 64 + "}}", "008", "nested too deeply"),
        ('{"job_id": "ab", "job_graph": ' + '{"a":' * 700 + "1" + "}" * 701, "008", "nested too deeply"),
        ('{"job_id": "ab", "job_graph": "{\\"a\\":' + "[" * 700 + "]" * 700 + '}"}', "008", "nested too deeply"),
        ('{"job_id": "ab", "job_graph": [], "job_graph_format": "json"}', "008", "array"),
        ('{"job_id": "ab", "job_graph": true}', "008", "boolean"),
        ('{"job_id": "ab", "job_graph": null}', "008", "null"),
        ('{"job_id": "ab", "job_graph": "{\\"graph\\": "}', "008", "job_graph is not JSON"),
        ('{"job_id": "ab", "job_graph": "[1]", "job_graph_format": "json"}', "008", "array"),
    ],
)
def test_the_first_failure_decides_the_code(body: str | bytes, code: str, detail: str) -> None:
    refusal = refused(body)
    assert refusal.code == f"MODELBOX_{code}"
    assert refusal.status == 400
    assert detail in refusal.message
    assert refusal.message.startswith(TEXTS[refusal.code])


@pytest.mark.parametrize("job", ["ab", "-+", "~_.", "0.", "a" * 64, "flow-example", "x1.toml"])
def test_ids_that_are_taken(job: str) -> None:
    assert read_create(json.dumps({"job_id": job, "job_graph": {}}).encode()).id == job


@pytest.mark.parametrize(
    "job", ["", "a", ".a", "..", "../x", "a/b", "a b", "ab\n", "a" * 65, "äö", "a\0", "a%2e", "é" * 2]
)
def test_ids_that_are_not(job: str) -> None:
    assert refused(json.dumps({"job_id": job, "job_graph": {}})).code is Code.BAD_ID


@pytest.mark.parametrize(
    ("graph", "given", "form"),
    [
        ({"graph": {"format": "graphviz"}}, None, "json"),
        ({}, "json", "json"),
        ("[graph]\nformat = 'graphviz'", None, "toml"),
        ("[graph]", "toml", "toml"),
        ('  {"graph": {}}', None, "json"),
        ('{"graph": {}}', "json", "json"),
        ("{ this is for the host to refuse", "toml", "toml"),
    ],
)
def test_a_graph_comes_in_five_ways(graph: Any, given: str | None, form: str) -> None:
    body = {"job_id": "ab", "job_graph": graph, "graph_name": "ignored"}
    if given is not None:
        body["job_graph_format"] = given
    document = read_graph(read_create(json.dumps(body).encode()))
    assert document.format is Format(form)
    if form == "json":
        assert msgspec.json.decode(document.text) == (graph if isinstance(graph, dict) else json.loads(graph))
    else:
        assert document.text == graph


def test_nulls_are_dropped_and_what_toml_can_not_read_in_modelbox_is_taken() -> None:
    graph = {"flow": {"desc": None, "name": "x"}, "list": [1, None, 2.5, "a", [True]], "big": 2**40}
    document = read_graph(read_create(json.dumps({"job_id": "ab", "job_graph": graph}).encode()))
    assert document.table == {"flow": {"name": "x"}, "list": [1, 2.5, "a", [True]], "big": 2**40}


@pytest.mark.parametrize("graph", ["#" * (MAX_GRAPH + 1), {"graph": {"graphconf": "x" * MAX_GRAPH}}])
def test_a_graph_has_a_bound(graph: Any) -> None:
    refusal = refused(json.dumps({"job_id": "ab", "job_graph": graph}))
    assert refusal.code is Code.BAD_GRAPH
    assert str(MAX_GRAPH) in refusal.message


def test_the_shape_of_a_refusal() -> None:
    assert json.loads(Refusal(Code.EXISTS).body) == {
        "error_code": "MODELBOX_005",
        "error_msg": "request invalid, job already exist",
    }
    assert (
        json.loads(Refusal(Code.BAD_GRAPH, "Fault").body)["error_msg"]
        == "request invalid, job config is invalid., Fault"
    )
    assert len(Refusal(Code.INTERNAL, "x" * 10**6).body) < 20_000
    assert [code.value for code in TEXTS] == [f"MODELBOX_00{number}" for number in range(1, 9)]
    assert not re.search("[^ -~]", "".join(TEXTS.values()))


def test_what_others_refuse_keeps_its_status() -> None:
    forbidden = refusal_of(Forbidden("'x' may not"))
    assert (forbidden.code, forbidden.status) == (Code.COMMAND, 403)
    full = refusal_of(StorageFull("no space"))
    assert (full.code, full.status, full.message) == (Code.INTERNAL, 507, "server internal error, no space")


# Statuses -----------------------------------------------------------------------------------------------------------


def record(state: State, intent: Intent | None = None) -> JobRecord:
    return JobRecord(
        id=1,
        spec=JobSpec(command=["true"]),
        kind="flow",
        origin="modelbox",
        owner="me",
        submitted_at=0.0,
        state=state,
        intent=intent,
    )


@pytest.mark.parametrize(
    ("state", "intent", "flow", "status"),
    [
        (State.PENDING, None, None, "PENDING"),
        (State.STARTING, None, None, "CREATEING"),
        (State.STARTING, None, FlowState.RUNNING, "RUNNING"),
        (State.RUNNING, None, None, "CREATEING"),
        (State.RUNNING, None, FlowState.CREATING, "CREATEING"),
        (State.RUNNING, None, FlowState.RUNNING, "RUNNING"),
        (State.RUNNING, None, FlowState.STOPPING, "RUNNING"),
        (State.RUNNING, None, FlowState.ENDED, "SUCCEEDED"),
        (State.RUNNING, None, FlowState.FAILED, "FAILED"),
        (State.STOPPING, Intent.CANCEL, FlowState.RUNNING, "DELETEING"),
        (State.STOPPING, Intent.RESTART, FlowState.RUNNING, "CREATEING"),
        (State.SUCCEEDED, None, None, "SUCCEEDED"),
        (State.FAILED, None, None, "FAILED"),
        (State.TIMED_OUT, None, None, "FAILED"),
        (State.CANCELLED, None, None, "NOTEXIST"),
    ],
)
def test_each_state_has_a_word(state: State, intent: Intent | None, flow: FlowState | None, status: str) -> None:
    assert status_of(record(state, intent), flow) == status


def test_a_job_that_is_no_more_has_one_too() -> None:
    assert status_of(None, None) is Status.NOTEXIST
    assert {str(status) for status in Status} >= {"UNKNOWN", "NOTEXIST"}


# Peers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "peer", "allowed"),
    [
        ([], "8.8.8.8", True),
        (["192.168.1.1/24"], "192.168.1.255", True),
        (["192.168.1.1/24"], "192.168.2.1", False),
        (["10.1.2.3"], "10.1.2.3", True),
        (["10.1.2.3"], "10.1.2.4", False),
        (["0.0.0.0/0"], "203.0.113.9", True),
        (["127.0.0.1"], "::1", True),
        (["127.0.0.1"], "::ffff:127.0.0.1", True),
        (["127.0.0.1"], "2001:db8::1", False),
        (["127.0.0.1"], "fe80::1%eth0", False),
        (["127.0.0.1"], "unknown", False),
        (["127.0.0.1"], None, True),
        (["trusted.example"], "192.0.2.7", True),
        ([" 10.0.0.0/8 ", "127.0.0.1"], "10.255.0.1", True),
    ],
)
def test_peers(entries: list[str], peer: str | None, allowed: bool) -> None:
    assert Acl(entries, {"trusted.example": "192.0.2.7"}.__getitem__).allows(peer) is allowed


@pytest.mark.parametrize("entry", ["", "10.0.0.0/33", "10.0.0", "300.1.1.1", "nowhere.example", "::1/128"])
def test_an_entry_that_means_nobody_is_refused(entry: str) -> None:
    def unknown(name: str) -> str:
        raise OSError(f"{name} is unknown")

    with pytest.raises(ConfigError, match=r"doors\.modelbox\.allow"):
        Acl([entry], unknown)
