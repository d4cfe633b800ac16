"""The metrics of the proxy: those of the original's registry `dns`, and our own.

Names, labels and buckets of the first kind: dcos-net `dcos_dns_metrics`.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from .routes import Kind, Plan, Server

BUCKETS = (0.001, 0.005, 0.010, 0.050, 0.100, 0.500, 1.0, 5.0)


class ForwardMetrics:
    """What happens with forwarded questions; an `Observer` of races."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        # finding a child by its labels costs more than observing with it
        self._children: dict[tuple[Server, bool], Histogram] = {}
        self._zone_children: dict[str, Histogram] = {}
        self._failures = Counter(
            "forwarder_failures_total",
            "questions that no server answered",
            ["zone"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "forwarder_requests_duration_seconds",
            "time from a question to its answer",
            ["zone"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._server_failures = Counter(
            "worker_failures_total",
            "questions that a server did not answer",
            ["protocol", "upstream_address", "reason"],
            registry=self.registry,
        )
        self._server_durations = Histogram(
            "worker_requests_duration_seconds",
            "time from a question to the answer of a server",
            ["protocol", "upstream_address"],
            buckets=BUCKETS,
            registry=self.registry,
        )

    def answered(self, server: Server, tcp: bool, took_s: float) -> None:
        """A server has answered."""
        child = self._children.get((server, tcp))
        if child is None:
            child = self._server_durations.labels(_PROTOCOL[tcp], place(server))
            self._children[server, tcp] = child
        child.observe(took_s)

    def silent(self, server: Server, tcp: bool, reason: str) -> None:
        """A server has not."""
        self._server_failures.labels(_PROTOCOL[tcp], place(server), reason).inc()

    def forwarded(self, plan: Plan, took_s: float, ok: bool) -> None:
        """A question has come to its end. Zones are bounded: they are suffixes of routes."""
        zone = "." if plan.route.kind is Kind.UPSTREAM else plan.route.zone
        if ok:
            child = self._zone_children.get(zone)
            if child is None:
                child = self._zone_children[zone] = self._durations.labels(zone)
            child.observe(took_s)
        else:
            self._failures.labels(zone).inc()

    def text(self) -> bytes:
        """As a scraper reads it."""
        return generate_latest(self.registry)


_PROTOCOL = ("udp", "tcp")


def place(server: Server) -> str:
    """`1.2.3.4:53` or `[::1]:53`."""
    address, port = server
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class ZoneCollector(Collector):
    """Sizes of the local zones and times of their pushes, read when asked."""

    def __init__(
        self, sizes: Callable[[], Mapping[str, int]], pushes: Callable[[], Mapping[str, float]]
    ) -> None:
        self._sizes, self._pushes = sizes, pushes

    def collect(self) -> Iterator[Metric]:
        """Two families."""
        records = GaugeMetricFamily("zone_records", "records of a local zone", labels=["zone"])
        for zone, count in sorted(self._sizes().items()):
            records.add_metric([f"{zone}."], count)
        yield records
        pushes = SummaryMetricFamily(
            "zone_push_duration_seconds", "time that the last push of a zone took", labels=["zone"]
        )
        for zone, took_s in sorted(self._pushes().items()):
            pushes.add_metric([f"{zone}."], 1, took_s)
        yield pushes
