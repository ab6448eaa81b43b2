"""The program that relays a task to another gateway: stops at any moment, and answers of any form."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runyard import relay
from runyard.relay import Relay


class Far(Relay):
    """A gateway that answers as a test says: by operation, and with messages one pop after the other."""

    def __init__(self, answers: dict[str, Any], *pops: Any) -> None:
        super().__init__("http://far", "k12nlp", "train.start", {})
        self.answers, self.pops = answers, list(pops)
        self.asked: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def _open(self, path: str, body: bytes | None) -> Any:
        if body is None:
            answer = self.pops.pop(0)
        else:
            op = json.loads(body)["op"]
            self.asked.append(op)
            answer = self.answers.get(op, {"code": 100000})
            self.meanwhile()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(relay, "PAUSE", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line.removeprefix("@k12ai ")) for line in lines]


STOPPED = [{"type": "error", "error": {"code": 100004}, "data": "of any form"}]


def test_a_stop_before_the_other_side_has_begun_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    far = Far({}, STOPPED)

    def stop() -> None:
        far.meanwhile = lambda: None
        signal.raise_signal(signal.SIGTERM)

    far.meanwhile = stop
    assert far.run() == 0
    assert far.asked == ["train.start", "train.stop"]
    assert said(capsys) == [{"type": "status", "body": {"status": "stopped"}}]


def test_a_stop_that_was_refused_is_asked_for_again() -> None:
    far = Far(
        {"train.stop": {"code": 100202}}, [{"type": "info", "info": {}}], http.client.IncompleteRead(b""), STOPPED
    )
    begin = far._open

    def then(path: str, body: bytes | None) -> Any:
        if body is None and len(far.pops) == 3:
            signal.raise_signal(signal.SIGTERM)
        elif body is None and len(far.pops) == 1:
            far.answers["train.stop"] = {"code": 100205}
        return begin(path, body)

    far._open = then  # type: ignore[method-assign]
    assert far.run() == 0
    assert far.asked == ["train.start", *["train.stop"] * 3]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ValueError("no JSON"), 100201),
        (http.client.BadStatusLine("x"), 100201),
        ({"code": "odd", "descr": "no"}, 100201),
        ({"code": 100204}, 100204),
        ([], 100201),
    ],
)
def test_a_start_that_fails_there_fails_here(answer: Any, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert Far({"train.start": answer}).run() == 1
    [report] = said(capsys)
    assert (report["type"], report["body"]["code"]) == ("error", code)


def test_messages_of_any_form_are_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    odd: list[Any] = [
        {"type": "error", "error": {"code": None}, "data": []},
        {"type": "error", "error": {"code": 100002}, "data": {"expand": 5}},
        {"type": "error", "error": {"code": 100913, "message": "x", "detail": {"exc_type": "KeyError"}}},
    ]
    assert Far({}, odd).run() == 1
    running, crash = said(capsys)
    assert running["body"] == {"status": "running"} and crash["body"]["code"] == 100913
