"""The other process of `test_store_crash`.

python -m tests.integration.store_child commit FOLDER   # commits without end, and prints each number once it is durable
python -m tests.integration.store_child open FOLDER     # opens without root's rights, and prints the refusal
"""

from __future__ import annotations

import os
import sys

from runyard.model.errors import RunyardError
from runyard.store.store import Store
from tests.integration.store_rig import Jobs, event, saved, started

JOBS, EVENTS = 20, 40
NOBODY = 65534


def commit(folder: str) -> None:
    jobs = Jobs()
    seq = 0
    with Store.open(folder) as store:
        for number in range(1, 1_000_000):
            records = [jobs.new(labels={"batch": str(number)}) for _ in range(JOBS)]
            for record in records:
                started(record)
                record.reason = f"batch {number}"
            batch = saved(*records)
            batch.add_events(event(seq + n, records[0].id) for n in range(1, EVENTS + 1))
            seq += EVENTS
            batch.set_meta("batch", str(number))
            store.commit(batch)
            os.write(1, f"{number}\n".encode())


def refused(folder: str) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        Store.open(folder).close()
    except RunyardError as error:
        print(f"{type(error).__name__}: {error.detail}")


if __name__ == "__main__":
    {"commit": commit, "open": refused}[sys.argv[1]](sys.argv[2])
