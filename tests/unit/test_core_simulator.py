"""The engine under a simulated cluster: whole lives with faults, from a seed."""

from __future__ import annotations

from collections import Counter

import pytest

from runyard.core.inputs import Cancel, RestartJob
from runyard.model.ids import RunKey
from runyard.model.job import JobSpec, Resources
from runyard.model.node import Node
from runyard.model.state import State
from tests.scenario import Plan, cluster, drive, finish
from tests.simulated import Program
from tests.simulator import Simulation

STORM = Plan(jobs=80, span=600.0, requests=150, server_crashes=20, agent_crashes=20, reboots=6, losses=40, repeats=30)


def live(seed: int, plan: Plan, nodes: int = 3) -> Simulation:
    sim = Simulation(cluster(nodes, seed), seed)
    drive(sim, seed, plan)
    return sim


@pytest.mark.parametrize("seed", range(12))
def test_every_promise_is_kept_in_a_life_with_faults(seed: int) -> None:
    sim = live(seed, Plan())
    assert sim.answered_jobs and sim.starts


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_every_promise_is_kept_in_a_storm_of_faults(seed: int) -> None:
    live(seed, STORM)


def test_the_same_seed_gives_the_same_life_byte_by_byte() -> None:
    first, again, other = (live(seed, Plan(jobs=40)) for seed in (7, 7, 8))
    assert b"\n".join(first.log) == b"\n".join(again.log)
    assert b"\n".join(first.log) != b"\n".join(other.log)
    assert len(first.log) > 200


def test_the_faults_do_happen() -> None:
    """A storm that harms nothing would prove nothing."""
    sim = live(1000, STORM)
    reasons = Counter(values[4] for values in sim.disk.runs.values())
    assert any("restarted" in reason for reason in reasons if reason)
    assert any(reason and reason.startswith("nobody could observe") for reason in reasons)
    # Each crash ends a life, and the return begins another; some crashes hit a server that was down already.
    assert sim.server.life > STORM.server_crashes
    states = {sim.disk.state(job) for job in sim.disk.jobs}
    assert states >= {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT}


def node(name: str = "n", cores: int = 4) -> Node:
    return Node(name=name, cores=list(range(cores)), memory=1 << 30)


def test_a_crash_before_the_commit_loses_the_request_and_its_answer_together() -> None:
    sim = Simulation([node()])
    sim.advance(0.1)
    (job,) = sim.submit(JobSpec(command=Program(1.0).command))
    # Inputs gather for 2 ms, and a commit takes at least one.
    sim.advance(0.0025)
    sim.server.crash()
    sim.advance(60.0)
    assert job not in sim.disk.jobs and not sim.answers and not sim.starts
    sim.settle()


def test_a_crash_after_the_commit_loses_nothing_and_starts_nothing_twice() -> None:
    sim = Simulation([node()])
    sim.advance(0.1)
    (job,) = sim.submit(JobSpec(command=Program(30.0).command))
    while not sim.answers:
        sim.advance(0.0005)
    sim.server.crash()
    sim.advance(40.0)
    sim.settle()
    assert sim.disk.state(job) is State.SUCCEEDED
    assert list(sim.starts.values()) == [1]


def test_a_run_goes_on_while_the_server_is_away_and_its_end_is_learned_afterwards() -> None:
    sim = Simulation([node()])
    sim.advance(0.1)
    (job,) = sim.submit(JobSpec(command=Program(5.0, exit_code=3).command))
    sim.advance(1.0)
    sim.server.crash()
    sim.settle()
    record = sim.disk.record(job)
    assert (record.state, record.exit_code) == (State.FAILED, 3)


def test_a_reboot_ends_its_runs_as_unobserved() -> None:
    sim = Simulation([node("a"), node("b")])
    sim.advance(0.1)
    jobs = sim.submit(*[JobSpec(command=Program(100.0).command, resources=Resources(cores_per_task=4))] * 2)
    sim.advance(1.0)
    sim.agents["a"].reboot()
    sim.settle()
    states = sorted(sim.disk.state(job) for job in jobs)
    assert states == [State.FAILED, State.SUCCEEDED]
    failed = next(job for job in jobs if sim.disk.state(job) is State.FAILED)
    assert "restarted" in str(sim.disk.record(failed).reason)


def test_a_second_replica_that_starts_later_is_known_after_a_crash() -> None:
    """Its start changes nothing about the state of the job, and must be on disk all the same."""
    sim = Simulation([node(cores=1), node("m", cores=1)])
    sim.advance(0.1)
    sim.submit(
        JobSpec(command=Program(3.0).command, resources=Resources(cores_per_task=1)),
        JobSpec(command=Program(5.0).command, resources=Resources(cores_per_task=1), replicas=2),
    )
    # The second replica starts when the first job has ended. From then on there is no server until it has ended too.
    while len(sim.starts) < 3:
        sim.advance(0.0001)
    for _ in range(600):
        sim.server.crash()
        sim.advance(0.01)
    sim.settle()
    assert len(sim.starts) == 3


def test_a_cancel_that_was_answered_holds_after_a_crash_even_while_a_restart_was_under_way() -> None:
    sim = Simulation([node()])
    sim.advance(0.1)
    (job,) = sim.submit(JobSpec(command=Program(1000.0, deaf=True).command))
    sim.advance(1.0)
    sim.request(RestartJob(job=job))
    sim.advance(1.0)
    cancel = sim.request(Cancel(job=job))
    while cancel not in sim.answers:
        sim.advance(0.0005)
    sim.server.crash()
    sim.settle()
    assert sim.disk.state(job) is State.CANCELLED
    assert len(sim.starts) == 1


def test_a_thousand_nodes() -> None:
    nodes = [node(f"n{number:04}", cores=8) for number in range(1000)]
    sim = Simulation(nodes, check_every=50)
    sim.advance(1.0)
    spec = JobSpec(command=Program(20.0).command, resources=Resources(cores_per_task=4), replicas=3000)
    (job,) = sim.submit(spec)
    finish(sim)
    record = sim.disk.record(job)
    assert record.state is State.SUCCEEDED
    assert sim.starts == {RunKey(job, index, 1): 1 for index in range(3000)}
    # 2,000 runs fit at once, so the rest starts after the first ones have ended.
    assert 40.0 <= (record.ended_at or 0.0) - record.submitted_at < 42.0
