"""Hooks: each follows the event feed by a durable cursor of its own, and tells a receiver or a program of each event.

At least once, and in order for each hook. The cursor is written a little behind the deliveries: after a crash the last
few are made again, with the same id. A hook whose receiver is dead keeps nobody waiting but itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runyard.core.record import JobRecord
from runyard.model.errors import ConfigError, Expired, StorageFull
from runyard.model.event import Event
from runyard.model.hook import Hook
from runyard.model.job import RunDoc
from runyard.service.delivery import Delivery, Failure, delivery, environment, headers, judge, wait_before, wanted
from runyard.service.engine import Engine
from runyard.service.feed import Selection
from runyard.store.batch import Batch

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

#: Events, and their jobs, that are read in one go.
PAGE = 100
#: Seconds between two writes of a cursor; of one that only passed over events that the hook does not want.
SAVE_AFTER, SAVE_PASSED_AFTER = 0.5, 60.0
#: Seconds before a follower that failed begins anew.
REST = 5.0
#: Bytes of a program's output that get into the server's log, and of a receiver's answer that are read.
MOST_OUTPUT, MOST_ANSWER = 4096, 65536
#: Seconds for the rest of a program's output after its end.
DRAIN = 1.0
#: The part of the server's own environment that a program gets: the rest may hold secrets.
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")


class Sender(Protocol):
    """Makes one attempt at a time."""

    async def send(self, delivery: Delivery) -> Failure | None: ...

    async def close(self) -> None: ...


async def start_hooks(hooks: Sequence[Hook], engine: Engine) -> list[asyncio.Task[None]]:
    """Starts to deliver: one task for each hook, to be cancelled before the engine is closed.

    A hook that is new starts at the present. Raises ConfigError if a secret can't be read, StorageFull.
    """
    senders = [_sender(hook, engine.clock) for hook in hooks]
    new, cursors = Batch(), []
    for hook in hooks:
        kept = engine.store.meta(_key(hook))
        cursors.append(engine.feed.last if kept is None else int(kept))
        if kept is None:
            # Durable at once: what happens from now on is delivered even if the server ends before the first one.
            new.set_meta(_key(hook), str(engine.feed.last))
    if new:
        await engine.writer.commit(new)
    return [
        asyncio.create_task(Follower(hook, sender, engine, cursor).run(), name=f"hook {hook.name}")
        for hook, sender, cursor in zip(hooks, senders, cursors, strict=True)
    ]


def _key(hook: Hook) -> str:
    return f"hook:{hook.name}"


def _sender(hook: Hook, clock: Callable[[], float]) -> Sender:
    return Webhook(hook, read_secret(hook), clock) if hook.url else Program(hook)


def read_secret(hook: Hook) -> str:
    """The hook's secret, wherever it is kept. Raises ConfigError."""
    if not hook.secret_file:
        return hook.secret
    try:
        secret = Path(hook.secret_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"hook {hook.name}: secret_file {hook.secret_file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"hook {hook.name}: secret_file {hook.secret_file} is not UTF-8 text") from None
    if not secret:
        raise ConfigError(f"hook {hook.name}: secret_file {hook.secret_file} is empty")
    return secret


class Follower:
    """Takes one hook through the events."""

    def __init__(
        self,
        hook: Hook,
        sender: Sender,
        engine: Engine,
        cursor: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.hook, self.cursor = hook, cursor
        self._sender, self._engine, self._sleep = sender, engine, sleep
        self._selection = Selection(types=frozenset(hook.events))
        self._saved = cursor
        self._saved_at = time.monotonic()
        #: Deliveries were made, or given up, since the cursor was written.
        self._delivered = False

    async def run(self) -> None:
        """Until cancelled, or until the feed is closed."""
        try:
            while not self._engine.closing:
                try:
                    await self._follow()
                except Exception:
                    # The database can't be read, or a defect of ours: neither may end the deliveries for good.
                    log.exception("hook %s: failed, and begins anew in %g s", self.hook.name, REST)
                    await self._sleep(REST)
        finally:
            await self._save()
            await self._sender.close()

    async def _follow(self) -> None:
        feed = self._engine.feed
        while not self._engine.closing:
            try:
                events, upto = await feed.page(self.cursor, PAGE, self._selection)
            except Expired as error:
                await self._skip(error)
                continue
            records = await asyncio.to_thread(self._engine.store.jobs, {event.job for event in events if event.job})
            for event in events:
                await self._take(event, records.get(event.job))
                self.cursor = event.seq
                await self._save_if_due()
            self.cursor = max(self.cursor, upto)
            await self._save_if_due()
            if self.cursor >= feed.last:
                await feed.changed(self._until_save())

    async def _take(self, event: Event, record: JobRecord | None) -> None:
        if not wanted(self.hook, event, record):
            return
        run = await asyncio.to_thread(self._run, event) if event.attempt else None
        await self._deliver(delivery(self.hook, event, record, run))
        self._delivered = True

    def _run(self, event: Event) -> RunDoc | None:
        # The newest run before the next replica's of the same attempt: this one, if it is still kept.
        page = self._engine.store.runs(event.job, 1, (event.attempt, event.replica + 1))
        found = page.runs[0] if page.runs else None
        return found if found and (found.replica, found.attempt) == (event.replica, event.attempt) else None

    async def _deliver(self, delivery: Delivery) -> None:
        """Makes attempts until one succeeds, or until the last one has failed."""
        hook, metrics = self.hook, self._engine.metrics
        what = f"{delivery.id} ({delivery.event.type})"
        retry = 0
        while (failure := await self._sender.send(delivery)) is not None:
            if failure.final or retry == hook.retries:
                log.error("hook %s: %s is given up, attempt %d: %s", hook.name, what, retry + 1, failure.reason)
                metrics.hook(hook.name, "given_up")
                return
            retry += 1
            pause = wait_before(retry)
            log.warning("hook %s: %s failed, next attempt in %g s: %s", hook.name, what, pause, failure.reason)
            metrics.hook(hook.name, "retried")
            await self._save()
            await self._sleep(pause)
        metrics.hook(hook.name, "delivered")

    async def _skip(self, error: Expired) -> None:
        """Events were removed before they could be delivered: go on with the oldest that is kept."""
        oldest = int(error.fields["oldest"])
        log.error(
            "hook %s: events %d to %d are no longer kept, and lost for it",
            *(self.hook.name, self.cursor + 1, oldest - 1),
        )
        self._engine.metrics.hook(self.hook.name, "expired")
        self.cursor = oldest - 1
        await self._save()

    # The cursor ---------------------------------------------------------------------------------------------------

    def _until_save(self) -> float | None:
        """Seconds until the cursor should be written; None if it is."""
        if self.cursor == self._saved:
            return None
        pause = SAVE_AFTER if self._delivered else SAVE_PASSED_AFTER
        return max(0.0, self._saved_at + pause - time.monotonic())

    async def _save_if_due(self) -> None:
        if self._until_save() == 0:
            await self._save()

    async def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self.cursor == self._saved:
            return
        cursor, batch = self.cursor, Batch()
        batch.set_meta(_key(self.hook), str(cursor))
        try:
            await self._engine.writer.commit(batch)
        except StorageFull as error:
            log.warning("hook %s: how far it came can't be written: %s", self.hook.name, error.detail)
            return
        self._saved, self._delivered = cursor, False


class Webhook:
    """Sends by HTTP POST. Redirects are not followed: the receiver is the one that was configured."""

    def __init__(self, hook: Hook, secret: str, clock: Callable[[], float]) -> None:
        self._hook, self._secret, self._clock = hook, secret, clock
        self._client: httpx2.AsyncClient | None = None

    async def send(self, delivery: Delivery) -> Failure | None:
        # Imported with the first delivery: most servers have no webhooks.
        import httpx2

        if self._client is None:
            self._client = await asyncio.to_thread(httpx2.AsyncClient, timeout=None)
        given = headers(delivery, self._secret, self._clock())
        try:
            async with (
                asyncio.timeout(self._hook.timeout),
                self._client.stream("POST", self._hook.url, content=delivery.body, headers=given) as response,
            ):
                size = 0
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > MOST_ANSWER:
                        break
                return judge(response.status_code)
        except TimeoutError:
            return Failure(f"no answer within {self._hook.timeout:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return Failure(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


class Program:
    """Starts a program in a session of its own. When it ends, or at its time limit, its whole process group ends."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        self._base = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}

    async def send(self, delivery: Delivery) -> Failure | None:
        output = await _Output.open()
        try:
            return await self._run(delivery, output.target)
        finally:
            if said := await output.close():
                log.warning("hook %s: %s says: %s", self._hook.name, delivery.id, said)

    async def _run(self, delivery: Delivery, output: int) -> Failure | None:
        try:
            # A file, not a pipe: a program that does not read must not hold anybody up.
            with tempfile.TemporaryFile() as stdin:
                stdin.write(delivery.body)
                stdin.seek(0)
                process = await asyncio.create_subprocess_exec(
                    *self._hook.command,
                    stdin=stdin,
                    stdout=output,
                    stderr=output,
                    env=environment(self._hook, delivery, self._base),
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            return Failure(f"{self._hook.command[0]} can't be started: {getattr(error, 'strerror', None) or error}")
        try:
            async with asyncio.timeout(self._hook.timeout):
                code = await process.wait()
        except TimeoutError:
            return Failure(f"not done within {self._hook.timeout:g} s: killed")
        finally:
            _kill_group(process.pid)
            await process.wait()
        return None if code == 0 else Failure(f"ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")

    async def close(self) -> None:
        pass


class _Output(asyncio.Protocol):
    """The beginning of what a program prints; the rest is read and dropped.

    A pipe of our own: asyncio's would make the end of the program wait for whoever else has inherited it.
    """

    def __init__(self) -> None:
        self.target = -1
        """The end that the program writes to."""
        self._transport: asyncio.BaseTransport
        self._kept = bytearray()
        self._ended = asyncio.Event()

    @classmethod
    async def open(cls) -> _Output:
        output = cls()
        source, output.target = os.pipe()
        file = os.fdopen(source, "rb", buffering=0)
        output._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: output, file)
        return output

    def data_received(self, data: bytes) -> None:
        self._kept += data[: MOST_OUTPUT - len(self._kept)]

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()

    async def close(self) -> str:
        """Everything in one line, which can't forge others. What escaped from the group is not waited for."""
        os.close(self.target)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                await self._ended.wait()
        self._transport.close()
        text = ascii(self._kept.decode(errors="replace").strip())[1:-1]
        return text + (" … (cut)" if len(self._kept) >= MOST_OUTPUT else "")


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
