"""Turns a parsed DOT text into a flow's graph (spec/modelbox.md 4.2 to 4.5)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from runyard.flow.document import Argument, FlowDocument
from runyard.flow.dot import DotError, DotGraph, parse
from runyard.flow.dot.tree import DotEdge, DotNode
from runyard.flow.graph import INHERITED, Edge, Graph, Node, NodeType
from runyard.flow.problem import Problem
from runyard.flow.source import BUILD, Source
from runyard.flow.status import StatusCode

MAX_PROBLEMS = 100
MAX_NAME = 1024
"""Characters of a node's or port's name."""
_ARGUMENT = re.compile(r"\$([A-Za-z_][A-Za-z0-9_.-]*)")


def build_graph(
    document: FlowDocument, arguments: Mapping[str, str] | None = None
) -> tuple[Graph, list[Problem], Source]:
    """The graph of a document, with what is wrong with its text, its node types and its arguments.

    `arguments` stand in for `$name` in node options; the document's `[args]` give defaults. With neither, a `$` is a
    character like any other. Nodes of unknown type are left out with their edges, if the graph is not strict.
    """
    source = Source(document)
    try:
        dot = parse(document.dot)
    except DotError as error:
        return Graph(), [source.problem(error.message, error.position, StatusCode.STATUS_FAULT)], source
    builder = _Builder(document, dot, source, arguments)
    return builder.build(), builder.problems, source


class _Builder:
    def __init__(
        self, document: FlowDocument, dot: DotGraph, source: Source, arguments: Mapping[str, str] | None
    ) -> None:
        self._document, self._dot, self._source = document, dot, source
        self._given = dict(arguments or {})
        self._declared: Mapping[str, Argument] = document.arguments
        self.problems: list[Problem] = []

    def build(self) -> Graph:
        dot = self._dot
        if not dot.directed:
            self.problems.append(
                self._source.problem("the graph has no direction", dot.position, hint="write `digraph`, and `->`")
            )
        for name in sorted(self._given.keys() - self._declared.keys()):
            if not any(f"${name}" == value for node in dot.nodes.values() for value in node.attributes.values()):
                hint = _nearest(name, self._declared)
                self.problems.append(Problem(f"the flow has no argument {name!r}", file=self._document.file, hint=hint))
        graph = Graph(dot.name, attributes=_filled(dot.attributes))
        inherited = {
            **self._document.defaults,
            **{key: graph.attributes[key] for key in INHERITED if key in graph.attributes},
        }
        unknown = []
        for dot_node in dot.nodes.values():
            node = self._node(dot_node, inherited)
            if node is None:
                unknown.append(dot_node)
                if not self._document.strict:
                    continue
                # Stays in the graph, so that its neighbours are not reported for its sake.
                node = Node(dot_node.name, position=dot_node.position)
            graph.nodes[node.name] = node
        if self._document.strict:
            known = graph.nodes.keys() - {node.name for node in unknown}
            self.problems.extend(self._unknown_type(node, known) for node in unknown[:MAX_PROBLEMS])
        graph.edges.extend(self._edges(dot.edges, graph))
        _set_ports(graph)
        return graph

    def _node(self, dot: DotNode, inherited: Mapping[str, str]) -> Node | None:
        """A node, or None if its type is none that we know."""
        attributes = {key: self._filled_in(dot, key, value) for key, value in _filled(dot.attributes).items()}
        kind = attributes.get("type", "flowunit" if "flowunit" in attributes else "")
        if kind not in set(NodeType):
            return None
        if len(dot.name) > MAX_NAME:
            message = f"the node's name is longer than {MAX_NAME:,} characters"
            self.problems.append(self._source.problem(message, dot.position, node=dot.name[:80]))
        if kind == NodeType.FLOWUNIT:
            attributes = {**inherited, **attributes}
        return Node(
            dot.name,
            NodeType(kind),
            attributes.get("flowunit", "") if kind == NodeType.FLOWUNIT else "",
            attributes.get("device", ""),
            attributes,
            position=dot.position,
        )

    def _filled_in(self, node: DotNode, key: str, value: str) -> str:
        """An option's value, with the argument that it names in its place."""
        match = _ARGUMENT.fullmatch(value) if self._given or self._declared else None
        if match is None:
            return value
        name = match[1]
        declared = self._declared.get(name)
        result = self._given.get(name, declared.default if declared else None)
        if result is None:
            message = f"option {key!r} of node {node.name!r} needs argument {name!r}, which has no value"
            hint = "give it, or a default in [args]" if declared else _nearest(name, self._declared)
            self.problems.append(self._source.problem(message, node.position, node=node.name, hint=hint))
            return value
        return result

    def _unknown_type(self, dot: DotNode, known: Iterable[str]) -> Problem:
        kind = dot.attributes.get("type", "")
        message = f"unsupport node type. name: '{_short(dot.name)}' type: '{_short(kind)}'"
        if kind:
            hint = f"a type is one of {', '.join(NodeType)}"
        elif dot.attributes.keys() & {"device", "deviceid", "batch_size", "queue_size"}:
            hint = "say which unit it is: flowunit=NAME"
        else:
            hint = _nearest(dot.name, known) or f"only edges name it: add {_short(dot.name)}[flowunit=NAME]"
        code = StatusCode.STATUS_NOTSUPPORT
        return self._source.problem(message, dot.position, code, wrapped_by=(BUILD,), node=dot.name, hint=hint)

    def _edges(self, edges: Iterable[DotEdge], graph: Graph) -> Iterable[Edge]:
        """The edges between known nodes, once each."""
        seen = set()
        for dot in edges:
            tail, head = graph.nodes.get(dot.tail), graph.nodes.get(dot.head)
            if tail is None or head is None:
                continue
            source_port = dot.tail if tail.type is not NodeType.FLOWUNIT else dot.tail_port
            target_port = dot.head if head.type is not NodeType.FLOWUNIT else dot.head_port
            ends = (dot.tail, source_port, dot.head, target_port)
            if ends in seen:
                continue
            seen.add(ends)
            if head.type is NodeType.INPUT or tail.type is NodeType.OUTPUT:
                wrong, what = (head, "input") if head.type is NodeType.INPUT else (tail, "output")
                verb = "lead into" if what == "input" else "come out of"
                place = dot.head_position if wrong is head else dot.position
                message = f"an edge can't {verb} {what} node {_short(wrong.name)!r}"
                self.problems.append(self._source.problem(message, place, node=wrong.name))
            yield Edge(*ends, dot.position, dot.head_position)


def _set_ports(graph: Graph) -> None:
    inputs: dict[str, dict[str, None]] = {name: {} for name in graph.nodes}
    outputs: dict[str, dict[str, None]] = {name: {} for name in graph.nodes}
    for edge in graph.edges:
        outputs[edge.source][edge.source_port] = None
        inputs[edge.target][edge.target_port] = None
    for name, node in graph.nodes.items():
        node.inputs, node.outputs = tuple(inputs[name]), tuple(outputs[name])


def _filled(attributes: Mapping[str, str]) -> dict[str, str]:
    """An attribute with an empty value counts as absent."""
    return {key: value for key, value in attributes.items() if value}


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:64], [other for other in known if len(other) <= 64][:200], n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _short(name: str) -> str:
    return name if len(name) <= 80 else name[:79] + "…"
