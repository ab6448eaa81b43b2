"""The queues of the K12AI door, and its streams: two views of the same stored messages (spec/k12ai.md, 3.6 and 3.7).

A queue is named `<appId>.<type>` and is not a list: it is how far somebody has popped. So a queue that nobody reads
costs nothing, messages are stored once, and a stream takes nothing away from a queue.

What belongs to no task, such as figures of the platform and what others push, is a message of job 0, the server itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

import msgspec

from runyard.model.errors import Expired, TooMany
from runyard.model.message import Message, NewMessage
from runyard.service.messages import Messages
from runyard.service.tasks import Tasks
from runyard.store.batch import Batch
from runyard.training.codes import text_of
from runyard.training.envelope import Sender, envelope
from runyard.training.parameters import Problem
from runyard.training.render import Manner, Rendered, kinds_of, render
from runyard.training.request import Ask
from runyard.training.task import Task

#: Kind of what was pushed into a queue, and the job under which it is kept.
PUSHED, SERVER = "k12ai.push", 0
#: Where the store keeps how far queues were popped.
CURSORS = "k12ai-queues"
#: Messages, and bytes, of one answer. What is left comes with the next one.
MOST, MOST_BYTES = 10_000, 16 * 1024 * 1024
#: Queues that were ever popped.
MOST_QUEUES = 100_000
_PAGE = 1000
#: Seconds between looks whether a task that says nothing is over.
_BEAT = 1.0
#: Messages of which the JSON is kept, unless it has more bytes.
_CACHED, _LARGE = 4096, 8192

_encoder = msgspec.json.Encoder()
_Cursor = tuple[str, str]


class Item(msgspec.Struct, frozen=True):
    """A message for a client, as JSON."""

    seq: int
    type: str
    app: str
    user: str
    uuid: str
    owner: str
    at: float
    text: bytes


class Wanted(msgspec.Struct, frozen=True):
    """Which messages a reader wants; None and an empty set mean all."""

    app: str | None = None
    types: frozenset[str] = frozenset()
    user: str | None = None
    uuid: str | None = None
    owner: str | None = None
    """Only what this account's tasks say."""

    def takes(self, item: Item) -> bool:
        return (
            (self.app is None or item.app == self.app)
            and (not self.types or item.type in self.types)
            and (self.user is None or item.user == self.user)
            and (self.uuid is None or item.uuid == self.uuid)
            and (self.owner is None or item.owner == self.owner)
        )


