"""Open streams end with what their callers came in by; outputs that are followed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from runyard.api import streams
from runyard.api.flux.door import _events
from runyard.api.flux.output import JobOutput
from runyard.api.pages.renderer import redirect
from runyard.api.streams import Streams
from runyard.auth.caller import Caller
from runyard.model.errors import TooMany, Unavailable
from runyard.model.ids import RunKey
from runyard.service.output import Place
from runyard.store.output import Stream


class Door:
    """As an `Authenticator`: lets in whoever is on its list, which can't be read at times."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.readable = True

    async def directory(self) -> None:
        if not self.readable:
            raise Unavailable("not now")

    def holds(self, caller: Caller) -> bool:
        return caller.name in self.names


async def silent(closed: asyncio.Event, *pieces: bytes) -> AsyncIterator[bytes]:
    try:
        for piece in pieces:
            yield piece
        await asyncio.Event().wait()
    finally:
        closed.set()


def test_a_stream_ends_with_its_callers_credentials_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LOOK", 0.0)

    async def body() -> None:
        door: Any = Door("ann", "bob")
        door.readable = False
        made = Streams(2, door)
        closed = {name: asyncio.Event() for name in door.names}
        opened = {name: made.open(Caller(name), silent(event, b"1", b"2")) for name, event in closed.items()}
        for stream in opened.values():
            assert [await anext(stream), await anext(stream)] == [b"1", b"2"]
        with pytest.raises(TooMany):
            made.open(Caller("ann"), silent(asyncio.Event()))
        watching = asyncio.create_task(made.watch())
        rest = {name: asyncio.ensure_future(anext(stream, None)) for name, stream in opened.items()}
        door.names.discard("ann")
        assert await asyncio.wait_for(rest["ann"], 30) is None
        assert closed["ann"].is_set() and not rest["bob"].done()
        # One that is not waiting for a piece ends at the next one.
        again = made.open(Caller("ann"), silent(asyncio.Event(), b"1", b"2"))
        assert await anext(again) == b"1"
        door.names.discard("bob")
        assert await asyncio.wait_for(rest["bob"], 30) is None
        assert await anext(again, None) is None
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled()

    asyncio.run(body())


def test_a_failure_within_a_stream_is_its_own() -> None:
    async def late() -> AsyncIterator[bytes]:
        yield b"1"
        raise TimeoutError

    async def body() -> None:
        stream = Streams(1, None).open(Caller("ann"), late())
        assert await anext(stream) == b"1"
        with pytest.raises(TimeoutError):
            await anext(stream)

    asyncio.run(body())


def test_a_character_in_two_pieces_of_output_is_one() -> None:
    class Output:
        async def live(self) -> AsyncIterator[bytes]:
            for piece in (b"a\xc3", b"\xa9", b"\xe2\x82"):
                yield piece

    async def body() -> list[bytes]:
        output: Any = Output()
        return [piece async for piece in _events(output)]

    data = [piece for piece in asyncio.run(body()) if piece.startswith(b"data")]
    assert data == [b'data: "a"\n\n', 'data: "é"\n\n'.encode(), 'data: "\ufffd"\n\n'.encode()]


def test_outputs_that_are_followed_together_end_though_one_of_them_fails() -> None:
    class Reader:
        async def follow(self, place: Place, onward: bool) -> AsyncIterator[bytes]:
            yield b"x"
            if place.stream is Stream.ERR:
                raise LookupError

    async def body() -> list[bytes]:
        output = JobOutput.__new__(JobOutput)
        reader: Any = Reader()
        output._reader, output.ended = reader, False
        output._places = [Place(RunKey(1, 0, 1), stream) for stream in Stream]
        async with aclosing(output.live()) as pieces:  # type: ignore[type-var]
            return [piece async for piece in pieces]

    assert asyncio.run(asyncio.wait_for(body(), 30)) == [b"x", b"x"]


def test_a_redirection_may_lead_to_any_letter() -> None:
    assert redirect("/job/ƒ4Z?next=%2F&a=b c").headers["Location"] == "/job/%C6%924Z?next=%2F&a=b%20c"
