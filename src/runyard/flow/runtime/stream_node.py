"""Nodes that keep a state for each stream, and those that open and close sub-streams (spec 5.2, 5.5)."""

from __future__ import annotations

from typing import Any

from runyard.flow.buffer import Buffer, BufferList, error_buffer
from runyard.flow.runtime.lane import END, PLACEHOLDER, Call, End, Lane, Part, Session, Special, Stream, end_of
from runyard.flow.runtime.node import AHEAD, Node
from runyard.flow.runtime.plan import NodePlan
from runyard.flow.status import Status, StatusCode
from runyard.flow.unit import DataContext, FlowUnit, FlowUnitEvent


class StreamNode(Node):
    """One call at a time for each session, of data of one stream, in order. Any number of outputs."""

    def take(self) -> Call | None:
        lane = self.ready.popleft()
        lane.queued = False
        call = self._next(lane)
        if call is not None:
            lane.busy = True
            call.lane = lane
        elif self._has_more(lane):
            self.queue(lane)
        if not self.ready:
            self.machine.mask &= ~self.bit
        return call

    def _has_more(self, lane: Lane) -> bool:
        stream = lane.stream
        if stream is not None and stream.events:
            return True
        if not lane.items or lane.ended:
            return False
        # An end waits while the unit has said that it goes on.
        return not (isinstance(lane.items[0], End) and stream is not None and stream.continuing)

    def _next(self, lane: Lane) -> Call | None:
        stream = lane.stream
        if stream is not None and stream.events:
            return self._call(lane, stream, [], event=stream.events.popleft())
        while lane.items and not self.full_outs:
            item = lane.items[0]
            if type(item) is list or (isinstance(item, Buffer) and self.single and self.sees(item)):
                rows = self._rows(lane)
                stream = lane.stream = lane.stream or Stream()
                if stream.failed is not None:
                    self._all_failed(lane, stream.failed, len(rows))
                    continue
                return self._data(lane, stream, rows)
            if isinstance(item, End):
                if stream is not None and (stream.continuing or stream.events):
                    return None
                if (call := self._ending(lane, item)) is not None:
                    return call
            lane.items.popleft()
            self._consumed(1)
            self.bypass(lane, item)  # type: ignore[arg-type]
            if lane.ended:
                return None
            stream = lane.stream
        return None

    def _rows(self, lane: Lane) -> list[Any]:
        """Up to a batch of rows that follow each other directly."""
        items = lane.items
        rows: list[Any] = []
        while items and len(rows) < self.batch:
            item = items[0]
            if type(item) is list:
                offset = lane.offset
                count = min(len(item) - offset, self.batch - len(rows))
                rows.extend(item[offset : offset + count])
                if offset + count == len(item):
                    items.popleft()
                    lane.offset = 0
                else:
                    lane.offset = offset + count
            elif isinstance(item, Buffer) and self.single and self.sees(item):
                items.popleft()
                rows.append(item)
            else:
                break
        self._consumed(len(rows))
        return rows

    def _consumed(self, count: int) -> None:
        for edge in self.ins:
            edge.take(count)

    def _data(self, lane: Lane, stream: Stream, rows: list[Any]) -> Call:
        return self._call(lane, stream, rows)

    def _call(self, lane: Lane, stream: Stream, rows: list[Any], event: FlowUnitEvent | None = None) -> Call:
        send = self._sender(lane, stream)
        if event is None:
            context = self.context(lane, rows, send=send)
        else:
            context = DataContext(
                lane.session.context, self.plan.outputs, stream.private, event=event, send=send,
                read_meta=self.meta_reader(lane.session), view=self.view,
            )  # fmt: skip
        context._private = stream.private
        call = Call(self, context, len(rows))
        call.first = not stream.opened
        stream.opened = True
        return call

    def _sender(self, lane: Lane, stream: Stream) -> Any:
        machine = self.machine

        def send(event: FlowUnitEvent) -> Status:
            with machine.lock:
                if lane.ended or lane.session.closing or lane.stream is not stream:
                    return Status(StatusCode.STATUS_NOSTREAM, "the stream has ended")
                if len(stream.events) >= self.plan.event_capacity:
                    return Status(StatusCode.STATUS_NOBUFS, f"{len(stream.events)} events are waiting already")
                stream.events.append(event)
                self.queue(lane)
                machine.changed()
            return Status()

        return send

    def _ending(self, lane: Lane, end: End) -> Call | None:
        """The stream is over: the unit's `data_post`, if it was begun."""
        stream = lane.stream
        if stream is None or not stream.opened or stream.failed is not None or not self._posts():
            lane.stream = None
            return None
        call = self._call(lane, stream, [])
        call.post = True
        return call

    def _posts(self) -> bool:
        """Whether the unit has a `data_post` of its own: calling the base's would do nothing but cost time."""
        return getattr(getattr(self.unit, "data_post", None), "__func__", None) is not FlowUnit.data_post

    def _all_failed(self, lane: Lane, error: tuple[str, str], count: int) -> None:
        for port, scope in enumerate(self.plan.out_scopes):
            self.emit_mixed(lane, port, [error_buffer(*error, scope) for _ in range(count)])
        if not self.outs:
            lane.session.context.last_error = error
        self.errors += count

    def bypass(self, lane: Lane, item: Special) -> None:
        self.pass_on(lane, item)

    def finish(self, call: Call) -> None:
        lane = call.lane
        assert lane is not None
        lane.busy = False
        stream = lane.stream
        if call.post:
            lane.stream = None
        elif stream is not None:
            if call.first and call.error is not None and call.error[0].endswith(".DataPreError"):
                stream.failed = call.error
            if call.again and not lane.session.closing:
                stream.continuing = True
            elif call.context._event is not None or lane.session.closing:
                stream.continuing = False
        self.results(lane, call)
        if self._has_more(lane):
            self.queue(lane)

    def results(self, lane: Lane, call: Call) -> None:
        for port, tokens in enumerate(call.outputs):
            if call.mixed:
                self.emit_mixed(lane, port, tokens)
            elif tokens:
                self.emit(lane, port, tokens)

    def _awaits_event(self, lane: Lane) -> bool:
        """Whether nothing goes on here before an event comes from outside."""
        stream = lane.stream
        return stream is not None and stream.continuing and not stream.events and not lane.busy

    def held(self, lane: Lane) -> int:
        """How many data wait here until the unit gets an event."""
        if not self._awaits_event(lane) or self._has_more(lane):
            return 0
        items = lane.items
        return sum(len(item) if type(item) is list else not isinstance(item, End) for item in items) - lane.offset

    def give_up(self, lane: Lane) -> None:
        """No events will come any more: the stream goes on without them."""
        if lane.stream is not None and self._awaits_event(lane):
            lane.stream.continuing = False
            if self._has_more(lane):
                self.queue(lane)


