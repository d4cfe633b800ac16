"""Addresses that are never a service's, whatever the cluster is like.

Neither a VIP nor the range of named VIPs may have them, nor do containers that report one.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

#: Networks of containers, as DC/OS has them.
OVERLAY_NETWORKS = ("9.0.0.0/8", "44.128.0.0/16", "fd01:a::/64", "fd01:b::/64")
#: Where every host has its own DNS proxy, as in DC/OS.
PROXY_NETWORKS = ("198.51.100.0/30", "198.51.100.4/32", "fd01:d::/64")


def network(text: str) -> Network:
    """A network of a text, with host bits or without.

    Raises ValueError for what is none, and for all addresses of a family.
    """
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"not a network: {text[:60]!r}") from None
    if not found.prefixlen:
        raise ValueError(f"network of all addresses: {text[:60]!r}")
    return found


def is_address(text: str) -> bool:
    """Whether a text is an IP address; hosts of settings may be names instead."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


_SPECIAL = tuple(
    (network(text), what)
    for text, what in (
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved or broadcast"),
        *((text, "the DNS proxy's") for text in PROXY_NETWORKS),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        # Packets to IPv4 inside of IPv6 are packets to IPv4, or nothing that is ever sent.
        ("::/96", "IPv4 inside of IPv6"),
        ("::ffff:0:0/96", "IPv4 inside of IPv6"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)


@lru_cache(maxsize=65_536)
def why_special(address: str) -> str:
    """Why nothing of the cluster has an address; empty where it may.

    address: canonical; ValueError for what is none. Networks of containers are no reason.
    """
    return why_in(address, _SPECIAL)


def why_in(address: str, networks: Iterable[tuple[Network, str]]) -> str:
    """In which of some networks an address is, `address 9.0.1.2 is of the overlay (9.0.0.0/8)`;
    empty for none."""
    found = ip_address(address)
    for one, what in networks:
        if one.version == found.version and found in one:
            return f"address {address} is {what} ({one})"
    return ""


def why_not_range(first: str, last: str, networks: Iterable[tuple[str, str]] = ()) -> str:
    """Why named VIPs may not have the addresses from `first` to `last`, of one family; empty where
    they may.

    networks: others that the range must not touch, with host bits or without, and what they are.
    """
    low, high = ip_address(first), ip_address(last)
    others = [(network(text), what) for text, what in networks]
    overlay = [(network(text), "of the overlay") for text in OVERLAY_NETWORKS]
    for one, what in (*_SPECIAL, *overlay, *others):
        if one.version == low.version and not (
            int(one.broadcast_address) < int(low) or int(high) < int(one.network_address)
        ):
            return f"{first} to {last} has addresses that are {what} ({one})"
    return ""
