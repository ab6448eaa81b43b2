"""The scheduler: named cores and GPUs, order, conservative backfill, and a brute-force reference to compare with."""

from __future__ import annotations

import time
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.core.claim import Claim, Policy, Vector, claim_of
from runyard.core.plan import Outlooks, Plan
from runyard.core.pool import Pool
from runyard.core.record import JobRecord, Replica
from runyard.core.scheduler import Scheduler
from runyard.model.ids import RunKey
from runyard.model.job import JobSpec, Lifecycle, Resources
from runyard.model.node import Node, Share

NOW = 1000.0
GIB = 1 << 30


def node(name: str, cores: int = 4, gpus: int = 0, memory: int = 8) -> Node:
    return Node(name=name, cores=list(range(cores)), gpus=list(range(gpus)), memory=memory * GIB)


class Bench:
    """A scheduler with some nodes; jobs are numbered in the order of their coming."""

    def __init__(self, *nodes: Node, policy: Policy | None = None) -> None:
        self.scheduler = Scheduler(policy or Policy())
        for each in nodes:
            self.scheduler.node_up(each)
        self.records: dict[int, JobRecord] = {}
        self.now = NOW

    def add(self, limit: float | None = 100.0, priority: int = 0, **need: Any) -> int:
        spec = JobSpec(command=["x"], resources=Resources(**need), time_limit=limit, priority=priority)
        job = len(self.records) + 1
        record = JobRecord(
            id=job,
            spec=spec,
            kind="batch",
            origin="",
            owner="",
            submitted_at=NOW,
            priority=priority,
            replicas=[Replica()],
        )
        self.records[job] = record
        self.scheduler.add(record, 0)
        return job

    def starts(self) -> dict[int, list[Share]]:
        """What starts now, held for its whole time limit."""
        found = {}
        for start in self.scheduler.starts(self.now):
            duration = claim_of(self.records[start.job].spec, self.scheduler.policy).duration
            self.scheduler.hold(RunKey(start.job, 0, 1), start.shares, self.now + duration)
            found[start.job] = start.shares
        return found

    def end(self, job: int) -> None:
        self.scheduler.release(RunKey(job, 0, 1))

    def expected(self, job: int) -> float | None:
        return self.scheduler.expected_start(self.records[job], 0, self.now)


def test_cores_and_gpus_are_named_and_given_once() -> None:
    bench = Bench(Node(name="n", cores=[0, 2, 4, 6], gpus=[3, 5], memory=GIB))
    first, second = bench.add(cores_per_task=2, gpus_per_task=1), bench.add(cores_per_task=2, gpus_per_task=1)
    starts = bench.starts()
    assert starts[first] == [Share("n", [0, 2], [3], 0)]
    assert starts[second] == [Share("n", [4, 6], [5], 0)]
    third = bench.add(cores_per_task=2)
    assert bench.starts() == {}
    bench.end(first)
    assert bench.starts() == {third: [Share("n", [0, 2], [], 0)]}


def test_the_tightest_node_is_taken_and_gpus_are_spared() -> None:
    bench = Bench(node("gpu", 4, 2), node("large", 8), node("small", 2))
    assert bench.add(cores_per_task=2) and [share.node for share in bench.starts()[1]] == ["small"]
    bench.add(cores_per_task=2)
    assert [share.node for share in bench.starts()[2]] == ["large"]


def test_priority_then_age() -> None:
    bench = Bench(node("n"))
    bench.add(cores_per_task=4)
    bench.starts()
    young, urgent, low = (bench.add(cores_per_task=4, priority=priority) for priority in (0, 5, -5))
    order = []
    for running in (1, urgent, young):
        bench.end(running)
        (started,) = bench.starts()
        order.append(started)
    assert order == [urgent, young, low]
    assert [bench.scheduler.position(bench.records[job], 0) for job in (urgent, low)] == [None, None]


@pytest.mark.parametrize(("limit", "backfilled"), [(50.0, True), (99.0, True), (101.0, False), (None, False)])
def test_a_later_job_fills_a_hole_only_where_it_delays_nobody(limit: float | None, backfilled: bool) -> None:
    bench = Bench(node("n"))
    bench.add(limit=100.0, cores_per_task=3)
    bench.starts()
    wide = bench.add(cores_per_task=4)
    small = bench.add(limit=limit, cores_per_task=1)
    assert bench.expected(wide) == NOW + 100
    assert (small in bench.starts()) is backfilled
    assert bench.expected(wide) == NOW + 100
    assert bench.scheduler.position(bench.records[wide], 0) == 1


def test_a_shorter_job_is_tried_where_a_longer_equal_one_failed() -> None:
    bench = Bench(node("n"))
    bench.add(limit=100.0, cores_per_task=3)
    bench.starts()
    bench.add(cores_per_task=4)
    long, short = bench.add(limit=500.0, cores_per_task=1), bench.add(limit=50.0, cores_per_task=1)
    assert list(bench.starts()) == [short]
    assert bench.expected(long) == NOW + 200


