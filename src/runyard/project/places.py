"""Members that several projects want: each works for so many at once, and the others wait in line. Pure.

Members keep one "current" project (spec/tango.md 1.9): a second start would be refused, or replace the first task.
"""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """A step of a project that wants a member."""

    project: int
    container: str
    run: int


class Places:
    """By address of a member."""

    def __init__(self) -> None:
        self._taken: dict[str, set[tuple[int, str]]] = {}
        #: In line, each with how many the member works for at once.
        self._waiting: dict[str, dict[Claim, int]] = {}

    def take(self, address: str, claim: Claim) -> None:
        """It works for that one already."""
        self._taken.setdefault(address, set()).add(claim[:2])

    def ask(self, address: str, claim: Claim, most: int) -> bool:
        """Takes the member, which works for `most` at once; else lines up, until `give` hands it over."""
        taken = self._taken.setdefault(address, set())
        if claim[:2] in taken or len(taken) < most:
            taken.add(claim[:2])
            return True
        self._waiting.setdefault(address, {})[claim] = most
        return False

    def holder(self, address: str, claim: Claim) -> int | None:
        """A project that the member works for while this one waits in line; None if it does not."""
        if claim not in self._waiting.get(address, ()):
            return None
        return next(iter(self._taken[address]))[0]

    def give(self, address: str, project: int, container: str) -> list[Claim]:
        """That one works, and waits, no more. Those who have the member now, in order."""
        taken, line = self._taken.get(address, set()), self._waiting.get(address, {})
        taken.discard((project, container))
        handed: list[Claim] = []
        for claim, most in list(line.items()):
            if claim[:2] == (project, container):
                del line[claim]
            elif claim[:2] in taken or len(taken) < most:
                del line[claim]
                taken.add(claim[:2])
                handed.append(claim)
        if not line:
            self._waiting.pop(address, None)
        if not taken:
            self._taken.pop(address, None)
        return handed
