"""The agent: one thread, one epoll. This is its loop and its connections; `runs` is what it is for.

A turn: take what has arrived, let the runs go on (spawn, deadlines, journal), report.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket

import msgspec

from runyard.agent import process
from runyard.agent.link import Link
from runyard.agent.log import Log
from runyard.agent.run import FOREVER
from runyard.agent.runs import Runs
from runyard.model import wire

#: Reports in a frame.
CHUNK = 2000


class Agent:
    def __init__(self, runs: Runs, epoll: select.epoll, log: Log, idle_exit: float) -> None:
        """`idle_exit`: seconds without run, report and connection after which the agent ends."""
        self._runs, self._epoll, self._log, self._idle_exit = runs, epoll, log, idle_exit
        self._links: dict[int, Link] = {}
        self._listeners: dict[int, tuple[socket.socket, bool]] = {}
        self._current: Link | None = None
        self._idle_since = process.uptime()
        self._draining = self._leaving = False
        self._wakeup = -1

    def listen(self, listener: socket.socket, control: bool) -> None:
        """`control`: its connections ask and command, besides the one executor."""
        listener.setblocking(False)
        self._listeners[listener.fileno()] = listener, control
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    def leave_on_signals(self) -> None:
        """SIGTERM and SIGINT end the agent and leave its runs: the next agent adopts them."""
        self._wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        self._epoll.register(self._wakeup, select.EPOLLIN)

    def _leave(self, number: int, _frame: object) -> None:
        self._log.info(f"{signal.Signals(number).name}: leaving, with {self._runs.live} runs up")
        self._leaving = True

    def serve(self) -> None:
        """Serve until told to end, or until idle for long enough."""
        gc.collect()
        gc.freeze()
        while not self._leaving:
            self._turn()
        self._runs.journal.flush()
        for link in list(self._links.values()):
            self._say(link, wire.Farewell())
            if link.fd in self._links:
                link.close(patience=1.0)

    def _turn(self) -> None:
        runs = self._runs
        watched = runs.watched
        for fd, mask in self._epoll.poll(self._timeout(), 256):
            run = watched.get(fd)
            if run is not None:
                runs.ready(run, mask)
            elif (link := self._links.get(fd)) is not None:
                self._receive(link, mask)
            elif fd in self._listeners:
                self._accept(*self._listeners[fd])
            elif fd == runs.warm.fd:
                runs.hear_warm()
            elif fd == self._wakeup:
                os.read(fd, 4096)
        runs.turn()
        self._pump()
        if self._busy:
            self._idle_since = process.uptime()
        elif process.uptime() - self._idle_since >= self._idle_exit:
            self._log.info(f"nothing to do for {self._idle_exit:g} s: leaving")
            self._leaving = True
        if self._draining and runs.at_rest:
            self._leaving = True

    @property
    def _busy(self) -> bool:
        return bool(not self._runs.at_rest or self._runs.reports or self._links)

    def _timeout(self) -> float:
        until = self._runs.due
        if self._leaving or until == 0.0:
            return 0.0
        now = process.uptime()
        if not self._busy:
            until = min(until, self._idle_since + self._idle_exit)
        if self._runs.journal.behind:
            until = min(until, now + 1.0)
        return -1.0 if until >= FOREVER else max(0.0, min(until - now + 0.001, 86_400.0))

    def _accept(self, listener: socket.socket, control: bool) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        link = Link(sock, self._epoll, control)
        if link.uid not in (0, os.geteuid()):
            self._log.warning(f"refused a connection of uid {link.uid}")
            link.close()
            return
        self._links[link.fd] = link
        if not control:
            if self._current is not None:
                self._hang_up(self._current)
            self._current = link
        self._say(
            link,
            wire.Hello(
                protocol=wire.PROTOCOL,
                pid=os.getpid(),
                boot_id=self._runs.boot_id,
                hostname=socket.gethostname(),
                cores=sorted(os.sched_getaffinity(0)),
                memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
                live=self._runs.keys,
                unacked=len(self._runs.reports),
            ),
        )

    def _hang_up(self, link: Link) -> None:
        if self._links.pop(link.fd, None) is not None:
            link.close()
        if link is self._current:
            self._current = None

    def _say(self, link: Link, message: wire.FromAgent) -> None:
        try:
            link.send([message])
        except OSError:
            self._hang_up(link)

    def _receive(self, link: Link, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT:
                link.flush()
            frames = link.receive() if mask & ~select.EPOLLOUT else []
        except (EOFError, OSError):
            self._hang_up(link)
            return
        except (ValueError, msgspec.DecodeError) as error:
            self._log.warning(f"a connection is closed because of a bad frame: {error}")
            self._hang_up(link)
            return
        for messages in frames:
            self._obey(link, messages)

    def _obey(self, link: Link, messages: list[wire.ToAgent]) -> None:
        runs = self._runs
        launches: list[wire.Launch] = []
        for message in messages:
            if type(message) is wire.Launch:
                # While ending, launches are lost like those of a lost frame: nothing has been promised.
                if not self._draining and not link.control:
                    launches.append(message)
                continue
            if launches:
                runs.launch(launches)
                launches = []
            if type(message) is wire.Shutdown:
                self._shut_down(link, message.kill)
            elif link.control:
                continue
            elif type(message) is wire.Stop:
                runs.stop(message.run, message.signal, message.grace)
            elif type(message) is wire.Signal:
                runs.signal(message.run, message.signal)
            elif type(message) is wire.Ack:
                count = runs.forget(message.upto)
                link.cursor = max(0, link.cursor - count)
        if launches:
            runs.launch(launches)

    def _pump(self) -> None:
        link, reports = self._current, self._runs.reports
        while link is not None and not link.out and link.cursor < len(reports):
            chunk = reports[link.cursor : link.cursor + CHUNK]
            link.cursor += len(chunk)
            try:
                link.send(chunk)
            except OSError:
                self._hang_up(link)
                return

    def _shut_down(self, link: Link, kill: bool) -> None:
        live = self._runs.live
        if live and not kill:
            self._say(link, wire.Farewell(refused=f"{live} runs are up: stop them first, or ask to kill them"))
            return
        self._log.info(f"asked to end, with {live} runs up")
        self._draining = True
        self._runs.stop_all("the agent was shut down")
