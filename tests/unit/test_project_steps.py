"""One step and its member: what every reply, beat, report and silence leads to (spec/tango.md 1.8, 1.9, 2.1)."""

from __future__ import annotations

import math

import pytest

from runyard.project.definition import Step
from runyard.project.state import Halt, Phase
from runyard.project.steps import Timing
from runyard.project.wire import Kind, MemberState, Reply
from tests.project_rig import NO, SILENT, UNREACHABLE, YES, Rig

READY, STARTED, RUNNING = MemberState.READY, MemberState.STARTED, MemberState.RUNNING
STOPPED, FAILED, COMPLETED = MemberState.STOPPED, MemberState.FAILED, MemberState.COMPLETED
A, B = "bms", "train"
CODE_GEN = "code_gen"


def started(*steps: str | Step, **fields: object) -> Rig:
    rig = Rig(*steps or (A, B), **fields)  # type: ignore[arg-type]
    rig.begin()
    rig.start_reply(rig.project.steps[0].container)
    return rig


def test_the_diagram() -> None:
    rig = started()
    assert rig.phase(A) is Phase.STARTED
    rig.beat(A, STARTED)
    rig.beat(A, RUNNING)
    assert rig.phase(A) is Phase.RUNNING
    rig.beat(A, STARTED)
    assert rig.phase(A) is Phase.RUNNING
    rig.beat(A, COMPLETED)
    assert rig.phases == {A: "completed", B: "starting"}


def test_the_heartbeat_comes_every_other_second_and_never_twice_at_once() -> None:
    rig = started()
    first = rig.now
    rig.tick()
    assert rig.now == first + 2 and rig.count("status_request", A) == 1
    # No answer yet: nothing more is asked.
    assert rig.coordinator.next_wakeup == math.inf


@pytest.mark.parametrize(("said", "phase"), [(FAILED, Phase.FAILED), (STOPPED, Phase.STOPPED)])
def test_what_ends_a_step(said: MemberState, phase: Phase) -> None:
    rig = started()
    rig.beat(A, said)
    assert rig.phase(A) is phase
    assert rig.over == 1


# start ------------------------------------------------------------------------------------------------------------


def test_a_report_before_the_start_reply_counts() -> None:
    rig = Rig(A, B)
    rig.begin()
    rig.report(A)
    assert rig.phases == {A: "completed", B: "starting"}
    rig.start_reply(A, run=1)
    assert rig.phases == {A: "completed", B: "starting"}
    assert rig.count("start", B) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (NO, "refused: 'error'"),
        (UNREACHABLE, "unreachable"),
        (Reply(Kind.CRASHED, text="HTTP 500"), "refused: HTTP 500"),
        (Reply(Kind.NO_OPERATION, text="HTTP 404"), "does not understand start"),
        (Reply(Kind.EMPTY), "does not understand start"),
    ],
)
def test_a_start_that_failed_for_certain(reply: Reply, reason: str) -> None:
    rig = Rig(A)
    rig.begin()
    rig.start_reply(A, reply)
    assert rig.phase() is Phase.FAILED
    assert reason in rig.reason(A)


def test_an_unreachable_member_is_called_again_if_wanted() -> None:
    rig = Rig(Step(container=A, start_retries=1))
    rig.begin()
    rig.start_reply(A, UNREACHABLE)
    assert "can't be reached" in rig.coordinator.waiting_for()[0][1]
    rig.tick()
    assert rig.count("start", A) == 2
    rig.start_reply(A, UNREACHABLE)
    assert rig.phase() is Phase.FAILED


@pytest.mark.parametrize("reply", [SILENT, Reply(Kind.GARBLED, text="'<html>'"), Reply(Kind.NO, already=True)])
def test_a_start_that_may_have_been_heard_is_found_out(reply: Reply) -> None:
    rig = Rig(A)
    rig.begin()
    rig.start_reply(A, reply)
    assert rig.phase(A) is Phase.STARTING
    rig.beat(A, RUNNING)
    assert rig.phase(A) is Phase.RUNNING
    rig.beat(A, COMPLETED)
    assert rig.phase() is Phase.COMPLETED
    assert rig.count("start", A) == 1


def test_a_start_that_was_not_heard_fails_or_is_called_again() -> None:
    rig = Rig(Step(container=A, start_retries=1))
    rig.begin()
    rig.start_reply(A, SILENT)
    rig.beat(A, READY)
    assert rig.count("start", A) == 1
    rig.beat(A, READY)
    assert rig.count("start", A) == 2
    rig.start_reply(A, SILENT)
    rig.beat(A, READY)
    rig.beat(A, READY)
    assert rig.phase() is Phase.FAILED
    assert rig.count("start", A) == 2


