"""What the kernel shall hold for the VIPs: pure.

    place       a VIP, who is closed, what is hot -> what the kernel has of it (`Placed`)
    contents    `Placed` -> elements of our maps, as bytes
    compare     two `Placed` of one VIP -> what to do, in an order that no connection notices

Our maps, each also for IPv6 with a `6` after its name (text of the table: `ruleset`):

    be      VIP, slot in the bits of the mark -> backend
    picks   VIP, share -> slot in the bits of the mark; how the kernel chooses by itself
    vips    VIP -> the chain that draws one of so many shares; without it the VIP is refused
    hot     VIPs that the kernel has for itself, of whose connections all is reported
    busy    the same with so many connections that few are reported
"""

import ipaddress
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from . import nft_messages
from .model import BackendKey, Protocol, Service, Vip

#: A map and the key of an element.
Key: TypeAlias = tuple[str, bytes]
#: The sets that the packet filter looks VIPs up in, by whether of IPv6, and protocol.
SETS: dict[tuple[bool, Protocol], str] = {
    (False, "tcp"): "minuteman",
    (True, "tcp"): "minuteman6",
    (False, "udp"): "minuteman-udp",
    (True, "udp"): "minuteman6-udp",
}
#: So many shares a VIP may have: any number up to the first, and these.
MANY_SHARES = 128
MORE_SHARES = (840, 4096, 16384)
_NUMBERS = {"tcp": 6, "udp": 17}
_PROTOCOLS: dict[int, Protocol] = {6: "tcp", 17: "udp"}


class KernelSettings(Struct, frozen=True, kw_only=True):
    """How the kernel is set up.

    queues: first and last NFQUEUE number. mark_mask: bits of marks that are ours, contiguous.
    queue_bypass: SYNs go on without us while nobody reads the queues; reject: how a VIP without
    backends refuses. Those two are the original's with False and `icmp-port-unreachable`.
    retry_refused: answers RST to unanswered SYNs come to the queues. refuse_unknown: addresses of
    `named` and `named6` that are no VIP are refused, not left to the default route; both are the
    first and last address. source, source6: of this host, for a route to named VIPs where there is
    none.
    """

    queues: tuple[int, int] = (50, 58)
    mark_mask: int = 0x0FFF0000
    queue_bypass: bool = True
    reject: Literal["tcp-reset", "icmp-port-unreachable"] = "tcp-reset"
    ipv6: bool = True
    retry_refused: bool = True
    refuse_unknown: bool = True
    named: tuple[str, str] = ("11.0.0.0", "11.255.255.254")
    named6: tuple[str, str] | None = None
    source: str = ""
    source6: str = ""

    @property
    def shift(self) -> int:
        """Where a slot begins in the mark."""
        return (self.mark_mask & -self.mark_mask).bit_length() - 1


class Placed(NamedTuple):
    """What the kernel has of a VIP.

    backends: slot, address, port; those that drain too. shares: slots that the kernel chooses
    from, one is as likely as another; empty: nobody is open, and the VIP is refused.
    hot: the kernel alone chooses. sampled: and tells of few connections.
    """

    backends: tuple[tuple[int, str, int], ...]
    shares: tuple[int, ...]
    hot: bool
    sampled: bool = False


