"""A connection to the agent, seen from the agent."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress

from runyard.model.wire import Frames, FromAgent, ToAgent, decode_to_agent, encode_frame

_PEER = struct.Struct("iII")


class Link:
    """Never blocks: what the peer does not take yet waits in `out`. A `control` link asks, and gets no reports."""

    def __init__(self, sock: socket.socket, epoll: select.epoll, control: bool) -> None:
        sock.setblocking(False)
        self.fd = sock.fileno()
        self.control = control
        self.cursor = 0
        """How many of the agent's reports were handed to this link."""
        self.out = bytearray()
        self._sock, self._epoll, self._frames = sock, epoll, Frames()
        self._mask = select.EPOLLIN
        epoll.register(self.fd, self._mask)

    @property
    def uid(self) -> int:
        """Whose process is at the other end."""
        return int(_PEER.unpack(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1])

    def receive(self) -> list[list[ToAgent]]:
        """The frames that have arrived. Raises EOFError at the end, OSError, ValueError, msgspec.DecodeError."""
        return [decode_to_agent(body) for body in self.bodies()]

    def bodies(self) -> Iterable[bytes]:
        """As `receive`, not decoded. Raises EOFError at the end, OSError, ValueError."""
        try:
            data = self._sock.recv(1 << 18)
        except BlockingIOError:
            return ()
        if not data:
            raise EOFError
        return self._frames.feed(data)

    def send(self, messages: Sequence[FromAgent]) -> None:
        """Raises OSError when the peer is gone."""
        self.write(encode_frame(messages))

    def write(self, frame: bytes) -> None:
        """Raises OSError when the peer is gone."""
        self.out += frame
        self.flush()

    def flush(self) -> None:
        """Raises OSError when the peer is gone."""
        try:
            while self.out:
                del self.out[: self._sock.send(self.out)]
        except BlockingIOError:
            pass
        mask = select.EPOLLIN | select.EPOLLOUT if self.out else select.EPOLLIN
        if mask != self._mask:
            self._epoll.modify(self.fd, mask)
            self._mask = mask

    def close(self, patience: float = 0.0) -> None:
        """Wait up to `patience` seconds for the peer to take what is left."""
        if self.out and patience:
            self._sock.settimeout(patience)
            with suppress(OSError):
                self._sock.sendall(self.out)
        self._epoll.unregister(self.fd)
        self._sock.close()
