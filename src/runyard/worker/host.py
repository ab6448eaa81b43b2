"""A host: the process that coroutines from one folder share. All of them run on one event loop, in its main thread.

A second thread listens to the keeper, so that it can say who is to blame when the loop does not turn. A host dies with
its keeper.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import faulthandler
import functools
import inspect
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from runyard.model.ids import RunKey
from runyard.model.wire import Frames
from runyard.worker.context import Context, call, describe, exit_code, load, trimmed
from runyard.worker.message import Asked, Began, Blocked, Cancel, Ended, FromHost, Start, decode_to_host, encode
from runyard.worker.output import Output, Routed

#: Seconds that the loop may take to come round to a `Cancel` before somebody is named for it.
PATIENCE = 0.3
_PR_SET_PDEATHSIG = 1

_current: contextvars.ContextVar[Activity] = contextvars.ContextVar("run")


class Activity:
    """One run: its coroutine, and every task that it has started."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.out = Output(start.stdout)
        self.err = self.out if start.stderr == start.stdout else Output(start.stderr)
        self.context = Context(start.env, start.args, start.cwd, self.err, asyncio.Event)
        stem = os.path.basename(start.path).removesuffix(".py")
        name = f"{stem}__run_{'_'.join(map(str, start.run))}"
        self.module = f"{start.package}.{name}" if start.package else name
        """Each run has a fresh copy of the module, and so globals of its own."""
        self.main: asyncio.Task[None]
        self.tasks: set[asyncio.Task[Any]] = set()
        self.signal: int | None = None
        """It was told to end."""
        self.quit: BaseException | None = None
        """A task of it has called `sys.exit`."""

    async def perform(self, begun: Callable[[], None]) -> None:
        start = self.start
        begun()
        module = load(start.path, self.module, start.package, self.context.eval_data)
        result = call(module, start.function, self.context)
        if inspect.isawaitable(result):
            await result

    def ask(self, message: Cancel) -> None:
        self.signal = message.signal
        if message.after and self.context.looks_at_stop:
            self.context.stop.set()
            asyncio.get_running_loop().call_later(message.after, self.cancel)
        else:
            self.cancel()

    def cancel(self) -> None:
        for task in [self.main] if not self.main.done() else list(self.tasks):
            task.cancel()

    def close(self) -> None:
        sys.modules.pop(self.module, None)
        for stream in (self.out, self.err):
            with suppress(OSError):
                stream.close()


class _Loop(asyncio.SelectorEventLoop):
    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """As it is, but threads write where their run writes."""
        if executor is None or isinstance(executor, ThreadPoolExecutor):
            return super().run_in_executor(executor, contextvars.copy_context().run, func, *args)
        return super().run_in_executor(executor, func, *args)


