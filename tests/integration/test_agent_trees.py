"""Stops, time limits and what a run leaves behind: always the whole process tree."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runyard.agent import cgroup
from runyard.agent.cgroup import Cgroups
from runyard.model import wire
from tests.agents import AgentProcess, Client, alive
from tests.helpers import wait_until

ESCAPE = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""
"""A daemon in a session of its own, whose parents are gone, that ignores polite signals."""


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def pid_in(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text().strip(), 60, f"a pid in {path}"))


def escaped(agent: AgentProcess, client: Client, path: Path, **options: Any) -> tuple[wire.Launch, int]:
    """A run with an escaped daemon, and the daemon's pid."""
    launch = agent.launch([sys.executable, "-c", ESCAPE, str(path)], **options)
    client.send(launch)
    pid = pid_in(path)
    run = client.started(launch.run).pid
    assert os.getsid(pid) != os.getsid(run)
    return launch, pid


def test_stop_reaches_escaped_daemons_that_ignore_it(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    launch, daemon = escaped(agent, client, tmp_path / "daemon")
    client.send(wire.Stop(launch.run, signal.SIGTERM, 30.0))
    ended = client.exited(launch.run)
    assert not alive(daemon), "it must be dead before the run is reported"
    assert (ended.exit_code, ended.signal, ended.timed_out) == (None, signal.SIGTERM, False)


def test_a_tree_that_ignores_the_signal_is_killed_after_the_grace(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    path = tmp_path / "pid"
    launch = agent.launch(sh(f"trap '' TERM; sleep 600 & echo $! > {path}; while :; do sleep 1; done"))
    client.send(launch)
    child = pid_in(path)
    begin = time.monotonic()
    client.send(wire.Stop(launch.run, signal.SIGTERM, 0.3))
    ended = client.exited(launch.run)
    assert time.monotonic() - begin >= 0.3
    assert ended.signal == signal.SIGKILL
    assert ended.reason is not None and "15" in ended.reason
    assert not alive(child)


def test_a_graceful_program_gets_its_grace(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(sh("trap 'echo bye; exit 4' USR1; echo ready; while :; do sleep 0.02; done"))
    client.send(launch)
    client.started(launch.run)
    wait_until(lambda: Path(launch.stdout).exists() and agent.output(launch) == "ready\n")
    client.send(wire.Stop(launch.run, signal.SIGUSR1, 30.0))
    ended = client.exited(launch.run)
    assert (ended.exit_code, ended.reason) == (4, None)
    assert agent.output(launch) == "ready\nbye\n"


def test_a_halted_program_can_be_stopped(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(["sleep", "600"])
    client.send(launch)
    pid = client.started(launch.run).pid
    client.send(wire.Signal(launch.run, signal.SIGSTOP))
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T")
    client.send(wire.Stop(launch.run, signal.SIGTERM, 30.0))
    assert client.exited(launch.run).signal == signal.SIGTERM


def test_a_later_stop_can_shorten_the_grace(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(sh("trap '' TERM; echo ready; while :; do sleep 0.1; done"))
    client.send(launch)
    wait_until(lambda: Path(launch.stdout).exists() and agent.output(launch) == "ready\n")
    client.send(wire.Stop(launch.run, signal.SIGTERM, 600.0), wire.Stop(launch.run, signal.SIGTERM, 0.0))
    assert client.exited(launch.run).signal == signal.SIGKILL


def test_time_limit_ends_the_tree_and_says_so(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    path = tmp_path / "daemon"
    # A slow machine takes its time until the daemon is up.
    for limit in (0.5, 2.0, 8.0, 32.0):
        launch = agent.launch([sys.executable, "-c", ESCAPE, str(path)], time_limit=limit, grace=0.2)
        client.send(launch)
        ended = client.exited(launch.run)
        assert ended.timed_out and ended.signal == signal.SIGTERM
        assert ended.reason is not None and f"{limit:g} s" in ended.reason
        if path.exists():
            break
    assert not alive(pid_in(path))


def test_the_process_group_ends_with_its_main_process(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    path = tmp_path / "pid"
    launch = agent.launch(sh(f"sleep 600 & echo $! > {path}; exit 6"))
    client.send(launch)
    assert client.exited(launch.run).exit_code == 6
    child = pid_in(path)
    wait_until(lambda: not alive(child))


def test_a_fork_bomb_does_not_outrun_a_stop(agent: AgentProcess) -> None:
    client = agent.client()
    # Each process, in a session of its own, starts the next one and ends: the tree never stands still.
    text = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "if os.fork():\n"
        "    time.sleep(600)\n"
        "while True:\n"
        "    if os.fork():\n"
        "        time.sleep(0.02)\n"
        "        os._exit(0)\n"
        "    os.setsid()\n"
        "    time.sleep(0.01)\n"
    )
    launch = agent.launch([sys.executable, "-c", text])
    client.send(launch)
    wait_until(lambda: Path(launch.stdout).exists() and agent.output(launch) == "ready\n")
    client.send(wire.Stop(launch.run, signal.SIGTERM, 0.1))
    client.exited(launch.run)
    assert agent.marked() == []


def test_signals_reach_the_group_and_only_known_runs(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(sh("trap 'exit 9' USR2; echo ready; while :; do sleep 0.02; done"))
    client.send(launch)
    wait_until(lambda: Path(launch.stdout).exists() and agent.output(launch) == "ready\n")
    stranger = agent.launch(["true"])
    client.send(wire.Stop(stranger.run, signal.SIGTERM, 0), wire.Signal(stranger.run, signal.SIGTERM))
    client.send(wire.Signal(launch.run, signal.SIGUSR2))
    assert client.exited(launch.run).exit_code == 9
    # A stop for a launch that never came leaves no trace: the run can still be started.
    client.send(stranger)
    assert client.exited(stranger.run).exit_code == 0


def test_launch_and_stop_in_one_frame(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(["sleep", "600"])
    client.send(launch, wire.Stop(launch.run, signal.SIGTERM, 10))
    ended = client.exited(launch.run)
    assert (ended.pid, ended.exit_code, ended.signal) == (0, None, None)
    assert ended.reason == "stopped before it was started"
    assert not Path(launch.stdout).exists()


def test_many_stops_at_once(agent: AgentProcess) -> None:
    client = agent.client()
    launches = [agent.launch(["sleep", "600"]) for _ in range(150)]
    client.send(*launches)
    for launch in launches:
        client.started(launch.run)
    client.send(*[wire.Stop(launch.run, signal.SIGTERM, 30) for launch in launches])
    for launch in launches:
        assert client.exited(launch.run).signal == signal.SIGTERM


def test_shutdown_refuses_or_kills(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    launch, daemon = escaped(agent, client, tmp_path / "daemon")
    control = agent.client("control.sock")
    assert control.hello.live == [launch.run]
    control.send(wire.Shutdown(kill=False))
    refusal = control.wait(wire.Farewell)
    assert refusal.refused is not None and "1 runs" in refusal.refused
    control.send(wire.Shutdown(kill=True))
    ended = client.exited(launch.run)
    assert ended.signal == signal.SIGTERM and ended.reason == "the agent was shut down"
    assert client.wait(wire.Farewell).refused is None
    assert agent.wait() == 0
    assert not alive(daemon)


_TREE = Cgroups("probe")


@pytest.mark.skipif(_TREE.root is None, reason="no cgroup v2 tree can be written here")
def test_a_cgroup_takes_everything_along(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    # Even what has left session, parents and environment behind.
    hidden = f"env -i setsid sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/pid; exec sleep 600' & exit 0"
    launch = agent.launch(sh(f"({hidden}); while [ ! -s {tmp_path}/pid ]; do sleep 0.01; done"), cpus=1.0)
    client.send(launch)
    ended = client.exited(launch.run)
    assert ended.exit_code == 0
    pid = pid_in(tmp_path / "pid")
    assert not alive(pid)
    assert ended.cpu_seconds is not None and ended.cpu_seconds > 0
    name = (agent.folder / "id").read_text()
    assert _TREE.root is not None
    root = Path(_TREE.root).with_name(f"runyard-{name}")
    assert root.is_dir() and not any(path.is_dir() for path in root.iterdir())
    os.kill(agent.pid, signal.SIGTERM)
    agent.wait()
    assert not root.exists()


def test_the_cgroup_files_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    assert cgroup.out_of_memory(str(tmp_path))
    assert cgroup.cpu_seconds(str(tmp_path)) == 1.5
    (tmp_path / "memory.events").write_text("max 12\noom_kill 0\n")
    assert not cgroup.out_of_memory(str(tmp_path))
    assert cgroup.cpu_seconds(str(tmp_path / "missing")) is None


def test_without_a_cgroup_tree_that_can_be_written_the_reason_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nothing = Cgroups("probe", str(tmp_path / "file"))
    assert nothing.root is None and nothing.path("1.0.1") is None
    assert nothing.note is not None and str(tmp_path) in nothing.note
