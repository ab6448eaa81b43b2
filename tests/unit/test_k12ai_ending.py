"""How a task ends: every way to the one terminal message (spec/k12ai.md, 4.1)."""

from __future__ import annotations

from typing import Any

import pytest

from runyard.model.message import Message
from runyard.model.state import State
from runyard.training.ending import Claim, End, claim_of, ending, told_once
from runyard.training.task import Task, told

CRASH = {
    "status": "crash",
    "message": "'lr'",
    "detail": {"exc_type": "KeyError", "exc_text": "'lr'", "traceback": [{"filename": "t.py", "linenum": 3}]},
}


def task(**changes: Any) -> Task:
    given: dict[str, Any] = {"op": "train.start", "user": "u", "uuid": "p", "service": "k12nlp", "app": "talentai"}
    return Task(job=7, owner="o", begun=1.0, **(given | changes))


def message(kind: str, body: dict[str, Any], at: float = 5.0, source: Any = "report") -> Message:
    return Message(9, 7, kind, at, body, source)


def end(state: State, code: int | None = None, **more: Any) -> End:
    return End(state=state, **({"started": True, "exit_code": code} | more))


@pytest.mark.parametrize(
    ("state", "facts", "code", "status"),
    [
        (State.SUCCEEDED, {"code": 0}, 100003, "finished"),
        (State.FAILED, {"code": 3}, 100299, "crash"),
        (State.FAILED, {"signal": 9}, 100299, "crash"),
        (State.FAILED, {"signal": 9, "reason": "it needed more memory than its limit"}, 100901, "crash"),
        (State.FAILED, {}, 100299, "crash"),
        (State.FAILED, {"started": False, "reason": "there is no program 'x'"}, 100202, "error"),
        (State.TIMED_OUT, {"signal": 15, "reason": "time limit exceeded"}, 100299, "crash"),
        (State.CANCELLED, {"signal": 15}, 100004, "stopped"),
    ],
)
def test_without_a_word_of_the_program(state: State, facts: dict[str, Any], code: int, status: str) -> None:
    found = ending(task(), end(state, **facts), None)
    assert (found.code, found.word) == (code, status)
    if code >= 100200:
        assert found.more["message"]


@pytest.mark.parametrize(("wish", "code"), [("stop", 100004), ("pause", 100005), ("rob", 100006)])
def test_a_wish_counts_however_the_process_ended(wish: str, code: int) -> None:
    wished = task(wanted=wish, wanted_at=10.0)
    late = claim_of(message("error", CRASH, at=11.0))
    for facts in (end(State.CANCELLED, signal=15), end(State.SUCCEEDED, 0), end(State.FAILED, 1)):
        assert ending(wished, facts, None).code == code
        assert ending(wished, facts, late).code == code


def test_what_came_before_the_wish_counts() -> None:
    early = claim_of(message("error", CRASH, at=9.0))
    assert ending(task(wanted="stop", wanted_at=10.0), end(State.CANCELLED, signal=15), early).code == 100913
    done = claim_of(message("status", {"status": "finished"}, at=9.0))
    assert ending(task(wanted="stop", wanted_at=10.0), end(State.CANCELLED, signal=15), done).code == 100003


def test_a_job_cancelled_by_another_door_was_stopped() -> None:
    said = claim_of(message("error", CRASH))
    assert ending(task(), end(State.CANCELLED, signal=15), said).code == 100004


def test_a_time_limit_is_nobodys_wish() -> None:
    said = claim_of(message("status", {"status": "stopped"}))
    facts = end(State.TIMED_OUT, signal=15, reason="time limit exceeded")
    assert ending(task(), facts, said).code == 100299
    assert ending(task(), facts, claim_of(message("error", CRASH))).code == 100913


def test_the_program_knows_best_why_it_failed() -> None:
    found = ending(task(), end(State.FAILED, 1), claim_of(message("error", CRASH)))
    assert (found.code, found.word, found.more["message"]) == (100913, "crash", "'lr'")
    assert found.more["detail"]["traceback"] == [{"filename": "t.py", "linenum": 3, "funcname": "", "source": ""}]
    own = {"status": "error", "code": 100212, "message": "no such dataset"}
    assert ending(task(), end(State.FAILED, 1), claim_of(message("error", own))).code == 100212
    assert ending(task(), end(State.SUCCEEDED, 0), claim_of(message("error", own))).code == 100212


def test_finished_carries_what_the_program_knows() -> None:
    body = {"status": "finished", "uptime": 4, "memstat": {"app_cpu_memory_usage_MB": 5.0}}
    found = ending(task(), end(State.SUCCEEDED, 0), claim_of(message("status", body)))
    assert found.code == 100003 and found.more == {"uptime": 4, "memstat": {"app_cpu_memory_usage_MB": 5.0}}


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("status", {"status": "finished"}, 100003),
        ("status", {"status": "finish"}, 100003),
        ("error", {"expand": {"status": "finished"}}, 100003),
        ("status", {"status": "stopped"}, 100004),
        ("error", {"status": "crash", "err_type": "KeyError", "err_text": "'a'"}, 100913),
        ("error", {"expand": {"status": "crash", "errinfo": {"err_type": "ValueError", "err_text": ""}}}, 999999),
        ("error", {"expand": {"status": "error", "errinfo": {"err_code": 100302, "err_text": "x"}}}, 100302),
        ("error", {"code": 100906, "message": "x"}, 100906),
        ("error", {"message": "only a text"}, 100299),
        ("error", {"status": "crash", "code": True, "exc_type": "IndexError"}, 100911),
        ("error", {"status": "crash", "code": 5}, 100299),
        ("status", {"status": "running"}, None),
        ("error", {"status": "warning", "message": "x"}, None),
        ("error", {"code": 100002}, None),
        ("status", {"status": "epoch 3"}, None),
        ("error", {}, None),
        ("metrics", {"status": "finished"}, None),
        ("log", {"status": "crash"}, None),
    ],
)
def test_what_is_a_claim(kind: str, body: dict[str, Any], code: int | None) -> None:
    found = claim_of(message(kind, body))
    assert (None if found is None else found.code) == code


def test_what_the_server_tells_is_no_claim() -> None:
    kind, body = told(task(), 100913, "crash", message="x", uptime=0, detail={})
    assert kind == "error" and body["uptime"] == 0 and "detail" not in body
    assert claim_of(message(kind, body, source="server")) is None
    # The collector's own message about a traceback is one: the program has said it, if only on stderr.
    assert isinstance(claim_of(message("error", CRASH, source="server")), Claim)


def test_a_page_says_once_how_a_task_goes() -> None:
    def tell(code: int, **more: Any) -> Message:
        return message(*told(task(), code, **more), source="server")

    running, finished = message("status", {"status": "running"}), message("status", {"status": "finished"})
    crash, epoch = message("error", CRASH), message("status", {"status": "epoch 3"})
    assert told_once([tell(100001), tell(100002), running, epoch, finished, tell(100003)]) == [
        *(tell(100001), tell(100002), epoch, tell(100003))
    ]
    # What the server does not tell, or tells otherwise.
    assert told_once([running, finished]) == [running, finished]
    assert told_once([tell(100001), running, crash, tell(100004)]) == [tell(100001), running, crash, tell(100004)]
    assert told_once([crash, tell(100913)]) == [tell(100913)]