class SourceNode(StreamNode):
    """Has no inputs: is called with every datum that is sent to it from outside."""

    def __init__(self, machine: Any, index: int, plan: NodePlan, rank: int) -> None:
        super().__init__(machine, index, plan, rank)
        self.waiting = 0

    def feed(self, lane: Lane, buffers: list[Any]) -> None:
        """A datum from outside: the buffers of one call."""
        lane.items.append(buffers)
        self.waiting += len(buffers)
        self.queue(lane)

    def close(self, lane: Lane) -> None:
        lane.items.append(END)
        self.queue(lane)

    def _rows(self, lane: Lane) -> list[Any]:
        rows: list[Any] = lane.items.popleft()  # type: ignore[assignment]
        self.waiting -= len(rows)
        self.machine.freed = True
        return rows

    def context(self, lane: Lane, rows: list[Any], **more: Any) -> DataContext:
        external = BufferList.__new__(BufferList)
        external.extend(rows)
        return DataContext(
            lane.session.context, self.plan.outputs, {}, external=external, view=self.view, **more,
        )  # fmt: skip


class ExpandNode(Node):
    """Makes a sub-stream of each datum. Several at once; the sub-streams leave in the order of the data."""

    def __init__(self, machine: Any, index: int, plan: NodePlan, rank: int) -> None:
        super().__init__(machine, index, plan, rank)
        self.inner = end_of(plan.depth + 1)

    def send(self, lane: Lane, part: Part) -> None:
        assert part.outputs is not None
        for port, tokens in enumerate(part.outputs):
            if not tokens:
                self.emit_special(lane, port, PLACEHOLDER)
            elif part.mixed:
                self.emit_mixed(lane, port, tokens)
            else:
                self.emit(lane, port, tokens)
            self.emit_special(lane, port, self.inner)

    def pass_on(self, lane: Lane, item: Special) -> None:
        super().pass_on(lane, item)
        if not isinstance(item, End):
            for port in range(len(self.outs)):
                self.emit_special(lane, port, self.inner)