def test_every_waiting_job_has_a_reservation_not_only_the_first() -> None:
    bench = Bench(node("a"), node("b"))
    bench.add(limit=100.0, cores_per_task=4)
    bench.add(limit=200.0, cores_per_task=3)
    bench.starts()
    both = bench.add(limit=100.0, nodes=2, tasks=2, cores_per_task=4)
    single = bench.add(limit=100.0, cores_per_task=4)
    assert (bench.expected(both), bench.expected(single)) == (NOW + 200, NOW + 100)
    # It would fit on b now, but would then hold up the first one, which needs both.
    late = bench.add(limit=201.0, cores_per_task=1)
    soon = bench.add(limit=199.0, cores_per_task=1)
    assert list(bench.starts()) == [soon]
    assert bench.expected(late) is not None and (bench.expected(late) or 0) >= NOW + 200


def test_an_early_end_moves_the_plan_forward() -> None:
    bench = Bench(node("n"))
    first = bench.add(limit=100.0, cores_per_task=4)
    bench.starts()
    second = bench.add(cores_per_task=4)
    bench.now += 10
    bench.end(first)
    assert list(bench.starts()) == [second]


def test_a_run_past_its_time_is_expected_to_end_any_moment() -> None:
    bench = Bench(node("n"))
    bench.add(limit=100.0, cores_per_task=4)
    bench.starts()
    waiting = bench.add(cores_per_task=4)
    bench.now += 500
    assert bench.starts() == {}
    assert bench.expected(waiting) == bench.now + 1


def test_exclusive_takes_whole_nodes_and_shares_with_nobody() -> None:
    bench = Bench(node("a", 4, 1), node("b", 8))
    small = bench.add(cores_per_task=1)
    bench.starts()
    whole, pair = bench.add(exclusive=True), bench.add(exclusive=True, nodes=2)
    starts = bench.starts()
    assert starts == {whole: [Share("a", [0, 1, 2, 3], [0], 8 * GIB, True)]} or starts[whole][0].node == "b"
    assert bench.add(cores_per_task=1) and small
    bench.end(small)
    bench.end(whole)
    bench.now += 1000
    started = bench.starts()
    assert {share.node for share in started[pair]} == {"a", "b"} and all(share.exclusive for share in started[pair])
    assert len(started) == 1


def test_several_nodes_get_their_part_each() -> None:
    bench = Bench(*(node(f"n{i}") for i in range(3)))
    job = bench.add(nodes=3, tasks=7, cores_per_task=1, memory=GIB)
    shares = bench.starts()[job]
    assert [(share.node, len(share.cores), share.memory) for share in shares] == [(f"n{i}", 3, GIB) for i in range(3)]


def test_memory_is_counted() -> None:
    bench = Bench(node("n", memory=8))
    jobs = [bench.add(memory=3 * GIB) for _ in range(3)]
    assert list(bench.starts()) == jobs[:2]
    bench.end(jobs[0])
    assert list(bench.starts()) == jobs[2:]


def test_light_runs_start_past_the_queue_up_to_the_limit_and_spread() -> None:
    bench = Bench(node("a"), node("b"), policy=Policy(max_running=2))
    jobs = [bench.add() for _ in range(6)]
    starts = bench.starts()
    assert list(starts) == jobs[:4]
    assert [shares[0].node for shares in starts.values()] == ["a", "b", "a", "b"]
    assert bench.scheduler.position(bench.records[jobs[5]], 0) == 2
    bench.end(jobs[1])
    assert bench.starts() == {jobs[4]: [Share("b", [], [], 0)]}


def test_light_runs_are_started_by_priority() -> None:
    bench = Bench(node("n"), policy=Policy(max_running=1))
    bench.add()
    bench.starts()
    low, high = bench.add(priority=-1), bench.add(priority=1)
    bench.end(1)
    assert list(bench.starts()) == [high] and low


def test_nothing_starts_on_a_node_that_is_away() -> None:
    bench = Bench(node("n"))
    bench.scheduler.pool.node_down("n")
    heavy, light = bench.add(cores_per_task=1), bench.add()
    assert bench.starts() == {} and bench.expected(heavy) is None
    bench.scheduler.node_up(node("n"))
    assert set(bench.starts()) == {heavy, light}


def test_a_node_that_comes_back_smaller_keeps_what_runs() -> None:
    bench = Bench(node("n", 4))
    held = bench.add(cores_per_task=4)
    bench.starts()
    bench.scheduler.node_up(node("n", 2))
    waiting = bench.add(cores_per_task=2)
    assert bench.starts() == {}
    assert bench.expected(waiting) == NOW + 100
    bench.end(held)
    assert bench.starts() == {waiting: [Share("n", [0, 1], [], 0)]}


