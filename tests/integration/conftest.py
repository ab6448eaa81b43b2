from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents import AgentProcess


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """A running agent; whatever it started is gone after the test."""
    agent = AgentProcess(tmp_path)
    try:
        agent.start()
        yield agent
    finally:
        agent.close()
