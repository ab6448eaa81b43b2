"""The life of a job: transitions, restarts, time-outs, stops, replicas, and what nodes say about it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from runyard.core.claim import Policy
from runyard.core.commands import SaveRun, SignalRun
from runyard.core.inputs import (
    Amend,
    Cancel,
    Delete,
    NewJob,
    NodeLost,
    NodeSynced,
    RestartJob,
    RunExited,
    RunStarted,
    SendSignal,
    Submit,
    Tick,
)
from runyard.core.record import Intent
from runyard.core.restart import restart_delay
from runyard.model.errors import Conflict, NotFound
from runyard.model.ids import RunKey
from runyard.model.job import JobSpec, Lifecycle, Resources, Restart, RestartPolicy, Stop
from runyard.model.node import Node
from runyard.model.state import TRANSITIONS, State
from tests.core_rig import Rig

# One run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "signal", "timed_out", "state", "reason"),
    [
        (0, None, False, State.SUCCEEDED, None),
        (3, None, False, State.FAILED, "exit code 3"),
        (None, 9, False, State.FAILED, "ended by SIGKILL"),
        (None, 15, True, State.TIMED_OUT, "time limit exceeded"),
        (0, None, True, State.TIMED_OUT, "time limit exceeded"),
        (None, None, False, State.FAILED, "nobody could observe how it ended"),
    ],
)
def test_how_a_run_ends_is_how_its_job_ends(
    code: int | None, signal: int | None, timed_out: bool, state: State, reason: str | None
) -> None:
    rig = Rig()
    job = rig.job()
    assert rig.state(job) is State.STARTING
    rig.up(job)
    assert rig.state(job) is State.RUNNING
    rig.exit(job, code, signal=signal, timed_out=timed_out)
    assert (rig.state(job), rig.reason(job)) == (state, reason)
    assert (rig.record(job).exit_code, rig.record(job).signal) == (code, signal)
    assert job not in rig.reactor.jobs
    assert rig.types(job) == [
        "job.submitted", "job.starting", "run.started", "job.running", "run.exited", f"job.{state}",
    ]  # fmt: skip
    assert rig.record(job).version == rig.events[-1].seq == rig.reactor.seq


def test_a_program_that_can_not_be_started_fails_with_the_agents_reason() -> None:
    rig = Rig()
    job = rig.job()
    rig.do(RunExited(run=rig.run(job), at=rig.now, reason="no such file: nope"))
    assert (rig.state(job), rig.reason(job)) == (State.FAILED, "no such file: nope")


def test_repeated_late_and_foreign_reports_change_nothing() -> None:
    rig = Rig()
    job = rig.job(restart=Restart(policy=RestartPolicy.ON_FAILURE, delay=0.0))
    first = rig.run(job)
    rig.up(job)
    rig.exit(job, 1)
    assert rig.run(job).attempt == 2
    before = rig.reactor.seq
    for event in (
        RunStarted(run=first, pid=1, at=rig.now),
        RunExited(run=first, at=rig.now, exit_code=0),
        RunExited(run=RunKey(job, 5, 1), at=rig.now, exit_code=0),
        RunExited(run=RunKey(99, 0, 1), at=rig.now, exit_code=0),
    ):
        assert rig.do(event) == []
    assert rig.reactor.seq == before
    rig.up(job)
    assert rig.do(RunStarted(run=rig.run(job), pid=1, at=rig.now)) == []


def test_every_event_keeps_to_the_table_of_transitions() -> None:
    rig = Rig()
    jobs = [rig.job(restart=Restart(policy=RestartPolicy.ON_FAILURE, max=1, delay=1.0)), rig.job(hold=True)]
    rig.up(jobs[0])
    rig.exit(jobs[0], 1)
    rig.wait(1)
    rig.do(RestartJob(job=jobs[0]))
    rig.exit(jobs[0], None, signal=15)
    rig.do(Cancel(job=jobs[0]))
    rig.exit(jobs[0], None, signal=15)
    rig.do(Cancel(job=jobs[1]))
    for job in jobs:
        state = State.PENDING
        for event in rig.events:
            if event.job == job and event.state is not None and event.state is not state:
                assert event.type == f"job.{event.state}" and event.state in TRANSITIONS[state]
                state = event.state
        assert state is State.CANCELLED


# Restarts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "success", "again"),
    [
        (RestartPolicy.NEVER, False, False),
        (RestartPolicy.NEVER, True, False),
        (RestartPolicy.ON_FAILURE, False, True),
        (RestartPolicy.ON_FAILURE, True, False),
        (RestartPolicy.ALWAYS, False, True),
        (RestartPolicy.ALWAYS, True, True),
    ],
)
def test_who_is_restarted(policy: RestartPolicy, success: bool, again: bool) -> None:
    plan = restart_delay(Restart(policy=policy), success=success, uptime=0.0, restarts=0)
    assert (plan is not None) is again


def test_waits_grow_up_to_the_cap_and_a_long_life_clears_them() -> None:
    rule = Restart(policy=RestartPolicy.ALWAYS, delay=2.0, backoff=3.0, max_delay=20.0, reset_after=60.0)
    waits, restarts = [], 0
    for _ in range(5):
        plan = restart_delay(rule, success=False, uptime=1.0, restarts=restarts)
        assert plan is not None
        waits.append(plan[0])
        restarts = plan[1]
    assert waits == [2.0, 6.0, 18.0, 20.0, 20.0]
    assert restart_delay(rule, success=False, uptime=60.0, restarts=5) == (2.0, 1)
    assert restart_delay(rule, success=False, uptime=1.0, restarts=10**6) == (20.0, 10**6 + 1)


def test_it_gives_up_after_as_many_restarts_in_a_row_as_allowed() -> None:
    rig = Rig()
    job = rig.job(restart=Restart(policy=RestartPolicy.ON_FAILURE, delay=1.0, max=2))
    for delay in (1.0, 2.0):
        rig.up(job)
        rig.exit(job, 1)
        assert (rig.state(job), rig.reason(job)) == (State.PENDING, "backoff")
        assert rig.reactor.next_wakeup == rig.now + delay
        rig.wait(delay - 0.1)
        assert rig.launched() == []
        rig.wait(0.1)
        assert rig.launched() == [rig.run(job)]
    rig.up(job)
    rig.exit(job, 1)
    assert (rig.state(job), rig.reason(job)) == (State.FAILED, "gave up after 2 restarts")
    assert rig.record(job).restarts == 2 and rig.run(job).attempt == 3


def test_a_run_that_was_up_long_enough_starts_the_count_anew() -> None:
    rig = Rig()
    job = rig.job(restart=Restart(policy=RestartPolicy.ON_FAILURE, delay=1.0, max=1, reset_after=10.0))
    for _ in range(4):
        rig.up(job)
        rig.wait(10)
        rig.exit(job, 1)
        rig.wait(1)
    assert rig.record(job).restarts == 4 and rig.state(job) is State.STARTING


def test_a_service_is_restarted_by_default_even_after_success() -> None:
    rig = Rig()
    job = rig.job(lifecycle=Lifecycle.SERVICE)
    rig.up(job)
    rig.exit(job, 0)
    rig.wait(1)
    assert rig.state(job) is State.STARTING and rig.run(job).attempt == 2


def test_each_attempt_is_saved_with_its_own_end() -> None:
    rig = Rig()
    job = rig.job(restart=Restart(policy=RestartPolicy.ON_FAILURE, delay=0.0))
    rig.up(job)
    rig.exit(job, 7)
    saved = {c.replica.attempt: c.replica for c in rig.out if isinstance(c, SaveRun)}
    assert (saved[1].exit_code, saved[1].ended_at, saved[2].exit_code, saved[2].state) == (
        7, rig.now, None, State.STARTING,
    )  # fmt: skip


# Stops --------------------------------------------------------------------------------------------------------------


def test_cancelling_what_runs_sends_its_own_signal_and_grace_and_waits_for_the_end() -> None:
    rig = Rig()
    job = rig.job(stop=Stop(signal="SIGINT", grace=3.0))
    rig.up(job)
    rig.do(Cancel(job=job))
    assert rig.stopped() == [(rig.run(job), 2, 3.0)]
    assert rig.state(job) is State.STOPPING
    assert rig.do(Cancel(job=job)) == []
    rig.exit(job, 0)
    assert rig.state(job) is State.CANCELLED


@pytest.mark.parametrize("fields", [{"hold": True}, {"resources": Resources(cores_per_task=4)}])
def test_cancelling_what_waits_ends_it_at_once(fields: dict[str, Any]) -> None:
    rig = Rig()
    rig.job(resources=Resources(cores_per_task=1))
    job = rig.job(**fields)
    assert rig.state(job) is State.PENDING
    rig.do(Cancel(job=job))
    assert rig.state(job) is State.CANCELLED and rig.stopped() == []


def test_cancelling_during_the_wait_for_a_restart() -> None:
    rig = Rig()
    job = rig.job(restart=Restart(policy=RestartPolicy.ALWAYS, delay=5.0))
    rig.exit(job, 1)
    rig.do(Cancel(job=job))
    assert rig.state(job) is State.CANCELLED
    rig.wait(10)
    assert rig.launched() == []


def test_restarting_what_runs_stops_it_first_and_clears_the_count() -> None:
    rig = Rig()
    job = rig.job()
    rig.up(job)
    rig.do(RestartJob(job=job))
    assert rig.record(job).intent is Intent.RESTART and len(rig.stopped()) == 1
    rig.exit(job, None, signal=15)
    assert rig.state(job) is State.STARTING and rig.run(job).attempt == 2
    rig.up(job)
    rig.exit(job, 0)
    assert rig.state(job) is State.SUCCEEDED


def test_restarting_what_has_ended() -> None:
    rig = Rig()
    job = rig.job()
    rig.exit(job, 1)
    rig.do(RestartJob(job=job, record=rig.record(job)))
    assert rig.state(job) is State.STARTING and rig.run(job).attempt == 2
    assert rig.record(job).exit_code is None and rig.record(job).ended_at is None
    rig.exit(job, 0)
    assert rig.state(job) is State.SUCCEEDED


def test_a_cancel_wins_over_a_restart_and_is_an_event() -> None:
    rig = Rig()
    job = rig.job()
    rig.up(job)
    rig.do(RestartJob(job=job))
    rig.do(Cancel(job=job))
    assert rig.data(job, "job.stopping") == [{"reason": "restart"}, {"reason": "cancel"}]
    with pytest.raises(Conflict, match="being cancelled"):
        rig.do(RestartJob(job=job))
    rig.exit(job, None, signal=15)
    assert rig.state(job) is State.CANCELLED


def test_signals_go_to_what_runs_only() -> None:
    rig = Rig()
    job = rig.job(replicas=2)
    with pytest.raises(Conflict, match="nothing of the job is running"):
        rig.do(SendSignal(job=job, signal=10))
    rig.up(job, 1)
    sent = [c for c in rig.do(SendSignal(job=job, signal=10)) if isinstance(c, SignalRun)]
    assert [(c.run, c.node, c.signal) for c in sent] == [(rig.run(job, 1), "n", 10)]


@pytest.mark.parametrize(
    "event", [Cancel(job=7), RestartJob(job=7), SendSignal(job=7, signal=1), Amend(job=7, hold=True)]
)
def test_what_is_not_there_is_not_found(event: Cancel) -> None:
    rig = Rig()
    with pytest.raises(NotFound, match="7"):
        rig.do(event)


def test_only_an_ended_job_can_be_deleted() -> None:
    rig = Rig()
    job = rig.job()
    with pytest.raises(Conflict, match="cancel it first"):
        rig.do(Delete(job=job))
    rig.exit(job)
    rig.do(Delete(job=job))
    assert rig.types(job)[-1] == "job.deleted"


# Holds, priorities, resources ---------------------------------------------------------------------------------------


def test_a_held_job_waits_until_it_is_released() -> None:
    rig = Rig()
    job = rig.job(hold=True)
    assert (rig.state(job), rig.reason(job)) == (State.PENDING, "held")
    rig.do(Amend(job=job, hold=False))
    assert rig.launched() == [RunKey(job, 0, 1)]


def test_holding_takes_a_job_out_of_the_queue() -> None:
    rig = Rig()
    running = rig.job(resources=Resources(cores_per_task=4))
    waiting = rig.job(resources=Resources(cores_per_task=4))
    assert rig.reason(waiting) == "resources"
    rig.do(Amend(job=waiting, hold=True))
    assert rig.reason(waiting) == "held"
    rig.exit(running)
    assert rig.launched() == []
    rig.do(Amend(job=waiting, hold=False))
    assert rig.launched() == [rig.run(waiting)]


def test_a_changed_priority_reorders_the_queue() -> None:
    rig = Rig()
    need = Resources(cores_per_task=4)
    running, first, second = (rig.job(resources=need) for _ in range(3))
    rig.do(Amend(job=second, priority=1))
    rig.exit(running)
    assert rig.launched() == [rig.run(second)]
    rig.exit(second)
    assert rig.launched() == [rig.run(first)]
    assert rig.data(second, "job.amended") == [{"priority": 1}]
    assert rig.do(Amend(job=first, priority=0)) == []


def test_waiting_for_resources_is_an_event_only_for_those_that_stay() -> None:
    rig = Rig()
    need = Resources(cores_per_task=4)
    first, second = rig.job(resources=need), rig.job(resources=need)
    assert rig.types(first) == ["job.submitted", "job.starting"]
    assert rig.types(second) == ["job.submitted", "job.pending"]
    assert rig.data(second, "job.pending") == [{"reason": "resources"}]


def test_what_can_never_fit_fails_at_once_with_the_reason() -> None:
    rig = Rig()
    job = rig.job(resources=Resources(cores_per_task=5))
    assert rig.state(job) is State.FAILED
    assert rig.reason(job) == "can never run here: needs 5 cores, the largest node has 4"


def test_more_light_runs_than_a_node_may_have_wait_for_a_slot() -> None:
    rig = Rig(policy=Policy(max_running=2))
    jobs = [rig.job() for _ in range(3)]
    assert [rig.state(job) for job in jobs] == [State.STARTING, State.STARTING, State.PENDING]
    rig.exit(jobs[0])
    assert rig.launched() == [rig.run(jobs[2])]


# Replicas -----------------------------------------------------------------------------------------------------------


def test_a_job_ends_when_all_replicas_have_and_names_the_first_that_failed() -> None:
    rig = Rig()
    job = rig.job(replicas=3)
    rig.exit(job, 0, index=0)
    rig.exit(job, 4, index=2)
    assert rig.state(job) is State.STARTING
    rig.up(job, 1)
    assert rig.state(job) is State.RUNNING
    rig.exit(job, 0, index=1)
    assert rig.state(job) is State.FAILED
    assert rig.reason(job) == "1 of 3 replicas failed; replica 2: exit code 4"
    assert rig.record(job).exit_code == 4


def test_replicas_restart_each_for_itself() -> None:
    rig = Rig()
    job = rig.job(replicas=2, lifecycle=Lifecycle.SERVICE)
    for index in range(2):
        rig.up(job, index)
    rig.exit(job, 1, index=1)
    assert rig.state(job) is State.RUNNING
    rig.wait(1)
    assert rig.launched() == [RunKey(job, 1, 2)]
    assert rig.run(job, 0).attempt == 1


def _life_of_replicas(count: int, crash: bool) -> float:
    rig = Rig(policy=Policy(max_running=count // 2))
    spec = JobSpec(
        command=["x"],
        replicas=count,
        restart=Restart(policy=RestartPolicy.ON_FAILURE, delay=1.0, max=1) if crash else None,
    )
    new = 1
    begin = time.process_time()
    reactor = rig.reactor
    reactor.handle(Submit(jobs=[NewJob(id=new, spec=spec, kind="batch", origin="", owner="")]), rig.now)
    record = reactor.jobs[new]
    now = rig.now
    while new in reactor.jobs:
        now += 1.0
        reactor.handle(Tick(), now)
        for index, replica in enumerate(record.replicas):
            if replica.state is State.STARTING:
                now += 0.0001
                run = RunKey(new, index, replica.attempt)
                reactor.handle(RunStarted(run=run, pid=1, at=now), now)
                code = 1 if crash and replica.attempt == 1 else 0
                reactor.handle(RunExited(run=run, at=now, exit_code=code), now)
    assert record.state is State.SUCCEEDED
    return time.process_time() - begin


@pytest.mark.parametrize("crash", [False, True])
def test_ten_thousand_replicas_take_linear_time(crash: bool) -> None:
    small = min(_life_of_replicas(1250, crash) for _ in range(3))
    # Eight times as many; quadratic would be 64 times.
    assert min(_life_of_replicas(10_000, crash) for _ in range(2)) < 30 * small


# Nodes --------------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_while_its_node_is_away() -> None:
    rig = Rig()
    job = rig.job()
    rig.up(job)
    rig.do(NodeLost(node="n"))
    assert rig.state(job) is State.RUNNING
    waiting = rig.job()
    assert rig.reason(waiting) == "resources"
    rig.sync(rig.run(job))
    assert rig.state(job) is State.RUNNING and rig.launched() == [rig.run(waiting)]
    assert rig.do(NodeLost(node="unknown")) == []


def test_a_run_that_the_agent_has_not_heard_of_is_launched_again() -> None:
    rig = Rig()
    job = rig.job()
    rig.sync()
    assert rig.launched() == [RunKey(job, 0, 1)]
    rig.sync(rig.run(job))
    assert rig.launched() == [] and rig.state(job) is State.STARTING


def test_a_run_that_was_up_and_is_gone_has_ended_unobserved() -> None:
    rig = Rig()
    job = rig.job()
    rig.up(job)
    rig.sync()
    assert rig.reason(job) == "nobody could observe how it ended: the agent no longer knows it"


@pytest.mark.parametrize("started", [False, True])
def test_after_a_reboot_nothing_is_launched_twice(started: bool) -> None:
    rig = Rig()
    job = rig.job()
    if started:
        rig.up(job)
    rig.sync(rebooted=True)
    assert rig.launched() == [] and rig.state(job) is State.FAILED
    assert rig.reason(job) == "nobody could observe how it ended: the host was restarted"


def test_a_stop_is_sent_again_when_the_node_is_back() -> None:
    rig = Rig()
    job = rig.job()
    rig.up(job)
    rig.do(Cancel(job=job))
    rig.sync(rig.run(job))
    assert rig.stopped() == [(rig.run(job), 15, 10.0)]
    rig.exit(job, None, signal=15)
    unstarted = rig.job()
    rig.do(Cancel(job=unstarted))
    rig.sync()
    assert rig.state(unstarted) is State.CANCELLED and rig.launched() == []


def test_a_loaded_engine_goes_on_where_it_was() -> None:
    rig = Rig()
    need = Resources(cores_per_task=3)
    running, waiting, held = rig.job(resources=need), rig.job(resources=need), rig.job(hold=True)
    backing = rig.job(restart=Restart(policy=RestartPolicy.ALWAYS, delay=100.0))
    rig.up(running)
    rig.exit(backing, 1)
    rig.reload()
    rig.sync(rig.run(running))
    assert [rig.reason(job) for job in (waiting, held, backing)] == ["resources", "held", "backoff"]
    assert rig.launched() == []
    rig.exit(running)
    assert rig.launched() == [rig.run(waiting)]
    rig.wait(100)
    assert rig.state(backing) is State.STARTING


def test_a_node_that_is_known_but_away_counts_for_what_is_possible() -> None:
    """After a restart nodes come back one by one: what fits on a later one must not fail meanwhile."""
    rig = Rig()
    need = Resources(cores_per_task=4)
    running, waiting = rig.job(resources=need), rig.job(resources=need)
    rig.reload(rig.node)
    small = Node(name="small", cores=[0])
    rig.do(NodeSynced(node=small, live=frozenset(), rebooted=False))
    assert rig.state(waiting) is State.PENDING
    rig.sync(rig.run(running))
    rig.exit(running)
    assert rig.state(waiting) is State.STARTING
