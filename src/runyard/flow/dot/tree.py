"""What a DOT text comes to: nodes and edges with their attributes, subgraphs dissolved."""

from __future__ import annotations

from dataclasses import dataclass, field

from runyard.flow.problem import Position


class DotError(ValueError):
    """The text is no graph. `message` says why, `position` where, `text` is the source line."""

    def __init__(self, message: str, position: Position, text: str) -> None:
        super().__init__(f"{position.line}:{position.column}: {message}")
        self.message = message
        self.position = position
        self.text = text


@dataclass(slots=True)
class DotNode:
    """A node, the place where it is first named, and its attributes. Attributes with an empty value are kept."""

    name: str
    position: Position
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class DotEdge:
    """An edge and the places of its ends. A port is "" where none is named; the compass point is kept apart."""

    tail: str
    head: str
    tail_port: str
    head_port: str
    tail_compass: str
    head_compass: str
    position: Position
    head_position: Position
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class DotGraph:
    """A graph, with the nodes and edges of its subgraphs."""

    name: str
    directed: bool
    strict: bool
    position: Position
    attributes: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, DotNode] = field(default_factory=dict)
    edges: list[DotEdge] = field(default_factory=list)
