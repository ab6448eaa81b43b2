"""A job's output as Flux gives it: pieces in the order in which they came, one for each line; or as it is, live."""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec

from runyard.core.record import JobRecord
from runyard.model.state import ENDED
from runyard.service.output import OutputReader, Place
from runyard.store.output import Stream

log = logging.getLogger(__name__)

#: Bytes of a line at most in one piece: a longer one comes in several.
MAX_LINE = 64 * 1024
#: Replicas of a job whose outputs are put together: jobs of this door have one.
MAX_REPLICAS = 64
#: Pieces of live output that wait for a slow reader.
_AHEAD = 4

_encoder = msgspec.json.Encoder()


class JobOutput:
    """What the last runs of a job's first replicas have written, as it is found now."""

    def __init__(self, reader: OutputReader, record: JobRecord) -> None:
        self._reader = reader
        self.ended = record.state in ENDED
        streams = (Stream.OUT,) if record.spec.output.merge else (Stream.OUT, Stream.ERR)
        self._places = [
            reader.place(record, stream, replica, None)
            for replica in range(min(len(record.replicas), MAX_REPLICAS))
            for stream in streams
        ]
        for place in self._places:
            place.offset = reader.start(place)
        self._upto = [reader.size(place) for place in self._places]

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return sum(upto - place.offset for place, upto in zip(self._places, self._upto, strict=True))

    def skip(self, lines: int) -> None:
        """Leaves all but so many lines of each stream out."""
        for place in self._places:
            place.offset = max(place.offset, self._reader.tail(place, lines))

    async def lines(self, leave_out: int = 0) -> AsyncIterator[bytes]:
        """`{"Output": […]}` with what is there, without the first lines, in parts that fit into memory."""
        lead = b'{"Output":['
        for place, upto in zip(self._places, self._upto, strict=True):
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            rest = ""
            async for piece in self._reader.read(place, upto):
                *whole, rest = _split(rest + decoder.decode(piece))
                if len(rest) >= MAX_LINE:
                    whole, rest = [*whole, rest], ""
                leave_out, whole = max(0, leave_out - len(whole)), whole[leave_out:]
                if whole:
                    yield lead + _encoder.encode(whole)[1:-1]
                    lead = b","
            rest += decoder.decode(b"", final=True)
            if rest and not leave_out:
                yield lead + _encoder.encode([rest])[1:-1]
                lead = b","
            elif rest:
                leave_out -= 1
        yield (b"" if lead == b"," else lead) + b"]}"

    async def raw(self) -> AsyncIterator[bytes]:
        """The bytes that are there."""
        for place, upto in zip(self._places, self._upto, strict=True):
            async for piece in self._reader.read(place, upto):
                yield piece

    async def live(self) -> AsyncIterator[bytes]:
        """The bytes that are there and those that come, until the job has ended; an empty piece now and then."""
        if self.ended:
            pieces = self.raw()
        elif len(self._places) == 1:
            pieces = self._reader.follow(self._places[0], onward=True)
        else:
            pieces = self._together()
        async with aclosing(pieces) as open_pieces:  # type: ignore[type-var]
            async for piece in open_pieces:
                yield piece

    async def _together(self) -> AsyncIterator[bytes]:
        """The streams of all replicas, each piece when it comes."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)

        async def pump(place: Place) -> None:
            try:
                async for piece in self._reader.follow(place, onward=True):
                    await queue.put(piece)
            except Exception as error:
                # The others go on.
                log.warning("the output of run %s can't be followed: %s", place.run, error)
            await queue.put(None)

        tasks = [asyncio.create_task(pump(place)) for place in self._places]
        left = len(tasks)
        try:
            while left:
                piece = await queue.get()
                if piece is None:
                    left -= 1
                else:
                    yield piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _split(text: str) -> list[str]:
    """The lines, each with its newline, and what is behind the last one. Long lines are cut."""
    *lines, rest = text.split("\n")
    found = []
    for line in lines:
        line += "\n"
        found += [line[at : at + MAX_LINE] for at in range(0, len(line), MAX_LINE)] if len(line) > MAX_LINE else [line]
    return [*found, rest]
