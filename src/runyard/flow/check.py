"""Says all that is wrong with a flow before anything of it is started (spec/modelbox.md 4.6)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from runyard.flow.build import build_graph
from runyard.flow.document import FlowDocument
from runyard.flow.graph import ENGINE_ATTRIBUTES, Edge, Graph, Node, NodeType
from runyard.flow.levels import match_streams
from runyard.flow.problem import BadFlow, Position, Problem
from runyard.flow.source import BUILD, Source
from runyard.flow.status import StatusCode
from runyard.flow.topology import INVALID, find_topology
from runyard.flow.unit_library import Port, UnitInfo, UnitLibrary

MAX_PROBLEMS = 200
MAX_LOOKUPS = 2000
"""Attributes that are compared with a unit's options, to find misspelt ones."""
MAX_COUNT = 2**31 - 1
_COUNTS = ("batch_size", "queue_size", "queue_size_event", "queue_size_external")
_DEVICE = re.compile(r"[A-Za-z][\w-]*(:\d+(,\d+)*)?(;[A-Za-z][\w-]*(:\d+(,\d+)*)?)*")
_OUTPUT_TYPES = ("match", "unmatch")
_PORTS = "flowunit '{}' config error, port not connect correctly."


@dataclass(frozen=True, slots=True)
class Checked:
    """A graph with its units found, and everything that is wrong with it. Without problems it has its structure.

    `warnings` are oddities that keep nothing from running, such as an option that looks misspelt.
    """

    graph: Graph
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()

    def raise_problems(self) -> None:
        """Raises BadFlow if there are problems."""
        if self.problems:
            raise BadFlow(self.problems)


def check_flow(
    document: FlowDocument, library: UnitLibrary | None = None, arguments: Mapping[str, str] | None = None
) -> Checked:
    """Check a flow against a library; by default that of the document's own directories and the built-in units."""
    if library is None:
        library = UnitLibrary.load(document.directories, builtin=not document.skip_default)
    graph, problems, source = build_graph(document, arguments)
    if graph.nodes or not problems:
        checker = _Checker(graph, source, library, strict=document.strict)
        checker.problems.extend(problems)
        checker.check()
        return Checked(graph, tuple(checker.problems[:MAX_PROBLEMS]), tuple(checker.warnings[:MAX_PROBLEMS]))
    return Checked(graph, tuple(problems[:MAX_PROBLEMS]))


