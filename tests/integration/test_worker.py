"""The Python worker with real processes: coroutines that share one, programs of their own, and what can go wrong."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.executors.local import agent_status, stop_agent
from runyard.executors.protocol import Report, Synced
from runyard.executors.worker import WorkerExecutor
from runyard.model import wire
from tests.agents import AgentProcess, alive, status_of
from tests.helpers import wait_until_async


class Worker:
    """A worker's folder, an executor for it, and all that the executor has said."""

    def __init__(self, root: Path) -> None:
        self.code = root / "code"
        self.code.mkdir()
        self.agent = AgentProcess(root)
        self.executor = WorkerExecutor(self.agent.folder, name="py", idle_exit=0.3)
        self.reports: list[Report] = []
        self.synced: list[Synced] = []
        self.down: list[str] = []

    async def start(self) -> None:
        await self.executor.start(self.reports.extend, self.synced.append, self.down.append)

    def write(self, name: str, text: str) -> None:
        path = self.code / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def launch(self, *argv: str, **options: Any) -> wire.Launch:
        options.setdefault("cwd", str(self.code))
        launch = self.agent.launch(argv, **options)
        self.executor.launch([launch])
        return launch

    def find(self, launch: wire.Launch, kind: type[Any]) -> Any:
        return next((r for r in self.reports if isinstance(r, kind) and r.run == launch.run), None)

    async def started(self, launch: wire.Launch) -> wire.Started:
        return await wait_until_async(lambda: self.find(launch, wire.Started), 60, f"start of {launch.argv}")

    async def exited(self, launch: wire.Launch) -> wire.Exited:
        return await wait_until_async(lambda: self.find(launch, wire.Exited), 60, f"end of {launch.argv}")

    async def says(self, launch: wire.Launch, text: str) -> None:
        def said() -> bool:
            path = Path(launch.stdout)
            return path.exists() and text in path.read_text()

        await wait_until_async(said, 60, f"{text!r} in the output of {launch.argv}")

    def out(self, launch: wire.Launch) -> str:
        return Path(launch.stdout).read_text()

    def err(self, launch: wire.Launch) -> str:
        path = Path(launch.stderr)
        return path.read_text() if path.exists() else ""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    try:
        yield worker
    finally:
        asyncio.run(stop_agent(worker.agent.folder, kill=True))
        worker.agent.close()


def run(worker: Worker, test: Callable[[], Awaitable[None]]) -> None:
    async def body() -> None:
        await worker.start()
        try:
            await test()
        finally:
            await worker.executor.close()

    asyncio.run(body())


WAIT = """
    import asyncio
    async def main():
        print("up", flush=True)
        await asyncio.Event().wait()
"""


def test_200_coroutines_share_a_process_and_keep_their_output_apart(worker: Worker) -> None:
    worker.write(
        "many.py",
        """
        import asyncio, logging, sys
        gate = asyncio.Event()
        async def child(ctx):
            print("child of", ctx.args[0])
        async def main(ctx):
            number = ctx.args[0]
            for turn in range(5):
                print("line", number, turn)
                await asyncio.sleep(0.01)
            await asyncio.create_task(child(ctx))
            await asyncio.to_thread(print, "thread of", number)
            await asyncio.get_running_loop().run_in_executor(None, print, "executor of", number)
            logging.warning("warning of %s", number)
            ctx.log.info("log of %s", number)
            print("error of", number, file=sys.stderr)
        """,
    )

    async def test() -> None:
        launches = [worker.agent.launch(["many.py", str(n)], cwd=str(worker.code)) for n in range(200)]
        worker.executor.launch(launches)
        pids = set()
        for number, launch in enumerate(launches):
            ended = await worker.exited(launch)
            assert (ended.exit_code, ended.signal, ended.reason) == (0, None, None)
            pids.add(ended.pid)
            lines = [f"line {number} {turn}" for turn in range(5)]
            lines += [f"child of {number}", f"thread of {number}", f"executor of {number}"]
            assert worker.out(launch).splitlines() == lines
            assert f"warning of {number}\n" in worker.err(launch) and f"INFO log of {number}\n" in worker.err(launch)
            assert worker.err(launch).count("\n") == 3
        assert len(pids) == 1
        keeper = agent_status(worker.agent.folder).pid
        assert keeper is not None and int(status_of(keeper)["VmRSS"].split()[0]) < 30_000

    run(worker, test)


