"""The shape of a graph: whether it hangs together, where it begins, its loops, and an order from sources to sinks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runyard.flow.graph import Edge, Graph, Node
from runyard.flow.problem import Problem
from runyard.flow.source import Source
from runyard.flow.status import StatusCode

INVALID = "invalid graph, please check graph config."
TOPOLOGY = "generate topology fail, please check graph config."
LOOP = "loop node is illegal, please check graph config."
LOOP_BODY = "check loop node fail, please check graph config."
MAX_PROBLEMS = 100
MAX_LOOPS = 16
"""Loops inside one another."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop node's ports that go round and leave, the edge that comes back, and the nodes on the way."""

    again: str
    leave: str
    back: Edge
    body: frozenset[str]


@dataclass(frozen=True, slots=True)
class Topology:
    """The nodes from sources to sinks with the loops' back edges left out, and the loops by their node."""

    order: tuple[str, ...]
    loops: Mapping[str, Loop]


def find_topology(graph: Graph, source: Source) -> tuple[Topology | None, list[Problem]]:
    """The topology of a graph with at least one node, or None if it has none; and what is wrong with it."""
    finder = _Finder(graph, source)
    return finder.find(), finder.problems


class _Finder:
    def __init__(self, graph: Graph, source: Source) -> None:
        self._graph, self._source = graph, source
        self._after: dict[str, list[Edge]] = {name: [] for name in graph.nodes}
        self._before: dict[str, list[Edge]] = {name: [] for name in graph.nodes}
        for edge in graph.edges:
            self._after[edge.source].append(edge)
            self._before[edge.target].append(edge)
        self.problems: list[Problem] = []

    def find(self) -> Topology | None:
        self._check_union()
        starts = [name for name in self._graph.nodes if not self._before[name]]
        if not starts:
            first = next(iter(self._graph.nodes.values()))
            self._note(
                "start node is not exist.", first, TOPOLOGY, hint="every node waits for another one: add a source"
            )
            return None
        self._check_loop_nodes()
        back = self._back_edges(starts)
        order = self._order(back)
        if self.problems:
            return None
        loops = self._loops(back)
        return None if self.problems else Topology(order, loops)

    def _check_union(self) -> None:
        """One connected component, the directions of the edges aside."""
        groups: list[list[str]] = []
        seen: set[str] = set()
        for name in self._graph.nodes:
            if name in seen:
                continue
            group, waiting = [], [name]
            seen.add(name)
            while waiting:
                at = waiting.pop()
                group.append(at)
                ends = [edge.target for edge in self._after[at]] + [edge.source for edge in self._before[at]]
                for end in ends:
                    if end not in seen:
                        seen.add(end)
                        waiting.append(end)
            groups.append(group)
        largest = max(groups, key=len)
        for group in groups:
            # A node without any link is an orphan, and reported as that.
            if group is not largest and len(group) > 1:
                node = self._graph.nodes[group[0]]
                others = "" if len(group) == 1 else f" and {len(group) - 1} more"
                message = f"not all node union. node {group[0]!r}{others} have no link to {largest[0]!r}"
                wrapped = (INVALID, "not all node connect.")
                self._problem(message, node, wrapped, "a flow is one graph: split it, or link its parts")

    def _check_loop_nodes(self) -> None:
        for node in self._loop_nodes():
            assert node.info is not None
            if len(node.info.inputs) != 1:
                message = f"loop node input should be one. node {node.name!r} has {len(node.info.inputs)}"
                self._note(message, node, LOOP, StatusCode.STATUS_FAULT)
            if len(node.info.outputs) != 2:
                message = f"loop node output shoulde be two. node {node.name!r} has {len(node.info.outputs)}"
                self._note(message, node, LOOP, StatusCode.STATUS_FAULT)
            if len(self._before[node.name]) != 2:
                message = f"loop node can only link 2 edges. {len(self._before[node.name])} lead into {node.name!r}"
                self._note(message, node, LOOP_BODY, hint="one that enters, and one that comes back")

    def _back_edges(self, starts: list[str]) -> dict[str, Edge]:
        """The edges that close a circle, by the node that they lead to. Circles without a loop node are problems."""
        result: dict[str, Edge] = {}
        waiting, done = set(), set()
        for start in [*starts, *self._graph.nodes]:
            if start in done:
                continue
            path: list[tuple[str, Iterator[Edge]]] = [(start, iter(self._after[start]))]
            waiting.add(start)
            while path:
                name, edges = path[-1]
                edge = next(edges, None)
                if edge is None:
                    path.pop()
                    waiting.discard(name)
                    done.add(name)
                elif edge.target in waiting:
                    self._circle(edge, path, result)
                elif edge.target not in done:
                    waiting.add(edge.target)
                    path.append((edge.target, iter(self._after[edge.target])))
        return result

    def _circle(self, edge: Edge, path: list[tuple[str, Iterator[Edge]]], back: dict[str, Edge]) -> None:
        node = self._graph.nodes[edge.target]
        if node.info is not None and node.info.loop and node.name not in back:
            back[node.name] = edge
            return
        if len(self.problems) >= MAX_PROBLEMS:
            return
        names = [name for name, _ in path]
        names = names[names.index(edge.target) :]
        shown = " -> ".join([*names[:8], *(["…"] if len(names) > 8 else []), edge.target])
        wrapped = (TOPOLOGY,)
        message = f"not all node connect. the nodes form a circle: {shown}"
        problem = self._source.problem(
            message,
            edge.target_position,
            wrapped_by=wrapped,
            node=edge.target,
            port=edge.target_port,
            hint="only a loop unit may stand where a circle begins",
        )
        self.problems.append(problem)

    def _order(self, back: Mapping[str, Edge]) -> tuple[str, ...]:
        """Nodes so that every edge but the back edges leads forward; as in the text where there is a choice."""
        left = {name: len(edges) - (name in back) for name, edges in self._before.items()}
        ready = [name for name in reversed(self._graph.nodes) if left[name] == 0]
        order = []
        while ready:
            name = ready.pop()
            order.append(name)
            for edge in self._after[name]:
                if back.get(edge.target) is edge:
                    continue
                left[edge.target] -= 1
                if left[edge.target] == 0:
                    ready.append(edge.target)
        return tuple(order)

    def _loops(self, back: Mapping[str, Edge]) -> Mapping[str, Loop]:
        result: dict[str, Loop] = {}
        nesting = dict.fromkeys(self._graph.nodes, 0)
        for node in self._loop_nodes():
            edge = back.get(node.name)
            if edge is None:
                self._note(f"loop node {node.name!r} is in no loop", node, LOOP_BODY, hint="lead one output back to it")
                continue
            body, ports = self._body(node.name, edge)
            for name in body:
                nesting[name] += 1
                inner = self._graph.nodes[name]
                if nesting[name] > MAX_LOOPS:
                    self._note(f"more than {MAX_LOOPS} loops inside one another", inner, LOOP_BODY)
                    return result
                if inner.info is not None and inner.info.stream:
                    message = f"loop node {name} can not be stream node."
                    hint = f"it is inside the loop of {node.name!r}"
                    self._note(message, inner, LOOP_BODY, StatusCode.STATUS_FAULT, hint=hint)
            leave = [port for port in node.outputs if port not in ports]
            if len(ports) != 1 or len(leave) != 1:
                message = f"loop node {node.name!r} has no output that leaves the loop"
                self._note(message, node, LOOP_BODY, hint="one output goes round, the other leaves")
                continue
            result[node.name] = Loop(next(iter(ports)), leave[0], edge, body)
        return result

    def _body(self, loop: str, back: Edge) -> tuple[frozenset[str], set[str]]:
        """The nodes between a loop node and its back edge, and the loop node's ports that lead there."""
        if back.source == loop:
            return frozenset(), {back.source_port}
        before, waiting = {back.source}, [back.source]
        while waiting:
            for edge in self._before[waiting.pop()]:
                if edge.source != loop and edge.source not in before:
                    before.add(edge.source)
                    waiting.append(edge.source)
        body: set[str] = set()
        waiting = [loop]
        while waiting:
            for edge in self._after[waiting.pop()]:
                if edge.target in before and edge.target not in body:
                    body.add(edge.target)
                    waiting.append(edge.target)
        return frozenset(body), {edge.source_port for edge in self._after[loop] if edge.target in body}

    def _loop_nodes(self) -> list[Node]:
        return [node for node in self._graph.nodes.values() if node.info is not None and node.info.loop]

    def _note(
        self,
        message: str,
        node: Node,
        wrapped_by: str,
        code: StatusCode = StatusCode.STATUS_BADCONF,
        *,
        hint: str = "",
    ) -> None:
        self._problem(message, node, (wrapped_by,), hint, code)

    def _problem(
        self,
        message: str,
        node: Node,
        wrapped_by: tuple[str, ...],
        hint: str = "",
        code: StatusCode = StatusCode.STATUS_BADCONF,
    ) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            problem = self._source.problem(
                message, node.position, code, wrapped_by=wrapped_by, node=node.name, hint=hint
            )
            self.problems.append(problem)
