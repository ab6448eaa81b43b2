"""Where a flow's document wants its trace (spec/modelbox.md 7.5)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from runyard.flow.document import Profile
from runyard.flow.problem import BadFlow, Problem

VARIABLE = "PROFILE_PATH"
"""Environment variable that wins over `profile.dir`."""
SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Directories in and below which nothing is recorded."""


def trace_path(profile: Profile) -> Path | None:
    """A new file in the profile's directory, which is made; None if no trace is asked for. Raises BadFlow."""
    if not profile.trace:
        return None
    folder = Path(os.environ.get(VARIABLE) or profile.directory)
    real = folder.resolve()
    if real == Path("/") or any(real.is_relative_to(system) for system in SYSTEM):
        raise BadFlow([Problem(f"profile.dir {str(folder)!r} is a system directory", hint="name one of your own")])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFlow([Problem(f"profile.dir {str(folder)!r} can't be made: {error.strerror}")]) from None
    return folder / f"trace_{time.strftime('%Y%m%d%H%M%S')}_{os.getpid()}.json"