def test_ctx_and_eval_data(worker: Worker) -> None:
    text = """
        import json, os
        def show(ctx):
            assert json.loads(EVAL_DATA) == json.loads(ctx.env["EVAL_DATA"])
            print(json.dumps([ctx.conf, ctx.alias, ctx.args, ctx.env["COLOUR"], ctx.cwd, ctx.env["RUNYARD_REPLICA"]]))
        async def shared(ctx):
            show(ctx)
        """
    worker.write("pack/tasks.py", text)
    worker.write("pack/__init__.py", "")
    worker.write("script.py", "import os, sys\nprint(EVAL_DATA == os.environ['EVAL_DATA'], sys.argv[1:], __name__)\n")

    async def test() -> None:
        data = json.dumps({"conf": {"interval": 3}, "alias": "task:0"})
        env = {"EVAL_DATA": data, "COLOUR": "red"}
        shared = [
            worker.launch("pack/tasks.py:shared", "a", "b", env=env),
            worker.launch("pack.tasks:shared", "a", "b", env=env),
            worker.launch("pack.tasks:show", "a", "b", env=env),
            worker.launch("pack/tasks.py:shared", "a", "b", env=env, nice=1),
        ]
        for launch in shared:
            assert (await worker.exited(launch)).exit_code == 0, worker.err(launch)
            shown = [{"interval": 3}, "task:0", ["a", "b"], "red", str(worker.code), "0"]
            assert json.loads(worker.out(launch)) == shown
        script = worker.launch("script.py", "x", env=env)
        assert (await worker.exited(script)).exit_code == 0
        assert worker.out(script) == "True ['x'] __main__\n"
        bad = worker.launch("script.py", env={"EVAL_DATA": "{"})
        ended = await worker.exited(bad)
        assert ended.pid == 0 and "EVAL_DATA is not JSON" in (ended.reason or "")

    run(worker, test)


def test_how_it_ends_is_told(worker: Worker) -> None:
    worker.write(
        "ends.py",
        """
        import asyncio, sys
        async def raises():
            await asyncio.sleep(0)
            raise ValueError("no such colour")
        async def exits():
            sys.exit(7)
        async def exits_in_a_child():
            async def child():
                sys.exit(5)
            task = asyncio.create_task(child())
            await asyncio.Event().wait()
        async def says_why():
            sys.exit("out of paint")
        async def names_a_strange_file():
            raise ValueError("no \\udcff.txt")
        async def is_silent():
            class Silent:
                def __str__(self):
                    raise KeyError("no text")
            sys.exit(Silent())
        async def leaves_children():
            async def child():
                try:
                    await asyncio.Event().wait()
                finally:
                    print("child ended")
            asyncio.create_task(child())
            await asyncio.sleep(0)
        async def cancels_itself():
            asyncio.current_task().cancel()
            await asyncio.sleep(1)
        def plain():
            raise ValueError("no such shape")
        """,
    )
    expected: dict[str, tuple[int, str | None]] = {
        "raises": (1, "ValueError: no such colour"),
        "exits": (7, None),
        "exits_in_a_child": (5, None),
        "says_why": (1, "out of paint"),
        "names_a_strange_file": (1, r"ValueError: no \udcff.txt"),
        "is_silent": (1, "how it ended can't be told: KeyError"),
        "leaves_children": (0, None),
        "cancels_itself": (1, "CancelledError: it was cancelled by its own code, not by a stop"),
        "plain": (1, "ValueError: no such shape"),
    }

    async def test() -> None:
        launches = {name: worker.launch(f"ends.py:{name}") for name in expected}
        for name, launch in launches.items():
            ended = await worker.exited(launch)
            assert (ended.exit_code, ended.reason) == expected[name], name
        for name in ("raises", "plain"):
            trace = worker.err(launches[name])
            assert trace.startswith("Traceback (most recent call last):\n")
            assert "ends.py" in trace and "runyard" not in trace
        assert worker.out(launches["leaves_children"]) == "child ended\n"
        assert len({(await worker.exited(launches[name])).pid for name in expected if name != "plain"}) == 1

    run(worker, test)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("gone.py", "there is no file"),
        ("here.py:gone", "there is no function 'gone' in"),
        ("no.such:thing", "there is no module 'no'"),
        ("here.thing:main", "is a module, not a package"),
        ("broken.py", "line 2: SyntaxError"),
        ("pipe.py", "is no regular file"),
        ("/bin/true", "is no Python target"),
        ("here.py:not a name", "is no name of a function"),
    ],
)
def test_what_is_missing_is_said_where(worker: Worker, target: str, reason: str) -> None:
    worker.write("here.py", "async def main():\n    pass\n")
    worker.write("broken.py", "async def main():\n    retrun 1 2\n")
    os.mkfifo(worker.code / "pipe.py")

    async def test() -> None:
        ended = await worker.exited(worker.launch(target))
        assert (ended.pid, ended.exit_code, ended.signal) == (0, None, None)
        assert ended.reason is not None and reason in ended.reason
        assert len(worker.reports) == 1

    run(worker, test)


