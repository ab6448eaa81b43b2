"""What every executor promises (`runyard.executors.protocol`)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from runyard.executors.protocol import Synced
from runyard.model import wire
from tests.contract.conftest import Log, Rig


def run(rig: Rig, test: Callable[[Log], Awaitable[None]]) -> None:
    async def body() -> None:
        log = Log(rig)
        await log.start()
        try:
            await test(log)
        finally:
            await rig.executor.close()

    asyncio.run(body())


def test_a_connection_begins_with_what_the_node_is(rig: Rig) -> None:
    async def test(log: Log) -> None:
        await log.until(lambda: log.synced)
        (synced,) = log.synced
        assert synced.node.name
        # Python runs reserve nothing.
        assert synced.node.executor == "python" or (synced.node.cores and synced.node.memory > 0)
        assert synced.boot_id and synced.live == frozenset()

    run(rig, test)


def test_launch_started_exited(rig: Rig) -> None:
    async def test(log: Log) -> None:
        first, second = rig.launch("ok"), rig.launch("code")
        rig.executor.launch([first, second])
        assert (await log.exited(first)).exit_code == 0
        ended = await log.exited(second)
        assert (ended.exit_code, ended.signal, ended.timed_out) == (3, None, False)
        started = next(r for r in log.reports if r.run == second.run)
        assert isinstance(started, wire.Started)
        assert started.pid == ended.pid > 0 and started.seq < ended.seq and started.at <= ended.at

    run(rig, test)


def test_a_launch_that_comes_again_is_passed_over(rig: Rig) -> None:
    async def test(log: Log) -> None:
        up, done = rig.launch("long"), rig.launch("ok")
        rig.executor.launch([up, up, done])
        await log.exited(done)
        rig.executor.launch([up, done])
        marker = rig.launch("ok")
        rig.executor.launch([marker])
        await log.exited(marker)
        assert sum(r.run in (up.run, done.run) for r in log.reports) == 3
        rig.executor.stop(wire.Stop(up.run, signal.SIGTERM, 10))
        await log.exited(up)

    run(rig, test)


def test_a_signal_ends_a_run_and_is_named(rig: Rig) -> None:
    async def test(log: Log) -> None:
        launch = rig.launch("long")
        rig.executor.launch([launch])
        await log.started(launch)
        rig.executor.signal(wire.Signal(launch.run, signal.SIGUSR1))
        ended = await log.exited(launch)
        assert (ended.exit_code, ended.signal) == (None, signal.SIGUSR1)

    run(rig, test)


def test_stop_asks_first_and_kills_after_the_grace(rig: Rig) -> None:
    async def test(log: Log) -> None:
        polite, stubborn = rig.launch("long"), rig.launch("stubborn")
        rig.executor.launch([polite, stubborn])
        await log.started(polite, stubborn)
        await rig.settle(stubborn)
        rig.executor.stop(wire.Stop(polite.run, signal.SIGTERM, 30))
        rig.executor.stop(wire.Stop(stubborn.run, signal.SIGTERM, 0.3))
        assert (await log.exited(polite)).signal == signal.SIGTERM
        ended = await log.exited(stubborn)
        assert (ended.exit_code, ended.signal, ended.timed_out) == (None, signal.SIGKILL, False)

    run(rig, test)


def test_unknown_runs_are_passed_over(rig: Rig) -> None:
    async def test(log: Log) -> None:
        stranger, launch = rig.launch("ok"), rig.launch("ok")
        rig.executor.stop(wire.Stop(stranger.run, signal.SIGTERM, 0))
        rig.executor.signal(wire.Signal(stranger.run, signal.SIGTERM))
        rig.executor.launch([launch])
        await log.exited(launch)
        assert {report.run for report in log.reports} == {launch.run}

    run(rig, test)


def test_the_time_limit_ends_a_run_and_says_so(rig: Rig) -> None:
    async def test(log: Log) -> None:
        polite = rig.launch("long", time_limit=0.4, stop_signal=signal.SIGINT)
        stubborn = rig.launch("stubborn", time_limit=2.0, grace=0.2)
        brief = rig.launch("brief", time_limit=30.0)
        rig.executor.launch([polite, stubborn, brief])
        ended = await log.exited(polite)
        assert ended.timed_out and ended.signal == signal.SIGINT
        assert ended.reason is not None and "0.4 s" in ended.reason
        ended = await log.exited(stubborn)
        assert ended.timed_out and ended.signal == signal.SIGKILL
        ended = await log.exited(brief)
        assert not ended.timed_out and ended.exit_code == 0

    run(rig, test)


def test_a_missing_program_is_an_exit_without_a_start(rig: Rig) -> None:
    async def test(log: Log) -> None:
        launch = rig.launch("missing")
        rig.executor.launch([launch])
        ended = await log.exited(launch)
        assert (ended.pid, ended.exit_code, ended.signal) == (0, None, None)
        assert ended.reason is not None and launch.argv[0] in ended.reason
        assert len(log.reports) == 1

    run(rig, test)


def test_many_launches_in_one_call(rig: Rig) -> None:
    async def test(log: Log) -> None:
        launches = [rig.launch("code" if number % 3 else "ok") for number in range(300)]
        rig.executor.launch(launches)
        await log.until(lambda: len(log.reports) >= 600, 60)
        for number, launch in enumerate(launches):
            started, ended = (r for r in log.reports if r.run == launch.run)
            assert isinstance(started, wire.Started) and isinstance(ended, wire.Exited)
            assert ended.exit_code == (3 if number % 3 else 0)
        seqs = [report.seq for report in log.reports]
        assert seqs == sorted(set(seqs))

    run(rig, test)


def test_reports_come_again_until_they_are_acknowledged(rig: Rig) -> None:
    async def test(log: Log) -> None:
        done, up = rig.launch("code"), rig.launch("long")
        rig.executor.launch([done, up])
        await log.exited(done)
        await log.started(up)
        before = log.reports
        await rig.executor.close()

        log.said.clear()
        await log.start()
        await log.until(lambda: log.synced)
        assert log.said[:-1] == before and isinstance(log.said[-1], Synced)
        assert log.synced[0].live == {up.run}

        log.said.clear()
        rig.executor.resync()
        await log.until(lambda: log.synced)
        assert log.said[:-1] == before, "resync must not call on_down"

        rig.executor.ack(before[0].seq)
        marker = rig.launch("ok")
        rig.executor.launch([marker])
        await log.exited(marker)
        log.said.clear()
        rig.executor.resync()
        await log.until(lambda: log.synced)
        assert [report.seq for report in log.reports] == [
            before[1].seq,
            before[2].seq,
            before[2].seq + 1,
            before[2].seq + 2,
        ]

        rig.executor.ack(log.reports[-1].seq)
        log.said.clear()
        rig.executor.stop(wire.Stop(up.run, signal.SIGTERM, 10))
        await log.exited(up)
        assert len(log.reports) == 1

    run(rig, test)


def test_nothing_is_said_after_close(rig: Rig) -> None:
    async def test(log: Log) -> None:
        launch = rig.launch("brief")
        rig.executor.launch([launch])
        await log.started(launch)
        await rig.executor.close()
        log.said.clear()
        for _ in range(100):
            rig.tick()
            await asyncio.sleep(0.005)
        assert log.said == []
        await log.start()
        assert (await log.exited(launch)).exit_code == 0

    run(rig, test)
