"""Ended jobs that were asked for lately, so that whoever polls one does not cost a query each time."""

from __future__ import annotations

from collections import OrderedDict

from runyard.core.record import JobRecord
from runyard.model.state import ENDED
from runyard.store.batch import Batch
from runyard.store.store import Store
from runyard.store.writer import Writer

#: Jobs that are kept in mind, and replicas that such a job may have.
MOST, WIDEST = 2000, 16


class EndedJobs:
    """For the event loop's thread. What it gives must not be changed: others are given the same.

    A job is forgotten as soon as a commit has changed or removed it. Both this and reading happen on one thread, so
    nothing that was read before a commit is kept behind it.
    """

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._known: OrderedDict[int, JobRecord] = OrderedDict()
        writer.on_commit = self._changed

    def find(self, job: int) -> JobRecord | None:
        """The job as the store has it."""
        record = self._known.get(job)
        if record is not None:
            self._known.move_to_end(job)
            return record
        record = self._store.job(job)
        if record is not None and record.state in ENDED and len(record.replicas) <= WIDEST:
            self._known[job] = record
            if len(self._known) > MOST:
                self._known.popitem(last=False)
        return record

    def _changed(self, batch: Batch) -> None:
        for job in (*batch.jobs, *batch.deleted):
            self._known.pop(job, None)
