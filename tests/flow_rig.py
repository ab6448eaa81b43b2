"""Random legal flows, a plain interpreter of what they mean, and a simulator that runs them in any order.

A flow is written as a list of steps; `Builder` makes a plan and units of it, `expected` computes its results by going
through whole lists, with nothing of the runtime in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from runyard.flow.buffer import Buffer
from runyard.flow.runtime.call import run
from runyard.flow.runtime.lane import Call, Lane
from runyard.flow.runtime.machine import Machine
from runyard.flow.runtime.plan import EdgePlan, Kind, NodePlan, Plan
from runyard.flow.status import StatusCode
from runyard.flow.unit import DataContext, FlowUnit, FlowUnitEvent

EXPANDS = ("expand", "sexpand", "lexpand")
"""At once, by events that the unit sends itself at once, by events that come late."""
LONGEST = 60
"""Length of a value that no loop sends round again."""
Path = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One step; `inner` are the bodies of steps that have some."""

    kind: str
    name: str
    inner: tuple[tuple[Step, ...], ...] = ()


@dataclass
class Err:
    """An error, with the level at which it was raised."""

    text: str
    path: Path


class _Gap:
    def __repr__(self) -> str:
        return "-"


GAP = _Gap()


def number(value: str, salt: str) -> int:
    """A number that looks random and is always the same."""
    return crc32(f"{salt}/{value}".encode())


def expected(steps: tuple[Step, ...], values: list[Any], path: Path = ()) -> list[Any]:
    """What a list of values becomes. Errors and gaps stay where they are in the list."""
    for step in steps:
        values = _apply(step, values, path)
    return values


def _apply(step: Step, values: list[Any], path: Path) -> list[Any]:
    name = step.name
    result: list[Any] = []
    count = 0
    if step.kind == "fork":
        left = expected(step.inner[0], values, path)
        right = expected(step.inner[1], values, path)
        for a, b in zip(left, right, strict=True):
            bad = next((each for each in (a, b) if isinstance(each, Err)), None)
            result.append(bad or (GAP if GAP in (a, b) else f"({a}&{b})"))
        return result
    if step.kind in ("cond", "torn"):
        sides: list[list[Any]] = []
        for side in (0, 1):
            inner_path = (*path, f"{name}:{side}")
            picked = [_picked(step, v, side, inner_path) for v in values]
            sides.append(expected(step.inner[side], picked, inner_path))
        return [
            b if a is GAP or (isinstance(a, Err) and isinstance(b, str)) else a for a, b in zip(*sides, strict=True)
        ]
    if step.kind == "loop":
        for v in values:
            while isinstance(v, str) and goes_round(v, name):
                (v,) = expected(step.inner[0], [v + "~" + name], path)
            result.append(v)
        return result
    for v in values:
        if isinstance(v, Err):
            if step.kind == "catch" and v.path[: len(path)] == path:
                result.append(f"caught {name}")
            else:
                result.append(v)
        elif v is GAP:
            result.append(GAP)
        elif step.kind in ("map", "catch"):
            result.append(f"{v}.{name}")
        elif step.kind == "fail":
            result.append(Err(name, path) if number(v, name) % 4 == 0 else v)
        elif step.kind in ("stream", "late", "idle"):
            count += 1
            result.append(f"{v}#{count}")
        elif step.kind == "filter":
            result.extend([v] * (number(v, name) % 3))
        elif step.kind in EXPANDS:
            inner: list[Any] = [f"{v}/{i}" for i in range(number(v, name) % 4)] or [GAP]
            inner = expected(step.inner[0], inner, (*path, "*" + name))
            bad = next((each for each in inner if isinstance(each, Err)), None)
            good = [each for each in inner if each is not GAP]
            result.append(bad or (f"[{','.join(good)}]" if good else GAP))
        else:
            raise AssertionError(step.kind)
    if step.kind == "late":
        # Errors and gaps do not wait with the data.
        result.sort(key=lambda each: isinstance(each, str))
    return result


