"""Nodes: the machines on which runs happen."""

from __future__ import annotations

import msgspec


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What a node offers. `cores` and `gpus` are the names (indices) that can be handed out; `memory` is in bytes."""

    name: str
    executor: str = "local"
    cores: list[int]
    gpus: list[int] = []
    memory: int = 0


class Share(msgspec.Struct, frozen=True, array_like=True):
    """What one run holds on one node: named cores, named GPUs, bytes of memory, places in the process table."""

    node: str
    cores: list[int]
    gpus: list[int]
    memory: int
    exclusive: bool = False
    tasks: int = 1
    """How many processes it may have there at most."""
