"""The worker's loop: the agent's, but for its end. An idle worker goes even while a server is connected: the executor
starts another one when there is something to do."""

from __future__ import annotations

from runyard.agent.agent import Agent


class Keeper(Agent):
    def serve(self) -> None:
        super().serve()
        if self._runs.at_rest and not self._runs.reports:
            # Without a journal there is nothing to take over, and so no need for a worker.
            self._runs.journal.remove()

    @property
    def _busy(self) -> bool:
        return bool(not self._runs.at_rest or self._runs.reports)
