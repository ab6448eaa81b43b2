"""The calls of `runyard.report`. None of them raises: what is wrong with a report is told as a notice, and the
program goes on."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, ParamSpec, SupportsFloat

from runyard.report.channel import Channel

P = ParamSpec("P")

#: Notices about bad reports, for one process: a mistake in a loop must not flood.
MAX_NOTICES = 20
#: Characters of one piece of log.
MAX_LOG = 100_000
_channel: Channel | None = None
_notices = 0
_running_since: float | None = None


def _current() -> Channel:
    global _channel
    if _channel is None:
        _channel = Channel.from_environment()
    return _channel


def _forked() -> None:
    if _channel is not None:
        _channel.unlock()


os.register_at_fork(after_in_child=_forked)


def reset() -> None:
    """Looks at the environment again with the next report. For tests, and for hosts that run several programs."""
    global _channel, _notices, _running_since
    _channel, _notices, _running_since = None, 0, None


def _quiet(call: Callable[P, None]) -> Callable[P, None]:
    """Does nothing outside a job, and raises nothing inside."""

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if _current().active:
                call(*args, **kwargs)
        except Exception as error:
            _notice(call.__name__, error)

    return wrapped


def _notice(call: str, error: Exception) -> None:
    global _notices
    _notices += 1
    if _notices <= MAX_NOTICES:
        try:
            text = f"report.{call}: {type(error).__name__}: {error}"[:1000]
            _current().send("info", {"code": "bad_report", "text": text})
        except Exception:
            # There is nobody left to tell.
            return


def active() -> bool:
    """Whether somebody listens: False outside a job."""
    return _current().active


# Numbers and pictures --------------------------------------------------------------------------------------------


@_quiet
def metrics(
    values: Mapping[str, Any] | None = None,
    /,
    *,
    step: SupportsFloat | None = None,
    category: str | None = None,
    **more: Any,
) -> None:
    """Numbers by name, such as `metrics(loss=0.4, accuracy=0.9, step=120)`. `category` is `train`, `val`, …"""
    from runyard.report.plain import number

    body: dict[str, Any] = {"values": {str(name): number(value) for name, value in {**(values or {}), **more}.items()}}
    if step is not None:
        body["step"] = number(step)
    if category is not None:
        body["category"] = str(category)
    _current().send("metrics", body)


@_quiet
def scalar(title: str, value: Any, *, step: SupportsFloat | None = None, category: str = "train") -> None:
    """One point of the chart `<category>_<title>`. `value` is a number, or several curves: `{"train": …, "val": …}`."""
    from runyard.report.plain import number

    curves = value if isinstance(value, Mapping) else {title: value}
    payload = {
        "x": {"label": "step", "value": None if step is None else number(step)},
        "y": [{"label": str(label), "value": number(y)} for label, y in curves.items()],
    }
    _item("scalar", title, payload, step, category)


@_quiet
def image(title: str, picture: Any, *, step: SupportsFloat | None = None, category: str = "train") -> None:
    """A picture: an array (height x width, or with channels), an image of Pillow, a figure of matplotlib, a path, or
    the bytes of a PNG or JPEG. An SVG or an address may be given as text. A large one is made smaller."""
    from runyard.report.picture import encode

    payload, form = encode(picture)
    _item("image", title, payload, step, category, format=form)


@_quiet
def matrix(
    title: str, rows: Any, *, step: SupportsFloat | None = None, category: str = "train", labels: Any = None
) -> None:
    """Rows of numbers, such as a confusion matrix; `labels` names the classes."""
    from runyard.report import plain

    named = {} if labels is None else {"labels": [str(label) for label in plain.nested(labels)]}
    _item("matrix", title, plain.rows(rows), step, category, **named)


@_quiet
def text(title: str, value: Any, *, step: SupportsFloat | None = None, category: str = "train") -> None:
    """A text or number with a title: progress (0 to 100) in `progress`, time that is left in `remain_time`."""
    _item("text", title, str(value), step, category)


def _item(kind: str, title: str, payload: Any, step: SupportsFloat | None, category: str, **more: Any) -> None:
    from runyard.report.plain import number

    data = {"title": f"{category}_{title}", "payload": payload, **more}
    body: dict[str, Any] = {"items": [{"type": kind, "category": category, "data": data}]}
    if step is not None:
        body["step"] = number(step)
    _current().send("metrics", body)


# Words ------------------------------------------------------------------------------------------------------------


@_quiet
def log(line: Any) -> None:
    """A piece of text for whoever watches; what is printed is in the job's output anyway."""
    _current().send("log", {"log": str(line)[:MAX_LOG]})