class _Checker:
    def __init__(self, graph: Graph, source: Source, library: UnitLibrary, *, strict: bool) -> None:
        self._graph, self._source, self._library, self._strict = graph, source, library, strict
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._near: dict[tuple[str, str], list[str]] = {}

    def check(self) -> None:
        graph = self._graph
        self._drop_or_report_orphans()
        self._check_counts(graph.attributes, None)
        for node in list(graph.nodes.values()):
            self._check_attributes(node)
            if node.type is NodeType.FLOWUNIT:
                self._find_unit(node)
        self._check_ports()
        if not graph.nodes:
            if not self.problems:
                self._note("graph is empty, no node.", None, wrapped_by=(INVALID,))
            return
        topology, problems = find_topology(graph, self._source)
        self.problems.extend(problems)
        # Levels say something sensible only about a graph whose units and ports are known.
        if topology is not None and not self.problems:
            structure, problems = match_streams(graph, topology, self._source)
            self.problems.extend(problems)
            if not problems:
                graph.structure = structure

    def _drop_or_report_orphans(self) -> None:
        linked = {name for edge in self._graph.edges for name in (edge.source, edge.target)}
        for name in [name for name in self._graph.nodes if name not in linked]:
            if self._strict:
                message = f"orphan node: '{name}', use graph.strict=false to disable orphan check"
                self._note(message, self._graph.nodes[name])
            else:
                del self._graph.nodes[name]

    def _check_counts(self, attributes: Mapping[str, str], node: Node | None) -> None:
        for key, value in attributes.items():
            # What the graph hands down is a fault of the graph's, not one of each node's.
            inherited = node is not None and self._graph.attributes.get(key) == value
            if (key in _COUNTS or key.startswith("queue_size_")) and not inherited:
                text = value.strip()
                if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 0 < int(text) <= MAX_COUNT):
                    who = f"node {node.name!r}" if node else "the graph"
                    message = f"{who}: {key} must be a whole number of at least 1, not {value[:40]!r}"
                    self._note(message, node, StatusCode.STATUS_INVALID)

    def _check_attributes(self, node: Node) -> None:
        self._check_counts(node.attributes, node)
        if node.type is NodeType.OUTPUT and node.attributes.get("output_type", "match") not in _OUTPUT_TYPES:
            message = f"Invalid Output Type {node.attributes['output_type'][:40]!r} of node {node.name!r}"
            self._note(message, node, StatusCode.STATUS_INVALID, hint=f"it is one of {', '.join(_OUTPUT_TYPES)}")

    def _find_unit(self, node: Node) -> None:
        if not node.unit:
            # A node without attributes is of unknown type, and reported as that.
            if node.attributes:
                self._note(f"node {node.name}: flowunit name is empty.", node, StatusCode.STATUS_INVALID)
            return
        if node.device and not _DEVICE.fullmatch(node.device):
            message = f"node {node.name!r}: device {node.device[:40]!r} is none"
            self._note(message, node, hint="write cpu, cuda, cuda:0, or a list such as cuda:0,1;cpu")
            return
        for device in [part.partition(":")[0] for part in node.device.split(";")]:
            info = self._library.find(node.unit, device)
            if info is not None:
                node.info = info
                self._check_options(node, info)
                return
        if len(self.problems) >= MAX_PROBLEMS:
            return
        self._note(
            f"can not find flowunit [type: {node.device or 'any'}, name:{node.unit}], Please check if the 'device' "
            "configured correctly or if the flowunit library exists.",
            node,
            StatusCode.STATUS_NOTFOUND,
            wrapped_by=(BUILD, f"create flowunit '{node.unit}' failed."),
            hint=self._why_not_found(node),
        )

    def _why_not_found(self, node: Node) -> str:
        devices = self._library.devices(node.unit)
        if devices:
            return f"{node.unit!r} exists for {', '.join(devices)} only"
        about = next((problem for problem in self._library.problems if f"{node.unit!r}" in problem.message), None)
        if about is not None:
            return str(about)
        near = self._library.nearest(node.unit)
        if near:
            return f"did you mean {' or '.join(map(repr, near))}?"
        missing = next((problem for problem in self._library.problems if problem.file), None)
        return str(missing) if missing is not None else "`runyard flow units` lists what there is"

    def _check_options(self, node: Node, info: UnitInfo) -> None:
        """Say which attributes look like misspelt options: they would be ignored without a word."""
        known = {option.name for option in info.options}
        words = known | ENGINE_ATTRIBUTES
        for key in node.attributes:
            if key in words or len(key) > 64:
                continue
            near = self._near.get((info.name, key))
            if near is None:
                if len(self._near) >= MAX_LOOKUPS:
                    return
                near = difflib.get_close_matches(key, words, n=1, cutoff=0.85)
                self._near[info.name, key] = near
            if near and len(self.warnings) < MAX_PROBLEMS:
                message = f"node {node.name!r}: unit {info.name!r} knows no option {key!r}"
                hint = f"did you mean {near[0]!r}?"
                self.warnings.append(self._source.problem(message, node.position, node=node.name, hint=hint))

    def _check_ports(self) -> None:
        """Connected ports are the declared ones, both ways. Sets the nodes' ports in their units' order."""
        for edge in self._graph.edges:
            source, target = self._graph.nodes[edge.source], self._graph.nodes[edge.target]
            if source.info is not None and source.info.output(edge.source_port) is None:
                self._unknown_port(source, edge, edge.source_port, "output", source.info.outputs, edge.position)
            if target.info is not None and target.info.input(edge.target_port) is None:
                self._unknown_port(target, edge, edge.target_port, "input", target.info.inputs, edge.target_position)
        for node in self._graph.nodes.values():
            if node.info is None:
                continue
            for what, declared, used in (
                ("input", node.info.inputs, node.inputs),
                ("output", node.info.outputs, node.outputs),
            ):
                for port in declared:
                    # An orphan has been reported as one.
                    if port.name not in used and (node.inputs or node.outputs):
                        hint = "every output must be consumed; an output node can take it" if what == "output" else ""
                        message = f"node {node.name!r}: {what} port {port.name!r} is not connected"
                        wrapped = (BUILD, _PORTS.format(node.unit))
                        self._note(message, node, port=port.name, wrapped_by=wrapped, hint=hint)
            node.inputs = _ordered(node.info.inputs, node.inputs)
            node.outputs = _ordered(node.info.outputs, node.outputs)

    def _unknown_port(
        self, node: Node, edge: Edge, port: str, what: str, declared: tuple[Port, ...], place: Position | None
    ) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            return
        names = [known.name for known in declared]
        shown = ", ".join(map(repr, names[:20])) or "none"
        if port:
            message = f"node {node.name!r} has no {what} port {port!r}"
            near = difflib.get_close_matches(port[:64], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the {what} ports of {node.unit!r} are: {shown}"
        else:
            message = f"the edge names no {what} port of node {node.name!r}"
            hint = f"write {node.name}:{names[0]}" if len(names) == 1 else f"its {what} ports are: {shown}"
        wrapped = (BUILD, _PORTS.format(node.unit))
        self.problems.append(
            self._source.problem(message, place, wrapped_by=wrapped, node=node.name, port=port, hint=hint)
        )

    def _note(
        self,
        message: str,
        node: Node | None,
        code: StatusCode = StatusCode.STATUS_BADCONF,
        *,
        wrapped_by: tuple[str, ...] = (BUILD,),
        port: str = "",
        hint: str = "",
    ) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            place, name = (node.position, node.name) if node else (None, "")
            problem = self._source.problem(message, place, code, wrapped_by=wrapped_by, node=name, port=port, hint=hint)
            self.problems.append(problem)


def _ordered(declared: tuple[Port, ...], used: tuple[str, ...]) -> tuple[str, ...]:
    """The ports in use, in the unit's order; ports that the unit does not have come last."""
    names = [port.name for port in declared if port.name in used]
    return (*names, *(port for port in used if port not in names))
