"""The executor of this host: talks to the agent in a folder, and starts one if none runs there."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from runyard.executors.protocol import Report, Synced
from runyard.model import wire
from runyard.model.errors import Conflict, Unavailable
from runyard.model.ids import RunKey
from runyard.model.node import Node
from runyard.model.secrets import is_secret

log = logging.getLogger(__name__)

#: Seconds for a new agent to listen; for an agent to answer.
START_PATIENCE, ANSWER_PATIENCE = 10.0, 5.0
#: Seconds between attempts to get an agent back.
FIRST_PAUSE, LAST_PAUSE = 0.02, 5.0
_STEP = 0.005
_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "PYTHONDONTWRITEBYTECODE")


class LocalExecutor:
    """See `runyard.executors.protocol.Executor`."""

    #: What is started, and what it is called.
    MODULE, WHAT = "runyard.agent", "agent"
    REMEDY = "End it with `runyard agent stop --kill`"

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        gpus: Sequence[int] = (),
        idle_exit: float = 60.0,
        pass_env: Sequence[str] = (),
        files: int | None = None,
    ) -> None:
        """`folder` is the agent's; `name` the node's (the host's name if None). `idle_exit` (seconds), `pass_env`
        (names of environment variables that runs get) and `files` (how many a run may open; as many as this process
        if None) are for an agent that this executor has to start."""
        self.folder = folder
        self._name, self._gpus = name, list(gpus)
        self._idle_exit, self._pass_env, self._files = idle_exit, list(pass_env), files
        self._agent: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._outbox: list[wire.ToAgent] = []
        self._flushing = False
        self._node: str | None = None

    async def start(
        self,
        on_reports: Callable[[list[Report]], None],
        on_synced: Callable[[Synced], None],
        on_down: Callable[[str], None],
    ) -> None:
        """Raises Unavailable if no agent runs and none can be started."""
        self._on_reports, self._on_synced, self._on_down = on_reports, on_synced, on_down
        await self._connect()
        self._task = asyncio.create_task(self._keep(), name=f"agent of {self.folder}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._link is not None:
            self._flush()
            self._link.drop()
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_PATIENCE):
                    await self._link.lost.wait()
            self._link = None
        if self._agent is not None and self._agent.poll() is None:
            # It lives on, and is not ours to wait for.
            self._agent.returncode = 0
        self._agent = None

    def launch(self, launches: list[wire.Launch]) -> None:
        self._say(*launches)

    def stop(self, stop: wire.Stop) -> None:
        self._say(stop)

    def signal(self, signal: wire.Signal) -> None:
        self._say(signal)

    def ack(self, upto: int) -> None:
        self._say(wire.Ack(upto))

    def resync(self) -> None:
        if self._link is not None:
            self._flush()
            self._link.drop()

    # Connecting ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Whenever the connection is lost, get it back."""
        pause = FIRST_PAUSE
        while True:
            link = self._link
            if link is None:
                await self._needed()
                await asyncio.sleep(pause)
                try:
                    await self._connect()
                except Unavailable as error:
                    log.error("the %s can't be reached, trying again: %s", self.WHAT, error.detail)
                    self._unreachable()
                    pause = min(2 * pause, LAST_PAUSE)
                continue
            up = time.monotonic()
            await link.lost.wait()
            self._link = None
            self._outbox.clear()
            self._gone(link)
            if time.monotonic() - up > LAST_PAUSE:
                pause = FIRST_PAUSE

    async def _needed(self) -> None:
        """Return when there is a reason to be connected."""

    def _unreachable(self) -> None:
        """An attempt to connect has failed."""

    def _gone(self, link: Link) -> None:
        """A connection is over."""
        if not link.dropped and self._node is not None:
            log.warning("the connection to the %s was lost; connecting again", self.WHAT)
            self._on_down(self._node)

    async def _connect(self) -> None:
        """Connect to the agent, starting one if need be. Raises Unavailable."""
        until = time.monotonic() + START_PATIENCE
        replace = True
        while True:
            try:
                # Never waiting: one that hangs takes no connections any more when enough have come.
                sock = connect(self.folder, "agent.sock", 0.0)
            except OSError:
                self._revive()
                trouble = f"the {self.WHAT} in {self.folder} does not listen{self._last_words()}"
            else:
                try:
                    _, link = await asyncio.get_running_loop().create_unix_connection(
                        partial(Link, self, replace), sock=sock
                    )
                except OSError as problem:
                    sock.close()
                    raise Unavailable(f"the connection to the {self.WHAT} can't be used: {problem}") from None
                with suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER_PATIENCE):
                        await link.settled.wait()
                if link.greeted:
                    self._flush()
                    return
                link.drop()
                self._link = None
                if link.trouble is not None:
                    raise Unavailable(link.trouble)
                if link.outdated:
                    # Once: if it will not go, it stays.
                    replace = False
                    with suppress(Conflict, Unavailable):
                        await stop_agent(self.folder, kill=False)
                    until = time.monotonic() + START_PATIENCE
                    continue
                # The socket of an agent that has just died may still be held by a child that it was about to start.
                trouble = f"the {self.WHAT} in {self.folder} takes the connection, but says nothing"
            if time.monotonic() > until:
                raise Unavailable(trouble)
            await asyncio.sleep(_STEP)

    def _revive(self) -> None:
        """Start an agent unless the one that we started is still coming up."""
        if self._agent is not None:
            code = self._agent.poll()
            if code is None:
                return
            self._agent = None
            # 0: it was told to end. 3: another agent holds the folder, and is about to listen or to end.
            if code > 0 and code != 3:
                raise Unavailable(
                    f"no {self.WHAT} can be started in {self.folder} (exit code {code}){self._last_words()}"
                )
        try:
            self._agent = start_agent(self.folder, self._idle_exit, self._pass_env, self.MODULE, self._files)
        except OSError as problem:
            raise Unavailable(f"can't start the {self.WHAT} in {self.folder}: {problem}") from None

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "agent.log").read_bytes()[-4096:].decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return f"; the last line of its log: {lines[-1]}" if lines else ""

    # Talking ------------------------------------------------------------------------------------------------------

    def _say(self, *messages: wire.ToAgent) -> None:
        if self._link is None or self._link.dropped:
            return
        self._outbox += messages
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._link is None or not self._link.greeted or self._link.dropped or not self._outbox:
            return
        messages, self._outbox = self._outbox, []
        if self._link.protocol < wire.WITH_TASKS:
            messages = [message for message in messages if not self._beyond_it(message)]
        for frame in self._frames(messages):
            self._link.write(frame)

    def _beyond_it(self, message: wire.ToAgent) -> bool:
        """Is this a launch that the agent is too old for? It is refused then."""
        if not isinstance(message, wire.Launch) or message.tasks is None:
            return False
        reason = (
            f"the {self.WHAT} is of an older version, which can't start several tasks: "
            f"when its runs have ended, stop it and restart the server"
        )
        self.reported([wire.Exited(0, message.run, 0, time.time(), None, None, reason=reason)])
        return True

    def _frames(self, messages: Sequence[wire.ToAgent]) -> list[bytes]:
        frame = wire.encode_frame(messages)
        if len(frame) <= wire.MAX_FRAME:
            return [frame]
        if len(messages) > 1:
            half = len(messages) // 2
            return self._frames(messages[:half]) + self._frames(messages[half:])
        if isinstance(message := messages[0], wire.Launch):
            reason = f"the command and its environment take {len(frame)} bytes: put the data into a file"
            self.reported([wire.Exited(0, message.run, 0, time.time(), None, None, reason=reason)])
        return []

    def connected(self, link: Link) -> None:
        self._link = link

    def greeted(self, hello: wire.Hello) -> Synced:
        self._node = self._name or hello.hostname
        return Synced(node=self._describe(hello), boot_id=hello.boot_id, live=frozenset(hello.live))

    def _describe(self, hello: wire.Hello) -> Node:
        return Node(name=self._node or "", cores=hello.cores, gpus=self._gpus, memory=hello.memory)

    def reported(self, reports: list[Report]) -> None:
        self._on_reports(reports)

    def synced(self, synced: Synced) -> None:
        self._on_synced(synced)


