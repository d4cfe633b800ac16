"""Answers of cairn-dns under load, beside NSD and the original: rate, CPU, latency.

1,000 tasks of Marathon; dnsperf and the servers share this machine, and the servers take turns.
Cases of `udp-*` are as fast as answers come, `*-2` with two serving processes:

    A           500 names with 4 addresses each
    SRV, SRV8   4 targets and their addresses; 8 targets, more than fit into 512 bytes
    NXDOMAIN    names that do not exist
    mix         60 % A, 20 % SRV, 10 % NXDOMAIN, 10 % leader
    tcp-*       over 8 connections
    rate-N-*    N questions a second
    foreign     names that are forwarded to NSD; what NSD itself takes is the peer

    qps                answers per second
    cpu_us_per_query   processor time of all processes of the server
    p50_us ...         from question to answer, as dnsperf sees it
    added_p50_us       what is more than that of NSD
    lost               questions without an answer, in all rounds together

NSD serves the same records from a zone file, in one process. The original, Mesos-DNS, is measured
where `--mesos-dns` or MESOS_DNS_BINARY names it.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from bench.dns_client import Load, dnsperf, percentile, question_file
from bench.dns_cluster import SENTINEL, Cluster, foreign_questions, foreign_zone, questions
from bench.dns_master import StandIn
from bench.dns_rules import zone_file
from bench.dns_servers import Server, cairn_dns, mesos_dns, nsd, original
from bench.report import CannotRun, Result

TASKS = 1000
#: Metrics of cases with a fixed rate.
SHARES = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999}
#: A server, and what the names of its cases end in.
Named: TypeAlias = tuple[Server, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    cases: Sequence[str] = ("A", "SRV", "SRV8", "NXDOMAIN", "mix")
    rounds: int = 5
    seconds: float = 4.0
    rates: Sequence[int] = (1000, 10_000)
    timed_cases: Sequence[str] = ("A", "SRV")


QUICK = Plan(("A", "SRV"), 1, 0.4, (1000,), ("A",))


@dataclass(slots=True)
class Rounds:
    """What one server did in one case."""

    loads: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def add(self, server: Server, load: Callable[[int], Load]) -> None:
        """One more round."""
        before = server.cpu_s()
        self.loads.append(load(server.port))
        spent = server.cpu_s() - before
        self.cpu_us.append(spent * 1e6 / max(1, self.loads[-1].completed))

    def latency_us(self, share: float) -> float:
        """Median over the rounds of this percentile."""
        return median(percentile(load.latencies, share) for load in self.loads) * 1e6

    def results(self, case: str, peer: str | None, bench: str = "dns_load") -> Iterator[Result]:
        """All metrics; latencies where they were noted, and the rate where they were not."""
        n = len(self.loads)
        if self.loads[0].latencies:
            for name, share in SHARES.items():
                yield Result(bench, case, name, self.latency_us(share), "us", n, peer)
        else:
            rate = median(load.qps for load in self.loads)
            yield Result(bench, case, "qps", rate, "1/s", n, peer)
        cpu_us, lost = median(self.cpu_us), sum(load.lost for load in self.loads)
        yield Result(bench, case, "cpu_us_per_query", cpu_us, "us", n, peer)
        yield Result(bench, case, "lost", lost, "queries", n, peer)


def in_turn(
    servers: Sequence[Named], case: str, rounds: int, load: Callable[[int], Load]
) -> list[Rounds]:
    """Rounds of one case, each with all servers; every answer has to be as the case wants it."""
    wanted = {"NXDOMAIN": {"NXDOMAIN"}, "mix": {"NOERROR", "NXDOMAIN"}}
    known = wanted.get(case.rpartition("-")[2], {"NOERROR"})
    found = [Rounds() for _ in servers]
    for _ in range(rounds):
        for (server, _suffix), one in zip(servers, found, strict=True):
            one.add(server, load)
            if unexpected := set(one.loads[-1].rcodes) - known:
                name = server.peer or "cairn-dns"
                raise CannotRun(f"{name} answers {sorted(unexpected)} in the case {case}")
    return found


def results(
    servers: Sequence[Named], case: str, rounds: int, load: Callable[[int], Load]
) -> Iterator[Result]:
    """The same as results."""
    found = in_turn(servers, case, rounds, load)
    for (server, suffix), one in zip(servers, found, strict=True):
        yield from one.results(case + suffix, server.peer)


def cluster_names(plan: Plan, directory: Path) -> Iterator[Result]:
    """Names of the cluster."""
    cluster = Cluster(TASKS)
    with ExitStack() as stack:
        master = stack.enter_context(StandIn(cluster))
        servers: list[Named] = []
        for count, suffix in ((1, ""), (2, "-2")):
            ours = cairn_dns(directory / f"dns{suffix}", [master.address], processes=count)
            servers.append((stack.enter_context(ours), suffix))
        peers = [nsd(directory / "nsd", "mesos", zone_file(cluster))]
        if mesos_dns() is not None:
            peers.append(original(directory / "original", [master.address]))
        servers += [(stack.enter_context(peer), "") for peer in peers]
        files = {}
        for case in {*plan.cases, *plan.timed_cases}:
            files[case] = question_file(directory / case, questions(case, cluster.apps))
        for server, _ in servers:
            server.wait(SENTINEL)
        for case in plan.cases:
            load = partial(dnsperf, file=files[case], seconds=plan.seconds)
            yield from results(servers, f"udp-{case}", plan.rounds, load)
        for case in plan.timed_cases:
            load = partial(dnsperf, file=files[case], seconds=plan.seconds, tcp=True)
            yield from results(servers, f"tcp-{case}", plan.rounds, load)
        alone = [(server, suffix) for server, suffix in servers if not suffix]
        for rate in plan.rates:
            for case in plan.timed_cases:
                load = partial(dnsperf, file=files[case], seconds=plan.seconds, rate=rate)
                yield from results(alone, f"rate-{rate}-{case}", plan.rounds, load)


def foreign_names(plan: Plan, directory: Path) -> Iterator[Result]:
    """Names that are NSD's."""
    with ExitStack() as stack:
        master = stack.enter_context(StandIn(Cluster(0)))
        upstream = stack.enter_context(nsd(directory / "upstream", "example", foreign_zone()))
        place = f"127.0.0.1:{upstream.port}"
        forwarding: dict[str, Any] = {"externalon": True, "resolvers": [place]}
        servers: list[Named] = [(upstream, "")]
        ours = cairn_dns(directory / "forwarding", [master.address], **forwarding)
        servers.append((stack.enter_context(ours), ""))
        if mesos_dns() is not None:
            peer = original(directory / "original-forwarding", [master.address], **forwarding)
            servers.append((stack.enter_context(peer), ""))
        for server, _ in servers:
            server.wait("host-0.example")
        file = question_file(directory / "foreign", foreign_questions())
        load = partial(dnsperf, file=file, seconds=plan.seconds)
        yield from results(servers, "foreign", plan.rounds, load)
        rate = plan.rates[0]
        case = f"rate-{rate}-foreign"
        load = partial(dnsperf, file=file, seconds=plan.seconds, rate=rate)
        direct, *others = in_turn(servers, case, plan.rounds, load)
        yield from direct.results(case, "nsd")
        for (server, _), one in zip(servers[1:], others, strict=True):
            yield from one.results(case, server.peer)
            added = one.latency_us(0.5) - direct.latency_us(0.5)
            yield Result("dns_load", case, "added_p50_us", added, "us", plan.rounds, server.peer)


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    plan = QUICK if quick else Plan()
    if mesos_dns() is None:
        print("bench: no peer mesos-dns: name it in MESOS_DNS_BINARY", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        yield from cluster_names(plan, Path(name))
        yield from foreign_names(plan, Path(name))
