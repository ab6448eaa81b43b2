"""What a run asks for, and the settings of the scheduler."""

from __future__ import annotations

import math
from typing import NamedTuple

from runyard.model.job import JobSpec, Lifecycle, Resources


class Policy(NamedTuple):
    """Settings of the scheduler (`[scheduler]` in the configuration)."""

    max_running: int = 4096
    backfill_depth: int = 100
    assumed_time: float = 86400.0
    default_cores: int = 0


class Vector(NamedTuple):
    """Amounts of what a node has. Every task takes one slot; an exclusive run takes the node's all."""

    cores: int
    gpus: int
    memory: int
    slots: int

    def fits(self, free: Vector) -> bool:
        return self[0] <= free[0] and self[1] <= free[1] and self[2] <= free[2] and self[3] <= free[3]

    def plus(self, other: Vector) -> Vector:
        return Vector(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3])

    def minus(self, other: Vector) -> Vector:
        return Vector(self[0] - other[0], self[1] - other[1], self[2] - other[2], self[3] - other[3])


Kind = tuple[str, int, Vector, bool]


class Claim(NamedTuple):
    """What one run asks for: this many nodes, each with at least `each`."""

    executor: str
    nodes: int
    each: Vector
    exclusive: bool
    duration: float
    """Seconds, for planning."""

    @property
    def kind(self) -> Kind:
        """What it asks for, without for how long."""
        return self[:4]

    @property
    def light(self) -> bool:
        return self.nodes == 1 and not self.exclusive and self.each == _LIGHT


_LIGHT = Vector(0, 0, 0, 1)
_NOTHING = Resources()


def claim_of(spec: JobSpec, policy: Policy) -> Claim:
    """What a run of this job asks for."""
    need = spec.resources
    if need == _NOTHING and not (policy.default_cores and spec.lifecycle is Lifecycle.ONCE):
        return Claim(spec.executor, 1, _LIGHT, False, spec.time_limit or policy.assumed_time)
    count = max(need.nodes, 1)
    tasks = math.ceil(need.tasks / count)
    cores = need.cores_per_task
    if not cores and policy.default_cores and spec.lifecycle is Lifecycle.ONCE:
        cores = policy.default_cores
    each = Vector(tasks * cores, tasks * need.gpus_per_task, need.memory, tasks)
    return Claim(spec.executor, count, each, need.exclusive, spec.time_limit or policy.assumed_time)
