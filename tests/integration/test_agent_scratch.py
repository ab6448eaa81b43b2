"""A run's own folder for temporary files, through a real agent."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from runyard.agent import process
from runyard.model import wire
from tests.agents import AgentProcess, is_root
from tests.helpers import wait_until
from tests.integration.test_agent_tasks import many, sh


def gone(agent: AgentProcess, folder: Path) -> None:
    wait_until(lambda: not folder.exists(), 60, f"the end of {folder}")
    wait_until(lambda: not process.children(agent.pid), 60, "no child that is left")


def test_tasks_share_a_folder_that_is_gone_after_their_end(agent: AgentProcess) -> None:
    client = agent.client()
    text = "mkdir -p $T/a/b; echo x > $T/a/b/$RUNYARD_TASK_RANK; echo $T $(stat -c %a $T)"
    launch = agent.launch(sh(text), env={"T": "mine"}, tmpdir="T", tasks=many(2), umask=0o777)
    empty = agent.launch(sh("echo $T"), tmpdir="T")
    client.send(launch, empty)
    assert client.exited(launch.run).exit_code == client.exited(empty.run).exit_code == 0
    first, second = agent.output(launch).splitlines()
    folder, mode = first.split()
    assert first == second and mode == "700" and str(launch.run) in folder
    gone(agent, Path(folder))
    gone(agent, Path(agent.output(empty).strip()))


@pytest.mark.skipif(not is_root(), reason="only root can start processes as others")
def test_it_belongs_to_the_account_of_the_run(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(sh("echo $T; mkdir $T/x; chmod 0 $T/x; stat -c '%U %a' $T"), tmpdir="T", user="nobody")
    client.send(launch)
    assert client.exited(launch.run).exit_code == 0
    folder, owner = agent.output(launch).splitlines()
    assert owner == "nobody 700"
    gone(agent, Path(folder))


def test_one_that_was_never_started_leaves_none(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    launch = agent.launch(["no-such-program"], tmpdir="T")
    client.send(launch)
    assert client.exited(launch.run).pid == 0
    assert not [name for name in os.listdir(os.environ.get("TMPDIR") or "/tmp") if f"-{launch.run}-" in name]


def test_another_agent_removes_it(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(sh("touch $T/x; echo $T; exec sleep 600"), tmpdir="T")
    client.send(launch)
    client.started(launch.run)
    folder = Path(wait_until(lambda: agent.output(launch).strip(), 60, "the name of its folder"))
    assert stat.S_ISDIR(folder.stat().st_mode)
    agent.kill()
    client.close()
    agent.start()
    client = agent.client()
    client.send(wire.Stop(launch.run, signal.SIGKILL, 0))
    client.exited(launch.run)
    gone(agent, folder)
