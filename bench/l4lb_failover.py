"""Connections while something fails: a backend, the steering process, the daemon, source ports.

Four backends, beside a plain nft rule. Cases:

    blackhole, hedged   one backend stops to answer amid 200 connections a second; `hedged`: with
                        a second try after 0.1 s
    refusing            nobody listens at one backend
    reuse-rst, -eof     a client with eight source ports, as fast as it goes; it closes by a reset,
                        or after the server; `-ctnetlink`: with entries as the original made
    kill-steer          amid 2,000 connections a second: kill -9 of the steering process,
    kill-daemon         of the daemon, which is then started again,
    restart             and a daemon that is told to end, and started again
    backend-leaves      one backend ends and its task with it, within 50 ms, likewise

    failures     connections that did not come about within five seconds
    connections  those that did
    max_ms       the longest connect() of those that did
    p999_ms      longer than 99.9 % of all
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.l4lb_cluster import app_rows, cluster_rows, task_row, vip_address
from bench.l4lb_daemon import Daemon, daemon
from bench.l4lb_net import PORT, TRACKING, Client, Site, result, site
from bench.l4lb_paths import nft
from bench.report import Result
from cairn_core.testing.feed_master import FeedMaster

BACKENDS = 4
PORTS = "5000-5007"
#: Enough for a second of connections of which each waits for a SYN to be sent again.
THREADS = 256
#: A server ends so long after the cluster has said that its task does, seconds.
NOTICE_S = 0.05
HEDGE = {"L4LB_0_HEDGE_MS": "100"}


@dataclass(frozen=True, slots=True)
class Balanced:
    """A client, and Cairn's balancer with its master or, as a peer, a plain rule."""

    place: Site
    client: Client
    balancer: Daemon | None = None
    master: FeedMaster | None = None

    def amid(self, rate: int, seconds: float, event: Callable[[], None]) -> dict[str, Any]:
        """What becomes of a load during which something happens."""
        load = self.client.start("threads", THREADS, "rate", rate, "seconds", seconds, "timeout", 5)
        try:
            time.sleep(seconds / 4)
            event()
            return result(load)
        finally:
            load.kill()

    def blackhole(self, seconds: float) -> dict[str, Any]:
        """A backend stops to answer."""
        try:
            return self.amid(200, seconds, lambda: self.place.deny(self.place.backends[-1]))
        finally:
            self.place.heal()

    def reuse(self, close: str, seconds: float) -> dict[str, Any]:
        """A few source ports, over and over."""
        return self.client.connect(
            "close", close, "ports", PORTS, "seconds", seconds, "from", self.client.sources[0]
        )

    def kill_steer(self) -> None:
        """The steering process ends without a word."""
        assert self.balancer is not None
        os.kill(self.balancer.steer(), signal.SIGKILL)

    def restart(self, how: signal.Signals) -> None:
        """The daemon ends and is started again."""
        assert self.balancer is not None
        self.balancer.stop(how)
        self.balancer.start()

    def leave(self) -> None:
        """The cluster says that a task ends, and then its server does."""
        assert self.master is not None
        gone = task_row(0, BACKENDS - 1, self.place.backends[-1], PORT)
        self.master.delete(gone.key)
        time.sleep(NOTICE_S)
        self.place.deny(self.place.backends[-1], "reject with tcp reset")


@contextmanager
def ours(place: Site, **labels: str) -> Iterator[Balanced]:
    """A balancer that knows nothing of earlier cases."""
    rows = [*cluster_rows(place.backends), *app_rows(0, place.backends, PORT, labels)]
    with (
        place.client("l4lb", [f"{vip_address(0)}:{PORT}"]) as client,
        daemon(client, rows, 1) as (balancer, master),
    ):
        client.host.settings(TRACKING)
        yield Balanced(place, client, balancer, master)


@contextmanager
def plain(place: Site) -> Iterator[Balanced]:
    """The peer."""
    with nft(place) as way:
        yield Balanced(place, way.client)


#: What happens to ours amid 2,000 connections a second.
EVENTS: dict[str, Callable[[Balanced], None]] = {
    "kill-steer": Balanced.kill_steer,
    "kill-daemon": lambda one: one.restart(signal.SIGKILL),
    "restart": lambda one: one.restart(signal.SIGTERM),
    "backend-leaves": Balanced.leave,
}


def figures(case: str, one: Balanced, load: dict[str, Any]) -> Iterator[Result]:
    """Metrics of a case."""
    n, peer = load["connections"] + load["failures"], None if one.balancer else "nft"
    for metric, value, unit in (
        ("failures", load["failures"], "connections"),
        ("connections", load["connections"], "connections"),
        ("max_ms", load["max_us"] / 1e3, "ms"),
        ("p999_ms", load["p999_us"] / 1e3, "ms"),
    ):
        yield Result("l4lb_failover", case, metric, value, unit, n, peer)


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    seconds = 1.0 if quick else 8.0
    with site(BACKENDS) as place:
        with place.listening(refuse=1):
            for kind in (plain, ours):
                with kind(place) as one:
                    load = one.client.connect("threads", 4, "rate", 1000, "seconds", seconds)
                    yield from figures("refusing", one, load)
        with place.listening():
            for kind in (plain, ours):
                for close in ("rst", "eof"):
                    with kind(place) as one:
                        yield from figures(f"reuse-{close}", one, one.reuse(close, seconds))
                with kind(place) as one:
                    yield from figures("blackhole", one, one.blackhole(seconds))
            for close in ("rst", "eof"):
                with ours(place, L4LB_0_MODE="ctnetlink") as one:
                    yield from figures(f"reuse-{close}-ctnetlink", one, one.reuse(close, seconds))
            with ours(place, **HEDGE) as one:
                yield from figures("hedged", one, one.blackhole(seconds))
            for case, event in EVENTS.items():
                with ours(place) as one:
                    yield from figures(case, one, one.amid(2000, seconds, partial(event, one)))
            place.heal()
