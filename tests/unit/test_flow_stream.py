"""The rules of streams: random graphs in random order give what a plain interpreter gives."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.flow.runtime.plan import Kind
from tests.flow_rig import EXPANDS, Builder, Results, Simulator, Step, expected, number, text_of


def steps(draw: st.DrawFn, depth: int, free: bool, in_loop: bool, names: list[int]) -> tuple[Step, ...]:
    """`free`: counts may change here. Inside a loop there are no stream units (spec 4.6, check 17)."""
    result: list[Step] = []
    for _ in range(draw(st.integers(0 if depth < 2 else 1, 3))):
        # What is caught is short again, and might go round for ever.
        kinds = ["map", "fail", *(["catch"] if not in_loop else [])]
        if not in_loop:
            kinds += ["stream", "idle", *(["late", "filter"] if free else [])]
        if depth:
            kinds += ["fork", "cond", "torn", "expand", "loop"] + ([] if in_loop else ["sexpand", "lexpand"])
        kind = draw(st.sampled_from(kinds))
        names[0] += 1
        name = f"{kind[0]}{names[0]}"
        inner: tuple[tuple[Step, ...], ...] = ()
        if kind in ("fork", "cond", "torn"):
            inner = (
                steps(draw, depth - 1, False, in_loop, names),
                steps(draw, depth - 1, False, in_loop, names),
            )
        elif kind in EXPANDS:
            inner = (steps(draw, depth - 1, not in_loop, in_loop, names),)
        elif kind == "loop":
            inner = (steps(draw, depth - 1, False, True, names),)
        result.append(Step(kind, name, inner))
    return tuple(result)


@st.composite
def flows(draw: st.DrawFn) -> tuple[Step, ...]:
    return steps(draw, draw(st.integers(1, 3)), True, False, [0])


def check(flow: tuple[Step, ...], sessions: list[list[str]], seed: int) -> Simulator:
    dice = random.Random(seed)
    builder = Builder(dice)
    machine = builder.build(flow)
    simulator = Simulator(machine, dice, builder.later)
    results = [simulator.session(values) for values in sessions]
    simulator.run()
    for values, result in zip(sessions, results, strict=True):
        assert result.values == text_of(expected(flow, list(values)))
        assert result.over
    assert not machine.sessions
    assert [edge.depth for edge in machine.edges] == [0] * len(machine.edges)
    assert not any(node.ready or node.full_outs for node in machine.nodes)
    return simulator


@settings(max_examples=120, deadline=None)
@given(
    flows(),
    st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=12), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
def test_any_order_of_work_gives_the_same_streams(flow: tuple[Step, ...], sessions: list[list[str]], seed: int) -> None:
    check(flow, sessions, seed)


def s(kind: str, name: str, *inner: tuple[Step, ...]) -> Step:
    return Step(kind, name, inner)


FLOWS: dict[str, tuple[Step, ...]] = {
    "empty": (),
    "chain": (s("map", "a"), s("stream", "b"), s("map", "c")),
    "filter then map": (s("filter", "f"), s("map", "m")),
    "fork and join": (s("fork", "f", (s("map", "x"),), (s("stream", "y"),)),),
    "fork with one branch that holds back": (s("fork", "f", (s("late", "l"),), (s("map", "y"),)),),
    "condition": (s("cond", "c", (s("map", "x"),), (s("stream", "y"),)), s("map", "z")),
    "condition in condition": (s("cond", "c", (s("cond", "d", (s("map", "x"),), ()),), (s("map", "y"),)),),
    "condition behind condition": (s("cond", "c", (), ()), s("cond", "d", (s("map", "x"),), ()), s("map", "z")),
    "expand and collapse": (s("expand", "e", (s("map", "x"), s("stream", "n"))),),
    "expand in expand": (s("expand", "e", (s("expand", "g", (s("stream", "x"),)), s("map", "m"))),),
    "expand by events": (s("sexpand", "e", (s("filter", "x"),)), s("stream", "n")),
    "expand by late events": (s("lexpand", "e", (s("idle", "x"),)), s("stream", "n")),
    "late events beside": (s("fork", "f", (s("lexpand", "e", (s("map", "x"),)),), (s("late", "l"),)),),
    "expand beside": (s("fork", "f", (s("expand", "e", (s("map", "x"),)),), ()),),
    "condition in expand": (s("expand", "e", (s("cond", "c", (s("map", "x"),), (s("stream", "y"),)),)),),
    "expand in a branch": (s("cond", "c", (s("expand", "e", (s("stream", "x"),)),), ()), s("map", "z")),
    "errors pass by": (s("fail", "f"), s("expand", "e", (s("map", "x"),)), s("stream", "n")),
    "errors are caught": (s("fail", "f"), s("map", "m"), s("catch", "k")),
    "outer errors are not seen inside": (s("fail", "f"), s("expand", "e", (s("catch", "k"),)), s("catch", "o")),
    "inner errors are seen outside": (s("expand", "e", (s("fail", "f"), s("fail", "g"))), s("catch", "o")),
    "errors in a branch": (s("fail", "a"), s("cond", "c", (s("fail", "f"), s("catch", "k")), ()), s("catch", "o")),
    "a condition fails": (s("torn", "c", (s("map", "x"),), (s("stream", "y"),)), s("catch", "o")),
    "one branch makes good": (s("torn", "c", (s("map", "x"),), (s("catch", "k"),)), s("stream", "n")),
    "both branches make good": (s("torn", "c", (s("catch", "k"),), (s("catch", "m"),)), s("stream", "n")),
    "loop": (s("loop", "l", (s("map", "x"),)), s("stream", "n")),
    "loop with an empty body": (s("loop", "l", ()),),
    "loop with brackets": (s("loop", "l", (s("cond", "c", (s("map", "x"),), ()), s("map", "m"), s("fail", "f"))),),
    "loop in expand": (s("expand", "e", (s("loop", "l", (s("map", "x"),)),)),),
    "loop in loop": (s("loop", "l", (s("map", "x"), s("loop", "n", (s("map", "y"),)))),),
    "loop over an expand": (s("loop", "l", (s("expand", "e", (s("map", "x"),)),)),),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOWS)
def test_each_structure(name: str) -> None:
    for seed in range(8):
        values = [chr(97 + at % 26) + str(at) for at in range(seed * 7)]
        check(FLOWS[name], [values, [], values[:3]], seed)


def test_a_queue_grows_where_the_graph_would_stand_still() -> None:
    flow = FLOWS["fork with one branch that holds back"]
    grown = sum(check(flow, [[str(at) for at in range(100)]], seed).grown for seed in range(3))
    assert grown > 0


def waiting_for_events(sessions: list[list[str]]) -> tuple[Builder, Simulator, list[Results]]:
    """A flow that has done what it can while no event comes; its expand has queues of 4."""
    dice = random.Random(1)
    builder = Builder(dice)
    machine = builder.build(LATE)
    for edge in machine.edges:
        edge.capacity = edge.size = 4
    simulator = Simulator(machine, dice)
    results = [simulator.session(values) for values in sessions]
    simulator.run()
    return builder, simulator, results


LATE = (s("map", "m"), s("lexpand", "e", (s("idle", "x"),)))
MEMBERS = [value for value in map(str, range(400)) if number(f"{value}.m", "e") % 4]
"""Values of which the expand of `LATE` makes something."""


def test_a_unit_that_waits_for_events_holds_the_source_back() -> None:
    builder, simulator, (result,) = waiting_for_events([MEMBERS])
    machine = simulator.machine
    source: Any = machine.nodes[0]
    assert simulator.grown == 0
    assert source.waiting > len(MEMBERS) - 3 * 32
    simulator.later = builder.later
    simulator.run()
    assert result.values == text_of(expected(LATE, list(MEMBERS)))
    assert result.over


def test_sessions_that_wait_for_events_leave_the_others_room() -> None:
    # The ends of twenty sessions don't fit into the queue.
    builder, simulator, results = waiting_for_events([[value] for value in MEMBERS[:20]])
    opened = next(node for node in simulator.machine.nodes if node.plan.stream and node.plan.kind is Kind.EXPAND)
    lanes = [session.lanes[opened.index] for session in simulator.machine.sessions]
    assert [lane.sent for lane in lanes] == [[True]] * 20
    simulator.later = builder.later
    simulator.run()
    assert all(result.over for result in results)


def test_what_was_sent_comes_out_of_a_session_that_is_shut_down() -> None:
    _, simulator, results = waiting_for_events([MEMBERS, MEMBERS[:2]])
    machine = simulator.machine
    for session in list(machine.sessions):
        machine.shut_down(session)
    simulator.run()
    # Each sub-stream ends with the member that the first call made.
    assert [len(result.values) for result in results] == [len(MEMBERS), 2]
    assert all(result.over for result in results)
    assert [edge.depth for edge in machine.edges] == [0] * len(machine.edges)
    assert not any(node.ready or node.full_outs for node in machine.nodes)
