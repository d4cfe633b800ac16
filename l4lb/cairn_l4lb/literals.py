"""Which addresses a VIP may have, and which a container.

A label may name any address; a VIP takes all connections of the cluster to it, at its port.  So
it must be none that something else is reached at: not a host's, not a container's, and not one
that a name has been given.  What containers report is theirs to choose as well, and must not lead
the clients of a VIP to a host, their own or another, or round to a VIP.  No I/O.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from cairn_core.vips.reserved import OVERLAY_NETWORKS, network, why_in, why_special

#: Where no VIP is, as long as nobody says otherwise.
OVERLAY = tuple((text, "of the overlay") for text in OVERLAY_NETWORKS)
#: Reasons that are remembered.
_REMEMBERED = 65_536


class Guard:
    """Says of an address why no VIP, or no container, may have it.

    own: canonical addresses of this host. links: networks of its links, with host bits or without;
    a default route is none of them. networks: of containers and hosts, where no VIP is. named:
    first and last address of named VIPs, of each family. Raises ValueError for what is no network.
    """

    def __init__(
        self,
        own: Iterable[str] = (),
        links: Iterable[str] = (),
        networks: Iterable[tuple[str, str]] = OVERLAY,
        named: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._networks = [(network(text), what) for text, what in networks]
        self._named = [(ip_address(first), ip_address(last)) for first, last in named]
        #: How many agents and masters have an address.
        self._hosts: Counter[str] = Counter()
        self._own: frozenset[str] = frozenset()
        self.set_own(own, links)
        self._is_named = lru_cache(_REMEMBERED)(self._look_named)

    def set_own(self, own: Iterable[str], links: Iterable[str]) -> frozenset[str]:
        """This host has other addresses and networks; the addresses that came or went.

        The networks may change the reason of any address.
        """
        last, self._own = self._own, frozenset(own)
        self._links = [(network(text), "in a network of this host") for text in set(links)]
        self._why = lru_cache(_REMEMBERED)(self._look)
        return last ^ self._own

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
        return self._host(address) or self._why(address)

    def container_reason(self, address: str) -> str:
        """Why a container does not have an address, canonical, whatever it says."""
        if self._is_named(address):
            return f"address {address} is one of named VIPs"
        return self._host(address) or why_special(address)

    def _host(self, address: str) -> str:
        if address in self._hosts:
            return f"address {address} is that of a host of the cluster"
        return f"address {address} is that of this host" if address in self._own else ""

    def _look(self, address: str) -> str:
        return why_special(address) or why_in(address, (*self._networks, *self._links))

    def _look_named(self, address: str) -> bool:
        found = ip_address(address)
        return any(
            first.version == found.version and int(first) <= int(found) <= int(last)
            for first, last in self._named
        )
