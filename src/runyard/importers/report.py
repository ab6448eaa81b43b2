"""What an import made of a file: per entry the jobs, and what was mapped, ignored and refused, with the reasons."""

from __future__ import annotations

from typing import Any

import msgspec

from runyard.model.check import build_spec
from runyard.model.errors import InvalidInput
from runyard.model.job import JobSpec

#: The label that every imported job carries; its value is the format.
LABEL = "imported-from"


class Entry(msgspec.Struct, kw_only=True):
    """One entry of the file: a program, a task, a line."""

    place: str
    """Where it stands, such as `line 3` or `[program:web]`."""
    name: str
    jobs: list[JobSpec] = []
    """None if it could not be mapped; several if its processes differ."""
    mapped: dict[str, str] = {}
    """Their field, and what it became here."""
    ignored: dict[str, str] = {}
    """Their field, and why nothing became of it."""
    warnings: list[str] = []
    """What will be different."""
    error: str | None = None
    """Why it did not become a job."""


class Report(msgspec.Struct, kw_only=True):
    format: str
    entries: list[Entry] = []
    notes: list[str] = []
    """About the file as a whole."""

    @property
    def jobs(self) -> list[JobSpec]:
        return [job for entry in self.entries for job in entry.jobs]

    def entry(self, place: str, name: str) -> Entry:
        """A new entry at the end."""
        self.entries.append(Entry(place=place, name=name))
        return self.entries[-1]

    def take(self, entry: Entry, *raw: dict[str, Any]) -> None:
        """The jobs that the entry becomes; if one breaks a rule of ours, the entry is refused with that rule."""
        try:
            entry.jobs = [build_spec(job | {"labels": job.get("labels", {}) | {LABEL: self.format}}) for job in raw]
        except InvalidInput as error:
            entry.error = error.detail


def plain(spec: JobSpec) -> dict[str, Any]:
    """The specification as an entry of a jobs file: only what differs from the defaults."""
    result: dict[str, Any] = _changed(spec)
    return result


def _changed(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {
            field.name: _changed(item)
            for field in msgspec.structs.fields(value)
            if (item := getattr(value, field.name)) != _default(field)
        }
    if isinstance(value, list):
        return [_changed(item) for item in value]
    return msgspec.to_builtins(value)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default
