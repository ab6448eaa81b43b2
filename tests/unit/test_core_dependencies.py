"""What `after` means: every condition against every way in which the other job can stand; circles; unknown names."""

from __future__ import annotations

from itertools import pairwise

import pytest

from runyard.core.dependencies import Verdict, circle, judge
from runyard.core.inputs import Amend, Cancel, Known, RestartJob
from runyard.model.ids import f58
from runyard.model.job import Condition, Dependency, JobSpec, Lifecycle, Resources, Restart, RestartPolicy
from runyard.model.state import ENDED, LIVE, State
from tests.core_rig import Rig

M, W, N = Verdict.MET, Verdict.WAIT, Verdict.NEVER
STATES = [State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED]


@pytest.mark.parametrize(
    ("condition", "verdicts"),
    [
        (Condition.SUCCEEDED, [M, N, N, N]),
        (Condition.FAILED, [N, M, M, N]),
        (Condition.FINISHED, [M, M, M, M]),
    ],
)
def test_each_condition_against_each_end(condition: Condition, verdicts: list[Verdict]) -> None:
    assert [judge(condition, state, True) for state in STATES] == verdicts
    assert all(judge(condition, state, True) is W for state in LIVE)


def test_started_asks_whether_it_ever_was() -> None:
    assert all(judge(Condition.STARTED, state, True) is M for state in State)
    assert all(judge(Condition.STARTED, state, False) is W for state in LIVE)
    assert all(judge(Condition.STARTED, state, False) is N for state in ENDED)


def ref(job: int | str, condition: Condition) -> list[str | Dependency]:
    return [Dependency(job=str(job), condition=condition)]


def end(rig: Rig, job: int, how: State) -> None:
    if how is State.CANCELLED:
        rig.do(Cancel(job=job))
    rig.exit(job, 0 if how is State.SUCCEEDED else 1, timed_out=how is State.TIMED_OUT)


@pytest.mark.parametrize("how", STATES)
@pytest.mark.parametrize("condition", list(Condition))
@pytest.mark.parametrize("ended_before", [False, True])
def test_what_a_waiting_job_does_when_the_other_ends(condition: Condition, how: State, ended_before: bool) -> None:
    rig = Rig()
    other = rig.job()
    rig.up(other)
    known = None
    if ended_before:
        end(rig, other, how)
        known = {str(other): Known(other, how, True)}
    job = rig.job(after=ref(other, condition), known=known)
    if not ended_before:
        if condition is Condition.STARTED:
            assert rig.state(job) is State.STARTING, "the other one has started already"
        else:
            assert (rig.state(job), rig.reason(job)) == (State.PENDING, "dependency")
        end(rig, other, how)
    if condition is Condition.IDLE or judge(condition, how, True) is M:
        assert rig.state(job) is State.STARTING
    else:
        assert rig.state(job) is State.FAILED
        assert rig.reason(job) == f"dependency {other} ended {how}, but was to be {condition}"


def test_started_is_met_when_the_first_run_is_up_and_stays_met() -> None:
    rig = Rig()
    other = rig.job(lifecycle=Lifecycle.SERVICE)
    job = rig.job(after=ref(other, Condition.STARTED))
    assert rig.reason(job) == "dependency"
    rig.up(other)
    assert rig.launched() == [rig.run(job)]
    rig.up(job)
    rig.do(Cancel(job=other))
    rig.exit(other)
    assert rig.state(job) is State.RUNNING


def test_all_dependencies_must_be_met() -> None:
    rig = Rig()
    first, second = rig.job(), rig.job()
    job = rig.job(after=[str(first), str(second)])
    rig.exit(first)
    assert rig.reason(job) == "dependency"
    rig.exit(second)
    assert rig.launched() == [rig.run(job)]


def test_a_restarting_job_has_not_failed_yet() -> None:
    rig = Rig()
    other = rig.job(restart=Restart(policy=RestartPolicy.ON_FAILURE, max=1))
    job = rig.job(after=[str(other)])
    rig.exit(other, 1)
    rig.wait(1)
    assert rig.reason(job) == "dependency"
    rig.exit(other, 0)
    assert rig.state(job) is State.STARTING


@pytest.mark.parametrize("how", ["name", "decimal", "f58", "ascii f58"])
def test_idle_by_every_way_to_name_a_job(how: str) -> None:
    rig = Rig()
    other = rig.job(name="db")
    word = {"name": "db", "decimal": str(other), "f58": f58(other), "ascii f58": "f" + f58(other)[1:]}[how]
    job = rig.job(after=ref(word, Condition.IDLE))
    assert rig.reason(job) == "dependency"
    rig.exit(other)
    assert rig.launched() == [rig.run(job)]


def test_an_unknown_name_counts_as_idle() -> None:
    rig = Rig()
    assert rig.state(rig.job(after=ref("nobody", Condition.IDLE))) is State.STARTING


def test_who_has_ended_is_not_remembered_as_one_who_waits() -> None:
    rig = Rig()
    other = rig.job()
    job = rig.job(after=[Dependency(job="nobody", condition=Condition.IDLE), str(other)])
    rig.do(Amend(job=job, idle=("nobody else",)))
    rig.do(Cancel(job=job))
    roster = rig.reactor.roster
    assert (roster._idle_waiters, roster._waiters) == ({}, {})


