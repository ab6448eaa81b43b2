"""The engine loop, where only a defect or a broken store could lead it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runyard.core.inputs import Note, RestartJob
from runyard.core.record import JobRecord
from runyard.executors.memory import MemoryExecutor
from runyard.model.errors import InvalidInput, RunyardError, TooMany, Unavailable
from runyard.model.ids import RunKey
from runyard.model.job import JobDoc, JobSpec
from runyard.model.node import Node
from runyard.model.state import LIVE, State
from runyard.model.wire import Exited
from runyard.service.engine import Engine
from runyard.service.service import Bounds, Service
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles
from runyard.store.store import Store
from tests.helpers import wait_until_async


def test_a_defect_stops_the_engine_and_whoever_waits_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(store: Store) -> None:
        engine = Engine(store, {"local": MemoryExecutor({"true": (0, 1.0)})}, OutputFiles(tmp_path / "output"))
        failures: list[Exception] = []
        engine.on_failure = failures.append
        await engine.start()

        def broken(batch: Batch) -> None:
            raise LookupError("the batch contradicts the store")

        monkeypatch.setattr(store, "commit", broken)

        def first(outcomes: list[JobDoc | RunyardError]) -> JobDoc | RunyardError:
            return outcomes[0]

        try:
            async with asyncio.timeout(10):
                with pytest.raises(Unavailable, match="the engine has failed"):
                    await Service(engine).submit([JobSpec(command=["true"])], first, origin="native", owner="me")
            assert [type(failure) for failure in failures] == [LookupError]
            with pytest.raises(Unavailable, match="stopping"):
                await Service(engine).submit([JobSpec(command=["true"])], first, origin="native", owner="me")
        finally:
            await engine.close()

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))


def test_each_replica_counts_as_a_live_job(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        executor = MemoryExecutor({}, node=Node(name="n", executor="local", cores=[0]))
        engine = Engine(store, {"local": executor}, OutputFiles(tmp_path / "output"))
        await engine.start()
        service = Service(engine, Bounds(max_jobs=10))

        async def submit(replicas: int) -> JobDoc:
            spec = JobSpec(command=["true"], replicas=replicas, hold=True)
            doc = await service.submit([spec], lambda outcomes: outcomes[0], origin="native", owner="me")
            assert isinstance(doc, JobDoc)
            return doc

        try:
            async with asyncio.timeout(60):
                with pytest.raises(TooMany):
                    await submit(11)
                held = await submit(9)
                with pytest.raises(TooMany, match="9 jobs are live"):
                    await submit(2)
                await service.cancel(await service.find(held.id))
                await submit(10)
        finally:
            await engine.close()

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))


def test_a_reason_with_nul_is_stored_without_it(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        executor = MemoryExecutor({"false": (1, 1.0)}, node=Node(name="n", executor="local", cores=[0]))
        engine = Engine(store, {"local": executor}, OutputFiles(tmp_path / "output"))
        await engine.start()
        try:
            async with asyncio.timeout(60):
                doc = await Service(engine).submit(
                    [JobSpec(command=["false"])], lambda outcomes: outcomes[0], origin="native", owner="me"
                )
                assert isinstance(doc, JobDoc)
                run = RunKey(int(doc.id), 0, 1)
                engine._reports("local", [Exited(0, run, 7, 1.0, 1, None, reason="ValueError: a\0b")])
                assert await engine.ended(run.job, 60)
            record = store.job(run.job)
            assert record is not None and record.reason == r"ValueError: a\x00b"
        finally:
            await engine.close()

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))


def test_a_run_whose_output_has_no_place_fails_and_the_others_go_on(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        (tmp_path / "output").touch()
        executor = MemoryExecutor({"true": (0, 1.0)}, node=Node(name="n", executor="local", cores=[0]))
        engine = Engine(store, {"local": executor}, OutputFiles(tmp_path / "output"))
        await engine.start()
        service = Service(engine)
        try:
            async with asyncio.timeout(60):
                for _ in range(2):
                    doc = await service.submit(
                        [JobSpec(command=["true"])], lambda outcomes: outcomes[0], origin="native", owner="me"
                    )
                    assert isinstance(doc, JobDoc)
                    assert await engine.ended(int(doc.id), 60)
                    record = engine.find(int(doc.id))
                    assert record is not None and record.state is State.FAILED
                    assert record.reason is not None and "there is no place for its output" in record.reason
        finally:
            await engine.close()

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))


@pytest.mark.parametrize("value", ["\ud800", {"\udc00": 1}, object()], ids=["text", "key", "other"])
def test_a_note_that_cannot_be_stored_harms_nobody(
    tmp_path: Path, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(store: Store) -> None:
        engine = Engine(store, {"local": MemoryExecutor({})}, OutputFiles(tmp_path / "output"))
        await engine.start()
        note = Note(facts=[("auth.refused", {"user": value})])
        try:
            async with asyncio.timeout(10):
                engine.put(note)
                with pytest.raises(InvalidInput, match=r"auth\.refused: "):
                    await engine.ask(note, lambda _: None)
                await engine.ask(Note(facts=[("auth.refused", {"user": "ann"})]), lambda _: None)
        finally:
            await engine.close()
        [event] = [event for event in store.events(None, 10).events if event.type == "auth.refused"]
        assert event.data == {"user": "ann"} and "not recorded" in caplog.text

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))


def test_a_job_whose_end_is_being_written_is_deleted_when_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(store: Store) -> None:
        executor = MemoryExecutor({"true": (0, 1.0)}, node=Node(name="n", executor="local", cores=[0]))
        engine = Engine(store, {"local": executor}, OutputFiles(tmp_path / "output"))
        service = Service(engine)
        writing, go_on = asyncio.Event(), asyncio.Event()
        commit = engine.writer.commit

        async def slow(batch: Batch) -> None:
            if any(values[2] == "job.succeeded" for values in batch.events):
                writing.set()
                await go_on.wait()
            await commit(batch)

        monkeypatch.setattr(engine.writer, "commit", slow)
        await engine.start()

        def first(outcomes: list[JobDoc | RunyardError]) -> JobDoc | RunyardError:
            return outcomes[0]

        try:
            async with asyncio.timeout(20):
                job = await service.submit([JobSpec(command=["true"])], first, origin="native", owner="me")
                assert isinstance(job, JobDoc)
                await wait_until_async(lambda: executor.live)
                executor.advance(1)
                await writing.wait()
                record = await service.find(job.id)
                deleting = asyncio.create_task(service.delete(record))
                await asyncio.sleep(0)
                go_on.set()
                await deleting
                assert await service.look_up(job.id) is None
        finally:
            go_on.set()
            await engine.close()

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))


def test_an_ended_job_is_remembered_until_it_is_changed(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        executor = MemoryExecutor({"true": (0, 1.0)}, node=Node(name="n", executor="local", cores=[0]))
        engine = Engine(store, {"local": executor}, OutputFiles(tmp_path / "output"))
        service = Service(engine)
        await engine.start()

        def first(outcomes: list[JobDoc | RunyardError]) -> JobDoc | RunyardError:
            return outcomes[0]

        async def finished(number: int) -> JobRecord:
            await wait_until_async(lambda: executor.live)
            executor.advance(1)
            assert await engine.ended(number, 20)
            record = await service.find(str(number))
            assert record.state is State.SUCCEEDED and await service.find(str(number)) is record
            return record

        try:
            async with asyncio.timeout(20):
                job = await service.submit([JobSpec(command=["true"])], first, origin="native", owner="me")
                assert isinstance(job, JobDoc)
                number = int(job.id)
                record = await finished(number)
                await service.restart(record)
                assert (await service.find(job.id)).state is not State.SUCCEEDED
                again = await finished(number)
                # What was given out stays as it was.
                assert (record.replicas[0].attempt, again.replicas[0].attempt) == (1, 2)
                # Removed past the engine, as retention does it.
                batch = Batch()
                batch.delete_job(number)
                await engine.writer.commit(batch)
                assert await service.look_up(job.id) is None
        finally:
            await engine.close()

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))


def test_a_job_that_ends_before_its_restart_has_its_turn_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(store: Store) -> None:
        executor = MemoryExecutor({"true": (0, 1.0)}, node=Node(name="n", executor="local", cores=[0]))
        engine = Engine(store, {"local": executor}, OutputFiles(tmp_path / "output"))
        service = Service(engine)
        ask = engine.ask

        async def late(input: Any, finish: Any) -> Any:
            if isinstance(input, RestartJob) and input.record is None:
                executor.advance(1)
                assert await engine.ended(input.job, 10)
            return await ask(input, finish)

        monkeypatch.setattr(engine, "ask", late)
        await engine.start()

        def first(outcomes: list[JobDoc | RunyardError]) -> JobDoc | RunyardError:
            return outcomes[0]

        try:
            async with asyncio.timeout(20):
                job = await service.submit([JobSpec(command=["true"])], first, origin="native", owner="me")
                assert isinstance(job, JobDoc)
                await wait_until_async(lambda: executor.live)
                restarted = await service.restart(await service.find(job.id))
                assert restarted.id == job.id and restarted.state in LIVE
        finally:
            await engine.close()

    with Store.open(tmp_path) as store:
        asyncio.run(test(store))
