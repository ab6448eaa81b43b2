"""Answers in one piece: what is written in one turn of the loop leaves in one system call.

uvicorn writes the head of an answer and its body one after the other. Sent apart they cost two calls here, and wake the
client twice, which is a tenth of what a small request costs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes that are gathered at most: what flows without end must come to the transport, which says when it is enough.
MOST = 64 * 1024


class GatheringProtocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        gathered: Any = _Gathered(transport, asyncio.get_running_loop())
        super().connection_made(gathered)

    def handle_websocket_upgrade(self) -> None:
        # From here on another protocol speaks, and it gathers by itself.
        gathered: Any = self.transport
        self.transport = gathered.ungathered()
        super().handle_websocket_upgrade()


class _Gathered:
    """The part of a transport that uvicorn uses."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []
        self._size = 0

    def ungathered(self) -> asyncio.Transport:
        self._flush()
        return self._transport

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MOST:
            self._flush()

    def _flush(self) -> None:
        pieces, self._pieces, self._size = self._pieces, [], 0
        # The client may have gone since: then uvloop has closed the transport, and takes no more.
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))

    def close(self) -> None:
        self._flush()
        self._transport.close()
