"""The request for a task, line by line in K12AI's order of checks (spec/k12ai.md, 1.3 and 1.4)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.training.operation import OPERATIONS
from runyard.training.reply import Refusal, refusal_reply, reply
from runyard.training.request import Ask, read_ask, read_body

GOOD: dict[str, Any] = {
    "op": "train.start",
    "user": "u1",
    "service_name": "k12nlp",
    "service_uuid": "p42",
    "service_params": {"solver.max_epoch": 3},
}


def ask(route: str | None = None, **changes: Any) -> Ask:
    raw = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    return read_ask(read_body(json.dumps(raw).encode()), route, "talentai")


def test_a_request_as_the_document_has_it() -> None:
    found = ask()
    assert (str(found.op), found.user, found.service, found.uuid) == ("train.start", "u1", "k12nlp", "p42")
    assert found.params == {"solver.max_epoch": 3}
    assert (found.app, found.token, found.callback) == ("talentai", "", "")
    assert ask(appId="mine", token={"a": [1]}, callback_url="https://h/x").token == {"a": [1]}
    assert ask(service_params='{"a": 1}').params == {"a": 1}
    assert ask(service_params=...).params is None
    assert ask(service_name="k12cv", custom_model="net").params["network.net_def"] == "net"
    assert "network.net_def" not in ask(custom_model="net").params
    assert ask(version=1, isasync=True, unknown={"x": 1}).user == "u1"


def test_every_operation_there_is() -> None:
    assert sorted(OPERATIONS) == sorted(
        [f"train.{action}" for action in ("start", "stop", "pause", "resume", "rob")]
        + [f"{phase}.{action}" for phase in ("evaluate", "predict", "runcode") for action in ("start", "stop")]
    )
    assert [name for name, op in OPERATIONS.items() if op.begins] == [
        *("train.start", "train.resume", "evaluate.start", "predict.start", "runcode.start")
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"1", b"\xff", b"null", b"[" * 5000])
def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read_body(body)
    assert caught.value.code == 100103
    answer = refusal_reply(caught.value)
    assert answer["expand"]["excinfo"]["err_type"] and answer["detail"]["exc_type"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"user": ...}, 100101),
        ({"op": ...}, 100101),
        ({"op": ..., "user": ...}, 100101),
        ({"op": "train"}, 100102),
        ({"op": "train.startx"}, 100102),
        ({"op": "evaluate.pause"}, 100102),
        ({"op": 5}, 100102),
        ({"op": None}, 100102),
        ({"op": ["train.start"]}, 100102),
        ({"service_name": ...}, 100101),
        ({"service_uuid": ...}, 100101),
        ({"service_params": "{"}, 100101),
        ({"service_params": "not json"}, 100101),
        ({"user": 5}, 100102),
        ({"service_uuid": {}}, 100102),
        ({"user": ""}, 100102),
        ({"user": "a/b"}, 100102),
        ({"user": ".."}, 100102),
        ({"user": "a..b"}, 100102),
        ({"service_uuid": "../../etc"}, 100102),
        ({"service_uuid": "x" * 129}, 100102),
        ({"service_uuid": "."}, 100102),
        ({"user": "u\n"}, 100102),
        ({"user": "é"}, 100102),
        ({"service_name": 7}, 100201),
        ({"appId": 5}, 100102),
        ({"appId": ""}, 100102),
        ({"appId": "a,b"}, 100102),
        ({"appId": "x" * 200}, 100102),
        ({"callback_url": "file:///etc/passwd"}, 100102),
        ({"callback_url": 5}, 100102),
        ({"callback_url": "http://" + "x" * 3000}, 100102),
        ({"callback_url": "http://h/a b"}, 100102),
        ({"token": "x" * 70_000}, 100102),
        ({"token": json.loads("[" * 33 + "]" * 33)}, 100102),
    ],
)
def test_what_is_refused(changes: dict[str, Any], code: int) -> None:
    with pytest.raises(Refusal) as caught:
        ask(**changes)
    assert caught.value.code == code and caught.value.data
    assert (caught.value.exception is not None) == (code == 100101)


def test_the_checks_come_in_order() -> None:
    """Each request has all the mistakes of those that follow."""
    steps: list[tuple[dict[str, Any], int]] = [
        ({"op": "bad", "user": ..., "service_name": ...}, 100101),
        ({"op": "bad", "user": 5, "service_name": ...}, 100102),
        ({"user": 5, "service_name": ..., "service_params": "{"}, 100101),
        ({"user": 5, "service_params": "{"}, 100101),
        ({"user": 5, "service_name": 5}, 100102),
    ]
    for changes, code in steps:
        with pytest.raises(Refusal) as caught:
            ask(**changes)
        assert caught.value.code == code, changes
    with pytest.raises(Refusal) as caught:
        ask(op=..., user=...)
    assert caught.value.exception == ("KeyError", "'user'")


def test_a_route_takes_its_own_phase_only() -> None:
    assert ask("train").op.phase == "train"
    for route, op in (("evaluate", "train.start"), ("train", "predict.stop"), ("predict", "runcode.start")):
        with pytest.raises(Refusal) as caught:
            ask(route, op=op)
        assert caught.value.code == 100102 and route in str(caught.value.data)


def test_deep_parameters_are_refused() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(Refusal) as caught:
        ask(service_params=deep)
    assert caught.value.code == 100102


def test_answers_have_both_forms() -> None:
    assert reply() == {"code": 100000, "descr": "success", "message": {"en": "success", "cn": "成功"}}
    assert "data" not in reply(data={}) and "data" not in reply(data="")
    assert reply(100102, "why", "text")["message"] == "why"
    assert reply(form="text")["message"] == "success"
    known = refusal_reply(Refusal(100201, "no such"))
    assert known["data"] == "no such" and "expand" not in known


json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "appId", "token", "callback_url", "custom_model", "password", "x"]), json_value
    ),
    st.sampled_from([None, "train", "predict"]),
)
def test_anything_is_a_request_or_a_refusal(changes: dict[str, Any], route: str | None) -> None:
    try:
        found = read_ask(GOOD | changes, route, "talentai")
    except Refusal as refusal:
        assert refusal.code in range(100101, 100300)
    else:
        assert found.user and found.uuid and found.app
