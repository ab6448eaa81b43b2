"""What an exit means: for the run, for the job, and in words."""

from __future__ import annotations

from runyard.core.inputs import RunExited
from runyard.core.record import JobRecord, Need, Replica
from runyard.model.signals import signal_name
from runyard.model.state import State

UNKNOWN = "nobody could observe how it ended"
LOST_BY_REBOOT = f"{UNKNOWN}: the host was restarted"
LOST = f"{UNKNOWN}: the agent no longer knows it"


def never_met(need: Need, state: State) -> str:
    """Why a job whose dependency ended in `state` can never start."""
    return f"dependency {need.ref} ended {state}, but was to be {need.condition}"


def exit_reason(event: RunExited) -> str | None:
    """What the exit status alone does not say."""
    if event.timed_out:
        return "time limit exceeded"
    if event.exit_code is None and event.signal is None:
        return UNKNOWN
    return None


def copy_exit(record: JobRecord) -> None:
    """The job's exit is that of its worst replica: the first one that failed, else the first one."""
    if not any(replica.attempt for replica in record.replicas):
        return
    worst = next((r for r in record.replicas if r.state is not State.SUCCEEDED), record.replicas[0])
    record.exit_code, record.signal = worst.exit_code, worst.signal


def verdict(record: JobRecord) -> tuple[State, str | None]:
    """How a job whose replicas have all ended has ended."""
    for state in (State.TIMED_OUT, State.FAILED, State.CANCELLED):
        bad = [(index, replica) for index, replica in enumerate(record.replicas) if replica.state is state]
        if bad:
            index, replica = bad[0]
            reason = replica.reason or exit_text(replica)
            if len(record.replicas) > 1:
                reason = f"{len(bad)} of {len(record.replicas)} replicas {state}; replica {index}: {reason}"
            return state, reason
    return State.SUCCEEDED, None


def exit_text(replica: Replica) -> str:
    """How the replica's last run ended, in words."""
    if replica.signal is not None:
        return f"ended by {signal_name(replica.signal)}"
    return f"exit code {replica.exit_code}"
