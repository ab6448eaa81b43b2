"""`python -P child.py host …` or `… program …`: where processes with user code in them begin."""

from __future__ import annotations

import os
import sys

_SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    # This very package, whatever else is installed; but to the code that is run it comes last.
    sys.path.insert(0, _SOURCE)
    if sys.argv[1] == "host":
        from runyard.worker.host import main as begin
    else:
        from runyard.worker.program import main as begin
    del sys.path[0]
    if _SOURCE not in sys.path:
        sys.path.append(_SOURCE)
    begin(sys.argv[2:])


if __name__ == "__main__":
    main()
