"""The local executor with real agents: it starts them, loses them, and finds them again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runyard.executors.local import LocalExecutor, agent_status, connect, stop_agent
from runyard.executors.protocol import Report, Synced
from runyard.model import wire
from runyard.model.errors import Conflict, Unavailable
from tests.agents import AgentProcess, alive
from tests.helpers import wait_until, wait_until_async


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """A folder for agents that executors start."""
    agent = AgentProcess(tmp_path)
    try:
        yield agent
    finally:
        asyncio.run(stop_agent(agent.folder, kill=True))
        agent.close()


class Heard:
    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.synced: list[Synced] = []
        self.down: list[str] = []

    async def start(self, executor: LocalExecutor) -> None:
        await executor.start(self.reports.extend, self.synced.append, self.down.append)

    def exits(self) -> dict[object, wire.Exited]:
        return {report.run: report for report in self.reports if isinstance(report, wire.Exited)}


def test_a_killed_agent_is_replaced_and_nothing_is_lost(agent: AgentProcess, tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        executor = LocalExecutor(agent.folder, name="n1", gpus=[0, 1])
        await heard.start(executor)
        try:
            up = agent.launch(["/bin/sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"])
            executor.launch([up])
            await wait_until_async(lambda: heard.reports)
            pid = agent_status(agent.folder).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await wait_until_async(lambda: heard.down)
            lost, later = agent.launch(["true"]), agent.launch(["true"])
            executor.launch([lost])
            await wait_until_async(lambda: len(heard.synced) == 2)
            executor.launch([later])
            assert heard.down == ["n1"]
            assert heard.synced[1].live == {up.run} and heard.synced[1].node.gpus == [0, 1]
            assert agent_status(agent.folder).pid not in (None, pid)
            (tmp_path / "go").touch()
            await wait_until_async(lambda: {up.run, later.run} <= heard.exits().keys())
            assert heard.exits()[later.run].exit_code == 0
            # Said while nobody was there: it is for the service to say it again.
            assert lost.run not in heard.exits()
        finally:
            await executor.close()

    asyncio.run(test())


def test_the_agent_outlives_the_program_that_started_it(agent: AgentProcess) -> None:
    launch = agent.launch(["sleep", "600"])
    text = (
        "import asyncio, pathlib, sys\n"
        "from runyard.executors.local import LocalExecutor\n"
        "from runyard.model import wire\n"
        "async def main():\n"
        "    executor = LocalExecutor(pathlib.Path(sys.argv[1]))\n"
        "    reports = []\n"
        "    await executor.start(reports.extend, lambda synced: None, lambda node: None)\n"
        "    executor.launch([wire.Launch((5, 0, 1), ['sleep', '600'], {}, None, sys.argv[2], sys.argv[3])])\n"
        "    while not reports:\n"
        "        await asyncio.sleep(0.01)\n"
        "    print(reports[0].pid, flush=True)\n"
        "    sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", text, str(agent.folder), launch.stdout, launch.stderr]
    server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdin is not None and server.stdout is not None
    with server, server.stdin, server.stdout:
        pid = int(server.stdout.readline())
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    status = agent_status(agent.folder)
    assert status.running and status.pid is not None
    assert [tuple(run) for run in status.live] == [(5, 0, 1)] and status.unacked == 1
    assert alive(pid)
    # The agent has nothing of the server: no descriptor of its pipes, no variable but the few that are meant.
    descriptors = [os.readlink(path) for path in Path(f"/proc/{status.pid}/fd").iterdir()]
    assert not any(target.startswith("pipe:") and target in _pipes_of(os.getpid()) for target in descriptors)
    with pytest.raises(Conflict, match="1 runs are up"):
        asyncio.run(stop_agent(agent.folder, kill=False))
    assert asyncio.run(stop_agent(agent.folder, kill=True))
    assert not alive(pid)
    assert not agent_status(agent.folder).running


def _pipes_of(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(path))
        except OSError:
            continue
    return found


def test_status_does_not_disturb_the_executor(agent: AgentProcess) -> None:
    async def test() -> None:
        heard = Heard()
        executor = LocalExecutor(agent.folder)
        await heard.start(executor)
        try:
            for _ in range(3):
                assert (await asyncio.to_thread(agent_status, agent.folder)).running
            with_one = agent.launch(["true"])
            executor.launch([with_one])
            await wait_until_async(lambda: heard.exits())
            assert len(heard.synced) == 1 and heard.down == []
        finally:
            await executor.close()

    asyncio.run(test())


def test_no_agent(agent: AgentProcess) -> None:
    status = agent_status(agent.folder)
    assert not status.running and status.pid is None and status.live == []
    assert not asyncio.run(stop_agent(agent.folder, kill=False))


def test_an_agent_that_takes_no_connections_is_not_waited_for(tmp_path: Path) -> None:
    held = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent.sock"))
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            for _ in range(10):
                held.append(connect(tmp_path, "agent.sock", 0.0))
    for sock in held:
        sock.close()


def test_a_folder_that_cannot_be_used_is_named(agent: AgentProcess, tmp_path: Path) -> None:
    agent.folder.mkdir()
    (agent.folder / "journal").write_text("in the way")

    async def test() -> None:
        heard = Heard()
        executor = LocalExecutor(agent.folder)
        with pytest.raises(Unavailable, match="File exists") as caught:
            await heard.start(executor)
        assert str(agent.folder) in caught.value.detail
        await executor.close()
        blocked = LocalExecutor(agent.folder / "journal" / "below")
        with pytest.raises(Unavailable, match="below"):
            await heard.start(blocked)
        await blocked.close()

    asyncio.run(test())


def test_a_launch_past_the_bound_of_a_frame_is_refused_and_the_others_are_not(
    agent: AgentProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME", 100_000)

    async def test() -> None:
        heard = Heard()
        executor = LocalExecutor(agent.folder)
        await heard.start(executor)
        try:
            good = [agent.launch(["true", "y" * 2000]) for _ in range(100)]
            large = agent.launch(["true", "x" * 200_000])
            executor.launch([*good[:50], large, *good[50:]])
            await wait_until_async(lambda: len(heard.exits()) == 101)
            exits = heard.exits()
            assert all(exits[launch.run].exit_code == 0 for launch in good)
            refused = exits[large.run]
            assert refused.pid == 0 and refused.reason is not None and "bytes" in refused.reason
        finally:
            await executor.close()

    asyncio.run(test())


def _upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agents of this version are older ones from now on."""
    newer = wire.PROTOCOL + 1
    for name in ("PROTOCOL", "WITH_TASKS"):
        monkeypatch.setattr(wire, name, newer)


