"""Where a request may come from. A page that somebody has open in a browser must not be able to start a process.

Pure. See the Fetch standard for `Sec-Fetch-Site`, RFC 6454 for origins; checking `Host` defeats DNS rebinding.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

#: Values of `Sec-Fetch-Site` that mean: not made by a page of somebody else.
_HARMLESS = frozenset({b"", b"none", b"same-origin"})


class OriginRules(msgspec.Struct, frozen=True):
    """`hosts`: names that the server goes by, beside loopback's; `origins`: pages that may call, beside its own."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()


def refusal(rules: OriginRules, host: bytes | None, origin: bytes | None, site: bytes | None) -> str | None:
    """Why a request with these header values is refused; None if it is fine.

    Without any `Host` (a client of HTTP/1.0) it can't come from a page: browsers always send one.
    """
    name = _host_name(host)
    if host is not None and (name is None or not (is_loopback(name) or name in rules.hosts)):
        shown = (host or b"").decode("latin-1")
        return f"the Host {shown!r} is not one of this server's; add it to [server] allowed_hosts"
    if origin is not None:
        text = origin.decode("latin-1")
        if text not in rules.origins and not _same_origin(text, (host or b"").decode("latin-1")):
            return f"pages from {text!r} may not call this server; add it to [server] allowed_origins"
        return None
    if (site or b"") not in _HARMLESS:
        return "the browser says that a page of another site made this request (Sec-Fetch-Site)"
    return None


@lru_cache(maxsize=256)
def is_loopback(name: str) -> bool:
    """Does this host name or address stay on the machine?"""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        pass
    try:
        # The old short forms: Meproc's document writes 127.1.
        return socket.inet_aton(name)[0] == 127
    except OSError:
        return False


def own_names(host: str, allowed: Collection[str]) -> frozenset[str]:
    """The names under which a server bound to `host` may be called."""
    return frozenset({host.lower(), *(name.lower() for name in allowed)})


@lru_cache(maxsize=256)
def _host_name(host: bytes | None) -> str | None:
    if not host:
        return None
    try:
        return (urlsplit("//" + host.decode("ascii")).hostname or "").lower() or None
    except ValueError:
        return None


def _same_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
