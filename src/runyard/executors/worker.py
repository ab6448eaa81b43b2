"""The executor for Python targets: talks to the worker (`runyard.worker`) in a folder, as `local` does to the agent.

The worker is started for the first launch and ends when it has had nothing to do for a while. Its node is up all the
time: this executor speaks for a worker that does not run, as long as that has nothing to tell.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from runyard.executors.local import Link, LocalExecutor, connect
from runyard.executors.protocol import Report, Synced
from runyard.model import wire
from runyard.model.ids import RunKey
from runyard.model.node import Node


class WorkerExecutor(LocalExecutor):
    """See `runyard.executors.protocol.Executor`. A launch's `argv` is a Python target and its arguments; its node has
    no cores, GPUs or memory to reserve."""

    MODULE, WHAT = "runyard.worker", "Python worker"
    REMEDY = "End that process when its runs have ended"

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        idle_exit: float = 60.0,
        pass_env: Sequence[str] = (),
        files: int | None = None,
    ) -> None:
        """`folder` is the worker's; `name` the node's (`HOSTNAME-python` if None). `idle_exit` (seconds without a run),
        `pass_env` and `files` are for workers that this executor starts, as of a `LocalExecutor`."""
        name = name or f"{socket.gethostname()}-python"
        super().__init__(folder, name=name, idle_exit=idle_exit, pass_env=pass_env, files=files)
        self._up: set[RunKey] = set()
        """Runs that the worker has, or is about to get."""
        self.asleep = False
        """No worker runs, and none is needed: this executor has announced the node in its place."""
        self._awake = asyncio.Event()
        self._news = True
        """The service does not know yet what the present connection begins with."""

    async def start(
        self,
        on_reports: Callable[[list[Report]], None],
        on_synced: Callable[[Synced], None],
        on_down: Callable[[str], None],
    ) -> None:
        """Raises Unavailable if an earlier worker has left something to tell, and no new one can be started."""
        if self._has_past():
            self.asleep = False
            await super().start(on_reports, on_synced, on_down)
            return
        self._on_reports, self._on_synced, self._on_down = on_reports, on_synced, on_down
        self._node = self._name
        self._sleep()
        self._announce()
        self._task = asyncio.create_task(self._keep(), name=f"worker of {self.folder}")

    async def close(self) -> None:
        await super().close()
        self.asleep = False

    def launch(self, launches: list[wire.Launch]) -> None:
        self._up.update(launch.run for launch in launches)
        self._awake.set()
        super().launch(launches)

    def resync(self) -> None:
        if self.asleep and self._link is None:
            self._outbox.clear()
            self._announce()
        super().resync()

    # Sleeping and waking ------------------------------------------------------------------------------------------

    def _has_past(self) -> bool:
        """A worker runs, or has ended with something left to tell."""
        try:
            connect(self.folder, "control.sock").close()
            return True
        except OSError:
            pass
        try:
            return (self.folder / "journal" / "journal.jsonl").stat().st_size > 0
        except OSError:
            return False

    def _sleep(self) -> None:
        self.asleep = True
        self._up.clear()
        self._awake.clear()

    def _announce(self) -> None:
        node = Node(name=self._name or "", executor="python", cores=[])
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        synced = Synced(node=node, boot_id=boot_id, live=frozenset())

        def say() -> None:
            if self.asleep:
                self._on_synced(synced)

        asyncio.get_running_loop().call_soon(say)

    async def _needed(self) -> None:
        if not self.asleep:
            return
        while self._agent is not None and self._agent.poll() is None and not self._awake.is_set():
            # It has said farewell, and is to be collected.
            await asyncio.sleep(0.05)
        await self._awake.wait()

    def _unreachable(self) -> None:
        if self.asleep and self._node is not None:
            self.asleep = False
            self._outbox.clear()
            self._on_down(self._node)

    def _gone(self, link: Link) -> None:
        if link.farewell and not link.dropped and not self._up:
            self._sleep()
        else:
            super()._gone(link)

    # Talking ------------------------------------------------------------------------------------------------------

    def _say(self, *messages: wire.ToAgent) -> None:
        if self.asleep and self._link is None:
            # To the service the node is there: what is said to it waits for the worker.
            self._outbox += messages
        else:
            super()._say(*messages)

    def _describe(self, hello: wire.Hello) -> Node:
        # A new worker for a node that was announced: there is nothing that would be news.
        self._news = not self.asleep or bool(hello.live or hello.unacked)
        if self._news:
            self._outbox.clear()
        self._up = {*hello.live, *(message.run for message in self._outbox if isinstance(message, wire.Launch))}
        self.asleep = False
        return Node(name=self._name or "", executor="python", cores=[])

    def reported(self, reports: list[Report]) -> None:
        self._up.difference_update(report.run for report in reports if isinstance(report, wire.Exited))
        super().reported(reports)

    def synced(self, synced: Synced) -> None:
        if self._news:
            super().synced(synced)
