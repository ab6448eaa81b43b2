"""`python -m runyard.worker --dir DIR`: the keeper of the Python runs of this host. Options and exit codes are those of
`python -m runyard.agent`, the layout of DIR too; besides, `hosts/` has a log for each process that coroutines share."""

from __future__ import annotations

import sys

from runyard.agent.__main__ import main
from runyard.worker.keeper import Keeper
from runyard.worker.runs import PythonRuns

if __name__ == "__main__":
    sys.exit(main("runyard.worker", PythonRuns, Keeper))
