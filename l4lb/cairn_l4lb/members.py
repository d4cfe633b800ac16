"""A backend as the steering process sees it: once by itself, once for each VIP that it serves."""

from bisect import bisect_left
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from .channel import LATENCY_BOUNDS_S, BackendReport
from .ewma import PeakEwma
from .health import Gate
from .model import Backend, BackendKey, endpoint
from .model import Protocol as Transport


class Decision(NamedTuple):
    """Where a connection goes.

    slot: the backend's number within the VIP, for the mark. address, port: of the backend, as on
    the wire. again: another backend had the connection before, delete its conntrack entry first.
    mode: `mark`, `ctnetlink`, or `refuse` for `REFUSE`. hedge_s: after so long without answer
    `tick` may name the flow; 0: not.
    """

    slot: int
    address: bytes
    port: int
    again: bool
    mode: str
    hedge_s: float


#: No backend may have a connection that one had: without its entry and a mark it is refused.
REFUSE = Decision(0, b"", 0, True, "refuse", 0.0)


class Watcher(Protocol):
    """Who wants to know when a backend opens or closes."""

    def changed(self, state: "State", reopened: bool, now: float) -> None: ...


class State:
    """What is known of a backend, whatever VIP it serves: one socket answers for all of them.

    source: address and port as on the wire, as the reply direction of its flows begins.
    itself: address of a container with one of its own, empty for others. As a client it cannot
    always reach itself: a bridge may not send a packet back to where it came from.
    pending: connections that were neither answered nor given up. dirty: has news to report.
    watchers: VIPs that it serves.
    """

    __slots__ = (
        "address",
        "dirty",
        "ewma",
        "failures",
        "gate",
        "itself",
        "key",
        "latency",
        "latency_sum_s",
        "pending",
        "picks",
        "port",
        "source",
        "successes",
        "text",
        "watchers",
    )

    def __init__(self, protocol: Transport, backend: Backend, now: float) -> None:
        self.key: BackendKey = (protocol, backend.address, backend.port)
        self.text = endpoint(backend.address, backend.port)
        self.address = ip_address(backend.address).packed
        self.port = backend.port
        self.itself = b""
        self.source = self.address + backend.port.to_bytes(2, "big")
        self.gate = Gate()
        self.ewma = PeakEwma(now)
        self.watchers: list[Watcher] = []
        self.pending = self.picks = self.successes = self.failures = 0
        self.latency = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.latency_sum_s = 0.0
        self.dirty = False

    def answered(self, seconds: float, count: int, now: float) -> None:
        """An answer came after so long; it stands for `count`."""
        self.ewma.observe(seconds * 1e9, now)
        self.latency[bisect_left(LATENCY_BOUNDS_S, seconds)] += count
        self.latency_sum_s += seconds * count

    def report(self, now: float) -> BackendReport:
        """Its counts and how it is now."""
        gate = self.gate
        return BackendReport(
            backend=self.key,
            picks=self.picks,
            successes=self.successes,
            failures=self.failures,
            consecutive_failures=gate.consecutive,
            pending=self.pending,
            open=not gate.closed,
            closed_for_s=max(gate.until - now, 0.0) if gate.closed else 0.0,
            ewma_ns=self.ewma.read(now),
            latency=tuple(self.latency),
            latency_sum_s=self.latency_sum_s,
        )


class Member:
    """A backend of one VIP.

    weight: 0 takes no new connections. near: 0 on this host, 1 in its zone, 2 elsewhere.
    since: when it joined or came back, for its slow start; None: it was there from the beginning.
    share: its weight as of now. step: 1 / share. served: connections it got, each as its step.
    turn: when it is its turn in a round. decision, other: what `packet` returns when it is the
    first choice, and when it is another one; made once.
    """

    __slots__ = (
        "decision",
        "near",
        "other",
        "reachable",
        "seed",
        "served",
        "share",
        "since",
        "slot",
        "state",
        "step",
        "turn",
        "weight",
    )

    def __init__(self, state: State, seed: int, since: float | None) -> None:
        self.state = state
        self.seed = seed
        self.since = since
        self.slot = self.weight = 0
        self.near = 2
        self.reachable = True
        self.share = self.step = 1.0
        self.served = 0.0
        self.turn = -1.0
        self.decision = self.other = Decision(0, state.address, state.port, False, "mark", 0.0)

    def configure(self, backend: Backend, near: int, mode: str, hedge_s: float) -> None:
        """It is as `backend` says from now on.

        A backend that has no slot yet cannot be named in a mark, and gets nothing.
        """
        self.slot = backend.slot
        self.weight = backend.weight if backend.slot or mode == "ctnetlink" else 0
        self.near = near
        self.reachable = backend.reachable
        state = self.state
        host = backend.agent_address in ("", backend.address)
        state.itself = b"" if host else state.address
        self.decision = Decision(self.slot, state.address, state.port, False, mode, hedge_s)
        self.other = self.decision._replace(again=True)

    @property
    def text(self) -> str:
        """`address:port`."""
        return self.state.text
