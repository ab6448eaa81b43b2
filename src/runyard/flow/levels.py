"""Whether the streams of a graph match (spec/modelbox.md 4.7): brackets that open and close, and where they stand.

Every link has a level. Sources open the outermost level, expand nodes, conditions and loops open further ones; collapse
nodes, merges of branches and the end of a loop close them. Ports that are matched must have the same level.
"""

from __future__ import annotations

from collections.abc import Iterable

from runyard.flow.graph import Bracket, Edge, Graph, Level, Node, NodeType, Structure
from runyard.flow.problem import Problem
from runyard.flow.source import Source
from runyard.flow.topology import Topology
from runyard.flow.unit_library import UnitKind

CHECK = "check graph failed, please check graph config."
MAX_PROBLEMS = 100
_OUTPUTS = "the outputs"
"""What the outputs of type match are called together: they are one sink."""


def match_streams(graph: Graph, topology: Topology, source: Source) -> tuple[Structure, list[Problem]]:
    """The structure of a graph whose ports and topology are in order, and every place where levels don't match."""
    matcher = _Matcher(graph, topology, source)
    return matcher.match(), matcher.problems


class _Matcher:
    def __init__(self, graph: Graph, topology: Topology, source: Source) -> None:
        self._graph, self._topology, self._source = graph, topology, source
        self._known: dict[tuple[Level | None, Bracket, str, frozenset[str]], Level] = {}
        self._loop_around: dict[Level, Level | None] = {}
        self._to = graph.edges_to()
        self._out: dict[tuple[str, str], Level] = {}
        self._levels: dict[str, Level] = {}
        self._merges: dict[tuple[str, str], str] = {}
        self._collapses: dict[str, str] = {}
        # Where the branches of a condition have come together in part: further merges of that level are refused.
        self._partly: set[Level] = set()
        self.problems: list[Problem] = []

    def match(self) -> Structure:
        for name in self._topology.order:
            self._visit(self._graph.nodes[name])
        self._match_outputs()
        self._close_loops()
        return Structure(
            self._levels,
            self._merges,
            self._collapses,
            {name: (loop.again, loop.leave) for name, loop in self._topology.loops.items()},
            self._topology.order,
        )

    def _visit(self, node: Node) -> None:
        """Find the level of a node's inputs, and from it those of its outputs. A fault is reported where it begins."""
        inputs: list[tuple[str, Level]] = []
        broken = False
        for port in node.inputs:
            level = self._port(node, port)
            if level is None:
                broken = True
            else:
                inputs.append((port, level))
        if broken:
            return
        if not node.inputs:
            level = self._level(None, Bracket.SOURCE, "" if node.type is NodeType.INPUT else node.name)
        else:
            level = inputs[0][1]
            for port, other in inputs[1:]:
                if other is not level:
                    self._mismatch(node.name, inputs[0][0], level, port, other, node)
                    return
        self._levels[node.name] = level
        self._leave(node, level)

    def _leave(self, node: Node, level: Level) -> None:
        """The levels of a node's outputs."""
        kind = node.info.kind if node.info else UnitKind.NORMAL
        if kind is UnitKind.COLLAPSE:
            if level.bracket is not Bracket.EXPAND:
                self._no_expand(node, level)
                return
            assert level.outer is not None
            self._collapses[node.name] = level.node
            level = level.outer
        elif kind is UnitKind.EXPAND:
            level = self._level(level, Bracket.EXPAND, node.name)
        loop = self._topology.loops.get(node.name)
        for port in node.outputs:
            if kind is UnitKind.CONDITION:
                self._out[node.name, port] = self._level(level, Bracket.CONDITION, node.name, frozenset((port,)))
            elif loop is not None and port == loop.again:
                self._out[node.name, port] = self._level(level, Bracket.LOOP, node.name)
            else:
                self._out[node.name, port] = level

    def _port(self, node: Node, port: str) -> Level | None:
        """The level of an input port: that of its only link, or what a merge leaves. None if that can't be said."""
        loop = self._topology.loops.get(node.name)
        edges = [edge for edge in self._to[node.name, port] if loop is None or edge is not loop.back]
        levels = [(edge, self._out.get((edge.source, edge.source_port))) for edge in edges]
        known = [(edge, level) for edge, level in levels if level is not None]
        if len(known) < len(levels):
            return None
        if len(known) == 1:
            return known[0][1]
        return self._merge(node, port, known)

    def _merge(self, node: Node, port: str, links: list[tuple[Edge, Level]]) -> Level | None:
        """Branches of one condition that come together on a port (M2, M3, M4, M8)."""
        first = links[0][1]
        if first.bracket is not Bracket.CONDITION and any(level.bracket is Bracket.CONDITION for _, level in links):
            links = sorted(links, key=lambda link: link[1].bracket is not Bracket.CONDITION)
            first = links[0][1]
        seen: dict[str, Edge] = {}
        for edge, level in links:
            same = level.bracket is Bracket.CONDITION and level.node == first.node and level.outer is first.outer
            if not same:
                self._no_merge(node, port, links[0], (edge, level))
                return None
            if level in self._partly:
                message = (
                    f"{node.name}: {port} port match failed, err: {edge} brings branches {_names(level.ports)} of "
                    f"condition {level.node!r}, which have been merged before"
                )
                self._note(message, node, port, edge, "merge all the branches of a condition on one port")
                return None
            for branch in level.ports:
                if branch in seen:
                    message = (
                        f"{node.name}: {port} port match failed, err: port {branch!r} of condition {level.node!r} "
                        f"gets here twice, by {seen[branch]} and by {edge}"
                    )
                    self._note(message, node, port, edge, "a branch may reach a merge by one way only")
                    return None
                seen[branch] = edge
        condition = self._graph.nodes[first.node]
        assert first.outer is not None
        self._merges[node.name, port] = first.node
        if len(seen) == len(condition.outputs):
            return first.outer
        rest = self._level(first.outer, Bracket.CONDITION, first.node, frozenset(seen))
        self._partly.add(rest)
        return rest

    def _match_outputs(self) -> None:
        """Outputs of type match are delivered in step, as if they were ports of one node."""
        first: tuple[Node, Level] | None = None
        for node in self._graph.outputs:
            level = self._levels.get(node.name)
            if not node.matched or level is None:
                continue
            if first is None:
                first = (node, level)
            elif level is not first[1]:
                self._mismatch(_OUTPUTS, first[0].name, first[1], node.name, level, node)

    def _close_loops(self) -> None:
        """What goes round must come back at the loop's own level, and nothing else may leave by the side (M15)."""
        for name, loop in self._topology.loops.items():
            inside, back = self._out.get((name, loop.again)), loop.back
            end = self._out.get((back.source, back.source_port))
            if inside is not None and end is not None and end is not inside:
                message = f"loop node {name}: what comes back by {back} {_difference(inside, end)} what went in"
                self._note(message, self._graph.nodes[name], back.target_port, back)
        for name, level in self._levels.items():
            around = self._loop_around[level]
            if around is not None and name not in self._topology.loops[around.node].body:
                node = self._graph.nodes[name]
                message = f"node:{name} has different level links, pls check the input links."
                hint = f"it is reached from inside the loop of {around.node!r}, which can be left only by that node"
                self._note(message, node, node.inputs[0], None, hint)

    # Words --------------------------------------------------------------------------------------------------------

    def _mismatch(self, name: str, port: str, level: Level, other_port: str, other: Level, node: Node) -> None:
        """Two ports that must match and don't (M1, M5, M11, M13)."""
        roots = _outermost(level), _outermost(other)
        if roots[0] is not roots[1]:
            message = (
                f"can not find LeastCommonAncestors node between {name}:{port} and {name}:{other_port}: "
                f"their data come from {roots[0]} and {roots[1]}"
            )
            hint = "data match only if they come from the same source"
        elif level.bracket is other.bracket is Bracket.EXPAND and level.outer is other.outer:
            message = (
                f"{name} match failed at multi ports err: port {port!r} is inside expand {level.node!r}, port "
                f"{other_port!r} inside expand {other.node!r}: unmatch expands are not the same."
            )
            hint = "collapse both before"
        else:
            message = (
                f"node:{name} has different level links, pls check the input links: port {other_port!r} "
                f"{_difference(level, other)} port {port!r}"
            )
            conditions = all(at.bracket is Bracket.CONDITION for at in (level, other)) and level.node == other.node
            hint = "merge the branches on one port" if conditions else "close what was opened before the ways meet"
        if name == _OUTPUTS:
            hint += ", or set output_type=unmatch"
        edges = self._to.get((node.name, node.name if name == _OUTPUTS else other_port), [])
        self._note(message, node, other_port, edges[0] if edges else None, hint)

    def _no_merge(self, node: Node, port: str, one: tuple[Edge, Level], other: tuple[Edge, Level]) -> None:
        (edge, level), (second, at) = one, other
        if second is edge:
            # Not even the first comes from a condition: there is nothing to merge.
            others = [link for link in self._to[node.name, port] if link is not edge]
            message = f"{node.name}: {port} match at {edge.source}: {edge} and {others[0]} lead into the same port"
            hint = "several links to one port must be branches of one condition"
        elif at.bracket is Bracket.CONDITION and at.node != level.node:
            message = (
                f"{node.name}: {port} port match failed, err: {edge} is in a branch of condition {level.node!r}, "
                f"{second} in one of {at.node!r}"
            )
            hint = "merge the inner condition's branches before, on a port of their own"
        else:
            message = (
                f"{node.name}: {port} port match failed, err: {edge} is in a branch of condition {level.node!r}, "
                f"{second} {_difference(level, at)} it"
            )
            hint = "several links to one port must be branches of one condition"
        self._note(message, node, port, second if second is not edge else edge, hint)

    def _no_expand(self, node: Node, level: Level) -> None:
        message = f"can't find a expand node for {node.name}"
        outer = next((at for at in level if at.bracket is Bracket.EXPAND), None)
        hint = "a collapse closes what an expand has opened"
        if outer is not None:
            hint = f"between it and expand {outer.node!r}, {level} is open: close that first"
        self._note(message, node, node.inputs[0], self._to[node.name, node.inputs[0]][0], hint)

    def _note(self, message: str, node: Node, port: str, edge: Edge | None, hint: str = "") -> None:
        place = edge.target_position if edge and edge.target == node.name else node.position
        if len(self.problems) < MAX_PROBLEMS:
            problem = self._source.problem(message, place, wrapped_by=(CHECK,), node=node.name, port=port, hint=hint)
            self.problems.append(problem)

    def _level(self, outer: Level | None, bracket: Bracket, node: str, ports: Iterable[str] = ()) -> Level:
        key = (outer, bracket, node, frozenset(ports))
        level = self._known.get(key)
        if level is None:
            level = self._known[key] = Level(bracket, node, outer, key[3], outer.depth + 1 if outer else 0)
            around = self._loop_around[outer] if outer else None
            self._loop_around[level] = level if bracket is Bracket.LOOP else around
        return level


def _outermost(level: Level) -> Level:
    return list(level)[-1]


def _names(ports: Iterable[str]) -> str:
    return ", ".join(repr(port) for port in sorted(ports))


def _difference(one: Level, other: Level) -> str:
    """How `other` lies to `one`, as a phrase that ends before the name of `one`'s thing."""
    common = set(one)
    opened = [level for level in other if level not in common]
    closed = [level for level in one if level not in set(other)]
    parts = []
    if opened:
        parts.append("is inside " + ", ".join(str(level) for level in reversed(opened[:4])))
    if closed:
        parts.append("is outside " + ", ".join(str(level) for level in reversed(closed[:4])))
    return " and ".join(parts) + ", unlike"
