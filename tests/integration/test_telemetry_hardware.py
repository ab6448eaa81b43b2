"""Telemetry against what is really there: processes, control groups, NVML's binding, a Docker Engine's socket."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runyard.model.errors import NotFound
from runyard.model.ids import RunKey
from runyard.telemetry import docker as docker_module
from runyard.telemetry.docker import Docker
from runyard.telemetry.gpu import GpuSample
from runyard.telemetry.host import HostMeter, disks
from runyard.telemetry.runs import RunMeter, Target
from runyard.telemetry.section import Degraded
from tests import nvml
from tests.docker_engine import Box, Engine
from tests.helpers import wait_until

MB = 1 << 20
K12 = {"k12ai.service.name": "k12cv", "k12ai.service.op": "train.start", "k12ai.service.user": "u1"}

# The host ---------------------------------------------------------------------------------------------------------


def test_the_host_has_processors_memory_and_disks(tmp_path: Path) -> None:
    meter = HostMeter(tmp_path)
    host, memory = meter.take()
    assert len(host.cpus) == os.cpu_count()
    assert all(0 <= share <= 100 for share in [host.cpu_percent, *host.cpus])
    assert 0 < memory.used < memory.total and 0 < memory.free <= memory.total and host.memory_total == memory.total
    found = disks()
    assert len({disk.path for disk in found}) == len(found)
    assert all(disk.used <= disk.total for disk in found)


# Runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that lead sessions of their own, as runs do; ended with all that is in their sessions."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def start(started: list[subprocess.Popen[bytes]], *command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.append(process)
    return process


def test_a_run_is_its_whole_tree_and_its_cpu_time_never_goes_back(started: list[subprocess.Popen[bytes]]) -> None:
    # A child that works and ends when it is told, one whose parent has gone, and 32 MB in the main process.
    program = """
import os, sys
held = bytearray(os.urandom(1 << 20)) * 32
worker = os.fork()
if worker == 0:
    while True: sum(range(10000))
between = os.fork()
if between == 0:
    if os.fork() == 0:
        import time; time.sleep(600)
    os._exit(0)
os.waitpid(between, 0)
print("up", flush=True)
sys.stdin.readline()
os.kill(worker, 9)
os.waitpid(worker, 0)
print("worker gone", flush=True)
sys.stdin.readline()
"""
    process = start(started, sys.executable, "-c", program)
    idle = start(started, "sleep", "600")
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"up\n"
    run, other, gone = RunKey(1, 0, 1), RunKey(2, 0, 1), RunKey(3, 0, 1)
    targets = [Target(run, process.pid), Target(other, idle.pid), Target(gone, 2**22 + 5)]
    meter = RunMeter()

    def busy() -> bool:
        figures = meter.take(targets)
        return figures[run].cpu_seconds > 0.2

    wait_until(busy, 60)
    found = meter.take(targets)
    assert found.keys() == {run, other}
    assert found[run].processes == 3 and set(found[run].pids) >= {process.pid}
    assert 32 * MB < found[run].memory < 500 * MB
    assert found[other].processes == 1 and found[other].cpu_seconds < found[run].cpu_seconds
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"worker gone\n"
    after = meter.take(targets)[run]
    assert after.processes == 2 and after.cpu_seconds >= found[run].cpu_seconds
    assert meter.take([]) == {}


def test_runs_that_share_a_process_share_its_figures(started: list[subprocess.Popen[bytes]]) -> None:
    process = start(started, sys.executable, "-c", "held = bytearray(1 << 25); print('up', flush=True); input()")
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    one = RunMeter().take([Target(RunKey(1, 0, 1), process.pid)])
    both = RunMeter().take([Target(RunKey(1, 0, 1), process.pid), Target(RunKey(2, 0, 1), process.pid)])
    assert both[RunKey(1, 0, 1)].memory == both[RunKey(2, 0, 1)].memory == one[RunKey(1, 0, 1)].memory // 2


def test_what_has_a_control_group_is_what_is_in_the_group(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """The kernel's files as they stand for a run of the agent, in a folder: not every host lets us make a group."""
    run = RunKey(5, 0, 1)
    inside = start(started, "sleep", "600")
    outside = start(started, "sleep", "600")
    group = tmp_path / "tree" / "runyard-a1" / str(run)
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text(f"{inside.pid}\n{outside.pid}\n")
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n")
    (group / "memory.current").write_text(f"{64 * MB}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {16 * MB}\n")
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    mount = f"30 24 0:26 / {tmp_path / 'tree'} rw,relatime shared:9 - cgroup2 cgroup rw\n"
    (proc / "self" / "mountinfo").write_text(f"22 1 0:20 / /sys rw - sysfs sysfs rw\n{mount}")
    for pid in (inside.pid, outside.pid):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "stat").write_bytes(Path(f"/proc/{pid}/stat").read_bytes())
        (proc / str(pid) / "cgroup").write_text(f"9:cpu:/\n0::/runyard-a1/{run}\n")
    found = RunMeter(str(proc)).take([Target(run, inside.pid)])[run]
    assert (found.cpu_seconds, found.memory) == (2.5, 48 * MB)
    assert sorted(found.pids) == sorted([inside.pid, outside.pid])
    # A group of that name that the agent has not made for this run says nothing about it.
    (proc / str(inside.pid) / "cgroup").write_text("0::/user.slice\n")
    assert RunMeter(str(proc)).take([Target(run, inside.pid)])[run].pids == [inside.pid]


# GPUs -------------------------------------------------------------------------------------------------------------

