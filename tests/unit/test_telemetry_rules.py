"""The rules of telemetry: shares, histories, what Docker's documents mean, what is shown to Prometheus."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runyard.model.ids import RunKey
from runyard.telemetry import container
from runyard.telemetry.container import CpuTimes
from runyard.telemetry.exposition import Exposition, busiest
from runyard.telemetry.gpu import Gpu, GpuProcess, GpuSample
from runyard.telemetry.history import History, UsagePoint, merge, row
from runyard.telemetry.host import HostSample, busy
from runyard.telemetry.lane import Lane
from runyard.telemetry.runs import RunFigures, _Past, advance
from runyard.telemetry.sampler import usage
from runyard.telemetry.section import STALE, Degraded, Section
from tests.helpers import wait_until_async

MB = 1 << 20

# Shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "percent"),
    [
        # user nice system idle iowait irq softirq steal guest guest_nice
        ((0,) * 10, (10, 0, 10, 60, 20, 0, 0, 0, 10, 0), 20.0),
        ((0,) * 10, (10, 5, 5, 50, 10, 5, 5, 10, 0, 0), 40.0),
        ((5,) * 10, (5,) * 10, 0.0),
        ((5, 0, 0, 5, 9, 0, 0, 0, 0, 0), (6, 0, 0, 6, 5, 0, 0, 0, 0, 0), 50.0),
        ((1, 1, 1, 1, 1), (3, 1, 1, 3, 1), 50.0),
    ],
    ids=["a guest counts once", "interrupts and steal are work", "no time", "set back", "old kernels"],
)
def test_the_busy_share_of_a_core(before: tuple[float, ...], now: tuple[float, ...], percent: float) -> None:
    assert busy(before, now) == percent


def test_the_first_sample_of_a_run_is_its_mean_and_the_next_ones_its_share_since_then() -> None:
    # Started at 100 s since boot (clock ticks are 1/100 s), looked at 10 s later.
    assert advance(None, 5.0, 10_000, 110.0) == (5.0, 50.0)
    past = _Past(110.0, 5.0, 5.0, 10_000, None)
    assert advance(past, 7.0, 10_000, 112.0) == (7.0, 100.0)
    # A process that has left the tree has taken its seconds along; they are not forgotten.
    assert advance(past, 1.0, 10_000, 112.0) == (5.0, 0.0)
    assert advance(past._replace(seconds=9.0, raw=1.0), 2.0, 10_000, 112.0) == (10.0, 50.0)
    # Another run with the same key has begun anew.
    assert advance(past, 1.0, 11_000, 120.0) == (1.0, 10.0)
    assert advance(None, 0.0, 10_000, 100.0) == (0.0, 0.0)


def test_the_runs_of_a_job_are_added_up_with_what_their_processes_have_of_the_gpus() -> None:
    def figures(pid: int) -> RunFigures:
        return RunFigures(cpu_seconds=1.5, cpu_percent=50.0, memory=MB, io_read=1, io_write=2, processes=1, pids=[pid])

    gpus = GpuSample(
        [],
        [
            GpuProcess(pid=11, gpu=0, memory=5, percent=30.0, memory_percent=2.0),
            GpuProcess(pid=11, gpu=1, memory=6, percent=40.0, memory_percent=2.0),
            GpuProcess(pid=99, gpu=0, memory=7, percent=20.0, memory_percent=2.0),
        ],
    )
    found = usage({RunKey(1, 0, 1): figures(10), RunKey(1, 1, 1): figures(11), RunKey(2, 0, 1): figures(12)}, gpus, 9.0)
    assert found[1] == UsagePoint(
        at=9.0, cpu_percent=100.0, cpu_seconds=3.0, memory=2 * MB, io_read=2, io_write=4, processes=2,
        gpu_percent=70.0, gpu_memory=11, gpu_memory_percent=4.0,
    )  # fmt: skip
    assert found[2].gpu_memory == 0


# Histories --------------------------------------------------------------------------------------------------------


def point(at: float, cpu: float = 0.0, memory: int = 0) -> UsagePoint:
    return UsagePoint(at=at, cpu_percent=cpu, cpu_seconds=at, memory=memory, io_read=0, io_write=0, processes=1)


def test_a_history_gets_coarser_and_forgets_neither_its_beginning_nor_its_peak() -> None:
    history = History(points=10)
    for second in range(10_000):
        history.add({7: row(point(float(second), cpu=second % 2 * 100.0, memory=50 if second == 1234 else 1))})
    series = history.series(7)
    assert 10 <= len(series.at) <= 21
    assert series.at == sorted(series.at) and series.at[-1] == 9999.0 and series.at[0] < 1100
    assert max(series.memory) == 50
    # Each point but the last is the mean of equally many samples, half of them busy.
    assert set(series.cpu_percent[:-1]) == {50.0}
    assert series.cpu_seconds == series.at
    later = history.series(7, since=series.at[3])
    assert later.at == series.at[4:] and len(later.processes) == len(later.at)
    assert history.series(8).at == []


def test_histories_are_bounded_by_their_number_and_the_one_heard_of_last_stays() -> None:
    history = History(jobs=3)
    for job in (1, 2, 3, 1, 4):
        history.add({job: row(point(1.0))})
    assert len(history) == 3
    assert [bool(history.series(job).at) for job in (1, 2, 3, 4)] == [True, False, True, True]


def test_merging_keeps_means_of_shares_peaks_of_amounts_and_the_last_count() -> None:
    rows: list[tuple[float, ...]] = [
        (1.0, 10.0, 1.0, 5.0, 1.0, 1.0, 3.0, 0.0, 9.0, 2.0),
        (2.0, 30.0, 2.0, 4.0, 8.0, 9.0, 1.0, 50.0, 1.0, 4.0),
    ]
    assert merge(rows) == (2.0, 20.0, 2.0, 5.0, 8.0, 9.0, 3.0, 25.0, 9.0, 3.0)


# Docker's documents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "percent"),
    [
        (CpuTimes(100, 1000), CpuTimes(200, 1400), 50.0),
        (CpuTimes(100, 1000), CpuTimes(100, 1400), 0.0),
        (CpuTimes(100, 1000), CpuTimes(200, 1000), 0.0),
        (CpuTimes(200, 1000), CpuTimes(100, 1400), 0.0),
        (None, CpuTimes(100, 1000), 0.0),
        (CpuTimes(100, 1000), None, 0.0),
    ],
)
def test_the_share_of_a_container(before: CpuTimes | None, now: CpuTimes | None, percent: float) -> None:
    assert container.cpu_percent(before, now, 2) == percent


@pytest.mark.parametrize(
    "stats", [None, [], {}, {"cpu_stats": 1, "memory_stats": []}, {"memory_stats": {"usage": "x"}}]
)
def test_documents_of_a_container_that_has_just_ended_say_nothing(stats: Any) -> None:
    assert container.cores(stats) == 1
    assert container.memory(stats) == (0, 0)
    assert container.cpu_times((stats or {}).get("cpu_stats") if isinstance(stats, dict) else stats) is None
    assert container.top_pids(stats) == []


def test_old_daemons_tell_cores_by_their_times_and_pids_are_numbers() -> None:
    assert container.cores({"cpu_stats": {"cpu_usage": {"percpu_usage": [1, 2, 3]}}}) == 3
    assert container.cores({"cpu_stats": {"online_cpus": 4}}) == 4
    top = {"Titles": ["UID", "PID"], "Processes": [["root", "13642"], ["root", "7"], ["bad"]]}
    assert container.top_pids(top) == [13642, 7]


# Sections ---------------------------------------------------------------------------------------------------------


class Source:
    """Samples by the order of a test, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.taken = 0
        self.trouble: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def take(self) -> list[int]:
        await self.gate.wait()
        self.taken += 1
        if self.trouble is not None:
            raise self.trouble
        return [self.taken]

    def section(self, interval: float = 0.0, linger: float = 10.0, limit: float = 60.0) -> Section[list[int]]:
        return Section("x", self.take, [], interval, linger, clock=lambda: self.now, limit=limit)