# Crashes ----------------------------------------------------------------------------------------------------------


def test_after_a_crash_a_step_that_began_is_not_started_again() -> None:
    rig = Rig(A, B)
    rig.begin()
    rig.crash()
    rig.beat(A, STARTED)
    assert rig.phase(A) is Phase.STARTED
    rig.crash()
    rig.report(A)
    assert rig.count("start", A) == 1 and rig.phase(B) is Phase.STARTING


def test_after_a_crash_a_step_that_did_not_begin_is_started() -> None:
    rig = Rig(A)
    rig.begin()
    rig.crash()
    rig.beat(A, READY)
    assert rig.count("start", A) == 1
    rig.beat(A, READY)
    assert rig.count("start", A) == 2
    # It may be refused because the first one was heard after all.
    rig.start_reply(A, NO)
    rig.beat(A, RUNNING)
    assert rig.phase(A) is Phase.RUNNING


def test_after_a_crash_an_old_verdict_is_not_taken_for_a_new_one() -> None:
    rig = started(A)
    rig.report(A, "failed")
    rig.begin(2)
    rig.crash()
    rig.beat(A, COMPLETED)
    assert rig.phase(A) is Phase.STARTING
    rig.beat(A, COMPLETED)
    assert rig.phase() is Phase.FAILED
    assert "lost_state" in rig.reason(A)


def test_after_a_crash_a_stop_is_told_again() -> None:
    rig = started(A)
    rig.do(Halt(reason="stopped by request"))
    rig.crash()
    assert rig.count("stop", A) == 2
    rig.stop_reply(A, UNREACHABLE)
    assert rig.phase() is Phase.STOPPED


# Beats ------------------------------------------------------------------------------------------------------------


def test_missed_beats_lose_a_member_and_an_answer_clears_them() -> None:
    rig = started(A)
    for _ in range(4):
        rig.beat(A, SILENT)
    assert "can't be reached" in rig.coordinator.waiting_for()[0][1]
    rig.beat(A, RUNNING)
    for _ in range(5):
        assert rig.phase(A) is Phase.RUNNING
        rig.beat(A, UNREACHABLE)
    assert rig.phase() is Phase.FAILED
    assert rig.reason(A).startswith("lost: 5 beats")


def test_a_late_success_of_a_lost_member_is_remembered_for_the_next_start() -> None:
    rig = started(A, B)
    for _ in range(5):
        rig.beat(A, SILENT)
    rig.report(A)
    assert rig.phase(A) is Phase.COMPLETED and rig.phase() is Phase.FAILED
    rig.begin(2)
    assert rig.phases == {A: "completed", B: "starting"}


def test_missed_beats_without_a_bound() -> None:
    rig = started(A, max_missed_beats=0)
    for _ in range(100):
        rig.beat(A, SILENT)
    assert rig.phase(A) is Phase.STARTED


def test_an_answer_that_is_none_changes_nothing() -> None:
    rig = started(A)
    rig.beat(A, RUNNING)
    for _ in range(50):
        rig.beat(A, Reply(Kind.GARBLED, text="'<html>'"))
    assert rig.phase(A) is Phase.RUNNING


def test_a_member_that_forgot_its_task_has_failed_unless_a_report_comes() -> None:
    rig = started(A, B)
    rig.beat(A, RUNNING)
    rig.beat(A, READY)
    rig.beat(A, READY)
    assert rig.phase(A) is Phase.RUNNING
    rig.report(A)
    assert rig.phases == {A: "completed", B: "starting"}
    rig.start_reply(B)
    for _ in range(3):
        rig.beat(B, READY)
    assert rig.phase() is Phase.FAILED
    assert "lost_state" in rig.reason(B)


def test_completed_from_a_member_that_always_says_so_waits_for_its_report() -> None:
    rig = started(CODE_GEN)
    rig.beat(CODE_GEN, COMPLETED)
    rig.beat(CODE_GEN, COMPLETED)
    assert rig.phase(CODE_GEN) is Phase.STARTED
    rig.report(CODE_GEN, "failed")
    assert rig.phase() is Phase.FAILED
    again = started(CODE_GEN)
    for _ in range(3):
        again.beat(CODE_GEN, COMPLETED)
    assert again.phase() is Phase.COMPLETED


def test_a_deployment_that_runs_stably_is_done() -> None:
    rig = started("cloud_deploy")
    rig.beat("cloud_deploy", RUNNING)
    since = rig.now
    while rig.phase() is Phase.RUNNING:
        rig.beat("cloud_deploy", RUNNING)
    assert rig.phase() is Phase.COMPLETED
    assert 60 <= rig.now - since <= 64


