"""Offer filters: which slots have refused what on an agent, and until when.

A slot (framework in a role) is one bit. An agent keeps, per refused bag of resources and
deadline, the bits of those who refused: with 2,000 frameworks declining 20,000 agents that is one
number per agent instead of 40 million timers. Deadlines are rounded up to a 32nd of the length
(at least an eighth of a second), so that they fall together. Source: Apache Mesos
`src/master/allocator/mesos/hierarchical.cpp` (RefusedOfferFilter) and the Filters message.
"""

from heapq import heappop, heappush
from math import ceil, floor, isfinite, log2

from cairn_core.extensions import AgentId
from cairn_core.resources import Resources

#: Longest filter: 365 days, in seconds.
MAX_REFUSE_S = 365 * 86400.0
#: What a filter falls back to when its length is no number, in seconds.
DEFAULT_REFUSE_S = 5.0


def length(refuse_s: float, interval_s: float) -> float:
    """Life time of a filter in seconds: between one allocation interval and a year."""
    if not isfinite(refuse_s) or refuse_s < 0:
        refuse_s = DEFAULT_REFUSE_S
    return max(min(refuse_s, MAX_REFUSE_S), interval_s)


def deadline(now: float, length_s: float) -> float:
    """When a filter ends, rounded up so that filters of the same length end together."""
    step = 2.0 ** floor(log2(max(length_s / 32, 0.125)))
    return ceil((now + length_s) / step) * step


class Refusals:
    """What slots have refused on one agent.

    Invariant: `any` is the union of the values of `_bits`.
    """

    __slots__ = ("_bits", "any")

    def __init__(self) -> None:
        self._bits: dict[tuple[float, Resources], int] = {}
        #: Bits of slots with any filter here.
        self.any = 0

    def add(self, bit: int, refused: Resources, until: float) -> None:
        """A slot refused these resources."""
        key = (until, refused)
        self._bits[key] = self._bits.get(key, 0) | bit
        self.any |= bit

    def covering(self, free: Resources) -> int:
        """Bits of slots that refused at least this much, so that no part of it interests them."""
        mask = 0
        for (_, refused), bits in self._bits.items():
            if bits & ~mask and (refused is free or refused.contains(free)):
                mask |= bits
        return mask

    def matches(self, bit: int, offer: Resources) -> bool:
        """Whether something that the slot refused contains this offer."""
        return any(
            bits & bit and refused.contains(offer) for (_, refused), bits in self._bits.items()
        )

    def drop(self, mask: int) -> bool:
        """Forget the filters of some slots; whether there were any."""
        if not self.any & mask:
            return False
        self._bits = {key: left for key, bits in self._bits.items() if (left := bits & ~mask)}
        self.any &= ~mask
        return True

    def expire(self, now: float) -> bool:
        """Forget what has ended; whether anything had."""
        ended = [key for key in self._bits if key[0] <= now]
        for key in ended:
            del self._bits[key]
        if ended:
            self.any = 0
            for bits in self._bits.values():
                self.any |= bits
        return bool(ended)


class Deadlines:
    """Which agents have filters that end at a time."""

    def __init__(self) -> None:
        self._heap: list[float] = []
        self._agents: dict[float, dict[AgentId, None]] = {}

    def add(self, when: float, agent_id: AgentId) -> None:
        """Some filter of the agent ends at a time."""
        due = self._agents.get(when)
        if due is None:
            due = self._agents[when] = {}
            heappush(self._heap, when)
        due[agent_id] = None

    def next(self) -> float | None:
        """The earliest time."""
        return self._heap[0] if self._heap else None

    def due(self, now: float, limit: int) -> list[AgentId]:
        """Take out at most `limit` agents whose time has come."""
        out: list[AgentId] = []
        while self._heap and self._heap[0] <= now and len(out) < limit:
            agents = self._agents[self._heap[0]]
            while agents and len(out) < limit:
                out.append(agents.popitem()[0])
            if not agents:
                del self._agents[heappop(self._heap)]
        return out
