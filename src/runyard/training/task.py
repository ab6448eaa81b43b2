"""A task: what the door remembers of a job that it has started, and the messages that it tells about it. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from runyard.model.message import ERROR, STATUS, Message
from runyard.training.codes import Code, is_failure, text_of
from runyard.training.envelope import Sender
from runyard.training.operation import PAUSE, ROB, STOP


class Stage(IntEnum):
    """How far a task's life has been told. Each step is told once, in this order."""

    ACCEPTED = 0
    STARTING = 1
    RUNNING = 2
    ENDED = 3


class Task(msgspec.Struct, kw_only=True):
    """Stored with its job. Times are Unix seconds."""

    job: int
    owner: str
    op: str
    """That has begun it; its messages say so to the end."""
    user: str
    uuid: str
    service: str
    app: str
    token: Any = ""
    callback: str = ""
    begun: float
    says_running: bool = False
    since: int = 0
    """The newest message when it began."""
    anew: int = 0
    """The newest message when its job was brought back: what the program said of its end before that counts no more."""
    last: int = 0
    """Its own last message, once it has ended."""
    stage: Stage = Stage.ACCEPTED
    wanted: str | None = None
    """`stop`, `pause` or `rob`, once somebody has asked for it."""
    wanted_at: float = 0.0
    running_at: float | None = None
    ended_at: float | None = None
    code: int = int(Code.SUCCESS)
    """Told last."""

    @property
    def phase(self) -> str:
        return self.op.partition(".")[0]

    @property
    def live(self) -> bool:
        return self.stage is not Stage.ENDED

    @property
    def vision(self) -> bool:
        """With k12cv's own exceptions."""
        return self.service == "k12cv"

    def sender(self, server: str) -> Sender:
        return Sender(self.op, self.user, self.uuid, self.service, self.app, self.token, server=server)


#: The word for each code that says how it goes.
WORDS: dict[int, str] = {
    Code.STARTING: "starting",
    Code.RUNNING: "running",
    Code.FINISHED: "finished",
    Code.STOPPED: "stopped",
    Code.PAUSED: "paused",
    Code.ROBBED: "robbed",
    Code.WARNING: "warning",
}
#: How a task ends on whose wish.
WISHES = {STOP: Code.STOPPED, PAUSE: Code.PAUSED, ROB: Code.ROBBED}


def told(task: Task, code: int, word: str | None = None, **more: Any) -> tuple[str, dict[str, Any]]:
    """Kind and body of a message in which the server tells how a task goes. `word` is its status; `more` is what there
    is besides: `uptime`, `memstat`, `message`, `detail`, `exit_code`, `log`."""
    status = word or WORDS.get(code, "error")
    body: dict[str, Any] = {"code": int(code), "status": status, "op": task.op, "text": text_of(code)[0]}
    body |= {key: value for key, value in more.items() if value not in (None, "", {}, [])}
    return (ERROR if is_failure(code) else STATUS), body


def is_told(message: Message) -> bool:
    """Whether the server says this about a task, and not the task itself."""
    return message.source == "server" and message.kind in (ERROR, STATUS) and "op" in message.body
