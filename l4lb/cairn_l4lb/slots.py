"""Which number each backend of a VIP has in packet marks.

A slot stays with its backend while it is there.  A freed one rests, since packets that carry it
may still be on their way, and connections that carry it still be set up; only its own backend may
have it back before.  Then the one that rests longest is taken first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from .model import Backend, Service, Vip

#: Seconds that a freed slot is not given to another backend.
REST_S = 60.0


@dataclass(slots=True)
class _Numbers:
    """Slots of one VIP.

    Invariant: each number below `unused` is in exactly one of `taken` and `resting`, whose order
    is that in which they were freed.
    """

    taken: dict[tuple[str, int], int] = field(default_factory=dict)
    resting: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    unused: int = 1
    left_out: int = 0

    def free(self, place: tuple[str, int], now: float) -> None:
        self.resting[place] = (self.taken.pop(place), now)

    def take(self, place: tuple[str, int], most: int, rest_s: float, now: float) -> int:
        """A slot for a backend that has none; 0 when there is none to have."""
        if place in self.resting:
            slot, _ = self.resting.pop(place)
        elif self.is_rested(rest_s, now):
            first = next(iter(self.resting))
            slot, _ = self.resting.pop(first)
        elif self.unused <= most:
            slot, self.unused = self.unused, self.unused + 1
        else:
            return 0
        self.taken[place] = slot
        return slot

    def is_rested(self, rest_s: float, now: float) -> bool:
        """Whether the slot that rests longest has rested long enough."""
        first = next(iter(self.resting.values()), None)
        return first is not None and now - first[1] >= rest_s


class Slots:
    """Gives slots from 1 to `most`; `now` is in seconds and never goes back.

    Invariant: within a VIP no two backends have one slot, and none is given to another backend
    within `rest_s` of being freed.
    """

    def __init__(self, most: int, *, rest_s: float = REST_S) -> None:
        """most: what fits into the bits of the mark, 4095 with twelve of them."""
        self._most = most
        self._rest_s = rest_s
        self._vips: dict[Vip, _Numbers] = {}
        #: VIPs that are not served, with the time from which all their slots have rested.
        self._gone: dict[Vip, float] = {}

    def assign(self, service: Service, now: float) -> Service:
        """The service with a slot for each backend; a backend for which there is none is left out.

        Backends that have slots keep them; of others those that take connections come first, in
        their order.  Costs O(backends).
        """
        self._gone.pop(service.vip, None)
        numbers = self._vips.setdefault(service.vip, _Numbers())
        wanted = {(one.address, one.port): one for one in service.backends}
        for place in [place for place in numbers.taken if place not in wanted]:
            numbers.free(place, now)
        new = [item for item in wanted.items() if item[0] not in numbers.taken]
        new.sort(key=lambda item: (item[0] not in numbers.resting, item[1].weight == 0))
        for place, _ in new:
            numbers.take(place, self._most, self._rest_s, now)
        numbers.left_out = len(wanted) - len(numbers.taken)
        backends = tuple(
            one if one.slot == slot else replace(one, slot=slot)
            for place, one in wanted.items()
            if (slot := numbers.taken.get(place, 0))
        )
        return replace(service, backends=backends)

    def adopt(self, vip: Vip, slots: Mapping[int, tuple[str, int]]) -> None:
        """Slots that the kernel has from before the start; unusable ones are ignored.

        Backends that are not there any more rest from the next `assign` on.
        """
        numbers = _Numbers()
        for slot, place in slots.items():
            if 1 <= slot <= self._most and place not in numbers.taken:
                numbers.taken[place] = slot
        taken = set(numbers.taken.values())
        numbers.unused = max(taken, default=0) + 1
        # Nobody knows when the numbers in between were freed.
        for slot in range(1, numbers.unused):
            if slot not in taken:
                numbers.resting["", slot] = (slot, float("-inf"))
        self._vips[vip] = numbers

    def release(self, vip: Vip, now: float) -> None:
        """A VIP is served no longer; its slots rest."""
        numbers = self._vips.get(vip)
        if numbers is not None:
            for place in list(numbers.taken):
                numbers.free(place, now)
            numbers.left_out = 0
            self._gone[vip] = now + self._rest_s

    def expire(self, now: float) -> list[Vip]:
        """Forget VIPs that are gone, and return those that left backends out and need not now:
        give them to `assign` again.  Costs O(VIPs gone + VIPs that leave out).
        """
        for vip in [vip for vip, at in self._gone.items() if at <= now]:
            del self._gone[vip], self._vips[vip]
        return [
            vip
            for vip, numbers in self._vips.items()
            if numbers.left_out and numbers.is_rested(self._rest_s, now)
        ]

    def left_out(self) -> dict[Vip, int]:
        """How many backends of which VIPs have no slot: for people."""
        return {vip: one.left_out for vip, one in self._vips.items() if one.left_out}


def slots_of(backends: Iterable[Backend]) -> dict[int, tuple[str, int]]:
    """Address and port by slot, as `Slots.adopt` takes them."""
    return {one.slot: (one.address, one.port) for one in backends if one.slot}