def test_the_time_limit_of_a_step() -> None:
    rig = started(Step(container=A, time_limit=3))
    rig.now += 3
    rig.tick()
    assert rig.count("stop", A) == 1
    rig.stop_reply(A)
    rig.beat(A, STOPPED)
    assert rig.phase() is Phase.FAILED
    assert "time limit" in rig.reason(A)


def test_a_step_that_took_too_long_has_failed_and_is_tried_again() -> None:
    rig = started(Step(container=A, time_limit=3, retries=1))
    for run in (1, 2):
        assert rig.run(A) == run
        rig.now += 3
        rig.tick()
        rig.stop_reply(A)
        rig.beat(A, STOPPED)
        if run == 1:
            rig.start_reply(A)
    assert rig.phase() is Phase.FAILED and rig.count("start", A) == 2


# stop -------------------------------------------------------------------------------------------------------------


def stopping(**fields: object) -> Rig:
    rig = started(A, **fields)
    rig.do(Halt(reason="stopped by request"))
    return rig


@pytest.mark.parametrize("said", [STOPPED, COMPLETED, READY, FAILED])
def test_a_stop_is_confirmed_by_what_the_member_says(said: MemberState) -> None:
    rig = stopping()
    rig.stop_reply(A)
    rig.beat(A, RUNNING)
    assert rig.phase(A) is Phase.STOPPING
    rig.beat(A, said)
    assert rig.phase() is Phase.STOPPED


def test_a_member_that_ends_itself_on_stop_is_stopped() -> None:
    rig = stopping()
    rig.stop_reply(A)
    rig.beat(A, UNREACHABLE)
    assert rig.phase() is Phase.STOPPED


@pytest.mark.parametrize("reply", [NO, SILENT, Reply(Kind.EMPTY), Reply(Kind.CRASHED)])
def test_a_stop_that_is_not_understood_has_an_end(reply: Reply) -> None:
    rig = stopping(timing=Timing(stop_grace=5.0))
    rig.stop_reply(A, reply)
    begun = rig.now
    while rig.phase(A) is Phase.STOPPING:
        rig.beat(A, RUNNING) if rig.coordinator.next_wakeup < begun + 5 else rig.tick()
    assert rig.phase() is Phase.STOPPED


def test_a_stop_during_start_waits_for_its_reply() -> None:
    rig = Rig(A)
    rig.begin()
    rig.do(Halt(reason="stopped by request"))
    assert rig.count("stop", A) == 0
    rig.start_reply(A, YES)
    assert rig.count("stop", A) == 1
    rig.stop_reply(A)
    rig.beat(A, STOPPED)
    assert rig.phase() is Phase.STOPPED
    refused = Rig(A)
    refused.begin()
    refused.do(Halt(reason="stopped by request"))
    refused.start_reply(A, NO)
    assert refused.phase() is Phase.STOPPED and refused.count("stop", A) == 0


# Reports ----------------------------------------------------------------------------------------------------------


def test_repeated_and_late_reports_change_nothing() -> None:
    rig = started()
    rig.report(A)
    rig.report(A)
    rig.report(A, "failed")
    assert rig.phases == {A: "completed", B: "starting"}
    assert rig.count("start", B) == 1
    rig.report(B)
    assert rig.over == 1
    rig.report(B, "failed")
    rig.report(A, "running")
    assert rig.phase() is Phase.COMPLETED and rig.over == 1


def test_a_report_of_a_step_that_is_not_its_turn_changes_nothing() -> None:
    rig = started()
    rig.report(B)
    assert rig.phases == {A: "started", B: "ready"}


def test_a_report_overrules_what_was_polled_while_nothing_followed_from_it() -> None:
    rig = started(A, B, project_type="manual")
    rig.beat(A, COMPLETED)
    assert rig.phase(A) is Phase.COMPLETED
    rig.report(A, "failed")
    assert rig.phase(A) is Phase.FAILED and rig.phase() is Phase.FAILED
    auto = started(A, B)
    auto.beat(A, COMPLETED)
    auto.report(A, "failed")
    assert auto.phases == {A: "completed", B: "starting"}


def test_reports_of_progress() -> None:
    rig = started(A)
    rig.report(A, "running")
    assert rig.phase(A) is Phase.RUNNING


def test_replies_of_an_earlier_run_change_nothing() -> None:
    rig = started(Step(container=A, retries=1))
    rig.report(A, "failed")
    assert rig.run(A) == 2
    rig.start_reply(A, NO, run=1)
    assert rig.phase(A) is Phase.STARTING
