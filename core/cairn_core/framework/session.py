"""Rules of a framework's subscription: whom to ask, when to give up on a silent master.

Facts in, effects out; `io_client` is the shell.  Defined by Mesos docs/scheduler-http-api.md:
the first event is SUBSCRIBED, heartbeats come at the interval it announces, and a client that
has heard nothing for several intervals drops the connection and subscribes again with the
framework id it was given.

         begin            opened           SUBSCRIBED
    IDLE ------> ASKING ----------> OPEN --------------> SUBSCRIBED
      ^             |                |                       |
      +-------------+----------------+-----------------------+   lost, or silent too long
    (after a jittered delay)         ERROR, or refused for good: ENDED
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import msgspec

from cairn_core.kit.backoff import Backoff
from cairn_core.mesos.scheduler_api import HEARTBEAT_INTERVAL_S, Call, Event, Subscribe
from cairn_core.mesos.types import FrameworkID, FrameworkInfo

#: Heartbeats that may be missed before the connection is given up (as mesos-go does).
MISSED_HEARTBEATS = 5
#: Seconds that a master may take to answer SUBSCRIBE.
ASKING_S = 30.0
#: Delay before the first new attempt and at most, seconds.  Every framework of a cluster comes
#: back after a failover, hence the jitter of `Backoff`.
RETRY_MIN_S = 0.25
RETRY_MAX_S = 15.0
#: Statuses of SUBSCRIBE that no repetition will change.
FINAL_STATUSES = frozenset({400, 401, 403, 405, 406, 415, 501})


class State(enum.Enum):
    """Where a subscription is."""

    IDLE = "idle"
    ASKING = "asking"
    OPEN = "open"
    SUBSCRIBED = "subscribed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Connect:
    """Send `call` to the master at `url` and read the stream that it answers."""

    url: str
    call: Call


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give `event` to the framework."""

    event: Event


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the stream, tell the framework, and call `begin` at `retry_at` (clock of `now`)."""

    reason: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class End:
    """The master will not have this framework any more; the shell raises `reason`."""

    reason: str


Effect: TypeAlias = Connect | Deliver | Disconnect | End


class Session:
    """State of one framework's subscription.

    masters: base URLs to try in turn, each possibly not the leader, >= 1.
    framework: what to subscribe with; its `id`, when set, is that of an earlier run.
    """

    def __init__(
        self,
        masters: Sequence[str],
        framework: FrameworkInfo,
        rng: Random,
        *,
        suppressed_roles: tuple[str, ...] = (),
    ) -> None:
        if not masters:
            raise ValueError("no masters to subscribe at")
        self._masters = tuple(masters)
        self._turn = 0
        self._backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, rng)
        self.framework = framework
        self.suppressed_roles = suppressed_roles
        self.state = State.IDLE
        #: Time of the last event of the stream that is open.
        self._heard = 0.0
        self._interval_s = HEARTBEAT_INTERVAL_S

    def begin(self, *, now: float) -> Connect:
        """It is time to subscribe."""
        if self.state is not State.IDLE:
            raise RuntimeError(f"begin while {self.state.value}")
        self.state = State.ASKING
        self._heard = now
        info = self.framework
        subscribe = Subscribe(framework_info=info, suppressed_roles=self.suppressed_roles)
        call = Call(type="SUBSCRIBE", framework_id=info.id, subscribe=subscribe)
        return Connect(self._masters[self._turn % len(self._masters)], call)

    def opened(self, status: int, reason: str, *, now: float) -> list[Effect]:
        """The master answered SUBSCRIBE with `status`; `reason` is the text of a refusal."""
        if status == 200:
            self.state = State.OPEN
            self._heard = now
            return []
        if status in FINAL_STATUSES:
            return self._end(f"subscription refused with status {status}: {reason}")
        return self.lost(f"status {status} {reason}".rstrip(), now=now)

    def received(self, event: Event, *, now: float) -> list[Effect]:
        """An event came on the open stream."""
        self._heard = now
        if event.type == "HEARTBEAT":
            return []
        if event.type == "ERROR":
            return self._end(event.error.message if event.error else "error without a message")
        if self.state is State.OPEN:
            if event.type != "SUBSCRIBED" or event.subscribed is None:
                return self.lost(f"first event is {event.type[:40]!r}", now=now)
            self.state = State.SUBSCRIBED
            self._backoff.reset()
            self._interval_s = _sensible(event.subscribed.heartbeat_interval_seconds)
            self.framework = _with_id(self.framework, event.subscribed.framework_id)
        return [Deliver(event)]

    def lost(self, reason: str, *, now: float) -> list[Effect]:
        """The attempt failed or the stream ended."""
        if self.state in (State.IDLE, State.ENDED):
            return []
        # The same master first after it had us, for the break may have been short.
        if self.state is not State.SUBSCRIBED:
            self._turn += 1
        self.state = State.IDLE
        return [Disconnect(reason, now + self._backoff.next())]

    def deadline(self) -> float | None:
        """When to call `silent` unless something is heard before; None while idle or ended."""
        if self.state in (State.IDLE, State.ENDED):
            return None
        if self.state is State.ASKING:
            return self._heard + ASKING_S
        return self._heard + MISSED_HEARTBEATS * self._interval_s

    def listening(self, *, now: float) -> None:
        """The shell reads the stream again; silence while it did not read was its own."""
        self._heard = now

    def silent(self, *, now: float) -> list[Effect]:
        """Look whether the master has been silent for too long."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return []
        return self.lost(f"nothing heard for {now - self._heard:.0f} s", now=now)

    def _end(self, reason: str) -> list[Effect]:
        self.state = State.ENDED
        return [End(reason)]


def _sensible(interval_s: float | None) -> float:
    """A heartbeat interval that a mistaken master cannot turn into a busy loop."""
    if interval_s is None or not 0 < interval_s < float("inf"):
        return HEARTBEAT_INTERVAL_S
    return min(max(interval_s, 0.1), 3600.0)


def _with_id(framework: FrameworkInfo, framework_id: FrameworkID) -> FrameworkInfo:
    return msgspec.structs.replace(framework, id=framework_id)
