"""Limits of a process upon itself: memory, and the network where the kernel lets it go."""

from __future__ import annotations

import ctypes
import os
import resource

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1


def limit_memory(size: int) -> None:
    """Bytes of address space: what goes beyond is a MemoryError."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def leave_network() -> str | None:
    """Goes where there is no network, loopback included; if that can't be done, says why.

    To be called before the process has a second thread.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return None
    # Without privileges, it takes a namespace of users in which we have them.
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return f"this host does not let programs leave the network: {os.strerror(ctypes.get_errno())}"
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:
        # The account is called `nobody` then; the network is gone all the same.
        return None
    return None


def end_with_parent(number: int) -> None:
    """The kernel sends this signal when the parent has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
