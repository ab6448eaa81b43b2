"""What the agent costs over a bare loop of posix_spawn: `python bench/spawn_agent.py [JOBS] [ROUNDS]`.

A: `posix_spawn` of /bin/true with two output files, pidfds, at most 16 at once. B: the same through an agent, launched
in frames of 500 from this process. A and B take turns, because machines swing; the ratio and the agent's own CPU time
a job (user + system) are what counts.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from runyard.executors.local import connect, start_agent
from runyard.model import wire
from runyard.model.ids import RunKey

FRAME = 500
WINDOW = 16


def bare(jobs: int, folder: Path) -> float:
    """Seconds."""
    folder.mkdir()
    env = {"PATH": os.environ["PATH"]}
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    epoll, live, started = select.epoll(), dict[int, int](), 0
    begin = time.perf_counter()
    while started < jobs or live:
        while started < jobs and len(live) < WINDOW:
            files = [(os.POSIX_SPAWN_OPEN, fd, f"{folder}/{started}.{fd}", flags, 0o600) for fd in (1, 2)]
            pid = os.posix_spawn(
                "/bin/true", ["true"], env, file_actions=files, setsid=True, setsigdef=[signal.SIGPIPE]
            )
            pidfd = os.pidfd_open(pid)
            epoll.register(pidfd, select.EPOLLIN)
            live[pidfd] = pid
            started += 1
        for pidfd, _ in epoll.poll(-1):
            os.wait4(live.pop(pidfd), 0)
            epoll.unregister(pidfd)
            os.close(pidfd)
    epoll.close()
    return time.perf_counter() - begin


def through_agent(jobs: int, folder: Path, job: int, agent: Path) -> float:
    """Seconds from the first launch to the last report of an exit."""
    env: dict[str, str] = {}
    launches = [
        wire.Launch(RunKey(job, number, 1), ["true"], env, None, f"{folder}/{number}.out", f"{folder}/{number}.err")
        for number in range(jobs)
    ]
    frames, ended = wire.Frames(), 0
    with connect(agent, "agent.sock") as sock:
        begin = time.perf_counter()
        sock.settimeout(60)
        for start in range(0, jobs, FRAME):
            sock.sendall(wire.encode_frame(launches[start : start + FRAME]))
        while ended < jobs:
            seq = 0
            for body in frames.feed(sock.recv(1 << 18)):
                for message in wire.decode_from_agent(body):
                    if isinstance(message, wire.Exited):
                        if message.exit_code != 0:
                            raise SystemExit(f"a run has failed: {message}")
                        ended += 1
                    if isinstance(message, wire.Started | wire.Exited):
                        seq = message.seq
            if seq:
                sock.sendall(wire.encode_frame([wire.Ack(seq)]))
        return time.perf_counter() - begin


def cpu(pid: int) -> tuple[float, float]:
    """User and system seconds of the process itself."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


def memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as place:
        root = Path(place)
        process = start_agent(root / "agent", idle_exit=600)
        while not (root / "agent" / "agent.sock").exists():
            time.sleep(0.01)
        fresh = memory(process.pid)
        ratios = []
        for number in range(rounds):
            a = bare(jobs, root / f"a{number}")
            before = cpu(process.pid)
            b = through_agent(jobs, root / f"b{number}", number + 1, root / "agent")
            after = cpu(process.pid)
            user, system = ((late - early) / jobs * 1e3 for early, late in zip(before, after, strict=True))
            ratios.append(b / a)
            print(
                f"A {jobs / a:6.0f}/s   B {jobs / b:6.0f}/s   B/A time {b / a:.2f}   "
                f"agent CPU {user + system:.3f} ms a job ({user:.3f} user, {system:.3f} system)"
            )
        print(f"median B/A {statistics.median(ratios):.2f}; agent RSS {fresh} kB fresh, {memory(process.pid)} kB after")
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
