"""Messages between a flow and its worker processes: pickles over a socket, large data in shared memory."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
from typing import Any

_HEAD = struct.Struct("!QI")
_SIZE = struct.Struct("!Q")
MAX_SHARED = 64 * 1024**3
"""Bytes of one message's arrays."""


class Closed(Exception):
    """The other side is gone."""


class Arena:
    """Memory that two processes share; it grows as messages need it. One message at a time lies in it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> Arena:
        return cls(os.memfd_create("runyard-flow"))

    def room(self, size: int) -> mmap.mmap:
        """The memory, at least `size` bytes of it."""
        if self._map is None or len(self._map) < size:
            known = os.fstat(self.fd).st_size
            if known < size:
                known = max(size, 2 * known, mmap.PAGESIZE)
                os.ftruncate(self.fd, known)
            if self._map is not None:
                self._map.close()
            self._map = mmap.mmap(self.fd, known)
        return self._map

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def send(connection: socket.socket, arena: Arena, message: Any) -> None:
    """Sends any object that can be pickled. Raises what pickling raises, before anything is sent; OSError."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    total = sum(view.nbytes for view in views)
    if total > MAX_SHARED:
        raise ValueError(f"{total:,} bytes are too many for a worker process")
    if total:
        memory, at = arena.room(total), 0
        for view in views:
            memory[at : at + view.nbytes] = view
            at += view.nbytes
    sizes = b"".join(_SIZE.pack(view.nbytes) for view in views)
    connection.sendall(_HEAD.pack(len(body), len(views)) + sizes + body)


def receive(connection: socket.socket, arena: Arena) -> Any:
    """The next message, its data copied out of the shared memory. Raises Closed and OSError."""
    length, count = _HEAD.unpack(_read(connection, _HEAD.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_read(connection, count * _SIZE.size))]
    body = _read(connection, length)
    buffers: list[bytearray] = []
    if sizes:
        memory, at = arena.room(sum(sizes)), 0
        with memoryview(memory) as view:
            for size in sizes:
                buffers.append(bytearray(view[at : at + size]))
                at += size
    return pickle.loads(body, buffers=buffers)


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    with memoryview(data) as view:
        at = 0
        while at < size:
            got = connection.recv_into(view[at:])
            if not got:
                raise Closed
            at += got
    return bytes(data)
