"""Admission: the checks of a submission that need to know the other jobs, and what its dependencies refer to."""

from __future__ import annotations

from collections.abc import Iterable

from runyard.core import cron
from runyard.core.commands import Command, Forget
from runyard.core.dependencies import circle, references
from runyard.core.inputs import Known, NewJob, Submit
from runyard.core.record import Need
from runyard.core.roster import Roster
from runyard.model.check import refuse
from runyard.model.errors import InvalidInput, RunyardError
from runyard.model.ids import parse_job_id
from runyard.model.job import Condition


def admit(event: Submit, roster: Roster) -> tuple[dict[int, list[Need]], dict[int, RunyardError]]:
    """What each new job needs, and which are refused and why. A name means a job of the same request first."""
    here = {new.spec.name: new.id for new in event.jobs if new.spec.name is not None}
    needs: dict[int, list[Need]] = {}
    refused: dict[int, RunyardError] = {}
    for new in event.jobs:
        try:
            _check_schedule(new)
            needs[new.id] = _needs(new, here, event.known, roster) if new.spec.after else []
        except RunyardError as error:
            refused[new.id] = error
    if any(needs.values()):
        _refuse_circles(event.jobs, needs, refused)
    return needs, refused


def just_ended(event: Submit, roster: Roster, out: Iterable[Command]) -> dict[str, Known]:
    """The jobs that the new ones refer to and that have ended in this very step, as its commands `out` tell: the shell
    saw them live."""
    refs = {ref for new in event.jobs for ref, condition in references(new.spec) if condition != Condition.IDLE}
    missing = [ref for ref in refs - event.known.keys() if roster.live(ref) is None]
    found: dict[str, Known] = {}
    for record in [command.record for command in out if isinstance(command, Forget)] if missing else ():
        known = Known(record.id, record.state, record.started_at is not None)
        found |= {ref: known for ref in missing if ref == record.spec.name or parse_job_id(ref) == record.id}
    return found


def _check_schedule(new: NewJob) -> None:
    schedule = new.spec.schedule
    if schedule is None:
        return
    try:
        cron.check_cron(schedule.cron)
    except InvalidInput as error:
        raise refuse("schedule.cron", schedule.cron, error.detail) from None
    try:
        cron.check_timezone(schedule.timezone)
    except InvalidInput as error:
        raise refuse("schedule.timezone", schedule.timezone, error.detail) from None


def _needs(new: NewJob, here: dict[str, int], known: dict[str, Known], roster: Roster) -> list[Need]:
    needs: list[Need] = []
    for index, (ref, condition) in enumerate(references(new.spec)):
        if condition == Condition.IDLE:
            needs.append(Need(ref, condition, 0))
            continue
        job = here.get(ref)
        if job is None or job == new.id:
            live = roster.live(ref)
            found = known.get(ref)
            job = live.id if live is not None else found.job if found is not None else None
        if job is None:
            raise refuse(f"after[{index}]", ref, "no such job: give the id or the name of one that exists")
        needs.append(Need(ref, condition, job))
    return needs


def _refuse_circles(jobs: list[NewJob], needs: dict[int, list[Need]], refused: dict[int, RunyardError]) -> None:
    names = {new.id: new.spec.name or str(new.id) for new in jobs}
    while True:
        edges = {
            job: [need.job for need in wanted if need.job in names]
            for job, wanted in needs.items()
            if job not in refused
        }
        bad = [job for job, others in edges.items() if any(other in refused for other in others)]
        for job in bad:
            refused[job] = refuse("after", names[job], "depends on a job of this request that was refused")
        if bad:
            continue
        found = circle(edges)
        if found is None:
            return
        path = " -> ".join(names[job] for job in [*found, found[0]])
        for job in found:
            refused[job] = refuse("after", names[job], f"is part of a dependency circle: {path}")
