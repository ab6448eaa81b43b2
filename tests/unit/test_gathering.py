"""What goes out in one piece, and that streams come in pieces whose reader can say that it is enough."""

from __future__ import annotations

import asyncio
from typing import Any

from runyard.api import gather, streams
from runyard.api.streams import joined


class _Transport:
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.get_extra_info = self.pause_reading = self.resume_reading = None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written.append(data)


def test_what_is_written_in_one_turn_goes_out_together_up_to_a_bound() -> None:
    async def main() -> None:
        transport: Any = _Transport()
        gathered = gather._Gathered(transport, asyncio.get_running_loop())
        gathered.write(b"head")
        gathered.write(b"body")
        assert transport.written == []
        await asyncio.sleep(0)
        assert transport.written == [b"headbody"]
        # All in one turn, as from a stream that never has to wait: the transport must see it, to pause the writer.
        for _ in range(10):
            gathered.write(bytes(gather.MOST))
        assert sum(map(len, transport.written[1:])) >= 9 * gather.MOST
        await asyncio.sleep(0)
        assert sum(map(len, transport.written[1:])) == 10 * gather.MOST

    asyncio.run(main())


def test_a_stream_comes_in_pieces_that_are_made_as_they_are_needed() -> None:
    made = 0

    def texts() -> Any:
        nonlocal made
        for _ in range(100):
            made += 1
            yield bytes(streams.PIECE // 4)

    pieces = joined(texts())
    assert len(next(pieces)) == streams.PIECE and made == 4
    assert sum(map(len, pieces)) == 24 * streams.PIECE
    assert list(joined([])) == []
