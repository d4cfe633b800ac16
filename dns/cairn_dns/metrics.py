"""The metrics of `cairn-dns`, drawn from its parts when somebody asks."""

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Histogram as SentHistogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cairn_core.kit.metrics import Metrics

from .stats import COUNTS, LATENCY_BOUNDS_S, Histogram, Stats
from .wire import TYPE_NAMES

#: Counts of the serving processes with a metric of their own.
_TRANSPORTS = ("udp", "tcp")


class DnsMetrics:
    """All metrics of the daemon.

    sent: seconds from the arrival of a change until the serving processes were told.
    """

    def __init__(self) -> None:
        self.metrics = Metrics("dns")
        self.sent: SentHistogram = self.metrics.histogram(
            "change_to_sent_seconds",
            "from the arrival of a change until the serving processes were told",
        )

    def watch_servers(self, stats: Callable[[], Stats], restarts: Callable[[], int]) -> None:
        """Export what the serving processes count."""
        self.metrics.registry.register(_Servers(stats, restarts))

    def watch_names(
        self,
        counts: Callable[[], Mapping[int, int]],
        names: Callable[[], int],
        skipped: Callable[[], Mapping[str, int]],
        table_changes: Callable[[], tuple[int, int]],
        serial: Callable[[], int],
    ) -> None:
        """Export what is known by name.

        counts: records by type. names: with records. skipped: by kind.
        table_changes: changes that were sent, and names in them.
        """
        self.metrics.registry.register(_Names(counts, names, skipped, table_changes, serial))


class _Names(Collector):
    def __init__(
        self,
        counts: Callable[[], Mapping[int, int]],
        names: Callable[[], int],
        skipped: Callable[[], Mapping[str, int]],
        table_changes: Callable[[], tuple[int, int]],
        serial: Callable[[], int],
    ) -> None:
        self._counts, self._names, self._skipped = counts, names, skipped
        self._table_changes, self._serial = table_changes, serial

    def collect(self) -> Iterator[Metric]:
        """Families of what is there now."""
        records = GaugeMetricFamily(
            "cairn_dns_records_count", "different records", labels=("type",)
        )
        for kind, count in sorted(self._counts().items()):
            records.add_metric((TYPE_NAMES.get(kind, str(kind)),), count)
        yield records
        yield GaugeMetricFamily("cairn_dns_names_count", "names with records", self._names())
        skipped = GaugeMetricFamily(
            "cairn_dns_skipped_count", "rows and parts that made no sense", labels=("kind",)
        )
        for name, count in sorted(self._skipped().items()):
            skipped.add_metric((name,), count)
        yield skipped
        changes, names = self._table_changes()
        yield CounterMetricFamily("cairn_dns_table_changes_total", "changes sent", changes)
        yield CounterMetricFamily("cairn_dns_names_changed_total", "names in them", names)
        yield GaugeMetricFamily("cairn_dns_serial_epoch", "serial of the zones", self._serial())


class _Servers(Collector):
    def __init__(self, stats: Callable[[], Stats], restarts: Callable[[], int]) -> None:
        self._stats, self._restarts = stats, restarts

    def collect(self) -> Iterator[Metric]:
        """Families of what was counted."""
        stats = self._stats()
        answers = CounterMetricFamily(
            "cairn_dns_answers_total", "answers given", labels=("zone", "type", "rcode")
        )
        for zone, kind, rcode, count in stats.answers:
            answers.add_metric((zone, kind, rcode), count)
        yield answers
        queries = CounterMetricFamily(
            "cairn_dns_queries_total", "queries received", labels=("transport",)
        )
        for transport in _TRANSPORTS:
            queries.add_metric((transport,), stats.counts.get(transport, 0))
        yield queries
        for name, text in COUNTS.items():
            if name not in _TRANSPORTS:
                yield CounterMetricFamily(
                    f"cairn_dns_{name}_total", text, stats.counts.get(name, 0)
                )
        gauges = stats.gauges
        yield GaugeMetricFamily(
            "cairn_dns_entries_count", "questions that have answers", gauges.get("entries", 0)
        )
        yield GaugeMetricFamily(
            "cairn_dns_tcp_open_count", "TCP connections", gauges.get("tcp_open", 0)
        )
        yield GaugeMetricFamily(
            "cairn_dns_update_max_seconds",
            "longest time that one update took a serving process",
            gauges.get("update_max_s", 0),
        )
        yield _latency(stats.latency)
        yield CounterMetricFamily(
            "cairn_dns_worker_restarts_total", "serving processes replaced", self._restarts()
        )


def _latency(latency: Histogram) -> HistogramMetricFamily:
    buckets, below = [], 0
    for bound, count in zip((*LATENCY_BOUNDS_S, "+Inf"), latency.counts, strict=True):
        below += count
        buckets.append((str(bound), float(below)))
    return HistogramMetricFamily(
        "cairn_dns_answer_seconds",
        "from when a UDP query was read until its answer was sent",
        buckets=buckets,
        sum_value=latency.sum_s,
    )


def merged(*parts: tuple[str, Mapping[str, int]]) -> Mapping[str, int]:
    """Counts by kind of several places, each kind with the name of its place in front."""
    found: Counts[str] = Counts()
    for place, counts in parts:
        for kind, count in counts.items():
            found[f"{place}_{kind}"] += count
    return found
