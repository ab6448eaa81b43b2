"""What the flow runtime costs: own CPU a buffer in a chain of no-op Python units, and memory under a slow sink.

    python -m bench.flow [--buffers N]

The chain is source → three units → sink. The C++ original takes 39 to 65 µs with units in C++ and 110 to 160 µs with
units in Python (issue 5).
"""

from __future__ import annotations

import argparse
import resource
import threading
import time
from typing import Any

from bench.figure import Figure, table
from runyard.flow.buffer import Buffer
from runyard.flow.document import FlowDocument
from runyard.flow.native import flowunit
from runyard.flow.runtime.runner import FlowRun, load_flow
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import UnitLibrary

ROUNDS = 3
BUFFERS = 100_000
MANY = 10_000_000
SENT = 256
"""Buffers that one send brings."""


@flowunit(outputs="out")
class Feed(FlowUnit):
    """The source."""

    def process(self, data_ctx: DataContext) -> None:
        data_ctx.output("out").extend(data_ctx.external())


@flowunit(inputs="in", outputs="out")
class Nothing(FlowUnit):
    """Passes its buffers on."""

    def process(self, data_ctx: DataContext) -> None:
        data_ctx.output("out").extend(data_ctx.input("in") or ())


@flowunit(inputs="in")
class Drain(FlowUnit):
    """The sink: slower than everything before it, as it looks at every buffer."""

    def process(self, data_ctx: DataContext) -> None:
        for buffer in data_ctx.input("in") or ():
            buffer.get_bytes()


def chain(batch: int) -> FlowRun:
    """An open and running chain."""
    library = UnitLibrary(builtin=False)
    units: list[Any] = [Feed, Nothing, Drain]
    for unit in units:
        library.add(unit.info)
    dot = (
        f"digraph {{ batch_size={batch} f[flowunit=Feed] a[flowunit=Nothing] b[flowunit=Nothing] c[flowunit=Nothing]"
        " d[flowunit=Drain] f:out->a:in a:out->b:in b:out->c:in c:out->d:in }"
    )
    flow = load_flow(FlowDocument(dot=dot), library=library)
    flow.open()
    flow.start()
    return flow


def push(flow: FlowRun, buffers: int, sent: int) -> tuple[float, float]:
    """Microseconds of own CPU and of time a buffer, the making of the buffers left out."""
    made = Buffer(b"x")
    done = threading.Event()
    cpu, wall = time.process_time(), time.perf_counter()
    data = flow.machine.nodes[0].unit.create_external_data()
    data.get_session_context().on_end(done.set)
    rows = [made] * sent
    for _ in range(buffers // sent):
        data.send(rows)
    data.close()
    done.wait()
    return (time.process_time() - cpu) / buffers * 1e6, (time.perf_counter() - wall) / buffers * 1e6


def measure(many: int = MANY) -> list[Figure]:
    """Own CPU batched and one a call, and what the peak of memory grows by while `many` buffers pass."""
    figures = []
    for name, batch, sent, most in (("batches of 8", 8, SENT, 12.0), ("one a call", 1, 1, 60.0)):
        flow = chain(batch)
        best, fastest = zip(*(push(flow, BUFFERS // (1 if batch > 1 else 4), sent) for _ in range(ROUNDS)), strict=True)
        flow.stop()
        figures.append(Figure(name=f"flow: CPU a buffer, {name}", unit="µs", measured=min(best), most=most))
        rate = 1e6 / min(fastest)
        figures.append(Figure(name=f"flow: buffers, {name}", unit="1/s", measured=rate))
    flow = chain(8)
    push(flow, BUFFERS, SENT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    push(flow, many, SENT)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    flow.stop()
    figures.append(Figure(name=f"flow: memory grown by {many:,} buffers", unit="MiB", measured=grown, most=8))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buffers", type=int, default=MANY, help="that pass while memory is watched")
    print(table(measure(parser.parse_args().buffers)))


if __name__ == "__main__":
    main()
