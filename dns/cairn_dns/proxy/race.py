"""Which servers are asked for one question, when, and whose answer counts.

`Servers` remembers how each server did: a smoothed latency (RFC 6298) and a score of failures that
halves with time.  `Race` is one question under way: the best server first, a second one when the
first takes longer than it should, further ones at growing distances or as soon as one fails.  No
I/O, no clock, no tasks: `now` is in seconds on the monotonic clock.

# Differs: the original counts failures since the start for ever, asks two servers always, and takes
# the first reply whatever it says.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from cairn_dns.wire import FORMERR, NOTIMP, REFUSED, SERVFAIL

from .routes import Server

#: A failure counts half after so long, seconds.
HALF_LIFE_S = 30.0
#: Score from which a server counts as dead: one failure of late.
DEAD = 0.5
#: What SERVFAIL, REFUSED and their like count: often the name is to blame, and not the server.
UNWILLING = 0.2
MAX_SCORE = 16.0
#: A dead server gets a question (which others are asked as well) so often, seconds.
PROBE_S = 5.0
#: How long the first server is waited for before a second one is asked, seconds.
MIN_WAIT_S, MAX_WAIT_S = 0.020, 0.300
#: Before anything is known of a server.
FIRST_WAIT_S = 0.200
#: A server that has lost the race is listened to so long, to learn how it does.
AFTERWARDS_S = 1.0
#: RFC 6298, 2: weights of the newest sample.
_ALPHA, _BETA = 1 / 8, 1 / 4


_UNWILLING = (SERVFAIL, REFUSED, FORMERR, NOTIMP)


@dataclass(slots=True)
class ServerState:
    """How one server did.

    latency_s, deviation_s: smoothed; 0 before the first answer. score: failures, as of
    `scored_at`. replies, failures: since the start.
    """

    server: Server
    latency_s: float = 0.0
    deviation_s: float = 0.0
    score: float = 0.0
    scored_at: float = 0.0
    asked_at: float = -math.inf
    replies: int = 0
    failures: int = 0

    def score_at(self, now: float) -> float:
        """Failures, older ones counting less."""
        return self.score * math.pow(0.5, max(0.0, now - self.scored_at) / HALF_LIFE_S)

    def dead(self, now: float) -> bool:
        """Whether others are asked first."""
        return self.score_at(now) >= DEAD

    @property
    def wait_s(self) -> float:
        """How long it may take before somebody else is asked too."""
        if not self.replies:
            return FIRST_WAIT_S
        return min(max(self.latency_s + 4 * self.deviation_s, MIN_WAIT_S), MAX_WAIT_S)

    def replied(self, took_s: float, now: float) -> None:
        """A usable answer came."""
        if self.replies:
            self.deviation_s += _BETA * (abs(self.latency_s - took_s) - self.deviation_s)
            self.latency_s += _ALPHA * (took_s - self.latency_s)
        else:
            self.latency_s, self.deviation_s = took_s, took_s / 2
        self.replies += 1
        self.score, self.scored_at = 0.0, now

    def failed(self, now: float, weight: float = 1.0) -> None:
        """No answer, or one that is of no use."""
        self.failures += 1
        self.score, self.scored_at = min(self.score_at(now) + weight, MAX_SCORE), now


class Servers:
    """What is known of every server; shared by all questions."""

    def __init__(self) -> None:
        self.states: dict[Server, ServerState] = {}

    def keep(self, servers: Iterable[Server]) -> None:
        """Forget all others; for after a reload."""
        kept = set(servers)
        self.states = {server: state for server, state in self.states.items() if server in kept}

    def state(self, server: Server) -> ServerState:
        """What is known of a server, from its first question on."""
        state = self.states.get(server)
        if state is None:
            state = self.states[server] = ServerState(server)
        return state

    def order(self, servers: Sequence[Server], *, now: float, rng: Random) -> list[ServerState]:
        """Best first.  Servers about as fast as each other take turns by chance."""
        states = [self.state(server) for server in servers]
        if len(states) < 2:
            return states

        def rank(state: ServerState) -> tuple[float, float, float]:
            # Latencies within a factor of two count as equal, and all below a millisecond.
            band = math.floor(math.log2(max(state.latency_s, 0.001)))
            return math.floor(state.score_at(now) * 2), band, rng.random()

        return sorted(states, key=rank)


@dataclass(slots=True)
class Race:
    """One question on its way to several servers.

    order: best first. server_s, total_s: how long one server, and all of them, are waited for.
    Invariant: what `due` gives is asked once; each asked server ends in `replied` or `failed`,
    or is given up when the race ends.
    """

    order: Sequence[ServerState]
    started: float
    server_s: float = 5.0
    total_s: float = 10.0
    #: Answer that says no server is willing, in case all say so.
    unwilling: bytes | None = None
    winner: bytes | None = None
    by: ServerState | None = None
    #: Asked and not ended: when.
    open: dict[Server, float] = field(default_factory=dict)
    _asked: set[Server] = field(default_factory=set)
    _next: int = 0
    _next_at: float = 0.0
    _step_s: float = 0.0

    def due(self, now: float) -> list[ServerState]:
        """Whom to ask now; call it again at `wake_at` and after each `failed`."""
        found: list[ServerState] = []
        if self.winner is not None or now >= self.started + self.total_s:
            return found
        if self._next == 0:
            found += self._probes(now)
        while self._next < len(self.order) and (not self.open or now >= self._next_at):
            state = self.order[self._next]
            self._next += 1
            if state.server in self._asked:
                continue
            found.append(self._ask(state, now))
            self._step_s = max(state.wait_s, self._step_s * 2)
            self._next_at = now + self._step_s
        return found

    def _probes(self, now: float) -> list[ServerState]:
        """A dead server that was left alone for a while: it may be back."""
        for state in self.order[1:]:
            if state.dead(now) and now - state.asked_at >= PROBE_S:
                return [self._ask(state, now)] if not self.order[0].dead(now) else []
        return []

    def _ask(self, state: ServerState, now: float) -> ServerState:
        self._asked.add(state.server)
        state.asked_at = self.open[state.server] = now
        return state

    def wake_at(self) -> float:
        """When `due` or `over` may say something new."""
        end = self.started + self.total_s
        return min(self._next_at, end) if self._next < len(self.order) else end

    def replied(self, state: ServerState, reply: bytes, now: float) -> None:
        """An answer came: good, or unwilling, which lets the others go on."""
        asked = self.open.pop(state.server, now)
        if reply[3] & 0x0F in _UNWILLING:
            state.failed(now, UNWILLING)
            self._next_at = now
            if self.unwilling is None or reply[3] & 0x0F == SERVFAIL:
                self.unwilling = reply
            return
        state.replied(now - asked, now)
        if self.winner is None:
            self.winner, self.by = reply, state

    def failed(self, state: ServerState, now: float) -> None:
        """No answer came: timed out, or nobody is there."""
        self.open.pop(state.server, None)
        state.failed(now)
        self._next_at = now

    def over(self, now: float) -> bool:
        """Whether there is an answer, or none to be hoped for."""
        return (
            self.winner is not None
            or now >= self.started + self.total_s
            or (not self.open and self._next >= len(self.order))
        )

    @property
    def answer(self) -> bytes | None:
        """The answer of the race; the unwilling one when all were unwilling or silent."""
        return self.winner if self.winner is not None else self.unwilling
