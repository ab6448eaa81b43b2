"""What a run asks for, and the settings of the scheduler."""

from __future__ import annotations

import math
from typing import NamedTuple

from runyard.model.job import JobSpec, Lifecycle


class Policy(NamedTuple):
    """Settings of the scheduler (`[scheduler]` in the configuration)."""

    max_running: int = 4096
    backfill_depth: int = 100
    assumed_time: float = 86400.0
    default_cores: int = 0


class Vector(NamedTuple):
    """Amounts of what a node has. Every run takes one slot; an exclusive one takes the node's all."""

    cores: int
    gpus: int
    memory: int
    slots: int

    def fits(self, free: Vector) -> bool:
        return (
            self.cores <= free.cores
            and self.gpus <= free.gpus
            and self.memory <= free.memory
            and self.slots <= free.slots
        )

    def plus(self, other: Vector) -> Vector:
        return Vector(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Vector) -> Vector:
        return Vector(*(a - b for a, b in zip(self, other, strict=True)))


class Claim(NamedTuple):
    """What one run asks for: this many nodes, each with at least `each`."""

    executor: str
    nodes: int
    each: Vector
    exclusive: bool
    duration: float
    """Seconds, for planning."""

    @property
    def light(self) -> bool:
        return self.nodes == 1 and not self.exclusive and self.each == _LIGHT


_LIGHT = Vector(0, 0, 0, 1)


def claim_of(spec: JobSpec, policy: Policy) -> Claim:
    """What a run of this job asks for."""
    need = spec.resources
    count = max(need.nodes, 1)
    tasks = math.ceil(need.tasks / count)
    cores = need.cores_per_task
    if not cores and policy.default_cores and spec.lifecycle is Lifecycle.ONCE:
        cores = policy.default_cores
    each = Vector(tasks * cores, tasks * need.gpus_per_task, need.memory, 1)
    return Claim(spec.executor, count, each, need.exclusive, spec.time_limit or policy.assumed_time)
