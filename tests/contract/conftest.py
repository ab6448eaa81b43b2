"""One rig for each executor that must keep the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from runyard.executors.local import LocalExecutor, stop_agent
from runyard.executors.memory import MemoryExecutor, Outcome, Programs
from runyard.executors.protocol import Executor, Report, Synced
from runyard.executors.worker import WorkerExecutor
from runyard.model import wire
from runyard.model.ids import RunKey
from tests.agents import AgentProcess, new_run
from tests.helpers import wait_until_async

FOREVER = float("inf")


class Rig(Protocol):
    """An executor with programs to run: `ok` (exits 0), `code` (exits 3), `brief` (0.3 s), `long` (has no end),
    `stubborn` (has no end, ignores what can be ignored), `missing` (there is no such program)."""

    executor: Executor

    def launch(self, program: str, run: RunKey | None = None, **options: Any) -> wire.Launch: ...

    async def settle(self, launch: wire.Launch) -> None:
        """Wait until the program of a started run is really under way."""

    def tick(self) -> None:
        """Let a little time pass."""


class LocalRig:
    def __init__(self, root: Path) -> None:
        self.agent = AgentProcess(root)
        self.executor: Executor = LocalExecutor(self.agent.folder, name="here")

    PROGRAMS = {
        "ok": ["true"],
        "code": ["/bin/sh", "-c", "exit 3"],
        "brief": ["sleep", "0.3"],
        "long": ["sleep", "600"],
        "stubborn": ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"],
        "missing": ["/no/such/program"],
    }

    def launch(self, program: str, run: RunKey | None = None, **options: Any) -> wire.Launch:
        return self.agent.launch(self.PROGRAMS[program], run, **options)

    async def settle(self, launch: wire.Launch) -> None:
        if "trap" in launch.argv[-1]:
            await wait_until_async(lambda: self.agent.output(launch) == "ready\n")

    def tick(self) -> None:
        """Real time passes by itself."""

    def close(self) -> None:
        asyncio.run(stop_agent(self.agent.folder, kill=True))
        self.agent.close()


class WorkerRig:
    """Its programs are coroutines."""

    PROGRAMS = {
        "ok": "    pass",
        "code": "    sys.exit(3)",
        "brief": "    await asyncio.sleep(0.3)",
        "long": "    await asyncio.Event().wait()",
        "stubborn": (
            "    print('ready')\n"
            "    while True:\n"
            "        try:\n"
            "            await asyncio.sleep(600)\n"
            "        except asyncio.CancelledError:\n"
            "            pass"
        ),
    }

    def __init__(self, root: Path) -> None:
        self.agent = AgentProcess(root)
        self.executor: Executor = WorkerExecutor(self.agent.folder, name="here")
        for name, body in self.PROGRAMS.items():
            # A coroutine that has to be killed takes those with it that are from its folder.
            folder = root / ("apart" if name == "stubborn" else "code")
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.py").write_text(f"import asyncio, sys\nasync def main():\n{body}\n")

    def launch(self, program: str, run: RunKey | None = None, **options: Any) -> wire.Launch:
        folder = self.agent.root / ("apart" if program == "stubborn" else "code")
        return self.agent.launch([f"{program}.py"], run, cwd=str(folder), **options)

    async def settle(self, launch: wire.Launch) -> None:
        if launch.argv == ["stubborn.py"]:
            await wait_until_async(lambda: self.agent.output(launch) == "ready\n")

    def tick(self) -> None:
        """Real time passes by itself."""

    def close(self) -> None:
        asyncio.run(stop_agent(self.agent.folder, kill=True))
        self.agent.close()


class MemoryRig:
    PROGRAMS: Programs = {
        "ok": (0, 0.0),
        "code": Outcome(exit_code=3),
        "brief": Outcome(seconds=0.3),
        "long": Outcome(seconds=FOREVER),
        "stubborn": Outcome(seconds=FOREVER, obeys=False),
    }

    def __init__(self) -> None:
        self.memory = MemoryExecutor(self.PROGRAMS)
        self.executor: Executor = self.memory

    def launch(self, program: str, run: RunKey | None = None, **options: Any) -> wire.Launch:
        return wire.Launch(run or new_run(), [program], {}, None, "/out", "/err", **options)

    async def settle(self, launch: wire.Launch) -> None:
        await asyncio.sleep(0)

    def tick(self) -> None:
        self.memory.advance(0.05)


class Log:
    """All that an executor has said, in order."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.said: list[Report | Synced | str] = []

    async def start(self) -> None:
        await self.rig.executor.start(self.said.extend, self.said.append, self.said.append)

    @property
    def reports(self) -> list[Report]:
        return [item for item in self.said if isinstance(item, wire.Started | wire.Exited)]

    @property
    def synced(self) -> list[Synced]:
        return [item for item in self.said if isinstance(item, Synced)]

    def exit(self, run: RunKey) -> wire.Exited | None:
        return next((r for r in self.reports if isinstance(r, wire.Exited) and r.run == run), None)

    async def until(self, predicate: Callable[[], object], timeout: float = 60) -> None:
        end = time.monotonic() + timeout
        while not predicate():
            assert time.monotonic() < end, f"not within {timeout:g} s; said so far: {self.said}"
            self.rig.tick()
            await asyncio.sleep(0.005)

    async def started(self, *launches: wire.Launch) -> None:
        runs = {launch.run for launch in launches}
        await self.until(lambda: runs <= {r.run for r in self.reports if isinstance(r, wire.Started)})

    async def exited(self, launch: wire.Launch) -> wire.Exited:
        await self.until(lambda: self.exit(launch.run))
        report = self.exit(launch.run)
        assert report is not None
        return report


@pytest.fixture(params=["local", "memory", "worker"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "memory":
        yield MemoryRig()
        return
    real = WorkerRig(tmp_path) if request.param == "worker" else LocalRig(tmp_path)
    try:
        yield real
    finally:
        real.close()
