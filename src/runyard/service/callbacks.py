"""Messages by POST: those of a task to the address in its request, those of an application to the one configured.

Each receiver gets its messages in order, at least once, signed, with three more attempts; what it never takes becomes a
dead letter. How far each one came is stored, so a crash of the server loses nothing; but for the one message about a
task that could not begin, which is then in its queue only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from typing import Any

import msgspec

from runyard.model.errors import ConfigError, Expired, RunyardError
from runyard.model.event import Event
from runyard.model.hook import Hook, is_address
from runyard.service.delivery import Delivery, Failure, wait_before
from runyard.service.engine import Engine
from runyard.service.hooks import Webhook
from runyard.service.queues import Item, Queues, Wanted
from runyard.service.tasks import Tasks
from runyard.settings import K12ai
from runyard.store.batch import Batch
from runyard.training.task import Task

log = logging.getLogger(__name__)

#: Attempts after the first (spec 3.7); seconds for one.
RETRIES, TIMEOUT = 3, 10.0
#: Letters that are kept.
MOST_DEAD = 1000
#: Where the store keeps how far receivers came, and dead letters.
CURSORS, DEAD = "k12ai-callbacks", "k12ai-dead"
_REST = 1.0


class Letter(msgspec.Struct):
    """A message that its receiver never took."""

    url: str
    reason: str
    at: float
    """When it was given up; Unix seconds."""
    seq: int
    type: str
    message: msgspec.Raw


class Callbacks:
    """One per server. All methods are for the event loop's thread."""

    def __init__(
        self,
        queues: Queues,
        tasks: Tasks,
        engine: Engine,
        settings: K12ai,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Raises ConfigError."""
        self._queues, self._tasks, self._engine = queues, tasks, engine
        self._secret, self._sleep = settings.callback_secret, sleep
        self._apps = receivers(settings.callbacks)
        self._cursors: dict[str, int] = {}
        self._dead: deque[Letter] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        #: Tasks whose receiver is being told.
        self._served: set[int] = set()
        tasks.on_begin = self.watch
        queues.on_problem = self._problem

    async def start(self) -> None:
        """Goes on where an earlier server has stopped. The tasks are loaded."""
        store = self._engine.store
        self._dead.extend(msgspec.json.decode(body, type=Letter) for body in store.door_records(DEAD).values())
        self._dead = deque(sorted(self._dead, key=lambda letter: letter.at))
        self._cursors = {key: int(body) for key, body in store.door_records(CURSORS).items()}
        for app, url in self._apps.items():
            if f"app:{app}" not in self._cursors:
                await self._save(f"app:{app}", self._queues.position())
            self._work(self._serve_app(app, url))
        for task in list(self._tasks.all()):
            self.watch(task)
        batch = Batch()
        for key in list(self._cursors):
            known = key[4:] in self._apps if key.startswith("app:") else self._tasks.get(int(key)) is not None
            if not known:
                del self._cursors[key]
                batch.keep_for_door(CURSORS, key, None)
        if batch:
            await self._engine.writer.commit(batch)

    async def close(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def watch(self, task: Task) -> None:
        """The task's messages are wanted at the address in its request, until its end was told there."""
        behind = task.live or self._cursors.get(str(task.job), task.since) < task.last
        if task.callback and behind and task.job not in self._served:
            self._served.add(task.job)
            self._work(self._serve_task(task))

    def dead(self) -> list[Letter]:
        """Newest first."""
        return list(reversed(self._dead))

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        worker = asyncio.create_task(work)
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    def _problem(self, url: str, item: Item) -> None:
        """A task could not begin, and this is the one message about it."""

        async def send() -> None:
            sender = self._sender(url)
            try:
                await self._deliver(sender, url, item)
            finally:
                await sender.close()

        self._work(send())

    async def _serve_app(self, app: str, url: str) -> None:
        await self._serve(f"app:{app}", url, lambda after: self._queues.follow(Wanted(app), after))

    async def _serve_task(self, task: Task) -> None:
        self._cursors.setdefault(str(task.job), task.since)
        try:
            await self._serve(str(task.job), task.callback, lambda after: self._queues.follow_task(task, after))
        finally:
            self._served.discard(task.job)

    async def _serve(self, key: str, url: str, follow: Callable[[int], AsyncIterator[Collection[Item]]]) -> None:
        """Until there is no more to follow."""
        sender = self._sender(url)
        try:
            while True:
                try:
                    async for batch in follow(self._cursors[key]):
                        await self._take(sender, key, url, batch)
                    return
                except Expired as error:
                    self._cursors[key] = int(error.fields["oldest"]) - 1
                except RunyardError as error:
                    log.warning("callback to %s: rests %g s: %s", _host(url), _REST, error.detail)
                    await asyncio.sleep(_REST)
                except Exception:
                    # The database can't be read, or a defect of ours: neither may end the callbacks for good.
                    log.exception("callback to %s: failed, and begins anew in %g s", _host(url), _REST)
                    await asyncio.sleep(_REST)
        finally:
            await sender.close()

    async def _take(self, sender: Webhook, key: str, url: str, batch: Collection[Item]) -> None:
        for item in batch:
            await self._deliver(sender, url, item)
            self._cursors[key] = item.seq
        if batch:
            await self._save(key, self._cursors[key])

    async def _save(self, key: str, cursor: int) -> None:
        self._cursors[key] = cursor
        batch = Batch()
        batch.keep_for_door(CURSORS, key, str(cursor).encode())
        await self._engine.writer.commit(batch)

    def _sender(self, url: str) -> Webhook:
        hook = Hook(name="k12ai", url=url, timeout=TIMEOUT, retries=RETRIES)
        return Webhook(hook, self._secret, self._engine.clock)

    async def _deliver(self, sender: Webhook, url: str, item: Item) -> None:
        """Makes attempts until one succeeds, or until the last one has failed."""
        event = Event(item.seq, item.at, f"k12ai.{item.type}", 0, None, 0, 0, None)
        delivery = Delivery(f"k12ai-{item.seq}-{item.type}", event, None, item.text)
        retry = 0
        while (failure := await sender.send(delivery)) is not None:
            if failure.final or retry == RETRIES:
                await self._bury(url, item, failure)
                return
            retry += 1
            await self._sleep(wait_before(retry))

    async def _bury(self, url: str, item: Item, failure: Failure) -> None:
        log.warning("callback to %s: message %d is given up: %s", _host(url), item.seq, failure.reason)
        letter = Letter(url, failure.reason, self._engine.clock(), item.seq, item.type, msgspec.Raw(item.text))
        batch = Batch()
        self._dead.append(letter)
        batch.keep_for_door(DEAD, _name(letter), msgspec.json.encode(letter))
        while len(self._dead) > MOST_DEAD:
            batch.keep_for_door(DEAD, _name(self._dead.popleft()), None)
        await self._engine.writer.commit(batch)


def receivers(configured: Collection[str]) -> dict[str, str]:
    """Addresses by application. Raises ConfigError."""
    found: dict[str, str] = {}
    for item in configured:
        app, equals, url = item.partition("=")
        if not equals or not app.strip() or not is_address(url.strip()):
            raise ConfigError(f"doors.k12ai.callbacks: {_host(item)!r}… must be written appId=https://host/path")
        found[app.strip()] = url.strip()
    return found


def _name(letter: Letter) -> str:
    return f"{letter.seq} {letter.url}"


def _host(url: str) -> str:
    """What of an address may stand in a log: the rest may be a password."""
    return "/".join(url.split("?")[0].split("@")[-1].split("/")[:3])
