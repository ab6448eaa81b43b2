"""cgroup v2: a group of its own for each run that asks for memory or CPU limits, if there is a tree we may write.

What is there is found out once, at the start. The tree may be mounted anywhere (`/sys/fs/cgroup`, or its `unified`
folder on hybrid hosts), and the controllers may be missing: then a group still ends and counts a whole process tree.
"""

from __future__ import annotations

import os
from contextlib import suppress

_PERIOD = 100_000


class Cgroups:
    """`root`: the folder in which runs get their groups, None without a writable tree. `note` says what is missing."""

    def __init__(self, agent: str, tree: str | None = None) -> None:
        """`agent` names this agent's folder; `tree` is the folder to make it in (found by itself if None)."""
        self.root: str | None = None
        self.memory = self.cpu = False
        self.note: str | None = None
        tree = tree or _own_group()
        if tree is None:
            self.note = "no cgroup v2 tree is mounted: memory limits hold for each process alone, cpus not at all"
            return
        if not os.path.isdir(tree) or not os.access(tree, os.W_OK):
            self.note = (
                f"the cgroup tree at {tree} can't be written: "
                "memory limits hold for each process alone, limits on cpus not at all"
            )
            return
        self.root = os.path.join(tree, f"runyard-{agent}")
        _enable(tree)
        enabled = _words(f"{tree}/cgroup.subtree_control")
        self.memory, self.cpu = "memory" in enabled, "cpu" in enabled
        missing = [name for name, there in (("memory", self.memory), ("cpu", self.cpu)) if not there]
        if missing:
            self.note = (
                f"cgroup {tree} does not hand out {' and '.join(missing)}. "
                "Limits on memory then hold for each process alone, limits on cpus not at all. "
                "Under systemd, set Delegate=yes and DelegateSubgroup=server in the unit."
            )

    def path(self, run: str) -> str | None:
        """Where the group of `run` would be."""
        return None if self.root is None else f"{self.root}/{run}"

    def make(self, path: str, memory: int | None, cpus: float | None) -> None:
        """Raises OSError."""
        root = os.path.dirname(path)
        if not os.path.isdir(root):
            os.makedirs(root, exist_ok=True)
            _enable(root)
        os.makedirs(path, exist_ok=True)
        if memory is not None and self.memory:
            _put(f"{path}/memory.max", str(memory))
            if os.path.exists(f"{path}/memory.swap.max"):
                _put(f"{path}/memory.swap.max", "0")
        if cpus is not None and self.cpu:
            _put(f"{path}/cpu.max", f"{max(1000, int(cpus * _PERIOD))} {_PERIOD}")

    def close(self) -> None:
        """Remove the agent's folder, if no run has a group in it."""
        if self.root is not None:
            with suppress(OSError):
                os.rmdir(self.root)


def kill(path: str) -> bool:
    """SIGKILL to everything in the group. False if the kernel can't (before Linux 5.14) or the group is gone."""
    try:
        _put(f"{path}/cgroup.kill", "1")
        return True
    except OSError:
        return False


def members(path: str) -> list[int]:
    """The pids in the group and the groups below it."""
    found: list[int] = []
    for folder, _, _ in os.walk(path):
        found += [int(word) for word in _words(f"{folder}/cgroup.procs")]
    return found


def remove(path: str) -> bool:
    """Remove the group and those below it. False while processes are in it."""
    try:
        for folder, _, _ in os.walk(path, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True


def out_of_memory(path: str) -> bool:
    """Whether the kernel has killed a process of the group because of its memory limit."""
    words = _words(f"{path}/memory.events")
    return "oom_kill" in words and words[words.index("oom_kill") + 1] != "0"


def cpu_seconds(path: str) -> float | None:
    """CPU time of everything that ever ran in the group."""
    words = _words(f"{path}/cpu.stat")
    return int(words[words.index("usage_usec") + 1]) / 1e6 if "usage_usec" in words else None


def _own_group() -> str | None:
    """The folder of our own group, or of the nearest one above that was delegated to us."""
    mount = None
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split()[0] == "cgroup2":
                mount = before.split()[4].encode().decode("unicode_escape")
    if mount is None:
        return None
    with open("/proc/self/cgroup") as file:
        own = next((line.rstrip("\n")[3:] for line in file if line.startswith("0::")), "/")
    folder = os.path.normpath(mount + own)
    if not os.path.isdir(folder):
        # Our group lies outside what this container shows.
        return mount
    above = folder
    while len(above) > len(mount):
        if any(_attribute(above, name) == b"1" for name in ("user.delegate", "trusted.delegate")):
            return above
        above = os.path.dirname(above)
    return folder


def _attribute(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError:
        return b""


def _enable(folder: str) -> None:
    for controller in ("memory", "cpu"):
        if controller in _words(f"{folder}/cgroup.controllers"):
            try:
                _put(f"{folder}/cgroup.subtree_control", f"+{controller}")
            except OSError:
                # A group that holds processes itself can't hand controllers down; the note says so.
                continue


def _words(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []


def _put(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