@_quiet
def predict(index: int, prediction: Any) -> None:
    """What the model says about one item of the input."""
    import json

    from runyard.report.plain import jsonable

    given = prediction if isinstance(prediction, str) else json.dumps(jsonable(prediction), ensure_ascii=False)
    _current().send("predict", {"index": int(index), "prediction": given})


@_quiet
def info(text: str, **more: Any) -> None:
    """Something worth knowing."""
    from runyard.report.plain import jsonable

    _current().send("info", {**jsonable(more), "text": str(text)})


# How it goes ------------------------------------------------------------------------------------------------------


@_quiet
def status(value: str, **more: Any) -> None:
    """How it goes: `running`, `finished`, or a word of your own. Memory is told with it."""
    global _running_since
    from runyard.report.plain import jsonable
    from runyard.report.usage import memstat

    body = {**jsonable(more), "status": str(value), "memstat": memstat()}
    if value == "running":
        _running_since = time.monotonic()
    elif value == "finished" and _running_since is not None:
        body["uptime"] = int(time.monotonic() - _running_since)
    _current().send("status", body)


def finish(**more: Any) -> None:
    """All is done."""
    status("finished", **more)


@_quiet
def error(
    err_type: str,
    err_text: str = "",
    *,
    code: int | None = None,
    filename: str | None = None,
    linenum: int | None = None,
) -> None:
    """The program can't go on, for a reason that is no exception. `code` is one of K12AI's; the file and line are
    those of the caller unless they are given."""
    from runyard.report.failure import of_caller

    detail = {**of_caller(2), "exc_type": str(err_type), "exc_text": str(err_text)}
    if filename is not None:
        detail = {**detail, "filename": str(filename), "linenum": int(linenum or 0), "funcname": ""}
    _failed("error", detail, code)


@_quiet
def crash(exception: BaseException | None = None, *, code: int | None = None) -> None:
    """The program ends with this exception, or with the one that is being handled."""
    import sys

    from runyard.report.failure import of_exception

    caught = exception if exception is not None else sys.exc_info()[1]
    if caught is None:
        raise ValueError("there is no exception: call it where one is handled, or give one")
    _failed("crash", of_exception(caught), code)


@_quiet
def warn(message: str, **more: Any) -> None:
    """Something is wrong, and the program goes on."""
    from runyard.report.plain import jsonable

    _current().send("error", {**jsonable(more), "status": "warning", "message": str(message)})


@_quiet
def failed(detail: dict[str, Any], code: int | None) -> None:
    """For programs that run others: one has failed, for a reason that is drawn already (`report.failure`)."""
    _failed("crash", detail, code)


@_quiet
def imshow(payload: str, form: str) -> None:
    """For programs that run others: one shows a picture, encoded already (`report.picture`)."""
    _current().send("log", {"imshow": payload, "format": form})


def _failed(word: str, detail: dict[str, Any], code: int | None) -> None:
    body: dict[str, Any] = {"status": word, "message": detail["exc_text"] or detail["exc_type"], "detail": detail}
    if code is not None:
        body["code"] = int(code)
    _current().send("error", body)


class run:
    """Around a whole program: tells that it runs, and how it ended. SIGTERM ends it as stopped, after `finally` parts.

    Errors go on their way as without it.
    """

    def __init__(self, **more: Any) -> None:
        self._more = more
        self._before: Any = None
        self._pid = 0

    def __enter__(self) -> run:
        self._pid = os.getpid()
        if active():
            import signal
            import threading

            # Whoever handles SIGTERM already knows better what to do.
            main = threading.current_thread() is threading.main_thread()
            if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._before = signal.signal(signal.SIGTERM, _stop)
        status("running", **self._more)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, caught: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            # A child that was forked inside: the program is not over.
            return
        if self._before is not None:
            import signal

            signal.signal(signal.SIGTERM, self._before)
        if caught is None or (isinstance(caught, SystemExit) and caught.code in (None, 0)):
            finish()
        elif isinstance(caught, Stopped | KeyboardInterrupt):
            status("stopped")
        else:
            crash(caught)


class Stopped(SystemExit):
    """SIGTERM has come: the program ends as one that was ended by the signal."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(128 + number)
