"""A host for the tests of steering: VIPs, clients, backends that answer or do not."""

import struct
from ipaddress import ip_address
from random import Random
from typing import Any

from .channel import BackendReport, Question, Report, SteerSettings, Update, VipReport
from .model import Backend, Options, Service, Vip
from .steering import DESTROYED, NEW, UPDATED, Decision, Steering

TCP, UDP = 6, 17
SEEN_REPLY = 2
VIP = Vip("tcp", "11.0.0.1", 80)


def backend(number: int, **more: Any) -> Backend:
    """The `number`th, from 1."""
    more.setdefault("slot", number)
    return Backend(f"10.0.{number // 256}.{number % 256}", 80, **more)


def container(number: int, **more: Any) -> Backend:
    """The same, with an address of its own on its host."""
    return backend(number, agent_address="10.99.0.1", **more)


def service(count: int = 2, *, vip: Vip = VIP, backends: Any = None, **options: Any) -> Service:
    """A VIP with so many equal backends, or these."""
    every = tuple(backend(number + 1) for number in range(count)) if backends is None else backends
    return Service(vip, "web.marathon", tuple(every), Options(**options))


def source(address: bytes, port: int) -> bytes:
    """As a reply's source on the wire."""
    return address + port.to_bytes(2, "big")


class World:
    """Steering with a clock of its own, and all that it said."""

    def __init__(self, *services: Service, seed: int = 1, now: float = 100.0, **settings: Any):
        settings.setdefault("promote_per_s", 0.0)
        settings.setdefault("kernel_slots", 128)
        self.settings = SteerSettings(**settings)
        self.now = now
        #: Flows whose SYN does not leave the host; and how often that was asked.
        self.dropped: set[bytes] = set()
        self.looks = 0
        self.steering = Steering(self.settings, Random(seed), now, self._sent)
        self.backends: dict[str, BackendReport] = {}
        self.vips: dict[Vip, VipReport] = {}
        self.counters: dict[str, int] = {}
        self.question = 0
        self._next = 0
        self.update(*services)

    def _sent(self, protocol: int, flow: bytes, backend: bytes) -> bool:
        self.looks += 1
        return flow not in self.dropped

    def update(self, *services: Service, gone: tuple[Vip, ...] = (), whole: bool = False) -> None:
        self.steering.update(Update(list(services), list(gone), whole), self.now)

    def flow(self, number: int | None = None, vip: Vip = VIP, client: str = "10.9.0.1") -> bytes:
        """Between a client's port and the VIP; without number a new one."""
        if number is None:
            self._next += 1
            number = self._next
        ports = struct.pack("!HH", 1024 + number % 60_000, vip.port)
        start = int(ip_address(client)) + number // 60_000
        address = start.to_bytes(len(ip_address(client).packed), "big")
        return address + ip_address(vip.address).packed + ports

    def syn(self, flow: bytes, seq: int = 1, protocol: int = TCP) -> Decision | None:
        return self.steering.packet(protocol, flow, seq, self.now)

    def open(self, flow: bytes, seq: int = 1, protocol: int = TCP) -> Decision:
        decision = self.syn(flow, seq, protocol)
        assert decision is not None
        return decision

    def event(
        self, kind: int, flow: bytes, where: Decision, status: int = 0, protocol: int = TCP
    ) -> None:
        reply = source(where.address, where.port)
        self.steering.event(kind, protocol, flow, reply, status, self.now)

    def answer(self, flow: bytes, where: Decision, protocol: int = TCP) -> None:
        self.event(UPDATED, flow, where, SEEN_REPLY, protocol)

    def end(self, flow: bytes, where: Decision, *, answered: bool = True) -> None:
        self.event(DESTROYED, flow, where, SEEN_REPLY if answered else 0)

    def begin(self, flow: bytes, where: Decision) -> None:
        """The kernel chose."""
        self.event(NEW, flow, where)

    def connect(self, flow: bytes | None = None, after: float = 0.001) -> Decision:
        """A connection that is answered after so long and stays."""
        flow = self.flow() if flow is None else flow
        decision = self.open(flow)
        self.now += after
        self.answer(flow, decision)
        return decision

    def wait(self, seconds: float) -> list[tuple[bytes, Decision]]:
        """Let time pass, with a tick where something is due."""
        end = self.now + seconds
        hedged: list[tuple[bytes, Decision]] = []
        while (due := self.steering.due()) is not None and due <= end:
            self.now = max(due, self.now)
            hedged += self.steering.tick(self.now)
        self.now = end
        return hedged

    def fail(self, where: str, times: int = 5) -> None:
        """So many connections to a backend, by its text, are not answered."""
        done = 0
        while done < times:
            flow = self.flow()
            decision = self.open(flow)
            if text(decision) == where:
                self.end(flow, decision, answered=False)
                done += 1
            else:
                self.answer(flow, decision)

    def report(self) -> Report:
        report = self.steering.report(self.now)
        for one in report.backends:
            self.backends[f"{one.backend[1]}:{one.backend[2]}"] = one
        for vip in report.vips:
            self.vips[vip.vip] = vip
        self.counters = report.counters
        return report

    def beats(self, seconds: float, step: float = 0.25) -> None:
        """Time passes with nothing but reports."""
        end = self.now + seconds
        while self.now < end:
            self.wait(step)
            self.report()

    def explain(self, client: str = "10.9.0.1", vip: Vip = VIP) -> Any:
        self.question += 1
        return self.steering.explain(Question(self.question, vip, client), self.now)

    def pending(self) -> int:
        self.report()
        return sum(one.pending for one in self.backends.values())


def text(decision: Decision) -> str:
    """`address:port` of where a connection went."""
    return f"{ip_address(decision.address)}:{decision.port}"
