"""Loops: each datum goes round until the unit sends it to the port that leaves (spec 4.7 M15, 5.2)."""

from __future__ import annotations

from collections import deque
from typing import Any

from runyard.flow.buffer import Buffer
from runyard.flow.runtime.lane import END, PLACEHOLDER, Call, Item, Lane, Part, Session, Special
from runyard.flow.runtime.node import Edge, Node
from runyard.flow.runtime.plan import NodePlan


class LoopNode(Node):
    """Gives every datum that enters a ticket. The loop's body keeps order, so tickets come back in the order in which
    they were sent round; data leave in the order in which they entered.

    No more data are in the loop than its smallest queue holds, so that it can't stop itself.
    """

    def __init__(self, machine: Any, index: int, plan: NodePlan, rank: int) -> None:
        super().__init__(machine, index, plan, rank)
        self.round_port = max(0, plan.round_port)
        self.leave_port = 1 - self.round_port
        self.limit = 32

    def wire(self) -> None:
        super().wire()
        self.single = False

    def new_lane(self, session: Session) -> Lane:
        lane = super().new_lane(session)
        lane.queues = None
        lane.back = deque()
        lane.round = deque()
        lane.out_of_turn = {}
        lane.next_ticket = 0
        lane.next_out = 0
        return lane

    def accept(self, lane: Lane, edge: Edge, item: Item) -> None:
        queue: deque[Any] = lane.back if edge.back else lane.items
        if type(item) is list:
            queue.extend((edge, row) for row in item)
        else:
            queue.append((edge, item))
        if self._ready(lane):
            self.queue(lane)

    def _ready(self, lane: Lane) -> bool:
        if lane.back:
            return True
        return bool(lane.items) and lane.next_ticket - lane.next_out < self.limit

    def take(self) -> Call | None:
        lane = self.ready.popleft()
        lane.queued = False
        call = None
        while call is None and not self.full_outs and not lane.ended and self._ready(lane):
            call = self._step(lane)
        if not lane.ended and self._ready(lane):
            self.queue(lane)
        if not self.ready:
            self.machine.mask &= ~self.bit
        return call

    def _step(self, lane: Lane) -> Call | None:
        edge, token = lane.back.popleft() if lane.back else lane.items.popleft()  # type: ignore[misc]
        edge.take(1)
        if edge.back:
            if token is END:
                self.end(lane)
                return None
            ticket = lane.round.popleft()
        else:
            ticket = lane.next_ticket
            lane.next_ticket += 1
        if isinstance(token, Buffer) and (token._error is None or self.sees(token)):
            call = Call(self, self.context(lane, [token]), 1)
            part = Part(lane, 1)
            part.ticket = ticket
            lane.pending.append(part)
            call.parts.append(part)
            return call
        self._leave(lane, ticket, token)
        return None

    def go_on(self, lane: Lane) -> None:
        if not lane.ended and self._ready(lane):
            self.queue(lane)

    def send(self, lane: Lane, part: Part) -> None:
        assert part.outputs is not None
        again = part.outputs[self.round_port]
        if again and again[0] is not PLACEHOLDER and again[0]._error is None:
            lane.round.append(part.ticket)
            self.emit(lane, self.round_port, again)
            return
        left = part.outputs[self.leave_port]
        self._leave(lane, part.ticket, left[0] if left and left[0] is not PLACEHOLDER else again[0])

    def _leave(self, lane: Lane, ticket: int, token: Special) -> None:
        waiting = lane.out_of_turn
        waiting[ticket] = token
        while lane.next_out in waiting:
            token = waiting.pop(lane.next_out)
            lane.next_out += 1
            self.emit_mixed(lane, self.leave_port, [token])
            if token is END:
                # The body is told when nothing is left in it.
                self.emit_special(lane, self.round_port, END)

    def pass_on(self, lane: Lane, item: Special) -> None:
        raise AssertionError("a loop passes tokens on by their tickets")
