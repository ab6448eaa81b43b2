"""The jobs behind this door: finding them, listing them, and the records that are shown of them."""

from __future__ import annotations

import asyncio
import heapq
import os
import pwd
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from runyard.api.access import owner_filter
from runyard.api.context import Context
from runyard.api.flux.answer import no_job, no_job_id
from runyard.api.flux.jobid import read_job_id
from runyard.api.flux.listing import order
from runyard.api.flux.record import detailed
from runyard.api.flux.submission import Server
from runyard.auth.caller import Caller
from runyard.core.record import JobRecord
from runyard.model.node import Node
from runyard.model.state import ENDED
from runyard.store.listing import Filter

#: The executor on whose nodes this door's jobs run.
EXECUTOR = "local"
_PAGE = 1000
#: Records made between two turns of the loop.
_BREATH = 200


class NodeRow(msgspec.Struct):
    """A node as `details` shows it."""

    name: str
    rank: int
    cores: int
    gpus: int
    state: str
    cores_free: int
    gpus_free: int


class Jobs:
    """The jobs of one server, as Flux shows them to a caller. For the event loop's thread."""

    def __init__(self, context: Context) -> None:
        self._service = context.service
        self._engine = context.service.engine

    # One job ------------------------------------------------------------------------------------------------------

    async def find(self, text: str, caller: Caller) -> JobRecord:
        """The job with that id. One of somebody else is not there, so that ids can't be probed. Raises Refused."""
        number = read_job_id(text)
        if number is None:
            raise no_job_id(text)
        record = await self._service.look_up(str(number))
        if record is not None and not caller.may_see(record.owner):
            caller.refused(f"{caller.name!r} may not see jobs of {record.owner!r}")
            record = None
        if record is None:
            raise no_job(text)
        return record

    def detailed(self, record: JobRecord, ranks: Mapping[str, int] | None = None) -> dict[str, Any]:
        """The job's record; `ranks` are the numbers of the nodes, for who has them already."""
        ranks = self.ranks() if ranks is None else ranks
        return detailed(record, user_id(record.owner), ranks, self._engine.clock())

    async def rows(self, records: list[JobRecord]) -> list[dict[str, Any]]:
        """The detailed records of many, without holding others up."""
        found: list[dict[str, Any]] = []
        ranks = self.ranks()
        for start in range(0, len(records), _BREATH):
            found += [self.detailed(record, ranks) for record in records[start : start + _BREATH]]
            await asyncio.sleep(0)
        return found

    # Many ---------------------------------------------------------------------------------------------------------

    async def visible(self, caller: Caller, limit: int) -> list[JobRecord]:
        """The jobs that the caller may see, in Flux's order; of those that have ended, the newest."""
        live = [record for record in self._engine.reactor.jobs.values() if caller.may_see(record.owner)]
        live = heapq.nsmallest(limit, live, key=order)
        seen = {record.id for record in live}
        ended: list[JobRecord] = []
        wanted = Filter(states=ENDED, owner=owner_filter(caller, None), limit=min(_PAGE, limit))
        while len(live) + len(ended) < limit:
            page = await asyncio.to_thread(self._engine.store.list_jobs, wanted)
            ended += [
                record for record in page.jobs if record.id not in seen and self._engine.record(record.id) is None
            ]
            if page.next is None:
                break
            wanted = msgspec.structs.replace(wanted, before=page.next)
        ended.sort(key=order)
        return (live + ended)[:limit]

    # Nodes --------------------------------------------------------------------------------------------------------

    def nodes(self) -> list[NodeRow]:
        """This door's nodes, in the natural order of their names."""
        return [
            NodeRow(
                node.name,
                rank,
                len(node.cores),
                len(node.gpus),
                "up" if up else "down",
                len(cores) if up else 0,
                len(gpus) if up else 0,
            )
            for rank, (node, up, _, cores, gpus) in enumerate(self._places())
        ]

    def ranks(self) -> dict[str, int]:
        """The number of each node."""
        return {place[0].name: rank for rank, place in enumerate(self._places())}

    def server(self) -> Server:
        """What a submission must know."""
        places = self._places()
        return Server(len(places) or 1, any(place[0].gpus for place in places))

    def _places(self) -> list[tuple[Node, bool, Any, list[int], list[int]]]:
        places = [place for place in self._engine.reactor.scheduler.pool.nodes if place[0].executor == EXECUTOR]
        return sorted(places, key=lambda place: _natural(place[0].name))


@lru_cache(maxsize=1024)
def user_id(owner: str) -> int:
    """The number of the account with that name; the server's own if there is none."""
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        return os.getuid()


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
