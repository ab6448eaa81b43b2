"""Messages in Redis lists, for consumers that RPOP them there: list `<appId>.<type>`, newest at the head (spec 3.7).

At least once: how far it came is stored after the push.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from runyard.model.errors import ConfigError, Expired, RunyardError
from runyard.service.engine import Engine
from runyard.service.queues import Item, Queues, Wanted
from runyard.settings import K12ai
from runyard.store.batch import Batch

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

#: Elements of one list; the oldest go first.
MOST = 10_000
_CURSOR = "k12ai:redis"
#: Seconds before another attempt, doubled each time up to the longest; for one attempt.
_FIRST, _LONGEST, _TIMEOUT = 0.5, 30.0, 10.0


class RedisLists:
    """One per server; does nothing unless a Redis is configured."""

    def __init__(self, queues: Queues, engine: Engine, settings: K12ai) -> None:
        """Raises ConfigError."""
        self._queues, self._engine = queues, engine
        self._url, self._expiry = settings.redis_url, max(1, int(settings.queue_expiry))
        if self._url and importlib.util.find_spec("redis") is None:
            raise ConfigError("doors.k12ai.redis_url: the package redis is missing: pip install 'runyard[redis]'")
        if self._url and not self._url.startswith(("redis://", "rediss://", "unix://")):
            raise ConfigError("doors.k12ai.redis_url: must be an address such as redis://127.0.0.1:6379/0")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if not self._url:
            return
        kept = self._engine.store.meta(_CURSOR)
        cursor = self._queues.position() if kept is None else int(kept)
        if kept is None:
            await self._save(cursor)
        self._task = asyncio.create_task(self._run(cursor), name="k12ai redis")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, cursor: int) -> None:
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        redis: Redis = Redis.from_url(self._url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT)
        pause = _FIRST
        try:
            while True:
                try:
                    async for batch in self._queues.follow(Wanted(), cursor):
                        await self._push(redis, batch)
                        cursor = max(item.seq for item in batch)
                        await self._save(cursor)
                        pause = _FIRST
                    return
                except Expired as error:
                    cursor = int(error.fields["oldest"]) - 1
                except Exception as error:
                    known = isinstance(error, RedisError | OSError | RunyardError)
                    what = "messages can't be put into Redis, next attempt in %g s: %s"
                    log.warning(what, pause, error, exc_info=not known)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST)
        finally:
            await redis.aclose()

    async def _push(self, redis: Redis, batch: Collection[Item]) -> None:
        names = [f"{item.app}.{item.type}" for item in batch]
        async with redis.pipeline(transaction=False) as pipeline:
            for name, item in zip(names, batch, strict=True):
                pipeline.lpush(name, item.text)
            results = await pipeline.execute(raise_on_error=False)
        lists = dict.fromkeys(names)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Exception):
                if not str(result).startswith("WRONGTYPE"):
                    raise result
                # Somebody else has something there: that must not keep all others waiting.
                log.error("a message for Redis is lost, %s is no list there", name)
                lists.pop(name, None)
        async with redis.pipeline(transaction=False) as pipeline:
            for name in lists:
                pipeline.ltrim(name, 0, MOST - 1)
                pipeline.expire(name, self._expiry)
            await pipeline.execute()

    async def _save(self, cursor: int) -> None:
        batch = Batch()
        batch.set_meta(_CURSOR, str(cursor))
        await self._engine.writer.commit(batch)
