"""WebSockets: how they come to be, and how they are refused.

A refusal is an HTTP answer to the handshake, a problem document like any other (ASGI's `websocket.http.response`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cache
from typing import Any

import msgspec
from litestar.types import Send

from runyard.api.problem import MEDIA_TYPE, problem_body, refusal_headers
from runyard.model.errors import RunyardError

#: Bytes of a frame from a client: none of them has much to say.
MAX_FRAME = 64 * 1024
#: Codes of RFC 6455 and IANA's registry: all has been said; the server goes away, and may come back.
DONE, GOING = 1000, 1012


def new_socket(*args: Any, **options: Any) -> asyncio.Protocol:
    """uvicorn's protocol for one WebSocket. Its library is loaded with the first one."""
    return _protocol()(*args, **options)


@cache
def _protocol() -> type[asyncio.Protocol]:
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    class Socket(WebSocketsSansIOProtocol):
        async def send(self, message: Any) -> None:
            if message["type"] == "websocket.close" and (self.close_sent or self.disconnected):
                # The client was quicker, or uvicorn, which closes what is open when the server ends.
                return
            await super().send(message)
            # uvicorn would take a handshake that was refused for one that nobody has answered, and log an error.
            self.handshake_complete = self.handshake_complete or self.close_sent

        def send_receive_event_to_app(self) -> None:
            # Nobody here reads what clients say. uvicorn would decode it, and log an error for what is no text.
            self.frames = []

        def handle_parser_exception(self) -> None:
            if self.conn.close_sent is None:
                # Garbage before the handshake was answered, or after it was refused. uvicorn knows it only later.
                self.transport.close()
            else:
                super().handle_parser_exception()

    return Socket


async def refuse_socket(send: Send, error: RunyardError) -> None:
    """Answers a handshake that was not accepted yet."""
    send_any: Any = send
    body = msgspec.json.encode(problem_body(error))
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **refusal_headers(error)}
    head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send_any({"type": "websocket.http.response.start", "status": error.status, "headers": head})
    await send_any({"type": "websocket.http.response.body", "body": body, "more_body": False})


async def speak(socket: Any, texts: AsyncGenerator[bytes, None]) -> bool:
    """Sends each text as a frame until there are no more, or the client has gone; whether there are no more."""
    gone = asyncio.create_task(_until_gone(socket))
    sending = asyncio.create_task(_send_all(socket, texts))
    try:
        await asyncio.wait((gone, sending), return_when=asyncio.FIRST_COMPLETED)
        return sending.done() and sending.exception() is None
    finally:
        for task in (gone, sending):
            task.cancel()
        await asyncio.gather(gone, sending, return_exceptions=True)


async def _until_gone(socket: Any) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _send_all(socket: Any, texts: AsyncGenerator[bytes, None]) -> None:
    # Closed here, whatever happens: an open stream counts.
    async with aclosing(texts):
        async for text in texts:
            await socket.send({"type": "websocket.send", "text": text.decode(), "bytes": None})
