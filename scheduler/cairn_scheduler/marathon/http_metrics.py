"""`/metrics`: the original's names, as its JSON or in the Prometheus text format.

JSON: `{"version", "gauges": {name: {"value"}}, "counters": {name: {"count"}}, ...}`. Prometheus:
the same names with `_` for dots and dashes, and with them what every daemon of ours exports.
Scrapers that ask for plain text get that at `/metrics`, too. Source: the released Marathon's
metrics documentation.
"""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cairn_core.kit.http_types import Answer, Handler, Request, Response
from cairn_core.kit.metrics import CONTENT_TYPE, Metrics
from cairn_core.kit.routes import Router
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.context import MarathonContext
from cairn_scheduler.marathon.http_request import EXACT, wants_text
from cairn_scheduler.marathon.tables import Tables


def gauges(tables: Tables, *, now: float) -> dict[str, float]:
    """What is, by the original's names. now: monotonic, for launch delays."""
    running = staged = inflight = healthy = unhealthy = 0
    for instance in tables.instances.values():
        condition = instance.condition
        running += condition is Condition.RUNNING
        staged += condition in (Condition.PROVISIONED, Condition.STAGING, Condition.STARTING)
        inflight += condition is Condition.KILLING
        health = tables.health.get(instance.id)
        if health:
            alive = all(result.alive for result in health)
            healthy += alive
            unhealthy += not alive
    delayed = 0
    for app_id in tables.waiting:
        app = tables.root.apps.get(app_id)
        delayed += app is not None and tables.backoff.left_s(app, now=now) > 0
    return {
        "marathon.apps.active.gauge": len(tables.root.apps),
        "marathon.groups.active.gauge": len(tables.root.groups),
        "marathon.pods.active.gauge": 0,
        "marathon.deployments.active.gauge": len(tables.deployments),
        "marathon.instances.running.gauge": running,
        "marathon.instances.staged.gauge": staged,
        "marathon.instances.inflight-kills.gauge": inflight,
        "marathon.instances.waiting.gauge": sum(map(len, tables.waiting.values())),
        "marathon.instances.healthy.gauge": healthy,
        "marathon.instances.unhealthy.gauge": unhealthy,
        "marathon.apps.delayed.gauge": delayed,
    }


def metrics_json(values: Mapping[str, float]) -> dict[str, object]:
    """The JSON form."""
    return {
        "version": "4.0.0",
        "gauges": {n: {"value": v} for n, v in sorted(values.items()) if not _counts(n)},
        "counters": {n: {"count": v} for n, v in sorted(values.items()) if _counts(n)},
        "histograms": {},
        "meters": {},
        "timers": {},
    }


def _counts(name: str) -> bool:
    return "counter" in name.split(".")


class MetricsResource:
    """The handlers."""

    def __init__(self, marathon: MarathonContext, metrics: Metrics) -> None:
        self.marathon = marathon
        self.metrics = metrics
        self.started = marathon.now()
        metrics.registry.register(_OriginalNames(self))

    def mount(self, router: Router[Handler]) -> None:
        """Add `/metrics`; `/metrics/prometheus` is one of the standard routes."""
        router.add("/metrics", self.answer, options=EXACT)

    def values(self) -> dict[str, float]:
        """Everything by name."""
        now = self.marathon.now()
        return {
            **gauges(self.marathon.tables, now=now),
            "marathon.uptime.gauge.seconds": now - self.started,
            **self.marathon.counters(),
        }

    async def answer(self, request: Request) -> Answer:
        """`GET /metrics`."""
        if wants_text(request) or "openmetrics" in request.headers.get("Accept", ""):
            return Response(body=self.metrics.text(), content_type=CONTENT_TYPE)
        return Response.json(metrics_json(self.values()))


class _OriginalNames(Collector):
    """The original's names in the Prometheus format."""

    def __init__(self, resource: MetricsResource) -> None:
        self._resource = resource

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, value in self._resource.values().items():
            flat = name.replace(".", "_").replace("-", "_")
            if _counts(name):
                yield CounterMetricFamily(flat, name, value)
            else:
                yield GaugeMetricFamily(flat, name, value)
