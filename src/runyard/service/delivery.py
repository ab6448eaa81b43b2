"""What a hook is told, and when it is told again: the pure part of `runyard.service.hooks`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec

from runyard.core.record import JobRecord
from runyard.model.event import Event
from runyard.model.hook import Hook
from runyard.model.job import RunDoc
from runyard.service.document import event_doc, job_doc

#: Seconds before the first retry; each further wait is twice the last one, up to the longest.
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
#: Answers of a receiver that are worth another attempt although they blame the request.
_AGAIN = frozenset({408, 425, 429})


class Delivery(msgspec.Struct, frozen=True):
    """One event on its way to one hook."""

    id: str
    """The same for each attempt, also after a new start of the server."""
    event: Event
    job_name: str | None
    body: bytes
    """JSON: `{"event": …, "job": JobDoc or null, "run": RunDoc or null}`."""


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt failed."""

    reason: str
    final: bool = False
    """Another attempt would end the same way."""


def wanted(hook: Hook, event: Event, record: JobRecord | None) -> bool:
    """Is the hook told of this event? `record` is its job, None for one that is gone and for events about nodes."""
    if event.type not in hook.events:
        return False
    if record is None:
        return not hook.jobs and not hook.origins
    if hook.origins and record.origin not in hook.origins:
        return False
    return not hook.jobs or any(fnmatchcase(record.spec.name or "", pattern) for pattern in hook.jobs)


def delivery(hook: Hook, event: Event, record: JobRecord | None, run: RunDoc | None) -> Delivery:
    content = {"event": event_doc(event), "job": None if record is None else job_doc(record), "run": run}
    name = None if record is None else record.spec.name
    return Delivery(f"{hook.name}-{event.seq}", event, name, msgspec.json.encode(content))


def headers(delivery: Delivery, secret: str, now: float) -> dict[str, str]:
    """The headers of one attempt at the time `now` (Unix seconds)."""
    timestamp = int(now)
    result = {
        "Content-Type": "application/json",
        "User-Agent": "runyard-hook",
        "X-Runyard-Event": delivery.event.type,
        "X-Runyard-Delivery": delivery.id,
        "X-Runyard-Timestamp": str(timestamp),
    }
    if secret:
        result["X-Runyard-Signature"] = signature(secret, timestamp, delivery.body)
    return result


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 of the timestamp, a dot, and the body: so an old delivery can't be sent again as a new one."""
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def environment(hook: Hook, delivery: Delivery, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a hook's program."""
    event = delivery.event
    given = {"RUNYARD_HOOK": hook.name, "RUNYARD_EVENT": event.type, "RUNYARD_DELIVERY": delivery.id}
    if event.job:
        given |= {"RUNYARD_JOB_ID": str(event.job), "RUNYARD_JOB_NAME": delivery.job_name or ""}
        given["RUNYARD_JOB_STATE"] = str(event.state or "")
    if event.attempt:
        given |= {"RUNYARD_REPLICA": str(event.replica), "RUNYARD_ATTEMPT": str(event.attempt)}
    return {**base, **given}


def wait_before(retry: int) -> float:
    """Seconds to wait before that retry (1 is the first)."""
    # Past 32 doublings the longest wait holds anyway.
    return min(FIRST_WAIT * 2.0 ** min(retry - 1, 32), LONGEST_WAIT)


def judge(status: int) -> Failure | None:
    """None if the receiver's HTTP status means that it has the delivery."""
    if 200 <= status < 300:
        return None
    return Failure(f"HTTP status {status}", final=300 <= status < 500 and status not in _AGAIN)
