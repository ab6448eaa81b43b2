"""What a running flow is doing, in numbers: rates, queues, batches, time in calls, latencies, errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runyard.flow.runtime.node import Edge, Node
    from runyard.flow.runtime.scheduler import Scheduler

PERCENTILES = (50, 90, 99)


class Statistics:
    """Snapshots of one flow. Rates are over the time since the snapshot before, the first's over the flow's life."""

    def __init__(self, scheduler: Scheduler, name: str = "") -> None:
        self._scheduler = scheduler
        self._name = name
        self._begun = self._last = time.monotonic()
        self._before: dict[str, tuple[int, int, float]] = {}
        self._edges_before: list[int] = []
        self._guard = threading.Lock()

    def snapshot(self) -> dict[str, Any]:
        """Plain data, ready for JSON.

        `nodes`: by name `calls`, `buffers_in`, `buffers_out`, `errors` since the start; `rate` (buffers in each
        second, those out for a source), `batch` (mean), `busy` (share of one thread's time inside the unit), `running`
        (calls now), `latency_ms` (percentiles of a call). `edges`: `from`, `to`, `buffers`, `rate`, `depth`,
        `capacity`. `sessions`: `open`, `total`. `state`: `running`, `idle`, `blocking` or `shutdown` (spec 3.3).
        """
        scheduler = self._scheduler
        machine = scheduler.machine
        with self._guard:
            now = time.monotonic()
            seconds = max(now - self._last, 1e-9)
            with scheduler.lock:
                nodes = {node.name: self._node(node, seconds) for node in machine.nodes}
                edges = [self._edge(index, edge, seconds) for index, edge in enumerate(machine.edges)]
                working = any(node.running for node in machine.nodes)
                blocked = not working and any(edge.full for edge in machine.edges)
                open_sessions, total = len(machine.sessions), machine.total_sessions
            self._last = now
        state = "shutdown" if scheduler.stopping else "running" if working else "blocking" if blocked else "idle"
        return {
            "flow": self._name,
            "state": state,
            "seconds": round(now - self._begun, 3),
            "sessions": {"open": open_sessions, "total": total},
            "nodes": nodes,
            "edges": edges,
        }

    def _node(self, node: Node, seconds: float) -> dict[str, Any]:
        rows_in, rows_out, spent = node.rows_in, node.rows_out, node.seconds
        before_in, before_out, before_spent = self._before.get(node.name, (0, 0, 0.0))
        self._before[node.name] = (rows_in, rows_out, spent)
        moved = rows_in - before_in if node.ins else rows_out - before_out
        return {
            "unit": node.plan.unit,
            "kind": str(node.plan.kind),
            "calls": node.calls,
            "buffers_in": rows_in,
            "buffers_out": rows_out,
            "errors": node.errors,
            "rate": round(moved / seconds, 2),
            "batch": round(rows_in / node.calls, 2) if node.calls else 0.0,
            "busy": round((spent - before_spent) / seconds, 4),
            "running": node.running,
            "latency_ms": percentiles(node.latency),
        }

    def _edge(self, index: int, edge: Edge, seconds: float) -> dict[str, Any]:
        while len(self._edges_before) <= index:
            self._edges_before.append(0)
        before, self._edges_before[index] = self._edges_before[index], edge.total
        return {
            "from": f"{edge.source.name}:{edge.source.plan.outputs[edge.source_port]}",
            "to": f"{edge.target.name}:{edge.target.plan.inputs[edge.target_port]}",
            "buffers": edge.total,
            "rate": round((edge.total - before) / seconds, 2),
            "depth": edge.depth,
            "capacity": edge.capacity,
        }

    def every(self, seconds: float, call: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Calls the function with a snapshot at that interval, from a thread of its own. The result ends it."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(seconds):
                call(self.snapshot())

        threading.Thread(target=work, name="flow-statistics", daemon=True).start()
        return stop.set


def percentiles(histogram: dict[int, int]) -> dict[str, float]:
    """Milliseconds below which 50, 90 and 99 of 100 calls stayed, to within a fifth. Empty without calls."""
    total = sum(histogram.values())
    if not total:
        return {}
    result: dict[str, float] = {}
    wanted = list(PERCENTILES)
    seen = 0
    for key in sorted(histogram):
        seen += histogram[key]
        while wanted and seen * 100 >= wanted[0] * total:
            octave, part = divmod(key, 4)
            result[f"p{wanted.pop(0)}"] = round((4 + part + 1) * 2**octave / 4e3, 4)
    return result
