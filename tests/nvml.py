"""NVIDIA's management library for hosts without a GPU: compiled from `tests/data/nvml.c`, bound by the real binding."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parent / "data" / "nvml.c"


def build(folder: Path) -> dict[str, str]:
    """The environment in which a new process finds the library, and the file with GPU processes (`FAKE_NVML`, which is
    not there yet). Skips the test without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, _SOURCE], check=True, timeout=60)
    return {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(folder / "processes")}
