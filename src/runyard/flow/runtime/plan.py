"""A graph made ready to run: numbered nodes and edges, priorities, and the nesting level of every port."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from runyard.flow.buffer import Scope


class Kind(StrEnum):
    """How a node treats what it gets (spec 5.2)."""

    SOURCE = "source"
    INPUT = "input"
    OUTPUT = "output"
    NORMAL = "normal"
    STREAM = "stream"
    CONDITION = "condition"
    EXPAND = "expand"
    COLLAPSE = "collapse"
    LOOP = "loop"


@dataclass(slots=True)
class NodePlan:
    """One node. `stream` tells the two sorts of expand, collapse and source units apart.

    `scope` and `out_scopes` (found by `Plan.finish`) name the open brackets around the inputs and outputs: `*node` for
    an expand, `node:port` for a branch of a condition. `round_port` is the output of a loop that goes round.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    unit: str = ""
    stream: bool = False
    batch: int = 1
    exception_visible: bool = False
    collapse_all: bool = True
    check_output: bool = False
    external_capacity: int = 1024
    event_capacity: int = 32
    scope: Scope = ()
    out_scopes: tuple[Scope, ...] = ()
    round_port: int = -1

    @property
    def depth(self) -> int:
        """How many expands are open around the inputs."""
        return sum(1 for bracket in self.scope if bracket[0] == "*")


@dataclass(slots=True)
class EdgePlan:
    """A link between ports, both by number. `back` closes a loop."""

    source: int
    source_port: int
    target: int
    target_port: int
    capacity: int = 32
    back: bool = False


@dataclass(slots=True)
class Plan:
    """Nodes and edges by number. `order` has the numbers from the sources to the sinks."""

    nodes: list[NodePlan] = field(default_factory=list)
    edges: list[EdgePlan] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    def finish(self) -> Plan:
        """Finds back edges, order and scopes. The graph must have passed the check: it is not repeated here."""
        outgoing: list[list[EdgePlan]] = [[] for _ in self.nodes]
        incoming: list[list[EdgePlan]] = [[] for _ in self.nodes]
        for edge in self.edges:
            outgoing[edge.source].append(edge)
            incoming[edge.target].append(edge)
        for index, node in enumerate(self.nodes):
            if node.kind is Kind.LOOP:
                self._find_loop(index, node, outgoing, incoming)
        missing = [sum(not edge.back for edge in edges) for edges in incoming]
        waiting = deque(index for index, count in enumerate(missing) if count == 0)
        self.order = []
        while waiting:
            index = waiting.popleft()
            self.order.append(index)
            self._place(index, incoming[index])
            for edge in outgoing[index]:
                if not edge.back:
                    missing[edge.target] -= 1
                    if missing[edge.target] == 0:
                        waiting.append(edge.target)
        if len(self.order) != len(self.nodes):
            stuck = next(node.name for node, count in zip(self.nodes, missing, strict=True) if count > 0)
            raise ValueError(f"the graph has a circle without a loop unit, at or before node {stuck!r}")
        return self

    def _find_loop(
        self, index: int, node: NodePlan, outgoing: list[list[EdgePlan]], incoming: list[list[EdgePlan]]
    ) -> None:
        for port in range(len(node.outputs)):
            seen: set[int] = set()
            waiting = [edge.target for edge in outgoing[index] if edge.source_port == port]
            while waiting:
                at = waiting.pop()
                if at in seen:
                    continue
                seen.add(at)
                if at != index:
                    waiting.extend(edge.target for edge in outgoing[at])
            if index in seen:
                node.round_port = port
                for edge in incoming[index]:
                    edge.back = edge.source_port == port if edge.source == index else edge.source in seen
                return

    def _place(self, index: int, incoming: list[EdgePlan]) -> None:
        node = self.nodes[index]
        scope: Scope | None = None
        for edge in incoming:
            if edge.back:
                continue
            other = self.nodes[edge.source].out_scopes[edge.source_port]
            scope = other if scope is None else _common(scope, other)
        node.scope = scope = scope or ()
        if node.kind is Kind.EXPAND:
            node.out_scopes = ((*scope, "*" + node.name),) * len(node.outputs)
        elif node.kind is Kind.CONDITION:
            node.out_scopes = tuple((*scope, f"{node.name}:{port}") for port in node.outputs)
        elif node.kind is Kind.COLLAPSE:
            opened = max((at for at, bracket in enumerate(scope) if bracket[0] == "*"), default=0)
            node.out_scopes = (scope[:opened],) * len(node.outputs)
        else:
            node.out_scopes = (scope,) * len(node.outputs)


def _common(one: Scope, other: Scope) -> Scope:
    if one == other:
        return one
    at = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        at += 1
    return one[:at]
