"""What handlers get at: the service and who is asking."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar import Request

from runyard.api.streams import Streams
from runyard.auth.authenticator import Authenticator
from runyard.core.record import JobRecord
from runyard.model.check import explain_json
from runyard.model.errors import InvalidInput
from runyard.service.collector import Collector
from runyard.service.flows import Flows
from runyard.service.messages import Messages
from runyard.service.output import OutputReader
from runyard.service.projects import Projects
from runyard.service.service import Service
from runyard.telemetry.sampler import Telemetry

AnyRequest = Request[Any, Any, Any]
_MOST_OWNERS = 100_000


class Context:
    """One for each server; found at `app.state.context`."""

    def __init__(
        self,
        service: Service,
        telemetry: Telemetry,
        owner: str,
        max_streams: int,
        max_batch: int,
        auth: Authenticator | None = None,
        min_uid: int = 1000,
        messages: Messages | None = None,
    ) -> None:
        self.service = service
        self.messages = messages or Messages(service.engine)
        self.collector = Collector(service.engine, self.messages)
        self.output = OutputReader(service.engine)
        self.flows = Flows(service.engine)
        self.projects: Projects | None = None
        self.telemetry = telemetry
        self.owner = owner
        """Whose the jobs are while there are no accounts: the user who runs the server."""
        self.max_batch = max_batch
        self.auth = auth
        """Checks credentials; None where there are no accounts at all."""
        self.min_uid = min_uid
        """Of the accounts of the operating system that jobs may run as."""
        self._owners: OrderedDict[int, str] = OrderedDict()
        self.at_start: list[Callable[[], Awaitable[None]]] = []
        """What front doors do once the engine has started, before anybody is answered."""
        self.at_end: list[Callable[[], Awaitable[None]]] = []
        """What they do when nobody is answered any more, before the engine is closed."""
        self.url = ""
        """Where the server listens."""
        self.stop: Callable[[], None] = lambda: None
        """Ends the server, after it has answered those who wait."""
        self.streams = Streams(max_streams, auth)

    async def owners(self, jobs: set[int]) -> dict[int, str]:
        """Whose jobs these are, of those that are known. An owner never changes, so who asks often asks memory."""
        found: dict[int, str] = {}
        missing: list[int] = []
        for job in jobs:
            record = self.service.engine.record(job)
            owner = record.owner if record is not None else self._owners.get(job)
            if owner is None:
                missing.append(job)
            else:
                self._remember(job, owner)
                found[job] = owner
        if missing:
            for job, owner in (await asyncio.to_thread(self.service.engine.store.owners, missing)).items():
                self._remember(job, owner)
                found[job] = owner
        return found

    def remember_owner(self, record: JobRecord) -> None:
        """Keeps in mind whose job that was, before it is gone."""
        self._remember(record.id, record.owner)

    def _remember(self, job: int, owner: str) -> None:
        self._owners[job] = owner
        if len(self._owners) > _MOST_OWNERS:
            self._owners.popitem(last=False)


def context_of(request: AnyRequest) -> Context:
    context: Context = request.app.state.context
    return context


def json_object(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The object in a small JSON body; an empty body is an empty object. Raises InvalidInput."""
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain_json(body, error) from None
    if not isinstance(value, dict):
        raise InvalidInput(f"the body must be a JSON object, not {type(value).__name__}")
    unknown = value.keys() - known
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidInput(
            f"unknown field {min(unknown)!r}; known fields: {names}",
            errors=[{"field": name, "value": name, "rule": "unknown field"} for name in sorted(unknown)],
        )
    return value
