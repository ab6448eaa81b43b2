"""Tasks, their queues and their callbacks in one process: what is told, and who gets it, at awkward moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runyard.executors.memory import MemoryExecutor, Outcome
from runyard.model.errors import StorageFull
from runyard.model.framework import Service as Record
from runyard.model.job import JobSpec
from runyard.model.message import NewMessage
from runyard.model.node import Node
from runyard.service import tasks
from runyard.service.callbacks import Callbacks
from runyard.service.collector import Collector
from runyard.service.delivery import Delivery, Failure
from runyard.service.engine import Engine
from runyard.service.frameworks import Framework, Frameworks
from runyard.service.messages import Messages
from runyard.service.queues import Item, Queues
from runyard.service.service import Service
from runyard.service.tasks import Tasks
from runyard.settings import K12ai
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles
from runyard.store.store import Store
from runyard.training.operation import OPERATIONS
from runyard.training.render import Manner
from runyard.training.reply import Refusal
from runyard.training.request import Ask
from runyard.training.task import Stage, Task
from tests.helpers import wait_until_async

PATIENCE = 60
EXPIRY = 100.0
NOTE = "news"


class Yard:
    """The parts of the K12AI door that need no HTTP. Times stand still unless a test moves them."""

    def __init__(self, store: Store, folder: Path, settings: K12ai) -> None:
        self.now = 1_790_000_000.0
        self.executor = MemoryExecutor(
            {"train": Outcome(seconds=10.0)}, node=Node(name="n", executor="local", cores=[0])
        )
        output = OutputFiles(folder / "output")
        self.engine = Engine(store, {"local": self.executor}, output, clock=lambda: self.now)
        self.service = Service(self.engine)
        self.messages = Messages(self.engine)
        self.collector = Collector(self.engine, self.messages)
        self.framework = Framework("mine", Record(commands={"train": ["train"]}))
        frameworks = Frameworks({"mine": self.framework.service})
        self.tasks = Tasks(self.service, self.messages, self.collector, frameworks, settings, folder / "k12ai")
        self.queues = Queues(self.tasks, self.messages, Manner, EXPIRY, lambda: self.now)
        self.callbacks = Callbacks(self.queues, self.tasks, self.engine, settings)
        self.sent: list[Delivery] = []
        self.callbacks._sender = lambda url: self  # type: ignore[method-assign, assignment, return-value]

    async def send(self, delivery: Delivery) -> Failure | None:
        self.sent.append(delivery)
        return None

    async def close(self) -> None: ...

    async def begin(self, uuid: str, permit: Callable[[JobSpec], Awaitable[JobSpec]] | None = None) -> Task:
        async def freely(spec: JobSpec) -> JobSpec:
            return spec

        op = OPERATIONS["train.start"]
        ask = Ask(op=op, user="u", service="mine", uuid=uuid, params={}, app="a", callback="http://h/x")
        await self.tasks.begin(ask, self.framework, "me", permit or freely)
        found = self.tasks.find("u", uuid, "train")
        assert found is not None
        return found

    async def say(self, task: Task, *numbers: int) -> None:
        await self.messages.append([NewMessage(task.job, NOTE, {"n": number}, self.now, "http") for number in numbers])

    async def pop(self, most: int = 1000) -> list[int]:
        return [msgspec.json.decode(text)[NOTE]["n"] for text in await self.queues.pop([f"a.{NOTE}"], None, most)]

    async def codes(self) -> list[int]:
        texts = await self.queues.pop(["a.error"], None)
        return [msgspec.json.decode(text)["error"]["code"] for text in texts]

    async def told(self, task: Task, code: int) -> None:
        await wait_until_async(lambda: task.code == code and task.job not in self.tasks._telling, PATIENCE)


@asynccontextmanager
async def running(store: Store, folder: Path, settings: K12ai) -> AsyncIterator[Yard]:
    yard = Yard(store, folder, settings)
    await yard.engine.start()
    yard.messages.start()
    await yard.collector.start()
    reading = asyncio.create_task(yard.collector.run())
    await yard.queues.start()
    await yard.tasks.start()
    await yard.callbacks.start()
    try:
        async with asyncio.timeout(PATIENCE):
            yield yard
    finally:
        reading.cancel()
        yard.tasks.close()
        await yard.callbacks.close()
        await yard.messages.close()
        await yard.engine.close()


def run(tmp_path: Path, test: Callable[[Yard], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        with Store.open(tmp_path) as store:
            async with running(store, tmp_path, K12ai(**settings)) as yard:
                await test(yard)

    asyncio.run(main())


def test_as_many_start_at_once_as_may(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        names = [f"p{number}" for number in range(5)]
        at_work = asyncio.Event()
        order: list[int] = []

        async def one_by_one(spec: JobSpec) -> JobSpec:
            # The first one is submitted while the others have only begun to be prepared.
            order.append(len(order))
            if len(order) > 1:
                await at_work.wait()
            return spec

        begin = yard.tasks._begin

        async def then(*args: Any) -> None:
            await begin(*args)
            if not at_work.is_set():
                # What has just begun counts once: there is room for the last one.
                starts.append(asyncio.create_task(yard.begin("last")))
                await asyncio.sleep(0)
                at_work.set()

        yard.tasks._begin = then  # type: ignore[method-assign, assignment]
        starts = [asyncio.create_task(yard.begin(name, one_by_one)) for name in names]
        await asyncio.gather(*starts)
        await starts[-1]
        with pytest.raises(Refusal) as refused:
            await yard.begin("more")
        assert refused.value.code == 100210 and len(yard.tasks.live()) == 6

    run(tmp_path, test, max_tasks=6)


def test_old_messages_keep_nobody_from_new_ones(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        first, second = await yard.begin("p1"), await yard.begin("p2")
        await yard.say(first, 1, 2, 3)
        yard.now += EXPIRY + 1
        await yard.say(first, 4)
        await yard.say(second, 5)
        assert [await yard.pop(1) for _ in range(3)] == [[4], [5], []]

    run(tmp_path, test)


def test_what_was_looked_at_in_vain_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(yard: Yard) -> None:
        task = await yard.begin("p1")
        await yard.told(task, 100002)
        await yard.say(task, 1)
        page, asked = yard.messages.page, []

        async def counted(job: int | None, after: int | None, *args: Any) -> Any:
            asked.append(after)
            return await page(job, after, *args)

        monkeypatch.setattr(yard.messages, "page", counted)
        last = yard.queues.position()
        assert await yard.queues.pop(["a.other"], None) == [] == await yard.queues.pop(["a.other"], None)
        assert set(asked) == {0, last}
        await yard.say(task, 2)
        assert await yard.pop() == [1, 2]

    run(tmp_path, test)


def test_an_end_is_told_once_whatever_fails_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST_ENDED", -2000)

    async def test(yard: Yard) -> None:
        task = await yard.begin("p1")

        async def full() -> None:
            raise StorageFull("no room")

        yard.tasks._forget_old = full  # type: ignore[method-assign]
        await yard.told(task, 100002)
        yard.executor.advance(10.0)
        await yard.told(task, 100003)
        assert await yard.codes() == [100001, 100002, 100003]

    run(tmp_path, test)


def test_what_comes_while_a_queue_is_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(yard: Yard) -> None:
        first, second = await yard.begin("p1"), await yard.begin("p2")
        await yard.say(first, 1)
        await yard.say(second, 2)
        page, later = yard.messages.page, [(first, 3), (second, 4)]

        async def slow(job: int | None, *args: Any) -> Any:
            found = await page(job, *args)
            while job == first.job and not found[0] and later:
                await yard.say(*later.pop(0))
            return found

        monkeypatch.setattr(yard.messages, "page", slow)
        assert await yard.pop() + await yard.pop() == [1, 2, 3, 4]

    run(tmp_path, test)


def test_a_task_that_was_brought_back_is_told_again_and_loses_nothing(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        task = await yard.begin("p1")
        await yard.told(task, 100002)
        await yard.say(task, 1)
        later = await yard.begin("p2")
        yard.executor.advance(10.0)
        await yard.told(task, 100003)
        record = await yard.service.look_up(str(task.job))
        assert record is not None
        await yard.service.restart(record)
        await wait_until_async(lambda: task.live)
        await yard.told(task, 100002)
        await yard.say(later, 2)
        await yard.say(task, 3)
        assert [await yard.pop(1) for _ in range(3)] == [[1], [2], [3]]
        yard.executor.advance(10.0)
        await yard.told(task, 100003)
        await wait_until_async(lambda: not yard.callbacks._served)
        sent = [msgspec.json.decode(item.body) for item in yard.sent if item.event.type == "k12ai.error"]
        own = [body["error"]["code"] for body in sent if body["service_uuid"] == "p1"]
        assert own == [100001, 100002, 100003] * 2

    run(tmp_path, test)


def test_nothing_is_left_of_a_task_whose_job_is_deleted(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        task = await yard.begin("p1")
        await yard.told(task, 100002)
        yard.executor.advance(10.0)
        await yard.told(task, 100003)
        record = await yard.service.look_up(str(task.job))
        assert record is not None and len(yard.engine.store.door_records(tasks.ORIGIN)) == 1
        await yard.service.delete(record)
        await wait_until_async(lambda: not yard.engine.store.door_records(tasks.ORIGIN))
        assert yard.tasks.get(task.job) is None

    run(tmp_path, test)


def test_a_job_that_is_deleted_at_once_has_an_end_all_the_same(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        task = await yard.begin("p1")
        await yard.told(task, 100002)
        go_on = asyncio.Event()

        async def drained(job: int, timeout: float) -> bool:
            return await go_on.wait()

        yard.collector.drained = drained  # type: ignore[method-assign, assignment]
        yard.executor.advance(10.0)
        assert await yard.engine.ended(task.job, PATIENCE)
        record = await yard.service.look_up(str(task.job))
        assert record is not None
        await yard.service.delete(record)
        await wait_until_async(lambda: task.job in yard.tasks._again)
        go_on.set()
        await wait_until_async(lambda: not task.live and task.job not in yard.tasks._telling)
        codes = await yard.codes()
        assert codes[:2] == [100001, 100002] and len(codes) == 3

    run(tmp_path, test)


def test_a_callback_waits_for_an_end_that_is_not_on_disk_yet(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        task = await yard.begin("p1")
        await yard.told(task, 100002)
        await wait_until_async(lambda: len(yard.sent) == 2)
        commit, turns = yard.engine.writer.commit, 0

        async def slow(batch: Batch) -> Any:
            nonlocal turns
            while task.stage is Stage.ENDED and turns < 50:
                # As after a second of silence: the receiver's worker looks whether that was all.
                turns += 1
                yard.messages.feed.wake(task.job)
                await asyncio.sleep(0)
            return await commit(batch)

        yard.engine.writer.commit = slow  # type: ignore[method-assign, assignment]
        yard.executor.advance(10.0)
        await wait_until_async(lambda: not yard.callbacks._served)
        assert turns == 50 and [item.event.type for item in yard.sent] == ["k12ai.error"] * 3

    run(tmp_path, test)


def test_a_callback_ends_with_its_job_and_after_trouble_goes_on(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        async def follow(task: Task, after: int) -> AsyncIterator[list[Item]]:
            await asyncio.sleep(0)
            asked.append(after)
            if len(asked) == 1:
                raise ZeroDivisionError("a defect")
            # Its messages have gone with the job.
            yield []

        asked: list[int] = []
        yard.queues.follow_task = follow  # type: ignore[method-assign]
        await yard.begin("p1")
        await wait_until_async(lambda: not yard.callbacks._served)
        assert len(asked) == 2

    run(tmp_path, test)


def test_nothing_is_taken_for_those_who_have_gone(tmp_path: Path) -> None:
    async def test(yard: Yard) -> None:
        task = await yard.begin("p1")
        waiting = asyncio.create_task(yard.queues.pop([f"a.{NOTE}"], None, wait=1000.0, there=lambda: not task.stage))
        await yard.told(task, 100002)
        await yard.say(task, 1)
        assert await yard.pop() == [1] and await waiting == []

    run(tmp_path, test)
