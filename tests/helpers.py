"""What tests share: waiting for something to become true, with a deadline instead of a sleep; ports."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

STEP = 0.01


def deadline(seconds: float = 60, what: str = "the expected condition", step: float = STEP) -> Iterator[float]:
    """Yields the seconds that are left, pausing between, and fails the test when they are used up.

    For a loop with a body of its own: `for _ in deadline(5, "the file"): …; break`. Most tests want `wait_until`.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield left
        time.sleep(min(step, left))
    raise AssertionError(f"{what} did not come about within {seconds:g} s")


def wait_until(predicate: Callable[[], T], timeout: float = 60, what: str | None = None) -> T:
    """The first true value of `predicate`, asked every 10 ms. Raises AssertionError after `timeout` seconds.

    In a coroutine use `wait_until_async`: this one blocks the loop.
    """
    for _ in deadline(timeout, what or f"{predicate!r}"):
        if value := predicate():
            return value
    raise AssertionError("deadline() ended without failing")


async def wait_until_async(predicate: Callable[[], T], timeout: float = 60, what: str | None = None) -> T:
    """As `wait_until`, letting the event loop run between the questions."""
    end = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() >= end:
            raise AssertionError(f"{what or repr(predicate)} did not come about within {timeout:g} s")
        await asyncio.sleep(STEP)
    return value


def free_port() -> int:
    """A port that nobody has, and that the system gives to nobody who asks for any: it can be left and taken again."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = random.randrange(10_000, max(first, 10_100))
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")
