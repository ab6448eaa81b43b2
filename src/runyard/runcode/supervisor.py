"""Starts the user's code, passes on what it writes, and ends it when a limit is reached."""

from __future__ import annotations

import codecs
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple

from runyard import report
from runyard.report import facade

#: Seconds between two pieces of output that are reported: at most ten a second.
PIECE_EVERY = 0.1
#: Characters of one piece.
MAX_PIECE = 50_000
#: Seconds between SIGTERM and SIGKILL.
GRACE = 2.0
#: Pictures that are shown; one message each.
MAX_PICTURES = 1000
#: K12AI's code for what is no exception of the user's (spec 2).
_OTHER = 100299
#: Pieces that are read in one go, of what may come without end: more than a pipe holds.
_TURN = 64
#: Bytes of one line of the control pipe: a picture.
_MAX_CONTROL = 2 * 1024 * 1024


class Limits(NamedTuple):
    """0 stands for none."""

    seconds: float = 0.0
    memory: int = 0
    """Bytes of address space."""
    output: int = 10 * 1024 * 1024
    """Bytes, of stdout and stderr together; the rest is left out."""
    network: bool = True


class Supervisor:
    """Runs one piece of code, once."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._room = limits.output or sys.maxsize
        self._full = False
        self._text: list[str] = []
        self._size = 0
        self._told_at = 0.0
        self._pictures = 0
        self._control = b""
        self._failure: dict[str, Any] | None = None
        self._alarm = -1
        self._stopped = False
        self._kill_at: float | None = None
        self._timed_out = False

    def run(self) -> int:
        """The exit code."""
        report.status("running")
        control, theirs = socket.socketpair()
        # A signal alone does not end the waiting for output.
        self._alarm, alarm = os.pipe()
        os.set_blocking(alarm, False)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        before = signal.signal(signal.SIGTERM, self._stop)
        try:
            child = self._start(theirs.fileno())
        finally:
            theirs.close()
        try:
            self._watch(child, control)
            code = child.wait()
        finally:
            self._end(child, signal.SIGKILL)
            signal.signal(signal.SIGTERM, before)
            signal.set_wakeup_fd(-1)
            control.close()
            os.close(self._alarm)
            os.close(alarm)
        self._tell_text()
        return self._tell_end(code)

    def _start(self, control: int) -> subprocess.Popen[bytes]:
        network = "yes" if self._limits.network else "no"
        words = [self._path, str(control), str(self._limits.memory), network]
        return subprocess.Popen(
            [sys.executable, "-m", "runyard.runcode.child", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[control],
            process_group=0,
        )

    def _watch(self, child: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Until the process has ended and all that it wrote is read; what it left behind in other processes may hold
        the pipes for as long as it likes."""
        assert child.stdout is not None and child.stderr is not None
        begin = time.monotonic()
        pidfd = os.pidfd_open(child.pid)
        decoders = {fd: codecs.getincrementaldecoder("utf-8")("replace") for fd in (1, 2)}
        with selectors.DefaultSelector() as waiting, child.stdout, child.stderr:
            outputs = {child.stdout.fileno(): 1, child.stderr.fileno(): 2}
            for fd in (*outputs, control.fileno(), self._alarm, pidfd):
                if fd != pidfd:
                    os.set_blocking(fd, False)
                waiting.register(fd, selectors.EVENT_READ)
            over = False
            while not over:
                ready = {key.fd for key, _ in waiting.select(self._patience(begin))}
                over = pidfd in ready
                if self._alarm in ready:
                    os.read(self._alarm, 1024)
                # Output first: what was written before a picture stands before it.
                for fd, number in outputs.items():
                    if (over or ready) and not self._pass_on(fd, number, decoders[number]) and fd in ready:
                        waiting.unregister(fd)
                told = control.fileno() in ready
                if (over or told) and not self._hear(control) and told:
                    waiting.unregister(control)
                self._keep_time(child, begin)
        os.close(pidfd)
        for decoder in decoders.values():
            # Half a character at the end.
            self._add(decoder.decode(b"", True))

    def _patience(self, begin: float) -> float | None:
        now = time.monotonic()
        due = [self._told_at + PIECE_EVERY] if self._text else []
        if self._kill_at is not None:
            due.append(self._kill_at)
        elif self._limits.seconds:
            due.append(begin + self._limits.seconds)
        return max(0.0, min(due) - now) if due else None

    def _keep_time(self, child: subprocess.Popen[bytes], begin: float) -> None:
        now = time.monotonic()
        if self._text and now >= self._told_at + PIECE_EVERY:
            self._tell_text()
        late = self._limits.seconds and now >= begin + self._limits.seconds
        if self._kill_at is None and (late or self._stopped):
            self._timed_out = not self._stopped
            self._kill_at = now + GRACE
            self._end(child, signal.SIGTERM)
        elif self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + GRACE
            self._end(child, signal.SIGKILL)

    def _end(self, child: subprocess.Popen[bytes], number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True

    # Output -------------------------------------------------------------------------------------------------------

    def _pass_on(self, fd: int, number: int, decoder: codecs.IncrementalDecoder) -> bool:
        """What is there now; False at the end of the pipe."""
        for _ in range(_TURN):
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                return False
            kept = data[: self._room]
            if kept:
                self._room -= len(kept)
                _write_all(number, kept)
                self._add(decoder.decode(kept))
            if len(kept) < len(data) and not self._full:
                self._full = True
                self._add(f"\n[the output limit of {self._limits.output} bytes was reached: the rest is left out]\n")
        return True

    def _add(self, text: str) -> None:
        self._text.append(text)
        self._size += len(text)
        if self._size >= MAX_PIECE and time.monotonic() >= self._told_at + PIECE_EVERY:
            self._tell_text()

    def _tell_text(self) -> None:
        text = "".join(self._text)
        self._text, self._size = [], 0
        self._told_at = time.monotonic()
        for start in range(0, len(text), MAX_PIECE):
            report.log(text[start : start + MAX_PIECE])

    # Control ------------------------------------------------------------------------------------------------------

    def _hear(self, control: socket.socket) -> bool:
        """Pictures and the error; False at the end of the pipe."""
        for _ in range(_TURN):
            try:
                data = control.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                return False
            if not data:
                return False
            *lines, self._control = (self._control + data).split(b"\n")
            self._control = self._control[-_MAX_CONTROL:]
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):
                    self._take(json.loads(line))
                with suppress(OSError):
                    control.send(b"\n")
        return True

    def _take(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._failure = message
        elif "notice" in message:
            report.info(str(message["notice"]), code="network")
        elif "imshow" in message:
            self._pictures += 1
            if self._pictures <= MAX_PICTURES:
                self._tell_text()
                facade.imshow(message["imshow"], message["format"])
            elif self._pictures == MAX_PICTURES + 1:
                self._add(f"[{MAX_PICTURES} pictures were shown: the others are left out]\n")

    # The end ------------------------------------------------------------------------------------------------------

    def _tell_end(self, code: int) -> int:
        if self._stopped:
            report.status("stopped")
            return 128 + signal.SIGTERM
        if self._timed_out:
            self._fail(_detail("TimeoutError", f"the time limit of {self._limits.seconds:g} s was reached"), _OTHER)
            return 124
        if self._failure is not None:
            self._fail(self._failure["error"], self._failure.get("code"))
            return code if code > 0 else 1
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            text = f"the program was ended by {name}" + (", perhaps for want of memory" if -code == 9 else "")
            self._fail(_detail("Killed", text), _OTHER)
            return 128 - code
        if code:
            self._fail(_detail("SystemExit", str(code)), _OTHER)
        else:
            report.finish()
        return code

    def _fail(self, detail: dict[str, Any], code: int | None) -> None:
        if not detail["traceback"]:
            # The process itself could not print it.
            print(f"{detail['exc_type']}: {detail['exc_text']}", file=sys.stderr)
        facade.failed(detail, code)


def _detail(kind: str, text: str) -> dict[str, Any]:
    return {"exc_type": kind, "exc_text": text, "traceback": []}


def _write_all(fd: int, data: bytes) -> None:
    with suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