def test_a_stop_is_announced_then_cancels(worker: Worker) -> None:
    worker.write(
        "polite.py",
        """
        import asyncio
        async def finishes(ctx):
            print("up")
            await ctx.stop.wait()
            print("finished")
        async def cleans_up():
            try:
                print("up")
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                print("cleaned up")
        async def looks_but_goes_on(ctx):
            print("up", ctx.stop.is_set())
            await asyncio.Event().wait()
        """,
    )

    async def test() -> None:
        for options in ({}, {"nice": 1}):
            launches = [
                worker.launch(f"polite.py:{name}", grace=3.0, **options)
                for name in ("finishes", "cleans_up", "looks_but_goes_on")
            ]
            for launch in launches:
                await worker.says(launch, "up")
                worker.executor.stop(wire.Stop(launch.run, signal.SIGTERM, 3.0))
            ends = [await worker.exited(launch) for launch in launches]
            assert [(end.exit_code, end.signal) for end in ends] == [(0, None), (None, 15), (None, 15)]
            assert worker.out(launches[0]) == "up\nfinished\n" and worker.out(launches[1]) == "up\ncleaned up\n"
            assert ends[1].at < ends[2].at

    run(worker, test)


def test_who_blocks_the_loop_is_ended_and_named(worker: Worker) -> None:
    worker.write("waits.py", WAIT)
    worker.write(
        "blocks.py",
        """
        async def main():
            print("up", flush=True)
            while True:
                pass
        """,
    )

    async def test() -> None:
        innocent = worker.launch("waits.py")
        await worker.says(innocent, "up")
        blocker = worker.launch("blocks.py")
        await worker.says(blocker, "up")
        host = (await worker.started(blocker)).pid
        worker.executor.stop(wire.Stop(blocker.run, signal.SIGTERM, 3.0))
        ended, lost = await worker.exited(blocker), await worker.exited(innocent)
        assert (ended.exit_code, ended.signal) == (None, signal.SIGKILL)
        assert "it blocked the event loop at" in (ended.reason or "") and "blocks.py" in (ended.reason or "")
        assert (lost.exit_code, lost.signal) == (None, None)
        assert f"was ended because run {blocker.run} blocked the event loop" in (lost.reason or "")
        assert not alive(host)
        # The next one gets a new process, and the keeper never went away.
        again = worker.launch("waits.py")
        await worker.says(again, "up")
        assert (await worker.started(again)).pid != host and worker.down == []
        worker.executor.stop(wire.Stop(again.run, signal.SIGTERM, 5))
        await worker.exited(again)

    run(worker, test)


def test_the_time_limit_of_a_coroutine_that_ignores_its_cancellation(worker: Worker) -> None:
    worker.write(
        "stubborn.py",
        """
        import asyncio
        async def main():
            while True:
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    print("no")
        """,
    )

    async def test() -> None:
        launch = worker.launch("stubborn.py", time_limit=0.3, grace=2.0)
        ended = await worker.exited(launch)
        assert ended.timed_out and ended.signal == signal.SIGKILL
        assert "the time limit of 0.3 s" in (ended.reason or "")
        assert "it did not end when it was cancelled" in (ended.reason or "")
        assert worker.out(launch) == "no\n"

    run(worker, test)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("os._exit(3)", "ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    ],
)
def test_a_crash_touches_only_the_coroutines_of_that_process(worker: Worker, deed: str, reason: str) -> None:
    worker.write("waits.py", WAIT)
    worker.write("other/waits.py", WAIT)
    worker.write("crash.py", f"import os, signal\nasync def main():\n    {deed}\n")
    worker.write("script.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n")

    async def test() -> None:
        near, far, script = worker.launch("waits.py"), worker.launch("other/waits.py"), worker.launch("script.py")
        for launch in (near, far, script):
            await worker.says(launch, "up")
        crash = worker.launch("crash.py")
        for launch in (crash, near):
            ended = await worker.exited(launch)
            assert (ended.exit_code, ended.signal) == (None, None) and reason in (ended.reason or "")
        again = worker.launch("waits.py")
        await worker.says(again, "up")
        for launch in (far, script):
            assert worker.find(launch, wire.Exited) is None and alive((await worker.started(launch)).pid)
        for launch in (far, script, again):
            worker.executor.stop(wire.Stop(launch.run, signal.SIGTERM, 5))
            assert (await worker.exited(launch)).signal == signal.SIGTERM

    run(worker, test)