@dataclass(slots=True)
class Work:
    """Changes, in the order in which they are made: all of `add`, `replace` and `remove` at once,
    then `queue`; then the steering process hears of the change; then `unqueue` and `later`."""

    add: dict[Key, bytes | None] = field(default_factory=dict)
    replace: dict[Key, bytes | None] = field(default_factory=dict)
    remove: set[Key] = field(default_factory=set)
    queue: set[Vip] = field(default_factory=set)
    unqueue: set[Vip] = field(default_factory=set)
    later: set[Key] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Whether there is anything to do at once."""
        return bool(self.add or self.replace or self.remove or self.queue)

    def put(self, key: Key, data: bytes | None, *, known: bool) -> None:
        """Have an element with this data.  known: with other data it is there or to be added."""
        if key in self.add:
            self.add[key] = data
        elif known or key in self.remove or key in self.later:
            self.remove.discard(key)
            self.later.discard(key)
            self.replace[key] = data
        else:
            self.add[key] = data

    def drop(self, key: Key) -> None:
        """Have it no longer: it is there or to be added."""
        if key in self.add:
            del self.add[key]
            return
        self.replace.pop(key, None)
        (self.later if is_backend(key) else self.remove).add(key)


# -- placing ---------------------------------------------------------------------------------------


def place(
    service: Service,
    closed: Collection[BackendKey] = (),
    hot: Sequence[int] = (),
    sampled: bool = False,
) -> Placed:
    """What the kernel shall have of a VIP.  closed: who gets no new connections.
    hot: slots of a VIP that the kernel has for itself, by share. A closed backend has one to be
    probed by it; who may not be chosen for another reason gets none of them.
    sampled: it has many connections."""
    protocol = service.vip.protocol
    known = [one for one in service.backends if one.slot]
    taking = [one for one in known if one.weight > 0]
    usable = [one for one in taking if (protocol, one.address, one.port) not in closed]
    # as user space does: a backend on a lost host is better than none
    usable = [one for one in usable if one.reachable] or usable
    shares = _mended(hot, {one.slot for one in taking}) if hot and usable else ()
    return Placed(
        backends=tuple((one.slot, one.address, one.port) for one in known),
        shares=shares or share([(one.slot, one.weight) for one in usable]),
        hot=bool(shares),
        sampled=bool(shares) and sampled,
    )


def share(weights: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Slots, each as often as its weight says; the fewest that do, or a bounded number by largest
    remainder.  weights: slot and weight > 0."""
    if not weights:
        return ()
    divisor = gcd(*(weight for _, weight in weights))
    counts = [weight // divisor for _, weight in weights]
    total, least = sum(counts), min(counts)
    if total > MANY_SHARES:
        sizes = (MANY_SHARES, *MORE_SHARES)
        # several shares each, so that the remainder weighs little, and one for the least of them
        fits = (n for n in sizes if n >= 4 * len(weights) and n * least >= total)
        size = next(fits, sizes[-1])
        if total not in sizes:
            counts = _apportion(counts, size)
    return tuple(
        slot for (slot, _), count in zip(weights, counts, strict=True) for _ in range(count)
    )


def _apportion(counts: Sequence[int], size: int) -> list[int]:
    """`size` shares in proportion to `counts`, at least one each."""
    total = sum(counts)
    exact = [count * size / total for count in counts]
    result = [max(1, int(one)) for one in exact]
    by_remainder = sorted(range(len(counts)), key=lambda n: int(exact[n]) - exact[n])
    for n in by_remainder[: max(size - sum(result), 0)]:
        result[n] += 1
    # those that got one for nothing have it from those with most
    by_count = sorted(range(len(counts)), key=result.__getitem__)
    for n in by_count[len(counts) - max(sum(result) - size, 0) :]:
        result[n] -= 1
    return result


def _mended(hot: Sequence[int], slots: Collection[int]) -> tuple[int, ...]:
    """The shares with those of slots that may not be chosen given to the others in turn, so that
    few of them change.  Empty when there is nothing to go by."""
    left = [slot for slot in hot if slot in slots]
    if not left or not (len(hot) <= MANY_SHARES or len(hot) in MORE_SHARES):
        return ()
    turn = 0
    result = []
    for slot in hot:
        if slot not in slots:
            slot = left[turn % len(left)]
            turn += 1
        result.append(slot)
    return tuple(result)


# -- elements --------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def _packed(address: str) -> bytes:
    if ":" in address:
        return ipaddress.IPv6Address(address).packed
    return bytes(map(int, address.split(".")))  # ten times as fast as `ipaddress`


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big") + b"\0\0"


@lru_cache(maxsize=4096)
def _mark(mark: int) -> bytes:
    return mark.to_bytes(4, sys.byteorder)


@lru_cache(maxsize=4096)
def _mark_data(mark: int) -> bytes:
    return nft_messages.value(_mark(mark))


@lru_cache(maxsize=65536)
def _backend_data(address: str, port: int) -> bytes:
    return nft_messages.value(_packed(address) + _port(port))


def vip_key(vip: Vip) -> bytes:
    """The key of a VIP in our maps, or how its keys begin."""
    return b"".join(
        (_packed(vip.address), bytes((_NUMBERS[vip.protocol], 0, 0, 0)), _port(vip.port))
    )


def pick_chain(ipv6: bool, shares: int) -> str:
    """The chain that draws one of so many shares."""
    return f"pick{'6' if ipv6 else ''}-{shares}"


def is_pick_chain(name: str) -> bool:
    """Whether `pick_chain` may have made the name."""
    return re.fullmatch(r"pick6?-[1-9]\d{0,4}", name) is not None


def shares_of(chain: str) -> tuple[bool, int]:
    """What `pick_chain` made the name of."""
    family, _, shares = chain.partition("-")
    return family == "pick6", int(shares)


@lru_cache(maxsize=512)
def _goto(ipv6: bool, shares: int) -> bytes:
    return nft_messages.goto(pick_chain(ipv6, shares))


def contents(vip: Vip, placed: Placed, shift: int) -> Iterator[tuple[Key, bytes | None]]:
    """The elements of a VIP: where, and the data as `nft_messages` has it; None in a set."""
    six = "6" if vip.ipv6 else ""
    key = vip_key(vip)
    name = "be" + six
    for slot, address, port in placed.backends:
        yield (name, key + _mark(slot << shift)), _backend_data(address, port)
    if not placed.shares:
        return
    name = "picks" + six
    for n, slot in enumerate(placed.shares):
        yield (name, key + _mark(n)), _mark_data(slot << shift)
    yield ("vips" + six, key), _goto(vip.ipv6, len(placed.shares))
    if placed.hot:
        yield (("busy" if placed.sampled else "hot") + six, key), None


def is_backend(key: Key) -> bool:
    """Whether it is an element that packets on their way may still need."""
    return key[0].startswith("be")


def compare(work: Work, vip: Vip, old: Placed | None, new: Placed | None, shift: int) -> None:
    """Add to `work` what turns one into the other; None: not there.  O(backends and shares)."""
    before = {} if old is None else dict(contents(vip, old, shift))
    after = {} if new is None else dict(contents(vip, new, shift))
    for key, data in after.items():
        if key not in before or before[key] != data:
            work.put(key, data, known=key in before)
    for key in before.keys() - after.keys():
        work.drop(key)
    queued = new is not None and not new.hot
    if queued:
        work.unqueue.discard(vip)
        if old is None or old.hot:
            work.queue.add(vip)
    elif old is not None and not old.hot:
        work.queue.discard(vip)
        work.unqueue.add(vip)


# -- reading ---------------------------------------------------------------------------------------


class Found(NamedTuple):
    """An element in words.  number: slot or share, 0 in `vips`, `hot` and `busy`."""

    vip: Vip
    number: int
    data: str


def read_element(key: Key, data: bytes | None, shift: int) -> Found | None:
    """What an element says; None when it cannot be one of ours."""
    name, raw = key
    size = 16 if name.endswith("6") else 4
    numbered = name.startswith(("be", "picks"))
    if len(raw) != size + (12 if numbered else 8) or raw[size] not in _PROTOCOLS:
        return None
    port = int.from_bytes(raw[size + 4 : size + 6], "big")
    vip = Vip(_PROTOCOLS[raw[size]], str(ipaddress.ip_address(raw[:size])), port)
    number = int.from_bytes(raw[size + 8 :], sys.byteorder) if numbered else 0
    number >>= shift if name.startswith("be") else 0
    if name.startswith("vips"):
        return Found(vip, number, nft_messages.chain_of(data or b""))
    value = nft_messages.value_of(data or b"")
    if name.startswith("be"):
        if len(value) != size + 4:
            return None
        address = str(ipaddress.ip_address(value[:size]))
        return Found(vip, number, f"{address} {int.from_bytes(value[size : size + 2], 'big')}")
    return Found(vip, number, f"{int.from_bytes(value, sys.byteorder):#x}" if value else "")


def read_slots(
    elements: dict[Key, bytes | None], shift: int
) -> dict[Vip, dict[int, tuple[str, int]]]:
    """Which backend each slot of a VIP stands for, from what the kernel holds."""
    result: dict[Vip, dict[int, tuple[str, int]]] = {}
    for key, data in elements.items():
        found = read_element(key, data, shift) if is_backend(key) else None
        if found is not None:
            address, port = found.data.split()
            result.setdefault(found.vip, {})[found.number] = (address, int(port))
    return result


def element_text(key: Key, data: bytes | None, shift: int) -> str:
    """An element as nft(8) takes it, for people: `be { 11.0.0.1 . tcp . 80 . 0x10000 : ... }`."""
    found = read_element(key, data, shift)
    name = key[0]
    if found is None:
        return f"{name} {{ {key[1].hex()} }}"
    vip = f"{found.vip.address} . {found.vip.protocol} . {found.vip.port}"
    if name.startswith("be"):
        data_text = found.data.replace(" ", " . ")
        return f"{name} {{ {vip} . {found.number << shift:#x} : {data_text} }}"
    if name.startswith("picks"):
        return f"{name} {{ {vip} . {found.number} : {found.data} }}"
    if name.startswith("vips"):
        return f"{name} {{ {vip} : goto {found.data} }}"
    return f"{name} {{ {vip} }}"
