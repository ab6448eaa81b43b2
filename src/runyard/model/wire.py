"""The agent's protocol: messages between an executor and the agent of a node.

A frame is a 4-byte big-endian length and a MessagePack array of messages: many launches travel in one frame. The same
frames work over a Unix socket and over TLS.

* On connecting, the agent sends `Hello`, then every report that is not acknowledged yet, oldest first, then live ones.
* Reports are numbered. The executor acknowledges a number once everything up to it is durable on its side; only then
  does the agent forget. After a lost connection, reports come again: receivers must take repetition.
* `Launch` of a run that the agent has known (live or unacknowledged) is ignored: a run is started at most once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import msgspec

from runyard.model.ids import RunKey

PROTOCOL = 2
#: The oldest protocol that executors still speak: agents outlive servers, and so the upgrade of a server.
OLDEST = 1
#: The first protocol in which a launch may have tasks; agents of older ones would start a single process.
WITH_TASKS = 2
MAX_FRAME = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


# Executor to agent ------------------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one node gives to a run of several tasks."""

    tasks: int
    cores: list[int] | None
    """To be parted among the tasks; None leaves them where they are."""
    gpus: list[int] | None
    """The same, for `CUDA_VISIBLE_DEVICES`."""


class Tasks(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The processes of one run: ranks count through the places."""

    places: list[Place]
    after_failure: float
    """Seconds that the others get when one has failed."""


class Launch(_Message, frozen=True):
    """Start one run."""

    run: RunKey
    argv: list[str]
    env: dict[str, str]
    """Added to the agent's clean base environment."""
    cwd: str | None
    stdout: str
    stderr: str
    """Absolute paths; created by the child itself, opened for appending."""
    stop_signal: int = 15
    grace: float = 10.0
    time_limit: float | None = None
    cores: list[int] | None = None
    """CPU affinity; None leaves it."""
    user: str | None = None
    group: str | None = None
    umask: int | None = None
    nice: int | None = None
    rlimits: dict[str, int] | None = None
    """Python `resource` names without `RLIMIT_`, lower case: `{"nofile": 1024}`."""
    memory: int | None = None
    """cgroup `memory.max` in bytes."""
    cpus: float | None = None
    """cgroup `cpu.max` in cores."""
    tasks: Tasks | None = None
    """Several processes instead of one."""
    warm: int = 0
    """How many words of `argv` are a program that is kept warm (`runyard.agent.warm`); 0 if it is none."""
    edition: str = ""
    """Of that program: what is kept warm of another one is not used."""
    tmpdir: str = ""
    """Name of a variable that is to say where the run has a folder of its own for temporary files; empty: it has none.
    The folder is removed when the run has ended."""


class Stop(_Message, frozen=True):
    """End the run's whole process tree: its signal, then SIGKILL after `grace` seconds. The agent keeps the promise
    even when the executor is gone."""

    run: RunKey
    signal: int
    grace: float


class Signal(_Message, frozen=True):
    """Send one signal to the run's process group."""

    run: RunKey
    signal: int


class Ack(_Message, frozen=True):
    """Every report up to `upto` is durable: forget them."""

    upto: int


class Shutdown(_Message, frozen=True):
    """End the agent. With `kill`, end every run first (each with its own stop signal and grace); without it, refuse
    while runs are up."""

    kill: bool


# Agent to executor ------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True):
    protocol: int
    pid: int
    boot_id: str
    """Of the kernel: another one means that the host was started anew."""
    hostname: str
    cores: list[int]
    memory: int
    """Bytes."""
    live: list[RunKey]
    """Runs with a process at present."""
    unacked: int
    """How many old reports follow."""


class Started(_Message, frozen=True):
    seq: int
    run: RunKey
    pid: int
    at: float


class Exited(_Message, frozen=True):
    """A run ended, or could not be started (`pid` 0 and a `reason`)."""

    seq: int
    run: RunKey
    pid: int
    at: float
    exit_code: int | None
    signal: int | None
    """Both None: nobody could observe how it ended."""
    timed_out: bool = False
    reason: str | None = None
    """For people, where the exit status does not say it all."""
    cpu_seconds: float | None = None
    max_rss: int | None = None


class Farewell(_Message, frozen=True):
    """The agent is ending, or (`refused`) will not because runs are up."""

    refused: str | None = None


ToAgent = Launch | Stop | Signal | Ack | Shutdown
FromAgent = Hello | Started | Exited | Farewell

_encoder = msgspec.msgpack.Encoder()
_to_agent = msgspec.msgpack.Decoder(list[ToAgent])
_from_agent = msgspec.msgpack.Decoder(list[FromAgent])


def encode_frame(messages: Sequence[ToAgent] | Sequence[FromAgent]) -> bytes:
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into frames.

    Raises ValueError on a frame longer than `MAX_FRAME`, msgspec.DecodeError on one that is not MessagePack, and
    msgspec.ValidationError on one with an unknown message: the connection is of no further use then.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterable[bytes]:
        """The bodies of the frames that `data` completes."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes is longer than {MAX_FRAME}")
            if len(buffer) - start - 4 < length:
                break
            yield bytes(buffer[start + 4 : start + 4 + length])
            start += 4 + length
        del buffer[:start]


decode_to_agent = _to_agent.decode
decode_from_agent = _from_agent.decode