def test_idle_holds_at_the_moment_of_the_start_not_only_when_it_entered_the_queue() -> None:
    rig = Rig()
    need = Resources(cores_per_task=4)
    blocker = rig.job(resources=need)
    careful = rig.job(resources=need, after=ref("db", Condition.IDLE))
    assert rig.reason(careful) == "resources"
    other = rig.job(name="db")
    rig.exit(blocker)
    assert (rig.state(careful), rig.reason(careful)) == (State.PENDING, "dependency")
    rig.exit(other)
    assert rig.launched() == [rig.run(careful)]


def test_idle_is_asked_again_for_every_restart() -> None:
    rig = Rig()
    job = rig.job(after=ref("db", Condition.IDLE), restart=Restart(policy=RestartPolicy.ALWAYS))
    rig.exit(job)
    other = rig.job(name="db")
    rig.wait(1)
    assert rig.reason(job) == "dependency"
    rig.exit(other)
    assert rig.launched() == [rig.run(job)]


def test_names_mean_a_job_of_the_same_request_first_then_the_newest_live_one() -> None:
    rig = Rig()
    old = rig.job(name="a")
    new = rig.job(name="a")
    by_name = rig.job(after=["a"])
    rig.exit(old)
    assert rig.reason(by_name) == "dependency"
    rig.exit(new)
    assert rig.state(by_name) is State.STARTING
    outer = rig.job(name="a")
    inner, user = rig.submit(JobSpec(command=["x"], name="a"), JobSpec(command=["x"], after=["a"]))
    rig.exit(outer)
    assert rig.reason(user) == "dependency"
    rig.exit(inner)
    assert rig.state(user) is State.STARTING


def batch(edges: dict[str, list[str]]) -> list[JobSpec]:
    return [JobSpec(command=["x"], name=name, after=list(after)) for name, after in edges.items()]


def test_a_circle_is_refused_with_its_path_and_takes_its_dependents_along() -> None:
    rig = Rig()
    a, b, c, d, e = rig.submit(*batch({"a": ["c"], "b": ["a"], "c": ["b"], "d": ["a"], "e": []}))
    refusals = rig.refusals()
    assert set(refusals) == {a, b, c, d}
    for job in (a, b, c):
        path = refusals[job].partition("circle: ")[2].split(" -> ")
        assert path[0] == path[-1] and set(path) == {"a", "b", "c"}
    assert refusals[d] == "after: depends on a job of this request that was refused"
    assert rig.state(e) is State.STARTING


def test_a_job_can_not_wait_for_itself() -> None:
    rig = Rig()
    rig.submit(*batch({"a": ["a"]}))
    assert "no such job" in rig.refusals()[1]


def test_two_circles_are_both_refused() -> None:
    rig = Rig()
    rig.submit(*batch({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}))
    assert len(rig.refusals()) == 4


def test_unknown_references_are_refused_by_place() -> None:
    rig = Rig()
    (job,) = rig.submit(JobSpec(command=["x"], after=["ghost"]))
    assert rig.refusals() == {job: "after[0]: no such job: give the id or the name of one that exists"}
    assert job not in rig.reactor.jobs and rig.types(job) == []


@pytest.mark.parametrize("order", [["first", "second"], ["second", "first"]])
def test_a_failure_at_submission_reaches_dependents_of_the_same_request(order: list[str]) -> None:
    rig = Rig()
    specs = {
        "first": JobSpec(command=["x"], name="first", resources=Resources(cores_per_task=1000)),
        "second": JobSpec(command=["x"], name="second", after=["first"]),
    }
    jobs = rig.submit(*(specs[name] for name in order))
    assert [rig.state(job) for job in jobs] == [State.FAILED, State.FAILED]
    assert rig.launched() == []


def test_a_chain_may_be_longer_than_the_stack_is_deep() -> None:
    rig = Rig()
    count = 5000
    names = [f"j{number}" for number in range(count)]
    specs = [JobSpec(command=["x"], name=names[0])]
    specs += [JobSpec(command=["x"], name=name, after=[before]) for before, name in pairwise(names)]
    jobs = rig.submit(*specs)
    rig.exit(jobs[0], 1)
    assert all(rig.state(job) is State.FAILED for job in jobs) and not rig.reactor.jobs


def test_a_restarted_job_does_not_ask_for_its_dependencies_again() -> None:
    rig = Rig()
    other = rig.job()
    job = rig.job(after=[str(other)])
    rig.exit(other)
    rig.exit(job)
    rig.do(RestartJob(job=job, record=rig.record(job)))
    assert rig.state(job) is State.STARTING


def test_a_need_that_was_met_is_not_asked_again_after_a_crash() -> None:
    rig = Rig()
    service, other = rig.job(lifecycle=Lifecycle.SERVICE), rig.job()
    job = rig.job(after=[Dependency(job=str(service), condition=Condition.STARTED), str(other)])
    needs = list(rig.record(job).needs)
    rig.up(service)
    # The store still has both needs: no event about this job has saved it since.
    rig.record(job).needs = needs
    rig.reload()
    rig.sync(rig.run(service), rig.run(other))
    assert [need.job for need in rig.record(job).needs] == [other]
    rig.exit(other)
    assert rig.launched() == [rig.run(job)]


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        ({}, None),
        ({1: [2], 2: [3], 3: []}, None),
        ({1: [2, 3], 2: [3], 3: []}, None),
        ({1: [1]}, [1]),
        ({1: [2], 2: [3], 3: [1]}, [1, 2, 3]),
        ({1: [2], 2: [3], 3: [2]}, [2, 3]),
        ({number: [number + 1] for number in range(100_000)}, None),
    ],
)
def test_circles(edges: dict[int, list[int]], found: list[int] | None) -> None:
    assert circle(edges) == found
