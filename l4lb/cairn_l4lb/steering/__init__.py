"""The steering process's rules: which backend a new connection gets, and what became of it.

    packet, refused  -> which backend now           (a SYN, an RST to one)
    event            -> it answered, or it did not  (conntrack)
    tick             -> nothing came in time
    report           -> what changed, for the controlling process

No clock and no socket: `now` is in seconds on the monotonic clock and never goes back, randomness
comes from `rng`.  Nothing that arrives in packets or events raises.
"""

from random import Random
from typing import NamedTuple

from ..channel import Answer, Question, Report, SteerSettings, Update

#: Kinds of conntrack events, as `event` takes them.
NEW, UPDATED, DESTROYED = 0, 1, 2


class Decision(NamedTuple):
    """Where a connection goes.

    slot: the backend's number within the VIP, for the mark. address, port: of the backend, as on
    the wire. again: another backend had the connection before, delete its conntrack entry first.
    mode: `mark` or `ctnetlink`. hedge_s: after so long without answer `tick` may name the flow; 0: not.
    """

    slot: int
    address: bytes
    port: int
    again: bool
    mode: str
    hedge_s: float


class Steering:
    """All VIPs of this host, their backends' health, and the connections that wait for an answer.

    A flow is source address, destination address, source port and destination port as on the wire
    and as the client sent them: 12 bytes for IPv4, 36 for IPv6.
    """

    def __init__(self, settings: SteerSettings, rng: Random, now: float) -> None:
        raise NotImplementedError

    @property
    def urgent(self) -> bool:
        """Whether a backend opened or closed since the last report."""
        raise NotImplementedError

    def due(self) -> float | None:
        """When `tick` has something to do; None: not before the next packet or event."""
        raise NotImplementedError

    def configure(self, settings: SteerSettings, now: float) -> None:
        """Go on with other settings; what is known is kept."""
        raise NotImplementedError

    def update(self, update: Update, now: float) -> None:
        """Serve what it says.  Costs what changed; backends that stay keep their health."""
        raise NotImplementedError

    def packet(self, protocol: int, flow: bytes, seq: int, now: float) -> Decision | None:
        """The backend for a SYN (6) or a first datagram (17, any seq).

        None: no such VIP, or no backend that may have it; it goes on unmarked.
        """
        raise NotImplementedError

    def refused(self, flow: bytes, now: float) -> Decision | None:
        """An RST came for an unanswered SYN: who else to try; None: let the client have it."""
        raise NotImplementedError

    def event(
        self, kind: int, protocol: int, flow: bytes, reply_source: bytes, status: int, now: float
    ) -> None:
        """Conntrack says NEW, UPDATED or DESTROYED of a flow with our mark.

        flow: its original direction. reply_source: address and port, 6 or 18 bytes, that the reply
        comes from, which is the backend. status: CTA_STATUS.
        """
        raise NotImplementedError

    def tick(self, now: float) -> list[tuple[bytes, Decision]]:
        """Take note of time; flows whose SYN is to be sent again to another backend, with it.

        About every 20-50 ms while `due` says so. Costs what is due.
        """
        raise NotImplementedError

    def report(self, now: float) -> Report:
        """What changed since the last report; about every `report_s`, also when idle."""
        raise NotImplementedError

    def explain(self, question: Question, now: float) -> Answer:
        """What this client would get, and why.  Changes nothing."""
        raise NotImplementedError
