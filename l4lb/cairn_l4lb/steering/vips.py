"""VIPs as they are steered: their rules, members, pool and counts."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import TypeAlias

from cairn_l4lb.channel import SteerSettings, VipReport
from cairn_l4lb.choose import Picker, Pool, Reason, Rules, joined, picker, pool, seed
from cairn_l4lb.members import Member, State
from cairn_l4lb.model import Backend, Mode, Service

from .promotion import Promotion
from .sticky import Sticky

#: Decisions that each VIP remembers.
RECENT = 20
#: When, which client, and why which backend.
Recent: TypeAlias = tuple[float, bytes, Reason]


@dataclass(frozen=True, slots=True)
class Place:
    """Where this host is, for locality."""

    addresses: frozenset[str]
    zone: str

    def near(self, backend: Backend) -> int:
        """0: on this host; 1: in its zone; 2: elsewhere, or nobody knows."""
        if backend.agent_address in self.addresses or backend.address in self.addresses:
            return 0
        return 1 if self.zone and backend.zone == self.zone else 2


class VipState:
    """One VIP.  Call `fresh` for the pool, whatever changed before.

    sticky: of all VIPs.
    """

    __slots__ = (
        "by_source",
        "dirty",
        "failovers",
        "hedge_s",
        "members",
        "mode",
        "pick",
        "picks",
        "pool",
        "promotion",
        "recent",
        "refused",
        "rules",
        "service",
        "sticky",
    )

    def __init__(self, service: Service, sticky: Sticky) -> None:
        self.service = service
        self.sticky = sticky
        self.rules = Rules()
        self.mode: Mode = "mark"
        self.hedge_s = 0.0
        self.pick: Picker = picker(self.rules)
        self.members: list[Member] = []
        self.by_source: dict[bytes, Member] = {}
        self.pool: Pool | None = None
        self.promotion = Promotion()
        self.recent: deque[Recent] | None = None
        self.picks = self.refused = self.failovers = 0
        self.dirty = False

    def configure(self, settings: SteerSettings) -> None:
        """Its own options, and the settings for what they leave open."""
        options = self.service.options
        self.rules = Rules(
            options.policy or settings.policy,
            options.cost or settings.cost,
            options.locality or settings.locality,
            settings.sticky_s if options.sticky_s is None else options.sticky_s,
            settings.slow_start_s if options.slow_start_s is None else options.slow_start_s,
        )
        self.pick = picker(self.rules)
        self.mode = options.mode or settings.mode
        hedge_ms = settings.hedge_ms if options.hedge_ms is None else options.hedge_ms
        udp = self.service.vip.protocol == "udp"
        self.hedge_s = 0.0 if udp else hedge_ms / 1000
        if not self.rules.sticky_s:
            self.sticky.forget(self)

    def serve(
        self, service: Service, states: Iterable[State], place: Place, now: float
    ) -> list[State]:
        """It has these backends from now on; those that are gone are returned.

        states: of the service's backends, in their order.
        """
        first = not self.members
        before = self.by_source
        self.service = service
        self.by_source = {}
        self.members = []
        # an entry can only be made before conntrack saw the packet, and UDP comes later
        tcp = service.vip.protocol == "tcp"
        mode = "ctnetlink" if self.mode == "ctnetlink" and tcp else "mark"
        for backend, state in zip(service.backends, states, strict=True):
            member = before.get(state.source)
            if member is None or member.state is not state:
                member = Member(state, seed(state.text), None if first else now)
                state.watchers.append(self)
            member.configure(backend, place.near(backend), mode, self.hedge_s)
            self.by_source[state.source] = member
            self.members.append(member)
        self.pool = None if first else self.pool
        self.stale()
        gone = [
            one.state for source, one in before.items() if self.by_source.get(source) is not one
        ]
        for state in gone:
            state.watchers.remove(self)
        return gone

    def changed(self, state: State, reopened: bool, now: float) -> None:
        """A backend opened or closed."""
        member = self.by_source.get(state.source)
        if reopened and member is not None:
            member.since = now
        self.stale()

    def stale(self) -> None:
        """Something about a member changed."""
        if self.pool is not None:
            self.pool.wake = 0.0

    def fresh(self, now: float) -> Pool:
        """The pool as of now."""
        old = self.pool
        if old is None or now >= old.wake:
            self.pool = self._renew(now)
            return self.pool
        return old

    @contextmanager
    def looked_at(self, now: float) -> Iterator[Pool]:
        """The pool as `fresh` would have it; afterwards all is as it was."""
        old = self.pool
        if old is not None and now < old.wake:
            yield old
            return
        saved = [(one, one.share, one.step, one.served, one.turn) for one in self.members]
        try:
            yield self._renew(now)
        finally:
            for one, *values in saved:
                one.share, one.step, one.served, one.turn = values

    def _renew(self, now: float) -> Pool:
        old = self.pool
        clock = old.heap[0][0] if old is not None and old.heap else 0.0
        new = pool(self.members, self.rules, clock, now)
        joined(new, old)
        return new

    def stuck(self, client: bytes, now: float) -> Member | None:
        """The backend that a client keeps, if it can still have it."""
        member = self.sticky.get(self, client, now)
        if member is None or not member.weight or member.state.gate.closed:
            return None
        return member if self.by_source.get(member.state.source) is member else None

    def stick(self, client: bytes, member: Member, now: float) -> None:
        """A client keeps this backend."""
        self.sticky.put(self, client, member, now + self.rules.sticky_s)

    def note(self, client: bytes, reason: Reason, now: float) -> None:
        """Remember a decision."""
        if self.recent is None:
            self.recent = deque(maxlen=RECENT)
        self.recent.append((now, client, reason))

    def report(self) -> VipReport:
        """Its counts."""
        promotion = self.promotion
        return VipReport(
            self.service.vip,
            self.picks,
            self.refused,
            self.failovers,
            promotion.rate,
            promotion.slots,
            promotion.sampled,
        )


def destination(address: str, port: int) -> bytes:
    """Address and port as on the wire."""
    return ip_address(address).packed + port.to_bytes(2, "big")


def clone(rng: Random) -> Random:
    """A generator that goes on as this one would."""
    other = Random()
    other.setstate(rng.getstate())
    return other
