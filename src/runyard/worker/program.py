"""A target in a process of its own: a script, a plain function, or a coroutine function that needs limits or an account
that a shared process can't give."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from runyard.worker.context import Context, call, load, run_script, thread_stop, trimmed
from runyard.worker.evaldata import eval_data
from runyard.worker.target import NoTarget, find


def main(words: list[str]) -> None:
    """`words`: the stop signal, the grace (seconds), the target, its arguments."""
    number, grace, text, *args = words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Who follows the output wants lines as they come, not full buffers.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    show = sys.excepthook
    sys.excepthook = lambda kind, error, trace: show(kind, error.with_traceback(trimmed(trace)), None)
    try:
        target = find(text, os.getcwd(), os.environ)
    except NoTarget as error:
        sys.exit(str(error))
    sys.path[:0] = [folder for folder in target.search if folder not in sys.path]
    sys.argv = [target.path, *args]
    data = os.environ["EVAL_DATA"] = eval_data(os.environ)
    if target.function is None:
        run_script(target.path, data)
        return
    name = os.path.basename(target.path).removesuffix(".py")
    module = load(target.path, f"{target.package}.{name}" if target.package else name, target.package, data)
    context = Context(os.environ, args, os.getcwd(), sys.stderr, _stop)
    result = call(module, target.function, context)
    if inspect.isawaitable(result) and not asyncio.run(_attend(result, context, int(number), float(grace))):
        # To whoever waits for this process it ended by the signal that it was told to end by.
        signal.signal(int(number), signal.SIG_DFL)
        os.kill(os.getpid(), int(number))


def _stop() -> Any:
    return asyncio.Event() if asyncio._get_running_loop() is not None else thread_stop()


async def _attend(result: Any, context: Context, number: int, grace: float) -> bool:
    """False if it was cancelled because the stop signal came."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(result)
    asked = False

    def ask() -> None:
        nonlocal asked
        asked = True
        if context.looks_at_stop and isinstance(context.stop, asyncio.Event):
            context.stop.set()
            loop.call_later(grace / 2, task.cancel)
        else:
            task.cancel()

    with suppress(OSError, ValueError, RuntimeError):  # SIGKILL and SIGSTOP can't be handled
        loop.add_signal_handler(number, ask)
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            raise
        return False
    return True
