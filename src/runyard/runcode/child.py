"""The process in which the user's code runs: `child.py CODE CONTROL MEMORY NETWORK`. For the supervisor."""

from __future__ import annotations

import io
import json
import linecache
import os
import signal
import socket
import sys
import threading
import types
from contextlib import suppress
from typing import Any

from runyard.report import failure, picture
from runyard.runcode import PSEUDO_FILE, limits, pictures

#: Seconds for the supervisor to take a message.
PATIENCE = 30.0


class Control:
    """Tells the supervisor what is no output."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._socket.settimeout(PATIENCE)
        self._mutex = threading.Lock()

    def say(self, **message: Any) -> None:
        for stream in (sys.stdout, sys.stderr):
            # The user may have closed it, or put something else in its place.
            with suppress(Exception):
                stream.flush()
        data = json.dumps(message).encode() + b"\n"
        # This as well: whoever closes every descriptor that there is.
        with self._mutex, suppress(OSError):
            self._socket.sendall(data)
            # What is printed from now on comes after it.
            self._socket.recv(1)

    def show(self, shown: Any) -> None:
        payload, form = picture.encode(shown)
        self.say(imshow=payload, format=form)


def main(argv: list[str]) -> int:
    path, control_fd, memory, network = argv
    limits.end_with_parent(signal.SIGKILL)
    control = Control(int(control_fd))
    if network == "no" and (problem := limits.leave_network()) is not None:
        control.say(notice=problem)
    with open(path, "rb") as file:
        source = file.read()
    for stream in (sys.stdout, sys.stderr):
        # What is printed shall be seen at once, and never fail for a character.
        stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")  # type: ignore[union-attr]
    pictures.install(control.show)
    lines = io.StringIO(source.decode("utf-8-sig", "replace")).readlines()
    linecache.cache[PSEUDO_FILE] = (len(source), None, lines, PSEUDO_FILE)
    sys.argv = [PSEUDO_FILE]
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = PSEUDO_FILE
    sys.modules["__main__"] = module
    if int(memory):
        limits.limit_memory(int(memory))
    return _run(source, module.__dict__, control)


def _run(source: bytes, namespace: dict[str, Any], control: Control) -> int:
    try:
        exec(compile(source, PSEUDO_FILE, "exec", dont_inherit=True), namespace)
    except SystemExit as end:
        if end.code in (None, 0):
            return 0
        detail = failure.of_exception(end, frozenset({PSEUDO_FILE}))
        control.say(error=detail, code=100299)
        if not isinstance(end.code, int):
            _complain(str(end.code))
            return 1
        return end.code & 0xFF
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        detail = failure.of_exception(error, frozenset({PSEUDO_FILE}))
        _complain(_traceback(detail))
        control.say(error=detail)
        return 1
    return 0


def _complain(text: str) -> None:
    with suppress(Exception):
        print(text, file=sys.stderr)


def _traceback(detail: dict[str, Any]) -> str:
    """As Python prints it, with the user's lines only."""
    lines = ["Traceback (most recent call last):"]
    for frame in detail["traceback"]:
        where = f", in {frame['funcname']}" if frame["funcname"] else ""
        lines.append(f'  File "{frame["filename"]}", line {frame["linenum"]}{where}')
        if frame["source"]:
            lines.append(f"    {frame['source']}")
    return "\n".join([*lines, f"{detail['exc_type']}: {detail['exc_text']}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