def test_processes_of_coroutines_end_with_their_host(worker: Worker) -> None:
    worker.write(
        "parent.py",
        """
        import asyncio, os
        async def main():
            child = await asyncio.create_subprocess_exec("setsid", "sleep", "600")
            print(child.pid)
            while b"sleep" not in open(f"/proc/{child.pid}/cmdline", "rb").read()[:5]:
                await asyncio.sleep(0.01)
            os._exit(0)
        """,
    )

    async def test() -> None:
        launch = worker.launch("parent.py")
        ended = await worker.exited(launch)
        assert "exit code 0" in (ended.reason or "") and ended.exit_code is None
        assert not alive(int(worker.out(launch)))

    run(worker, test)


def test_a_killed_worker_is_replaced(worker: Worker) -> None:
    """Programs are found again by the next one; coroutines are lost, and said to be."""
    worker.write("waits.py", WAIT)
    worker.write(
        "script.py", "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
    )

    async def test() -> None:
        task, script = worker.launch("waits.py"), worker.launch("script.py")
        for launch in (task, script):
            await worker.says(launch, "up")
        host = (await worker.started(task)).pid
        pid = agent_status(worker.agent.folder).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        lost = await worker.exited(task)
        assert (lost.exit_code, lost.signal) == (None, None) and "its worker was ended" in (lost.reason or "")
        await wait_until_async(lambda: not alive(host))
        await wait_until_async(lambda: len(worker.synced) == 2)
        assert worker.down == ["py"] and script.run in worker.synced[1].live
        # Nothing is started twice.
        worker.executor.launch([task])
        again = worker.launch("waits.py")
        await worker.says(again, "up")
        assert sum(isinstance(r, wire.Started) and r.run == task.run for r in worker.reports) <= 2
        (worker.code / "go").touch()
        await worker.exited(script)
        worker.executor.stop(wire.Stop(again.run, signal.SIGTERM, 5))
        await worker.exited(again)

    run(worker, test)


def test_no_process_until_it_is_needed_and_none_after(worker: Worker) -> None:
    worker.write("ok.py", "async def main():\n    print('ok')\n")

    async def test() -> None:
        await wait_until_async(lambda: worker.synced)
        assert worker.synced[0].live == frozenset() and worker.synced[0].node.executor == "python"
        assert not worker.agent.folder.exists()
        for _ in range(2):
            launch = worker.launch("ok.py")
            assert (await worker.exited(launch)).exit_code == 0
            worker.executor.ack(worker.reports[-1].seq)
            await wait_until_async(lambda: worker.executor.asleep, 60, "the end of the idle worker")
        assert len(worker.synced) == 1 and worker.down == []

    run(worker, test)


def test_a_coroutine_for_a_certain_user_gets_a_process_of_its_own(worker: Worker) -> None:
    worker.write("who.py", "import os\nasync def main():\n    print(os.environ.get('RUNYARD_ATTEMPT'), os.getpid())\n")

    async def test() -> None:
        user = pwd.getpwuid(os.geteuid()).pw_name
        own, shared = worker.launch("who.py", user=user), worker.launch("who.py")
        assert (await worker.exited(own)).exit_code == 0, worker.err(own)
        assert worker.out(own) == f"1 {(await worker.started(own)).pid}\n"
        await worker.exited(shared)
        assert worker.out(shared) == f"None {(await worker.started(shared)).pid}\n"
        assert (await worker.started(own)).pid != (await worker.started(shared)).pid
        unknown = await worker.exited(worker.launch("who.py", user="nobody-of-that-name"))
        assert unknown.pid == 0 and "there is no user" in (unknown.reason or "")

    run(worker, test)


def test_each_run_has_globals_of_its_own_and_helpers_of_its_folder(worker: Worker) -> None:
    for folder in ("red", "blue"):
        worker.write(f"{folder}/helper.py", f"colour = {folder!r}\n")
        worker.write(
            f"{folder}/job.py",
            """
            import helper
            count = 0
            async def main():
                global count
                count += 1
                print(helper.colour, count)
            """,
        )

    async def test() -> None:
        for folder in ("red", "blue", "red"):
            launch = worker.launch(f"{folder}/job.py")
            await worker.exited(launch)
            assert worker.out(launch) == f"{folder} 1\n"

    run(worker, test)
