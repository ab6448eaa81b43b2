"""The text of a graph, where it came from, and problems that point into it."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.flow.document import FlowDocument
from runyard.flow.problem import Position, Problem
from runyard.flow.status import StatusCode

BUILD = "build graph failed, please check graph config."
"""ModelBox's message around everything that is wrong with nodes, ports and links."""


@dataclass(slots=True)
class Source:
    """Makes problems that point at a place in a graph's text."""

    document: FlowDocument
    _lines: list[str] | None = None

    def problem(
        self,
        message: str,
        position: Position | None,
        code: StatusCode = StatusCode.STATUS_BADCONF,
        *,
        wrapped_by: tuple[str, ...] = (BUILD,),
        node: str = "",
        port: str = "",
        hint: str = "",
    ) -> Problem:
        """A problem at a place of the DOT text; in a document that holds the text as it is, at the document's place."""
        document = self.document
        text, file = "", document.dot_file or document.file
        if position is not None:
            if self._lines is None:
                self._lines = (document.dot_prefix + document.dot.removeprefix("\ufeff")).split("\n")
            text = self._lines[position.line - 1] if position.line <= len(self._lines) else ""
            if position.line == 1:
                position = Position(1, position.column + len(document.dot_prefix))
            if document.dot_line:
                position = Position(position.line + document.dot_line - 1, position.column)
            elif not document.dot_file:
                file = f"{file}:graphconf" if file else "graphconf"
        return Problem(message, code, position, node, port, wrapped_by, hint, file, text.rstrip("\r"))
