"""Members that several projects want: each works for so many at once, and the others wait in line. Pure.

Members keep one "current" project (spec/tango.md 1.9): a second start would be refused, or replace the first task.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Claim(NamedTuple):
    """A step of a project that wants a member."""

    project: int
    container: str
    run: int


class Places:
    """By address of a member."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[tuple[int, str], int]] = {}
        self._waiting: dict[str, deque[Claim]] = {}

    def take(self, address: str, claim: Claim) -> None:
        """It works for that one already."""
        self._taken.setdefault(address, {})[claim.project, claim.container] = claim.run

    def ask(self, address: str, claim: Claim, most: int) -> int | None:
        """Takes the member, which works for `most` at once, and returns None; or lines up, and returns the project that
        it works for."""
        taken = self._taken.setdefault(address, {})
        if claim[:2] in taken or len(taken) < most:
            taken[claim.project, claim.container] = claim.run
            return None
        line = self._waiting.setdefault(address, deque())
        if claim not in line:
            line.append(claim)
        return next(iter(taken))[0]

    def give(self, address: str, project: int, container: str) -> list[Claim]:
        """The member is free again; those who wait for it, in order, may ask anew."""
        taken = self._taken.get(address)
        if taken is None or taken.pop((project, container), None) is None:
            return []
        if not taken:
            del self._taken[address]
        return list(self._waiting.pop(address, ()))
