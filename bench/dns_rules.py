"""The rules of DNS without sockets: from rows to records to answers in wire form.

Cases N tasks, all times CPU of one process:

    state_s      rows from a `/master/state` of that size
    view_s       a cluster view from its rows
    records_s    all records from those; `records` is their number
    encode_s     all answers in wire form, as messages for the serving processes
    apply_s      a serving process that takes them; apply_ms is the longest message of it
    change_us    all of that for one task with another address; change_*_us are its steps
    answer-*     one answer, in a table of so many tasks
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from statistics import median
from time import process_time
from typing import TypeVar

from bench.dns_client import query
from bench.dns_cluster import (
    Cluster,
    row,
    sentinel,
    sentinel_address,
    state_task,
    zone_text,
)
from bench.report import Result, as_in_a_daemon
from cairn_core.clusterview.state_json import read_state
from cairn_core.clusterview.view import Changes, ClusterView
from cairn_dns.answer import Answerer
from cairn_dns.cluster_zone import ClusterZone
from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.records import Rules
from cairn_dns.table import Table, decode_update, encode_update
from cairn_dns.wire import AAAA, SRV, TYPE_NAMES, A
from cairn_dns.zone import RecordSet, Value

QUESTIONS = {
    "a": ("app-7.marathon.mesos", A),
    "srv": ("_http._app-7._tcp.marathon.mesos", SRV),
    "nodata": ("app-7.marathon.mesos", AAAA),
    "nxdomain": ("nobody.marathon.mesos", A),
}


T = TypeVar("T")


def cpu(work: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds of a call, and what it returned."""
    start = process_time()
    value = work()
    return process_time() - start, value


class Chain:
    """Everything between a source of rows and a table, as the daemon has it."""

    def __init__(self) -> None:
        self.view = ClusterView()
        self.zone = ClusterZone(Rules(ip_sources=("netinfo", "host")))
        self.encoder = Encoder([ZoneSettings(domain="mesos")])
        self.table = Table()
        self.serial = 1

    @property
    def records(self) -> RecordSet:
        """All records."""
        return self.zone.records

    def take(self, changes: Changes | None) -> None:
        """Rows that changed to records."""
        assert changes is not None
        for _ in self.zone.apply(changes.rows, now=time.time()):
            pass

    def whole(self) -> list[bytes]:
        """Messages of a whole table."""
        self.records.take_changed()
        return [encode_update(one) for one in self.encoder.whole(self.records, self.serial)]

    def changed(self) -> list[bytes]:
        """Messages of what changed."""
        self.serial += 1
        names = self.records.take_changed()
        found = self.encoder.changed(self.records, names, self.serial)
        return [encode_update(one) for one in found]

    def apply(self, messages: list[bytes]) -> float:
        """What a serving process does with them; seconds that the longest one took."""
        each = (cpu(partial(self._apply, message))[0] for message in messages)
        return max(each, default=0.0)

    def _apply(self, message: bytes) -> None:
        self.table.apply(decode_update(message))


def loading(tasks: int) -> tuple[list[Result], Chain]:
    """From nothing to a table."""
    chain, cluster = Chain(), Cluster(tasks)
    rows = [*cluster.rows(), row(sentinel(sentinel_address(0)))]
    results = []

    def result(metric: str, value: float, unit: str) -> None:
        results.append(Result("dns_rules", str(tasks), metric, value, unit))

    before, after = cluster.state("127.0.0.1:5050")
    body = before + state_task(sentinel(sentinel_address(0))) + after
    with as_in_a_daemon():
        result("state_s", cpu(lambda: read_state(body))[0], "s")
        spent, changes = cpu(lambda: chain.view.replace(rows))
        result("view_s", spent, "s")
        result("records_s", cpu(lambda: chain.take(changes))[0], "s")
        result("records", sum(chain.records.counts.values()), "records")
        spent, messages = cpu(chain.whole)
        result("encode_s", spent, "s")
        result("messages_mb", sum(map(len, messages)) / 1e6, "MB")
        spent, longest_s = cpu(lambda: chain.apply(messages))
        result("apply_s", spent, "s")
        result("apply_ms", longest_s * 1e3, "ms")
    return results, chain


def changing(chain: Chain, tasks: int, n: int) -> Iterator[Result]:
    """One task with another address."""
    steps: dict[str, list[float]] = {"view": [], "records": [], "encode": [], "apply": []}
    with as_in_a_daemon():
        for number in range(1, n + 1):
            new = row(sentinel(sentinel_address(number)))
            spent, changes = cpu(partial(chain.view.apply, {new.key: new}))
            steps["view"].append(spent)
            steps["records"].append(cpu(partial(chain.take, changes))[0])
            spent, messages = cpu(chain.changed)
            steps["encode"].append(spent)
            steps["apply"].append(cpu(partial(chain.apply, messages))[0])
    whole = median(map(sum, zip(*steps.values(), strict=True)))
    yield Result("dns_rules", str(tasks), "change_us", whole * 1e6, "us", n)
    for step, spent_s in steps.items():
        yield Result("dns_rules", str(tasks), f"change_{step}_us", median(spent_s) * 1e6, "us", n)


def answering(chain: Chain, n: int) -> Iterator[Result]:
    """One answer, without the socket."""
    answerer = Answerer(chain.table)
    for case, (name, kind) in QUESTIONS.items():
        asked = query(1, name, kind)
        start = process_time()
        for _ in range(n):
            answerer.answer(asked)
        value = (process_time() - start) / n * 1e6
        yield Result("dns_rules", f"answer-{case}", "answer_us", value, "us", n)


def zone_file(cluster: Cluster) -> str:
    """The records of a cluster and its sentinel as a zone file for other servers."""
    chain = Chain()
    rows = [*cluster.rows(), row(sentinel(sentinel_address(0)))]
    chain.take(chain.view.replace(rows))
    lines = (
        f"{name}. {TYPE_NAMES[kind]} {_text(value)}\n"
        for name in chain.records.names()
        for kind in (A, AAAA, SRV)
        for value in chain.records.values(name, kind)
    )
    return zone_text("mesos", lines)


def _text(value: Value) -> str:
    match value:
        case bytes():
            return str(ip_address(value))
        case tuple():
            return f"0 1 {value[1]} {value[0]}."
        case str():
            return f"{value}."


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    for tasks in (2000,) if quick else (1000, 10_000, 50_000):
        results, chain = loading(tasks)
        yield from results
        yield from changing(chain, tasks, 50 if quick else 300)
    yield from answering(chain, 20_000 if quick else 200_000)
