"""`why`: a sentence, blockers, position and likely start for every reason."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runyard.core.claim import Policy
from runyard.core.explain import MAX_BLOCKERS, explain
from runyard.core.inputs import Cancel, NodeLost
from runyard.model.job import (
    Condition,
    Dependency,
    Explanation,
    Lifecycle,
    Resources,
    Restart,
    RestartPolicy,
    Schedule,
)
from runyard.model.state import State
from tests.core_rig import MONDAY, Rig


def why(rig: Rig, job: int) -> Explanation:
    found = explain(rig.reactor, rig.record(job), rig.now)
    assert found.job == str(job) and found.state is rig.state(job) and found.reason == rig.reason(job)
    return found


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(MONDAY + seconds, UTC)


def test_held() -> None:
    rig = Rig()
    job = rig.job(hold=True)
    found = why(rig, job)
    assert found.summary == f"It is held. Release it with: runyard release {job}"
    assert found.blockers == [{"kind": "hold"}] and found.expected_start is None


def test_schedule() -> None:
    rig = Rig()
    found = why(rig, rig.job(lifecycle=Lifecycle.CRON, schedule=Schedule(cron="30 2 * * *", timezone="UTC")))
    assert found.summary == "Its next fire time is 2026-01-05T02:30:00+00:00."
    assert found.blockers == [{"kind": "time", "at": "2026-01-05T02:30:00+00:00"}]
    assert found.expected_start == at(9000)


def test_dependencies() -> None:
    rig = Rig()
    first, second = rig.job(name="load"), rig.job()
    job = rig.job(after=["load", Dependency(job=str(second), condition=Condition.FINISHED)])
    found = why(rig, job)
    assert found.summary == "It waits until job load (now starting) has succeeded, and for 1 more."
    assert found.blockers == [
        {"kind": "job", "ref": "load", "condition": "succeeded", "job": str(first), "name": "load",
         "state": "starting"},
        {"kind": "job", "ref": str(second), "condition": "finished", "job": str(second), "name": None,
         "state": "starting"},
    ]  # fmt: skip


def test_backoff() -> None:
    rig = Rig()
    job = rig.job(restart=Restart(policy=RestartPolicy.ALWAYS, delay=30.0))
    rig.exit(job, 2)
    found = why(rig, job)
    assert found.summary == "Its last run ended (exit code 2); restart 1 is due at 2026-01-05T00:00:30+00:00."
    assert found.blockers == [{"kind": "time", "at": "2026-01-05T00:00:30+00:00"}]
    assert found.expected_start == at(30)


def test_resources_who_holds_them_position_and_likely_start() -> None:
    rig = Rig(gpus=2)
    need = Resources(cores_per_task=3, gpus_per_task=1)
    holder = rig.job(name="train", resources=need, time_limit=100.0)
    first, second = (rig.job(resources=need, time_limit=50.0) for _ in range(2))
    found = why(rig, second)
    assert found.summary == "It waits for 3 cores, 1 GPU; job train holds 3 cores, 1 GPU of n."
    assert found.blockers == [
        {
            "kind": "job",
            "job": str(holder),
            "name": "train",
            "owner": "me",
            "holds": [{"node": "n", "cores": [0, 1, 2], "gpus": [0], "memory": 0}],
            "until": "2026-01-05T00:01:40+00:00",
        }
    ]
    assert (found.position, found.expected_start) == (2, at(150))
    assert (why(rig, first).position, why(rig, first).expected_start) == (1, at(100))


def test_no_more_blockers_than_a_person_reads() -> None:
    rig = Rig(cores=20)
    for _ in range(20):
        rig.job(resources=Resources(cores_per_task=1))
    assert len(why(rig, rig.job(resources=Resources(cores_per_task=1))).blockers) == MAX_BLOCKERS


def test_too_many_processes() -> None:
    rig = Rig(policy=Policy(max_running=1))
    rig.job()
    first, second = rig.job(), rig.job()
    found = why(rig, second)
    assert found.summary == "Every node runs as many processes as it may (1)."
    assert found.blockers == [{"kind": "limit", "max_running": 1}]
    assert (why(rig, first).position, found.position) == (1, 2)


@pytest.mark.parametrize("need", [Resources(), Resources(cores_per_task=1)])
def test_the_node_is_away(need: Resources) -> None:
    rig = Rig()
    running = rig.job()
    rig.up(running)
    rig.do(NodeLost(node="n"))
    found = why(rig, rig.job(resources=need))
    assert found.summary == "No node of executor 'local' can be reached."
    assert found.blockers == [{"kind": "node", "node": "n", "state": "down"}]
    assert found.expected_start is None
    assert why(rig, running).summary == "It is running on n; the agent of n can't be reached now."


def test_an_executor_without_nodes() -> None:
    rig = Rig()
    assert why(rig, rig.job(executor="slurm")).summary == "No node of executor 'slurm' can be reached."


def test_active_and_ended() -> None:
    rig = Rig()
    job = rig.job()
    assert why(rig, job).summary == "It is starting on n."
    rig.up(job)
    assert why(rig, job).summary == "It is running on n."
    rig.do(Cancel(job=job))
    assert why(rig, job).summary == "It is stopping: SIGTERM was sent, SIGKILL follows after 10 s."
    rig.exit(job, 0)
    assert why(rig, job).summary == "It has been cancelled."
    several = rig.job(replicas=3)
    rig.up(several, 1)
    assert why(rig, several).summary == "1 of 3 replicas are running on n."


@pytest.mark.parametrize(
    ("code", "timed_out", "summary"),
    [
        (0, False, "It has succeeded."),
        (2, False, "It has failed: exit code 2."),
        (0, True, "It has run out of time: time limit exceeded."),
    ],
)
def test_ended(code: int, timed_out: bool, summary: str) -> None:
    rig = Rig()
    job = rig.job()
    rig.exit(job, code, timed_out=timed_out)
    assert why(rig, job).summary == summary
    assert rig.state(job) is not State.PENDING
