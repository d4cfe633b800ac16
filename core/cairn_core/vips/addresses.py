"""Which address a named VIP gets: looked for from the hash of its name on, first come stays.

Source: dcos/minuteman `src/minuteman_lashup_vip_listener.erl`, dcos-net
`apps/dcos_l4lb/src/dcos_l4lb_lashup_vip_listener.erl`.  Differs: there each node chooses for
itself, so that names which collide may have different addresses on different nodes; here somebody
keeps an `Addresses` and records what it gave.
"""

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
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
        return int(ip_address(self.min)), int(ip_address(self.max))

    def text(self, number: int) -> str:
        """The address of a number."""
        return str(IPv6Address(number) if self.ipv6 else IPv4Address(number))


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
        self._names: dict[str, str] = {}
        self._taken4: set[int] = set()
        self._taken6: set[int] = set()

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
        """The name that has an address, a canonical text."""
        return self._names.get(address)

    def give(self, name: str) -> Given:
        """The addresses of a name, new ones if it has none yet.

        name: as `names.full_name` makes it. Raises OutOfAddresses, and gives nothing then.
        """
        known = self._given.get(name)
        if known is not None:
            return known
        number4 = _new(self._ipv4, self._taken4, name)
        number6 = _new(self._ipv6, self._taken6, name)
        given = Given(
            self._ipv4.text(number4) if self._ipv4 is not None and number4 is not None else "",
            self._ipv6.text(number6) if self._ipv6 is not None and number6 is not None else "",
        )
        self._put(name, given)
        return given

    def adopt(self, name: str, ipv4: str, ipv6: str = "") -> bool:
        """A name has these addresses, as a record says.

        False where that cannot be: they are no addresses, another name has one of them, or the
        name has others.
        """
        known = self._given.get(name)
        try:
            given = Given(
                str(IPv4Address(ipv4)) if ipv4 else "", str(IPv6Address(ipv6)) if ipv6 else ""
            )
        except ValueError:
            return False
        if known is not None:
            return known == given
        if any(address in self._names for address in given) or not any(given):
            return False
        self._put(name, given)
        return True

    def release(self, name: str) -> Given | None:
        """A name has no addresses any more; those it had."""
        given = self._given.pop(name, None)
        if given is not None:
            for address, taken in zip(given, (self._taken4, self._taken6), strict=True):
                if address:
                    del self._names[address]
                    taken.discard(int(ip_address(address)))
        return given

    def _put(self, name: str, given: Given) -> None:
        self._given[name] = given
        for address, taken in zip(given, (self._taken4, self._taken6), strict=True):
            if address:
                self._names[address] = name
                taken.add(int(ip_address(address)))


def _new(span: AddressRange | None, taken: set[int], name: str) -> int | None:
    if span is None:
        return None
    return assign(taken, name, span)
