"""Proves the GPU fields on a machine that has a GPU: `python -m bench.gpu_probe`. Needs NVIDIA's driver, and no CUDA
library beyond the driver's own.

A job takes memory of the first GPU and keeps it busy, by the driver's API; what `/k12ai/platform/stats`,
`/api/v1/nodes`, `/metrics` and the job's usage say is compared with `nvidia-smi`. Exits with 1 if something is not as
it should be, and with 2 where there is no GPU.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
import urllib.request
from typing import Any

from bench.server import BenchServer

MB = 1 << 20
#: Taken by the job.
HELD = 1024 * MB
SECONDS = 60

#: The job: a context on GPU 0, `HELD` bytes, and memory sets without end. Only libcuda, which the driver brings.
PROGRAM = f"""
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
def check(code, what):
    if code: raise SystemExit(f"{{what}}: CUDA error {{code}}")
check(cuda.cuInit(0), "cuInit")
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t({HELD})), "cuMemAlloc")
print("up", flush=True)
end = time.monotonic() + {SECONDS}
while time.monotonic() < end:
    for _ in range(50):
        check(cuda.cuMemsetD32_v2(memory, 7, ctypes.c_size_t({HELD // 4})), "cuMemsetD32")
    check(cuda.cuCtxSynchronize(), "cuCtxSynchronize")
"""


def main() -> int:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        print("there is no NVIDIA driver on this machine")
        return 2
    failed: list[str] = []

    def check(good: bool, text: str) -> None:
        print(("ok    " if good else "WRONG ") + text)
        if not good:
            failed.append(text)

    with BenchServer(env={"RUNYARD_TELEMETRY__INTERVAL": "0.5"}) as server:
        job = _ask(server, "/api/v1/jobs", {"name": "probe", "command": [sys.executable, "-c", PROGRAM]})
        deadline = time.monotonic() + SECONDS
        usage: dict[str, Any] = {}
        while time.monotonic() < deadline:
            usage = _ask(server, f"/api/v1/jobs/{job['id']}/usage")
            if any(run["gpu_memory"] >= HELD and run["gpu_percent"] > 0 for run in usage["runs"]):
                break
            time.sleep(0.5)
        stats = _ask(server, "/k12ai/platform/stats", {})["info"]
        node = _ask(server, "/api/v1/nodes")["items"][0]["host"]
        metrics = _text(server, "/metrics")
        smi = _smi()
        print(json.dumps({"smi": smi, "gpus": stats["gpus"], "node": node["gpus"], "usage": usage["runs"]}, indent=1))
        check(len(stats["gpus"]) == len(smi) > 0, f"{len(smi)} GPUs")
        for ours, theirs in zip(stats["gpus"], smi, strict=True):
            check(ours["name"] == theirs["name"] and ours["uuid"] == theirs["uuid"], f"name and uuid: {ours['name']}")
            check(abs(ours["gpu_memory_total_MB"] - float(theirs["memory.total"])) < 2, "total memory")
            near = abs(ours["gpu_memory_usage_MB"] - float(theirs["memory.used"]))
            check(near < 64, f"memory in use, {near:.0f} MiB from what nvidia-smi says")
        check(stats["gpus"][0]["gpu_percent"] > 0, f"gpu_percent: {stats['gpus'][0]['gpu_percent']}")
        check(node["gpus"][0]["temperature"] is not None, f"temperature: {node['gpus'][0]['temperature']}")
        check(node["gpus"][0]["power"] is not None, f"power: {node['gpus'][0]['power']}")
        container: dict[str, Any] = next((one for one in stats["containers"] if one["service_uuid"] == "probe"), {})
        check(container.get("gpu_memory_usage", 0) >= HELD, f"GPU memory of the job: {container}")
        check(any(run["gpu_percent"] > 0 for run in usage["runs"]), "GPU use of the job")
        check("runyard_gpu_ratio{" in metrics and "runyard_job_gpu_memory_bytes{" in metrics, "/metrics")
        _ask(server, f"/api/v1/jobs/{job['id']}/cancel", {})
    return 1 if failed else 0


def _smi() -> list[dict[str, str]]:
    fields = ["name", "uuid", "memory.total", "memory.used", "utilization.gpu"]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    return [dict(zip(fields, line.split(", "), strict=True)) for line in lines]


def _ask(server: BenchServer, path: str, body: dict[str, Any] | None = None) -> Any:
    return json.loads(_text(server, path, body))


def _text(server: BenchServer, path: str, body: dict[str, Any] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(server.url + path, data), timeout=60) as answer:
        text: str = answer.read().decode()
        return text


if __name__ == "__main__":
    sys.exit(main())