def _picked(step: Step, value: Any, side: int, path: Path) -> Any:
    """What one branch of a condition gets. A torn one fails now and then: both branches get its error."""
    if isinstance(value, Err) or value is GAP:
        return value
    if step.kind == "torn" and tears(value, step.name):
        return Err(f"{step.name}.ProcessError", path)
    return value if number(value, step.name) % 2 == side else GAP


def tears(value: str, name: str) -> bool:
    return number(value, name) % 5 == 0


def goes_round(value: str, name: str) -> bool:
    return number(value, name) % 3 > 0 and len(value) < LONGEST


class Unit(FlowUnit):
    """A unit of one step: `act` gets a value and puts results."""

    def __init__(self, act: Callable[[DataContext, list[list[Buffer]]], None], ins: tuple[str, ...]) -> None:
        self.act = act
        self.ins = ins

    def process(self, data_ctx: DataContext) -> Any:
        return self.act(data_ctx, [list(data_ctx.input(port) or ()) for port in self.ins])


@dataclass
class Builder:
    """Makes a plan and its units of steps."""

    dice: random.Random
    nodes: list[NodePlan] = field(default_factory=list)
    edges: list[EdgePlan] = field(default_factory=list)
    units: list[Any] = field(default_factory=list)
    later: list[Callable[[], object]] = field(default_factory=list)
    """Events that units of the machine wait for."""

    def build(self, steps: tuple[Step, ...]) -> Machine:
        source = self.node("source", Kind.INPUT, (), ("in",), None)
        ends = self.steps(steps, [(source, 0)])
        sink = self.node("sink", Kind.OUTPUT, ("out",), (), None)
        self.link(ends, sink, 0)
        self.nodes[source].batch = self.dice.choice((1, 3, 32))
        machine = Machine(Plan(self.nodes, self.edges).finish())
        for node, unit in zip(machine.nodes, self.units, strict=True):
            node.unit = unit
        return machine

    def node(self, name: str, kind: Kind, ins: tuple[str, ...], outs: tuple[str, ...], act: Any, **more: Any) -> int:
        batch = 1 if kind in (Kind.CONDITION, Kind.EXPAND, Kind.LOOP) else self.dice.choice((1, 2, 8))
        self.nodes.append(NodePlan(name, kind, ins, outs, unit=name, batch=batch, **more))
        self.units.append(Unit(act, ins))
        return len(self.nodes) - 1

    def link(self, ends: list[tuple[int, int]], target: int, port: int) -> None:
        for node, at in ends:
            self.edges.append(EdgePlan(node, at, target, port, self.dice.choice((1, 2, 5, 32))))

    def steps(self, steps: tuple[Step, ...], ends: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for step in steps:
            ends = self.step(step, ends)
        return ends

    def step(self, step: Step, ends: list[tuple[int, int]]) -> list[tuple[int, int]]:
        name, kind = step.name, step.kind
        if kind == "fork":
            if len(ends) > 1:  # a fork needs one port to begin at
                ends = self.step(Step("nop", name + "0"), ends)
            left = self.steps(step.inner[0], ends) if step.inner[0] else ends
            right = self.steps(step.inner[1], ends) if step.inner[1] else ends
            join = self.node(name, Kind.NORMAL, ("a", "b"), ("out",), _join)
            self.link(left, join, 0)
            self.link(right, join, 1)
            return [(join, 0)]
        if kind in ("cond", "torn"):
            cond = self.node(name, Kind.CONDITION, ("in",), ("0", "1"), _route(name, torn=kind == "torn"))
            self.link(ends, cond, 0)
            result = []
            for side in (0, 1):
                result += self.steps(step.inner[side] or (Step("nop", f"{name}n{side}"),), [(cond, side)])
            return result
        if kind == "loop":
            ends = self.step(Step("nop", name + "a"), ends)  # a loop has one edge in, and one back
            loop = self.node(name, Kind.LOOP, ("in",), ("again", "done"), _again(name))
            self.link(ends, loop, 0)
            body = self.steps(step.inner[0], [(loop, 0)])
            body = self.step(Step("nop", name + "b"), body) if len(body) > 1 else body
            self.link(body, loop, 0)
            return [(loop, 1)]
        if kind in EXPANDS:
            stream = kind != "expand"
            send = self._send_late if kind == "lexpand" else _send
            act = _expand_by_events(name, send) if stream else _expand(name)
            opened = self.node(name, Kind.EXPAND, ("in",), ("out",), act, stream=stream)
            self.link(ends, opened, 0)
            body = self.steps(step.inner[0], [(opened, 0)])
            closed = self.node(name + "c", Kind.COLLAPSE, ("in",), ("out",), _collapse, stream=self.dice.random() < 0.5)
            self.link(body, closed, 0)
            return [(closed, 0)]
        acts: dict[str, Any] = {
            "nop": lambda v: v, "map": lambda v: f"{v}.{name}", "catch": lambda v: f"{v}.{name}",
            "fail": lambda v: None if number(v, name) % 4 == 0 else v,
        }  # fmt: skip
        if kind in acts:
            node = self.node(
                name, Kind.NORMAL, ("in",), ("out",), _each(acts[kind], name), exception_visible=kind == "catch"
            )
        else:
            act = {"stream": _count, "late": _late, "filter": _filter(name), "idle": self._idle}[kind]
            node = self.node(name, Kind.STREAM, ("in",), ("out",), act, stream=True)
            if kind == "late":
                self.units[node].data_post = _late_rest
        self.link(ends, node, 0)
        return [(node, 0)]

    def _send_late(self, context: DataContext) -> None:
        self.later.append(lambda: _send(context))

    def _idle(self, context: DataContext, columns: list[list[Buffer]]) -> Any:
        """As `_count`; the stream ends only after an event that comes late."""
        if context.event() is not None:
            context.set_private("asked", False)
            return None
        _count(context, columns)
        if not context.get_private("asked"):
            context.set_private("asked", True)
            self._send_late(context)
        return StatusCode.STATUS_CONTINUE


def _send(context: DataContext) -> None:
    assert context.send_event(FlowUnitEvent())


def _each(function: Callable[[str], str | None], name: str) -> Any:
    def act(context: DataContext, columns: list[list[Buffer]]) -> None:
        for buffer in columns[0]:
            if buffer.has_error():
                context.output("out").append(Buffer(f"caught {name}"))
                continue
            value = function(buffer.data)
            made = Buffer(value)
            if value is None:
                made.set_error(name, "")
            context.output("out").append(made)

    return act


def _join(context: DataContext, columns: list[list[Buffer]]) -> None:
    for a, b in zip(*columns, strict=True):
        context.output("out").append(Buffer(f"({a.data}&{b.data})"))


def _route(name: str, *, torn: bool) -> Any:
    def act(context: DataContext, columns: list[list[Buffer]]) -> None:
        (buffer,) = columns[0]
        if torn and tears(buffer.data, name):
            raise ValueError(buffer.data)
        context.output(str(number(buffer.data, name) % 2)).append(buffer)

    return act


def _again(name: str) -> Any:
    def act(context: DataContext, columns: list[list[Buffer]]) -> None:
        (buffer,) = columns[0]
        if goes_round(buffer.data, name):
            context.output("again").append(Buffer(buffer.data + "~" + name))
        else:
            context.output("done").append(buffer)

    return act


def _expand(name: str) -> Any:
    def act(context: DataContext, columns: list[list[Buffer]]) -> None:
        (buffer,) = columns[0]
        for i in range(number(buffer.data, name) % 4):
            context.output("out").append(Buffer(f"{buffer.data}/{i}"))

    return act


def _expand_by_events(name: str, send: Callable[[DataContext], None]) -> Any:
    """One member a call, the rest by events."""

    def act(context: DataContext, columns: list[list[Buffer]]) -> Any:
        if context.event() is None:
            context.set_private("value", columns[0][0].data)
            context.set_private("next", 0)
        value, i = context.get_private("value"), context.get_private("next")
        if i >= number(value, name) % 4:
            return None
        context.output("out").append(Buffer(f"{value}/{i}"))
        context.set_private("next", i + 1)
        send(context)
        return StatusCode.STATUS_CONTINUE

    return act


def _collapse(context: DataContext, columns: list[list[Buffer]]) -> None:
    context.output("out").append(Buffer(f"[{','.join(buffer.data for buffer in columns[0])}]"))


def _count(context: DataContext, columns: list[list[Buffer]]) -> None:
    for buffer in columns[0]:
        count = (context.get_private("count") or 0) + 1
        context.set_private("count", count)
        context.output("out").append(Buffer(f"{buffer.data}#{count}"))


def _late(context: DataContext, columns: list[list[Buffer]]) -> None:
    """As `_count`, everything at the end."""
    context.set_private("held", [*(context.get_private("held") or []), *columns[0]])


def _late_rest(context: DataContext) -> None:
    _count(context, [context.get_private("held")])


def _filter(name: str) -> Any:
    def act(context: DataContext, columns: list[list[Buffer]]) -> None:
        for buffer in columns[0]:
            context.output("out").extend([buffer] * (number(buffer.data, name) % 3))

    return act


class Results:
    """Takes what comes out of a session."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.over = False

    def deliver(self, name: str, buffer: Buffer) -> None:
        self.values.append(f"!{buffer.get_error_code()}" if buffer.has_error() else buffer.data)

    def ended(self) -> None:
        self.over = True


@dataclass
class Simulator:
    """Runs a machine in an order that the dice choose: which node next, which running call ends first.

    Events that come `later` come now and then, and for certain when nothing else can be done.
    """

    machine: Machine
    dice: random.Random
    later: list[Callable[[], object]] = field(default_factory=list)
    running: list[Call] = field(default_factory=list)
    sessions: list[tuple[Lane, Results, list[str]]] = field(default_factory=list)
    grown: int = 0

    def session(self, values: list[str]) -> Results:
        results = Results()
        lane = self.machine.begin(self.machine.nodes[0], None, results)
        self.sessions.append((lane, results, list(values)))
        return results

    def run(self) -> None:
        machine = self.machine
        while True:
            choices: list[Callable[[], None]] = []
            if machine.mask:
                choices.append(self._take)
            if self.running:
                choices.append(self._finish)
            if self.sessions:
                choices.append(self._feed)
            if self.later and self.dice.random() < 0.1:
                choices.append(self._event)
            assert machine.fault is None, machine.fault
            for session in machine.ended:
                session.collector.ended()
            machine.ended.clear()
            if choices:
                self.dice.choice(choices)()
            elif machine.unblock():
                self.grown += 1
            elif self.later:
                self._event()
            else:
                return

    def _take(self) -> None:
        machine = self.machine
        ranks = [rank for rank in range(len(machine.nodes)) if machine.mask >> rank & 1]
        call = machine.by_rank[self.dice.choice(ranks)].take()
        if call is not None:
            self.running.append(call)

    def _finish(self) -> None:
        call = self.running.pop(self.dice.randrange(len(self.running)))
        run(call)
        self.machine.finish(call)

    def _event(self) -> None:
        self.later.pop(self.dice.randrange(len(self.later)))()

    def _feed(self) -> None:
        at = self.dice.randrange(len(self.sessions))
        lane, _, values = self.sessions[at]
        node: Any = lane.node
        if values:
            count = self.dice.randint(1, len(values))
            node.feed(lane, 0, [Buffer(value) for value in values[:count]])
            del values[:count]
        else:
            node.close(lane)
            del self.sessions[at]


def text_of(values: list[Any]) -> list[str]:
    """Expected values as `Results` has them: gaps are not delivered."""
    return [f"!{each.text}" if isinstance(each, Err) else each for each in values if each is not GAP]
