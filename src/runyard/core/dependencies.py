"""Dependencies: what `after` means, and circles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from runyard.model.job import Condition, Dependency, JobSpec
from runyard.model.state import ENDED, State


class Verdict(Enum):
    MET = "met"
    WAIT = "wait"
    NEVER = "never"


_WANTED = {
    Condition.SUCCEEDED: frozenset({State.SUCCEEDED}),
    Condition.FAILED: frozenset({State.FAILED, State.TIMED_OUT}),
    Condition.FINISHED: ENDED,
}


def references(spec: JobSpec) -> list[tuple[str, Condition]]:
    """What `after` names, with the condition of each; a bare name means that it must succeed."""
    return [
        (item.job, item.condition) if isinstance(item, Dependency) else (item, Condition.SUCCEEDED)
        for item in spec.after
    ]


def judge(condition: str, state: State, started: bool) -> Verdict:
    """Is the condition met by another job in `state`, which has (or has not) started at least once?

    `idle` is not judged here: it is a question about processes, not about the state.
    """
    if condition == Condition.STARTED:
        if started:
            return Verdict.MET
        return Verdict.NEVER if state in ENDED else Verdict.WAIT
    if state not in ENDED:
        return Verdict.WAIT
    return Verdict.MET if state in _WANTED[Condition(condition)] else Verdict.NEVER


def circle(edges: Mapping[int, Iterable[int]]) -> list[int] | None:
    """The nodes of one circle in the graph, in order, or None. Iterative: depth is bounded by memory only."""
    done: set[int] = set()
    for root in edges:
        if root in done:
            continue
        path: list[int] = [root]
        on_path = {root}
        stack = [iter(edges.get(root, ()))]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                last = path.pop()
                on_path.discard(last)
                done.add(last)
            elif following in on_path:
                return path[path.index(following) :]
            elif following not in done:
                path.append(following)
                on_path.add(following)
                stack.append(iter(edges.get(following, ())))
    return None
