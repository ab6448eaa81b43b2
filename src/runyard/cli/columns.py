"""What tables show of jobs, runs, events, nodes and schedules."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from runyard.cli.output import Column, elapsed, show_duration, show_size

if TYPE_CHECKING:
    from runyard.client import EventDoc, NodeDoc
    from runyard.model.job import JobDoc, RunDoc


def command_line(job: JobDoc, width: int | None = None) -> str:
    """What a job runs, as one would type it; cut to `width` characters."""
    command, flow = job.spec.command, job.spec.flow
    if flow is not None:
        text = flow.path or " ".join((flow.graph or "").split())
    else:
        text = " ".join((job.spec.script or "").split()) if command is None else shlex.join(command)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def result(job: JobDoc | RunDoc) -> str | None:
    """How it ended, or why it does not run."""
    if job.signal is not None:
        return job.signal
    if job.exit_code is not None:
        return f"exit {job.exit_code}"
    return job.reason


JOB = (
    Column("ID", lambda job: job.id),
    Column("NAME", lambda job: job.name),
    Column("KIND", lambda job: job.kind),
    Column("STATE", lambda job: job.state),
    Column("TIME", lambda job: show_duration(elapsed(job.started_at, job.ended_at)), right=True),
    Column("RESULT", result),
    Column("COMMAND", lambda job: command_line(job, 50)),
)

JOB_FIELDS = (
    Column("id", lambda job: job.id),
    Column("f58", lambda job: job.f58),
    Column("name", lambda job: job.name),
    Column("kind", lambda job: job.kind),
    Column("state", lambda job: job.state),
    Column("reason", lambda job: job.reason),
    Column("held", lambda job: job.hold or None),
    Column("exit code", lambda job: job.exit_code),
    Column("signal", lambda job: job.signal),
    Column("command", command_line),
    Column("cwd", lambda job: job.spec.cwd),
    Column("owner", lambda job: job.owner),
    Column("came by", lambda job: job.origin),
    Column("priority", lambda job: job.priority),
    Column("labels", lambda job: job.labels),
    Column("submitted", lambda job: job.submitted_at),
    Column("started", lambda job: job.started_at),
    Column("ended", lambda job: job.ended_at),
    Column("next fire", lambda job: job.next_fire_at),
    Column("restarts", lambda job: job.restarts or None),
)

RUN = (
    Column("REPLICA", lambda run: run.replica, right=True),
    Column("ATTEMPT", lambda run: run.attempt, right=True),
    Column("STATE", lambda run: run.state),
    Column("NODE", lambda run: run.node),
    Column("PID", lambda run: run.pid, right=True),
    Column("TIME", lambda run: show_duration(elapsed(run.started_at, run.ended_at)), right=True),
    Column("CPU", lambda run: show_duration(run.cpu_seconds), right=True),
    Column("MEMORY", lambda run: show_size(run.max_rss), right=True),
    Column("CORES", lambda run: run.cores or None),
    Column("GPUS", lambda run: run.gpus or None),
    Column("RESULT", result),
)

EXPLANATION = (
    Column("job", lambda why: why.job),
    Column("state", lambda why: why.state),
    Column("why", lambda why: why.summary),
    Column("place in queue", lambda why: why.position),
    Column("expected start", lambda why: why.expected_start),
    Column("blocked by", lambda why: why.blockers),
)


def _subject(event: EventDoc) -> str | None:
    return event.job and (f"{event.job}.{event.replica}.{event.attempt}" if event.attempt else event.job)


EVENT = (
    Column("SEQ", lambda event: event.seq, right=True),
    Column("TIME", lambda event: event.at),
    Column("TYPE", lambda event: event.type),
    Column("JOB", _subject),
    Column("STATE", lambda event: event.state),
    Column("DATA", lambda event: event.data),
)


def _memory(node: NodeDoc) -> str:
    return f"{show_size(node.memory.free)}/{show_size(node.memory.total)}"


NODE = (
    Column("NAME", lambda node: node.name),
    Column("EXECUTOR", lambda node: node.executor),
    Column("STATE", lambda node: node.state),
    Column("RUNS", lambda node: node.runs, right=True),
    Column("CORES FREE", lambda node: f"{len(node.cores.free)}/{len(node.cores.total)}", right=True),
    Column("GPUS FREE", lambda node: f"{len(node.gpus.free)}/{len(node.gpus.total)}", right=True),
    Column("MEMORY FREE", _memory, right=True),
    Column("CPU %", lambda node: (node.host or {}).get("cpu_percent"), right=True),
    Column("LOAD", lambda node: (node.host or {}).get("load"), right=True),
)

SCHEDULE = (
    Column("JOB", lambda schedule: schedule.job),
    Column("NAME", lambda schedule: schedule.name),
    Column("CRON", lambda schedule: schedule.cron),
    Column("TIMEZONE", lambda schedule: schedule.timezone),
    Column("NEXT", lambda schedule: schedule.next_fire_at),
)
