"""`@member`: a Python function, or a class with `start` and perhaps `stop` and `status`, as a member."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from runyard.member.server import MemberServer
from runyard.member.service import MemberService, Options, Work
from runyard.member.task import Task
from runyard.model.errors import InvalidInput
from runyard.project.container import canonical, known


class Member:
    """One member of a project. `run` serves until SIGTERM or SIGINT; `start` and `close` do so beside other code."""

    def __init__(self, name: str, work: Work, *, port: int | None, host: str, options: Options) -> None:
        self.name = canonical(name) or name
        self.work = work
        self._port = port if port is not None else known(self.name).port
        self._host = host
        self._options = options
        self._running: tuple[MemberService, MemberServer] | None = None
        if port is None and not self._port:
            raise InvalidInput(f"port: {self.name} has none in the protocol's port map, so give one")

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        assert self._running is not None, "it does not listen yet"
        return self._running[1].url

    def start(self) -> Self:
        """Listens and answers, in threads. Raises ConfigError, Conflict or InvalidInput if it can't."""
        service = MemberService(self.name, self.work, self._options)
        server = MemberServer(service, self._host, self._port)
        try:
            service.open(server.port)
        except BaseException:
            server.close()
            raise
        server.start()
        self._running = service, server
        return self

    def close(self, patience: float | None = None) -> None:
        """Stops its tasks, tells the project manager, and frees the port; at most so many seconds for each task and for
        the manager, by default a little longer than a program's grace."""
        if patience is None:
            patience = getattr(self.work, "grace", 5.0) + 5.0
        if self._running is not None:
            service, server = self._running
            self._running = None
            service.close(patience)
            server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(
        self, *, port: int | None = None, host: str | None = None, pm: str | None = None, shared: Path | None = None
    ) -> None:
        """Serves until SIGTERM or SIGINT. What is given replaces what the decorator says. From the main thread."""
        if port is not None:
            self._port = port
        if host is not None:
            self._host = host
        given = {name: value for name, value in (("pm", pm), ("shared", shared)) if value is not None}
        self._options = msgspec.structs.replace(self._options, **given)
        end = threading.Event()
        before = [(number, signal.signal(number, lambda *_: end.set())) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            with self:
                assert self._running is not None
                print(
                    f"{self.name} is listening on {self.url}, and reports to {self._running[0].manager.url}", flush=True
                )
                end.wait()
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def __call__(self, task: Task) -> None:
        """The work itself, as a plain call: for tests of it."""
        self.work.start(task)


def member(
    name: str,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    pm: str | None = None,
    shared: str | Path | None = None,
    **more: Any,
) -> Callable[[Any], Member]:
    """Makes a member of a function that takes a `Task`, or of a class without parameters: its `start` does the task, in
    a thread; its `stop` is called beside it when it shall end; its `status` says one of the document's words, or None.

    Returning is success, an exception failure, `Stopped` neither. `port` defaults to the container's in the port map; 0
    takes any. In a container give `host="0.0.0.0"`. `more` are fields of `Options`. Raises InvalidInput.
    """
    try:
        options = Options(pm=pm, shared=Path(shared) if shared is not None else None, **more)
    except TypeError as error:
        raise InvalidInput(f"member: {error}") from None

    def decorate(code: Any) -> Member:
        work = _Parts(code()) if isinstance(code, type) else _Parts(code)
        return Member(name, work, port=port, host=host, options=options)

    return decorate


class _Parts:
    """The work that a function or an object has."""

    def __init__(self, code: Any) -> None:
        start = getattr(code, "start", code)
        if not callable(start):
            raise InvalidInput(f"{type(code).__name__} has no method `start(task)`: it does the member's work")
        self.start: Callable[[Task], Any] = start
        self._stop = getattr(code, "stop", None)
        self._status = getattr(code, "status", None)

    def stop(self, task: Task) -> None:
        if self._stop is not None:
            self._stop(task)

    def status(self, task: Task) -> str | None:
        return None if self._status is None else self._status(task)
