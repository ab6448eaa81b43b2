"""Reports as text, and the two forms of metrics."""

from __future__ import annotations

import math
from typing import Any

import pytest

from runyard.message.line import body_bytes, decode, is_marked, read_marked, read_report, to_message
from runyard.message.rules import Rules
from runyard.model.check import build_spec
from runyard.model.errors import InvalidInput, TooLarge
from runyard.model.job import ReportRule
from runyard.model.message import MAX_BODY, MAX_DEPTH, NewMessage, depth
from runyard.model.metrics import flat, late, metrics_body, scalar, typed, widget

NOW = 1_790_000_000.0


def said(raw: Any) -> NewMessage:
    return to_message(raw, 7, NOW, "http")


def metric(title: str, *curves: tuple[str, Any], x: Any = 3, category: str = "train") -> dict[str, Any]:
    payload = {"x": {"label": "step", "value": x}, "y": [{"label": label, "value": value} for label, value in curves]}
    return {"category": category, "type": "scalar", "data": {"title": title, "payload": payload}}


@pytest.mark.parametrize(
    ("line", "kind", "body"),
    [
        (b'@runyard {"type":"metrics","body":{"loss":0.5,"step":2}}', "metrics", {"values": {"loss": 0.5}, "step": 2}),
        (b'@k12ai {"type":"metrics","metrics":{"loss":1}}', "metrics", {"values": {"loss": 1}}),
        (b'@k12ai {"type":"info","data":{"a":[1]}}', "info", {"a": [1]}),
        (b'@k12ai {"kind":"log","body":"hello"}\r', "log", {"text": "hello"}),
        (b'@k12ai {"type":"status"}', "status", {}),
    ],
)
def test_a_marked_line_is_a_message(line: bytes, kind: str, body: dict[str, Any]) -> None:
    assert is_marked(line)
    assert read_marked(line, 7, NOW, rank=1) == NewMessage(7, kind, body, NOW, "stdout", 1)


def test_other_lines_are_output() -> None:
    assert not any(map(is_marked, (b"", b"epoch 1", b" @runyard {}", b"@runyards {}", b"mail to a@k12ai {}")))


def test_a_report_says_its_time_and_rank_unless_they_are_known_better() -> None:
    text = b'{"type":"info","body":{},"at":5,"rank":2}'
    assert read_report(text, 7, NOW, "report") == NewMessage(7, "info", {}, 5.0, "report", 2)
    assert read_report(text, 7, NOW, "report", rank=0).rank == 0
    for at in (NOW + 1e6, 10**400):
        late = said({"type": "info", "at": at})
        assert late.at is not None and NOW <= late.at <= NOW + 60


@pytest.mark.parametrize(
    "text", [b'{"loss": NaN, "up": Infinity, "down": -Infinity}', b'{"loss":"nan","up":"inf","down":"-inf"}']
)
def test_what_is_no_number_becomes_null(text: bytes) -> None:
    body = said({"type": "metrics", "body": decode(text)}).body
    assert body == {"values": {"loss": None, "up": None, "down": None}}
    assert body_bytes({"values": {"loss": math.nan}}) == b'{"values":{"loss":null}}'


NESTED: list[Any] = []
for _ in range(MAX_DEPTH):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (1, "a message is an object"),
        ({}, "needs a type"),
        ({"type": 1}, "needs a type"),
        ({"type": "Metrics"}, "small letters"),
        ({"type": "x" * 33}, "small letters"),
        ({"type": "info", "bodi": 1}, "bodi: unknown field"),
        ({"type": "info", "body": 1}, "must be an object, or a text"),
        ({"type": "info", "body": [1]}, "must be an object, or a text"),
        ({"type": "info", "body": {"a": NESTED}}, "levels of objects"),
        ({"type": "info", "at": "now"}, "Unix time"),
        ({"type": "info", "at": -1}, "Unix time"),
        ({"type": "info", "at": True}, "Unix time"),
        ({"type": "info", "at": math.nan}, "Unix time"),
        ({"type": "info", "rank": -1}, "from 0 to"),
        ({"type": "info", "rank": 1.5}, "from 0 to"),
        ({"type": "metrics"}, "object of numbers"),
        ({"type": "metrics", "body": 3}, "object of numbers"),
        ({"type": "metrics", "body": {"a": "b"}}, "body.a: must be a number"),
        ({"type": "metrics", "body": {"a": [1]}}, "body.a: must be a number"),
        ({"type": "metrics", "body": {"": 1}}, "1 to 255 printable"),
        ({"type": "metrics", "body": {"a\n": 1}}, "1 to 255 printable"),
        ({"type": "metrics", "body": {"a": 1, "step": "x"}}, "body.step: must be a number"),
        ({"type": "metrics", "body": {str(n): n for n in range(1001)}}, "at most 1000"),
        ({"type": "metrics", "body": {"values": {}, "stepp": 1}}, "unknown beside `values`"),
        ({"type": "metrics", "body": {"values": {"a": 1}, "category": ""}}, "body.category"),
        ({"type": "metrics", "body": [1]}, "body.items"),
        ({"type": "metrics", "body": [{"type": "text", "data": {"title": "t"}}]}, "has no `payload`"),
        ({"type": "metrics", "body": [{"type": "text", "data": {"payload": 1}}]}, "data.title"),
        ({"type": "metrics", "body": [{"type": "scalar", "data": {"title": "t", "payload": 3}}]}, "data.payload"),
        ({"type": "metrics", "body": [metric("t")] * 1001}, "at most 1000"),
    ],
)
def test_what_is_refused_says_why(raw: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        said(raw)
    assert words in refused.value.detail


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b'{"a":"\\ud800"}', b'{"\\ud800":NaN}', b"[" * 100_000, b"nanNaN"]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(text)


