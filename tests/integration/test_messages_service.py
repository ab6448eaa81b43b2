"""Messages in the engine: durable, in order, bounded, followed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runyard.executors.memory import MemoryExecutor
from runyard.model.errors import RunyardError, StorageFull, TooLarge, Unavailable
from runyard.model.job import JobDoc, JobSpec
from runyard.model.message import Message, NewMessage
from runyard.model.node import Node
from runyard.service import message_feed, messages
from runyard.service.engine import Engine
from runyard.service.message_keeper import KeepPolicy
from runyard.service.messages import Messages
from runyard.service.service import Service
from runyard.store.batch import Batch
from runyard.store.messages import MessagePage
from runyard.store.output import OutputFiles
from runyard.store.store import Store
from tests.helpers import wait_until_async

PATIENCE = 60


class Yard:
    """An engine with its messages. Times stand still unless a test moves them."""

    def __init__(self, store: Store, folder: Path, policy: KeepPolicy) -> None:
        self.now, self.steady = 1_790_000_000.0, 0.0
        self.executor = MemoryExecutor({"true": (0, 1.0)}, node=Node(name="n", executor="local", cores=[0]))
        output = OutputFiles(folder / "output")
        self.engine = Engine(store, {"local": self.executor}, output, clock=lambda: self.now)
        self.service = Service(self.engine)
        self.messages = Messages(self.engine, policy, clock=lambda: self.steady)

    async def job(self) -> int:
        def first(outcomes: list[JobDoc | RunyardError]) -> JobDoc | RunyardError:
            return outcomes[0]

        job = await self.service.submit([JobSpec(command=["true"])], first, origin="native", owner="me")
        assert isinstance(job, JobDoc)
        return int(job.id)

    async def say(self, job: int, *numbers: int, kind: str = "metrics") -> None:
        await self.messages.append([metric(job, number, kind) for number in numbers])

    async def read(self, job: int | None = None, after: int | None = None) -> list[Message]:
        found: list[Message] = []
        while True:
            page, after = await self.messages.page(job, after, 100)
            found += page
            if not page and after >= self.messages.feed.last:
                return found


def metric(job: int, number: int, kind: str = "metrics") -> NewMessage:
    return NewMessage(job, kind, {"values": {"n": number}}, source="http")


def numbers(messages: Collection[Message]) -> list[int]:
    return [message.body["values"]["n"] for message in messages if "values" in message.body]


@asynccontextmanager
async def running(store: Store, folder: Path, policy: KeepPolicy | None = None) -> AsyncIterator[Yard]:
    yard = Yard(store, folder, policy or KeepPolicy())
    await yard.engine.start()
    yard.messages.start()
    try:
        async with asyncio.timeout(PATIENCE):
            yield yard
    finally:
        await yard.messages.close()
        await yard.engine.close()


def run(tmp_path: Path, test: Callable[[Yard], Awaitable[None]], policy: KeepPolicy | None = None) -> None:
    async def main() -> None:
        with Store.open(tmp_path) as store:
            async with running(store, tmp_path, policy) as yard:
                await test(yard)

    asyncio.run(main())


def test_what_was_answered_is_on_disk_in_order_and_numbers_go_on_after_a_new_start(tmp_path: Path) -> None:
    async def first(yard: Yard) -> None:
        results = await asyncio.gather(
            *(yard.messages.append([metric(1, 10 * writer + n) for n in range(5)]) for writer in range(20))
        )
        assert [result.kept for result in results] == [5] * 20
        stored, upto = await asyncio.to_thread(yard.messages.queries.page, None, 1000)
        assert [message.seq for message in stored] == list(range(1, 101)) and upto == 100
        for writer in range(20):
            own = [number for number in numbers(stored) if number // 10 == writer]
            assert own == [10 * writer + n for n in range(5)]
        assert numbers(await yard.read()) == numbers(stored)

    async def second(yard: Yard) -> None:
        await yard.say(1, 1000)
        assert [message.seq for message in await yard.read(1, 99)] == [100, 101]
        assert yard.messages.keeper.totals[1].count == 101

    run(tmp_path, first)
    run(tmp_path, second)


def test_what_is_kept_with_messages_is_in_their_transaction(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        def keep(batch: Batch, result: Any) -> None:
            batch.keep_for_door("collector", "offset", b"%d %d" % (result.kept, result.last))

        result = await yard.messages.append([metric(1, 1), metric(1, 2)], keep)
        assert (result.kept, result.dropped, result.last) == (2, 0, 2)
        assert yard.engine.store.door_records("collector") == {"offset": b"2 2"}
        # Also if there is nothing to say.
        assert (await yard.messages.append([], keep)).kept == 0
        assert yard.engine.store.door_records("collector") == {"offset": b"0 2"}

    run(tmp_path, test)


def test_who_breaks_a_transaction_is_told_and_the_next_one_is_not_harmed(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        def broken(batch: Batch, result: Any) -> None:
            raise LookupError("a defect")

        with pytest.raises(LookupError):
            await yard.messages.append([metric(1, 1)], broken)
        await yard.say(1, 2)
        assert numbers(await yard.read()) == [2]
        assert yard.messages.keeper.totals[1].count == 1

    run(tmp_path, test)


def test_the_server_has_messages_of_its_own(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        await yard.say(0, 1)
        await yard.say(5, 2)
        assert [numbers(await yard.read(job)) for job in (0, 5, None)] == [[1], [2], [1, 2]]
        assert await yard.messages.keeper.sweep(yard.now, yard.messages.feed.last) == 1
        assert set(yard.messages.keeper.totals) == {0}

    run(tmp_path, test)


def test_readers_who_resume_miss_nothing_and_get_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So little in memory that readers fall behind it, and come back to it.
    monkeypatch.setattr(message_feed, "RECENT", 20)
    monkeypatch.setattr(message_feed, "PAGE", 7)

    async def reader(yard: Yard, job: int | None, seed: int, want: int) -> list[int]:
        chance, seen, after = random.Random(seed), list[int](), 0
        while len(seen) < want:
            async for batch in yard.messages.feed.follow(job, after, beat=0.05):
                for message in batch:
                    seen.append(message.seq)
                    after = message.seq
                # Hangs up now and then, also with nothing seen; and is slow.
                if len(seen) >= want or chance.random() < 0.3:
                    break
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
        return seen

    async def test(yard: Yard) -> None:
        readers = [
            asyncio.create_task(reader(yard, job, job or 0, 300 if job is None else 100)) for job in (None, 1, 2, 3)
        ]
        for number in range(100):
            await asyncio.gather(*(yard.say(job, number) for job in (1, 2, 3)))
        everything, *single = await asyncio.gather(*readers)
        assert everything == list(range(1, 301))
        for job, seqs in enumerate(single, 1):
            assert seqs == [message.seq for message in await yard.read(job)] and len(seqs) == 100

    run(tmp_path, test)


def test_a_page_holds_no_more_than_a_slow_reader_may_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_feed, "PAGE_BYTES", 3000)

    async def test(yard: Yard) -> None:
        await yard.messages.append([NewMessage(1, "log", {"text": "x" * size}) for size in (1000, 1000, 9000, 1000)])
        pages = []
        after = 0
        while after < yard.messages.feed.last:
            page, after = await yard.messages.page(1, after, 100)
            pages.append([message.seq for message in page])
        assert pages == [[1, 2], [3], [4]]

    run(tmp_path, test)


def test_a_stream_of_a_job_ends_with_it_but_not_while_somebody_has_more_to_say(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        job = await yard.job()
        held = await yard.job()
        yard.messages.hold(held)

        async def read(job: int) -> list[int]:
            return [number async for batch in yard.messages.follow(job, None) for number in numbers(batch)]

        streams = [asyncio.create_task(read(job)), asyncio.create_task(read(held))]
        await yard.say(job, 1)
        await yard.say(held, 2)
        await wait_until_async(lambda: len(yard.executor.live) == 2)
        yard.executor.advance(1)
        for one in (job, held):
            await yard.engine.ended(one, PATIENCE)
        assert await streams[0] == [1]
        await yard.say(held, 3)
        assert not streams[1].done()
        yard.messages.release(held)
        assert await streams[1] == [2, 3]

    run(tmp_path, test)


def test_a_stream_ends_with_a_job_that_ends_while_the_store_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(yard: Yard) -> None:
        loop, queries, ends = asyncio.get_running_loop(), yard.messages.queries, [False]
        page = queries.page

        async def end() -> None:
            ends[0] = True
            yard.messages.feed.wake(1)

        def late(*args: Any) -> MessagePage:
            found = page(*args)
            asyncio.run_coroutine_threadsafe(end(), loop).result(PATIENCE)
            return found

        monkeypatch.setattr(queries, "page", late)
        assert [batch async for batch in yard.messages.feed.follow(1, None, ended=lambda: ends[0])] == []

    run(tmp_path, test)


def test_readers_come_to_the_end_although_the_newest_messages_are_gone(tmp_path: Path) -> None:
    async def first(yard: Yard) -> None:
        job = await yard.job()
        await yard.say(job, 1)
        # Of a job that is not there.
        await yard.say(7, 2)
        assert await yard.messages.keeper.sweep(yard.now, yard.messages.feed.last) == 1

    async def second(yard: Yard) -> None:
        assert yard.messages.feed.last == 2
        for job in (None, 7):
            for kinds in ((), ("metrics",)):
                assert await yard.messages.page(job, 1, 10, kinds) == ([], 2)
        assert [batch async for batch in yard.messages.follow(7, 1)] == []

    run(tmp_path, first)
    run(tmp_path, second)


def test_streams_end_with_the_server_and_then_nothing_is_taken(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        stream = asyncio.create_task(anext(yard.messages.follow(None, None), None))
        await asyncio.sleep(0)
        yard.engine.begin_close()
        assert await stream is None
        await yard.say(1, 1)
        await yard.messages.close()
        with pytest.raises(Unavailable):
            await yard.say(1, 2)

    run(tmp_path, test)


def test_a_flood_is_sampled_with_a_notice_and_errors_get_through(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        result = await yard.messages.append([metric(1, n) for n in range(1000)])
        assert (result.kept, result.dropped) == (200, 800)
        errors = [metric(1, n, "error") for n in range(50)]
        result = await yard.messages.append([*errors, *(metric(1, n) for n in range(50))])
        assert (result.kept, result.dropped) == (50, 50)
        # Another job has an allowance of its own.
        assert (await yard.messages.append([metric(2, n) for n in range(200)])).dropped == 0
        both = [metric(job, n) for n in range(10) for job in (1, 3)]
        assert (await yard.messages.append(both)).kept == 10
        yard.messages.settle(1)
        told = 0
        async for batch in yard.messages.follow(1, None, {"info"}):
            assert {(message.source, message.body["code"]) for message in batch} == {("server", "dropped")}
            told += sum(message.body["count"] for message in batch)
            if told == 860:
                break
        yard.steady += 1.0
        assert (await yard.messages.append([metric(1, n) for n in range(1000)])).kept == 100

    run(tmp_path, test, KeepPolicy(max_rate=100))


def test_who_brings_more_than_there_is_room_for_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_PENDING", 100)
    monkeypatch.setattr(messages, "MAX_STEP", 3)

    async def test(yard: Yard) -> None:
        await asyncio.gather(*(yard.say(1, number) for number in range(100)))
        assert sorted(numbers(await yard.read())) == list(range(100))

    run(tmp_path, test)


def test_one_body_too_large_refuses_all_of_its_request(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        large = NewMessage(1, "info", {"text": "a" * 1_000_001})
        with pytest.raises(TooLarge):
            await yard.messages.append([metric(1, 1), large])
        assert await yard.read() == [] and yard.messages.feed.last == 0

    run(tmp_path, test)


def test_when_the_store_can_not_write_nothing_is_kept_and_later_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(yard: Yard) -> None:
        await yard.say(1, 1)

        def full(batch: Batch) -> None:
            raise StorageFull("no space")

        with monkeypatch.context() as patch:
            patch.setattr(yard.engine.store, "commit", full)
            with pytest.raises(StorageFull):
                await yard.say(1, 2)
        await yard.say(1, 3)
        assert [(message.seq, message.body["values"]["n"]) for message in await yard.read()] == [(1, 1), (2, 3)]
        assert yard.messages.keeper.totals[1].count == 2

    run(tmp_path, test)


def test_old_ones_surplus_ones_and_those_of_removed_jobs_go(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        keeper, job = yard.messages.keeper, await yard.job()
        await yard.messages.append([metric(job, n) for n in range(100)])
        # Of a job that is not there, and of none.
        await yard.messages.append([metric(7, 0), metric(7, 1), metric(0, 0)])
        assert await keeper.sweep(yard.now, yard.messages.feed.last) == 2
        assert set(keeper.totals) == {job, 0}
        yard.now += 3600
        await yard.messages.append([metric(job, n) for n in range(600)])
        # Those of an hour ago; then the job has more than it may have.
        assert await keeper.sweep(yard.now, yard.messages.feed.last) == 101 + 150
        assert {key: total.count for key, total in keeper.totals.items()} == {job: 450}
        assert yard.messages.queries.totals() == keeper.totals
        left = [kept.seq for kept in yard.messages.queries.of_job(job)]
        assert len(left) == 450 and left[-100:] == list(range(604, 704))
        assert await keeper.sweep(yard.now, yard.messages.feed.last) == 0

    run(tmp_path, test, KeepPolicy(max_per_job=500, max_age=1800.0, interval=3600.0))


def test_a_defect_does_not_end_the_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(yard: Yard) -> None:
        tried = []

        async def sweep(now: float, last: int) -> int:
            tried.append(now)
            raise KeyError("a defect")

        monkeypatch.setattr(yard.messages.keeper, "sweep", sweep)
        await wait_until_async(lambda: len(tried) >= 2)

    run(tmp_path, test, KeepPolicy(interval=0.01))


def test_a_job_that_says_far_too_much_is_seen_to_at_once(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        job = await yard.job()
        await yard.messages.append([metric(job, n) for n in range(1000)])
        await wait_until_async(lambda: yard.messages.keeper.totals[job].count <= 200, PATIENCE)
        # The curve is whole: read it while it is being thinned, or after.
        series = await yard.messages.series(job, None, 10)
        assert series.names == ["n"]

    run(tmp_path, test, KeepPolicy(max_per_job=200, interval=3600.0))


def test_curves_go_on_where_they_were(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        assert (await yard.messages.series(1, None, 10)).items == []
        await yard.say(1, *range(1500))
        found = await asyncio.gather(*(yard.messages.series(1, None, 10) for _ in range(5)))
        assert {result.items[0].count for result in found} == {1500}
        await yard.say(1, 5000)
        result = await yard.messages.series(1, ["n", "other"], 10)
        (curve,) = result.items
        assert (curve.count, curve.min, curve.max, curve.last) == (1501, 0, 5000, 5000)
        assert len(curve.points) <= 10 and result.upto == 1501 and result.names == ["n"]

    run(tmp_path, test)
