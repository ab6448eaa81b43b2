"""`python -m runyard.runcode CODE.py`."""

from __future__ import annotations

import argparse
import os
import sys

from runyard import report
from runyard.model.quantity import parse_duration, parse_size
from runyard.runcode.supervisor import Limits, Supervisor

#: Bytes of the user's code.
MAX_CODE = 1024 * 1024


def main(argv: list[str] | None = None) -> int:
    """Exit code: that of the user's code, 1 after an exception, 124 after the time limit."""
    parser = argparse.ArgumentParser(
        prog="python -m runyard.runcode", description="Run a piece of Python with live output, pictures and limits."
    )
    parser.add_argument("code", help="file with the code")
    parser.add_argument("--time-limit", type=_duration, default=0.0, metavar="TIME", help="such as 60 or 5m")
    parser.add_argument("--memory", type=_size, default=0, metavar="SIZE", help="address space, such as 2G")
    parser.add_argument("--output", type=_size, default=Limits().output, metavar="SIZE", help="what is kept of output")
    parser.add_argument("--no-network", action="store_true", help="no network, where the kernel allows to do without")
    chosen = parser.parse_args(argv)
    try:
        if os.stat(chosen.code).st_size > MAX_CODE:
            raise OSError(f"{chosen.code} has more than {MAX_CODE} bytes: put data into files of its own")
    except OSError as error:
        report.crash(error)
        print(f"runcode: {error}", file=sys.stderr)
        return 1
    limits = Limits(chosen.time_limit, chosen.memory, chosen.output, not chosen.no_network)
    return Supervisor(chosen.code, limits).run()


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
