"""How evenly ten equal backends share 100,000 connections, by policy.

Real connections, as fast as they come from four threads: cases are policies of the steering
process, `kernel` where the kernel chooses by its weights, and a plain nft rule as a peer. Policies
that go by the client's address are taken from the rules alone, `rules-*`, each connection from
another address.

    deviation   the largest distance of a backend from its fair share, in per cent of that
    failures    connections that did not come about
"""

import random
import socket
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from typing import get_args

from bench.l4lb_cluster import app_rows, cluster_rows, vip_address
from bench.l4lb_daemon import daemon
from bench.l4lb_net import PORT, TRACKING, Client, Site, Talker, accepted, site
from bench.l4lb_paths import nft
from bench.report import Result
from cairn_l4lb.channel import SteerSettings, Update
from cairn_l4lb.model import Backend, Options, Policy, Service, Vip
from cairn_l4lb.steering import Steering

BACKENDS = 10
POLICIES: tuple[Policy, ...] = ("p2c", "least-latency", "round-robin", "random")
BY_ADDRESS: tuple[Policy, ...] = ("source-hash", "maglev")
#: Cases of real connections: labels of the VIP.
CASES: dict[str, dict[str, str]] = {
    **{policy: {"L4LB_0_MODE": "mark", "L4LB_0_POLICY": policy} for policy in POLICIES},
    "kernel": {"L4LB_0_MODE": "kernel"},
}


def deviation(counts: Collection[int]) -> float:
    """In per cent; counts: of all backends."""
    fair = sum(counts) / len(counts)
    return max(abs(count - fair) for count in counts) * 100 / fair if fair else 100.0


def shares(client: Client, target: str, server: Talker, count: int) -> tuple[float, int]:
    """Deviation and failures of so many connections to one VIP."""
    before = accepted(server)
    load = client.connect("threads", 4, "count", count, "seconds", 60, targets=[target])
    after = accepted(server)
    return deviation([after[one] - before[one] for one in after]), load["failures"]


def real(place: Site, count: int) -> Iterator[Result]:
    """All cases with connections."""

    def results(case: str, found: tuple[float, int], peer: str | None = None) -> Iterator[Result]:
        for metric, value, unit in zip(
            ("deviation", "failures"), found, ("%", "connections"), strict=True
        ):
            yield Result("l4lb_balance", case, metric, value, unit, count, peer)

    rows = list(cluster_rows(place.backends))
    for number, labels in enumerate(CASES.values()):
        rows += app_rows(number, place.backends, PORT, labels)
    with (
        place.listening() as server,
        nft(place) as plain,
        place.client("l4lb") as client,
        daemon(client, rows, len(CASES)),
    ):
        client.host.settings(TRACKING)
        [target] = plain.client.targets
        yield from results("nft", shares(plain.client, target, server, count), "nft")
        for number, case in enumerate(CASES):
            target = f"{vip_address(number)}:{PORT}"
            yield from results(case, shares(client, target, server, count))


def rules(policy: Policy, count: int) -> Result:
    """The rules alone."""
    vip = Vip("tcp", vip_address(0), PORT)
    backends = tuple(Backend(f"10.77.0.{10 + n}", PORT, slot=n) for n in range(1, BACKENDS + 1))
    steering = Steering(SteerSettings(), random.Random(1), 0.0)
    steering.update(Update([Service(vip, "", backends, Options(policy=policy))], whole=True), 0.0)
    counts = Counter(dict.fromkeys(range(1, BACKENDS + 1), 0))
    rng, destination = random.Random(2), socket.inet_aton(vip.address)
    for number in range(count):
        source = rng.getrandbits(32).to_bytes(4, "big")
        flow = source + destination + struct.pack("!HH", rng.randrange(1024, 65536), PORT)
        decision = steering.packet(socket.IPPROTO_TCP, flow, number, number * 1e-4)
        assert decision is not None, "every connection gets a backend"
        counts[decision.slot] += 1
    return Result(
        "l4lb_balance", f"rules-{policy}", "deviation", deviation(counts.values()), "%", count
    )


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    assert {*POLICIES, *BY_ADDRESS} == set(get_args(Policy)), "no policy is left out"
    count = 10_000 if quick else 100_000
    for policy in BY_ADDRESS:
        yield rules(policy, count)
    with site(BACKENDS) as place:
        yield from real(place, count)
