"""From a checked graph to a plan: kinds, batch and queue sizes, the doors for programs put together."""

from __future__ import annotations

from runyard.flow.graph import QUEUE_SIZE_EXTERNAL, Graph, Node, NodeType
from runyard.flow.runtime.plan import EdgePlan, Kind, NodePlan, Plan
from runyard.flow.unit_library import UnitInfo, UnitKind

INPUTS = "@inputs"
"""Name of the one node that all input nodes become (spec 4.5)."""
OUTPUTS = "@outputs"
"""Name of the one node that all matched output nodes become."""
INPUT_BATCH = 32
"""Rows that leave the inputs at once."""

_KINDS = {
    UnitKind.NORMAL: Kind.NORMAL, UnitKind.STREAM: Kind.STREAM, UnitKind.CONDITION: Kind.CONDITION,
    UnitKind.LOOP: Kind.LOOP, UnitKind.EXPAND: Kind.EXPAND, UnitKind.COLLAPSE: Kind.COLLAPSE,
}  # fmt: skip


def plan_graph(graph: Graph) -> Plan:
    """The plan of a graph that `check` found no fault with. Raises ValueError for a circle."""
    return _Planner(graph).plan()


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._plan = Plan()
        self._numbers: dict[str, int] = {}

    def plan(self) -> Plan:
        graph = self._graph
        for node in graph.nodes.values():
            if node.type is NodeType.FLOWUNIT:
                self._join((node.name,), self._add(_unit_plan(node)))
        if graph.inputs:
            names = tuple(node.name for node in graph.inputs)
            external = min(node.queue_size_external for node in graph.inputs)
            door = NodePlan(INPUTS, Kind.INPUT, (), names, batch=INPUT_BATCH, external_capacity=external)
            self._join(names, self._add(door))
        matched = tuple(node.name for node in graph.outputs if node.matched)
        if matched:
            self._join(matched, self._add(NodePlan(OUTPUTS, Kind.OUTPUT, matched)))
        for node in graph.outputs:
            if not node.matched:
                self._join((node.name,), self._add(NodePlan(node.name, Kind.OUTPUT, (node.name,))))
        for edge in graph.edges:
            source, target = self._numbers[edge.source], self._numbers[edge.target]
            at = self._plan.nodes[source].outputs.index(edge.source_port)
            to = self._plan.nodes[target].inputs.index(edge.target_port)
            capacity = graph.nodes[edge.target].queue_size(edge.target_port)
            self._plan.edges.append(EdgePlan(source, at, target, to, capacity))
        return self._plan.finish()

    def _add(self, node: NodePlan) -> int:
        self._plan.nodes.append(node)
        return len(self._plan.nodes) - 1

    def _join(self, names: tuple[str, ...], number: int) -> None:
        """The nodes of the graph that this one of the plan is."""
        for name in names:
            self._numbers[name] = number


def _unit_plan(node: Node) -> NodePlan:
    info = node.info or UnitInfo(node.unit)
    kind = _KINDS[info.kind]
    if not node.inputs:
        kind = Kind.SOURCE
    return NodePlan(
        node.name,
        kind,
        node.inputs,
        node.outputs,
        unit=node.unit,
        stream=info.stream,
        batch=node.batch_size,
        exception_visible=node.exception_visible,
        collapse_all=info.collapse_all,
        check_output=node.need_check_output,
        external_capacity=node.queue_size_external or QUEUE_SIZE_EXTERNAL,
        event_capacity=node.queue_size_event,
    )
