"""The doors for programs: input nodes, which bring data in, and output nodes, which hand results out (spec 4.5)."""

from __future__ import annotations

from collections import deque
from typing import Any

from runyard.flow.buffer import Buffer
from runyard.flow.runtime.lane import END, Call, End, Lane, Session
from runyard.flow.runtime.node import Node


class InputNode(Node):
    """All inputs of a graph together: one port for each. Data of equal index leave together."""

    waiting = 0

    def new_lane(self, session: Session) -> Lane:
        lane = super().new_lane(session)
        lane.queues = [deque() for _ in self.outs]
        return lane

    def feed(self, lane: Lane, port: int, buffers: list[Buffer]) -> None:
        """Data for one input."""
        assert lane.queues is not None
        lane.queues[port].extend(buffers)
        self.waiting += len(buffers)
        if all(lane.queues):
            self.queue(lane)

    def close(self, lane: Lane) -> None:
        """No more data. What has no partner on the other inputs is dropped."""
        lane.items.append(END)
        self.queue(lane)

    def take(self) -> Call | None:
        lane = self.ready[0]
        queues = lane.queues
        assert queues is not None
        count = min(self.batch, *map(len, queues))
        if count:
            for port, queue in enumerate(queues):
                self.emit_mixed(lane, port, [queue.popleft() for _ in range(count)])
            self.rows_out += count
            self.calls += 1
            self.waiting -= count * len(queues)
            self.machine.freed = True
        if all(queues):
            self.ready.rotate(-1)
            return None
        self.ready.popleft()
        lane.queued = False
        if lane.items:
            left = sum(map(len, queues))
            if left:
                lane.session.context.last_error = ("Flow.InputMismatch", f"{left} data had no partner on other inputs")
                self.waiting -= left
                self.machine.freed = True
            self.pass_on(lane, END)
        if not self.ready:
            self.machine.mask &= ~self.bit
        return None


class OutputNode(Node):
    """Outputs that are delivered in step. Results go to the session's collector; errors become its last error."""

    def _match(self, lane: Lane, row: list[Any]) -> None:
        if any(isinstance(token, End) for token in row):
            super()._match(lane, row)
        else:
            self._put(lane, tuple(row) if len(row) > 1 else row[0], None)

    def take(self) -> Call | None:
        lane = self.ready.popleft()
        lane.queued = False
        if not self.ready:
            self.machine.mask &= ~self.bit
        while lane.items:
            item = lane.items.popleft()
            for edge in self.ins:
                edge.take(len(item) if type(item) is list else 1)
            if item is END:
                self.pass_on(lane, END)
            else:
                self._deliver(lane, item if type(item) is list else [item])
        return None

    def _deliver(self, lane: Lane, rows: list[Any]) -> None:
        collector: Any = lane.session.collector
        names = self.plan.inputs
        self.rows_in += len(rows)
        self.calls += 1
        for row in rows:
            for name, token in zip(names, row if isinstance(row, tuple) else (row,), strict=True):
                if not isinstance(token, Buffer):
                    continue
                if token._error is not None:
                    self.errors += 1
                    lane.session.context.last_error = token._error
                if collector is not None:
                    collector.deliver(name, token)
