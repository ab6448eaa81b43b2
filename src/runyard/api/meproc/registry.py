"""The tasks that this door has taken: by name, kept until they are deleted, each with its job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from runyard.api.meproc.task import Task
from runyard.api.meproc.view import is_held, last_run, launched, processes, task_of, task_record
from runyard.core.reactor import Reactor
from runyard.core.record import Intent, JobRecord
from runyard.service.engine import Engine
from runyard.store.batch import Batch

DOOR = "meproc"

_encoder = msgspec.json.Encoder()


class Entry(msgspec.Struct):
    """A task and its job: what the store keeps."""

    task: Task
    job: int
    owner: str = ""
    """Empty for one that was kept before there were accounts."""


_decoder = msgspec.json.Decoder(Entry)


class _Shown:
    """A task's encoded view, good for one version of its job."""

    __slots__ = ("ended", "last_time", "processes", "record", "version")

    def __init__(self) -> None:
        self.version = -1
        self.ended = False
        self.last_time = 0
        self.record = b""
        self.processes = b""


class Registry:
    """All methods are for the event loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        kept = [_decoder.decode(body) for body in engine.store.door_records(DOOR).values()]
        #: In the order in which they came.
        self._entries = {entry.task.name: entry for entry in sorted(kept, key=lambda entry: entry.job)}
        #: By name, the tasks that name it among their dependencies.
        self._dependants: dict[str, dict[str, None]] = {}
        for entry in self._entries.values():
            self._link(entry)
        self._shown: dict[int, _Shown] = {}
        #: Up to which event `_notice` has looked.
        self._noticed = engine.feed.last
        #: The last listing of all, with the engine's state that it shows.
        self._listing: tuple[Reactor, int, bytes] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def save(self, entry: Entry, batch: Batch) -> None:
        """Makes the task durable together with what else is in the batch; `add` follows when that is on disk."""
        batch.keep_for_door(DOOR, entry.task.name, _encoder.encode(entry))

    def add(self, entry: Entry) -> None:
        self._entries[entry.task.name] = entry
        self._listing = None
        self._link(entry)

    def _link(self, entry: Entry) -> None:
        for dep in entry.task.deps:
            self._dependants.setdefault(dep, {})[entry.task.name] = None

    def unsave(self, name: str, batch: Batch) -> None:
        """The counterpart of `save`; `remove` follows."""
        batch.keep_for_door(DOOR, name, None)

    def remove(self, entry: Entry) -> None:
        name = entry.task.name
        if self._entries.get(name) is entry:
            del self._entries[name]
            self._listing = None
            for dep in entry.task.deps:
                if dep in self._dependants:
                    self._dependants[dep].pop(name, None)
                    if not self._dependants[dep]:
                        del self._dependants[dep]
        self._shown.pop(entry.job, None)

    # Dependencies -------------------------------------------------------------------------------------------------

    def closure(self, task: Task, without: str | None = None) -> tuple[str, ...]:
        """The task's dependencies, and what those depend on, and so on; as if there were no task `without`."""

        def following(name: str) -> list[str]:
            entry = self._entries.get(name) if name != without else None
            return entry.task.deps if entry is not None else []

        return tuple(sorted(_reached(task.deps, following) - {task.name}))

    def dependants(self, name: str) -> list[Entry]:
        """The tasks in whose closure that name is."""
        found = _reached([name], lambda other: self._dependants.get(other, ()))
        return [self._entries[other] for other in sorted(found - {name}) if other in self._entries]

    def deadlock(self, task: Task) -> list[str] | None:
        """The circle in which the task, started now, would wait for itself through tasks that wait; or None.

        A circle that holds nobody at this moment is none: the engine lets such tasks take turns.
        """
        name, deps = task.name, [dep for dep in task.deps if dep != task.name]
        roster = self._engine.reactor.roster
        live = {other: roster.called(other) for other in self.closure(task)}
        if not any(record.active or is_held(record) for records in live.values() for record in records):
            return None
        paths: list[list[str]] = [[name]]
        seen: set[str] = set()
        while paths:
            path = paths.pop()
            if path[-1] == name:
                following = deps
            else:
                entry = self._entries.get(path[-1])
                following = entry.task.deps if entry is not None else []
            for other in following:
                if other == name:
                    return [*path, name]
                if other not in seen and any(is_held(record) for record in live.get(other, ())):
                    seen.add(other)
                    paths.append([*path, other])
        return None

    # Showing ------------------------------------------------------------------------------------------------------

    def listing(self, only: str | None, owner: str | None = None) -> bytes:
        """The body of GET /proc; with `only`, of that task alone, with `owner` of that account's."""
        if only is not None or owner is not None:
            return self._list(only, owner)
        reactor = self._engine.reactor
        kept = self._listing
        if kept is None or kept[0] is not reactor or kept[1] != reactor.seq:
            kept = self._listing = (reactor, reactor.seq, self._list(None))
        return kept[2]

    def _list(self, only: str | None, owner: str | None = None) -> bytes:
        self._notice()
        running: list[bytes] = []
        tasks: list[bytes] = []
        for name, shown in self._views(only, owner):
            if shown.record:
                tasks.append(_encoder.encode(name) + b":" + shown.record)
            if shown.processes:
                running.append(shown.processes)
        return b'{"code":200,"msg":"OK","data":{"running":[%s],"tasks":{%s}}}' % (b",".join(running), b",".join(tasks))

    def _notice(self) -> None:
        """A job that has ended is looked up once: unless it was brought back, or removed, since then."""
        feed = self._engine.feed
        events = feed.since(self._noticed)
        self._noticed = feed.last
        if events is None:
            for shown in self._shown.values():
                shown.ended = False
            return
        for event in events:
            if event.type in ("job.restarted", "job.deleted") and event.job in self._shown:
                self._shown[event.job].ended = False

    def _views(self, only: str | None, owner: str | None) -> Iterator[tuple[str, _Shown]]:
        """Each task that is shown; without a record, only its processes are."""
        every = self._entries if only is None else [only] if only in self._entries else []
        names = every if owner is None else [name for name in every if self._entries[name].owner == owner]
        stale = [
            entry.job
            for entry in (self._entries[name] for name in names)
            if self._engine.record(entry.job) is None and not self._view_of(entry.job).ended
        ]
        ended = self._engine.store.jobs(stale) if stale else {}
        for name in names:
            entry = self._entries[name]
            record = self._engine.record(entry.job)
            shown = self._view_of(entry.job)
            if record is None and not shown.ended:
                self._show(shown, entry.task, ended.get(entry.job), ended=True)
            elif record is not None and (record.version != shown.version or shown.ended):
                self._show(shown, entry.task, record, ended=False)
            yield name, shown
        # Live jobs of other doors are seen here too: one engine, one job. What is being stopped is forgotten already,
        # but its processes are shown as long as they live.
        roster = self._engine.reactor.roster
        for name in list(roster.names) if only is None else [only]:
            mine = self._entries.get(name)
            for job in roster.names.get(name, ()):
                if mine is not None and mine.job == job:
                    continue
                record = roster.jobs[job]
                if owner not in (None, record.owner):
                    continue
                shown = self._view_of(job)
                if record.version != shown.version:
                    self._show(shown, task_of(record), record, ended=False)
                    if mine is not None or record.intent is Intent.CANCEL:
                        shown.record = b""
                yield name, shown

    def _view_of(self, job: int) -> _Shown:
        shown = self._shown.get(job)
        if shown is None:
            if len(self._shown) > 2 * (len(self._entries) + len(self._engine.reactor.jobs)) + 1000:
                self._shown.clear()
            shown = self._shown[job] = _Shown()
        return shown

    def _show(self, shown: _Shown, task: Task, record: JobRecord | None, *, ended: bool) -> None:
        shown.version = record.version if record is not None else -1
        shown.ended = ended
        shown.last_time = launched(record) or shown.last_time or (last_run(record) if record is not None else 0)
        shown.record = _encoder.encode(task_record(task, record, shown.last_time))
        entries: list[dict[str, Any]] = processes(task, record)
        shown.processes = _encoder.encode(entries)[1:-1] if entries else b""


def _reached(names: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """The names, and all that can be reached from them."""
    seen: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(following(name))
    return seen
