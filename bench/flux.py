"""The Flux door: reading and submitting jobs, 100 MB of output beside nginx, and a crowd that follows one output."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

import uvloop

from bench.figure import Figure
from bench.load import load
from bench.server import BenchServer, fresh, process_seconds

CLIENTS = 16
SIZE = 100 * 1024 * 1024
READERS = 200
#: Of the output that a crowd follows: lines, and seconds between them.
LINES, PAUSE = 100, 0.05
#: Each line says when it was written.
WRITER = f"import time\nfor _ in range({LINES}): print(time.time(), flush=True); time.sleep({PAUSE})\nprint('end')"


def measure() -> list[Figure]:
    with BenchServer() as server:
        return [*_requests(server), *_output(server), *_crowd(server)]


def submit(server: BenchServer, command: list[str], **options: object) -> int:
    body = json.dumps({"command": command, **options}).encode()
    with urllib.request.urlopen(f"{server.url}/v1/jobs/submit", body, timeout=60) as answer:
        return int(json.load(answer)["id"])


def show(server: BenchServer, job: int) -> dict[str, object]:
    with urllib.request.urlopen(f"{server.url}/v1/jobs/{job}", timeout=60) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def ended(server: BenchServer, job: int) -> None:
    while show(server, job)["returncode"] == "":
        time.sleep(0.01)


def _requests(server: BenchServer, count: int = 2000, rounds: int = 3) -> list[Figure]:
    """The bare handler is `/livez`. The submitted jobs wait behind one that has the node for itself."""
    done = submit(server, ["true"])
    ended(server, done)
    holder = submit(server, ["sleep", "600"], num_nodes=1, exclusive=True)
    asked = "/v1/jobs/submit?" + urlencode({"command": "true"})
    rates: dict[str, list[float]] = {"bare": [], "live": [], "ended": [], "submit": []}
    for number in range(rounds + 1):
        found = {
            "bare": load(server.port, "GET", "/livez", clients=CLIENTS, count=count, status=200),
            "live": load(server.port, "GET", f"/v1/jobs/{holder}", clients=CLIENTS, count=count, status=200),
            "ended": load(server.port, "GET", f"/v1/jobs/{done}", clients=CLIENTS, count=count, status=200),
            "submit": load(server.port, "POST", asked, clients=CLIENTS, count=count // 4, status=200),
        }
        if number:
            for name, one in found.items():
                rates[name].append(one.rate)
    request = urllib.request.Request(f"{server.url}/v1/jobs/{holder}/cancel", method="POST")
    urllib.request.urlopen(request, timeout=60).close()
    bare = median(rates["bare"])
    names = {"live": "records of a running job", "ended": "records of an ended job", "submit": "durable jobs submitted"}
    return [
        Figure(name=f"flux: {text}, to a bare handler", unit="/s", measured=median(rates[name]), reference=bare)
        for name, text in names.items()
    ]


def _output(server: BenchServer, rounds: int = 5) -> list[Figure]:
    job = submit(server, ["sh", "-c", f"yes 'a line of some output' | head -c {SIZE}"])
    ended(server, job)
    folder = fresh("nginx")
    (file,) = (path for path in (server.folder / "output").rglob(f"{job}.*.out"))
    shutil.copy(file, folder / "output.txt")
    ours, theirs = [], []
    path = f"{server.url}/v1/jobs/{job}/output/stream"
    _fetch(path)
    before = _peak(server.pid)
    with _nginx(folder) as url:
        for _ in range(rounds):
            ours.append(_fetch(path))
            if url is not None:
                theirs.append(_fetch(url))
    return [
        Figure(
            name="flux: 100 MB of output read, to nginx",
            unit="MB/s",
            measured=median(ours),
            reference=median(theirs) if theirs else None,
            least=0.25 if theirs else None,
        ),
        Figure(name="flux: memory that takes", unit="MB", measured=(_peak(server.pid) - before) / 2**20, most=20),
    ]


def _fetch(url: str) -> float:
    """MB per second."""
    done = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", url],
        capture_output=True,
        text=True,
        check=True,
    )
    size, seconds = done.stdout.split()
    if int(size) != SIZE:
        raise RuntimeError(f"{url} gave {size} bytes, not {SIZE}")
    return SIZE / 2**20 / float(seconds)


def _peak(pid: int) -> int:
    """The most memory that a process has ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no VmHWM of process {pid}")


@contextmanager
def _nginx(folder: Path) -> Iterator[str | None]:
    """nginx with this folder; None where it is not installed."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        print("flux: nginx is not installed (Debian's nginx-light): that comparison is left out")
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; user root; events {{}} "
        f"http {{ access_log off; sendfile on; {temp} server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    folder.chmod(0o755)
    process = subprocess.Popen(
        [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), "-p", str(folder)]
    )
    url = f"http://127.0.0.1:{port}/output.txt"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def _crowd(server: BenchServer) -> list[Figure]:
    job = submit(server, ["python3", "-c", "import time; time.sleep(2)\n" + WRITER])
    cpu, begin = process_seconds(server.pid), time.perf_counter()
    delays = uvloop.run(_follow(server.port, job))
    share = (process_seconds(server.pid) - cpu) / (time.perf_counter() - begin)
    delays.sort()
    if len(delays) != READERS * LINES:
        raise RuntimeError(f"{READERS} readers got {len(delays)} lines, not {READERS * LINES}")
    return [
        Figure(
            name=f"flux: a line to {READERS} readers, p99",
            unit="ms",
            measured=delays[int(len(delays) * 0.99)] * 1000,
            most=500,
        ),
        Figure(name=f"flux: CPU meanwhile, at {1 / PAUSE:g} lines a second", unit="cores", measured=share),
    ]


async def _follow(port: int, job: int) -> list[float]:
    """Seconds from the writing of each line to its coming, of all readers."""
    delays: list[float] = []

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET /v1/jobs/{job}/output/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        async for line in reader:
            # Between the lines of the output are those of the chunked coding.
            if line[:1] == b"1" and b"." in line:
                delays.append(time.time() - float(line))
        writer.close()

    await asyncio.gather(*(read() for _ in range(READERS)))
    return delays
