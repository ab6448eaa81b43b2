"""HyperQueue's rate: `python -m bench.peer COUNT` runs so many `/bin/true` in a local cluster and prints jobs a second.

Its files go into the current folder. Its client asks only once a second whether the tasks have ended; so the time is
taken up to the moment at which the last task's output was opened, which is a little to its advantage.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def run(count: int) -> float:
    with LocalCluster(server_dir=str(Path.cwd() / "server"), worker_config=WorkerConfig()) as cluster:
        client = cluster.client()
        # One task first: the worker may still be on its way.
        for amount in (1, count):
            job = Job()
            for _ in range(amount):
                job.program(["/bin/true"])
            begin = time.time()
            client.wait_for_jobs([client.submit(job)])
    return count / (max(file.stat().st_ctime for file in Path.cwd().glob("*.stderr")) - begin)


if __name__ == "__main__":
    print(f"{run(int(sys.argv[1])):.1f}")
