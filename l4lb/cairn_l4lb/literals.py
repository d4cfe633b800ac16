"""Which addresses a VIP may have.

A label may name any address; a VIP takes all connections of the cluster to it, at its port.  So
it must be none that something else is reached at: not a host's, not a container's, and not one
that a name has been given.  No I/O.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

#: Networks of containers, as DC/OS has them.
OVERLAY_NETWORKS = ("9.0.0.0/8", "44.128.0.0/16", "fd01:a::/64", "fd01:b::/64")
#: What is never a service's address, whatever the cluster is like, and why.
_SPECIAL = (
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved or broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    # Packets to IPv4 inside of IPv6 are packets to IPv4, or nothing that is ever sent.
    ("::ffff:0:0/96", "IPv4 inside of IPv6"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
)


class Guard:
    """Says of an address why no VIP may have it.

    hosts: canonical addresses of hosts that the cluster does not tell. own: networks of this host's
    links, with host bits or without; a default route is none of them. overlay: networks of
    containers. Raises ValueError for what is no network.
    """

    def __init__(
        self,
        hosts: Iterable[str] = (),
        own: Iterable[str] = (),
        overlay: Iterable[str] = OVERLAY_NETWORKS,
    ) -> None:
        networks = [(_network(text), what) for text, what in _SPECIAL]
        networks += [(_network(text), "of the overlay") for text in overlay]
        networks += [(_network(text), "in a network of this host") for text in own]
        self._networks = tuple(networks)
        self._why = lru_cache(maxsize=65_536)(self._look)
        #: How many agents and masters have an address.
        self._hosts: Counter[str] = Counter(hosts)

    def add_host(self, address: str) -> bool:
        """A host of the cluster has an address, canonical; whether that is news."""
        self._hosts[address] += 1
        return self._hosts[address] == 1

    def remove_host(self, address: str) -> bool:
        """One host less has an address; whether nobody has it now."""
        self._hosts[address] -= 1
        if self._hosts[address] > 0:
            return False
        del self._hosts[address]
        return True

    def reason(self, address: str) -> str:
        """Why no VIP may have an address, canonical; empty where one may."""
        if address in self._hosts:
            return f"address {address} is that of a host of the cluster"
        return self._why(address)

    def _look(self, address: str) -> str:
        found = ip_address(address)
        for network, what in self._networks:
            if network.version == found.version and found in network:
                return f"address {address} is {what} ({network})"
        return ""


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text, strict=False)
    if not network.prefixlen:
        raise ValueError(f"network {text!r} is all addresses")
    return network
