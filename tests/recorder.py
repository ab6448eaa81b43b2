"""Stands where `runyard.report` writes: keeps what was told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runyard.report import facade
from runyard.report.channel import Channel


class Recorder(Channel):
    """A channel into a list."""

    def __init__(self) -> None:
        super().__init__("")
        self.told: list[tuple[str, Any]] = []

    @property
    def active(self) -> bool:
        return True

    def send(self, kind: str, body: Any) -> bool:
        # As the real one does: what JSON can't carry is refused here.
        self.told.append((kind, json.loads(json.dumps(body, allow_nan=False))))
        return True

    def bodies(self, kind: str) -> list[Any]:
        return [body for told, body in self.told if told == kind]

    def statuses(self) -> list[str]:
        return [body["status"] for kind, body in self.told if kind in ("status", "error")]


@contextmanager
def recording() -> Iterator[Recorder]:
    recorder = Recorder()
    facade.reset()
    facade._channel = recorder
    try:
        yield recorder
    finally:
        facade.reset()
