"""Which of a VIP's backends a new connection gets.

`pool` sorts them, as `dcos/minuteman src/minuteman_lb.erl` does, into those that are open and
reachable, those that are open, and the rest; the first kind that there is takes the connection.
A policy then picks one of the pool. Neither changes anything: `took` notes what was picked.

# Differs: the original draws at most 21 backends and looks no further for an open one; here the
# kinds are sorted when something changes, so that a choice costs the same for any number.
"""

from array import array
from bisect import bisect
from collections.abc import Callable, Container, Iterable, Sequence
from hashlib import blake2b
from heapq import heapify, heapreplace
from itertools import accumulate
from math import inf, log
from random import Random
from typing import NamedTuple, TypeAlias

from . import maglev
from .members import Member
from .model import Cost, Locality, Policy

#: Kinds of pools, by preference.
REACHABLE_OPEN, OPEN, OTHER = 0, 1, 2
#: With equal costs the one that got less is taken, but what it missed longer ago is forgotten:
#: otherwise a backend that was slow for an hour would get all connections for the next.
CREDIT = 16
#: Backends that `least-latency` looks at.
LOOKED_AT = 32
#: Clients whose backend by hash is remembered.
MAX_HOMES = 16_384
#: Maglev: places of a client that are tried before its backend is found among the open ones.
REHASHES = 8
#: Slow start: share that a backend begins with, and steps to its full one.
FIRST_SHARE, RAMP_STEPS = 0.05, 20
#: By hash: a probe would take a client from where it belongs.
BY_CLIENT: frozenset[Policy] = frozenset({"source-hash", "maglev"})
_MASK = 0xFFFF_FFFF_FFFF_FFFF

#: Why a backend was picked: rule, the backend, the one it was compared with, their costs.
Reason: TypeAlias = tuple[str, Member, Member | None, float, float]
Picker: TypeAlias = Callable[["Pool", bytes, Random, float], Reason]


class Rules(NamedTuple):
    """How a VIP chooses, its own options before the daemon's."""

    policy: Policy = "p2c"
    cost: Cost = "pending"
    locality: Locality = "none"
    sticky_s: float = 0.0
    slow_start_s: float = 0.0


class Pool:
    """The backends that take connections until something changes.

    takers: all with weight, by name. members: those of the best kind. probes: closed ones whose
    backoff is over; each gets one connection. cumulative: weights summed up; None: all are equal.
    by_latency: two are compared by peak EWMA. scarce: most of the weight is closed.
    wake: when it is to be made again, seconds.
    """

    __slots__ = (
        "by_latency",
        "cumulative",
        "heap",
        "homes",
        "kind",
        "members",
        "probes",
        "scarce",
        "shares",
        "spare_at",
        "table",
        "takers",
        "total",
        "wake",
    )

    def __init__(
        self, takers: list[Member], members: list[Member], shares: list[float], kind: int
    ) -> None:
        self.takers = takers
        self.members = members
        self.shares = shares
        self.kind = kind
        self.probes: list[Member] = []
        self.wake = inf
        self.cumulative: list[float] | None = None
        self.total = sum(shares)
        if shares and min(shares) != max(shares):
            self.cumulative = list(accumulate(shares))
        self.heap: list[tuple[float, int, Member]] = []
        self.homes: dict[bytes, Member] = {}
        self.by_latency = self.scarce = False
        self.table: array[int] | None = None
        self.spare_at = 0.0

    def spare(self, now: float) -> Member | None:
        """With all backends closed: one that may be probed before its backoff is over.  With some
        open: only one that refuses, as a client would wait for the others."""
        if now < self.spare_at:
            return None
        gates = [(one, one.state.gate) for one in self.takers]
        waiting = [
            one for one, gate in gates if not gate.probing and (gate.refusing or self.kind == OTHER)
        ]
        found = next((one for one in waiting if one.state.gate.spare(now)), None)
        if found is None:
            # not to look at all of them for each connection that is refused
            self.spare_at = min((one.state.gate.free for one in waiting), default=inf)
        return found


def pool(members: Iterable[Member], rules: Rules, clock: float, now: float) -> Pool:
    """The pool as of now.  clock: turn that the round has come to."""
    takers = sorted((one for one in members if one.weight), key=lambda one: one.state.source)
    by_client = rules.policy in BY_CLIENT
    due = [] if by_client else [one for one in takers if one.state.gate.due(now)]
    usable = [
        one
        for one in takers
        if not one.state.gate.closed or (by_client and one.state.gate.due(now))
    ]
    kind = OPEN if usable else OTHER
    if reachable := [one for one in usable if one.reachable]:
        usable, kind = reachable, REACHABLE_OPEN
        due = [one for one in due if one.reachable]
    usable = _nearest(usable, rules.locality) if usable else takers
    made = Pool(takers, usable, [share(one, rules, now) for one in usable], kind)
    made.probes = due
    if kind != OTHER and not by_client:
        total = sum(one.weight for one in takers)
        made.scarce = 2 * sum(one.weight for one in takers if not one.state.gate.closed) < total
    made.by_latency = rules.policy == "p2c" and rules.cost == "peak-ewma"
    closed = [one.state.gate.until for one in takers if one.state.gate.closed]
    made.wake = min((until for until in closed if until > now), default=inf)
    if any(ramps(one, rules, now) for one in usable):
        made.wake = min(made.wake, now + rules.slow_start_s / RAMP_STEPS)
    if rules.policy == "round-robin":
        made.heap = [
            (one.turn if one.turn >= clock else clock + 0.5 / weight, number, one)
            for number, (one, weight) in enumerate(zip(usable, made.shares, strict=True))
        ]
        heapify(made.heap)
    return made


