"""Threads around the machine: few while calls are short, more as soon as a call takes long.

One lock guards the machine. A worker takes the runnable node nearest to the sinks, calls its unit without the lock,
and puts the results back. Calls that are over in no time would only be slowed down by more threads (they take turns
at Python's interpreter lock), so another worker is woken only while every awake one is inside a long call; a watchdog
sees to calls that turn out long against expectation.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from runyard.flow.runtime.call import run, trimmed
from runyard.flow.runtime.lane import Call, Lane, Session
from runyard.flow.runtime.machine import Machine
from runyard.flow.runtime.node import Node
from runyard.flow.status import Status, StatusCode

LONG = 0.0005
"""Seconds of a call on average, from which a node counts as slow."""
WATCH = 0.01
"""Seconds between two looks of the watchdog while the flow is at work."""
BUCKETS_PER_OCTAVE = 4
"""Resolution of the latency histogram: a bucket is this fraction of a doubling."""


class Scheduler:
    """Runs one machine with at most `threads` worker threads. They are daemons: a unit that never returns can't keep
    the process alive.

    `on_error(node, error)` is told of every failed call, `trace(call)` of every call; both from the workers, the latter
    with the lock held.
    """

    def __init__(self, machine: Machine, threads: int) -> None:
        self.machine = machine
        self.threads = max(1, threads)
        self.lock = threading.Lock()
        self.room = threading.Condition(self.lock)
        self.over = threading.Event()
        self.on_error: Callable[[Node, tuple[str, str]], None] | None = None
        self.trace: Callable[[Call], None] | None = None
        self.result: Status | None = None
        machine.lock = self.lock
        machine.changed = self.changed
        self._workers: list[threading.Thread] = []
        self._sleepers: list[Any] = []
        self._awake = 0
        # One too many until `start`, so that nothing that comes in wakes a worker.
        self._quick = 1
        self._picks = 0
        self.abandoned: deque[Lane] = deque()
        self._stopping = False
        # What is put here wakes the watchdog. Unlike a lock or an event, it may be used by the garbage collector.
        self._look: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._watch_idle = True
        self._watchdog: threading.Thread | None = None
        self._running: dict[int, tuple[Node, float]] = {}

    def start(self) -> None:
        """Begins to run whatever is in the machine. Once: a second call does nothing."""
        with self.lock:
            if self._watchdog is not None:
                return
            self._watchdog = threading.Thread(target=self._watch, name="flow-watchdog", daemon=True)
            self._watchdog.start()
            self._quick -= 1
            self.changed()

    # -- waking ----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """After something came in from outside. The lock is held."""
        if self.abandoned:
            self._close_abandoned()
        if self._quick == 0 and self._anything():
            self._wake()

    def _anything(self) -> bool:
        """Whether there is something for a worker to do."""
        machine = self.machine
        return bool(machine.mask or machine.fault or machine.ended or machine.freed or self.abandoned)

    def _wake(self) -> None:
        if self._sleepers:
            sleeper = self._sleepers.pop()
            self._awake += 1
            self._quick += 1
            sleeper.release()
        elif len(self._workers) < self.threads and not self._stopping:
            worker = threading.Thread(target=self._work, name=f"flow-{len(self._workers)}", daemon=True)
            # Where the system gives no more threads, those that there are do the work; the watchdog tries again.
            with suppress(RuntimeError):
                worker.start()
                self._workers.append(worker)
                self._awake += 1
                self._quick += 1
        if self._watch_idle:
            self._watch_idle = False
            self._look.put(None)

    def _watch(self) -> None:
        seen = -1
        while True:
            self._look.get()
            while True:
                time.sleep(WATCH)
                with self.lock:
                    if self._stopping:
                        return
                    if self._awake == 0 and not self._nudge():
                        self._watch_idle = True
                        break
                    if self._picks == seen and self._anything():
                        self._wake()
                    seen = self._picks

    def _nudge(self) -> bool:
        """Nobody is awake: whether there is work all the same."""
        if self._anything() or self.machine.unblock():
            self._wake()
            return True
        return False

    # -- working ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        machine = self.machine
        by_rank = machine.by_rank
        lock = self.lock
        mine = threading.Lock()
        mine.acquire()
        me = threading.get_ident()
        lock.acquire()
        try:
            while True:
                if machine.ended or machine.freed or self.abandoned:
                    self._tell()
                if machine.fault is not None:
                    self._ended(machine.fault)
                if self._stopping:
                    return
                mask = machine.mask
                if not mask:
                    if self._awake == 1 and machine.unblock():
                        continue
                    self._awake -= 1
                    self._quick -= 1
                    self._sleepers.append(mine)
                    lock.release()
                    mine.acquire()
                    lock.acquire()
                    continue
                node = by_rank[(mask & -mask).bit_length() - 1]
                self._picks += 1
                call = node.take()
                if call is None:
                    continue
                node.running += 1
                slow = node.slow
                if slow:
                    self._quick -= 1
                    if self._quick == 0 and machine.mask:
                        self._wake()
                self._running[me] = (node, 0.0)
                lock.release()
                try:
                    run(call)
                    if call.error is not None and self.on_error is not None:
                        self.on_error(node, call.error)
                finally:
                    lock.acquire()
                if slow:
                    self._quick += 1
                node.running -= 1
                self._count(node, call)
                if not self._stopping:
                    machine.finish(call)
        except Exception as error:
            # A fault of the runtime's own: without its worker the flow would stand still and not say why.
            status = Status(StatusCode.STATUS_INTERNAL, trimmed(error))
            machine.fail(status)
            self._ended(machine.fault or status)
        finally:
            self._running.pop(me, None)
            self._awake -= 1
            self._quick -= 1
            lock.release()

    def _count(self, node: Node, call: Call) -> None:
        seconds = call.seconds
        node.calls += 1
        node.rows_in += call.rows
        node.seconds += seconds
        for tokens in call.outputs:
            node.rows_out += len(tokens)
        node.average += (seconds - node.average) * (0.2 if node.calls > 5 else 0.5)
        node.slow = node.average > LONG
        # The exponent and the first bits of the mantissa: a logarithm without computing one.
        bucket = (int(seconds * 4e6) | 4).bit_length()
        key = (bucket - 3) * BUCKETS_PER_OCTAVE + ((int(seconds * 4e6) | 4) >> (bucket - 3) & 3)
        node.latency[key] = node.latency.get(key, 0) + 1
        if call.error is not None:
            node.errors += call.rows or 1
            if not node.outs:
                for lane in [call.lane] if call.lane is not None else [part.lane for part in call.parts]:
                    lane.session.context.last_error = call.error
        elif call.stop is not None and not call.stop.errormsg():
            call.stop.set_errormsg(f"node {node.name!r} stopped the flow")
        if self.trace is not None:
            self.trace(call)

    def _tell(self) -> None:
        """Wakes senders and calls the functions of sessions that have ended. The lock is held, and let go meanwhile."""
        machine = self.machine
        if self.abandoned:
            self._close_abandoned()
        if machine.freed:
            machine.freed = False
            self.room.notify_all()
        if machine.ended:
            ended, machine.ended = machine.ended, []
            self.lock.release()
            try:
                finish_sessions(ended)
            finally:
                self.lock.acquire()

    def shut_down(self, session: Session) -> None:
        """Ends a session: see `Machine.shut_down`."""
        with self.lock:
            self.machine.shut_down(session)
            self.changed()

    def abandon(self, lane: Lane) -> None:
        """Closes a session whose way in was dropped without being closed.

        Called by the garbage collector, perhaps in a thread that holds the lock: then the watchdog sees to it.
        """
        self.abandoned.append(lane)
        if self.lock.acquire(blocking=False):
            try:
                self.changed()
            finally:
                self.lock.release()
        else:
            self._look.put(None)

    def _close_abandoned(self) -> None:
        while self.abandoned:
            lane = self.abandoned.popleft()
            if not lane.ended:
                lane.node.close(lane)  # type: ignore[attr-defined]

    def _ended(self, status: Status) -> None:
        """The flow is over: lets everybody go. The lock is held."""
        if self._stopping:
            return
        self._stopping = True
        self.result = status
        for sleeper in self._sleepers:
            self._awake += 1
            self._quick += 1
            sleeper.release()
        self._sleepers.clear()
        self._watch_idle = False
        self._look.put(None)
        left = list(self.machine.sessions)
        self.machine.sessions.clear()
        for session in left:
            session.closing = True
            session.open = 0
        ended = self.machine.ended + left
        self.machine.ended = []
        self.room.notify_all()
        self.lock.release()
        try:
            finish_sessions(ended)
        finally:
            self.lock.acquire()
            self.over.set()

    # -- ending ----------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self, status: Status | None = None) -> None:
        """Ends the flow. Calls that are under way finish on their own; nothing new begins."""
        with self.lock:
            self.machine.fail(status or Status(StatusCode.STATUS_SHUTDOWN))
            assert self.machine.fault is not None
            self._ended(self.machine.fault)

    def join(self, grace: float) -> list[str]:
        """Waits for the workers at most `grace` seconds. The names of nodes whose units are still inside a call."""
        end = time.monotonic() + grace
        for worker in list(self._workers):
            if worker is not threading.current_thread():
                worker.join(max(0.0, end - time.monotonic()))
        with self.lock:
            stuck = {worker.ident for worker in self._workers if worker.is_alive()} - {threading.get_ident()}
            return sorted({node.name for ident, (node, _) in self._running.items() if ident in stuck})


def finish_sessions(sessions: list[Session]) -> None:
    """Tells everyone who waits for the end of these sessions. What their functions raise is their own affair."""
    for session in sessions:
        if session.collector is not None:
            session.collector.ended()
        for call in session.context.end():
            with suppress(Exception):
                call()
