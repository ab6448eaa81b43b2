"""The result of whatever a flow does: a code of the ModelBox table, a message, and the status that caused it."""

from __future__ import annotations

from enum import IntEnum

MAX_CODE = 30


class StatusCode(IntEnum):
    """What happened, by the numbers of ModelBox (spec 3.4)."""

    STATUS_SUCCESS = 0
    STATUS_OK = 0
    STATUS_FAULT = 1
    STATUS_NOTFOUND = 2
    STATUS_INVALID = 3
    STATUS_AGAIN = 4
    STATUS_BADCONF = 5
    STATUS_NOMEM = 6
    STATUS_RANGE = 7
    STATUS_EXIST = 8
    STATUS_INTERNAL = 9
    STATUS_BUSY = 10
    STATUS_PERMIT = 11
    STATUS_NOTSUPPORT = 12
    STATUS_NODATA = 13
    STATUS_NOSPACE = 14
    STATUS_NOBUFS = 15
    STATUS_OVERFLOW = 16
    STATUS_INPROGRESS = 17
    STATUS_ALREADY = 18
    STATUS_TIMEDOUT = 19
    STATUS_NOSTREAM = 20
    STATUS_RESET = 21
    STATUS_CONTINUE = 22
    STATUS_EDQUOT = 23
    STATUS_STOP = 24
    STATUS_SHUTDOWN = 25
    STATUS_EOF = 26
    STATUS_NOENT = 27
    STATUS_DEADLOCK = 28
    STATUS_NORESPONSE = 29
    STATUS_IO = 30


TEXT: tuple[str, ...] = (
    "Success", "Fault", "Not found", "Invalid argument", "Try again", "Bad config", "Out of memory", "Out of range",
    "Already exists", "Internal error", "Device or resource busy", "Operation not permitted", "Not supported",
    "No data available", "No space left", "No buffer space available", "Value too large for defined data type",
    "Operation now in progress", "Operation already in progress", "Operation timed out", "Out of streams resources",
    "Request reset", "Continue operation", "Quota exceeded", "Stop operation", "Shutdown operation", "End of file",
    "No such file or directory", "Resource deadlock", "No response", "Input/output error",
)  # fmt: skip


Code = StatusCode
"""The same under a name that `Status.StatusCode` does not hide."""


class Status:
    """A code with a message and, where one status was the consequence of another, the cause.

    True in a condition only for success. Equal to another status, a code, or a bool, by the code alone.
    Raises ValueError for a code that the table does not have.
    """

    StatusCode = StatusCode

    __slots__ = ("_code", "_message", "_wrapped")

    def __init__(
        self,
        code: Status | int | None = None,
        message: str = "",
        wrapped: Status | None = None,
    ) -> None:
        if code is None or code is True:
            self._code, self._wrapped = StatusCode.STATUS_SUCCESS, wrapped
        elif isinstance(code, Status):
            self._code, self._wrapped = code._code, code
        else:
            if code is False:
                code = 1
            if not 0 <= int(code) <= MAX_CODE:
                raise ValueError(f"there is no status code {int(code)}; codes are 0 to {MAX_CODE}")
            self._code, self._wrapped = StatusCode(int(code)), wrapped
        self._message = str(message)

    def code(self) -> Code:
        return self._code

    def str_code(self) -> str:
        """The code in words, e.g. `Bad config`."""
        return TEXT[self._code]

    def errormsg(self) -> str:
        return self._message

    def set_errormsg(self, message: str) -> None:
        self._message = message

    def unwrap(self) -> Status:
        """The cause; success where there is none."""
        return self._wrapped or Status()

    def wrap_errormsgs(self) -> str:
        """The chained form: the outermost code's text, then every message from the outside in."""
        messages: list[str] = []
        status: Status | None = self
        while status is not None:
            if status._message:
                messages.append(status._message)
            status = status._wrapped
        return f"{TEXT[self._code]}, {' -> '.join(messages)}" if messages else TEXT[self._code]

    def raise_failure(self) -> None:
        """Raises FlowError unless this is success."""
        if self._code != 0:
            raise FlowError(self)

    def __bool__(self) -> bool:
        return self._code == 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Status):
            return self._code == other._code
        if isinstance(other, bool):
            return bool(self) == other
        if isinstance(other, int):
            return int(self._code) == other
        return NotImplemented

    def __hash__(self) -> int:
        return hash(int(self._code))

    def __str__(self) -> str:
        text = TEXT[self._code]
        return f"code: {text}, errmsg: {self._message}" if self._message else text

    def __repr__(self) -> str:
        return f"Status({self._code.name}, {self._message!r})"


class FlowError(Exception):
    """A flow, a node or a call of the SDK failed. `status` says how, `node` where known says where."""

    def __init__(self, status: Status | StatusCode, message: str = "", node: str | None = None) -> None:
        self.status = status if isinstance(status, Status) and not message else Status(status, message)
        self.node = node
        super().__init__(self.status.wrap_errormsgs())
