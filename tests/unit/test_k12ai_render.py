"""Messages as clients get them: the envelope, and both shapes of each body (spec/k12ai.md, 1.6 to 1.10)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from runyard.model.message import Message
from runyard.model.metrics import metrics_body
from runyard.training.render import Manner, Rendered, kinds_of, render
from runyard.training.task import Task, told

TASK = Task(
    job=7, owner="o", op="train.start", user="u1", uuid="p42", service="k12nlp", app="talentai", token="t", begun=1.0
)
MANNER = Manner("host-a:8119")
AT = 1_700_000_000.123


def shown(kind: str, body: dict[str, Any], source: Any = "report", task: Task = TASK) -> list[Rendered]:
    return render(Message(17, 7, kind, AT, body, source), task, MANNER)


def one(kind: str, body: dict[str, Any], source: Any = "report", task: Task = TASK) -> dict[str, Any]:
    [found] = shown(kind, body, source, task)
    return found.body


def status(code: int, **more: Any) -> dict[str, Any]:
    return one(*told(TASK, code, **more), source="server")


def test_the_envelope() -> None:
    message = status(100002)
    assert message == {
        "version": "0.1.0",
        "type": "error",
        "tag": "framework",
        "op": "train.start",
        "user": "u1",
        "service_uuid": "p42",
        "service_name": "k12nlp",
        "server": "host-a:8119",
        "appId": "talentai",
        "token": "t",
        "timestamp": 1_700_000_000_123,
        "datetime": datetime.fromtimestamp(AT).strftime("%Y%m%d%H%M%S"),
        "seq": 17,
        "error": {"code": 100002, "descr": "running", "message": "running"},
        "data": {"code": 100002, "message": {"en": "running", "cn": "运行中"}, "expand": {"status": "running"}},
    }


def test_an_error_in_both_spellings() -> None:
    frames = [{"filename": "/srv/x/train.py", "linenum": 40, "funcname": "main", "source": "run(cfg)"}]
    detail = {"exc_type": "KeyError", "exc_text": "'lr'", "traceback": frames, "exit_code": 1, "log": ["a"]}
    message = status(100913, word="crash", message="'lr'", detail=detail)
    outward = [{**frames[0], "filename": "train.py"}]
    assert message["error"] == {
        "code": 100913,
        "descr": "key error",
        "message": "'lr'",
        "detail": {"exc_type": "KeyError", "exc_text": "'lr'", "traceback": outward},
    }
    assert message["data"]["expand"] == {
        "status": "crash",
        "errinfo": {"err_type": "KeyError", "err_text": "'lr'", "trackback": outward, "exit_code": 1, "log": ["a"]},
    }


def test_metrics_in_both_forms() -> None:
    message = one("metrics", metrics_body({"loss": 0.5, "step": 3}))
    assert message["metrics"] == {"loss": 0.5}
    [item] = message["data"]
    assert (item["category"], item["type"], item["data"]["title"]) == ("train", "scalar", "loss")
    assert item["data"]["payload"] == {"x": {"label": "step", "value": 3}, "y": [{"label": "loss", "value": 0.5}]}
    assert len(item["_id_"]) == 16


@pytest.mark.parametrize(
    ("kind", "body", "type_", "content"),
    [
        ("log", {"log": "hello\n"}, "runlog", {"log": "hello\n"}),
        ("log", {"text": "x"}, "runlog", {"log": "x"}),
        ("log", {"imshow": "iVBO"}, "runlog", {"imshow": "iVBO"}),
        ("predict", {"index": 0, "prediction": "{}"}, "predict", {"index": 0, "prediction": "{}"}),
        ("info", {"code": "dropped", "count": 5}, "info", {"code": "dropped", "count": 5}),
        ("status", {"status": "epoch 3"}, "info", {"status": "epoch 3"}),
        ("video", {"x": 1}, "video", {"x": 1}),
    ],
)
def test_other_types(kind: str, body: dict[str, Any], type_: str, content: dict[str, Any]) -> None:
    message = one(kind, body)
    assert message["type"] == type_ and message[type_] == content == message["data"]


def test_what_is_not_for_clients() -> None:
    """The end is told by the server; so is that it runs, unless the service says it itself."""
    for body in ({"status": "finished"}, {"status": "stopped"}, {"status": "starting"}, {"status": "monitor"}):
        assert shown("status", body) == []
    assert shown("error", {"status": "crash", "err_type": "KeyError"}) == []
    running = {"status": "running", "memstat": {"app_cpu_memory_usage_MB": 1.5}}
    assert shown("status", running) == []
    speaks = msgspec.structs.replace(TASK, says_running=True)
    assert one("status", running, task=speaks)["data"]["expand"] == running


def test_a_warning_is_passed_on() -> None:
    message = one("error", {"status": "warning", "message": "careful", "err_type": "UserWarning", "err_text": "x"})
    assert message["error"]["code"] == 100009 and message["error"]["detail"]["exc_type"] == "UserWarning"


@pytest.mark.parametrize("detail", ["filename", 5, ["traceback"], {"traceback": 5}, {"exc_type": "KeyError"}, None])
def test_details_of_any_form_do_no_harm(detail: Any) -> None:
    speaks = msgspec.structs.replace(TASK, says_running=True)
    for word, code in (("running", 100002), ("warning", 100009)):
        assert one("status", {"status": word, "detail": detail}, task=speaks)["error"]["code"] == code


def test_a_large_body_is_replaced() -> None:
    message = one("info", {"text": "x" * 1_000_001})
    assert message["type"] == "info" and message["info"]["code"] == message["data"]["code"] == 100011
    assert one("info", {"text": "é" * 600_000})["info"]["text"]


def test_the_status_type_of_2019_on_request() -> None:
    manner = Manner("h", emit_status=True)
    kind, body = told(TASK, 100003)
    first, second = render(Message(1, 7, kind, AT, body, "server"), TASK, manner)
    assert (first.type, second.type, second.body["status"]) == ("error", "status", {"value": "exit", "way": "finish"})


def test_where_to_look_for_a_type() -> None:
    assert kinds_of(frozenset()) == frozenset()
    assert kinds_of(frozenset({"error"})) == {"error", "status"}
    assert kinds_of(frozenset({"metrics", "runlog"})) == {"metrics", "log", "runlog"}
