"""Connections through the layer-4 load balancer, beside a plain nft rule and no balancer at all.

The ways are measured in turn, all in one run: see `bench.l4lb_paths`. Clients, balancer and four
backends share this machine, so rates are of all of them together; nothing else should run.

    rate                  connections a second, 4 threads, as fast as they come
    of_direct, of_nft     that, by the rate of the other way in the same round
    p50_us, p99_us        of connect() at 500 connections a second
    added_p50_us          what is more than `direct` takes in the same round
    cpu_us                processor time of the whole machine per connection, at 4,000 a second
    steer_cpu_us          that of the steering process
    packet_p50_us         a byte there and back on an established connection
    added_packet_us       what is more than `direct` takes
    failures              connections that did not come about, in all rounds together
    most_of_fair          the most that a backend had, by its fair share
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from bench.l4lb_net import Talker, accepted, busy_s, site
from bench.l4lb_paths import OURS, Way, direct, nft, ours
from bench.report import Result

BACKENDS = 4
PEERS = ("direct", "nft")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 7
    seconds: float = 1.0
    calm_seconds: float = 2.0
    pings: int = 20_000


QUICK = Plan(rounds=2, seconds=0.4, calm_seconds=0.4, pings=2000)


@dataclass(slots=True)
class Figures:
    """What was measured, by way and metric, a value for each round."""

    found: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, way: str, metric: str, value: float) -> None:
        """One more round."""
        self.found[way][metric].append(value)

    def compare(
        self, way: str, metric: str, peer: str, by: Callable[[float, float], float]
    ) -> list[float]:
        """A metric of a way and of a peer, round by round."""
        ours, theirs = self.found[way][metric], self.found[peer][metric]
        return [by(a, b) for a, b in zip(ours, theirs, strict=True)]


def saturated(ways: Sequence[Way], plan: Plan, server: Talker, figures: Figures) -> None:
    """As fast as it goes."""
    before = accepted(server)
    for way in ways:
        load = way.client.connect("threads", 4, "seconds", plan.seconds)
        figures.add(way.name, "rate", load["rate"])
        figures.add(way.name, "failures", load["failures"])
        after = accepted(server)
        counts = [after[address] - before[address] for address in after]
        figures.add(way.name, "most_of_fair", max(counts) * len(counts) / max(1, sum(counts)))
        before = after


def calm(ways: Sequence[Way], plan: Plan, figures: Figures) -> None:
    """At fixed rates."""
    for way in ways:
        load = way.client.connect("seconds", plan.calm_seconds, "rate", 500)
        figures.add(way.name, "p50_us", load["p50_us"])
        figures.add(way.name, "p99_us", load["p99_us"])
        figures.add(way.name, "failures", load["failures"])
    for way in ways:
        busy, steer = busy_s(), way.steer_cpu_s()
        load = way.client.connect("seconds", plan.calm_seconds, "rate", 4000)
        made = max(1, load["connections"])
        figures.add(way.name, "cpu_us", (busy_s() - busy) * 1e6 / made)
        figures.add(way.name, "steer_cpu_us", (way.steer_cpu_s() - steer) * 1e6 / made)
        figures.add(way.name, "failures", load["failures"])


def established(ways: Sequence[Way], plan: Plan, figures: Figures) -> None:
    """A connection that is there."""
    for way in ways:
        load = way.client.pingpong(plan.pings)
        figures.add(way.name, "packet_p50_us", load["p50_us"])
        figures.add(way.name, "failures", load["failures"])


UNITS = {"rate": "1/s", "failures": "connections", "most_of_fair": "ratio"}


def results(figures: Figures) -> Iterator[Result]:
    """Medians, and sums of failures."""
    for way, metrics in figures.found.items():
        peer = way if way in PEERS else None

        def result(
            metric: str, values: list[float], unit: str, way: str = way, peer: str | None = peer
        ) -> Result:
            value = sum(values) if metric == "failures" else median(values)
            return Result("l4lb", way, metric, value, unit, len(values), peer)

        for metric, values in metrics.items():
            if metric != "steer_cpu_us" or way not in PEERS:
                yield result(metric, values, UNITS.get(metric, "us"))
        for other in PEERS[: PEERS.index(way) if way in PEERS else None]:
            share = figures.compare(way, "rate", other, lambda a, b: a / b)
            yield result(f"of_{other}", share, "ratio")
        if way != "direct":
            for metric, base in (("added_p50_us", "p50_us"), ("added_packet_us", "packet_p50_us")):
                added = figures.compare(way, base, "direct", lambda a, b: a - b)
                yield result(metric, added, "us")


def run(quick: bool) -> Iterator[Result]:
    """All ways."""
    plan = QUICK if quick else Plan()
    figures = Figures()
    with ExitStack() as stack:
        place = stack.enter_context(site(BACKENDS))
        ways = [stack.enter_context(way(place)) for way in (direct, nft)]
        ways += [stack.enter_context(ours(place, mode)) for mode in OURS]
        with place.listening() as server:
            for way in ways:
                # Neighbours, routes and the code of all programs are known from here on.
                way.client.connect("threads", 4, "seconds", 0.2)
            for number in range(plan.rounds):
                # No way has always the same one before it.
                turn = ways[number % len(ways) :] + ways[: number % len(ways)]
                saturated(turn, plan, server, figures)
                calm(turn, plan, figures)
        with place.listening("echo"):
            for _ in range(plan.rounds):
                established(ways, plan, figures)
    yield from results(figures)
