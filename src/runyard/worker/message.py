"""What the keeper and a host say to each other, in the frames of `runyard.model.wire`. Private to one worker."""

from __future__ import annotations

import struct

import msgspec

from runyard.model.ids import RunKey

_LENGTH = struct.Struct(">I")


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


class Start(_Message, frozen=True):
    """Run this coroutine function."""

    run: RunKey
    path: str
    function: str
    package: str
    args: list[str]
    env: dict[str, str]
    cwd: str
    stdout: str
    stderr: str


class Cancel(_Message, frozen=True):
    """End a run: set `ctx.stop`, and cancel it `after` seconds, at once if it never looks at `ctx.stop`."""

    run: RunKey
    signal: int
    after: float


class Began(_Message, frozen=True):
    """The loop has come round to a `Start`: its time counts from now."""

    run: RunKey


class Ended(_Message, frozen=True):
    """The coroutine and all the tasks that it has started are done."""

    run: RunKey
    at: float
    exit_code: int | None
    signal: int | None
    reason: str | None


class Asked(_Message, frozen=True):
    """The loop has come round to a `Cancel`."""

    run: RunKey


class Blocked(_Message, frozen=True):
    """The loop has not come round to a `Cancel` for a while: `run` (if known) keeps it busy, at `where`."""

    run: RunKey | None
    where: str


ToHost = Start | Cancel
FromHost = Began | Ended | Asked | Blocked

_encoder = msgspec.msgpack.Encoder()


def encode(message: ToHost | FromHost) -> bytes:
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


decode_to_host = msgspec.msgpack.Decoder(ToHost).decode
decode_from_host = msgspec.msgpack.Decoder(FromHost).decode