class Link(asyncio.Protocol):
    """One connection to the agent."""

    def __init__(self, owner: LocalExecutor, replace: bool = False) -> None:
        """`replace`: an agent of an older version that runs nothing is not wanted."""
        self.protocol = wire.PROTOCOL
        """The agent's."""
        self.outdated = False
        """It is such an agent."""
        self.greeted = False
        """The agent has introduced itself."""
        self.settled = asyncio.Event()
        """It has, or never will."""
        self.lost = asyncio.Event()
        self.dropped = False
        """We have ended it: nothing that still arrives counts."""
        self.farewell = False
        """The agent has ended as it should."""
        self.trouble: str | None = None
        self._owner, self._replace = owner, replace
        self._frames = wire.Frames()
        self._synced: Synced | None = None
        self._old = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._owner.connected(self)

    def write(self, frame: bytes) -> None:
        # uvloop may have closed it already, and not have told us yet.
        if not self._transport.is_closing():
            self._transport.write(frame)

    def drop(self) -> None:
        self.dropped = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._take(wire.decode_from_agent(body))
        except (ValueError, msgspec.DecodeError) as error:
            log.error("the agent has sent a bad frame; connecting again: %s", error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.settled.set()
        self.lost.set()

    def _take(self, messages: list[wire.FromAgent]) -> None:
        reports: list[Report] = []
        for message in messages:
            if self.dropped:
                return
            if isinstance(message, wire.Started | wire.Exited):
                reports.append(message)
                self._old -= 1
                if self._old == 0:
                    self._owner.reported(reports)
                    reports = []
                    self._sync()
            elif isinstance(message, wire.Hello):
                if not wire.OLDEST <= message.protocol <= wire.PROTOCOL:
                    self.settled.set()
                    self.trouble = (
                        f"the {self._owner.WHAT} (pid {message.pid}) is of another version: it speaks protocol "
                        f"{message.protocol}, this server {wire.PROTOCOL}. {self._owner.REMEDY}"
                    )
                    self.drop()
                    return
                if message.protocol < wire.PROTOCOL:
                    if self._replace and not message.live:
                        self.outdated = True
                        self.settled.set()
                        self.drop()
                        return
                    log.warning(
                        "the %s (pid %d) is of an older version, and goes on because runs are up: stop it when they "
                        "have ended, so that the next one is of this version",
                        *(self._owner.WHAT, message.pid),
                    )
                self.protocol = message.protocol
                self._synced = self._owner.greeted(message)
                self._old = message.unacked
                self.greeted = True
                self.settled.set()
                if self._old == 0:
                    self._sync()
            elif message.refused is None:
                self.farewell = True
        if reports:
            self._owner.reported(reports)

    def _sync(self) -> None:
        if self._synced is not None and not self.dropped:
            self._owner.synced(self._synced)
            self._synced = None


# Without a server -------------------------------------------------------------------------------------------------


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself. All but the first two are empty if none runs."""

    folder: str
    running: bool
    pid: int | None = None
    hostname: str | None = None
    boot_id: str | None = None
    protocol: int | None = None
    live: list[RunKey] = []
    """Runs that are up."""
    unacked: int = 0
    """Reports that no server has taken yet."""


def agent_status(folder: Path) -> AgentStatus:
    """Ask the agent, without disturbing a connected server. Raises Unavailable if it does not answer."""
    try:
        sock = connect(folder, "control.sock")
    except OSError:
        return AgentStatus(folder=str(folder), running=False)
    with sock:
        hello = next((message for message in _listen(sock, folder) if isinstance(message, wire.Hello)), None)
    if hello is None:
        return AgentStatus(folder=str(folder), running=False)
    return AgentStatus(
        folder=str(folder),
        running=True,
        pid=hello.pid,
        hostname=hello.hostname,
        boot_id=hello.boot_id,
        protocol=hello.protocol,
        live=hello.live,
        unacked=hello.unacked,
    )


async def stop_agent(folder: Path, kill: bool) -> bool:
    """End the agent; with `kill`, all its runs first, which may take as long as their grace. False if none runs.

    Raises Conflict if runs are up and `kill` is false.
    """
    return await asyncio.to_thread(_stop_agent, folder, kill)


def _stop_agent(folder: Path, kill: bool) -> bool:
    try:
        sock = connect(folder, "control.sock")
    except OSError:
        return False
    with sock:
        sock.sendall(wire.encode_frame([wire.Shutdown(kill)]))
        sock.settimeout(None)
        for message in _listen(sock, folder):
            if isinstance(message, wire.Farewell) and message.refused is not None:
                raise Conflict(f"the agent goes on: {message.refused}")
    return True


def _listen(sock: socket.socket, folder: Path) -> Iterator[wire.FromAgent]:
    """What the agent says, until it hangs up."""
    frames = wire.Frames()
    while True:
        try:
            data = sock.recv(1 << 16)
        except TimeoutError:
            raise Unavailable(f"the agent in {folder} does not answer") from None
        except OSError:
            return
        if not data:
            return
        for body in frames.feed(data):
            yield from wire.decode_from_agent(body)


def connect(folder: Path, name: str, patience: float = ANSWER_PATIENCE) -> socket.socket:
    """Connect to a socket of the agent. `patience` is also the socket's timeout. Raises OSError."""
    # By way of the folder's descriptor: a socket's path has at most 107 bytes, a data folder's may have more.
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(patience)
            sock.connect(f"/proc/self/fd/{fd}/{name}")
        except OSError:
            sock.close()
            raise
        return sock
    finally:
        os.close(fd)


def start_agent(
    folder: Path,
    idle_exit: float = 60.0,
    pass_env: Sequence[str] = (),
    module: str = LocalExecutor.MODULE,
    files: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start an agent (or what speaks like one: `module`) that outlives this process and has nothing of it but the path
    and the locale, and its limits but for `files`. Raises OSError."""
    import runyard

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pass_env = [name for name in pass_env if not is_secret(name)]
    names = {*_ENVIRONMENT, *pass_env}
    env = {key: value for key, value in os.environ.items() if key in names or key.startswith("LC_")}
    # The agent must find this very package, installed or not; its children do not get this variable.
    paths = [str(Path(runyard.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", module, "--dir", str(folder.absolute()), f"--idle-exit={idle_exit:g}"]
    if files is not None:
        command.append(f"--files={files}")
    with open(folder / "agent.log", "ab", opener=_private) as errors:
        return subprocess.Popen(
            [*command, *(f"--pass-env={name}" for name in pass_env)],
            cwd="/",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
