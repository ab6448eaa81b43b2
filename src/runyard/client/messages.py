"""The requests about messages and metrics, as values. Pure: both clients send what stands here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from runyard.client.request import API, Params, Request, job_path, new_key

#: Messages in one request, at most.
BATCH = 1000


class MessageDoc(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has said. `seq` is the cursor to go on from."""

    seq: int
    job: str | None
    """None for what is no job's."""
    type: str
    """`metrics`, `error`, `info`, `log`, …"""
    at: datetime
    source: str
    """`report`, `stdout`, `rule`, `http` or `server`."""
    rank: int | None = None
    body: dict[str, Any]


class MessagePage(msgspec.Struct):
    items: list[MessageDoc]
    next: int


class MessagesTaken(msgspec.Struct):
    """`kept` are on the server's disk; `dropped` were left out because the job says too much."""

    kept: int
    dropped: int
    last: int


class Curve(msgspec.Struct, kw_only=True):
    """One metric of a job. `points` are step (None if the program says none), Unix time, value (None: no number)."""

    name: str
    count: int
    """Values that were reported, of which `points` may be a selection."""
    min: float | None
    max: float | None
    last: float | None
    last_at: datetime
    points: list[tuple[float | None, float, float | None]]


class Curves(msgspec.Struct, kw_only=True):
    job: str
    items: list[Curve]
    names: list[str]
    upto: int
    left_out: int = 0


def page(
    job: str | int | None, after: int | str | None, kinds: Iterable[str] | str | None, limit: int | None = None
) -> Request[MessagePage]:
    return Request(
        method="GET", path=_path(job), answer=MessagePage, params=_params(after, kinds, limit), repeatable=True
    )


def stream(job: str | int | None, after: int | str | None, kinds: Iterable[str] | str | None) -> Request[bytes]:
    return Request(
        method="GET",
        path=_path(job),
        answer=bytes,
        params=_params(after, kinds, None),
        headers={"Accept": "application/x-ndjson", "Accept-Encoding": "identity"},
        repeatable=True,
    )


def say(job: str | int, messages: Sequence[Mapping[str, Any]]) -> Request[MessagesTaken]:
    return Request(
        method="POST",
        path=job_path(job, "messages"),
        answer=MessagesTaken,
        headers={"Content-Type": "application/json", "Idempotency-Key": new_key()},
        content=msgspec.json.encode(list(messages)),
        repeatable=True,
    )


def metrics(job: str | int, names: Iterable[str] | None, points: int) -> Request[Curves]:
    chosen = () if names is None else (("names", ",".join(names)),)
    params = (*chosen, ("points", str(points)))
    return Request(method="GET", path=job_path(job, "metrics"), answer=Curves, params=params, repeatable=True)


def _path(job: str | int | None) -> str:
    return f"{API}/messages" if job is None else job_path(job, "messages")


def _params(after: int | str | None, kinds: Iterable[str] | str | None, limit: int | None) -> Params:
    pairs = (
        ("after", after),
        ("kind", kinds if kinds is None or isinstance(kinds, str) else ",".join(kinds)),
        ("limit", limit),
    )
    return tuple((name, str(value)) for name, value in pairs if value is not None)


class MessageFollow:
    """Follows messages; the last `seq` seen is where a new connection goes on."""

    def __init__(self, job: str | int | None, after: int | str | None, kinds: Iterable[str] | str | None) -> None:
        self._job, self._after = job, after
        self._kinds = kinds if kinds is None or isinstance(kinds, str) else tuple(kinds)
        self._decoder = msgspec.json.Decoder(MessageDoc)
        self._rest = b""

    def position(self) -> Request[MessagePage] | None:
        """Asks where `latest` is: a connection that drops before its first message must not lose any."""
        return page(self._job, "latest", None, 1) if self._after == "latest" else None

    def start(self, seq: int) -> None:
        self._after = seq

    def step(self) -> Request[bytes]:
        self._rest = b""
        return stream(self._job, self._after, self._kinds)

    def received(self, chunk: bytes) -> Iterable[MessageDoc]:
        """The messages that `chunk` completes; blank lines keep a connection alive and say nothing."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                message = self._decoder.decode(line)
                self._after = message.seq
                yield message
