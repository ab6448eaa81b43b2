"""Hypothesis writes the scenario: any order of requests, faults and passing time on a small simulated cluster."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from runyard.core.claim import Policy
from runyard.core.inputs import Amend, Cancel, RestartJob, SendSignal
from runyard.model.ids import f58
from runyard.model.job import (
    Condition,
    Dependency,
    JobSpec,
    Lifecycle,
    Missed,
    Overlap,
    Resources,
    Restart,
    RestartPolicy,
    Schedule,
    Stop,
)
from runyard.model.node import Node
from tests.scenario import finish
from tests.simulated import Agent, Program
from tests.simulator import Simulation

GIB = 1 << 30

NODES = [
    Node(name="small", cores=[0, 1], memory=2 * GIB),
    Node(name="odd", cores=[1, 3, 5, 7], gpus=[2, 4], memory=4 * GIB),
    Node(name="large", cores=list(range(8)), gpus=[0, 1, 2, 3], memory=16 * GIB),
]

programs = st.builds(
    Program,
    duration=st.sampled_from((0.0, 0.01, 2.0, 45.0, 400.0)),
    exit_code=st.sampled_from((0, 0, 0, 1)),
    deaf=st.sampled_from((False, False, False, True)),
    missing=st.sampled_from((False,) * 9 + (True,)),
)
resources = st.one_of(
    st.just(Resources()),
    st.builds(Resources, cores_per_task=st.integers(1, 9), tasks=st.integers(1, 2)),
    st.builds(Resources, cores_per_task=st.integers(0, 4), gpus_per_task=st.integers(1, 5)),
    st.builds(Resources, memory=st.integers(1, 20).map(lambda size: size * GIB)),
    st.builds(Resources, nodes=st.integers(1, 4), tasks=st.integers(1, 8), cores_per_task=st.integers(1, 2)),
    st.builds(Resources, nodes=st.integers(0, 2), exclusive=st.just(True)),
)
restarts = st.builds(
    Restart,
    policy=st.sampled_from(RestartPolicy),
    delay=st.sampled_from((0.0, 0.5, 3.0)),
    max_delay=st.just(10.0),
    max=st.sampled_from((0, 1, 4)),
    reset_after=st.sampled_from((1.0, 60.0)),
)
schedules = st.builds(
    Schedule,
    cron=st.sampled_from(("* * * * *", "*/10 * * * * *", "*/7 * * * *", "30 2 * * *")),
    timezone=st.sampled_from(("UTC", "America/New_York")),
    overlap=st.sampled_from(Overlap),
    missed=st.sampled_from(Missed),
)
names = st.sampled_from((None, None, "a", "b", "c"))


class Cluster(RuleBasedStateMachine):
    """Every step ends with the simulator's own checks: the invariants are looked at after each single input."""

    jobs = Bundle("jobs")

    @initialize(seed=st.integers(0, 3), depth=st.sampled_from((0, 2, 100)), slots=st.sampled_from((3, 4096)))
    def start(self, seed: int, depth: int, slots: int) -> None:
        self.sim = Simulation(NODES, seed, policy=Policy(max_running=slots, backfill_depth=depth, assumed_time=600.0))
        self.sim.advance(0.1)

    @rule(
        target=jobs,
        program=programs,
        name=names,
        lifecycle=st.sampled_from((Lifecycle.ONCE, Lifecycle.ONCE, Lifecycle.SERVICE, Lifecycle.CRON)),
        schedule=schedules,
        restart=st.none() | restarts,
        need=resources,
        replicas=st.sampled_from((1, 1, 1, 4)),
        others=st.lists(st.tuples(jobs, st.sampled_from(Condition), st.booleans()), max_size=2),
        refs=st.lists(st.tuples(st.sampled_from(("a", "b", "c", "ghost")), st.sampled_from(Condition)), max_size=1),
        limit=st.sampled_from((None, None, 1.0, 60.0)),
        grace=st.sampled_from((0.0, 4.0)),
        priority=st.integers(-1, 1),
        hold=st.sampled_from((False, False, False, True)),
    )
    def submit(
        self,
        program: Program,
        name: str | None,
        lifecycle: Lifecycle,
        schedule: Schedule,
        restart: Restart | None,
        need: Resources,
        replicas: int,
        others: list[tuple[int, Condition, bool]],
        refs: list[tuple[str, Condition]],
        limit: float | None,
        grace: float,
        priority: int,
        hold: bool,
    ) -> int:
        after: list[str | Dependency] = [Dependency(job=ref, condition=condition) for ref, condition in refs]
        after += [
            Dependency(job=f58(job) if short else str(job), condition=condition) for job, condition, short in others
        ]
        spec = JobSpec(
            command=program.command,
            name=name,
            lifecycle=lifecycle,
            schedule=schedule if lifecycle is Lifecycle.CRON else None,
            restart=restart,
            resources=need,
            replicas=replicas,
            after=after,
            time_limit=limit,
            stop=Stop(grace=grace),
            priority=priority,
            hold=hold,
        )
        return self.sim.submit(spec)[0]

    @rule(target=jobs, program=programs, shape=st.sampled_from(("chain", "circle", "fan")))
    def submit_together(self, program: Program, shape: str) -> object:
        edges = {
            "chain": {"y": ["x"], "z": ["y"]},
            "circle": {"x": ["z"], "y": ["x"], "z": ["y"], "w": []},
            "fan": {"z": ["x", "y"]},
        }[shape]
        command = program.command
        specs = [JobSpec(command=command, name=name, after=list(edges.get(name, ()))) for name in ("z", "y", "x", "w")]
        return multiple(*self.sim.submit(*specs))

    @rule(job=jobs)
    def cancel(self, job: int) -> None:
        self.sim.request(Cancel(job=job))

    @rule(job=jobs)
    def restart(self, job: int) -> None:
        self.sim.request(RestartJob(job=job))

    @rule(job=jobs, signal=st.sampled_from((10, 15, 9)))
    def signal(self, job: int, signal: int) -> None:
        self.sim.request(SendSignal(job=job, signal=signal))

    @rule(job=jobs, priority=st.none() | st.integers(-2, 2), hold=st.sampled_from((None, True, False)))
    def amend(self, job: int, priority: int | None, hold: bool | None) -> None:
        self.sim.request(Amend(job=job, priority=priority, hold=hold))

    @rule(job=consumes(jobs))
    def forget(self, job: int) -> None:
        """So that later steps are about other jobs."""

    @rule(seconds=st.sampled_from((0.001, 0.004, 0.05, 1.0, 30.0, 200.0, 4000.0)))
    def pass_time(self, seconds: float) -> None:
        self.sim.advance(seconds)

    @rule()
    def crash_server(self) -> None:
        self.sim.server.crash()

    @rule(node=st.sampled_from([node.name for node in NODES]), fault=st.sampled_from(("loss", "crash", "reboot")))
    def harm(self, node: str, fault: str) -> None:
        agent = self.sim.agents[node]
        {"loss": Agent.lose_link, "crash": Agent.crash, "reboot": Agent.reboot}[fault](agent)

    @rule()
    def repeat_reports(self) -> None:
        if self.sim.server.up:
            self.sim.server.repeat_reports()

    def teardown(self) -> None:
        if hasattr(self, "sim"):
            finish(self.sim)


TestCluster = Cluster.TestCase
# Derandomized: a change that breaks nothing never fails here; the simulator's seeds and nightly runs look further.
TestCluster.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
