"""A day of a 10,000-node cluster in the simulator: how fast the engine thinks.

    PYTHONPATH=src:. python -m bench.simulation [--nodes 10000] [--jobs 100000] [--load 0.7] [--seed 1] [--profile]

Jobs come in over 24 simulated hours, more of them by day than by night; each asks for cores, GPUs, memory or several
nodes, and runs for a part of its time limit. Some nodes are started anew while they are busy. The engine is the real
one; agents, network and disk are simulated (`tests/simulator.py`). `--load` is the share of the cluster's cores that
the jobs would fill if they could run at once, averaged over the day.
"""

from __future__ import annotations

import argparse
import cProfile
import math
import pstats
import random
import resource
import time

from runyard.model.job import JobSpec, Resources
from runyard.model.node import Node
from tests.simulated import Program
from tests.simulator import Simulation

DAY = 86400.0
CORES, GPUS, MEMORY = 64, 8, 512 << 30
#: Seconds that inputs gather for one step. A busy server gathers for as long as a commit takes.
GATHER = 0.05
REBOOTS = 20


def build(nodes: int) -> list[Node]:
    """One node in ten has GPUs."""
    cores, gpus = list(range(CORES)), list(range(GPUS))
    return [
        Node(name=f"n{number:05}", cores=cores, gpus=gpus if number % 10 == 0 else [], memory=MEMORY)
        for number in range(nodes)
    ]


def draw(rng: random.Random) -> tuple[Resources, float]:
    """What a job asks for, and its time limit."""
    kind = rng.random()
    limit = rng.choice((600.0, 1800.0, 3600.0, 4 * 3600.0, 12 * 3600.0))
    if kind < 0.15:
        return Resources(), rng.choice((60.0, 600.0))
    if kind < 0.70:
        return Resources(cores_per_task=rng.choice((1, 2, 4, 8, 16, 32)), memory=rng.choice((1, 4, 16)) << 30), limit
    if kind < 0.80:
        return Resources(cores_per_task=rng.choice((4, 8)), gpus_per_task=rng.choice((1, 2, 4, 8))), limit
    if kind < 0.95:
        return Resources(exclusive=True), limit
    count = rng.choice((2, 4, 8, 16, 32, 64))
    return Resources(nodes=count, exclusive=True), limit


def cores_of(need: Resources) -> int:
    return max(need.nodes, 1) * CORES if need.exclusive else need.cores_per_task


def day(nodes: int, jobs: int, load: float, seed: int) -> Simulation:
    rng = random.Random(seed)
    sim = Simulation(build(nodes), seed, check_every=0, gather=GATHER, keep_log=False)
    wanted = [(need, limit, rng.random()) for need, limit in (draw(rng) for _ in range(jobs))]
    work = sum(cores_of(need) * limit * part for need, limit, part in wanted)
    # The durations are scaled so that the day's work is the given share of what the cluster can do.
    scale = min(1.0, load * nodes * CORES * DAY / work)
    arrivals = sorted(_moment(rng) for _ in range(jobs))
    for at, (need, limit, part) in zip(arrivals, wanted, strict=True):
        spec = JobSpec(
            command=Program(duration=max(0.1, limit * part * scale)).command,
            resources=need,
            time_limit=max(1.0, limit * scale),
            priority=rng.choice((0, 0, 0, 10)),
        )
        sim.clock.after(at, sim.submit, spec)
    agents = list(sim.agents.values())
    for _ in range(REBOOTS):
        sim.clock.after(rng.uniform(0.0, DAY), rng.choice(agents).reboot)
    return sim


def _moment(rng: random.Random) -> float:
    """A moment of the day: at noon three times as likely as at midnight."""
    while True:
        at = rng.uniform(0.0, DAY)
        if rng.random() * 1.5 < 1.0 - 0.5 * math.cos(2 * math.pi * at / DAY):
            return at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="show where the time goes (slower)")
    options = parser.parse_args()
    sim = day(options.nodes, options.jobs, options.load, options.seed)
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    begin, cpu = time.perf_counter(), time.process_time()
    deepest = 0
    for _ in range(24):
        hour = time.perf_counter()
        sim.advance(DAY / 24)
        reactor = sim.server.reactor
        waiting = sum(not record.active for record in reactor.jobs.values())
        deepest = max(deepest, waiting)
        if options.profile:
            print(f"{time.perf_counter() - hour:6.2f} s, {len(reactor.jobs)} live, {waiting} waiting", flush=True)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    if options.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    ended = len(sim.disk.jobs) - len(sim.disk.live)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"nodes {options.nodes}, jobs {len(sim.disk.jobs)}, ended {ended}, most waiting at a full hour {deepest}")
    print(f"inputs {sim.server.inputs}, steps of the engine {sim.server.batches}, events {sim.events}")
    speed = f"{sim.events / wall:,.0f} events/s, {DAY / wall:,.0f} times real time"
    print(f"wall {wall:.1f} s (own CPU {cpu:.1f} s), {speed}, {peak:.0f} MiB")


if __name__ == "__main__":
    main()