class StreamExpandNode(StreamNode):
    """As ExpandNode, one datum after the other; a unit may go on with events before its sub-stream ends."""

    def __init__(self, machine: Any, index: int, plan: NodePlan, rank: int) -> None:
        super().__init__(machine, index, plan, rank)
        self.inner = end_of(plan.depth + 1)

    def new_lane(self, session: Session) -> Lane:
        lane = super().new_lane(session)
        lane.sent = None
        return lane

    def _has_more(self, lane: Lane) -> bool:
        stream = lane.stream
        if stream is not None and stream.continuing:
            return bool(stream.events)
        return super()._has_more(lane)

    def _next(self, lane: Lane) -> Call | None:
        stream = lane.stream
        if stream is not None and stream.continuing and not stream.events:
            return None
        return super()._next(lane)

    def _data(self, lane: Lane, stream: Stream, rows: list[Any]) -> Call:
        lane.sent = [False] * len(self.outs)
        return super()._data(lane, stream, rows)

    def bypass(self, lane: Lane, item: Special) -> None:
        self.pass_on(lane, item)
        if not isinstance(item, End):
            for port in range(len(self.outs)):
                self.emit_special(lane, port, self.inner)

    def _all_failed(self, lane: Lane, error: tuple[str, str], count: int) -> None:
        super()._all_failed(lane, error, count)
        for port in range(len(self.outs)):
            self.emit_special(lane, port, self.inner)

    def results(self, lane: Lane, call: Call) -> None:
        if call.post or lane.sent is None:
            return
        super().results(lane, call)
        for port, tokens in enumerate(call.outputs):
            lane.sent[port] = lane.sent[port] or bool(tokens)
        stream = lane.stream
        if stream is not None and (stream.continuing or stream.events):
            stream.continuing = True
            return
        self._complete(lane)

    def give_up(self, lane: Lane) -> None:
        if lane.sent is not None and self._awaits_event(lane):
            self._complete(lane)
        super().give_up(lane)

    def _complete(self, lane: Lane) -> None:
        """The sub-stream is complete."""
        for port, sent in enumerate(lane.sent):
            if not sent:
                self.emit_special(lane, port, PLACEHOLDER)
            self.emit_special(lane, port, self.inner)
        lane.sent = None


class CollapseNode(Node):
    """Makes one datum of each sub-stream, which the unit gets as a whole. Several at once."""

    def __init__(self, machine: Any, index: int, plan: NodePlan, rank: int) -> None:
        super().__init__(machine, index, plan, rank)
        self.inner = end_of(max(1, plan.depth))

    def new_lane(self, session: Session) -> Lane:
        lane = super().new_lane(session)
        lane.members = []
        return lane

    def take(self) -> Call | None:
        lane = self.ready.popleft()
        lane.queued = False
        call = None
        while lane.items and call is None and not self.full_outs and len(lane.pending) < AHEAD:
            call = self._step(lane)
        if lane.items and not lane.ended and len(lane.pending) < AHEAD:
            self.queue(lane)
        if not self.ready:
            self.machine.mask &= ~self.bit
        return call

    def _step(self, lane: Lane) -> Call | None:
        item = lane.items.popleft()
        for edge in self.ins:
            edge.take(len(item) if type(item) is list else 1)
        if type(item) is list:
            lane.members.extend(item)
        elif item is self.inner:
            members, lane.members = lane.members, []
            return self._whole(lane, members)
        elif isinstance(item, End):
            self._later(lane, item)
        else:
            lane.members.append(item)
        return None

    def _whole(self, lane: Lane, members: list[Any]) -> Call | None:
        rows, token = self.sort(members)
        if token is not None:
            self._later(lane, token)
            return None
        part = Part(lane, len(rows))
        lane.pending.append(part)
        call = Call(self, self.context(lane, rows), len(rows))
        call.parts.append(part)
        return call

    def sort(self, members: list[Any]) -> tuple[list[Any], Special | None]:
        """The members that the unit gets, or the token that stands for all: an error, or nothing at all."""
        rows = []
        for member in members:
            if (
                isinstance(member, Buffer)
                and member._error is not None
                and not (self.single_port and self.sees(member))
            ):
                return [], member
            if member is not PLACEHOLDER:
                rows.append(member)
        return rows, (None if rows else PLACEHOLDER)

    @property
    def single_port(self) -> bool:
        return len(self.plan.inputs) == 1

    def _later(self, lane: Lane, item: Special) -> None:
        if lane.pending:
            lane.pending.append(item)
        else:
            self.pass_on(lane, item)

    def send(self, lane: Lane, part: Part) -> None:
        assert part.outputs is not None
        for port, tokens in enumerate(part.outputs):
            self.emit_mixed(lane, port, tokens or [PLACEHOLDER])