def ramps(member: Member, rules: Rules, now: float) -> bool:
    """Whether it has not come to its full share yet."""
    return member.since is not None and now < member.since + rules.slow_start_s


def share(member: Member, rules: Rules, now: float) -> float:
    """Its weight, less while it starts slowly; by hash always all, as clients would move."""
    if member.since is None or not ramps(member, rules, now) or rules.policy in BY_CLIENT:
        return float(member.weight)
    return member.weight * max((now - member.since) / rules.slow_start_s, FIRST_SHARE)


def joined(new: Pool, old: Pool | None) -> None:
    """`new` replaces `old`: members learn their shares, and newcomers do not have to catch up."""
    for one, weight in zip(new.members, new.shares, strict=True):
        one.share = weight
        one.step = 1.0 / weight
    for turn, _, one in new.heap:
        one.turn = turn
    before = set(old.members) if old else set()
    stay = [one for one in new.members if one in before]
    if len(stay) < len(new.members):
        level = sum(one.served for one in stay) / len(stay) if stay else 0.0
        for one in new.members:
            if one not in before:
                one.served = level


def took(source: Pool, reason: Reason, now: float) -> None:
    """The connection goes where `reason` says."""
    _, member, loser, _, _ = reason
    if loser is not None:
        least = loser.served - CREDIT * max(member.step, loser.step)
        if member.served < least:
            member.served = least
        if source.by_latency:
            member.state.ewma.settle(now)
            loser.state.ewma.settle(now)
    member.served += member.step
    heap = source.heap
    if heap and heap[0][2] is member:
        turn = heap[0][0] + member.step
        member.turn = turn
        heapreplace(heap, (turn, heap[0][1], member))


# --- policies ------------------------------------------------------------------------------------


def picker(rules: Rules) -> Picker:
    """The function that picks by these rules."""
    if rules.policy == "p2c":
        return p2c_pending if rules.cost == "pending" else p2c_peak_ewma
    return _PICKERS[rules.policy]


def p2c_pending(source: Pool, client: bytes, rng: Random, now: float) -> Reason:
    """Of two drawn the one with fewer unanswered connections by weight."""
    first, second = _draw_two(source, rng)
    if first is second:
        return ("only", first, None, 0.0, 0.0)
    cost, other = first.state.pending * first.step, second.state.pending * second.step
    if cost < other or (cost == other and first.served < second.served):
        return ("p2c", first, second, cost, other)
    return ("p2c", second, first, other, cost)


def p2c_peak_ewma(source: Pool, client: bytes, rng: Random, now: float) -> Reason:
    """Of two drawn the one with the lower peak EWMA."""
    first, second = _draw_two(source, rng)
    if first is second:
        return ("only", first, None, 0.0, 0.0)
    cost, other = latency_cost(first, now), latency_cost(second, now)
    if cost < other or (cost == other and first.served < second.served):
        return ("p2c", first, second, cost, other)
    return ("p2c", second, first, other, cost)


def latency_cost(member: Member, now: float) -> float:
    """Peak EWMA of a backend by its weight, nanoseconds.

    # Differs: nothing is known of a backend and nothing is under way to it: it costs nothing. With
    # its penalty alone a newcomer among measured ones would never get a connection.
    """
    state = member.state
    if not state.ewma.measured and not state.pending:
        return 0.0
    return state.ewma.cost(state.pending, now) * member.step


def least_latency(source: Pool, client: bytes, rng: Random, now: float) -> Reason:
    """The lowest peak EWMA of all, or of `LOOKED_AT` next to each other if there are more."""
    members = source.members
    if len(members) > LOOKED_AT:
        start = int(rng.random() * len(members))
        members = (members + members[:LOOKED_AT])[start : start + LOOKED_AT]
    cost, _, member = min(
        ((latency_cost(one, now), one.served, one) for one in members), key=lambda one: one[:2]
    )
    return ("least-latency", member, None, cost, 0.0)


def round_robin(source: Pool, client: bytes, rng: Random, now: float) -> Reason:
    """Whose turn it is: each has one every 1/weight."""
    turn, _, member = source.heap[0]
    return ("round-robin", member, None, turn, 0.0)


