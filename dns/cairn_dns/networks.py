"""Whether an address is in one of some networks, asked often."""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

#: Addresses whose answer is remembered; then all are forgotten.
MAX_REMEMBERED = 65_536


class Networks:
    """Some networks; host bits may be set.  Raises ValueError for what is none.

    An IPv4 address inside of an IPv6 one (RFC 4291, 2.5.5.2) counts as itself.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ip_network(text, strict=False) for text in networks]
        self._remembered: dict[str | bytes, bool] = {}

    def __contains__(self, address: str | bytes) -> bool:
        """address: text, with a scope or without, or 4 or 16 bytes."""
        known = self._remembered.get(address)
        if known is None:
            known = self._look(address)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[address] = known
        return known

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
