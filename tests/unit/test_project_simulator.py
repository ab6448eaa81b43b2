"""Projects in a simulated world of faults: whatever happens, a step begins at most once for each of its runs, the rules
hold after every input, and the project comes to an end."""

from __future__ import annotations

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runyard.project.state import Begin, Halt, Phase
from tests.project_world import Faults, World

_SOME = st.sampled_from([0.0, 0.05, 0.3])
#: Members that forget may begin anew what they had begun: those worlds have a test of their own.
_FAULTS = st.builds(
    Faults,
    unreachable=_SOME,
    silent=_SOME,
    garbled=_SOME,
    report_lost=st.sampled_from([0.0, 0.5, 1.0]),
    report_twice=_SOME,
    task_fails=st.sampled_from([0.0, 0.2]),
    crash=st.sampled_from([0.0, 0.02, 0.2]),
)


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), faults=_FAULTS, steps=st.integers(1, 5), parallel=st.integers(1, 3))
@example(seed=1, faults=Faults(crash=0.5, silent=0.5), steps=3, parallel=1)
def test_a_project_ends_whatever_happens(seed: int, faults: Faults, steps: int, parallel: int) -> None:
    world = World(seed, faults, steps, parallel=parallel)
    world.tell(Begin(attempt=1))
    world.run(600)
    # Whoever is left alone gets through.
    world.faults = Faults()
    world.run(2000)
    assert world.coordinator.over
    if faults == Faults():
        assert world.coordinator.state.phase is Phase.COMPLETED
        assert all(member.begun == 1 for member in world.members.values())


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 32), crash=st.sampled_from([0.02, 0.3]))
def test_crashes_alone_cost_nothing(seed: int, crash: float) -> None:
    world = World(seed, Faults(crash=crash))
    world.tell(Begin(attempt=1))
    world.run(600)
    world.faults = Faults()
    world.run(600)
    assert world.coordinator.state.phase is Phase.COMPLETED
    assert all(member.begun == 1 for member in world.members.values())


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 32), after=st.floats(0, 60), faults=_FAULTS)
def test_a_stop_always_comes_to_its_end(seed: int, after: float, faults: Faults) -> None:
    world = World(seed, faults)
    world.tell(Begin(attempt=1))
    world.run(after)
    world.tell(Halt(reason="stopped by request"))
    world.run(120)
    assert world.coordinator.over


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 32))
def test_members_that_forget_make_the_project_fail_but_not_hang(seed: int) -> None:
    world = World(seed, Faults(restart=0.05))
    world.check = lambda: None  # type: ignore[method-assign]
    world.tell(Begin(attempt=1))
    world.run(2000)
    assert world.coordinator.over


def test_the_same_seed_is_the_same_story() -> None:
    ends = []
    for _ in range(2):
        world = World(7, Faults(silent=0.2, crash=0.05, report_lost=0.5))
        world.tell(Begin(attempt=1))
        world.run(600)
        ends.append((world.now, msgspec.json.encode(world.coordinator.state)))
    assert ends[0] == ends[1]
