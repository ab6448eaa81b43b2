"""Debian's redis-server on a socket of its own, for tests of Redis lists."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.helpers import wait_until


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The address of a running server. Skips the test where there is none, unless RUNYARD_REQUIRE_REDIS is 1."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("RUNYARD_REQUIRE_REDIS") == "1":
            raise AssertionError("redis-server is missing: `make redis` installs it")
        pytest.skip("redis-server is not installed")
    path = folder / "redis.sock"
    command = [
        program,
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    with (folder / "redis.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            url = f"unix://{path}"
            wait_until(lambda: answers(url), 60, "an answer of redis-server")
            yield url
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False
