"""Rounds of the collector: runs are looked at together, and none does harm to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runyard.model.ids import RunKey
from runyard.model.message import NewMessage
from runyard.service import collector as module
from runyard.service import tail
from runyard.service.collector import Collector
from runyard.service.message_keeper import KeepPolicy
from runyard.store.store import Store
from tests.helpers import wait_until_async
from tests.integration.test_messages_service import Yard, numbers

PATIENCE = 60


class _Tail:
    """Says so much, or fails."""

    def __init__(self, messages: int = 0, size: int = 0, error: Exception | None = None) -> None:
        self.run = RunKey(1, 0, 1)
        self.passed = 0
        self._messages, self._size, self._error = messages, size, error

    def read(self, now: float, ended: bool) -> tuple[list[NewMessage], bool]:
        if self._error is not None:
            raise self._error
        self.passed += self._size
        return [NewMessage(1, "log", {})] * self._messages, False


def _looks(*tails: _Tail) -> list[tuple[int, bool]]:
    asked: Any = [(one, False) for one in tails]
    return [(len(look.messages), look.failed) for look in module._read(asked, 0.0)]


def test_a_run_that_can_not_be_read_does_not_keep_others_from_being_read() -> None:
    assert _looks(_Tail(error=OSError("gone")), _Tail(error=ValueError("defect")), _Tail(3)) == [
        (0, True),
        (0, True),
        (3, False),
    ]


def test_a_round_is_over_when_much_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY_MESSAGES", 10)
    monkeypatch.setattr(module, "MANY_BYTES", 1000)
    assert _looks(_Tail(9), _Tail(1), _Tail(1)) == [(9, False), (1, False)]
    assert _looks(_Tail(1, 999), _Tail(1, 1), _Tail(1)) == [(1, False), (1, False)]


def _run(tmp_path: Path, test: Callable[[Yard, Collector], Awaitable[None]]) -> None:
    async def main() -> None:
        with Store.open(tmp_path) as store:
            yard = Yard(store, tmp_path, KeepPolicy())
            collector = Collector(yard.engine, yard.messages)
            await yard.engine.start()
            yard.messages.start()
            await collector.start()
            task = asyncio.create_task(collector.run())
            try:
                async with asyncio.timeout(PATIENCE):
                    await test(yard, collector)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await yard.messages.close()
                await yard.engine.close()

    asyncio.run(main())


def _say(yard: Yard, job: int, *lines: str) -> None:
    path = Path(yard.engine.output.report(RunKey(job, 0, 1)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def _metric(number: int) -> str:
    return f'{{"type":"metrics","body":{{"n":{number}}}}}'


async def _end(yard: Yard, collector: Collector, *jobs: int) -> None:
    await wait_until_async(lambda: len(yard.executor.live) == len(jobs))
    yard.executor.advance(1)
    for job in jobs:
        await yard.engine.ended(job, PATIENCE)
        assert await collector.drained(job, PATIENCE)


def test_when_much_is_said_everything_comes_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY_MESSAGES", 5)
    monkeypatch.setattr(tail, "TURN_MESSAGES", 2)

    async def test(yard: Yard, collector: Collector) -> None:
        jobs = [await yard.job() for _ in range(4)]
        for job in jobs:
            _say(yard, job, *map(_metric, range(20)))
        await _end(yard, collector, *jobs)
        assert [numbers(await yard.read(job)) for job in jobs] == [list(range(20))] * 4

    _run(tmp_path, test)


def test_a_message_that_can_not_be_stored_takes_no_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the tail had not noticed.
    monkeypatch.setattr(tail, "SURE", 1 << 40)

    async def test(yard: Yard, collector: Collector) -> None:
        one, two = await yard.job(), await yard.job()
        _say(yard, one, _metric(1), '{"type":"log","body":"%s"}' % ("x" * 1_100_000), _metric(2))
        _say(yard, two, _metric(3))
        await _end(yard, collector, one, two)
        assert (numbers(await yard.read(one)), numbers(await yard.read(two))) == ([1, 2], [3])

    _run(tmp_path, test)


def test_what_is_given_back_was_put_down_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREE_FROM", 1000)

    async def test(yard: Yard, collector: Collector) -> None:
        job = await yard.job()
        # Of the first wrong line there is a message, of the others none.
        _say(yard, job, "wrong")
        await wait_until_async(lambda: yard.messages.feed.last == 1)
        _say(yard, job, *["wrong"] * 1000)
        name = str(RunKey(job, 0, 1))

        def put_down() -> bool:
            kept = yard.engine.store.door_records(module.DOOR).get(name)
            return kept is not None and b"6006" in kept

        await wait_until_async(put_down)
        await _end(yard, collector, job)

    _run(tmp_path, test)
