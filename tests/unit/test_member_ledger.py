"""The rules of a member: the document's state diagram, and the order in which reports go out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.member.ledger import LIVE, MAX_ENDED, Entry, Ledger, Stop
from runyard.member.outbox import MAX_AGE, MAX_REPORTS, MAX_UPDATES, Message, Outbox
from runyard.member.reporter import Manager, Refused, judge, spelled
from runyard.project.wire import MemberState


def test_a_run_goes_through_the_diagram() -> None:
    ledger = Ledger()
    assert ledger.state("u", "7") == "ready" and ledger.stop("u", "7") == (Stop.UNKNOWN, None)
    entry = ledger.start("u", "7")
    assert entry is not None and ledger.state("u", "7") == "started"
    assert ledger.start("u", "7") is None and ledger.start("u", "8") is None, "it works for one at a time"
    assert ledger.running(entry) and ledger.state("u", "7") == "running"
    assert ledger.ended(entry, MemberState.COMPLETED) == "completed"
    assert ledger.stop("u", "7") == (Stop.OVER, entry) and ledger.state("u", "7") == "completed"
    again = ledger.start("u", "7")
    assert again is not None and again.run == 2


def test_a_task_that_is_stopped_has_stopped_whatever_comes_of_it() -> None:
    ledger = Ledger(concurrency=2)
    early, late = ledger.start("u", "1"), ledger.start("u", "2")
    assert early is not None and late is not None
    assert ledger.stop("u", "1") == (Stop.TELL, early) and ledger.stop("u", "1") == (Stop.OVER, early)
    assert not ledger.running(early), "it must not begin any more"
    assert ledger.ended(early, MemberState.COMPLETED) == "stopped"
    assert ledger.running(late) and ledger.stop("u", "2")[0] is Stop.TELL
    assert ledger.ended(late, MemberState.FAILED, "it was killed") == "stopped" and late.reason == ""


def test_what_was_at_work_in_an_earlier_life_has_failed() -> None:
    before = Ledger(concurrency=2)
    assert before.start("u", "1") is not None
    done = before.start("u", "2")
    assert done is not None
    before.ended(done, MemberState.COMPLETED)
    ledger = Ledger()
    (lost,) = ledger.restore(before.entries())
    assert (lost.project, lost.state, lost.reason) == ("1", "failed", "the member was restarted")
    assert ledger.state("u", "2") == "completed" and ledger.start("u", "1") is not None


def test_old_projects_are_forgotten_and_live_ones_never() -> None:
    ledger = Ledger(concurrency=2)
    assert ledger.start("u", "first") is not None
    for number in range(MAX_ENDED + 50):
        entry = ledger.start("u", str(number))
        assert entry is not None
        ledger.ended(entry, MemberState.COMPLETED)
    assert len(ledger.entries()) <= MAX_ENDED + 1
    assert ledger.state("u", "first") == "started" and ledger.state("u", "0") == "ready"


_CALLS = st.lists(
    st.tuples(st.sampled_from(["start", "stop", "running", "end", "fail"]), st.sampled_from("abc")), max_size=40
)


@given(_CALLS, st.integers(1, 3))
def test_any_order_of_calls_keeps_to_the_diagram(calls: list[tuple[str, str]], concurrency: int) -> None:
    ledger = Ledger(concurrency)
    begun: dict[str, int] = {}
    for what, project in calls:
        entry = ledger.find("u", project)
        live = entry is not None and entry.live
        if what == "start":
            others = [other for other in ledger.live() if other.project != project]
            new = ledger.start("u", project)
            assert (new is not None) == (not live and len(others) < concurrency)
            if new is not None:
                begun[project] = begun.get(project, 0) + 1
                assert new.run == begun[project]
        elif what == "stop":
            told = ledger.stop("u", project)[0]
            assert (told is Stop.UNKNOWN) == (entry is None)
        elif entry is not None and live:
            if what == "running":
                assert ledger.running(entry) != entry.stopping
            else:
                state = ledger.ended(entry, MemberState.COMPLETED if what == "end" else MemberState.FAILED)
                assert (state == "stopped") == entry.stopping and state not in LIVE
        assert len(ledger.live()) <= concurrency


def _report(number: int, at: float = 0.0, content: str | None = None) -> Message:
    return Message("u", str(number), "success", at, content)


@given(st.lists(st.booleans(), max_size=60))
def test_reports_keep_their_order_over_failures(takes: list[bool]) -> None:
    outbox, now, out = Outbox(), 0.0, []
    for number in range(20):
        outbox.put(_report(number))
    for taken in takes:
        message, now = outbox.next(now)
        while message is None and not math.isinf(now):
            message, now = outbox.next(now)
        if message is None:
            break
        if taken:
            out.append(int(message.project))
            outbox.delivered()
        else:
            outbox.failed(now)
    assert out == list(range(len(out)))


def test_a_manager_that_is_away_is_asked_less_and_less_often_and_for_a_day() -> None:
    outbox = Outbox(first=0.1, longest=15.0)
    outbox.put(_report(1))
    pauses = [outbox.failed(0.0) for _ in range(12)]
    assert pauses[:3] == [0.1, 0.2, 0.4] and pauses[-1] == 15.0
    assert outbox.next(1.0) == (None, 15.0)
    assert outbox.next(MAX_AGE + 1) == (None, math.inf) and len(outbox) == 0


def test_telemetry_gives_way_to_reports() -> None:
    outbox = Outbox()
    taken = sum(outbox.put(_report(number, content="{}")) for number in range(MAX_UPDATES + 5))
    assert taken == MAX_UPDATES and outbox.put(_report(0)) and len(outbox.reports()) == 1
    while outbox.put(_report(1)):
        pass
    assert len(outbox) == MAX_REPORTS


def test_updates_are_json_that_browsers_read() -> None:
    assert spelled({"loss": math.inf, "all": [math.nan, 1.5], "ok": (True, None)}) == (
        '{"loss": null, "all": [null, 1.5], "ok": [true, null]}'
    )
    with pytest.raises(TypeError):
        spelled({"what": object()})
    with pytest.raises(ValueError, match="at most"):
        spelled("x" * 70_000)


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'{"status":200}', None),
        (200, b"OK", None),
        (200, b"{broken", None),
        (200, b'{"a":' + b"[" * 4000, None),
        (200, b'{"status":"error","message":"who?"}', Refused),
        (404, b'{"status":"error"}', Refused),
        (400, b"", Refused),
        (301, b"", Refused),
        (429, b"", ConnectionError),
        (503, b"<html>", ConnectionError),
    ],
)
def test_what_a_managers_answer_means(status: int, body: bytes, outcome: Any) -> None:
    if outcome is None:
        judge(status, body)
    else:
        with pytest.raises(outcome):
            judge(status, body)


def test_a_url_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="URL"):
        Manager("projectmanager:8085", "bms")
    assert Entry("u", "1").live
