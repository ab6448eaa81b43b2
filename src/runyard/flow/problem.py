"""What is wrong with a flow: where it is, which node and port it is about, and how bad."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runyard.flow.status import TEXT, StatusCode
from runyard.model.errors import InvalidInput

MAX_EXCERPT = 120
"""Characters of a source line that an excerpt shows; a longer line is cut around the place."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a text. Line and column count from 1, the column in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a flow, with the status that ModelBox gives to its kind (spec/modelbox.md 4.6).

    `wrapped_by` are the messages of ModelBox around this one, outermost first. `file` is the file or part of a document
    that `position` is about, `text` the source line there.
    """

    message: str
    code: StatusCode = StatusCode.STATUS_BADCONF
    position: Position | None = None
    node: str = ""
    port: str = ""
    wrapped_by: tuple[str, ...] = ()
    hint: str = ""
    file: str = ""
    text: str = ""

    @property
    def line(self) -> int | None:
        return self.position.line if self.position else None

    @property
    def column(self) -> int | None:
        return self.position.column if self.position else None

    @property
    def chain(self) -> str:
        """The message as ModelBox's REST API shows it: `Bad config, build graph failed, … -> …` (spec 3.4)."""
        return f"{TEXT[self.code]}, {' -> '.join((*self.wrapped_by, str(self)))}"

    @property
    def sentence(self) -> str:
        """The message and what to do, in one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @property
    def where(self) -> str:
        """`file:line:column`, as much of it as is known."""
        place = f"{self.position.line}:{self.position.column}" if self.position else ""
        return ":".join(part for part in (self.file, place) if part)

    def excerpt(self) -> str:
        """The source line with a caret under the place; "" where the place is not known."""
        if self.position is None or not self.text:
            return ""
        column = min(self.position.column - 1, len(self.text))
        start = max(0, column - MAX_EXCERPT // 2) if len(self.text) > MAX_EXCERPT else 0
        shown = "".join(char if char.isprintable() else " " for char in self.text[start : start + MAX_EXCERPT])
        return f"{shown}\n{' ' * (column - start)}^"

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}" if self.where else self.sentence


class BadFlow(InvalidInput):
    """A flow that can't run. `problems` are all its faults, at least one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(
            str(first),
            errors=[
                {"field": problem.where or problem.node or "flow", "value": problem.node, "rule": problem.sentence}
                for problem in self.problems
            ],
        )
