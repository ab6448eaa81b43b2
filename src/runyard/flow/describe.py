"""A graph for people and programs to look at: as plain data, as DOT, as Mermaid."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runyard.flow.check import Checked
from runyard.flow.dot.lexer import KEYWORDS
from runyard.flow.graph import Graph, Node, NodeType
from runyard.flow.problem import Problem
from runyard.model.flow import FlowEdge, FlowGraph, FlowNode, FlowProblem

MAX_ATTRIBUTE = 4096
"""Characters of an attribute that are shown."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|-?(\.[0-9]+|[0-9]+(\.[0-9]*)?)")
_UNQUOTABLE = re.compile(r'(?<!\\)(?:\\\\)*\\(?:"|\r?\n|\Z)')


def describe(checked: Checked) -> FlowGraph:
    """The graph with all that is wrong with it, as clients see it."""
    graph = checked.graph
    return FlowGraph(
        name=graph.name,
        nodes=[
            FlowNode(
                name=node.name,
                type=node.type,
                unit=node.unit,
                kind=node.info.kind if node.info is not None else None,
                device=node.device,
                inputs=list(node.inputs),
                outputs=list(node.outputs),
                attributes={key: value[:MAX_ATTRIBUTE] for key, value in node.attributes.items()},
            )
            for node in graph.nodes.values()
        ],
        edges=[
            FlowEdge(source=edge.source, source_port=edge.source_port, target=edge.target, target_port=edge.target_port)
            for edge in graph.edges
        ],
        problems=describe_problems(checked.problems),
        warnings=describe_problems(checked.warnings),
    )


def describe_problems(problems: Iterable[Problem]) -> list[FlowProblem]:
    """Problems as clients see them."""
    return [
        FlowProblem(
            message=problem.sentence,
            code=problem.code.name,
            file=problem.file,
            line=problem.line,
            column=problem.column,
            node=problem.node,
            port=problem.port,
            excerpt=problem.excerpt(),
        )
        for problem in problems
    ]


def to_dot(graph: Graph) -> str:
    """The graph in its plainest DOT: a line for each node and each edge, every attribute at its node."""
    lines = [f"digraph {_quoted(graph.name)} {{" if graph.name else "digraph {"]
    lines += [f"  {_quoted(key)}={_quoted(value)}" for key, value in graph.attributes.items()]
    for node in graph.nodes.values():
        attributes = {"type": str(node.type), **node.attributes}
        listed = ", ".join(f"{_quoted(key)}={_quoted(value)}" for key, value in attributes.items())
        lines.append(f"  {_quoted(node.name)} [{listed}]")
    for edge in graph.edges:
        source = _end(graph.nodes[edge.source], edge.source_port)
        lines.append(f"  {source} -> {_end(graph.nodes[edge.target], edge.target_port)}")
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart, with the ports on the arrows."""
    ids = {name: f"n{number}" for number, name in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes.values():
        unit = "" if node.unit in ("", node.name) else f"<br/><i>{_entities(node.unit)}</i>"
        left, right = ('["', '"]') if node.type is NodeType.FLOWUNIT else ('(["', '"])')
        if node.info is not None and node.info.condition:
            left, right = '{"', '"}'
        lines.append(f"  {ids[node.name]}{left}{_entities(node.name)}{unit}{right}")
    for edge in graph.edges:
        ends = [
            port
            for name, port in ((edge.source, edge.source_port), (edge.target, edge.target_port))
            if graph.nodes[name].type is NodeType.FLOWUNIT and port
        ]
        label = f'|"{_entities(" → ".join(ends))}"|' if ends else ""
        lines.append(f"  {ids[edge.source]} -->{label} {ids[edge.target]}")
    return "\n".join(lines) + "\n"


def _end(node: Node, port: str) -> str:
    name = _quoted(node.name)
    return f"{name}:{_quoted(port)}" if node.type is NodeType.FLOWUNIT and port else name


def _quoted(text: str) -> str:
    """A name or value in DOT, in quotes if it needs them."""
    if _PLAIN.fullmatch(text) and text.lower() not in KEYWORDS:
        return text
    # What only an HTML string can hold came from one, and becomes one again.
    if _UNQUOTABLE.search(text):
        return f"<{text}>"
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


def _entities(text: str) -> str:
    """Text that Mermaid takes for nothing else, in one line."""
    return "".join(char if char.isalnum() or char in " _-.→/" else f"#{ord(char)};" for char in text)