class Queues:
    """One per server. All methods are for the event loop's thread."""

    def __init__(
        self, tasks: Tasks, messages: Messages, manner: Callable[[], Manner], expiry: float, clock: Callable[[], float]
    ) -> None:
        """Messages older than `expiry` seconds are not popped. `clock` gives Unix seconds."""
        self._tasks, self._messages, self._manner = tasks, messages, manner
        self._expiry, self._clock = expiry, clock
        self._cursors: dict[_Cursor, int] = {}
        #: Up to where there is nothing for a queue, as far as somebody has looked in vain: not to look there again.
        self._passed: dict[_Cursor, int] = {}
        self._lock = asyncio.Lock()
        #: Many read the same at the same time: each message is written once.
        self._texts: OrderedDict[int, list[Item]] = OrderedDict()
        #: Is told of the one message of a task that could not begin, with the address in its request.
        self.on_problem: Callable[[str, Item], None] = lambda url, item: None
        tasks.tell_problem = self._tell_problem

    async def start(self) -> None:
        """Loads how far queues were popped."""
        for key, body in self._messages.engine.store.door_records(CURSORS).items():
            reader, _, queue = key.partition("\n")
            self._cursors[reader, queue] = int(body)

    # In ---------------------------------------------------------------------------------------------------------------

    async def push(self, queue: str, value: Any, owner: str = "", *, ours: bool = False) -> Item:
        """Puts a JSON value into a queue, durably. `ours` says that it is an envelope, which gets its number.

        Raises StorageFull, Unavailable; TooLarge and InvalidInput for a value that can't be kept.
        """
        body = {"queue": queue, "owner": owner, "ours": ours, "value": value}
        at = self._clock()
        taken = await self._messages.append([NewMessage(SERVER, PUSHED, body, at, "server")])
        return _pushed(Message(taken.last, SERVER, PUSHED, at, body, "server"))

    async def tell(self, kind: str, sender: Sender, body: Any, data: Any, owner: str = "") -> Item:
        """Puts a message that is no task's into the queue `<appId>.<kind>`. Raises what `push` raises."""
        manner = self._manner()
        named = msgspec.structs.replace(sender, server=manner.server)
        message = envelope(kind, named, body, data, self._clock(), form=manner.datetime_format)
        return await self.push(f"{sender.app}.{kind}", message, owner, ours=True)

    async def _tell_problem(self, ask: Ask, owner: str, problem: Problem) -> None:
        """The message of a task that could not begin."""
        english, chinese = text_of(problem.code)
        seed = {"code": problem.code, "descr": english, "message": problem.text}
        info = {"err_code": problem.code, "err_text": problem.text}
        data = {
            "code": problem.code,
            "message": {"en": english, "cn": chinese},
            "expand": {"status": "error", "errinfo": info},
        }
        sender = Sender(str(ask.op), ask.user, ask.uuid, ask.service, ask.app, ask.token)
        item = await self.tell("error", sender, seed, data, owner)
        if ask.callback:
            self.on_problem(ask.callback, item)

    # Out, by queue ----------------------------------------------------------------------------------------------------

    async def pop(
        self,
        queues: Sequence[str],
        reader: str | None,
        most: int = MOST,
        wait: float = 0.0,
        there: Callable[[], bool] = lambda: True,
    ) -> list[bytes]:
        """Takes messages out of queues, oldest first, up to `most` and `MOST_BYTES`; waits for the first one up to
        `wait` seconds, and takes none once whoever waits is no longer `there`. They are gone when this returns, also
        after a crash. A reader who is not None has queues of its own, with what its own tasks say. Raises TooMany,
        StorageFull."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            seen = self._messages.feed.last
            async with self._lock:
                if not there():
                    return []
                found = await self._take(queues, reader, most)
            left = deadline - loop.time()
            if found or left <= 0:
                return found
            if self._messages.feed.last == seen and not await self._messages.feed.changed(None, left):
                return []

    async def _take(self, queues: Sequence[str], reader: str | None, most: int) -> list[bytes]:
        batch, texts = Batch(), []
        before: dict[_Cursor, int | None] = {}
        for queue, item in await self._read(queues, reader, most, None):
            cursor = (reader or "", queue)
            if cursor not in before:
                before[cursor] = self._cursors.get(cursor)
                if before[cursor] is None and len(self._cursors) >= MOST_QUEUES:
                    raise TooMany(f"there are {MOST_QUEUES} queues: use the names of those that there are")
            self._cursors[cursor] = item.seq
            batch.keep_for_door(CURSORS, f"{cursor[0]}\n{queue}", str(item.seq).encode())
            texts.append(item.text)
        if before:
            try:
                await self._messages.engine.writer.commit(batch)
            except BaseException:
                for cursor, value in before.items():
                    if value is None:
                        del self._cursors[cursor]
                    else:
                        self._cursors[cursor] = value
                raise
        return texts

    async def peek(self, queues: Sequence[str], reader: str | None, most: int, after: int | None) -> list[bytes]:
        """The same messages, which stay; those behind the cursor `after`, if it is given."""
        return [item.text for _, item in await self._read(queues, reader, most, after)]

    async def _read(
        self, queues: Sequence[str], reader: str | None, most: int, after: int | None
    ) -> list[tuple[str, Item]]:
        """The oldest messages of all these queues, with their queue."""
        found: list[tuple[str, Item]] = []
        for queue in dict.fromkeys(queues):
            key, last = (reader or "", queue), self._messages.feed.last
            cursor = max(self._cursors.get(key, 0), self._passed.get(key, 0), after or 0)
            items = await self._queue(queue, reader, cursor, last, most)
            found += [(queue, item) for item in items]
            if not items and after is None:
                if len(self._passed) >= MOST_QUEUES:
                    self._passed.clear()
                self._passed[key] = last
        found.sort(key=lambda entry: entry[1].seq)
        size = 0
        for place, (_, item) in enumerate(found[:most]):
            size += len(item.text)
            if size > MOST_BYTES and place:
                return found[:place]
        return found[:most]

    async def _queue(self, queue: str, reader: str | None, after: int, last: int, most: int) -> list[Item]:
        """The oldest messages of one queue behind a cursor. While one task's are read, others come: all tasks are read
        up to `last`."""
        app, _, kind = queue.rpartition(".")
        wanted = Wanted(app, frozenset({kind}), owner=reader)
        oldest = self._clock() - self._expiry

        def takes(item: Item) -> bool:
            return item.seq <= last and item.at >= oldest and wanted.takes(item)

        found = await self._of_job(SERVER, after, most, frozenset({PUSHED}), takes)
        for task in list(self._tasks.of_app(app)):
            if len(found) >= most:
                found = sorted(found, key=lambda item: item.seq)[:most]
                if task.since >= found[-1].seq:
                    continue
            if reader in (None, task.owner) and (task.live or task.last > after):
                found += await self._of_job(task.job, after, most, kinds_of(wanted.types), takes)
        found.sort(key=lambda item: item.seq)
        return found[:most]

    async def _of_job(
        self, job: int, after: int, most: int, kinds: frozenset[str], takes: Callable[[Item], bool]
    ) -> list[Item]:
        found: list[Item] = []
        size = 0
        while len(found) < most and size < MOST_BYTES:
            try:
                page, upto = await self._messages.page(job, after, min(_PAGE, most), kinds)
            except Expired as error:
                after = int(error.fields["oldest"]) - 1
                continue
            items = [item for message in page for item in self._items(message) if takes(item)]
            found += items
            size += sum(len(item.text) for item in items)
            if upto <= after or not page:
                break
            after = upto
            # Rendering a page takes milliseconds: others get their turn.
            await asyncio.sleep(0)
        return found

    # Out, as a stream -------------------------------------------------------------------------------------------------

    def position(self) -> int:
        """Behind the newest message."""
        return self._messages.feed.last

    async def follow(
        self, wanted: Wanted, after: int | None, beat: float | None = None
    ) -> AsyncIterator[Collection[Item]]:
        """Messages behind the cursor in batches, for ever; an empty batch says that nothing came for `beat` seconds.

        Raises Expired. Nothing is taken out of a queue.
        """
        kinds = kinds_of(wanted.types) | {PUSHED} if wanted.types else frozenset[str]()
        async for batch in self._messages.feed.follow(None, after, kinds, beat=beat):
            found = [item for message in batch for item in self._items(message) if wanted.takes(item)]
            if found or not batch:
                yield found

    async def follow_task(self, task: Task, after: int) -> AsyncIterator[Collection[Item]]:
        """The messages of one task behind the cursor in batches, until its end was told. Raises Expired."""

        def told() -> bool:
            # It counts as ended a moment before its last message is on disk.
            return not task.live and self._messages.feed.last >= task.last

        async for batch in self._messages.feed.follow(task.job, after, (), told, beat=_BEAT):
            yield [item for message in batch for item in self._items(message)]

    async def check(self, after: int | None) -> None:
        """Raises Expired if what is behind the cursor is no longer kept."""
        await self._messages.page(None, after, 1)

    # One message ------------------------------------------------------------------------------------------------------

    def _items(self, message: Message) -> list[Item]:
        """What a stored message is for clients."""
        items = self._texts.get(message.seq)
        if items is None:
            items = self._made(message)
            if items and len(items[0].text) < _LARGE:
                self._texts[message.seq] = items
                if len(self._texts) > _CACHED:
                    self._texts.popitem(last=False)
        return items

    def _made(self, message: Message) -> list[Item]:
        if message.kind == PUSHED and message.job == SERVER:
            return [_pushed(message)]
        task = self._tasks.get(message.job)
        if task is None:
            return []
        return [_item(rendered, task.user, task.uuid, task.owner) for rendered in render(message, task, self._manner())]


def _item(rendered: Rendered, user: str, uuid: str, owner: str) -> Item:
    text = _encoder.encode(rendered.body)
    return Item(rendered.seq, rendered.type, rendered.app, user, uuid, owner, rendered.at, text)


def _pushed(message: Message) -> Item:
    body = message.body
    app, _, kind = body["queue"].rpartition(".")
    value = body["value"]
    user = uuid = ""
    if isinstance(value, dict):
        user, uuid = str(value.get("user", "")), str(value.get("service_uuid", ""))
        if body["ours"]:
            value = {**value, "seq": message.seq}
    return Item(message.seq, kind, app, user, uuid, body["owner"], message.at, _encoder.encode(value))