def at_random(source: Pool, client: bytes, rng: Random, now: float) -> Reason:
    """Any, by weight."""
    members, cumulative = source.members, source.cumulative
    if cumulative is None:
        return ("random", members[int(rng.random() * len(members))], None, 0.0, 0.0)
    at = min(bisect(cumulative, rng.random() * source.total), len(members) - 1)
    return ("random", members[at], None, 0.0, 0.0)


def source_hash(source: Pool, client: bytes, rng: Random, now: float) -> Reason:
    """The highest score of client and backend (weighted rendezvous hashing)."""
    member = source.homes.get(client)
    if member is None:
        number = hashed(client)
        member = max(
            zip(source.members, source.shares, strict=True),
            key=lambda one: one[1] / -log((_mix(number ^ one[0].seed) + 1) / (_MASK + 2)),
        )[0]
        if len(source.homes) >= MAX_HOMES:
            source.homes.clear()
        source.homes[client] = member
    return ("source-hash", member, None, 0.0, 0.0)


def maglev_hash(source: Pool, client: bytes, rng: Random, now: float) -> Reason:
    """The backend at the client's place in Maglev's table.

    The table has all with weight; who belongs to a closed one is hashed again, so that a failure
    moves nobody else, and hosts that see it otherwise agree on all other clients.
    """
    member = source.homes.get(client)
    if member is None:
        table = source.table
        if table is None:
            table = source.table = maglev.build(
                [one.text for one in source.takers], [float(one.weight) for one in source.takers]
            )
        number = hashed(client)
        usable = set(source.members)
        for _ in range(REHASHES):
            member = source.takers[table[number % len(table)]]
            if member in usable:
                break
            number = _mix(number)
        else:
            return source_hash(source, client, rng, now)
        if len(source.homes) >= MAX_HOMES:
            source.homes.clear()
        source.homes[client] = member
    return ("maglev", member, None, 0.0, 0.0)


def another(
    source: Pool,
    tried: Container[Member],
    rules: Rules,
    rng: Random,
    now: float,
    client: bytes = b"",
) -> Member | None:
    """A backend that is open and not among `tried`: two drawn, the cheaper one.  Costs O(n).
    client: whoever belongs to a backend shall get the same one each time."""
    if source.kind == OTHER:
        return None
    left = [one for one in source.members if one not in tried and not one.state.gate.closed]
    if not left:
        left = [one for one in source.takers if one not in tried and not one.state.gate.closed]
    if not left:
        return None
    made = Pool(left, left, [one.share for one in left], source.kind)
    if client and rules.policy in BY_CLIENT:
        return source_hash(made, client, rng, now)[1]
    pick = p2c_pending if rules.cost == "pending" else p2c_peak_ewma
    return pick(made, b"", rng, now)[1]


def refusing(source: Pool, tried: Container[Member], client: bytes, now: float) -> Member | None:
    """A closed backend that refused last and is not among `tried`: the next that is to be probed.

    It may have come back, and trying it costs a client nothing that is refused otherwise.  With
    all closed each is tried so often only, lest every connection goes round all of them.
    """
    every = source.kind != OTHER
    left = [
        one
        for one in source.takers
        if one.state.gate.refusing
        and one not in tried
        and one.state.itself != client
        and (every or one.state.gate.spare(now))
    ]
    return min(left, key=lambda one: (not one.reachable, one.state.gate.until), default=None)


def seed(name: str) -> int:
    """Of a backend for hashing with clients, the same on every host."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def hashed(client: bytes) -> int:
    """64 bits of a client's address."""
    return int.from_bytes(blake2b(client, digest_size=8).digest(), "big")


def _draw_two(source: Pool, rng: Random) -> tuple[Member, Member]:
    """Two different ones by weight; the same twice if there is only one."""
    members, cumulative = source.members, source.cumulative
    count = len(members)
    if count == 1:
        return members[0], members[0]
    if cumulative is None:
        first = int(rng.random() * count)
        second = int(rng.random() * (count - 1))
        return members[first], members[second + (second >= first)]
    shares = source.shares
    first = min(bisect(cumulative, rng.random() * source.total), count - 1)
    # the second from what is left when the first is taken out
    point = rng.random() * (source.total - shares[first])
    if point >= cumulative[first] - shares[first]:
        point += shares[first]
    second = min(bisect(cumulative, point), count - 1)
    if second == first:  # by rounding only
        second = first - 1 if first else 1
    return members[first], members[second]


def _mix(number: int) -> int:
    """SplitMix64's last step: every bit of the result depends on every bit of the number."""
    number = (number + 0x9E37_79B9_7F4A_7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return number ^ (number >> 31)


def _nearest(members: Sequence[Member], locality: Locality) -> list[Member]:
    """Those on this host if there are any, then those in its zone, as far as that is asked for."""
    farthest = {"none": -1, "host": 0, "zone": 1}[locality]
    for distance in range(farthest + 1):
        if found := [one for one in members if one.near <= distance]:
            return found
    return list(members)


_PICKERS: dict[Policy, Picker] = {
    "least-latency": least_latency,
    "round-robin": round_robin,
    "random": at_random,
    "source-hash": source_hash,
    "maglev": maglev_hash,
}
