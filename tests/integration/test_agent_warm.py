"""A program that is kept warm and does not do what it should: the agent's other runs don't notice."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from runyard.model import wire
from tests.agents import AgentProcess, Client, alive
from tests.helpers import wait_until

#: Kept warm it takes requests, and never answers. Otherwise it sleeps.
SILENT = """
import os, socket, sys, time

here = os.path.dirname(__file__)
if sys.argv[-2] == "--warm":
    agent = socket.socket(fileno=int(sys.argv[-1]))
    agent.send(b"ready")
    open(f"{here}/warm-{os.getpid()}", "w").close()
    while agent.recv(65536):
        open(f"{here}/asked", "w").close()
else:
    time.sleep(600)
"""


def script(folder: Path) -> list[str]:
    path = folder / "silent.py"
    path.write_text(SILENT)
    return [sys.executable, str(path)]


def warm_pids(folder: Path) -> set[int]:
    return {int(path.name.removeprefix("warm-")) for path in folder.glob("warm-*")}


def has_started(client: Client, launch: wire.Launch) -> bool:
    client.receive()
    return any(isinstance(message, wire.Started) and message.run == launch.run for message in client.messages)


def test_one_that_never_answers_delays_its_own_run_only(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    argv = script(tmp_path)
    others = []
    while not (tmp_path / "asked").exists():
        # Before it is loaded runs are started cold, and so is the first one, which starts it.
        run, other = agent.launch([*argv, "x"], warm=2), agent.launch(["/bin/echo", "here"])
        client.send(run, other)
        others.append(other)
        wait_until(lambda run=run: (tmp_path / "asked").exists() or has_started(client, run), 30)  # type: ignore[misc]
        client.send(wire.Stop(run.run, signal.SIGTERM, 30.0))
    last = others[-1]
    assert client.exited(last.run).exit_code == 0
    ended = client.exited(run.run)
    assert (ended.exit_code, ended.signal) == (None, signal.SIGTERM), "stopped, though its pid was not known then"
    assert client.started(last.run).seq < client.started(run.run).seq
    assert wait_until(lambda: not any(alive(pid) for pid in warm_pids(tmp_path)), 30)


def test_another_edition_is_loaded_anew(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    argv = script(tmp_path)
    old: set[int] = set()
    for edition in ("1", "2"):
        run = agent.launch([*argv, "x"], warm=2, edition=edition)
        client.send(run)
        client.started(run.run)
        new = wait_until(lambda: warm_pids(tmp_path) - old, 30)  # noqa: B023
        assert wait_until(lambda: not any(alive(pid) for pid in old), 30)  # noqa: B023
        old = new
        client.send(wire.Stop(run.run, signal.SIGKILL, 0.0))
        client.exited(run.run)
