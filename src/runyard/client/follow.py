"""What a follower asks next. Pure: the clients do the asking, the offsets and cursors are kept here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from runyard.client import request
from runyard.client.document import EventDoc, EventPage
from runyard.client.request import Request
from runyard.model.errors import InvalidInput
from runyard.model.job import JobDoc
from runyard.model.state import ACTIVE, ENDED


class LogFollow:
    """Reads one output stream of one replica; with `follow`, attempt after attempt until the job has ended.

    Each attempt is asked for by number, because an offset means nothing without it: a service may have been started
    again while the connection was down. A stream that ends cleanly is believed only if the run had ended before it was
    opened: a server that stops in good order ends its streams too, with more to come.
    """

    def __init__(
        self,
        ref: str,
        *,
        stream: str,
        replica: int,
        attempt: int | None,
        offset: int | None,
        tail: int | None,
        follow: bool,
        search: str | None,
    ) -> None:
        if search is not None and follow:
            raise InvalidInput("a search looks at what is there now, and can't follow: ask for one of the two")
        self.ref = ref
        self._stream = stream
        self._replica = replica
        self._only = attempt
        self._attempt = attempt
        self._offset = offset
        self._tail = tail
        self._follow = follow
        self._search = search
        self._finished = False
        self._final = False

    def step(self, job: JobDoc) -> Request[Any] | None:
        """What to do now: read a stream (`answer` is bytes), wait for news of the job, or nothing more (None)."""
        self.ref = job.id
        run = next((run for run in job.runs if run.replica == self._replica and run.attempt > 0), None)
        if self._finished:
            if not self._follow or (self._final and self._only is not None):
                return None
            self._finished = False
            if run is not None and run.attempt == self._attempt and run.state in ACTIVE:
                # Cut short although the run is up. Ask again, but let a server that is going away do so first.
                return request.events(after=job.version, job=job.id, wait=1.0)
            if self._final:
                self._attempt, self._offset = (self._attempt or 0) + 1, 0
        if self._attempt is None and run is not None:
            self._attempt = run.attempt
        begun = run is not None and self._attempt is not None and self._attempt <= run.attempt
        self._final = run is None or run.attempt != self._attempt or run.state not in ACTIVE
        if begun or (self._only is not None and not self._follow):
            return request.logs(
                self.ref,
                stream=self._stream,
                replica=self._replica,
                attempt=self._attempt,
                offset=self._offset,
                tail=self._tail if self._offset is None else None,
                follow=self._follow,
                search=self._search,
            )
        if job.state in ENDED or not self._follow:
            return None
        return request.events(after=job.version, job=job.id, wait=request.POLL)

    def opened(self, headers: Mapping[str, str]) -> None:
        """The answer begins: remember the offset of its first byte."""
        self._offset = int(headers.get("X-Log-Offset", self._offset or 0))

    def received(self, count: int) -> None:
        self._offset = (self._offset or 0) + count

    def ended(self) -> None:
        """The stream came to a clean end."""
        self._finished = True

    def gone(self) -> bool:
        """There is no such output. True if that is to be passed over: an attempt that retention has removed."""
        self._finished = self._final = True
        return self._follow and self._only is None


class EventFollow:
    """Follows events for ever; the last `seq` seen is where a new connection goes on."""

    def __init__(
        self,
        after: int | str,
        job: str | int | None,
        types: Iterable[str] | str | None,
        state: Iterable[str] | str | None,
    ):
        self._after = after
        self._job = job
        self._types = types if types is None or isinstance(types, str) else tuple(types)
        self._state = state if state is None or isinstance(state, str) else tuple(state)
        self._decoder = msgspec.json.Decoder(EventDoc)
        self._rest = b""

    def position(self) -> Request[EventPage] | None:
        """Asks where `latest` is: a connection that drops before its first event must not lose any."""
        return request.events(after="latest", limit=1) if self._after == "latest" else None

    def start(self, seq: int) -> None:
        self._after = seq

    def step(self) -> Request[bytes]:
        self._rest = b""
        return request.event_stream(after=self._after, job=self._job, types=self._types, state=self._state)

    def received(self, chunk: bytes) -> Iterable[EventDoc]:
        """The events that `chunk` completes; blank lines keep a connection alive and say nothing."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                event = self._decoder.decode(line)
                self._after = event.seq
                yield event
