"""What the store costs: CPU for each job's life, and how list and status times grow with the number of ended jobs.

    python bench/store.py [--jobs N] [--group N] [--ended N] [--folder DIR]

The life of a job is 7 events, an insert, two updates and two saves of its run, in three commits shared with the rest
of its group. It is compared with the bare `sqlite3` module writing the same rows by the same statements.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runyard.core.record import JobRecord, Replica
from runyard.model.event import Event
from runyard.model.ids import JobIds
from runyard.model.job import JobSpec
from runyard.model.node import Share
from runyard.model.state import State
from runyard.store.batch import Batch
from runyard.store.listing import Filter
from runyard.store.store import FILE, Store

NODE = [Share("host", [3], [], 0)]


class Lives:
    """Leads jobs through their lives, group by group: each group gives three batches."""

    def __init__(self) -> None:
        self.ids = JobIds()
        self.now = time.time() - 86_400
        self.seq = 0

    def event(self, batch: Batch, type: str, record: JobRecord, attempt: int = 0) -> None:
        self.seq += 1
        record.version = self.seq
        batch.add_events([Event(self.seq, self.now, type, record.id, record.state, 0, attempt, None)])

    def born(self, count: int) -> list[JobRecord]:
        self.now += 0.3
        return [
            JobRecord(
                id=self.ids.next(self.now),
                spec=JobSpec(command=["/usr/bin/true", str(number)], name=f"job-{number}" if number % 4 == 0 else None),
                kind="batch",
                origin="native",
                owner=f"user-{number % 5}",
                submitted_at=self.now,
                replicas=[Replica()],
            )
            for number in range(count)
        ]

    def submit(self, group: list[JobRecord], batch: Batch) -> Batch:
        for record in group:
            self.event(batch, "job.submitted", record)
            self.event(batch, "job.pending", record)
            record.state = record.replicas[0].state = State.STARTING
            record.replicas[0].attempt, record.replicas[0].shares = 1, NODE
            self.event(batch, "job.starting", record)
            batch.save_job(record, new=True)
        return batch

    def start(self, group: list[JobRecord], batch: Batch) -> Batch:
        for record in group:
            record.state = record.replicas[0].state = State.RUNNING
            record.started_at = record.replicas[0].started_at = self.now
            record.replicas[0].pid = 4711
            self.event(batch, "run.started", record, 1)
            self.event(batch, "job.running", record)
            batch.save_job(record)
            batch.save_run(record.id, 0, record.replicas[0])
        return batch

    def end(self, group: list[JobRecord], batch: Batch) -> Batch:
        for number, record in enumerate(group):
            record.state = record.replicas[0].state = State.FAILED if number % 100 == 0 else State.SUCCEEDED
            record.ended_at = record.replicas[0].ended_at = self.now
            record.exit_code = record.replicas[0].exit_code = int(number % 100 == 0)
            self.event(batch, "run.exited", record, 1)
            self.event(batch, f"job.{record.state}", record)
            batch.save_job(record)
            batch.save_run(record.id, 0, record.replicas[0])
        return batch

    def batches(self, jobs: int, group: int) -> list[Batch]:
        made = []
        for _ in range(max(1, jobs // group)):
            records = self.born(group)
            made += [self.submit(records, Batch()), self.start(records, Batch()), self.end(records, Batch())]
        return made

    def ended(self, count: int) -> Batch:
        """So many whole lives in one batch."""
        records, batch = self.born(count), Batch()
        self.submit(records, batch)
        self.start(records, batch)
        return self.end(records, batch)


def measure(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def commit_all(store: Store, batches: list[Batch]) -> None:
    for batch in batches:
        store.commit(batch)


def bare(folder: Path, batches: list[Batch], store: Store) -> None:
    """The same rows through the `sqlite3` module alone, into a fresh copy of the schema."""
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-16384", "wal_autocheckpoint=4000"):
        connection.execute(f"PRAGMA {pragma}")
    sql = store.statements
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        born = [(job, *values, *batch.jobs[job][:-1]) for job, values in batch.new_jobs.items()]
        connection.executemany(sql.new_job, born)
        connection.executemany(sql.spec, list(batch.specs.items()))
        connection.executemany(sql.job, [v for job, v in batch.jobs.items() if job not in batch.new_jobs])
        connection.executemany(sql.run, list(batch.runs.values()))
        connection.executemany(sql.event, batch.events)
        connection.execute("COMMIT")
    connection.close()


def write_cost(folder: Path, jobs: int, group: int) -> None:
    made: list[Batch] = []
    _, snapshot = measure(lambda: made.extend(Lives().batches(jobs, group)))
    jobs = sum(len(batch.new_jobs) for batch in made)
    with Store.open(folder / "store") as store:
        Store.open(folder / "bare").close()
        wall, cpu = measure(lambda: commit_all(store, made))
        bare_wall, bare_cpu = measure(lambda: bare(folder / "bare", made, store))
    rows = sum(len(b.events) + len(b.jobs) + len(b.specs) + len(b.runs) for b in made)
    print(f"{jobs} jobs in groups of {group}: {len(made)} commits, {rows} rows")
    print(f"  filling batches   {snapshot / jobs * 1e6:7.1f} us CPU a job (with making and changing the records)")
    print(f"  committing        {cpu / jobs * 1e6:7.1f} us CPU a job, {rows / wall:9.0f} rows/s by the clock")
    print(f"  bare sqlite3      {bare_cpu / jobs * 1e6:7.1f} us CPU a job, {rows / bare_wall:9.0f} rows/s by the clock")
    print(f"  ratio             {cpu / bare_cpu:7.2f} of the CPU, {wall / bare_wall:.2f} of the time")


def best(action: Callable[[], object], times: int = 20) -> float:
    return min(measure(action)[0] for _ in range(times))


def read_cost(folder: Path, ended: int) -> None:
    with Store.open(folder / "store") as store:
        lives = Lives()
        full = {}
        for amount in (200, ended):
            while sum(store.counts().values()) < amount:
                for batch in lives.batches(200 if amount == 200 else 2000, 200 if amount == 200 else 1000):
                    store.commit(batch)
            newest = store.last_job_id()
            times = {
                "job(id)": best(lambda job=newest: store.job(job)),  # type: ignore[misc]
                "counts": best(store.counts),
                "find_by_name": best(lambda: store.find_by_name("job-4")),
                "list": best(lambda: store.list_jobs(Filter())),
                "list failed": best(lambda: store.list_jobs(Filter(states=frozenset({State.FAILED})))),
                "list owner+failed": best(
                    lambda: store.list_jobs(Filter(owner="user-0", states=frozenset({State.FAILED})))
                ),
                "list q (every 100th)": best(lambda: store.list_jobs(Filter(q="/true 77"))),
                "list q (nothing)": best(lambda: store.list_jobs(Filter(q="no such text")), 5),
                "events, newest": best(lambda: store.events(store.last_seq() - 100)),
            }
            full[sum(store.counts().values())] = times
        small, large = full
        print(f"{'best of 20, milliseconds':28}{small:>12} jobs{large:>12} jobs   ratio")
        for name, value in full[small].items():
            grown = full[large][name]
            print(f"  {name:26}{value * 1e3:>12.3f}     {grown * 1e3:>12.3f}    {grown / value:6.1f}")
    wall, _ = measure(lambda: Store.open(folder / "store").close())
    size = sum(file.stat().st_size for file in (folder / "store").iterdir())
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"opening: {wall * 1e3:.0f} ms; on disk: {size / max(full):.0f} bytes a job; peak memory here: {rss:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=6000, help="jobs for the cost of writing")
    parser.add_argument("--group", type=int, default=300, help="jobs that share a commit")
    parser.add_argument("--ended", type=int, default=20_000, help="ended jobs for the cost of reading")
    parser.add_argument("--folder", type=Path, default=None, help="where the stores are made; a temporary one if left")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        write_cost(Path(folder), arguments.jobs, arguments.group)
        read_cost(Path(folder) / "read", arguments.ended)


if __name__ == "__main__":
    main()
