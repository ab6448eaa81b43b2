"""Meproc's dependencies: a start is held while something that the task depends on has a live process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import wait_until
from tests.system.meproc import OK, Door, Json, meproc


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with meproc(tmp_path_factory.mktemp("meproc")) as door:
        yield door


@pytest.fixture(autouse=True)
def nothing_left(door: Door) -> Iterator[None]:
    yield
    door.clear()


@pytest.fixture
def gated(door: Door, tmp_path: Path) -> Callable[..., None]:
    """Starts a task that notes its start and ends once its gate is open: `open_gate`."""

    def start(name: str, *deps: str, type: str = "once", **more: object) -> None:
        cmd = f"echo {name} >> {tmp_path}/order; while [ ! -e {tmp_path}/{name} ]; do sleep 0.02; done"
        door.start(name, cmd, type, deps=list(deps), **more)

    return start


@pytest.fixture
def open_gate(tmp_path: Path) -> Callable[[str], None]:
    return lambda name: (tmp_path / name).touch()


def is_held(task: Json) -> bool:
    return bool(task["run_flag"]) and task["running"] == 0


def order(tmp_path: Path) -> list[str]:
    """Who has begun, one after the other."""
    file = tmp_path / "order"
    return file.read_text().split() if file.exists() else []


Gated = Callable[..., None]
Open = Callable[[str], None]


def test_a_task_is_held_while_its_dependency_is_alive(door: Door, gated: Gated, open_gate: Open) -> None:
    gated("dep")
    door.until_up("dep")
    before = int(time.time())
    gated("t", "dep")
    held = door.task("t")
    assert is_held(held) and held["last_time"] == 0 and before <= held["start_time"] <= time.time()
    assert door.pids("t") == []
    wait_until(lambda: int(time.time()) > held["start_time"])
    assert door.task("t") == held, "its start time is that of the request"
    open_gate("dep")
    door.until_up("t")
    task = door.task("t")
    assert (task["run_flag"], task["running"]) == (False, 1)
    assert task["start_time"] == held["start_time"] < task["last_time"]


def test_what_is_unknown_has_ended_or_failed_holds_nobody(door: Door, gated: Gated) -> None:
    door.start("over", "true")
    door.start("failed", "exit 1")
    door.start("cron", "true", "cron")
    door.start("removed", "sleep 600")
    for name in ("over", "failed"):
        door.until_ended(name)
    assert door.delete("removed") == OK
    wait_until(lambda: not door.pids("removed"))
    gated("t", "over", "failed", "cron", "removed", "never heard of", "", " odd\x01 ", "123", "over", "t" * 300)
    door.until_up("t")


def test_a_chain_runs_in_order(door: Door, gated: Gated, open_gate: Open, tmp_path: Path) -> None:
    gated("a")
    door.until_up("a")
    # The last link first: it is held by what it depends on indirectly.
    gated("c", "b", "a")
    gated("b", "a")
    gated("d", "c")
    assert all(is_held(door.task(name)) for name in "bcd")
    for name, following in (("a", "b"), ("b", "c"), ("c", "d")):
        open_gate(name)
        door.until_up(following)
        assert len(door.get()["running"]) == 1
    wait_until(lambda: order(tmp_path) == ["a", "b", "c", "d"])


def test_a_dependency_of_an_ended_dependency_holds_too(door: Door, gated: Gated, open_gate: Open) -> None:
    gated("far")
    gated("near", "far")
    open_gate("near")
    assert door.delete("far") == OK
    door.until_ended("near")
    gated("far")
    door.until_up("far")
    gated("t", "near")
    assert is_held(door.task("t")), "near has ended, but depends on far, which is up"
    open_gate("far")
    door.until_up("t")


def test_the_closure_follows_what_is_registered_later(door: Door, gated: Gated, open_gate: Open) -> None:
    """A dependency that did not exist when the task came may bring more of them, and take them away again."""
    gated("dep")
    gated("far")
    door.until_up("dep")
    door.until_up("far")
    gated("t", "dep", "later")
    gated("later", "far")
    open_gate("dep")
    door.until_ended("dep")
    assert is_held(door.task("t")) and is_held(door.task("later"))
    assert door.delete("later") == OK
    door.until_up("t")
    assert len(door.pids("far")) == 1, "far is still up, but nothing that t depends on leads there any more"


@pytest.mark.parametrize("how", ["delete", "restart", "end"])
def test_the_end_of_a_dependency_by_any_way_releases(door: Door, gated: Gated, open_gate: Open, how: str) -> None:
    gated("dep")
    (old,) = door.until_up("dep")
    gated("t", "dep")
    assert is_held(door.task("t"))
    if how == "delete":
        assert door.delete("dep") == OK
    elif how == "end":
        open_gate("dep")
    else:
        assert door.put("dep") == OK
        door.until_up("dep", but=[old])
        assert is_held(door.task("t")), "the next generation holds as well"
        open_gate("dep")
    door.until_up("t")


def test_delete_of_a_held_link_releases_what_waits_behind_it(door: Door, gated: Gated) -> None:
    gated("a")
    door.until_up("a")
    gated("b", "a")
    gated("c", "b")
    assert door.delete("b") == OK
    door.until_up("c")
    assert len(door.pids("a")) == 1


def test_delete_of_a_held_task_and_of_one_whose_dependency_is_alive(door: Door, gated: Gated, tmp_path: Path) -> None:
    """The original forgets such a task and leaves its process behind."""
    gated("t", "dep")
    (pid,) = door.until_up("t")
    gated("dep")
    door.until_up("dep")
    # Both have begun what they do.
    wait_until(lambda: sorted(order(tmp_path)) == ["dep", "t"])
    assert door.put("t") == OK
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60, "the end of the first generation")
    assert is_held(door.until("t", is_held)) and door.pids("t") == []
    assert door.delete("t") == OK
    gated("t")
    door.until_up("t")
    wait_until(lambda: len(order(tmp_path)) == 3)
    assert door.delete("t") == OK
    wait_until(lambda: not door.pids("t"))
    assert door.delete("dep") == OK
    wait_until(lambda: not door.pids("dep"))
    assert sorted(order(tmp_path)) == ["dep", "t", "t"]


def test_a_daemon_holds_only_while_its_process_is_up(door: Door, gated: Gated, open_gate: Open) -> None:
    gated("dep", type="daemon", interval=600)
    door.until_up("dep")
    gated("t", "dep")
    assert is_held(door.task("t"))
    open_gate("dep")
    door.until_up("t")
    assert door.task("dep")["running"] == 1 and door.pids("dep") == [], "it is in its pause"


def test_a_held_daemon(door: Door, gated: Gated, open_gate: Open) -> None:
    gated("dep")
    door.until_up("dep")
    gated("d", "dep", type="daemon", interval=1, replica=2)
    assert is_held(door.task("d"))
    open_gate("dep")
    door.until_up("d", 2)
    assert (door.task("d")["run_flag"], door.task("d")["running"]) == (False, 2)


def test_a_cron_task_that_is_run_by_hand_is_held_too(door: Door, gated: Gated, open_gate: Open) -> None:
    gated("dep")
    door.until_up("dep")
    gated("c", "dep", type="cron", cron="0 0 1 1 *")
    assert not door.task("c")["run_flag"], "nothing is due"
    assert door.put("c") == OK
    assert is_held(door.task("c"))
    open_gate("dep")
    door.until_up("c")


def test_a_process_that_is_being_stopped_still_holds(door: Door, gated: Gated) -> None:
    door.start("dep", "trap '' TERM; echo up; while :; do sleep 0.1; done")
    door.until_written("dep", b"up")
    (pid,) = door.until_up("dep")
    assert door.delete("dep") == OK
    gated("t", "dep")
    assert is_held(door.task("t"))
    os.kill(pid, signal.SIGKILL)
    door.until_up("t")
    assert not Path(f"/proc/{pid}").exists()


# Circles ----------------------------------------------------------------------------------------------------------


def test_a_circle_of_held_tasks_is_refused_and_named(door: Door, gated: Gated) -> None:
    gated("gate")
    door.until_up("gate")
    gated("a", "b", "gate")
    gated("b", "c", "gate")
    before = door.get()
    answer = door.post("c", "true", deps=["a"])
    assert answer["code"] == 400 and all(f"{name} -> " in answer["msg"] for name in "cab"), answer
    assert answer["msg"].endswith("c -> a -> b -> c")
    assert door.get() == before, "nothing is stored"
    # The circle is broken when one of the others is gone.
    assert door.delete("b") == OK
    gated("c", "a")


def test_a_restart_into_a_circle_is_refused(door: Door, gated: Gated, open_gate: Open) -> None:
    gated("a", "b")
    (pid,) = door.until_up("a")
    gated("b", "a")
    assert is_held(door.task("b"))
    answer = door.put("a")
    assert answer["code"] == 400 and answer["msg"].endswith("a -> b -> a")
    assert door.pids("a") == [pid]
    open_gate("a")
    door.until_up("b")


def test_a_task_that_names_itself_runs_but_is_not_restarted_while_it_is_up(
    door: Door, gated: Gated, open_gate: Open
) -> None:
    gated("t", "t")
    door.until_up("t")
    answer = door.put("t")
    assert answer["code"] == 400 and answer["msg"].endswith("t -> t")
    open_gate("t")
    door.until_ended("t")
    assert door.put("t") == OK


def test_a_circle_that_holds_nobody_is_taken_and_never_stands_still(
    door: Door, gated: Gated, open_gate: Open, tmp_path: Path
) -> None:
    gated("a", "c")
    door.until_up("a")
    gated("b", "a")
    # Closes the circle on paper: a is up already, so somebody gets forward.
    gated("c", "b")
    for name, following in (("a", "b"), ("b", "c")):
        open_gate(name)
        door.until_up(following)
    open_gate("c")
    door.until_ended("c")
    assert order(tmp_path) == ["a", "b", "c"]
    for name in "abc":
        assert door.put(name) == OK
        door.until_ended(name)


def test_schedules_that_depend_on_each_other_take_turns(door: Door) -> None:
    door.start("x", "echo x", "cron", cron="0 0 1 1 *", deps=["y"])
    door.start("y", "echo y", "cron", cron="0 0 1 1 *", deps=["x"])
    for name in ("x", "y", "x"):
        assert door.put(name) == OK
        door.until(name, lambda task: task["last_time"] and not task["running"])
    assert door.output("y") == {"y:0": b"y\n"}
