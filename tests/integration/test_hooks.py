"""Hooks on a real engine and store: webhooks to a real HTTP server, programs as real processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.executors.memory import MemoryExecutor
from runyard.model.errors import ConfigError
from runyard.model.hook import Hook, read_hooks
from runyard.model.job import JobDoc, JobSpec
from runyard.service.delivery import signature
from runyard.service.engine import Engine
from runyard.service.hooks import Follower, Program, Webhook, start_hooks
from runyard.service.service import Service
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles
from runyard.store.store import Store
from tests.agents import alive
from tests.helpers import wait_until, wait_until_async
from tests.receiver import Receiver, receiving

SUBMITTED = ["job.submitted"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


class Rig:
    """An engine without processes, its hooks, and the waits between their attempts, which take no time here."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder / "store")
        self.engine = Engine(self.store, {"local": MemoryExecutor({})}, OutputFiles(folder / "output"))
        self.service = Service(self.engine)
        self.waits: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    async def start(self, *hooks: Hook) -> None:
        self.tasks += await start_hooks(hooks, self.engine)

    def follow(self, hook: Hook, cursor: int = 0) -> Follower:
        """A follower with the rig's own sleep."""
        sender = Webhook(hook, hook.secret, self.engine.clock) if hook.url else Program(hook)
        follower = Follower(hook, sender, self.engine, cursor, self.sleep)
        self.tasks.append(asyncio.create_task(follower.run()))
        return follower

    async def submit(self, *names: str, origin: str = "native") -> list[JobDoc]:
        """Held jobs: each makes one event `job.submitted`."""
        specs = [JobSpec(command=["true"], name=name, hold=True) for name in names]
        found: list[Any] = await self.service.submit(specs, list, origin=origin, owner="me")
        assert all(isinstance(job, JobDoc) for job in found), found
        return found

    async def stop_hooks(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []

    def count(self, name: str, outcome: str) -> float:
        labels = {"hook": name, "outcome": outcome}
        return self.engine.metrics.registry.get_sample_value("runyard_hook_deliveries_total", labels) or 0.0


def with_rig(folder: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    async def run() -> None:
        rig = Rig(folder)
        try:
            await rig.engine.start()
            await test(rig)
        finally:
            await rig.stop_hooks()
            await rig.engine.close()
            rig.store.close()

    asyncio.run(run())


def hook(name: str = "h", **fields: Any) -> Hook:
    return read_hooks([{"name": name, "events": SUBMITTED} | fields], "hooks")[0]


def names(receiver: Receiver) -> list[str | None]:
    return [found.what[1] for found in receiver.received]


def test_what_is_delivered_is_signed_in_order_and_once(tmp_path: Path, receiver: Receiver) -> None:
    async def test(rig: Rig) -> None:
        await rig.start(hook(url=receiver.url, secret="key", jobs=["job-*"]))
        await rig.submit(*(f"job-{number}" for number in range(250)), "other")
        await wait_until_async(lambda: len(receiver.received) >= 250, 30)
        await rig.submit("job-last")
        await wait_until_async(lambda: names(receiver)[-1] == "job-last")
        assert names(receiver) == [f"job-{number}" for number in range(250)] + ["job-last"]
        for found in receiver.received:
            timestamp = int(found.headers["X-Runyard-Timestamp"])
            assert found.headers["X-Runyard-Signature"] == signature("key", timestamp, found.body)
            assert found.headers["X-Runyard-Delivery"] == f"h-{found.json['event']['seq']}"
        await wait_until_async(lambda: rig.count("h", "delivered") == 251)

    with_rig(tmp_path, test)


@pytest.mark.parametrize("fault", [500, 503, 429, 408])
def test_a_failed_delivery_is_made_again_with_the_same_id(tmp_path: Path, receiver: Receiver, fault: int) -> None:
    receiver.answers = [fault, fault, fault]

    async def test(rig: Rig) -> None:
        rig.follow(hook(url=receiver.url))
        await rig.submit("a", "b")
        await wait_until_async(lambda: len(receiver.received) == 5)
        assert names(receiver) == ["a", "a", "a", "a", "b"]
        assert len({found.headers["X-Runyard-Delivery"] for found in receiver.received}) == 2
        assert rig.waits == [1, 2, 4]
        await wait_until_async(lambda: rig.count("h", "delivered") == 2)
        assert (rig.count("h", "retried"), rig.count("h", "given_up")) == (3, 0)

    with_rig(tmp_path, test)


@pytest.mark.parametrize("answer", [400, 404, 301])
def test_a_final_answer_is_not_argued_with(
    tmp_path: Path, receiver: Receiver, answer: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [answer]

    async def test(rig: Rig) -> None:
        rig.follow(hook(url=receiver.url))
        await rig.submit("a", "b")
        await wait_until_async(lambda: len(receiver.received) == 2)
        assert names(receiver) == ["a", "b"] and rig.waits == []
        assert rig.count("h", "given_up") == 1

    with_rig(tmp_path, test)
    assert f"is given up, attempt 1: HTTP status {answer}" in caplog.text


def test_after_the_last_retry_the_next_event_comes(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500] * 9

    async def test(rig: Rig) -> None:
        rig.follow(hook(url=receiver.url))
        await rig.submit("a", "b")
        await wait_until_async(lambda: len(receiver.received) == 10)
        assert names(receiver) == ["a"] * 9 + ["b"]
        assert rig.waits == [1, 2, 4, 8, 16, 32, 64, 128]
        assert rig.count("h", "given_up") == 1

    with_rig(tmp_path, test)
    assert "given up, attempt 9: HTTP status 500" in caplog.text


def test_a_dead_receiver_keeps_nobody_else_waiting(tmp_path: Path, receiver: Receiver) -> None:
    with receiving() as hanging, receiving() as gone:
        nowhere = gone.url
        hanging.answers = ["hang"] * 5

        async def test(rig: Rig) -> None:
            await rig.start(
                hook("hanging", url=hanging.url, timeout=60),
                hook("well", url=receiver.url),
                hook("nowhere", url=nowhere.replace("127.0.0.1", "127.0.0.2")),
            )
            await rig.submit(*"abc")
            await wait_until_async(lambda: len(receiver.received) == 3)
            await wait_until_async(lambda: rig.count("nowhere", "retried") == 1)
            await wait_until_async(lambda: names(hanging) == ["a"])
            # The engine is not held up either.
            assert len(await rig.submit("d")) == 1
            await wait_until_async(lambda: names(receiver) == list("abcd"))

        with_rig(tmp_path, test)


def test_an_attempt_has_a_time_limit(tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = ["hang"]

    async def test(rig: Rig) -> None:
        rig.follow(hook(url=receiver.url, timeout=2.0))
        await rig.submit("a")
        await wait_until_async(lambda: rig.count("h", "delivered") == 1)
        assert names(receiver) == ["a", "a"] and rig.waits == [1]

    with_rig(tmp_path, test)
    assert "no answer within 2 s" in caplog.text


def test_a_new_hook_starts_at_the_present_and_an_old_one_where_it_was(tmp_path: Path, receiver: Receiver) -> None:
    async def first(rig: Rig) -> None:
        await rig.submit("before")
        await rig.start(hook(url=receiver.url))
        await rig.submit("a")
        await wait_until_async(lambda: rig.count("h", "delivered") == 1)
        await rig.stop_hooks()
        await rig.submit("meanwhile")

    async def second(rig: Rig) -> None:
        await rig.start(hook(url=receiver.url))
        await rig.submit("b")
        await wait_until_async(lambda: len(receiver.received) >= 3)
        assert names(receiver) == ["a", "meanwhile", "b"]

    with_rig(tmp_path, first)
    with_rig(tmp_path, second)


def test_a_cursor_is_written_soon_after_a_delivery(tmp_path: Path, receiver: Receiver) -> None:
    async def test(rig: Rig) -> None:
        await rig.start(hook(url=receiver.url))
        assert rig.store.meta("hook:h") == str(rig.engine.feed.last)
        await rig.stop_hooks()
        follower = rig.follow(hook(url=receiver.url), rig.engine.feed.last)
        (job,) = await rig.submit("a")
        await wait_until_async(lambda: int(rig.store.meta("hook:h") or 0) >= job.version)
        # What it passes over is not worth a write of its own.
        await rig.service.cancel(await rig.service.find("a"))
        await wait_until_async(lambda: follower.cursor == rig.engine.feed.last)
        assert rig.store.meta("hook:h") == str(job.version)
        await rig.stop_hooks()
        assert rig.store.meta("hook:h") == str(rig.engine.feed.last)

    with_rig(tmp_path, test)


def test_events_that_are_gone_are_skipped_and_counted(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    async def first(rig: Rig) -> None:
        await rig.start(hook(url=receiver.url))
        await rig.stop_hooks()
        await rig.submit(*"abc")
        batch = Batch()
        batch.trim_events(rig.engine.feed.last)
        await rig.engine.writer.commit(batch)

    async def second(rig: Rig) -> None:
        await rig.start(hook(url=receiver.url))
        await rig.submit("d")
        await wait_until_async(lambda: names(receiver)[-1:] == ["d"])
        assert "a" not in names(receiver)
        assert rig.count("h", "expired") == 1

    with_rig(tmp_path, first)
    with_rig(tmp_path, second)
    assert "no longer kept, and lost for it" in caplog.text


def test_a_secret_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        with pytest.raises(ConfigError, match="hook h: secret_file"):
            await rig.start(hook(url="http://127.0.0.1:9", secret_file=str(tmp_path / "none")))

    with_rig(tmp_path, test)


# Programs ---------------------------------------------------------------------------------------------------------


def program(tmp_path: Path, script: str, **fields: Any) -> Hook:
    return hook(command=["/bin/sh", "-c", script, str(tmp_path)], **fields)


def test_a_program_gets_json_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RUNYARD_TOKEN", "hush")
    script = 'cat > "$0/body"; env > "$0/env.new"; mv "$0/env.new" "$0/env"; echo "told\x1b[31m"; echo twice >&2'

    async def test(rig: Rig) -> None:
        await rig.start(program(tmp_path, script, origins=["meproc"]))
        await rig.submit("ours")
        (job,) = await rig.submit("theirs", origin="meproc")
        await wait_until_async(lambda: rig.count("h", "delivered") == 1)
        assert f'"id":"{job.id}"' in (tmp_path / "body").read_text()
        seen = (tmp_path / "env").read_text().splitlines()
        assert {"RUNYARD_EVENT=job.submitted", f"RUNYARD_JOB_ID={job.id}", "RUNYARD_JOB_NAME=theirs"} <= set(seen)
        assert not any("hush" in line for line in seen)

    with_rig(tmp_path, test)
    assert r"says: told\x1b[31m\ntwice" in caplog.text


def test_a_program_that_fails_is_started_again(tmp_path: Path) -> None:
    script = 'echo x >> "$0/tries"; [ $(wc -l < "$0/tries") -ge 3 ]'

    async def test(rig: Rig) -> None:
        rig.follow(program(tmp_path, script))
        await rig.submit("a")
        await wait_until_async(lambda: rig.count("h", "delivered") == 1)
        assert rig.waits == [1, 2]

    with_rig(tmp_path, test)


@pytest.mark.parametrize(
    "script", ["sleep 600 & echo $! > $0/pid; wait", "trap '' TERM; echo $$ > $0/pid; exec sleep 600"]
)
def test_a_program_that_hangs_is_killed_with_its_group(
    tmp_path: Path, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(rig: Rig) -> None:
        rig.follow(program(tmp_path, script, timeout=3.0, retries=0))
        await rig.submit("a")
        await wait_until_async(lambda: rig.count("h", "given_up") == 1)

    with_rig(tmp_path, test)
    assert "not done within 3 s: killed" in caplog.text
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(pid))


def test_what_a_program_leaves_behind_is_killed_and_it_is_done(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.follow(program(tmp_path, "sleep 600 & echo $! > $0/pid", timeout=30))
        await rig.submit("a")
        await wait_until_async(lambda: rig.count("h", "delivered") == 1)

    with_rig(tmp_path, test)
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_server_that_stops_takes_its_programs_along(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.start(program(tmp_path, "echo $$ > $0/pid.new; mv $0/pid.new $0/pid; exec sleep 600", timeout=600))
        await rig.submit("a")
        await wait_until_async((tmp_path / "pid").exists)
        await rig.stop_hooks()

    with_rig(tmp_path, test)
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_much_output_is_cut_and_a_missing_program_is_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def test(rig: Rig) -> None:
        rig.follow(program(tmp_path, "yes | head -c 3000000"))
        rig.follow(hook("missing", command=["/no/such/program"], retries=1))
        await rig.submit("a")
        await wait_until_async(lambda: rig.count("h", "delivered") == 1 and rig.count("missing", "given_up") == 1)

    with_rig(tmp_path, test)
    assert "/no/such/program can't be started: No such file or directory" in caplog.text
    (said,) = [record.getMessage() for record in caplog.records if "says" in record.getMessage()]
    assert said.endswith("(cut)") and len(said) < 10_000
