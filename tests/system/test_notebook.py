"""The notebook helper against a server: start, watch, stop, find again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runyard.client import Client
from runyard.model.errors import Conflict, NotFound
from runyard.notebook import Job, Task
from runyard.notebook.task import Refused
from tests.helpers import wait_until

_WAIT = "import os, sys, time\nwhile not os.path.exists({path!r}):\n    time.sleep(0.01)\n"


def test_a_job_is_watched_to_its_end(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    program = """
from runyard import report
with report.run():
    for step in range(5):
        report.metrics(loss=1 / (step + 1), step=step)
    report.text("progress", 100)
    raise ValueError("no more")
"""
    job = Job.submit(command=[sys.executable, "-c", program], client=client)
    assert job.watch(interval=0.1) == "failed"
    shown = capsys.readouterr().out
    assert "failed 100 %" in shown and "loss: " in shown and "ValueError: no more" in shown
    assert [point[2] for point in job.curves(["loss"])[0].points] == [1 / (step + 1) for step in range(5)]
    assert [message.body["status"] for message in job.messages("status", "error")] == ["running", "crash"]
    # As after a reload of the page.
    again = Job(job.id, client)
    assert again.watch() == "failed"
    with pytest.raises(Conflict):
        again.stop()


def test_a_task_is_found_again_and_stopped(client: Client, tmp_path: Path) -> None:
    user, uuid = "notebook", f"p{tmp_path.name[-20:].replace('_', '-')}"
    task = Task("k12pyr", uuid, user=user, client=client)
    with pytest.raises(NotFound):
        task.watch()
    with pytest.raises(Refused):
        task.stop()
    code = "print('up')\n" + _WAIT.format(path=str(tmp_path / "never"))
    job = task.start({"code": code}, phase="runcode")
    again = Task("k12pyr", uuid, user=user, client=client)
    assert again.job.id == job.id
    with pytest.raises(Conflict):
        again.start({"code": code}, phase="runcode")
    wait_until(lambda: any(message.body.get("log") == "up\n" for message in job.messages("log")))
    again.stop()
    assert again.watch(interval=0.1) == "cancelled"
    assert not Task("k12pyr", uuid, user=user, client=client).attach()
    with pytest.raises(Refused):
        Task("no-such-framework", uuid, user=user, client=client).start()
