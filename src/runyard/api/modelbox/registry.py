"""The jobs that this door shows: those it has taken, kept until they are deleted, and live flows of other doors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from runyard.api.modelbox.status import Status, status_of
from runyard.core.record import JobRecord
from runyard.model.ids import parse_job_id
from runyard.model.state import State
from runyard.service.engine import Engine
from runyard.service.flows import Flows, failure_of
from runyard.store.batch import Batch

DOOR = "modelbox"

_encoder = msgspec.json.Encoder()


class Entry(msgspec.Struct):
    """What the store keeps. Without a job (0) it is one that failed before it could become a job: `error` says why."""

    id: str
    owner: str
    at: float
    """When it came, in Unix seconds."""
    job: int = 0
    error: str = ""
    path: str = ""
    """The file it was loaded from."""
    digest: str = ""
    """Of that file's content."""


_decoder = msgspec.json.Decoder(Entry)


class Shown(msgspec.Struct):
    """A job as it stands now."""

    id: str
    status: Status
    error: str
    owner: str
    at: float
    record: JobRecord | None
    entry: Entry | None

    @property
    def document(self) -> dict[str, str]:
        return {"job_id": self.id, "job_status": self.status, "job_error_msg": self.error}


class Registry:
    """All methods are for the event loop's thread."""

    def __init__(self, engine: Engine, flows: Flows) -> None:
        self._engine = engine
        self._flows = flows
        kept = [_decoder.decode(body) for body in engine.store.door_records(DOOR).values()]
        self._entries = {entry.id: entry for entry in kept}

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def save(self, entry: Entry, batch: Batch) -> None:
        """Makes the entry durable together with what else is in the batch; `add` follows when that is on disk."""
        batch.keep_for_door(DOOR, entry.id, _encoder.encode(entry))

    def add(self, entry: Entry) -> None:
        self._entries[entry.id] = entry

    def unsave(self, entry: Entry, batch: Batch) -> None:
        """The counterpart of `save`; `remove` follows."""
        batch.keep_for_door(DOOR, entry.id, None)

    def remove(self, entry: Entry) -> None:
        if self._entries.get(entry.id) is entry:
            del self._entries[entry.id]

    def forgotten(self) -> list[Entry]:
        """Those whose jobs another door has cancelled, or retention has removed."""
        jobs = {entry.job: entry for entry in self if entry.job and entry.job not in self._engine.reactor.jobs}
        records = self._ended(jobs)
        return [jobs[job] for job in jobs if job not in records or records[job].state is State.CANCELLED]

    # Showing ------------------------------------------------------------------------------------------------------

    def find(self, id: str) -> Shown | None:
        """The job of that id, unless it is no more."""
        entry = self._entries.get(id)
        if entry is not None:
            record = self._engine.find(entry.job) if entry.job else None
            shown = self._show_entry(entry, record)
            if shown is not None:
                return shown
        roster = self._engine.reactor.roster
        number = parse_job_id(id)
        found = [roster.jobs[job] for job in roster.names.get(id, ())]
        if number is not None and number in roster.jobs and roster.jobs[number].spec.name is None:
            found.append(roster.jobs[number])
        flows = [record for record in found if record.spec.flow is not None]
        return self._show(max(flows, key=lambda record: record.id)) if flows else None

    def listing(self) -> list[Shown]:
        """All of them, the newest first; of several live flows of other doors that have one name, the newest."""
        entries = {entry.job: entry for entry in self._entries.values()}
        records: dict[int, JobRecord] = {}
        others: dict[str, JobRecord] = {}
        for job, record in self._engine.reactor.jobs.items():
            if record.spec.flow is None:
                continue
            if job in entries:
                records[job] = record
            elif (name := _name(record)) not in others or others[name].id < job:
                others[name] = record
        ended = [job for job in entries if job and job not in records]
        records |= self._ended(ended)
        found = [self._show_entry(entry, records.get(entry.job)) for entry in self._entries.values()]
        shown = {item.id: item for item in found if item is not None}
        for name, record in others.items():
            if name not in shown:
                shown[name] = self._show(record)
        return sorted(shown.values(), key=lambda item: item.at, reverse=True)

    def _ended(self, jobs: Iterable[int]) -> dict[int, JobRecord]:
        leaving = {job: record for job in jobs if (record := self._engine.record(job)) is not None}
        stored = [job for job in jobs if job not in leaving]
        return leaving | self._engine.store.jobs(stored) if stored else leaving

    def _show_entry(self, entry: Entry, record: JobRecord | None) -> Shown | None:
        if not entry.job:
            return Shown(entry.id, Status.FAILED, entry.error, entry.owner, entry.at, None, entry)
        if record is None:
            return None
        shown = self._show(record, entry)
        return None if shown.status is Status.NOTEXIST else shown

    def status(self, record: JobRecord) -> Status:
        """Where that job stands now."""
        return status_of(record, self._flows.state(record))

    def _show(self, record: JobRecord, entry: Entry | None = None) -> Shown:
        status = self.status(record)
        error = failure_of(self._engine.output, record) if status is Status.FAILED else ""
        id = entry.id if entry is not None else _name(record)
        return Shown(id, status, error, record.owner, record.submitted_at, record, entry)


def _name(record: JobRecord) -> str:
    return record.spec.name or str(record.id)
