"""What the service expects of an executor: where runs happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from runyard.model import wire
from runyard.model.ids import RunKey
from runyard.model.node import Node

Report = wire.Started | wire.Exited


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """A node is there, and everything it had to tell from before has been delivered."""

    node: Node
    boot_id: str
    """Another one than before: the host was started anew, and no run of before can be up."""
    live: frozenset[RunKey]
    """Runs that were up, or waiting to be spawned, when the connection was made."""


class Executor(Protocol):
    """All methods are for the event loop's thread; the callbacks come on it. `start` and `close` may be repeated.

    `launch`, `stop`, `signal` and `ack` return at once and never fail: what they say travels, in order, with whatever
    else is said in the same turn of the loop. What is said while a node is away, or is lost with a connection, is
    dropped: after `Synced` the service says again what still matters. Launches of runs that the node has known are
    ignored.
    """

    async def start(
        self,
        on_reports: Callable[[list[Report]], None],
        on_synced: Callable[[Synced], None],
        on_down: Callable[[str], None],
    ) -> None:
        """Connect. `on_reports` gets reports in the order of their numbers, from the first that is not acknowledged
        on; some may come again after a lost connection. `on_synced` is called for each new connection, after the
        reports of before it. `on_down` gets the node's name when a connection is lost.

        Raises Unavailable if there is nothing to connect to.
        """

    def launch(self, launches: list[wire.Launch]) -> None:
        """Start these runs. Each is followed by `Started` and `Exited`, or by `Exited` alone if it can't be started."""

    def stop(self, stop: wire.Stop) -> None:
        """End the whole process tree of a run. One that is not known is passed over."""

    def signal(self, signal: wire.Signal) -> None:
        """Send one signal to a run's process group."""

    def ack(self, upto: int) -> None:
        """All reports up to this number are durable here."""

    def resync(self) -> None:
        """Begin anew: all reports that are not acknowledged come again, then `on_synced`. `on_down` is not called."""

    async def close(self) -> None:
        """Disconnect. Runs go on; no callback is called any more."""
