"""`python -I -S starter.py ORDER REPORT PROGRAM…`: the main process of a run of several tasks (`runyard.agent.tasks`).

ORDER and REPORT are descriptors; the program stands there for who looks at the process.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # Before anything else: a signal that comes now is for the tasks that are about to be started.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from runyard.agent.tasks import main

    main(int(sys.argv[1]), int(sys.argv[2]))
