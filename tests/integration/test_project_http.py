"""The client for calls to members, and members that never end their answer."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from runyard.project.http import MAX_READ, Client, Silent, Timeouts

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (OK + b"X: ", b"x" * 4096),
        (OK, b"X: y\r\n" * 100),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (CHUNKED + b"1;", b"x" * 4096),
        (CHUNKED + b"0\r\n", b"X: y\r\n" * 100),
    ],
    ids=["header", "headers", "continue", "extension", "trailers"],
)
def test_what_a_member_says_around_its_answer_is_read_up_to_a_bound(begin: bytes, again: bytes) -> None:
    async def call() -> int:
        sent = 0
        hung_up = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionError):
                writer.write(begin)
                while True:
                    # No more than what fits between the two is under way.
                    writer.write(again)
                    sent += len(again)
                    await writer.drain()
            writer.close()
            hung_up.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        # Nothing but the bound ends it.
        client = Client(Timeouts(read=3600))
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Silent, match="too long"):
                await client.get(f"http://127.0.0.1:{port}/start", limit=4096)
            await hung_up.wait()
        await client.close()
        return sent

    assert asyncio.run(call()) >= MAX_READ - 4096
