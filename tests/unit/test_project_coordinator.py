"""The order of the steps, and how a project as a whole begins, goes on and ends (spec/tango.md 2.2 to 2.6)."""

from __future__ import annotations

import math

import pytest

from runyard.model.errors import Conflict
from runyard.model.state import State
from runyard.project.definition import Step
from runyard.project.state import Acquire, Advance, Denied, Halt, Phase, SubmitJob
from tests.project_rig import NO, Rig

A, B, C = "bms", "backbone_nas", "train"


def test_steps_follow_each_other_and_the_last_one_completes_the_project() -> None:
    rig = Rig(A, B, C)
    rig.begin()
    assert rig.phases == {A: "starting", B: "ready", C: "ready"}
    for container in (A, B, C):
        rig.through(container)
    assert rig.phase() is Phase.COMPLETED and rig.over == 1
    assert [call for call in rig.calls if call[0] == "start"] == [("start", A, 1), ("start", B, 1), ("start", C, 1)]


def test_a_failure_ends_the_project_and_the_next_start_goes_on_there() -> None:
    rig = Rig(A, B)
    rig.begin()
    rig.through(A)
    rig.start_reply(B)
    rig.report(B, "failed")
    assert rig.phase() is Phase.FAILED and rig.over == 1
    assert "backbone_nas failed" in rig.reason()
    rig.begin(2)
    assert rig.phases == {A: "completed", B: "starting"}
    rig.through(B)
    assert rig.phase() is Phase.COMPLETED
    # All of it was done: the next one is a new beginning.
    rig.begin(3)
    assert rig.phases == {A: "starting", B: "ready"}
    assert rig.count("start", A) == 2


def test_an_attempt_that_is_known_does_not_begin_twice() -> None:
    rig = Rig(A)
    rig.begin()
    rig.begin()
    assert rig.count("start", A) == 1


def test_a_manual_project_waits_before_each_step() -> None:
    rig = Rig(A, B, C, project_type="manual")
    rig.begin()
    rig.through(A)
    assert rig.phases == {A: "completed", B: "ready", C: "ready"}
    assert rig.coordinator.waiting_for() == [(B, "a person must start it: runyard project advance")]
    with pytest.raises(Conflict, match="train is ready"):
        rig.do(Advance(container=C))
    rig.do(Advance())
    with pytest.raises(Conflict, match="nothing waits for a person: backbone_nas"):
        rig.do(Advance())
    rig.through(B)
    rig.do(Advance(container=C))
    rig.through(C)
    assert rig.phase() is Phase.COMPLETED
    with pytest.raises(Conflict, match="start it first"):
        rig.do(Advance())


def test_a_step_can_be_manual_in_an_automatic_project() -> None:
    rig = Rig(A, Step(container=B, manual=True))
    rig.begin()
    rig.through(A)
    assert rig.phase(B) is Phase.READY
    rig.do(Advance(container=B))
    assert rig.phase(B) is Phase.STARTING


def test_a_person_confirms_what_no_member_does() -> None:
    rig = Rig("user_edit", C)
    rig.begin()
    assert rig.phase("user_edit") is Phase.RUNNING
    assert "confirmation" in rig.coordinator.waiting_for()[0][1]
    rig.crash()
    rig.do(Advance())
    assert rig.phases == {"user_edit": "completed", C: "starting"}


def test_at_most_one_step_is_at_work_unless_more_may_be() -> None:
    forked = [Step(container=A), Step(container=B, after=[]), Step(container=C, after=[A, B])]
    one = Rig(*forked)
    one.begin()
    assert one.phases == {A: "starting", B: "ready", C: "ready"}
    two = Rig(*forked, parallel=2)
    two.begin()
    assert two.phases == {A: "starting", B: "starting", C: "ready"}
    two.through(B)
    assert two.phase(C) is Phase.READY
    two.through(A)
    assert two.phase(C) is Phase.STARTING


def test_conditions_choose_among_alternatives() -> None:
    steps = [
        Step(container=A),
        Step(container=B, when={"nas_type": "bb_nas"}),
        Step(container="neck_nas", when={"nas_type": ["neck_nas"]}, after=[A]),
        Step(container=C, after=[B, "neck_nas"]),
    ]
    rig = Rig(*steps, nas_type="neck_nas")
    rig.begin()
    rig.through(A)
    rig.through("neck_nas")
    assert rig.phases == {A: "completed", B: "skipped", "neck_nas": "completed", C: "starting"}


def test_an_optional_step_may_fail() -> None:
    rig = Rig(Step(container=A, optional=True), B)
    rig.begin()
    rig.start_reply(A, NO)
    assert rig.phases == {A: "skipped", B: "starting"}
    assert "optional, and failed: refused" in rig.reason(A)


def test_a_failed_step_is_tried_again_as_often_as_wanted() -> None:
    rig = Rig(Step(container=A, retries=2))
    rig.begin()
    for run in (1, 2, 3):
        assert rig.run(A) == run
        rig.start_reply(A)
        rig.report(A, "failed")
    assert rig.phase() is Phase.FAILED
    assert rig.count("start", A) == 3


