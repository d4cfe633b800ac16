"""Metrics: names by one rule, exported in the Prometheus text format.

A name is `cairn_<component>_<noun>_<unit>`; counters end in `_total`. Names that an original had
(`l4lb_...`) are allowed when the registry is told so. Labels have few values: never ids, never
client names.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from cairn_core.kit.http_server import Stats

#: Media type of `Metrics.text`.
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_NAME = re.compile(r"cairn_[a-z0-9]+(_[a-z0-9]+)+", re.ASCII)
UNITS = frozenset(
    {
        "seconds", "bytes", "total", "ratio", "count", "info", "celsius", "timestamp",
        "cores", "epoch",
    }
)  # fmt: skip


#: Where a cluster may be known from.
SOURCES = ("feed", "stream", "poll", "disk", "none")


def check_name(name: str, foreign: Iterable[str] = ()) -> None:
    """Raise ValueError unless `name` follows the rule or begins with a foreign prefix."""
    if name.startswith(tuple(foreign)):
        return
    if not _NAME.fullmatch(name):
        raise ValueError(f"metric name does not match cairn_<component>_<noun>_<unit>: {name!r}")
    if name.rpartition("_")[2] not in UNITS:
        raise ValueError(f"metric name does not end in a unit {sorted(UNITS)}: {name!r}")


class Metrics:
    """The metrics of one daemon.

    component: `dns` of `cairn-dns`. foreign: prefixes of names that an original had.
    """

    def __init__(self, component: str, *, foreign: Iterable[str] = ()) -> None:
        self.component = component.replace("-", "_")
        self.registry = CollectorRegistry(auto_describe=False)
        self._foreign = tuple(foreign)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def counter(self, name: str, help: str, labels: Iterable[str] = ()) -> Counter:
        """Something that only grows; `name` ends in `_total`."""
        full = self._full(name)
        if not full.endswith("_total"):
            raise ValueError(f"counter does not end in _total: {full!r}")
        return Counter(full, help, tuple(labels), registry=self.registry)

    def gauge(self, name: str, help: str, labels: Iterable[str] = ()) -> Gauge:
        """Something that goes up and down."""
        return Gauge(self._full(name), help, tuple(labels), registry=self.registry)

    def histogram(
        self,
        name: str,
        help: str,
        labels: Iterable[str] = (),
        buckets: Iterable[float] = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0),
    ) -> Histogram:
        """A distribution; `name` ends in its unit."""
        return Histogram(
            self._full(name), help, tuple(labels), registry=self.registry, buckets=tuple(buckets)
        )

    def _full(self, name: str) -> str:
        """`name` with our prefix, unless it is whole already."""
        if not name.startswith(("cairn_", *self._foreign)):
            name = f"cairn_{self.component}_{name}"
        check_name(name, self._foreign)
        return name

    def watch_http(self, stats: Stats) -> None:
        """Export the counters of an HTTP server."""
        self.registry.register(_HttpCollector(self.component, stats))

    def watch_source(self, kind: Callable[[], str], age_s: Callable[[], float]) -> None:
        """Export where the cluster is known from (`clusterview.io_source.Kind`), and how old that
        is."""
        age = self.gauge("data_age_seconds", "how old what we know of the cluster is")
        age.set_function(age_s)
        info = self.gauge("source_info", "1 for where the cluster is known from", labels=("kind",))
        for one in SOURCES:
            info.labels(one).set_function(lambda one=one: float(kind() == one))  # type: ignore[misc]

    def text(self) -> bytes:
        """Everything, as a scraper reads it."""
        return generate_latest(self.registry)


class _HttpCollector(Collector):
    """Reads a server's counters when asked, so that counting costs one addition."""

    _GAUGES = frozenset({"open_streams", "connections"})

    def __init__(self, component: str, stats: Stats) -> None:
        self._prefix = f"cairn_{component}_http_"
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One family per field of Stats."""
        for field in fields(self._stats):
            text = f"http server: {field.name.replace('_', ' ')}"
            value = getattr(self._stats, field.name)
            if field.name in self._GAUGES:
                yield GaugeMetricFamily(f"{self._prefix}{field.name}_count", text, value)
            else:
                yield CounterMetricFamily(f"{self._prefix}{field.name}_total", text, value)
