"""Whether an address is in one of some networks, asked often."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

#: Addresses whose answer is remembered; then all are forgotten.
MAX_REMEMBERED = 65_536


class Networks:
    """Some networks; host bits may be set.  Raises ValueError for what is none.

    An IPv4 address inside of an IPv6 one (RFC 4291, 2.5.5.2) counts as itself.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        #: Whether an address is inside: text, with a scope or without, or 4 or 16 bytes.
        self.known = _Known([ip_network(text, strict=False) for text in networks])

    def __contains__(self, address: str | bytes) -> bool:
        return self.known[address]


class _Known(dict[str | bytes, bool]):
    """Finds out what it does not know."""

    def __init__(self, networks: list[IPv4Network | IPv6Network]) -> None:
        super().__init__()
        self._networks = networks

    def __missing__(self, address: str | bytes) -> bool:
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        found = self[address] = self._look(address)
        return found

    def _look(self, address: str | bytes) -> bool:
        try:
            plain = address.partition("%")[0] if isinstance(address, str) else address
            found = ip_address(plain)
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(
            found in network for network in self._networks if network.version == found.version
        )
