"""What is under way: the tokens that edges carry, sessions, one session's place in one node, and calls of units.

An edge carries, for every session, one dense row of tokens: buffers, placeholders (no datum at this index on this
branch), and ends. A sub-stream is a run of tokens closed by an end of its depth, so nesting is written like brackets.
Every node keeps the row in order; matching inputs and merging branches is then a walk along rows, token by token.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from runyard.flow.buffer import Buffer, DataMeta
from runyard.flow.session import SessionContext
from runyard.flow.status import Status
from runyard.flow.unit import DataContext, FlowUnitEvent

if TYPE_CHECKING:
    from runyard.flow.runtime.node import Node


class Placeholder:
    """Stands where another branch has the datum."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "-"


class End:
    """The end of a stream: depth 0 is the session's own, 1 that of a sub-stream of an expand, and so on."""

    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __repr__(self) -> str:
        return f"|{self.depth}"


PLACEHOLDER = Placeholder()
_ENDS: list[End] = [End(0)]

Special = Placeholder | End | Buffer
"""A token that no unit sees as it is: a placeholder, an end, an error."""
Row = Any
"""The data of one index: a buffer, or a tuple of buffers where a node has several input ports."""
Item = list[Row] | Special
"""What queues hold: a run of rows without errors, or one special token."""


def end_of(depth: int) -> End:
    """The one End of a depth; ends are compared by identity."""
    while len(_ENDS) <= depth:
        _ENDS.append(End(len(_ENDS)))
    return _ENDS[depth]


END = end_of(0)


class Session:
    """One session inside the machine. `open` counts the nodes that have not yet passed its end on.

    `closing`: it was shut down, or the flow was, so that no event is waited for any more.
    `torn`: a condition failed, so that an index has a datum on every branch: the error, or what a unit made of it.
    """

    __slots__ = ("closing", "collector", "context", "lanes", "metas", "open", "torn")

    def __init__(self, context: SessionContext, open_nodes: int, collector: Any = None) -> None:
        self.context = context
        self.lanes: dict[int, Lane] = {}
        self.metas: dict[tuple[int, int], DataMeta] | None = None
        self.open = open_nodes
        self.closing = False
        self.torn = False
        self.collector = collector


class Stream:
    """What a stream unit has between the calls for one stream."""

    __slots__ = ("continuing", "events", "failed", "opened", "private")

    def __init__(self) -> None:
        self.private: dict[str, Any] = {}
        self.events: deque[FlowUnitEvent] = deque()
        self.opened = False
        self.continuing = False
        self.failed: tuple[str, str] | None = None


class Part:
    """A session's share of a call: `count` rows whose results go out in their turn."""

    __slots__ = ("count", "lane", "mixed", "outputs", "ticket")

    def __init__(self, lane: Lane, count: int) -> None:
        self.lane = lane
        self.count = count
        self.outputs: list[list[Any]] | None = None
        self.mixed = False
        self.ticket = 0


class Lane:
    """One session in one node: what waits (`items`), what is being worked on or waits for its turn (`pending`)."""

    __slots__ = (
        "back", "busy", "ended", "items", "members", "next_out", "next_ticket", "node", "offset", "out_of_turn",
        "pending", "queued", "queues", "round", "sent", "session", "stream",
    )  # fmt: skip

    # Of nodes that collect: the members of the sub-stream so far, and what was sent or is to be sent for it.
    members: list[Any]
    sent: Any
    # Of loops: what came back, the tickets in the body in their order, what waits for its turn to leave.
    back: deque[Any]
    round: deque[int]
    out_of_turn: dict[int, Any]
    next_ticket: int
    next_out: int

    def __init__(self, node: Node, session: Session) -> None:
        self.node = node
        self.session = session
        self.items: deque[Item] = deque()
        self.offset = 0
        self.queued = False
        self.busy = False
        self.ended = False
        self.pending: deque[Part | Special] = deque()
        self.queues: list[deque[Any]] | None = None
        self.stream: Stream | None = None


class Call:
    """One call of a unit: what goes in, and after `run` what came out."""

    __slots__ = (
        "again", "context", "error", "first", "lane", "mixed", "node", "outputs", "parts", "post", "rows", "seconds",
        "started", "stop",
    )  # fmt: skip

    def __init__(self, node: Node, context: DataContext, rows: int) -> None:
        self.node = node
        self.context = context
        self.rows = rows
        self.parts: list[Part] = []
        self.lane: Lane | None = None
        self.first = False
        self.post = False
        self.outputs: list[list[Any]] = []
        self.mixed = False
        self.error: tuple[str, str] | None = None
        self.again = False
        self.stop: Status | None = None
        self.seconds = 0.0
        self.started = 0.0
