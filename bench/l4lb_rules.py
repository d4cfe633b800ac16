"""The rules of the layer-4 load balancer alone: one decision, and one change of the table.

POLICY-B     a VIP with B backends whose connections are answered and end at once
    decide_us     for a SYN
    answered_us   for the event of its answer
    ended_us      for the event of its end
    report_us     for a report after 1,000 connections
table-VxB    V VIPs with B backends each, rows of the cluster in and services with slots out
    build_s       all of them
    change_us, change_p99_us   one task that goes to another agent
    memory_kb     of the process, per VIP
"""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from itertools import count
from statistics import median
from time import perf_counter

from bench.dns_client import percentile
from bench.l4lb_cluster import agent_addresses, large, task_row, vip_address
from bench.l4lb_net import PORT, memory_kb
from bench.report import Result, as_in_a_daemon, timed
from cairn_core.clusterview.view import ClusterView
from cairn_core.mesos.feed_rows import Row
from cairn_l4lb.apply import Balancer
from cairn_l4lb.channel import SteerSettings, Update
from cairn_l4lb.model import Backend, Options, Policy, Service, Vip
from cairn_l4lb.slots import Slots
from cairn_l4lb.steering import DESTROYED, UPDATED, Decision, Steering
from cairn_l4lb.table import Table

BENCH = "l4lb_rules"
BACKENDS = 10
POLICIES: tuple[Policy, ...] = (
    "p2c", "least-latency", "round-robin", "random", "source-hash", "maglev",
)  # fmt: skip
#: Connections in a batch, and between two of them, seconds.
BATCH = 1000
EVERY_S = 0.0005
SEEN_REPLY = 2
MAX_SLOT = 4095


class Connections:
    """One VIP and its clients."""

    def __init__(self, policy: Policy, backends: int) -> None:
        self.steering = Steering(SteerSettings(mode="mark"), random.Random(1), 0.0)
        self._vip = Vip("tcp", vip_address(0), PORT)
        self._places = tuple(
            Backend(address, PORT, slot=n)
            for n, address in enumerate(agent_addresses(backends), start=1)
        )
        service = Service(self._vip, "app-0.marathon", self._places, Options(policy=policy))
        self.steering.update(Update([service], whole=True), 0.0)
        self._rng = random.Random(2)
        self._numbers = count()

    def flows(self) -> list[tuple[int, bytes, float]]:
        """New connections: sequence number, flow, and when."""
        destination = socket.inet_aton(self._vip.address)
        return [
            (
                number,
                self._rng.getrandbits(32).to_bytes(4, "big")
                + destination
                + struct.pack("!HH", 1024 + number % 60_000, PORT),
                number * EVERY_S,
            )
            for number in (next(self._numbers) for _ in range(BATCH))
        ]


def decisions(policy: Policy, backends: int, rounds: int) -> Iterator[Result]:
    """Microseconds, per connection."""
    some = Connections(policy, backends)
    steering = some.steering
    spent: dict[str, list[float]] = {
        "decide_us": [], "answered_us": [], "ended_us": [], "report_us": []
    }  # fmt: skip
    with as_in_a_daemon():
        for _ in range(rounds):
            flows = some.flows()
            chosen: list[Decision | None] = []
            start = perf_counter()
            for seq, flow, now in flows:
                chosen.append(steering.packet(socket.IPPROTO_TCP, flow, seq, now))
            spent["decide_us"].append((perf_counter() - start) / BATCH)
            sources = [one.address + struct.pack("!H", one.port) for one in chosen if one]
            assert len(sources) == BATCH, "every connection gets a backend"
            for metric, kind in (("answered_us", UPDATED), ("ended_us", DESTROYED)):
                now = flows[-1][2]
                start = perf_counter()
                for (_seq, flow, _at), source in zip(flows, sources, strict=True):
                    steering.event(kind, socket.IPPROTO_TCP, flow, source, SEEN_REPLY, now)
                spent[metric].append((perf_counter() - start) / BATCH)
            start = perf_counter()
            steering.report(flows[-1][2])
            spent["report_us"].append(perf_counter() - start)
    for metric, values in spent.items():
        yield Result(BENCH, f"{policy}-{backends}", metric, median(values) * 1e6, "us", rounds)


class Node:
    """The rules of the controlling process, from rows to services with slots."""

    def __init__(self, rows: list[Row]) -> None:
        self._view, self._table = ClusterView(), Table()
        self._balancer = Balancer(Slots(MAX_SLOT))
        self.apply(*rows)

    def apply(self, *rows: Row) -> int:
        """Take rows in; how many services changed."""
        changes = self._view.apply({row.key: row for row in rows})
        if changes is not None:
            self._balancer.note(self._table.apply(changes, 0.0), 0.0)
        return len(self._balancer.take(0.0).changed)


def table(vips: int, changes: int, *, first: bool) -> Iterator[Result]:
    """From rows to services.  first: no memory is used again that an earlier case had."""
    case = f"table-{vips}x{BACKENDS}"
    rows = list(large(vips, BACKENDS))
    agents = agent_addresses(vips * BACKENDS // 5)
    rng = random.Random(1)
    before = memory_kb()
    took, node = timed(lambda: Node(rows))
    yield Result(BENCH, case, "build_s", took, "s")
    if first:
        yield Result(BENCH, case, "memory_kb", (memory_kb() - before) / vips, "kB", vips)

    def change() -> None:
        app = rng.randrange(vips)
        row = task_row(app, rng.randrange(BACKENDS), rng.choice(agents), 20000 + app % 5000)
        if node.apply(row) > 1:
            raise AssertionError("one task is of one service")

    with as_in_a_daemon():
        each = sorted(_each(change, changes))
    yield Result(BENCH, case, "change_us", median(each) * 1e6, "us", changes)
    yield Result(BENCH, case, "change_p99_us", percentile(each, 0.99) * 1e6, "us", changes)


def _each(work: Callable[[], object], n: int) -> Iterator[float]:
    for _ in range(n):
        yield timed(work)[0]


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    sizes = (500, 100) if quick else (5000, 1000, 100)
    for vips in sizes:
        yield from table(vips, 200 if quick else 2000, first=vips == sizes[0])
    rounds = 5 if quick else 50
    for policy in POLICIES[:1] if quick else POLICIES:
        for backends in (10, 100):
            yield from decisions(policy, backends, rounds)
