"""A flow's graph after parsing: typed nodes and edges, without any opinion on whether they make sense."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from runyard.flow.problem import Position
from runyard.flow.unit_library import UnitInfo

QUEUE_SIZE = 32
"""Buffers that an input port holds, unless the node or the graph says otherwise (spec/modelbox.md 4.3)."""
QUEUE_SIZE_EXTERNAL = 1024
"""External data that a source node holds."""
INHERITED = ("queue_size", "batch_size", "deviceid", "need_check_output")
"""Attributes of the graph that nodes take over unless they set them (spec/modelbox.md 4.4)."""
ENGINE_ATTRIBUTES = frozenset(
    (
        *INHERITED,
        "type",
        "flowunit",
        "device",
        "label",
        "queue_size_event",
        "queue_size_external",
        "output_type",
        "is_exception_visible",
        "isolation",
        "processes",
    )
)
"""Attributes that the engine reads. All the same a unit's `open` sees them too, as in ModelBox."""


class NodeType(StrEnum):
    """What a node is: a unit at work, or a door through which a program feeds or reads the flow."""

    FLOWUNIT = "flowunit"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Edge:
    """A link from an output port to an input port, and where its two ends stand in the text.

    Input and output nodes have exactly one port, which is named like the node.
    """

    source: str
    source_port: str
    target: str
    target_port: str
    position: Position | None = None
    target_position: Position | None = None

    def __str__(self) -> str:
        return f"{self.source}:{self.source_port} -> {self.target}:{self.target_port}"


@dataclass(slots=True)
class Node:
    """One node. `attributes` are as written, with what the graph hands down; `inputs` and `outputs` are its ports.

    The ports are those that edges name, in the unit's order once `info` is known (`check` sets both).
    """

    name: str
    type: NodeType = NodeType.FLOWUNIT
    unit: str = ""
    device: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    position: Position | None = None
    info: UnitInfo | None = None

    @property
    def options(self) -> dict[str, object]:
        """What the unit's `open` gets: the unit's own `[config]`, overridden by the node's attributes."""
        config = self.info.config if self.info else {}
        return {**config, **self.attributes}

    @property
    def batch_size(self) -> int:
        """Buffers of one `process` call at most: the node's or graph's wish, within what the unit allows."""
        info = self.info
        if info is None or info.condition or info.expand or info.collapse:
            return 1
        wish = _integer(self.attributes.get("batch_size")) or info.default_batch_size or (1 if info.stream else 8)
        return max(1, min(wish, info.max_batch_size or wish))

    def queue_size(self, port: str) -> int:
        """Buffers that the queue of an input port holds."""
        attributes = self.attributes
        return _integer(attributes.get(f"queue_size_{port}")) or _integer(attributes.get("queue_size")) or QUEUE_SIZE

    @property
    def queue_size_event(self) -> int:
        return _integer(self.attributes.get("queue_size_event")) or self.queue_size("")

    @property
    def queue_size_external(self) -> int:
        return _integer(self.attributes.get("queue_size_external")) or QUEUE_SIZE_EXTERNAL

    @property
    def need_check_output(self) -> bool:
        return is_true(self.attributes.get("need_check_output", ""))

    @property
    def exception_visible(self) -> bool:
        """Whether the unit sees error buffers. The node's `is_exception_visible` overrides the unit's flag."""
        own = self.attributes.get("is_exception_visible")
        return is_true(own) if own is not None else bool(self.info and self.info.exception_visible)

    @property
    def matched(self) -> bool:
        """Of an output node: delivered in step with the other matched outputs (`output_type`)."""
        return self.attributes.get("output_type", "match") == "match"


class Bracket(StrEnum):
    """What opens a nesting level: a source (or all inputs together) the outermost, the units named here the others."""

    SOURCE = "source"
    EXPAND = "expand"
    CONDITION = "condition"
    LOOP = "loop"


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """A nesting level: what opened it, and the level around it. Equal levels are the same object.

    `node` is "" for the level of the flow's inputs. `ports` are, of a condition, the out-ports whose data are meant.
    """

    bracket: Bracket
    node: str
    outer: Level | None = None
    ports: frozenset[str] = frozenset()
    depth: int = 0

    def __iter__(self) -> Iterator[Level]:
        """This level and those around it, the innermost first."""
        level: Level | None = self
        while level is not None:
            yield level
            level = level.outer

    def __str__(self) -> str:
        if self.bracket is Bracket.CONDITION:
            return f"branch {', '.join(map(repr, sorted(self.ports)))} of condition {self.node!r}"
        return f"{self.bracket} {self.node!r}" if self.node else "the flow's inputs"


@dataclass(frozen=True, slots=True)
class Structure:
    """How brackets nest, found by `check` (spec/modelbox.md 4.7). Only a graph without problems has one.

    `levels`: node → the level of its inputs, or of a source its own. `merges`: input ports (node, port) where branches
    of a condition come together → that condition. `collapses`: collapse node → the expand node whose bracket it
    closes. `loops`: loop node → (port that goes round, port that leaves). `order`: nodes from the sources to the sinks,
    the edges that end a loop left out.
    """

    levels: Mapping[str, Level]
    merges: Mapping[tuple[str, str], str]
    collapses: Mapping[str, str]
    loops: Mapping[str, tuple[str, str]]
    order: tuple[str, ...]


@dataclass(slots=True)
class Graph:
    """Nodes by name, in the order in which they were written, and edges without repetition."""

    name: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    structure: Structure | None = None

    def edges_from(self) -> Mapping[tuple[str, str], list[Edge]]:
        """The edges by (node, output port). A snapshot, made at the call."""
        return _grouped(((edge.source, edge.source_port), edge) for edge in self.edges)

    def edges_to(self) -> Mapping[tuple[str, str], list[Edge]]:
        """The edges by (node, input port). A snapshot, made at the call."""
        return _grouped(((edge.target, edge.target_port), edge) for edge in self.edges)

    @property
    def inputs(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.type is NodeType.INPUT]

    @property
    def outputs(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.type is NodeType.OUTPUT]


def is_true(text: str) -> bool:
    """What ModelBox's configuration takes for true."""
    return text.strip().lower() in ("true", "1", "yes", "on")


def _integer(text: str | None) -> int:
    """A positive count, or 0 for what is none: `check` has reported it."""
    try:
        return max(0, int(text.strip())) if text else 0
    except ValueError:
        return 0


def _grouped(pairs: Iterable[tuple[tuple[str, str], Edge]]) -> dict[tuple[str, str], list[Edge]]:
    result: defaultdict[tuple[str, str], list[Edge]] = defaultdict(list)
    for key, edge in pairs:
        result[key].append(edge)
    return dict(result)
