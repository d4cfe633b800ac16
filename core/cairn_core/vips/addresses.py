"""Which address a named VIP gets: looked for from the hash of its name on, first come stays.

Source: dcos/minuteman `src/minuteman_lashup_vip_listener.erl`, dcos-net
`apps/dcos_l4lb/src/dcos_l4lb_lashup_vip_listener.erl`.  Differs: there each node chooses for
itself, so that names which collide may have different addresses on different nodes; here somebody
keeps an `Addresses` and records what it gave.
"""

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, NamedTuple, TypeAlias

from cairn_core.errors import RemoteError, Unavailable, shorten

from .phash2 import phash2

#: How the search goes: as Minuteman with its queues did, or as its successor with IPVS.
Allocator: TypeAlias = Literal["nfq", "ipvs"]


class BadRange(RemoteError):
    """Two addresses are no range to take addresses from."""


class OutOfAddresses(Unavailable):
    """No address of the range is free."""


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses for names, of one family, and how one is chosen.

    min, max: canonical texts. allocator: `nfq` starts one after the hash and never gives `max`;
    `ipvs` starts at the hash and gives it only on a collision.
    """

    min: str
    max: str
    allocator: Allocator = "nfq"

    @classmethod
    def parse(cls, first: str, last: str, allocator: Allocator = "nfq") -> "AddressRange":
        """A range of two texts.  Raises BadRange, with a text that names both."""
        try:
            low, high = ip_address(first), ip_address(last)
        except ValueError:
            raise BadRange(f"no addresses: {first[:60]!r} to {last[:60]!r}") from None
        if low.version != high.version or int(high) - int(low) < 2 or "%" in first + last:
            raise BadRange(f"no range: {first[:60]!r} to {last[:60]!r}")
        return cls(str(low), str(high), allocator)

    @property
    def ipv6(self) -> bool:
        """Whether its addresses are IPv6 ones."""
        return ":" in self.min

    def bounds(self) -> tuple[int, int]:
        """Its first address and its last one, as numbers."""
        return _bounds(self.min, self.max)

    def text(self, number: int) -> str:
        """The address of a number."""
        return str(IPv6Address(number) if self.ipv6 else IPv4Address(number))


@lru_cache(maxsize=16)
def _bounds(first: str, last: str) -> tuple[int, int]:
    return int(ip_address(first)), int(ip_address(last))


#: As in DC/OS.  The era of queues had no IPv6, so there the later rule holds.
DEFAULT_IPV4 = AddressRange("11.0.0.0", "11.255.255.254", "nfq")
DEFAULT_IPV6 = AddressRange("fd01:c::", "fd01:c::ffff:ffff:ffff:ffff", "ipvs")


def candidates(span: AddressRange, name: str) -> Iterator[int]:
    """The addresses that a name may get, as numbers, in the order in which they are tried.

    Compat: the hash is taken modulo one less than the number of addresses; `nfq` counts modulo the
    same number, and never tries the very place of the hash.
    """
    low, high = span.bounds()
    size = high - low
    start = _hash(span, name, size)
    if span.allocator == "nfq":
        return (low + (start + step) % size for step in range(1, size))
    return (low + (start + step) % (size + 1) for step in range(size))


def assign(taken: Container[int], name: str, span: AddressRange) -> int:
    """The address of a new name, as a number.  Raises OutOfAddresses.

    taken: numbers of the addresses that others have.  Costs a step for each collision.
    """
    for number in candidates(span, name):
        if number not in taken:
            return number
    raise OutOfAddresses(
        f"no address of {span.min} to {span.max} is free for name '{shorten(name, 80)}'"
    )


def _hash(span: AddressRange, name: str, size: int) -> int:
    encoded = name.encode(errors="surrogatepass")
    if span.ipv6:
        return int.from_bytes(hashlib.sha1(encoded, usedforsecurity=False).digest()) % size
    return phash2(encoded, size)


class Given(NamedTuple):
    """The addresses of a name, empty where it has none of a family."""

    ipv4: str
    ipv6: str


class Addresses:
    """Names and their addresses.

    Invariant: no two names share an address, and a name keeps its addresses until `release`.
    ipv4, ipv6: ranges; None: names get none of this family. What `adopt` was given stays valid
    whatever the ranges are now.
    """

    def __init__(
        self,
        ipv4: AddressRange | None = DEFAULT_IPV4,
        ipv6: AddressRange | None = DEFAULT_IPV6,
    ) -> None:
        self._ipv4 = ipv4
        self._ipv6 = ipv6
        self._given: dict[str, Given] = {}
        #: Names by their addresses, which are numbers.
        self._names4: dict[int, str] = {}
        self._names6: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._given)

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def of(self, name: str) -> Given | None:
        """The addresses of a name."""
        return self._given.get(name)

    def name_of(self, address: str) -> str | None:
        """The name that has an address; also None for what is no address."""
        try:
            number = int(ip_address(address))
        except ValueError:
            return None
        return (self._names6 if ":" in address else self._names4).get(number)

    def give(self, name: str) -> Given:
        """The addresses of a name, new ones if it has none yet.

        name: as `names.full_name` makes it. Raises OutOfAddresses, and gives nothing then.
        """
        known = self._given.get(name)
        if known is not None:
            return known
        ipv4, ipv6 = self._ipv4, self._ipv6
        number4 = assign(self._names4, name, ipv4) if ipv4 is not None else None
        number6 = assign(self._names6, name, ipv6) if ipv6 is not None else None
        given = Given(
            str(IPv4Address(number4)) if number4 is not None else "",
            str(IPv6Address(number6)) if number6 is not None else "",
        )
        self._put(name, given, number4, number6)
        return given

    def adopt(self, name: str, ipv4: str, ipv6: str = "") -> bool:
        """A name has these addresses, as a record says; some ten microseconds.

        False where that cannot be: they are no addresses, another name has one of them, or the
        name has others.
        """
        try:
            address4 = IPv4Address(ipv4) if ipv4 else None
            address6 = IPv6Address(ipv6) if ipv6 else None
        except ValueError:
            return False
        if "%" in ipv6:
            return False
        given = Given(str(address4 or ""), str(address6 or ""))
        known = self._given.get(name)
        if known is not None:
            return known == given
        number4 = int(address4) if address4 is not None else None
        number6 = int(address6) if address6 is not None else None
        if (
            number4 in self._names4
            or number6 in self._names6
            or (number4 is None and number6 is None)
        ):
            return False
        self._put(name, given, number4, number6)
        return True

    def release(self, name: str) -> Given | None:
        """A name has no addresses any more; those it had."""
        given = self._given.pop(name, None)
        if given is not None:
            for address, names in zip(given, (self._names4, self._names6), strict=True):
                if address:
                    del names[int(ip_address(address))]
        return given

    def _put(self, name: str, given: Given, number4: int | None, number6: int | None) -> None:
        self._given[name] = given
        if number4 is not None:
            self._names4[number4] = name
        if number6 is not None:
            self._names6[number6] = name