_ASK = """
import msgspec, sys
from runyard.telemetry.gpu import Nvml
from runyard.telemetry.section import Degraded
nvml = Nvml()
try:
    samples = [nvml.take(), nvml.take()]
    nvml.close()
except Degraded as error:
    sys.exit(str(error))
assert samples[0] == samples[1]
sys.stdout.buffer.write(msgspec.json.encode(samples[1]))
"""


def ask_nvml(env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", _ASK], env={**os.environ, **env}, capture_output=True, timeout=60)


def test_gpus_are_what_nvml_says_with_what_a_device_lacks_left_out(tmp_path: Path) -> None:
    env = nvml.build(tmp_path)
    Path(env["FAKE_NVML"]).write_text(f"10 0 {MB} 30 5\n10 0 {MB} 30 5\n11 0 5 60 1\n10 1 {2 * MB} 9 9\n")
    answer = ask_nvml(env)
    assert answer.returncode == 0, answer.stderr
    sample = msgspec.json.decode(answer.stdout, type=GpuSample)
    first, second = sample.gpus
    assert (first.index, first.name, first.uuid, first.percent) == (0, "Fake GPU 0", "GPU-fake-0", 42.0)
    assert (first.memory_used, first.memory_free, first.memory_percent) == (300 * MB, 600 * MB, 30.0)
    assert (first.temperature, first.power) == (55, 70.5)
    assert (second.percent, second.memory_used, second.temperature, second.power) == (0.0, 500 * MB, None, None)
    mine = sample.of({10})
    assert (mine.percent, mine.memory_percent, mine.memory) == (30.0, 5.0, 4 * MB)
    assert sample.of({12}).memory == 0
    broken = ask_nvml(env | {"FAKE_NVML_BROKEN": "1"})
    assert broken.returncode == 1 and b"the NVIDIA driver does not answer" in broken.stderr


# Containers -------------------------------------------------------------------------------------------------------


def test_containers_are_those_with_the_label_and_one_that_vanishes_takes_no_other_along() -> None:
    async def main(engine: Engine) -> None:
        docker = Docker(engine.address)
        (one,) = await docker.containers()
        assert one.id == engine.boxes[0].id and one.labels == K12
        assert (one.cpu_percent, one.memory_used, one.memory_percent) == (50.0, 355155968, 8.57)
        assert (one.pid, one.started_at, one.pids) == (4321, "2026-11-22T08:00:00.5Z", [])
        assert "/containers/" + engine.boxes[1].id + "/stats" not in engine.asked
        # With an earlier look to compare with, and with what `top` says once GPUs are in use.
        engine.top = [11, 12]
        (one,) = await docker.containers(gpu_pids=True)
        assert (one.cpu_percent, one.pids) == (50.0, [11, 12])
        # Who it is does not change.
        assert engine.asked.count(f"/containers/{one.id}/json") == 1
        await docker.close()

    with Engine() as engine:
        engine.boxes = [Box("a1", "k12", K12), Box("b2", "other", {"x": "y"}), Box("c3", "gone", K12)]
        engine.boxes[2].vanished = True
        asyncio.run(main(engine))


def test_a_container_whose_figures_do_not_come_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(engine: Engine) -> None:
        docker = Docker(engine.address)
        (before,) = await docker.containers()
        engine.silent.set()
        monkeypatch.setattr(docker_module, "TIMEOUT", 0.2)
        assert await docker.containers() == [before]
        await docker.close()

    with Engine() as engine:
        engine.boxes = [Box("a1", "k12", K12)]
        asyncio.run(main(engine))


def test_a_container_is_found_by_id_prefix_and_name_and_stopped_only_with_the_label() -> None:
    async def main(engine: Engine) -> None:
        docker = Docker(engine.address)
        box = engine.boxes[0]
        for ref in (box.id, "a1a1", "k12"):
            assert (await docker.find(ref)).id == box.id
        for ref in ("other", "nobody", "../../etc", "a b", ""):
            with pytest.raises(NotFound):
                await docker.find(ref)
        await docker.stop(box.id)
        assert not box.running
        await docker.stop(box.id)
        with pytest.raises(NotFound):
            await docker.stop("ffff")
        await docker.close()

    with Engine() as engine:
        engine.boxes = [Box("a1", "k12", K12), Box("b2", "other", {"x": "y"})]
        asyncio.run(main(engine))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("unix:///nowhere/docker.sock", "there is no Docker Engine on this host"),
        ("tcp://127.0.0.1:9", "no Docker Engine answers at tcp://127.0.0.1:9"),
        ("none", "docker is none"),
        ("ssh://host", "can't be asked"),
    ],
)
def test_a_host_without_docker_says_so_and_is_not_asked_again_at_once(address: str, reason: str) -> None:
    now = [0.0]

    async def main() -> None:
        docker = Docker(address, clock=lambda: now[0])
        for moment in (0.0, docker_module.RETRY - 1, docker_module.RETRY + 1):
            now[0] = moment
            with pytest.raises(Degraded, match=reason):
                await docker.containers()
        with pytest.raises(NotFound, match=reason):
            await docker.find("abc")
        await docker.close()

    asyncio.run(main())


def test_what_is_no_docker_engine_is_not_taken_for_one(tmp_path: Path) -> None:
    async def main() -> None:
        async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(page, tmp_path / "x.sock")
        docker = Docker(f"unix://{tmp_path / 'x.sock'}")
        with pytest.raises(Degraded, match="does not answer like a Docker Engine"):
            await docker.containers()
        await docker.close()
        server.close()

    asyncio.run(main())
