"""Connections that wait for an answer, or had one just now.

A flow is WAITING until an answer, a refusal or the threshold; after that it stays known: one that
was not ANSWERED so long that its SYN may come again (UNANSWERED), an answered one for a SYN
that was sent before its answer arrived.  The end of each stage is one queue, as all of a stage last
equally long; entries of flows that went on meanwhile are skipped when their time comes.
"""

from collections import deque
from heapq import heappop, heappush

from cairn_l4lb.members import Member

from .vips import VipState

WAITING, UNANSWERED, ANSWERED = 0, 1, 2
#: Flows that are known at a time.
MAX_FLOWS = 200_000
#: The kernel gives up a SYN without answer after 120 s.
UNANSWERED_S = 130.0
#: A client repeats a SYN after 1 s, and then after 2 s more.
ANSWERED_S = 4.0
TCP, UDP = 6, 17


class Flow:
    """A connection to a VIP and the backend that it was given last.

    seq: of its SYN; -1: the kernel chose, and nobody saw it. count: connections that it stands
    for, where the kernel tells of a sample only. started: when its backend got it. attempt: of
    its backends the how manieth, over all. earlier: backends that had it before, and when.
    hedged: the one that a hedge left, and how long that had waited, seconds. refused: by the
    last, which the client did not hear of. replaced: backend of another connection between the
    same ports whose entry we deleted.
    """

    __slots__ = (
        "attempt",
        "count",
        "earlier",
        "hedged",
        "key",
        "member",
        "protocol",
        "refused",
        "replaced",
        "seq",
        "stage",
        "started",
        "vip",
    )

    def __init__(
        self, protocol: int, key: bytes, vip: VipState, member: Member, seq: int, now: float
    ) -> None:
        self.protocol = protocol
        self.key = key
        self.vip = vip
        self.member = member
        self.seq = seq
        self.started = now
        self.stage = WAITING
        self.count = 1
        self.attempt = 0
        self.earlier: list[tuple[Member, float]] | None = None
        self.hedged: tuple[Member, float] | None = None
        self.refused = False
        self.replaced: bytes | None = None

    def tried(self) -> list[Member]:
        """Backends that had it."""
        return [self.member, *(one for one, _ in self.earlier or ())]


class Flows:
    """All known flows; their stages are moved on by the caller."""

    def __init__(self) -> None:
        self.tcp: dict[bytes, Flow] = {}
        self.udp: dict[bytes, Flow] = {}
        self.waiting: deque[tuple[float, int, Flow]] = deque()
        self._unanswered: deque[tuple[float, int, Flow]] = deque()
        self._answered: deque[tuple[float, int, Flow]] = deque()
        self._hedges: list[tuple[float, int, int, Flow]] = []
        self._number = 0

    def of(self, protocol: int) -> dict[bytes, Flow]:
        """Those of a protocol."""
        return self.tcp if protocol == TCP else self.udp

    def __len__(self) -> int:
        return len(self.tcp) + len(self.udp)

    def hedge(self, flow: Flow, at: float) -> None:
        """Name it in `hedges` if it still waits then."""
        self._number += 1
        heappush(self._hedges, (at, self._number, flow.attempt, flow))

    def unanswered(self, flow: Flow, now: float) -> None:
        """Its backend did not answer."""
        flow.stage = UNANSWERED
        self._unanswered.append((now + UNANSWERED_S, flow.attempt, flow))

    def answered(self, flow: Flow, now: float) -> None:
        """Somebody answered."""
        flow.stage = ANSWERED
        self._answered.append((now + ANSWERED_S, flow.attempt, flow))

    def forget(self, flow: Flow) -> None:
        """It is over."""
        known = self.of(flow.protocol)
        if known.get(flow.key) is flow:
            del known[flow.key]

    def late(self, now: float) -> list[Flow]:
        """Flows that wait for longer than the threshold; each is named once."""
        found: list[Flow] = []
        waiting = self.waiting
        while waiting and waiting[0][0] <= now:
            _, attempt, flow = waiting.popleft()
            if flow.stage == WAITING and flow.attempt == attempt:
                found.append(flow)
        return found

    def hedges(self, now: float) -> list[Flow]:
        """Flows that wait long enough for another try."""
        found: list[Flow] = []
        while self._hedges and self._hedges[0][0] <= now:
            _, _, attempt, flow = heappop(self._hedges)
            if flow.stage == WAITING and flow.attempt == attempt:
                found.append(flow)
        return found

    def expire(self, now: float) -> None:
        """Forget flows that nothing will be heard of."""
        for queue in (self._unanswered, self._answered):
            while queue and queue[0][0] <= now:
                _, attempt, flow = queue.popleft()
                if flow.stage != WAITING and flow.attempt == attempt:
                    self.forget(flow)

    def make_room(self) -> Flow | None:
        """Forget the one that matters least; one that waits is returned, to be settled.

        None with no known flow among the queues as well.
        """
        for queue in (self._answered, self._unanswered):
            while queue:
                _, attempt, flow = queue.popleft()
                if flow.stage != WAITING and flow.attempt == attempt:
                    self.forget(flow)
                    return None
        while self.waiting:
            _, attempt, flow = self.waiting.popleft()
            if flow.stage == WAITING and flow.attempt == attempt:
                self.forget(flow)
                return flow
        return None

    def trim(self) -> None:
        """Bound entries of flows that went on: a client may use one port again and again."""
        for queue in (self._answered, self._unanswered):
            while len(queue) > 2 * MAX_FLOWS:
                _, attempt, flow = queue.popleft()
                if flow.stage != WAITING and flow.attempt == attempt:
                    self.forget(flow)

    def due(self) -> float | None:
        """When the first stage ends; None with nothing known."""
        queues = (self.waiting, self._hedges, self._unanswered, self._answered)
        return min((queue[0][0] for queue in queues if queue), default=None)
