"""Flows as jobs: what their host processes are told, and what they tell.

A host writes its reports into the folder of its run (`runyard.flow.report`). They are read when somebody asks: a flow
that is known to run is not looked at again, for its end comes as any process's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from runyard.core.commands import StartRun
from runyard.core.record import JobRecord
from runyard.flow import report
from runyard.flow.hosted import HostSpec
from runyard.flow.report import FlowState
from runyard.model.check import refuse
from runyard.model.flow import Flow, Format, format_of
from runyard.model.ids import RunKey
from runyard.model.state import ACTIVE, ENDED
from runyard.store.output import OutputFiles

if TYPE_CHECKING:
    from runyard.service.engine import Engine

log = logging.getLogger(__name__)

SPEC_FILE = "spec.json"
#: Seconds between looks at a flow that is about to run: the first ones, and the later ones.
QUICK, SLOW = 0.002, 0.1
#: Seconds between two looks at statistics: hosts write them once a second.
STATISTICS_INTERVAL = 1.0


def host_command(start: StartRun, output: OutputFiles) -> list[str]:
    """The command of the process that hosts this run of a flow; writes down what it is to do."""
    spec, flow = start.record.spec, start.record.spec.flow
    assert flow is not None
    reports = output.reports(start.run)
    told = HostSpec(
        name=spec.name or str(start.run.job),
        document=flow.graph or "",
        path=flow.path or "",
        format=flow.format or "",
        args=flow.arguments,
        unit_dirs=flow.unit_dirs,
        folder=spec.cwd or "",
        report=str(reports.absolute()),
        trace=flow.trace or "",
    )
    file = reports.absolute() / SPEC_FILE
    try:
        reports.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(told))
    except OSError as error:
        # The host finds no file, and the run fails with that as its reason.
        log.error("the flow %s can't be told what to do: %s", told.name, error)
    # -P: what lies in the working folder must not stand in for a module of ours.
    return [sys.executable, "-P", "-m", "runyard.flowhost", "--spec", str(file)]


def failure(output: OutputFiles, run: RunKey) -> str | None:
    """Why the flow failed in that run, in its own words; None if it has not said."""
    last = report.last(output.reports(run))
    return last.error if last is not None and last.state is FlowState.FAILED and last.error else None


def failure_of(output: OutputFiles, record: JobRecord) -> str:
    """Why a job that has failed, or is about to, did so."""
    if record.state in ENDED:
        return record.reason or "Fault"
    return failure(output, RunKey(record.id, 0, record.replicas[0].attempt)) or record.reason or "Fault"


def check_unit_dirs(flow: Flow, cwd: str | None, allowed: Sequence[str]) -> None:
    """Raises InvalidInput if the flow's units come from elsewhere than the folders `allowed` and what is below them.

    `cwd` is where relative paths count from.
    """
    if flow.path is not None:
        raise refuse(
            "flow.path", flow.path, "can't be given here, as units may come from some folders only: give graph"
        )
    roots = [os.path.realpath(root) for root in allowed]
    for field, folder in [("flow.unit_dirs", folder) for folder in flow.unit_dirs] + [
        ("driver.dir", folder) for folder in _driver_dirs(flow.graph or "", flow.format)
    ]:
        place = os.path.realpath(os.path.join(cwd or "/", folder))
        if not any(place == root or place.startswith(root.rstrip("/") + "/") for root in roots):
            raise refuse(field, folder, f"units may come from {', '.join(roots)} only ([flows] unit_dirs)")


def _driver_dirs(text: str, form: Format | None) -> list[str]:
    """`driver.dir` of a document; nothing if the document can't be read, for then nothing of it will run."""
    try:
        document = tomllib.loads(text) if (form or format_of(text)) is Format.TOML else msgspec.json.decode(text)
        found = document["driver"]["dir"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    return [folder for folder in (found if isinstance(found, list) else [found]) if isinstance(folder, str) and folder]


class _Seen(msgspec.Struct):
    """How far the reports of a job's present run have been read, and what they came to."""

    run: RunKey
    offset: int = 0
    state: FlowState | None = None


class Flows:
    """What the flows of one engine tell. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: dict[int, _Seen] = {}

    def state(self, record: JobRecord) -> FlowState | None:
        """What the flow itself says of its present run; None if it has not said anything yet, or has none."""
        replica = record.replicas[0]
        if replica.state not in ACTIVE:
            self._seen.pop(record.id, None)
            return None
        run = RunKey(record.id, 0, replica.attempt)
        seen = self._seen.get(record.id)
        if seen is None or seen.run != run:
            self._forget_ended()
            seen = self._seen[record.id] = _Seen(run)
        if seen.state in (None, FlowState.CREATING):
            reports, seen.offset = report.read(self._engine.output.reports(run), seen.offset)
            if reports:
                seen.state = reports[-1].state
        return seen.state

    def _forget_ended(self) -> None:
        jobs = self._engine.reactor.jobs
        if len(self._seen) > 2 * len(jobs) + 100:
            self._seen = {job: seen for job, seen in self._seen.items() if job in jobs}

    async def settled(self, job: int, timeout: float) -> JobRecord | None:
        """The job once its flow runs or has ended, or as it is after `timeout` seconds; None if it is no more."""
        clock = asyncio.get_running_loop().time
        end = clock() + timeout
        pause = QUICK
        while True:
            record = self._engine.record(job)
            if record is None:
                return self._engine.store.job(job)
            if self.state(record) not in (None, FlowState.CREATING) or clock() >= end or self._engine.closing:
                return record
            await self._engine.ended(job, min(pause, max(0.0, end - clock())))
            pause = min(pause * 1.2, SLOW)

    def statistics(self, record: JobRecord) -> dict[str, Any] | None:
        """The latest statistics of the present or last run (`runyard.flow.statistics`), or None."""
        attempt = record.replicas[0].attempt
        return report.stats(self._engine.output.reports(RunKey(record.id, 0, attempt))) if attempt else None

    def last_state(self, record: JobRecord) -> FlowState | None:
        """What the flow has said last of its present or last run."""
        state, attempt = self.state(record), record.replicas[0].attempt
        if state is not None or not attempt:
            return state
        last = report.last(self._engine.output.reports(RunKey(record.id, 0, attempt)))
        return last.state if last is not None else None

    async def follow(self, record: JobRecord, interval: float) -> AsyncIterator[JobRecord]:
        """The job as it is every `interval` seconds, and last as it has ended."""
        while (live := self._engine.record(record.id)) is not None:
            yield live
            if self._engine.closing:
                return
            await self._engine.ended(record.id, interval)
        ended = self._engine.store.job(record.id)
        if ended is not None:
            yield ended
