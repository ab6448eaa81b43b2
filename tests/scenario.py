"""Random lives for the simulator: what clients ask for and what goes wrong, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

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
from tests.simulated import Program
from tests.simulator import Simulation

GIB = 1 << 30
RARE = ("0 */6 * * *", "30 2 * * *")
CRONS = ("* * * * *", "*/5 * * * *", "*/20 * * * * *", *RARE)


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    jobs: int = 60
    span: float = 1800.0
    """Seconds over which the jobs come in and things go wrong."""
    requests: int = 40
    server_crashes: int = 3
    agent_crashes: int = 5
    reboots: int = 3
    losses: int = 10
    repeats: int = 5


def cluster(count: int, seed: int = 0) -> list[Node]:
    """Nodes of different sizes; the first one can hold the largest job that `random_spec` draws for a single node."""
    rng = random.Random(f"cluster {seed}")
    sizes = [(16, 4, 64)] + [rng.choice(((4, 0, 8), (8, 2, 32), (16, 4, 64))) for _ in range(count - 1)]
    return [
        Node(name=f"n{number}", cores=list(range(cores)), gpus=list(range(gpus)), memory=memory * GIB)
        for number, (cores, gpus, memory) in enumerate(sizes)
    ]


def random_spec(rng: random.Random, name: str | None, others: list[str], nodes: int) -> JobSpec:
    """Any job that the model allows, mostly sensible ones. `others` are references that may be depended on."""
    lifecycle = rng.choices(list(Lifecycle), (16, 2, 2))[0]
    schedule = None
    if lifecycle is Lifecycle.CRON:
        schedule = Schedule(
            cron=rng.choice(CRONS),
            timezone=rng.choice(("UTC", "Europe/Berlin")),
            overlap=rng.choice(list(Overlap)),
            missed=rng.choice(list(Missed)),
        )
    restart = None
    if rng.random() < 0.3:
        restart = Restart(
            policy=rng.choice(list(RestartPolicy)),
            delay=rng.choice((0.0, 0.1, 1.0)),
            max_delay=5.0,
            max=rng.choice((0, 1, 3)),
        )
    after: list[str | Dependency] = []
    if others and rng.random() < 0.3:
        for ref in rng.sample(others, min(len(others), rng.randint(1, 3))):
            after.append(rng.choice((ref, Dependency(job=ref, condition=rng.choice(list(Condition))))))
    program = Program(
        duration=rng.choice((0.0, 0.01, 1.0, rng.expovariate(1 / 30), rng.expovariate(1 / 300))),
        exit_code=rng.choices((0, 1, 7), (8, 1, 1))[0],
        deaf=rng.random() < 0.1,
        missing=rng.random() < 0.03,
    )
    return JobSpec(
        command=program.command,
        name=name,
        lifecycle=lifecycle,
        schedule=schedule,
        restart=restart,
        replicas=rng.choices((1, 2, 5), (8, 1, 1))[0],
        after=after,
        resources=random_resources(rng, nodes),
        time_limit=rng.choice((None, None, 5.0, 60.0, 600.0)),
        stop=Stop(grace=rng.choice((0.0, 0.5, 5.0))),
        priority=rng.choice((0, 0, 0, 5, -5)),
        hold=rng.random() < 0.05,
    )


def random_resources(rng: random.Random, nodes: int) -> Resources:
    kind = rng.choice(("none", "cores", "cores", "gpus", "memory", "exclusive", "wide", "too much"))
    if kind == "cores":
        return Resources(tasks=rng.choice((1, 2)), cores_per_task=rng.randint(1, 8))
    if kind == "gpus":
        return Resources(cores_per_task=rng.randint(0, 4), gpus_per_task=rng.randint(1, 4))
    if kind == "memory":
        return Resources(memory=rng.randint(1, 40) * GIB)
    if kind == "exclusive":
        return Resources(exclusive=True, nodes=rng.randint(0, min(2, nodes)))
    if kind == "wide":
        count = rng.randint(1, nodes)
        return Resources(nodes=count, tasks=count * 2, cores_per_task=rng.randint(1, 2))
    if kind == "too much" and rng.random() < 0.2:
        return Resources(cores_per_task=1000)
    return Resources()


def drive(sim: Simulation, seed: int, plan: Plan) -> None:
    """Lets `plan` happen at random moments, ends what would never end, and waits until all is quiet."""
    rng = random.Random(f"scenario {seed}")
    refs: list[str] = []
    jobs: list[int] = []
    nodes = list(sim.agents.values())
    deeds: list[tuple[float, str]] = []
    for deed, count in (
        ("submit", plan.jobs),
        ("request", plan.requests),
        ("server", plan.server_crashes),
        ("agent", plan.agent_crashes),
        ("reboot", plan.reboots),
        ("loss", plan.losses),
        ("repeat", plan.repeats),
    ):
        deeds += [(rng.uniform(0.0, plan.span), deed) for _ in range(count)]
    begin = sim.clock.now
    for at, deed in sorted(deeds):
        sim.clock.run_until(begin + at)
        sim.note(deed)
        if deed == "submit":
            specs: list[JobSpec] = []
            for _ in range(rng.choices((1, 4), (9, 1))[0]):
                name = f"name{rng.randrange(plan.jobs)}" if rng.random() < 0.5 else None
                others = refs[-8:] + [spec.name for spec in specs if spec.name] + ["ghost"]
                specs.append(random_spec(rng, name, others, len(nodes)))
                if name is not None:
                    refs.append(name)
            for job in sim.submit(*specs):
                jobs.append(job)
                refs.append(rng.choice((str(job), f58(job))))
        elif deed == "request" and jobs:
            job = rng.choice(jobs)
            sim.request(
                rng.choice(
                    (
                        Cancel(job=job),
                        RestartJob(job=job),
                        SendSignal(job=job, signal=rng.choice((10, 15))),
                        Amend(job=job, priority=rng.randint(-10, 10)),
                        Amend(job=job, hold=rng.random() < 0.5),
                    )
                )
            )
        elif deed == "server":
            sim.server.crash()
        elif deed == "agent":
            rng.choice(nodes).crash()
        elif deed == "reboot":
            rng.choice(nodes).reboot()
        elif deed == "loss":
            rng.choice(nodes).lose_link()
        elif deed == "repeat":
            sim.server.repeat_reports()
    finish(sim)


def finish(sim: Simulation) -> None:
    """Cancels what would go on for ever, all but the rare cron jobs, and waits for the end of the rest."""
    sim.advance(120.0)
    while True:
        endless = [
            record.id
            for record in sim.server.reactor.jobs.values()
            if record.spec.lifecycle is Lifecycle.SERVICE
            or record.spec.restart_rule.policy is not RestartPolicy.NEVER
            or (record.spec.schedule is not None and record.spec.schedule.cron not in RARE)
        ]
        if sim.server.up and not endless:
            break
        for job in endless:
            sim.request(Cancel(job=job))
        sim.advance(60.0)
    sim.settle()
