"""The rules that all nodes share, and those of normal units and conditions. Pure: no clock, no threads.

`accept` takes tokens in, `take` makes the next call of the unit, `finish` brings its results out in the right order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from runyard.flow.buffer import Buffer, BufferList, Scope
from runyard.flow.runtime.lane import END, PLACEHOLDER, Call, End, Item, Lane, Part, Session, Special
from runyard.flow.runtime.plan import EdgePlan, NodePlan
from runyard.flow.status import Status, StatusCode
from runyard.flow.unit import DataContext

if TYPE_CHECKING:
    from runyard.flow.runtime.machine import Machine

AHEAD = 32
"""Calls of one session in one node that may be under way, or done and waiting for an earlier one to end."""


class Edge:
    """A link with its count. The queue itself lies in the lanes of the target."""

    __slots__ = (
        "back", "capacity", "depth", "full", "size", "slot", "source", "source_port", "target", "target_port", "total",
    )  # fmt: skip

    def __init__(self, plan: EdgePlan, source: Node, target: Node) -> None:
        self.source = source
        self.source_port = plan.source_port
        self.target = target
        self.target_port = plan.target_port
        self.size = self.capacity = plan.capacity
        self.back = plan.back
        self.slot = 0
        self.depth = 0
        self.total = 0
        self.full = False

    def take(self, count: int) -> None:
        """Counts tokens that have left the queue, and lets the producer go on when there is room."""
        self.depth -= count
        if self.full and self.depth < self.capacity:
            self.full = False
            source = self.source
            source.full_outs -= 1
            if not source.full_outs and source.ready:
                source.machine.mask |= source.bit

    def fill(self) -> None:
        """Stops the producer: the queue is full."""
        self.full = True
        source = self.source
        source.full_outs += 1
        source.machine.mask &= ~source.bit


class Node:
    """A node at work. The base class is that of normal units: batches over all sessions, results in order.

    A node is runnable, its bit set in the machine's mask, when a lane is ready and no output queue is full.
    """

    def __init__(self, machine: Machine, index: int, plan: NodePlan, rank: int) -> None:
        self.machine = machine
        self.index = index
        self.plan = plan
        self.name = plan.name
        self.bit = 1 << rank
        self.batch = max(1, plan.batch)
        self.ins: list[Edge] = []
        self.outs: list[list[Edge]] = [[] for _ in plan.outputs]
        self.ready: deque[Lane] = deque()
        self.full_outs = 0
        self.single = True
        self.unit: Any = None
        self.view = (f"node.{plan.name}.", f"flowunit.{plan.unit}.", "nodes.")
        # What the scheduler and the statistics keep here.
        self.slow = True
        self.running = 0
        self.calls = 0
        self.rows_in = 0
        self.rows_out = 0
        self.errors = 0
        self.seconds = 0.0
        self.average = 0.0
        self.latency: dict[int, int] = {}

    def wire(self) -> None:
        """After the edges are known."""
        for slot, edge in enumerate(self.ins):
            edge.slot = slot
        self.single = len(self.ins) <= 1
        self._ports: list[list[int]] = [[] for _ in self.plan.inputs]
        for slot, edge in enumerate(self.ins):
            self._ports[edge.target_port].append(slot)

    # -- tokens in -------------------------------------------------------------------------------------------------

    def new_lane(self, session: Session) -> Lane:
        lane = session.lanes[self.index] = Lane(self, session)
        if not self.single:
            lane.queues = [deque() for _ in self.ins]
        return lane

    def accept(self, lane: Lane, edge: Edge, item: Item) -> None:
        """Takes tokens of one of several edges: keeps them until all inputs have that index, then makes rows."""
        queues = lane.queues
        assert queues is not None
        if type(item) is list:
            queues[edge.slot].extend(item)
        else:
            queues[edge.slot].append(item)
        for _ in range(min(map(len, queues))):
            row = [
                queues[slots[0]].popleft()
                if len(slots) == 1
                else self._merge(lane, [queues[s].popleft() for s in slots])
                for slots in self._ports
            ]
            self._match(lane, row)
        if lane.items:
            self.queue(lane)

    def queue(self, lane: Lane) -> None:
        """Marks the lane as having work."""
        if not lane.queued and not lane.busy:
            lane.queued = True
            self.ready.append(lane)
            if not self.full_outs:
                self.machine.mask |= self.bit

    def _merge(self, lane: Lane, tokens: list[Any]) -> Any:
        """One token of the branches that come together: the one branch that has the datum.

        Where the condition failed, the first that has made good of the error.
        """
        found: Any = PLACEHOLDER
        for token in tokens:
            if token is PLACEHOLDER:
                continue
            if found is PLACEHOLDER:
                found = token
            elif isinstance(token, End) or isinstance(found, End):
                if token is not found:
                    self._mismatch("the branches that come together here are not equally long")
                    return found
            elif token._error is None or found._error is None:
                if not lane.session.torn:
                    self._mismatch("two branches that come together here have data at the same index")
                    return found
                if found._error is not None:
                    found = token
        if isinstance(found, End) and any(token is PLACEHOLDER for token in tokens):
            self._mismatch("the branches that come together here are not equally long")
        return found

    def _match(self, lane: Lane, row: list[Any]) -> None:
        first = row[0]
        if len(row) == 1:
            self._put(lane, first, first)
            return
        error: Buffer | None = None
        hidden = False
        gap = False
        for token in row:
            if isinstance(token, Buffer):
                if token._error is not None:
                    error = error or token
                    hidden = hidden or not self.sees(token)
            elif token is PLACEHOLDER:
                gap = True
            elif any(other is not token for other in row):
                ports = ", ".join(self.plan.inputs)
                self._mismatch(f"its inputs ({ports}) are not equally long")
                return
            else:
                lane.items.append(token)
                return
        if hidden or (gap and error is not None):
            assert error is not None
            lane.items.append(error)
        elif gap:
            lane.items.append(PLACEHOLDER)
        else:
            self._put(lane, tuple(row), error)

    def _put(self, lane: Lane, row: Any, token: Any) -> None:
        """Queues a row; `token` is what it is judged by: an error that this node does not see stays by itself."""
        if token is None or (isinstance(token, Buffer) and (token._error is None or self.sees(token))):
            if lane.items and type(lane.items[-1]) is list and len(lane.items) > (1 if lane.offset else 0):
                lane.items[-1].append(row)
            else:
                lane.items.append([row])
        else:
            lane.items.append(token)

    def sees(self, error: Buffer) -> bool:
        """Whether the unit is shown this error: it wants errors, and the error is not of an outer level (5.7)."""
        if not self.plan.exception_visible:
            return False
        scope: Scope = self.plan.scope
        return not scope or (error._scope or ())[: len(scope)] == scope

    def _mismatch(self, text: str) -> None:
        self.machine.fail(Status(StatusCode.STATUS_FAULT, f"node {self.name!r}: {text}"))

    # -- calls -----------------------------------------------------------------------------------------------------

    def take(self) -> Call | None:
        """The next call, of rows from as many sessions as a batch holds. None where only bypassing was to be done."""
        ready = self.ready
        room = self.batch
        rows: list[Any] = []
        parts: list[Part] = []
        specials = 0
        while ready:
            lane = ready[0]
            items = lane.items
            got = 0
            if len(lane.pending) >= AHEAD:
                ready.popleft()
                lane.queued = False
                continue
            while items:
                item = items[0]
                if type(item) is list:
                    if not room:
                        break
                    offset = lane.offset
                    count = len(item) - offset
                    if count <= room:
                        items.popleft()
                        lane.offset = 0
                        rows.extend(item[offset:] if offset else item)
                    else:
                        count = room
                        rows.extend(item[offset : offset + count])
                        lane.offset = offset + count
                    room -= count
                    got += count
                elif isinstance(item, Buffer) and self.single and self.sees(item):
                    if not room:
                        break
                    items.popleft()
                    rows.append(item)
                    room -= 1
                    got += 1
                else:
                    if item is not END and self.full_outs:
                        break
                    items.popleft()
                    specials += 1
                    if got:
                        part = Part(lane, got)
                        lane.pending.append(part)
                        parts.append(part)
                        got = 0
                    if lane.pending:
                        lane.pending.append(item)  # type: ignore[arg-type]
                    else:
                        self.pass_on(lane, item)  # type: ignore[arg-type]
            if got:
                part = Part(lane, got)
                lane.pending.append(part)
                parts.append(part)
            if items:
                ready.rotate(-1)
                break
            ready.popleft()
            lane.queued = False
        if not ready:
            self.machine.mask &= ~self.bit
        count = len(rows) + specials
        if count:
            for edge in self.ins:
                edge.take(count)
        if not rows:
            return None
        call = Call(self, self.context(parts[0].lane, rows), len(rows))
        call.parts = parts
        return call

    def context(self, lane: Lane, rows: list[Any], **more: Any) -> DataContext:
        """What the unit sees of a batch."""
        plan = self.plan
        inputs: dict[str, BufferList] = {}
        names = plan.inputs
        if len(names) == 1:
            buffers = inputs[names[0]] = BufferList.__new__(BufferList)
            buffers.extend(rows)
        else:
            for name, column in zip(names, zip(*rows, strict=True), strict=True):
                buffers = inputs[name] = BufferList.__new__(BufferList)
                buffers.extend(column)
        return DataContext(
            lane.session.context,
            plan.outputs,
            {},
            inputs=inputs,
            read_meta=self.meta_reader(lane.session),
            view=self.view,
            **more,
        )

    def meta_reader(self, session: Session) -> Any:
        return None if session.metas is None else lambda port: self.machine.read_meta(session, self, port)

    def finish(self, call: Call) -> None:
        """The results of a call are there: brings out what is now in its turn."""
        if len(call.parts) == 1:
            part = call.parts[0]
            part.outputs = call.outputs
            part.mixed = call.mixed
            self.commit(part.lane)
            return
        start = 0
        for part in call.parts:
            end = start + part.count
            part.outputs = [tokens[start:end] for tokens in call.outputs]
            part.mixed = call.mixed
            start = end
        for part in call.parts:
            self.commit(part.lane)

    def commit(self, lane: Lane) -> None:
        """Sends on everything at the head of the lane that is finished."""
        pending = lane.pending
        while pending:
            head = pending[0]
            if type(head) is Part:
                if head.outputs is None:
                    break
                pending.popleft()
                self.send(lane, head)
            else:
                pending.popleft()
                self.pass_on(lane, head)  # type: ignore[arg-type]
        self.go_on(lane)

    def go_on(self, lane: Lane) -> None:
        """After a call has gone out: the lane may have waited for it."""
        if lane.items and not lane.ended:
            self.queue(lane)

    # -- tokens out ------------------------------------------------------------------------------------------------

    def send(self, lane: Lane, part: Part) -> None:
        assert part.outputs is not None
        for port, tokens in enumerate(part.outputs):
            if part.mixed:
                self.emit_mixed(lane, port, tokens)
            elif tokens:
                self.emit(lane, port, tokens)

    def pass_on(self, lane: Lane, item: Special) -> None:
        """A token goes by the unit."""
        for port in range(len(self.outs)):
            self.emit_special(lane, port, item)
        if item is END:
            self.end(lane)
        elif not self.outs and isinstance(item, Buffer):
            lane.session.context.last_error = item._error

    def end(self, lane: Lane) -> None:
        """The session has left this node."""
        lane.ended = True
        session = lane.session
        session.lanes.pop(self.index, None)
        session.open -= 1
        if session.open <= 0:
            self.machine.end(session)

    def emit(self, lane: Lane, port: int, rows: list[Any]) -> None:
        """Puts a run of good buffers on every edge of a port."""
        count = len(rows)
        session = lane.session
        for edge in self.outs[port]:
            edge.total += count
            edge.depth += count
            if edge.depth >= edge.capacity and not edge.full:
                edge.fill()
            target = edge.target
            to = session.lanes.get(target.index) or target.new_lane(session)
            if target.single:
                to.items.append(rows)
                if not to.queued and not to.busy:
                    to.queued = True
                    target.ready.append(to)
                    if not target.full_outs:
                        target.machine.mask |= target.bit
            else:
                target.accept(to, edge, rows)

    def emit_special(self, lane: Lane, port: int, token: Special) -> None:
        session = lane.session
        for edge in self.outs[port]:
            edge.depth += 1
            if edge.depth >= edge.capacity and not edge.full:
                edge.fill()
            target = edge.target
            to = session.lanes.get(target.index) or target.new_lane(session)
            if target.single:
                to.items.append(token)
                target.queue(to)
            else:
                target.accept(to, edge, token)

    def emit_mixed(self, lane: Lane, port: int, tokens: list[Any]) -> None:
        """As `emit`, of tokens among which errors, placeholders and ends may be."""
        run: list[Any] = []
        for token in tokens:
            if isinstance(token, Buffer) and token._error is None:
                run.append(token)
                continue
            if run:
                self.emit(lane, port, run)
                run = []
            self.emit_special(lane, port, token)
        if run:
            self.emit(lane, port, run)


class ConditionNode(Node):
    """Each datum leaves at one of the ports; a placeholder keeps its index at the others. `run` fills them in.

    Where the unit fails, its error leaves at all of them.
    """

    def finish(self, call: Call) -> None:
        if call.error is not None:
            for part in call.parts:
                part.lane.session.torn = True
        super().finish(call)
