"""Addresses of clients, and the networks that they may lie in. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Networks = tuple[IPv4Network | IPv6Network, ...]


def networks(texts: Iterable[str]) -> Networks:
    """The networks of addresses and CIDR ranges. Raises ValueError."""
    return tuple(map(ip_network, texts))


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def within(address: str | None, networks: Networks) -> bool:
    """Whether the address lies in one of the networks; an unknown one lies in none. An IPv4 address that came by IPv6
    (RFC 4291 section 2.5.5.2) counts as itself."""
    try:
        place = ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(place, "ipv4_mapped", None)
    return any(one in network for one in (place, mapped) if one is not None for network in networks)