def run(test: Callable[[Source], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Source())

    asyncio.run(main())


def test_a_section_is_sampled_while_somebody_asks_and_rests_after_that() -> None:
    async def test(source: Source) -> None:
        section = source.section()
        assert await section.ask() == [1]
        await wait_until_async(lambda: source.taken > 3)
        source.now = 11.0
        assert section._loop is not None
        await asyncio.wait([section._loop], timeout=20)
        taken = source.taken
        assert section.peek() == [taken]
        assert await section.ask() == [taken + 1]
        section.close()

    run(test)


def test_a_section_that_cannot_be_had_is_empty_and_says_why() -> None:
    async def test(source: Source) -> None:
        source.trouble = Degraded("no driver")
        section = source.section(interval=3600.0)
        assert (await section.ask(), section.reason) == ([], "no driver")
        source.trouble = ZeroDivisionError("a defect")
        await section.refresh()
        assert (section.value, section.reason) == ([], "ZeroDivisionError: a defect")
        source.trouble = None
        await section.refresh()
        assert (section.value, section.reason) == ([3], None)
        source.now = STALE + 3 * 3600.0
        assert section.peek() == []
        section.close()

    run(test)


def test_a_section_that_rests_long_keeps_what_it_has() -> None:
    async def test(source: Source) -> None:
        async def slow() -> list[int]:
            source.now += 10.0
            return await source.take()

        section: Section[list[int]] = Section("x", slow, [], 0.0, 10.0, clock=lambda: source.now)
        await section.refresh()
        # It rests for a hundred seconds: nobody could have a newer one.
        source.now += 110.0
        assert section.peek() == [1]
        source.now += 110.0
        assert section.peek() == []
        section.close()

    run(test)


def test_a_section_that_hangs_keeps_what_it_had_and_is_not_asked_twice() -> None:
    async def test(source: Source) -> None:
        section = source.section(interval=3600.0)
        await section.refresh()
        hanging = source.section(interval=3600.0, limit=0.0)
        source.gate.clear()
        assert await hanging.ask() == []
        assert hanging.reason == "no answer within 0 s"
        refresh = hanging.refresh
        hanging.refresh = None  # type: ignore[method-assign, assignment]
        # Who asks next does not wait for it as well.
        assert await hanging.ask() == []
        hanging.refresh = refresh  # type: ignore[method-assign]
        first = hanging.kick()
        await hanging.refresh()
        assert hanging.kick() is first
        source.gate.set()
        await first
        assert hanging.peek() == [2]
        answered: str | None = hanging.reason
        assert answered is None
        section.close()
        hanging.close()

    run(test)


def test_a_lane_runs_calls_one_after_the_other_in_a_daemon_thread() -> None:
    async def main() -> None:
        lane = Lane("lane")
        release = threading.Event()
        first = lane.run(lambda: release.wait(30) and threading.current_thread())
        second = lane.run(lambda: 1 // 0)
        third = lane.run(lambda: "third")
        first_again = lane.run(threading.current_thread)
        third.cancel()
        release.set()
        thread = await first
        assert isinstance(thread, threading.Thread) and thread.daemon and thread is await first_again
        with pytest.raises(ZeroDivisionError):
            await second

    asyncio.run(main())


# Prometheus -------------------------------------------------------------------------------------------------------


def test_the_exposition_shows_host_disks_gpus_and_the_busiest_jobs() -> None:
    host = HostSample(
        cpu_percent=50.0,
        cpus=[25.0, 75.0],
        load=(1.0, 2.0, 3.0),
        memory_total=4,
        memory_used=1,
        disk_total=9,
        disk_free=3,
    )
    gpu = Gpu(index=0, uuid="GPU-1", name="X", percent=25.0, memory_total=8, memory_used=2, memory_free=6, power=70.5)
    jobs = {1: point(0, cpu=10.0), 2: point(0, cpu=50.0, memory=5), 3: point(0, cpu=50.0, memory=6)}
    shown = busiest(jobs, 2)
    assert list(shown) == [3, 2]
    text = Exposition(host, [], [gpu], shown, {3: 'a"b'}, {"gpus": False, "runs": True}).render().decode()
    for line in (
        'runyard_telemetry_up{section="gpus"} 1.0',
        'runyard_telemetry_up{section="runs"} 0.0',
        'runyard_host_cpu_ratio{core="1"} 0.75',
        'runyard_gpu_ratio{gpu="0",name="X",uuid="GPU-1"} 0.25',
        'runyard_gpu_power_watts{gpu="0",name="X",uuid="GPU-1"} 70.5',
        'runyard_job_cpu_ratio{job="3",name="a\\"b"} 0.5',
        'runyard_job_memory_bytes{job="2",name=""} 5.0',
    ):
        assert f"{line}\n" in text
    assert "celsius{" not in text and 'job="1"' not in text
    assert Exposition(None, [], [], {}, {}, {}).render().decode().count("{") == 0
