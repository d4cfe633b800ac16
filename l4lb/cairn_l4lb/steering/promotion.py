"""VIPs that have so many connections that the kernel chooses for them.

User space then only says how often: each backend has a share of the kernel's slots.
"""

from collections.abc import Mapping
from math import exp

from cairn_l4lb.choose import OTHER, Pool, Rules, latency_cost
from cairn_l4lb.kernel_slots import assign, shift
from cairn_l4lb.model import Mode, Policy

#: The rate is an average over about this time, seconds.
RATE_S = 1.0
#: A promoted VIP has less than half of the limit for so long before user space chooses again.
COLD_S = 10.0
#: A promoted VIP with more connections a second than this is sampled, until it has less than half.
#: Below, each one is told of, as a dead backend shall be known by its first few.
BUSY_PER_S = 1000.0
#: Of a sampled VIP the kernel reports one connection in so many.
SAMPLE = 16
#: The kernel may go on for so long with what it did before, seconds.
GRACE_S = 1.0
#: A VIP that is not busy is user space's until a closed backend was probed, and for so long after
#: that, seconds: its client's next SYN can go elsewhere.
PROBED_S = 4.0
#: Policies that weights come close to.
PROMOTABLE: frozenset[Policy] = frozenset({"p2c", "random", "round-robin", "least-latency"})
#: A share that rounds to one slot: the probe of a closed backend.
TRICKLE = 1e-9


class Promotion:
    """Of one VIP.  seen: connections since the last step. slots: () while user space chooses.
    sampled: the kernel tells of one in `SAMPLE`."""

    __slots__ = (
        "_cold_since",
        "_factors",
        "_left_at",
        "_probed_until",
        "promoted",
        "rate",
        "sampled",
        "seen",
        "slots",
    )

    def __init__(self) -> None:
        self.rate = 0.0
        self.seen = 0
        self.promoted = self.sampled = False
        self.slots: tuple[int, ...] = ()
        self._cold_since: float | None = None
        self._factors: Mapping[int, float] = {}
        self._left_at = -GRACE_S
        self._probed_until = -PROBED_S

    def step(self, rules: Rules, mode: Mode, limit: float, passed_s: float, now: float) -> None:
        """Time passed: the rate follows, and with it who chooses.

        limit: new connections a second that `auto` leaves to the kernel; 0: never.
        """
        self.rate += (self.seen / passed_s - self.rate) * (1.0 - exp(-passed_s / RATE_S))
        self.seen = 0
        if self.rate < 0.01:
            self.rate = 0.0
        if mode == "kernel":
            self.promoted = promotable(rules)
        elif mode != "auto" or not limit or not promotable(rules):
            self.promoted = False
        elif not self.promoted:
            self.promoted = self.rate > limit
            self._cold_since = None
        elif self.rate >= limit / 2:
            self._cold_since = None
        elif self._cold_since is None:
            self._cold_since = now
        elif now - self._cold_since >= COLD_S:
            self.promoted = False

    def unheard(self, started: float) -> bool:
        """Whether answers to a connection that user space gave away then may not be told.

        The kernel tells of few connections of a sampled VIP, and some were on their way through
        user space when that began or ended.
        """
        return self.sampled or started < self._left_at + GRACE_S

    @property
    def count(self) -> int:
        """Connections that one that the kernel tells of stands for."""
        return SAMPLE if self.sampled else 1

    def assign(self, source: Pool, rules: Rules, refuse: bool, count: int, now: float) -> bool:
        """Compute `slots` and `sampled` anew.  Whether they changed.

        refuse: with all backends closed user space refuses and probes, the kernel could not.
        """
        busy = self.rate > BUSY_PER_S / (2 if self.sampled else 1)
        if source.probes:
            self._probed_until = now + PROBED_S
        probing = now < self._probed_until and not busy
        new: tuple[int, ...] = ()
        if self.promoted and not probing and not (source.kind == OTHER and refuse):
            weights = {
                one.slot: weight
                for one, weight in zip(source.members, source.shares, strict=True)
                if one.slot
            }
            if rules.policy == "least-latency" or rules.cost == "peak-ewma":
                costs = {one.slot: latency_cost(one, now) for one in source.members}
                self._factors = shift(costs, self._factors)
                weights = {slot: weight * self._factors[slot] for slot, weight in weights.items()}
            weights |= {one.slot: TRICKLE for one in source.probes if one.slot}
            new = assign(weights, count, self.slots)
        sampled = bool(new) and busy
        changed = new != self.slots or sampled != self.sampled
        if self.sampled and not sampled:
            self._left_at = now
        self.slots, self.sampled = new, sampled
        return changed


def promotable(rules: Rules) -> bool:
    """Whether the kernel can do the same by weights."""
    return rules.policy in PROMOTABLE and not rules.sticky_s and rules.locality == "none"