@pytest.mark.parametrize(
    ("need", "why"),
    [
        ({"cores_per_task": 5}, "needs 5 cores, the largest node has 4"),
        ({"gpus_per_task": 3}, "needs 3 GPUs, the largest node has 2"),
        ({"memory": 9 * GIB}, f"needs {9 * GIB} bytes of memory, the largest node has {8 * GIB}"),
        ({"nodes": 3}, "needs 3 such nodes, there are 2"),
        ({"nodes": 2, "tasks": 2, "gpus_per_task": 1}, "needs 2 such nodes, there is 1"),
        (
            {"tasks": 5000, "cores_per_task": 1},
            "needs 5000 cores, the largest node has 4; 5000 process slots, the largest node has 4096",
        ),
        ({"tasks": 5000}, "needs 5000 process slots, the largest node has 4096"),
        ({"nodes": 3, "tasks": 3, "exclusive": True}, "needs 3 such nodes, there are 2"),
        ({"cores_per_task": 4, "gpus_per_task": 1}, "needs a node with all of it at once, and there is none"),
        ({"cores_per_task": 4}, None),
    ],
)
def test_what_can_never_fit_is_told(need: dict[str, Any], why: str | None) -> None:
    bench = Bench(node("a", 4), node("b", 2, 2))
    spec = JobSpec(command=["x"], resources=Resources(**need))
    assert bench.scheduler.pool.impossible(claim_of(spec, Policy())) == why
    assert Scheduler(Policy()).pool.impossible(claim_of(spec, Policy())) is None, "no node is known yet"


def test_a_default_number_of_cores_is_for_batch_jobs_only() -> None:
    policy = Policy(default_cores=1)
    assert claim_of(JobSpec(command=["x"]), policy).each.cores == 1
    assert claim_of(JobSpec(command=["x"], lifecycle=Lifecycle.SERVICE), policy).light
    assert claim_of(JobSpec(command=["x"]), Policy()).light


def test_planning_rests_in_proportion_to_its_work_but_the_first_never_waits() -> None:
    bench = Bench(*(node(f"n{i}") for i in range(4)))
    for _ in range(4):
        bench.add(cores_per_task=3)
    bench.starts()
    for _ in range(20):
        bench.add(nodes=4, tasks=4, cores_per_task=4)
    first = bench.add(limit=10.0, cores_per_task=1)
    assert list(bench.starts()) == [first], "the first plan comes at once"
    second = bench.add(limit=10.0, cores_per_task=1)
    bench.now += 0.01
    assert bench.starts() == {}
    retry = bench.scheduler.retry_at
    assert retry is not None and bench.now < retry < bench.now + 10
    urgent = bench.add(limit=10.0, cores_per_task=1, priority=9)
    assert list(bench.starts()) == [urgent]
    bench.now = retry
    assert list(bench.starts()) == [second]


def test_a_queue_of_many_takes_linear_time() -> None:
    def seconds(count: int) -> float:
        bench = Bench(*(node(f"n{i}", 8) for i in range(50)))
        for _ in range(count):
            bench.add(cores_per_task=1)
        begin = time.process_time()
        done = 0
        while done < count:
            started = bench.starts()
            done += len(started)
            bench.now += 100
            for job in started:
                bench.end(job)
        return time.process_time() - begin

    small, large = (min(seconds(count) for _ in range(3)) for count in (2000, 16000))
    # Eight times as many; quadratic would be 64 times.
    assert large < 30 * small


# The reference ------------------------------------------------------------------------------------------------------


class Reference:
    """Conservative backfill by brute force: tries every moment and every set of nodes."""

    def __init__(self, pool: Pool, now: float) -> None:
        self.pool, self.now = pool, now
        #: Node, from, until, amount.
        self.taken: list[tuple[str, float, float, Vector]] = []
        for name, place in pool.places.items():
            for end, _, amount in place.releases:
                self.taken.append((name, -1e18, max(end, now + 1.0), amount))

    def fits(self, name: str, claim: Claim, start: float) -> bool:
        place = self.pool.places[name]
        if not place.up or place.node.executor != claim.executor or not claim.each.fits(place.total):
            return False
        rows = [row for row in self.taken if row[0] == name]
        for moment in {start} | {row[1] for row in rows if start < row[1] < start + claim.duration}:
            free = place.total
            for _, begin, end, amount in rows:
                if begin <= moment < end:
                    free = free.minus(amount)
            if not place.want(claim).fits(free):
                return False
        return True

    def earliest(self, claim: Claim) -> float | None:
        for moment in sorted({self.now} | {row[2] for row in self.taken if row[2] > self.now}):
            if sum(self.fits(name, claim, moment) for name in self.pool.places) >= claim.nodes:
                return moment
        return None

    def reserve(self, claim: Claim, start: float, names: list[str]) -> None:
        for name in names:
            self.taken.append((name, start, start + claim.duration, self.pool.places[name].want(claim)))