def test_an_older_agent_goes_on_with_its_runs_and_takes_what_it_can(
    agent: AgentProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent.start()
    client = agent.client()
    up = agent.launch(["sleep", "600"])
    client.send(up)
    client.started(up.run)
    _upgrade(monkeypatch)

    async def test() -> None:
        heard = Heard()
        executor = LocalExecutor(agent.folder)
        await heard.start(executor)
        try:
            await wait_until_async(lambda: heard.synced)
            assert heard.synced[0].live == {up.run} and agent_status(agent.folder).pid == agent.pid
            assert "older version" in caplog.text
            plain = agent.launch(["true"])
            several = msgspec.structs.replace(
                agent.launch(["true"]), tasks=wire.Tasks([wire.Place(2, None, None)], 1.0)
            )
            executor.launch([several, plain])
            await wait_until_async(lambda: {plain.run, several.run} <= heard.exits().keys())
            assert heard.exits()[plain.run].exit_code == 0
            refused = heard.exits()[several.run]
            assert refused.pid == 0 and refused.reason is not None and "older version" in refused.reason
        finally:
            await executor.close()

    asyncio.run(test())


def test_an_older_agent_that_runs_nothing_is_replaced_and_its_reports_are_kept(
    agent: AgentProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.start()
    client = agent.client()
    over = agent.launch(["/bin/sh", "-c", "exit 7"])
    client.send(over)
    client.exited(over.run)
    client.close()
    _upgrade(monkeypatch)

    async def test() -> None:
        heard = Heard()
        executor = LocalExecutor(agent.folder)
        await heard.start(executor)
        try:
            await wait_until_async(lambda: heard.synced)
            assert agent_status(agent.folder).pid not in (None, agent.pid)
            assert len(heard.synced) == 1 and heard.exits()[over.run].exit_code == 7
        finally:
            await executor.close()

    asyncio.run(test())


def test_the_agent_stays_small(agent: AgentProcess) -> None:
    agent.start()
    assert agent_status(agent.folder).pid == agent.pid
    # 17 MB with compiled modules; without, what the compiler leaves behind is added.
    assert wait_until(lambda: agent.memory()) < 26_000
