"""What a new agent does about the runs of the one before it: adopt their processes, report those that are gone."""

from __future__ import annotations

import os
import time

from runyard.agent import process, scratch
from runyard.agent.journal import Entry, Past
from runyard.agent.process import Proc
from runyard.agent.run import Run
from runyard.agent.runs import Runs


def recover(runs: Runs, past: Past) -> None:
    """Take `past` over into `runs`, which is empty.

    An intent without a start and without the file that the child makes first was never started: it is forgotten, and
    the executor may launch again.
    """
    # Without a journal, numbers go on from the time: they must never fall behind those that were reported before.
    runs.restore(past.reports, past.seq or int(time.time() * 1_000_000))
    unclear: list[Run] = []
    for entry in past.runs.values():
        if entry.born is None and not os.path.lexists(entry.intent.stdout):
            scratch.remove(entry.intent.tmpdir)
            continue
        run = _run(entry)
        runs.resume(run)
        if past.boot_id != runs.boot_id:
            runs.exited(run, time.time(), None, None, "nobody could observe how it ended: the host was restarted")
        elif run.reaped is not None:
            runs.sweep(run)
        elif entry.born is None:
            unclear.append(run)
        elif (proc := process.read(run.pid)) is not None and _is_main(proc, run.uptime):
            runs.adopt(run, proc)
        else:
            runs.vanished(run, "the agent was not running")
    if unclear:
        runs.seek(unclear)
    runs.journal.compact(runs.state())


def _run(entry: Entry) -> Run:
    run = Run(entry.intent)
    if entry.born is not None:
        run.seq, run.pid, run.uptime = entry.born.seq, entry.born.pid, entry.born.uptime
    if entry.stopping is not None:
        stopping = entry.stopping
        run.stopping, run.signal, run.kill_at = True, stopping.signal, stopping.kill_at
        run.timed_out, run.reason = stopping.timed_out, stopping.reason
    run.reaped, run.blind = entry.reaped, entry.reaped is not None
    return run


def _is_main(proc: Proc, uptime: float) -> bool:
    """Whether `proc` is the session leader that was started just after `uptime`."""
    return proc.session == proc.pid and -0.03 <= proc.start / process.TICKS - uptime <= 1.0
