"""Answers of cairn-dns-proxy, and what it adds to those of the servers behind it.

The metrics are those of `dns_load`. Behind the proxy is a cairn-dns that knows 1,000 tasks, and NSD
for other names. Cases, as fast as answers come:

    proxy-local    names of zones of its own
    proxy-cluster  500 names of the cluster, kept for a tenth of a second
    proxy-foreign  500 other names, from its cache

At 1,000 questions a second none of the cluster's names is kept when it is asked for again:

    rate-1000-proxy-cluster   `added_p50_us` is what is more than a question to cairn-dns itself
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.dns_client import dnsperf, question_file
from bench.dns_cluster import SENTINEL, Cluster, foreign_questions, foreign_zone, questions
from bench.dns_load import QUICK, TASKS, Plan, in_turn
from bench.dns_master import StandIn
from bench.dns_servers import cairn_dns, cairn_dns_proxy, nsd
from bench.report import Result

LOCAL = [("ready.spartan", "A"), ("ns.spartan", "A"), ("zk-1.zk", "A"), ("localhost", "AAAA")]


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    plan = QUICK if quick else Plan()
    cluster = Cluster(TASKS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        master = stack.enter_context(StandIn(cluster))
        behind = stack.enter_context(cairn_dns(directory / "dns", [master.address], processes=1))
        other = stack.enter_context(nsd(directory / "nsd", "example", foreign_zone()))
        proxy = stack.enter_context(
            cairn_dns_proxy(directory / "proxy", behind.port, [f"127.0.0.1:{other.port}"])
        )
        behind.wait(SENTINEL)
        proxy.wait(SENTINEL)
        proxy.wait("host-0.example")
        files = {
            name: question_file(directory / name, asked)
            for name, asked in (
                ("local", LOCAL),
                ("cluster", questions("A", cluster.apps)),
                ("foreign", foreign_questions()),
            )
        }
        for name, file in files.items():
            load = partial(dnsperf, file=file, seconds=plan.seconds)
            (ours,) = in_turn([(proxy, "")], f"proxy-{name}", plan.rounds, load)
            yield from ours.results(f"proxy-{name}", None, bench="dns_proxy")
        case = "rate-1000-proxy-cluster"
        load = partial(dnsperf, file=files["cluster"], seconds=plan.seconds, rate=1000)
        ours, direct = in_turn([(proxy, ""), (behind, "")], case, plan.rounds, load)
        yield from ours.results(case, None, bench="dns_proxy")
        added = ours.latency_us(0.5) - direct.latency_us(0.5)
        yield Result("dns_proxy", case, "added_p50_us", added, "us", plan.rounds)
