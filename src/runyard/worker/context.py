"""What a target gets: `ctx`, and the module around it."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import importlib.util
import inspect
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import CodeType, ModuleType, TracebackType
from typing import Any

from runyard.worker.evaldata import eval_data, parse

_HERE = os.path.dirname(os.path.abspath(__file__))
#: Frames of these, at the outer end of a traceback, say nothing about the user's code.
_OURS = (_HERE, os.path.dirname(os.path.abspath(asyncio.__file__)), "<frozen importlib")


class Context:
    """A run, as its own code sees it: the parameter `ctx` of the target."""

    def __init__(self, env: Mapping[str, str], args: list[str], cwd: str, stderr: Any, stop: Callable[[], Any]) -> None:
        """`stop` makes the event of `ctx.stop`, on the first look."""
        self.env = dict(env)
        """The run's variables. In a shared process `os.environ` has none of them."""
        self.args = args
        """What follows the target in the command."""
        self.cwd = cwd
        """The run's folder. In a shared process it is not the current folder."""
        self.eval_data = eval_data(env)
        """JSON text: `conf` and `alias`."""
        self.conf, self.alias = parse(self.eval_data, env)
        self.log = logging.Logger(self.alias, logging.DEBUG)
        """Writes into the run's stderr file."""
        handler = logging.StreamHandler(stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.log.addHandler(handler)
        self._make_stop = stop
        self._stop: Any = None

    @property
    def stop(self) -> Any:
        """An event (`asyncio.Event` in a coroutine, `threading.Event` in a function) that is set when the run is to
        end. Who looks at it gets half of the grace time to end by itself."""
        if self._stop is None:
            self._stop = self._make_stop()
        return self._stop

    @property
    def looks_at_stop(self) -> bool:
        return self._stop is not None


def thread_stop() -> threading.Event:
    """An event that SIGTERM and SIGINT set, in place of ending the process."""
    event = threading.Event()
    with suppress(ValueError):  # signals can be handled in the main thread only
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: event.set())
    return event


def load(path: str, name: str, package: str, data: str) -> ModuleType:
    """Execute a source file as a module of its own, with `EVAL_DATA` among its globals. Raises whatever it raises."""
    if package:
        importlib.import_module(package)
    module = ModuleType(name)
    module.__file__ = path
    module.__package__ = package
    module.__spec__ = importlib.util.spec_from_file_location(name, path)
    module.__loader__ = module.__spec__.loader if module.__spec__ is not None else None
    sys.modules[name] = module
    _execute(module, path, data)
    return module


def run_script(path: str, data: str) -> None:
    """Execute a source file as `__main__`. Raises whatever it raises."""
    module = ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    _execute(module, path, data)


def _execute(module: ModuleType, path: str, data: str) -> None:
    module.__dict__.update(__builtins__=builtins, EVAL_DATA=data)
    with open(path, "rb") as file:
        code: CodeType = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)


def call(module: ModuleType, function: str, context: Context) -> Any:
    """Call the function, with `ctx` if its first parameter asks for a value or is named so. A coroutine comes back as
    one. Raises whatever the call raises."""
    target = getattr(module, function)
    try:
        first = next(iter(inspect.signature(target).parameters.values()), None)
    except (TypeError, ValueError):
        first = None
    if first is None or first.kind in (first.VAR_POSITIONAL, first.VAR_KEYWORD, first.KEYWORD_ONLY):
        return target()
    return target(context) if first.default is first.empty or first.name in ("ctx", "context") else target()


def describe(error: BaseException) -> str:
    """The last line of the traceback, for people."""
    text = "".join(traceback.format_exception_only(error)).strip()
    return (text.splitlines() or [type(error).__name__])[-1][:500]


def trimmed(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the user's code on."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OURS):
        inner = inner.tb_next
    return inner or trace


def exit_code(error: SystemExit) -> tuple[int, str | None]:
    """The code of `sys.exit(…)`, and the text if it was given one."""
    if error.code is None:
        return 0, None
    if isinstance(error.code, int):
        return error.code & 0xFF, None
    return 1, str(error.code)
