"""The one thread that writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from runyard.store.batch import Batch
from runyard.store.store import Store

#: Seconds without a commit after which the log is carried over into the database.
IDLE = 0.5


class Writer:
    """Commits batches one after the other, in the order in which they were given, off the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runyard-store")
        self._idle: asyncio.TimerHandle | None = None
        #: Is told of each batch that was written, or could not be, before whoever has handed it over.
        self.on_commit: Callable[[Batch], None] = lambda _: None

    def commit(self, batch: Batch) -> asyncio.Future[None]:
        """Hand over a batch, which must not be touched any more. The future is done when it is on disk.

        Its failures are those of `Store.commit`. Cancelling the future does not take the batch back.
        """
        loop = asyncio.get_running_loop()
        if self._idle is not None:
            self._idle.cancel()
        self._idle = loop.call_later(IDLE, self._tidy)
        done = loop.run_in_executor(self._thread, self._store.commit, batch)
        done.add_done_callback(lambda _: self.on_commit(batch))
        # Without the shield a cancelled waiter would drop a batch that is still in the queue.
        return asyncio.shield(done)

    async def probe(self) -> bool:
        """As `Store.probe`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._store.probe)

    async def close(self) -> None:
        """Finish what was handed over, and end the thread. The store stays open."""
        if self._idle is not None:
            self._idle.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    def _tidy(self) -> None:
        self._idle = None
        self._thread.submit(self._store.checkpoint)