def test_a_body_has_a_million_characters_at_most() -> None:
    frame = len(body_bytes({"text": ""}))
    assert len(body_bytes({"text": "a" * (MAX_BODY - frame)})) == MAX_BODY
    # Characters count, not bytes.
    assert len(body_bytes({"text": "ä" * (MAX_BODY - frame)})) > MAX_BODY
    with pytest.raises(TooLarge, match="1000001 characters"):
        body_bytes({"text": "a" * (MAX_BODY - frame + 1)})
    with pytest.raises(TooLarge):
        read_report(b" " * 5_000_000, 7, NOW, "report")


def test_depth_is_counted_no_further_than_asked() -> None:
    values: list[Any] = [1, "a", {}, [], {"a": [{}]}, [1, [2]]]
    assert [depth(value) for value in values] == [0, 0, 1, 1, 3, 2]
    assert depth(NESTED) == MAX_DEPTH + 1
    assert depth([[[[]]]], most=2) == 3


# Metrics ----------------------------------------------------------------------------------------------------------


def test_numbers_come_flat_or_as_typed_objects_and_go_out_as_both() -> None:
    body = metrics_body({"train_loss": 0.5, "good": True, "step": 4, "category": "val"})
    assert flat(body) == {"train_loss": 0.5, "good": 1} and body["step"] == 4
    assert late(body) == [scalar("val", "train_loss", 0.5, 4), scalar("val", "good", 1, 4)]
    assert late(metrics_body({"loss": 1}), "evaluate", 9) == [scalar("evaluate", "loss", 1, 9)]
    assert metrics_body(body) == body


def test_typed_objects_say_their_numbers_flat_too() -> None:
    picture = {
        "category": "train",
        "type": "image",
        "data": {"title": "sample", "payload": "aGk=", "format": "base64string"},
    }
    items = [
        metric("train_loss", ("loss", 0.4)),
        metric("train_acc", ("top1", 0.5), ("top5", "0.9")),
        {"category": "train", "type": "text", "data": {"title": "train_progress", "payload": "12.5"}},
        {"category": "train", "type": "text", "data": {"title": "train_remain_time", "payload": "0:01:02"}},
        picture,
    ]
    body = metrics_body(items)
    assert flat(body) == {"train_loss": 0.4, "train_acc_top1": 0.5, "train_acc_top5": 0.9, "train_progress": 12.5}
    assert body["step"] == 3
    shown = late(body)
    assert [item["data"] for item in shown] == [item["data"] for item in items]
    assert [item["_id_"] for item in shown] == [widget(item["type"], "train", item["data"]["title"]) for item in items]
    assert metrics_body(body) == body
    assert (
        typed("matrix", "val", "m", [[1]])["_id_"]
        == metrics_body([typed("matrix", "val", "m", [[1]])])["items"][0]["_id_"]
    )


def test_numbers_too_large_for_a_curve_are_none() -> None:
    assert flat(metrics_body({"a": 1 << 2000, "b": -(1 << 2000), "c": 1 << 100})) == {
        "a": None,
        "b": None,
        "c": 1 << 100,
    }


# Rules ------------------------------------------------------------------------------------------------------------


def test_rules_make_metrics_of_lines() -> None:
    rules = Rules(
        [
            ReportRule(r"epoch (?P<step>\d+).* loss=(?P<loss>\S+)(?: acc=(?P<acc>\S+))?", "train"),
            ReportRule(r"speed (?P<speed>\S+)"),
        ]
    )
    assert rules.read("epoch 3: loss=0.25 acc=0.5 speed 12.5") == [
        {"values": {"loss": 0.25, "acc": 0.5}, "step": 3.0, "category": "train"},
        {"values": {"speed": 12.5}},
    ]
    assert rules.read("epoch 4: loss=nan") == [{"values": {"loss": None}, "step": 4.0, "category": "train"}]
    assert rules.read("speed fast") == rules.read("speed 1_0") == rules.read("") == []
    # Linear in the line, whatever the expression.
    assert Rules([ReportRule(r"(?P<n>(a+)+)$")]).read("a" * 100_000 + "b") == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"pattern": "("}, "no regular expression of RE2"),
        ({"pattern": r"(?P<a>x)\1"}, "no regular expression of RE2"),
        ({"pattern": "loss=(.*)"}, "needs a named group"),
        ({"pattern": "(?P<step>.*)"}, "needs a named group"),
        ({"pattern": "(?P<a>x)" + "y" * 1000}, "at most 1000 bytes"),
        ({"pattern": "(?P<a>x)", "category": ""}, "category"),
        ({"patern": "x"}, "did you mean 'pattern'"),
    ],
)
def test_a_rule_that_can_find_nothing_is_refused(rule: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        build_spec({"command": ["true"], "report": {"rules": [rule]}})
    assert words in refused.value.detail and "report.rules[0]" in refused.value.detail
    with pytest.raises(InvalidInput, match="at most 64 rules"):
        build_spec({"command": ["true"], "report": {"rules": [{"pattern": "(?P<a>x)"}] * 65}})