class Host:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._runs: dict[RunKey, Activity] = {}
        self._watched: dict[RunKey, float] = {}
        """Runs for whose `Cancel` the loop is awaited, with the time to complain."""
        self._thread = threading.get_ident()
        self._overseers: set[asyncio.Task[None]] = set()
        self._loop = _Loop()
        asyncio.set_event_loop(self._loop)
        self._loop.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def serve(self) -> None:
        threading.Thread(target=self._listen, name="keeper", daemon=True).start()
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # asyncio lets these out of the loop; here they are the business of one run.
                self._quit(error)

    def _say(self, message: FromHost) -> None:
        with self._sending, suppress(OSError):
            self._sock.sendall(encode(message))

    # The listening thread -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        frames = Frames()
        while True:
            now = time.monotonic()
            waits = [due - now for due in list(self._watched.values())]
            if not select.select([self._sock], [], [], max(0.0, min(waits)) if waits else None)[0]:
                self._complain()
                continue
            data = self._sock.recv(1 << 18)
            if not data:
                os._exit(0)
            for body in frames.feed(data):
                message = decode_to_host(body)
                if isinstance(message, Cancel):
                    self._watched[message.run] = time.monotonic() + PATIENCE
                    self._loop.call_soon_threadsafe(self._cancel, message)
                else:
                    self._loop.call_soon_threadsafe(self._start, message)

    def _complain(self) -> None:
        now = time.monotonic()
        late = [key for key, due in list(self._watched.items()) if due <= now]
        if not late:
            return
        for key in late:
            self._watched.pop(key, None)
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread)
        culprit = next(
            (run.start.run for run in list(self._runs.values()) if task is not None and task in run.tasks), None
        )
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}" if frame is not None else "?"
        self._say(Blocked(culprit, _sendable(where)))

    # On the loop --------------------------------------------------------------------------------------------------

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        context = options.get("context")
        run = _current.get(None) if context is None else context.get(_current)
        if run is not None:
            run.tasks.add(task)
            task.add_done_callback(run.tasks.discard)
        return task

    def _start(self, message: Start) -> None:
        try:
            run = Activity(message)
            run.out.file()
        except (OSError, ValueError) as error:
            self._say(Ended(message.run, time.time(), None, None, f"can't be started: {error}"))
            return
        self._runs[message.run] = run
        context = contextvars.copy_context()
        context.run(_current.set, run)
        begun = functools.partial(self._say, Began(message.run))
        run.main = self._loop.create_task(run.perform(begun), context=context)
        overseer = self._loop.create_task(self._oversee(run))
        self._overseers.add(overseer)
        overseer.add_done_callback(self._overseers.discard)

    def _cancel(self, message: Cancel) -> None:
        self._watched.pop(message.run, None)
        run = self._runs.get(message.run)
        if run is not None:
            run.ask(message)
            self._say(Asked(message.run))

    async def _oversee(self, run: Activity) -> None:
        await asyncio.wait([run.main])
        while left := [task for task in run.tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
        try:
            code, number, reason = self._outcome(run)
        except Exception as failure:
            # Such as a `__str__` that raises.
            code, number, reason = 1, None, f"how it ended can't be told: {type(failure).__name__}"
        run.close()
        del self._runs[run.start.run]
        self._say(Ended(run.start.run, time.time(), code, number, reason and _sendable(reason)))

    def _outcome(self, run: Activity) -> tuple[int | None, int | None, str | None]:
        """Exit code, signal and reason; the traceback goes to the run's output."""
        error: BaseException | None = run.quit
        if error is None:
            if run.main.cancelled():
                if run.signal is not None:
                    return None, run.signal, None
                return 1, None, "CancelledError: it was cancelled by its own code, not by a stop"
            error = run.main.exception()
        if error is None:
            return 0, None, None
        with suppress(OSError, ValueError):
            if isinstance(error, SystemExit):
                code, text = exit_code(error)
                if text is not None:
                    run.err.write(text + "\n")
                return code, None, text and text.splitlines()[-1][:500]
            error.__traceback__ = trimmed(error.__traceback__)
            traceback.print_exception(error, file=run.err)
        return 1, None, describe(error)

    def _quit(self, error: BaseException) -> None:
        """A task has raised SystemExit: if it is not the run's own coroutine, that one is to end too."""
        for run in self._runs.values():
            for task in run.tasks:
                if task.done() and not task.cancelled() and task.exception() is error and task is not run.main:
                    run.quit = error
                    run.main.cancel()
                    return


def _sendable(text: str) -> str:
    """Without lone surrogates, which names of files may bring in."""
    return text.encode(errors="backslashreplace").decode()


def _stream(name: str, own: Any) -> Any:
    def choose() -> Any:
        run = _current.get(None)
        if run is None:
            return own
        stream = getattr(run, name)
        # A thread may outlive the run that has started it.
        return own if stream.closed else stream

    return Routed(choose)


def main(words: list[str]) -> None:
    """`words`: the descriptor of the socket, the keeper's pid, the folders of `sys.path` that come first."""
    fd, keeper, *search = words
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(keeper):
        os._exit(0)
    faulthandler.enable()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sock = socket.socket(fileno=int(fd))
    sock.set_inheritable(False)
    sys.path[:0] = [folder for folder in search if folder not in sys.path]
    sys.argv = [""]
    for name in ("RUNYARD_JOB_ID", "RUNYARD_REPLICA", "RUNYARD_ATTEMPT"):
        os.environ.pop(name, None)
    sys.stdout, sys.stderr = _stream("out", sys.stdout), _stream("err", sys.stderr)
    Host(sock).serve()