def test_a_stop_reaches_the_member_before_the_project_ends() -> None:
    rig = Rig(A, B)
    rig.begin()
    rig.start_reply(A)
    rig.do(Halt(reason="stopped by request"))
    assert rig.phase() is Phase.STOPPING and rig.over == 0
    rig.stop_reply(A)
    rig.report(A, "stopped")
    assert rig.phases == {A: "stopped", B: "ready"}
    assert rig.phase() is Phase.STOPPED and rig.over == 1
    assert rig.reason() == "stopped by request"
    rig.begin(2)
    assert rig.phase(A) is Phase.STARTING


def test_a_stop_before_anything_began_ends_at_once() -> None:
    rig = Rig(A, grant=False)
    rig.begin()
    rig.do(Halt(reason="stopped by request"))
    assert rig.phase() is Phase.STOPPED and rig.over == 1
    assert rig.calls == []


def test_the_time_limit_of_a_project() -> None:
    rig = Rig(A, time_limit="10s")
    rig.begin()
    rig.start_reply(A)
    rig.now += 10
    rig.tick()
    assert rig.phase(A) is Phase.STOPPING
    rig.stop_reply(A)
    rig.report(A, "stopped")
    assert rig.phase() is Phase.FAILED and rig.state.timed_out


def test_a_member_that_stops_by_itself_stops_the_project() -> None:
    rig = Rig(A, B)
    rig.begin()
    rig.start_reply(A)
    rig.report(A, "stopped")
    assert rig.phase() is Phase.STOPPED
    assert "has stopped its task" in rig.reason()


def test_a_step_waits_for_its_member_and_fails_if_that_can_never_come() -> None:
    rig = Rig(A, B, grant=False)
    rig.begin()
    assert rig.phase(A) is Phase.WAITING and rig.calls == []
    rig.crash()
    assert sum(isinstance(effect, Acquire) for effect in rig.take()) == 2
    rig.do(Denied(container=A, run=1, reason="it needs job x, which failed"))
    assert rig.phase() is Phase.FAILED


# Local steps ------------------------------------------------------------------------------------------------------

LOCAL = Step(container=A, command=["true"])


def _submitted(rig: Rig, job: int = 7) -> None:
    from runyard.project.state import JobTaken

    assert any(isinstance(effect, SubmitJob) for effect in rig.take())
    rig.do(JobTaken(container=A, run=rig.run(A), job=job))


def test_a_local_job_is_a_member() -> None:
    rig = Rig(LOCAL, B)
    rig.begin()
    _submitted(rig)
    assert rig.phase(A) is Phase.STARTED
    rig.job(A, State.RUNNING)
    assert rig.phase(A) is Phase.RUNNING
    rig.job(A, State.SUCCEEDED)
    assert rig.phases == {A: "completed", B: "starting"}
    assert rig.count("start", A) == rig.count("status_request", A) == 0


@pytest.mark.parametrize(
    ("state", "phase"),
    [(State.FAILED, Phase.FAILED), (State.TIMED_OUT, Phase.FAILED), (State.CANCELLED, Phase.STOPPED)],
)
def test_how_a_local_job_ends_is_how_the_step_ends(state: State, phase: Phase) -> None:
    rig = Rig(LOCAL)
    rig.begin()
    _submitted(rig)
    rig.job(A, state, "exit code 3")
    assert rig.phase(A) is phase and rig.phase() is phase


def test_the_job_of_a_local_step_is_submitted_again_only_if_it_was_not() -> None:
    rig = Rig(LOCAL)
    rig.begin()
    rig.take()
    rig.crash()
    _submitted(rig)
    rig.take()
    rig.crash()
    assert not any(isinstance(effect, SubmitJob) for effect in rig.take())
    rig.job(A, State.SUCCEEDED)
    assert rig.phase() is Phase.COMPLETED


@pytest.mark.parametrize("word", ["running", "success", "failed", "stopped"])
def test_what_is_reported_of_a_local_step_does_not_end_it(word: str) -> None:
    rig = Rig(LOCAL, B)
    rig.begin()
    _submitted(rig)
    rig.job(A, State.RUNNING)
    rig.report(A, word)
    # Nothing is due: its job is not asked, and not taken for a service that stays up.
    assert rig.coordinator.next_wakeup == math.inf
    assert rig.phases == {A: "running", B: "ready"}
    rig.job(A, State.SUCCEEDED)
    assert rig.phases == {A: "completed", B: "starting"}


def test_a_service_that_stays_up_is_a_success_and_goes_on() -> None:
    service = Step(container=A, job={"command": ["serve"], "lifecycle": "service"}, running_is_done=5)
    rig = Rig(service)
    rig.begin()
    _submitted(rig)
    rig.job(A, State.RUNNING)
    rig.tick()
    assert rig.phase() is Phase.COMPLETED
    rig.begin(2)
    (submit,) = (effect for effect in rig.take() if isinstance(effect, SubmitJob))
    # The one of before has to go first.
    assert submit.previous == 7


def test_stopping_a_local_step_before_its_job_is_there() -> None:
    from runyard.project.state import CancelJob, JobTaken

    rig = Rig(LOCAL)
    rig.begin()
    rig.do(Halt(reason="stopped by request"))
    rig.do(JobTaken(container=A, run=1, job=9))
    assert any(isinstance(effect, CancelJob) and effect.job == 9 for effect in rig.take())
    rig.job(A, State.CANCELLED)
    assert rig.phase() is Phase.STOPPED
