"""Addresses as texts and as bytes, hosts that are known by name, and where masters are."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TypeAlias

from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow

#: An address as it goes over the wire: 4 or 16 bytes.
Address: TypeAlias = bytes
#: Addresses of hosts by name, as the system resolves them.
Hosts: TypeAlias = Mapping[str, Sequence[Address]]

_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}")
_LONGEST = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")


def parse_address(text: str) -> Address | None:
    """An address, or None.  IPv4 in IPv6 is IPv4, and scopes are refused, as in the original."""
    found = _IPV4.fullmatch(text)
    if found is not None:
        return bytes(map(int, found.groups()))
    return _parse_ipv6(text) if ":" in text and len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _parse_ipv6(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if not isinstance(address, IPv6Address) or address.scope_id is not None:
        return None
    return (address.ipv4_mapped or address).packed


def address_text(address: Address) -> str:
    """An address as people write it."""
    return ".".join(map(str, address)) if len(address) == 4 else str(IPv6Address(address))


def agent_host(row: AgentRow | None) -> str:
    """Where an agent is: an address, or a name to look up; empty when nobody knows."""
    return (row.ip or row.hostname) if row is not None else ""


def framework_host(row: FrameworkRow | None) -> tuple[str, int | None]:
    """Where a framework is: host and, for those with a pid, port."""
    if row is None:
        return "", None
    if not row.pid:
        return row.hostname, None
    host, _, port = row.pid.rpartition("@")[2].rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else None
    return host.removeprefix("[").removesuffix("]"), number


def host_addresses(host: str, hosts: Hosts, *, one_of_each: bool = False) -> tuple[Address, ...]:
    """Addresses of a host that is named by address or by name.

    one_of_each: at most one of IPv4 and one of IPv6 of a host known by name.
    """
    address = parse_address(host)
    if address is not None:
        return (address,)
    found = tuple(hosts.get(host, ()))
    return one_per_family(found) if one_of_each else found


def one_per_family(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """The first IPv4 and the first IPv6 address, in the order in which they come."""
    return tuple({len(one): one for one in reversed(addresses)}.values())[::-1]


def reverse_name(address: Address) -> str:
    """The name that leads back from an address.

    >>> reverse_name(bytes([10, 0, 0, 11]))
    '11.0.0.10.in-addr.arpa'
    """
    if len(address) == 4:
        return f"{address[3]}.{address[2]}.{address[1]}.{address[0]}.in-addr.arpa"
    return ".".join(reversed(address.hex())) + ".ip6.arpa"


def reversed_address(name: str) -> Address | None:
    """The address of a `reverse_name`, or None."""
    if name.endswith(".in-addr.arpa"):
        return parse_address(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
    digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
    if name.endswith(".ip6.arpa") and re.fullmatch("[0-9a-f]{32}", digits):
        return bytes.fromhex(digits)
    return None
