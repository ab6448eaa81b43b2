"""The flow as a state machine: sessions come in, calls of units are taken out and their results put back.

Not thread-safe: the scheduler holds `lock` around every method. `lock` and `changed` are set by it; here they are
only handed to units that send events from threads of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from runyard.flow.buffer import DataMeta
from runyard.flow.runtime.lane import Call, Lane, Session
from runyard.flow.runtime.loop_node import LoopNode
from runyard.flow.runtime.node import ConditionNode, Edge, Node
from runyard.flow.runtime.plan import Kind, NodePlan, Plan
from runyard.flow.runtime.port_node import InputNode, OutputNode
from runyard.flow.runtime.stream_node import (
    CollapseNode,
    ExpandNode,
    SourceNode,
    StreamCollapseNode,
    StreamExpandNode,
    StreamNode,
)
from runyard.flow.session import SessionContext
from runyard.flow.status import Status

GROWTH = 2
"""A queue grows by this factor when the graph would otherwise stand still."""


class Machine:
    """All nodes and sessions of one flow. `mask` has the bit of every runnable node, the nearest to the sinks lowest.

    `ended` are sessions that have left since it was last emptied; `fault` is what ended the flow, `freed` says that a
    source or input has room again.
    """

    def __init__(self, plan: Plan) -> None:
        self.lock: Any = nullcontext()
        self.changed: Callable[[], None] = lambda: None
        self.mask = 0
        self.fault: Status | None = None
        self.freed = False
        self.ended: list[Session] = []
        self.sessions: set[Session] = set()
        self.total_sessions = 0
        ranks = {index: rank for rank, index in enumerate(reversed(plan.order))}
        self.nodes = [_node(self, index, node, ranks[index]) for index, node in enumerate(plan.nodes)]
        self.by_rank = [self.nodes[index] for index in reversed(plan.order)]
        self.edges: list[Edge] = []
        for each in plan.edges:
            edge = Edge(each, self.nodes[each.source], self.nodes[each.target])
            edge.source.outs[each.source_port].append(edge)
            edge.target.ins.append(edge)
            self.edges.append(edge)
        for node in self.nodes:
            node.wire()
        self._reach: dict[int, int] = {}
        self._limit_loops()

    def _limit_loops(self) -> None:
        for node in self.nodes:
            if isinstance(node, LoopNode):
                inside = self._inside(node)
                node.limit = min((edge.capacity for edge in inside), default=1)

    def _inside(self, loop: Node) -> list[Edge]:
        edges: list[Edge] = []
        seen: set[int] = set()
        waiting = list(loop.outs[loop.round_port]) if isinstance(loop, LoopNode) else []
        while waiting:
            edge = waiting.pop()
            edges.append(edge)
            target = edge.target
            if target is not loop and target.index not in seen:
                seen.add(target.index)
                waiting.extend(each for port in target.outs for each in port)
        return edges

    # -- sessions --------------------------------------------------------------------------------------------------

    def begin(self, source: Node, context: SessionContext | None = None, collector: Any = None) -> Lane:
        """A new session at a source or input node: its lane there."""
        session = Session(context or SessionContext(), self._reachable(source), collector)
        self.sessions.add(session)
        self.total_sessions += 1
        return source.new_lane(session)

    def _reachable(self, source: Node) -> int:
        count = self._reach.get(source.index)
        if count is None:
            seen = {source.index}
            waiting = [source]
            while waiting:
                for port in waiting.pop().outs:
                    for edge in port:
                        if edge.target.index not in seen:
                            seen.add(edge.target.index)
                            waiting.append(edge.target)
            count = self._reach[source.index] = len(seen)
        return count

    def end(self, session: Session) -> None:
        """The session has left every node."""
        if session in self.sessions:
            self.sessions.discard(session)
            self.ended.append(session)

    def shut_down(self, session: Session) -> None:
        """Lets a session end by itself: its units get no more events. What is in the flow still goes through it."""
        if not session.closing:
            session.closing = True
            for lane in list(session.lanes.values()):
                if isinstance(lane.node, StreamNode):
                    lane.node.give_up(lane)

    # -- calls -----------------------------------------------------------------------------------------------------

    def finish(self, call: Call) -> None:
        """Puts the results of a call in."""
        node = call.node
        if call.stop is not None:
            self.fail(call.stop)
            return
        metas = call.context._metas
        if metas:
            lane = call.lane or call.parts[0].lane
            session = lane.session
            if session.metas is None:
                session.metas = {}
            for port, meta in metas.items():
                session.metas[node.index, node.plan.outputs.index(port)] = meta
        node.finish(call)

    def fail(self, status: Status) -> None:
        """Ends the whole flow. The first reason stays."""
        if self.fault is None:
            self.fault = status

    def unblock(self) -> bool:
        """For a machine that stands still: lets the smallest full queue grow, so that the graph can go on.

        Queues that are too short for a graph (a branch that holds back more than the other branch's queue takes) can
        stop it for ever; growing the smallest until it moves is Parks' rule for bounded process networks.

        A queue full of data for a unit that waits for events is not too short: as with a call that takes long, the
        graph goes on by itself when the event comes.
        """
        full = [edge for edge in self.edges if edge.full]
        if not full:
            return False
        patient = self._patient(full)
        full = [edge for edge in full if edge.source.ready and edge.source not in patient]
        if not full:
            return False
        edge = min(full, key=lambda each: each.capacity)
        edge.capacity = max(edge.capacity * GROWTH, edge.depth + 1)
        edge.take(0)
        return True

    def _patient(self, full: list[Edge]) -> set[Node]:
        """The nodes that can't go on before an event comes for one further on."""
        waiting = [edge.source for edge in full if self._awaits_event(edge)]
        patient: set[Node] = set()
        while waiting:
            node = waiting.pop()
            if node not in patient:
                patient.add(node)
                waiting.extend(edge.source for edge in node.ins if edge.full)
        return patient

    def _awaits_event(self, edge: Edge) -> bool:
        """Whether one session alone has filled the queue, and waits for an event."""
        target = edge.target
        if not isinstance(target, StreamNode):
            return False
        lanes = (session.lanes.get(target.index) for session in self.sessions)
        return any(lane is not None and target.held(lane) >= edge.size for lane in lanes)

    def read_meta(self, session: Session, node: Node, port: str) -> DataMeta | None:
        """The stream meta at an input port: the one set nearest upstream."""
        metas = session.metas
        edge = next((e for e in node.ins if node.plan.inputs[e.target_port] == port and not e.back), None)
        while metas and edge is not None:
            found = metas.get((edge.source.index, edge.source_port))
            if found is not None:
                return found
            edge = next((e for e in edge.source.ins if not e.back), None)
        return None


def _node(machine: Machine, index: int, plan: NodePlan, rank: int) -> Node:
    kind = plan.kind
    made: type[Node]
    if kind is Kind.SOURCE:
        made = SourceNode
    elif kind is Kind.INPUT:
        made = InputNode
    elif kind is Kind.OUTPUT:
        made = OutputNode
    elif kind is Kind.STREAM:
        made = StreamNode
    elif kind is Kind.CONDITION:
        made = ConditionNode
    elif kind is Kind.LOOP:
        made = LoopNode
    elif kind is Kind.EXPAND:
        made = StreamExpandNode if plan.stream else ExpandNode
    elif kind is Kind.COLLAPSE:
        made = StreamCollapseNode if plan.stream or not plan.collapse_all else CollapseNode
    else:
        made = Node
    return made(machine, index, plan, rank)
