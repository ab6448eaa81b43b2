"""A full minute in real time: the only test that waits for one, in a file of its own so that others run beside it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers import wait_until
from tests.system.meproc import OK, meproc


@pytest.mark.slow
def test_cron_tasks_at_the_next_minute(tmp_path: Path) -> None:
    """One that runs, one that a dependency holds at that moment, and one that is still up."""
    gate = tmp_path / "gate"
    with meproc(tmp_path / "server") as door:
        # Not while all this is set up.
        wait_until(lambda: int(time.time()) % 60 < 45, what="a new minute")
        minute = int(time.time()) // 60 * 60 + 60
        door.start("dep", f"while [ ! -e {gate} ]; do sleep 0.05; done")
        door.until_up("dep")
        door.start("cron", "date +%s", "cron", cron="* * * * *")
        door.start("held", "echo held", "cron", deps=["dep"])
        door.start("busy", "echo busy; sleep 600", "cron")
        assert door.put("busy") == OK
        (pid,) = door.until_up("busy")
        task = door.until("cron", lambda task: task["last_time"], 120)
        assert minute <= task["start_time"] <= task["last_time"]
        assert int(door.until_written("cron", b"\n")) >= minute
        held = door.until("held", lambda task: task["run_flag"])
        assert (held["running"], held["last_time"], held["start_time"]) == (0, 0, task["start_time"])
        assert door.pids("busy") == [pid] and door.task("busy")["last_time"] < minute, "a tick is skipped: one is up"
        gate.touch()
        assert door.until_written("held", b"held")
        assert door.until("held", lambda task: not task["running"])["last_time"] >= minute
        door.clear()
