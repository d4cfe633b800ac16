"""How soon the names of cairn-dns follow the cluster, and what that costs; beside the original.

Cases, N tasks each; one task at a time gets another address:

    feed-N, stream-N   the master tells each change: on the node feed, on its event stream
    poll-N             the state is asked for again and again, while others ask 1,000 names a second

    p50_ms, p99_ms     from the change being sent until the new address is served
    cpu_ms_per_change  processor time of all processes of the server
    cold_s             from starting the server until it serves the cluster
    refresh_s          from the question for the state until the new address is served
    cpu_s_per_refresh  processor time of all processes
    worst_ms, p999_ms  of the others' questions while a state is being taken in
    lost               those that had no answer
    pss_mb, peak_mb    memory of all processes afterwards; the most that each ever had, summed up
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.dns_client import Client, percentile, prober
from bench.dns_cluster import SENTINEL, Cluster, sentinel_address
from bench.dns_master import StandIn
from bench.dns_servers import Server, cairn_dns, mesos_dns, original
from bench.report import CannotRun, Result

#: How often a name is asked for while its change is awaited, seconds.
ASK_EVERY_S = 0.0002
#: The same where the processor time of changes is taken, which that of answers is part of.
ASK_SELDOM_S = 0.005
#: What others ask, and how often per second.
OTHER = "leader.mesos"
OTHERS = 1000


def at_rest(server: Server) -> float:
    """Wait until a server does next to nothing; the processor seconds it has used."""
    before, calm = server.cpu_s(), 0
    for _ in range(600):
        time.sleep(0.1)
        after = server.cpu_s()
        # Others' questions go on meanwhile and take a few per cent.
        calm = calm + 1 if after - before < 0.02 else 0
        if calm == 3:
            return after
        before = after
    raise CannotRun(f"{server.process.args!r} does not come to rest")


def changes(master: StandIn, server: Server, count: int, *, every_s: float) -> list[float]:
    """Seconds that each change took to show, sorted."""
    took = []
    with Client(server.port) as client:
        for _ in range(count):
            start = time.perf_counter()
            master.change()
            address = sentinel_address(master.number)
            took.append(client.until(SENTINEL, address, every_s=every_s) - start)
    return sorted(took)


def told(kind: str, tasks: int, count: int, directory: Path) -> Iterator[Result]:
    """A master that tells each change."""
    case = f"{kind}-{tasks}"

    def result(metric: str, value: float, unit: str, n: int = 1) -> Result:
        return Result("dns_changes", case, metric, value, unit, n)

    with (
        StandIn(Cluster(tasks), kind) as master,
        cairn_dns(directory / case, [master.address]) as server,
    ):
        yield result("cold_s", server.wait(SENTINEL), "s")
        changes(master, server, 10, every_s=ASK_EVERY_S)
        took = changes(master, server, count, every_s=ASK_EVERY_S)
        yield result("p50_ms", percentile(took, 0.5) * 1e3, "ms", count)
        yield result("p99_ms", percentile(took, 0.99) * 1e3, "ms", count)
        before = at_rest(server)
        changes(master, server, count, every_s=ASK_SELDOM_S)
        spent = at_rest(server) - before
        yield result("cpu_ms_per_change", spent * 1e3 / count, "ms", count)
        yield result("pss_mb", server.pss_mb(), "MB")


@dataclass(slots=True)
class Refresh:
    """Servers that ask for the state of one cluster."""

    master: StandIn
    server: Server
    rounds: int

    def results(self, case: str) -> Iterator[Result]:
        """Refreshes, one after the other, under the others' questions."""

        def result(metric: str, value: float, unit: str, n: int = self.rounds) -> Result:
            return Result("dns_changes", case, metric, value, unit, n, self.server.peer)

        yield result("cold_s", self.server.wait(SENTINEL), "s", 1)
        spans, spent = [], []
        with prober(self.server.port, OTHER, OTHERS) as others:
            for _ in range(self.rounds):
                span, cpu_s = self._one()
                spans.append(span)
                spent.append(cpu_s)
            seen = others.stop()
        yield result("refresh_s", median(end - start for start, end in spans), "s")
        yield result("cpu_s_per_refresh", median(spent), "s")
        meanwhile = [took for at, took in seen if any(start <= at <= end for start, end in spans)]
        answered = sorted(took for took in meanwhile if took is not None)
        yield result("worst_ms", answered[-1] * 1e3, "ms", len(answered))
        yield result("p999_ms", percentile(answered, 0.999) * 1e3, "ms", len(answered))
        lost = sum(took is None for _, took in seen)
        yield result("lost", lost, "queries", len(seen))
        yield result("pss_mb", self.server.pss_mb(), "MB", 1)
        yield result("peak_mb", self.server.peak_mb(), "MB", 1)

    def _one(self) -> tuple[tuple[float, float], float]:
        """One refresh: when it began and ended, and the processor seconds it took."""
        at_rest(self.server)
        self.master.change()
        deadline = time.perf_counter() + 60
        while not self.master.asked or self.master.asked[-1][1] != self.master.number:
            if time.perf_counter() > deadline:
                raise CannotRun(f"{self.server.process.args!r} does not ask for the state")
            time.sleep(0.001)
        before = self.server.cpu_s()
        with Client(self.server.port) as client:
            address = sentinel_address(self.master.number)
            end = client.until(SENTINEL, address, every_s=0.001)
        return (self.master.asked[-1][0], end), at_rest(self.server) - before


def polled(tasks: int, rounds: int, directory: Path) -> Iterator[Result]:
    """A master that only tells its state, for us and for the original."""
    case = f"poll-{tasks}"
    servers: list[Callable[..., AbstractContextManager[Server]]] = [cairn_dns]
    if mesos_dns() is not None:
        servers.append(original)
    cluster = Cluster(tasks)
    # Every server comes to rest between two questions.
    settings = {"refreshSeconds": max(1, tasks // 3000)}
    for start in servers:
        with (
            StandIn(cluster) as master,
            start(directory / f"{case}-{start.__name__}", [master.address], **settings) as server,
        ):
            if start is servers[0]:
                yield Result("dns_changes", case, "state_mb", master.state_bytes / 1e6, "MB")
            yield from Refresh(master, server, rounds).results(case)


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    if mesos_dns() is None:
        print("bench: no peer mesos-dns: name it in MESOS_DNS_BINARY", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for tasks in (1000,) if quick else (1000, 10_000, 50_000):
            for kind in ("stream",) if quick else ("feed", "stream"):
                yield from told(kind, tasks, 20 if quick else 200, directory)
        for tasks in (2000,) if quick else (10_000, 50_000):
            yield from polled(tasks, 1 if quick else 5, directory)
