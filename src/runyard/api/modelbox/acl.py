"""`acl.allow`: whose requests are taken (spec/modelbox.md, 1.7)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from runyard.model.errors import ConfigError


def resolve(name: str) -> str:
    """The IPv4 address of a host. Raises OSError."""
    return socket.getaddrinfo(name, None, family=socket.AF_INET)[0][4][0]  # type: ignore[return-value]


class Acl:
    """The peers that may use the door. Without entries it is everybody."""

    def __init__(self, entries: Iterable[str], resolve: Callable[[str], str] = resolve) -> None:
        """An entry is an IPv4 address, a network `a.b.c.d/n`, or the name of a host, which is looked up now.

        Raises ConfigError.
        """
        self._networks = [_network(entry.strip(), resolve) for entry in entries]

    def allows(self, peer: str | None) -> bool:
        """`peer` is the address of the other end, None for a Unix socket."""
        if not self._networks or peer is None:
            return True
        try:
            address = _v4(ip_address(peer.partition("%")[0]))
        except ValueError:
            return False
        return address is not None and any(address in network for network in self._networks)


def _v4(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return address
    return IPv4Address("127.0.0.1") if address.is_loopback else address.ipv4_mapped


def _network(entry: str, resolve: Callable[[str], str]) -> IPv4Network:
    try:
        # The bits of the host do not matter.
        return IPv4Network(entry, strict=False)
    except ValueError as error:
        if "/" in entry or not entry or entry.replace(".", "").isdigit():
            raise ConfigError(f"doors.modelbox.allow: {entry!r} is no IPv4 address or network: {error}") from None
    try:
        return IPv4Network(resolve(entry))
    except OSError as error:
        raise ConfigError(f"doors.modelbox.allow: there is no host {entry!r}: {error}") from None
