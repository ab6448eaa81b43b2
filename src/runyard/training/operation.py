"""The operations that tasks know: a phase and an action (spec/k12ai.md, 1.2). Pure."""

from __future__ import annotations

import msgspec

TRAIN, EVALUATE, PREDICT, RUNCODE = "train", "evaluate", "predict", "runcode"
START, STOP, PAUSE, RESUME, ROB = "start", "stop", "pause", "resume", "rob"
ACTIONS: dict[str, tuple[str, ...]] = {
    TRAIN: (START, STOP, PAUSE, RESUME, ROB),
    EVALUATE: (START, STOP),
    PREDICT: (START, STOP),
    RUNCODE: (START, STOP),
}
#: What begins a task; the others end one.
BEGINS = frozenset({START, RESUME})


class Operation(msgspec.Struct, frozen=True):
    phase: str
    action: str

    @property
    def begins(self) -> bool:
        return self.action in BEGINS

    def __str__(self) -> str:
        return f"{self.phase}.{self.action}"


OPERATIONS = {
    str(operation): operation
    for phase, actions in ACTIONS.items()
    for operation in (Operation(phase, action) for action in actions)
}