class StreamCollapseNode(StreamNode):
    """As CollapseNode, one sub-stream after the other, with a context that all sub-streams of a parent share.

    With `collapse_all` off the members come as they arrive; the datum leaves when the sub-stream ends.
    """

    def __init__(self, machine: Any, index: int, plan: NodePlan, rank: int) -> None:
        super().__init__(machine, index, plan, rank)
        self.inner = end_of(max(1, plan.depth))

    def new_lane(self, session: Session) -> Lane:
        lane = super().new_lane(session)
        lane.members = []
        lane.sent = None
        return lane

    def _next(self, lane: Lane) -> Call | None:
        while lane.items and not self.full_outs:
            item = lane.items[0]
            if isinstance(item, End) and item is not self.inner:
                if (call := self._ending(lane, item)) is not None:
                    return call
                lane.items.popleft()
                self._consumed(1)
                self.pass_on(lane, item)
                if lane.ended:
                    return None
                continue
            if item is self.inner:
                lane.items.popleft()
                self._consumed(1)
                if (call := self._whole(lane)) is not None:
                    return call
                continue
            shown = type(item) is list or (isinstance(item, Buffer) and self.single and self.sees(item))
            if shown and not self.plan.collapse_all and not isinstance(lane.sent, Buffer):
                rows = self._rows(lane)
                call = self._member_call(lane, rows)
                if call is not None:
                    return call
                continue
            lane.items.popleft()
            self._consumed(len(item) - lane.offset if type(item) is list else 1)
            if type(item) is list:
                lane.members.extend(item[lane.offset :])
                lane.offset = 0
            else:
                lane.members.append(item)
                if isinstance(item, Buffer) and not self.plan.collapse_all:
                    lane.sent = item
        return None

    def _sender(self, lane: Lane, stream: Stream) -> None:
        """A collapse has no events: its sub-stream's end is where its datum leaves."""

    def _member_call(self, lane: Lane, rows: list[Any]) -> Call | None:
        stream = lane.stream = lane.stream or Stream()
        if stream.failed is not None:
            lane.sent = error_buffer(*stream.failed)
            return None
        return self._call(lane, stream, rows)

    def _whole(self, lane: Lane) -> Call | None:
        """The sub-stream is complete: the call for it, or its one result."""
        members, lane.members = lane.members, []
        if not self.plan.collapse_all:
            self._deliver(lane, lane.sent or PLACEHOLDER)
            lane.sent = None
            if not self.plan.stream:
                lane.stream = None
            return None
        rows, token = CollapseNode.sort(self, members)  # type: ignore[arg-type]
        if token is not None:
            self._deliver(lane, token)
            return None
        stream = lane.stream = lane.stream or Stream()
        if stream.failed is not None:
            self._deliver(lane, error_buffer(*stream.failed, self.plan.out_scopes[0] if self.outs else ()))
            return None
        return self._call(lane, stream, rows)

    single_port = CollapseNode.single_port

    def _deliver(self, lane: Lane, token: Any) -> None:
        self.pass_on(lane, token) if not isinstance(token, list) else self._deliver_ports(lane, token)

    def _deliver_ports(self, lane: Lane, ports: list[Any]) -> None:
        for port, token in enumerate(ports):
            self.emit_mixed(lane, port, [token])

    def results(self, lane: Lane, call: Call) -> None:
        if call.post:
            return
        if self.plan.collapse_all:
            for port, tokens in enumerate(call.outputs):
                self.emit_mixed(lane, port, tokens or [PLACEHOLDER])
            return
        if call.error is not None and call.outputs:
            lane.sent = call.outputs[0][0]
            return
        for port, tokens in enumerate(call.outputs):
            if tokens:
                if lane.sent is None:
                    lane.sent = [PLACEHOLDER] * len(self.outs)
                if not isinstance(lane.sent, list):
                    return
                if len(tokens) > 1 or lane.sent[port] is not PLACEHOLDER:
                    self.machine.fail(too_many(self.name, 2))
                    return
                lane.sent[port] = tokens[0]


def too_many(name: str, count: int) -> Status:
    """The fault of a collapse that makes more than one datum of a sub-stream."""
    return Status(
        StatusCode.STATUS_STOP,
        f"node {name!r}: a collapse unit makes at most one buffer of a sub-stream, not {count}",
    )
