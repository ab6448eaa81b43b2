"""One run, as the agent sees it: waiting to be spawned, up, or ended with the rest of its tree still to be ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runyard.agent.journal import Acked, Boot, Born, Intent, Reaped, Record, Stopping
from runyard.agent.scratch import new_path
from runyard.agent.tasks import Report
from runyard.model.ids import RunKey
from runyard.model.wire import Exited, Launch, Started

#: Longer promises than this (30 years) are kept as this one.
FOREVER = 1e9
#: The report of a run that has no tasks to report of.
SILENCE = Report()


class Run:
    __slots__ = (
        "adopted",
        "asked",
        "blind",
        "ended",
        "intent",
        "key",
        "kill_at",
        "launch",
        "pid",
        "pidfd",
        "pipe",
        "reaped",
        "reason",
        "report",
        "seq",
        "signal",
        "start",
        "stop",
        "stopping",
        "timed_out",
        "tree",
        "uptime",
    )

    def __init__(self, intent: Intent, launch: Launch | None = None) -> None:
        self.key = intent.run
        self.intent = intent
        self.launch = launch
        """Until it is spawned."""
        self.asked = False
        """The warm process was asked for it: it may be up without our knowing its pid yet."""
        self.stop: tuple[int, float, str | None] | None = None
        """Meanwhile asked to end so: signal, grace, reason."""
        self.seq = 0
        """Number of its `Started` report."""
        self.pid = 0
        self.pidfd = -1
        self.pipe = -1
        """From the starter of its tasks."""
        self.report = SILENCE
        self.uptime = 0.0
        """Taken just before the start."""
        self.start: int | None = None
        """Start of the main process in ticks, if it was looked up."""
        self.adopted = False
        """Started by an earlier agent, and so no child of ours."""
        self.blind = False
        """Its main process ended unseen: its pid may by now be somebody else's."""
        self.stopping = False
        self.signal = 0
        self.kill_at = FOREVER
        self.timed_out = False
        self.reason: str | None = None
        self.reaped: Reaped | None = None
        """How the main process ended."""
        self.tree: dict[int, int] | None = None
        """Descendants seen so far: pid to start."""
        self.ended = False

    @property
    def mark(self) -> bytes:
        return str(self.key).encode()


def intent_of(launch: Launch, group: str | None) -> Intent:
    limit = launch.time_limit
    return Intent(
        launch.run,
        launch.stdout,
        launch.stop_signal,
        bounded(launch.grace),
        None if limit is None else bounded(limit),
        group,
        new_path(launch.run) if launch.tmpdir else None,
    )


def records(
    boot_id: str, seq: int, known: Mapping[RunKey, Run | None], reports: list[Started | Exited]
) -> Iterator[Record]:
    """The journal that adds up to these runs and reports; `seq` is the number of the last report."""
    up = [run for run in known.values() if run is not None]
    first = reports[0].seq if reports else seq + 1
    yield Boot(boot_id, seq)
    for run in up:
        yield run.intent
        if 0 < run.seq < first:
            yield Born(run.seq, run.key, run.pid, 0.0, run.uptime)
    yield Acked(first - 1)
    for report in reports:
        if isinstance(report, Exited):
            yield report
        else:
            of = known.get(report.run)
            yield Born(report.seq, report.run, report.pid, report.at, of.uptime if of is not None else 0.0)
    for run in up:
        if run.stopping:
            yield Stopping(run.key, run.signal, run.kill_at, run.timed_out, run.reason)
        if run.reaped is not None:
            yield run.reaped


def bounded(seconds: float) -> float:
    """NaN and infinity, which JSON can't write, become `FOREVER`."""
    return seconds if seconds < FOREVER else FOREVER