small_nodes = st.lists(
    st.builds(node, st.just("n"), st.integers(1, 4), st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=3
)
wishes = st.lists(
    st.tuples(
        st.sampled_from((10.0, 25.0, 40.0, 100.0)),
        st.integers(-1, 1),
        st.fixed_dictionaries(
            {"cores_per_task": st.integers(0, 3)},
            optional={
                "gpus_per_task": st.integers(0, 2),
                "memory": st.integers(0, 3).map(lambda size: size * GIB),
                "nodes": st.integers(0, 3),
                "exclusive": st.booleans(),
            },
        ),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(nodes=small_nodes, jobs=wishes, early=st.lists(st.integers(0, 8), max_size=6))
def test_no_start_is_missed_and_none_delays_a_reservation(
    nodes: list[Node], jobs: list[tuple[float, int, dict[str, Any]]], early: list[int]
) -> None:
    """In every step, what the scheduler starts is what a plan by brute force has start now, job by job in order."""
    bench = Bench(*(Node(name=f"n{i}", cores=n.cores, gpus=n.gpus, memory=n.memory) for i, n in enumerate(nodes)))
    scheduler = bench.scheduler
    waiting = []
    for limit, priority, need in jobs:
        claim = claim_of(JobSpec(command=["x"], resources=Resources(**need)), Policy())
        if not claim.light and scheduler.pool.impossible(claim) is None:
            waiting.append(bench.add(limit=limit, priority=priority, **need))
    running: dict[int, float] = {}
    promised: dict[int, float] = {}
    for step in range(60):
        if not waiting and not running:
            break
        order = sorted(waiting, key=lambda job: (-bench.records[job].priority, job))
        reference = Reference(scheduler.pool, bench.now)
        started = bench.starts()
        for job in order:
            claim = claim_of(bench.records[job].spec, Policy())
            due = reference.earliest(claim)
            assert due is not None
            if job in started:
                assert due == bench.now, f"job {job} starts, though it should wait until {due}"
                names = [share.node for share in started[job]]
                assert all(reference.fits(name, claim, bench.now) for name in names), f"job {job} delays a reservation"
                running[job] = bench.now + claim.duration
                waiting.remove(job)
            else:
                assert due > bench.now, f"job {job} fits now and delays nobody, but was passed over"
                assert due <= promised.get(job, due), f"job {job} was promised {promised[job]}, now it is {due}"
                names = next(
                    list(chosen)
                    for chosen in combinations(scheduler.pool.places, claim.nodes)
                    if all(reference.fits(name, claim, due) for name in chosen)
                )
            reference.reserve(claim, bench.now if job in started else due, names)
        # Exact durations, unless one ends early; the plan may rest no longer than until then.
        if not running:
            continue
        if step < len(early) and running and early[step] < len(running):
            ended = [sorted(running)[early[step]]]
            bench.now += 7.0
            if bench.now > running[ended[0]]:
                bench.now = running[ended[0]]
        else:
            bench.now = min(running.values())
            ended = [job for job, end in running.items() if end == bench.now]
        for job in ended:
            del running[job]
            bench.end(job)
        scheduler._rest_until = 0.0
    assert not waiting, "everything that can run has run"


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(nodes=small_nodes, held=wishes, jobs=wishes)
def test_the_plan_gives_the_earliest_times(
    nodes: list[Node], held: list[tuple[float, int, dict[str, Any]]], jobs: list[tuple[float, int, dict[str, Any]]]
) -> None:
    """Reservation by reservation, the time is the one that brute force finds."""
    bench = Bench(*(Node(name=f"n{i}", cores=n.cores, gpus=n.gpus, memory=n.memory) for i, n in enumerate(nodes)))
    for limit, _, need in held:
        bench.add(limit=limit, **need)
    bench.starts()
    bench.now += 30.0
    plan = Plan(bench.scheduler.pool, Outlooks(bench.scheduler.pool), bench.now)
    reference = Reference(bench.scheduler.pool, bench.now)
    for limit, _, need in jobs:
        claim = claim_of(JobSpec(command=["x"], resources=Resources(**need), time_limit=limit), Policy())
        expected = reference.earliest(claim)
        before = {name: len(rows) for name, rows in plan._reserved.items()}
        assert plan.reserve(claim) == expected
        if expected is not None:
            names = [name for name, rows in plan._reserved.items() if len(rows) > before.get(name, 0)]
            assert len(names) == claim.nodes and all(reference.fits(name, claim, expected) for name in names)
            reference.reserve(claim, expected, names)
