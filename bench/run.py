"""All benchmarks, or those named: `python -m bench.run [NAME …]`. Prints one table; exits with 1 if a target is missed.

Times of shared machines swing by a factor of three within minutes: what counts are the ratios, to references measured
in turns with us.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from bench.figure import Figure, table
from bench.server import prefer

#: In this order: those that leave many files behind come last.
NAMES = (
    "idle",
    "latency",
    "submit",
    "launch",
    "meproc",
    "echo",
    "flux",
    "auth",
    "messages",
    "reports",
    "modelbox",
    "flow",
    "tango",
    "stats",
    "adopt",
    "million",
    "crash",
)


def benchmark(name: str, options: argparse.Namespace) -> Callable[[], list[Figure]]:
    """The measurement of that name with the options that it takes."""
    measure: Callable[..., list[Figure]] = import_module(f"bench.{name}").measure
    if name == "million":
        return lambda: measure(options.jobs)
    if name == "flow" and options.quick:
        return lambda: measure(1_000_000)
    if name in ("crash", "tango"):
        return lambda: measure(options.rounds, options.seed)
    return measure


def record(figure: Figure) -> dict[str, object]:
    fields = {field: getattr(figure, field) for field in figure.__struct_fields__}
    return fields | {"ratio": figure.ratio, "met": figure.met}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="100,000 jobs for million, 20 rounds for crash")
    parser.add_argument("--jobs", type=int, help="ended jobs in the store of million (default 1,000,000)")
    parser.add_argument("--rounds", type=int, help="kills of crash and tango (default 200 each)")
    parser.add_argument("--seed", type=int, default=1, help="for the moments of crash")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {min(unknown)!r}: name some of {', '.join(NAMES)}")
    options.jobs = options.jobs or (100_000 if options.quick else 1_000_000)
    options.rounds = options.rounds or (20 if options.quick else 200)
    prefer(os.getpid())
    figures: list[Figure] = []
    broken = False
    for name in [name for name in NAMES if not options.names or name in options.names]:
        begin = time.perf_counter()
        try:
            figures += benchmark(name, options)()
        except Exception:
            # The others still have something to say.
            traceback.print_exc()
            broken = True
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    print(table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps([record(figure) for figure in figures], indent=2) + "\n")
    return int(broken or any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
