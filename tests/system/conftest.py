from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from runyard.client import Client
from runyard.model.errors import Conflict
from runyard.model.state import LIVE
from tests.system.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share."""
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx2.Client]:
    with server.http() as http:
        yield http


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server for one test: for one that kills it, or that needs settings of its own."""
    with ExitStack() as stack:

        def start(*arguments: str, **env: str) -> Server:
            server = Server(tmp_path / "server", *arguments, env=env)
            stack.callback(server.close)
            return server.start()

        yield start


@pytest.fixture
def nothing_left_over(server: Server, client: Client) -> Iterator[None]:
    """A test that fails must not take the cores from the next ones."""
    before = {job.id for job in client.jobs(state=LIVE)}
    yield
    for job in client.jobs(state=LIVE):
        if job.id not in before and job.labels.get("mark") != "listed":
            with suppress(Conflict):
                client.cancel(job.id)
