"""Metrics of `cairn-l4lb` for Prometheus.

`l4lb_...` are those of dcos-net's registry `l4lb`, by which dashboards of DC/OS know them
(`apps/dcos_l4lb/src/dcos_l4lb_metrics.erl`); `cairn_l4lb_...` are ours.  The registry itself has
them without `l4lb_`, which Telegraf of DC/OS puts before them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cairn_core.kit.metrics import Metrics

from .channel import LATENCY_BOUNDS_S
from .model import BackendKey, Service, Vip
from .shapes import full_name, key_of
from .stats import Stats

#: VIPs with lines of their own, the busiest first; a label has a bounded number of values.
MAX_VIPS = 500
#: What names of dcos-net's registry begin with here.
OF_DCOS = "l4lb_"
#: Counts of the steering process that have better texts than their names.
_TEXTS = {
    "observed_conns": "connections seen by conntrack events",
    "successes": "connections that were answered",
    "timeouts": "connections that were not answered in time",
    "unblamed": "connections without answer whose SYN is not known to have left the host",
    "refusals": "connections that a backend refused",
    "failovers": "connections that went to another backend after the first did not answer",
    "retried_refusals": "refusals that no client saw, for another backend was tried",
    "hedges": "connections that went to another backend as well",
    "no_backend": "connections refused for want of a backend",
}


class Shown(Protocol):
    """What is exported."""

    @property
    def services(self) -> Mapping[Vip, Service]: ...

    @property
    def stats(self) -> Stats: ...

    def unreachable_nodes(self) -> int: ...

    def local_tasks(self) -> tuple[int, int]:
        """Tasks on this host, and how many of them run."""
        ...

    def reconciled(self) -> Mapping[str, int]:
        """What of others' changes to the kernel was put right, by kind: `ipset_entries`, ..."""
        ...

    def own_addresses(self) -> frozenset[str]: ...

    def gauges(self) -> Mapping[str, tuple[float, str]]:
        """More figures that go up and down: name -> (value, text)."""
        ...

    def counts(self) -> Mapping[str, tuple[float, str]]:
        """More figures that only grow, likewise; names end in `_total`."""
        ...


class L4lbMetrics:
    """All metrics of the daemon."""

    def __init__(self) -> None:
        self.metrics = Metrics("l4lb", foreign=(OF_DCOS,))
        self.applied: Histogram = self.metrics.histogram(
            "change_to_applied_seconds",
            "from the arrival of a change until the kernel and the steering process have it",
        )
        self.kernel: Histogram = self.metrics.histogram(
            "l4lb_ipset_duration_seconds", "one change of the kernel, sets and maps"
        )
        self.vips: Histogram = self.metrics.histogram(
            "l4lb_vips_duration_seconds", "one change of VIPs, from its arrival until it is applied"
        )

    def registry_of_dcos(self) -> bytes:
        """The registry `l4lb` as dcos-net has it."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_OfDcos(self.metrics.registry))
        return generate_latest(registry)

    def watch(self, shown: Shown) -> None:
        """Export tables and counts."""
        self.metrics.registry.register(_Tables(shown))


class _OfDcos(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """The families of dcos-net's, with its names."""
        for family in self._registry.collect():
            if family.name.startswith(OF_DCOS):
                found = Metric(family.name.removeprefix(OF_DCOS), family.documentation, family.type)
                found.samples = [
                    one._replace(name=one.name.removeprefix(OF_DCOS)) for one in family.samples
                ]
                yield found


class _Tables(Collector):
    def __init__(self, shown: Shown) -> None:
        self._shown = shown

    def collect(self) -> Iterator[Metric]:
        """Families of what is there now."""
        yield from self._table()
        stats = self._shown.stats
        for name, count in sorted(stats.counters().items()):
            text = _TEXTS.get(name, f"counted by the steering process: {name.replace('_', ' ')}")
            yield CounterMetricFamily(f"cairn_l4lb_{name}_total", text, count)
        yield _latency(stats.latency, stats.latency_sum_s)
        yield from self._by_vip()
        for name, (value, text) in self._shown.gauges().items():
            yield GaugeMetricFamily(f"cairn_l4lb_{name}", text, value)
        for name, (value, text) in self._shown.counts().items():
            yield CounterMetricFamily(f"cairn_l4lb_{name}", text, value)

    def _table(self) -> Iterator[Metric]:
        services, own = self._shown.services, self._shown.own_addresses()
        tasks, running = self._shown.local_tasks()
        backends: set[BackendKey] = set()
        unreachable: set[BackendKey] = set()
        local: set[BackendKey] = set()
        vips = unreachable_vips = local_vips = drained = 0
        for service in services.values():
            vips += 1
            reachable = False
            here = False
            for one in service.backends:
                key = key_of(service.vip, one)
                backends.add(key)
                reachable |= one.reachable
                drained += one.weight == 0
                if not one.reachable:
                    unreachable.add(key)
                if one.agent_address in own:
                    local.add(key)
                    here = True
            unreachable_vips += bool(service.backends) and not reachable
            local_vips += here
        for name, text, value in (
            ("l4lb_vips", "VIPs", vips),
            ("l4lb_backends", "different backends", len(backends)),
            ("l4lb_local_vips", "VIPs with a backend on this host", local_vips),
            ("l4lb_local_backends", "backends on this host", len(local)),
            ("l4lb_unreachable_vips", "VIPs without a reachable backend", unreachable_vips),
            ("l4lb_unreachable_backends", "backends on lost hosts", len(unreachable)),
            ("l4lb_unreachable_nodes", "lost hosts", self._shown.unreachable_nodes()),
            ("l4lb_local_tasks", "tasks on this host", tasks),
            ("l4lb_local_running_tasks", "of these running", running),
            ("cairn_l4lb_drained_backends_count", "backends without new connections", drained),
            (
                "cairn_l4lb_closed_backends_count",
                "backends closed after failures",
                len(self._shown.stats.closed),
            ),
            (
                "cairn_l4lb_kernel_vips_count",
                "VIPs that the kernel decides for now",
                len(self._shown.stats.promoted),
            ),
        ):
            yield GaugeMetricFamily(name, text, value)
        for kind, count in self._shown.reconciled().items():
            yield CounterMetricFamily(
                f"l4lb_reconciled_{kind}_total", "changes of others that were put right", count
            )

    def _by_vip(self) -> Iterator[Metric]:
        services, stats = self._shown.services, self._shown.stats
        ranked = sorted(stats.vips.items(), key=lambda one: -one[1].picks)[:MAX_VIPS]
        labels = ("protocol", "vip", "name")
        picks = CounterMetricFamily(
            "cairn_l4lb_vip_picks_total", "new connections of a VIP", labels=labels
        )
        refused = CounterMetricFamily(
            "cairn_l4lb_vip_refused_total", "of these refused for want of a backend", labels=labels
        )
        for vip, one in ranked:
            service = services.get(vip)
            if service is not None:
                values = (vip.protocol, vip.text, full_name(service) if service.name else "")
                picks.add_metric(values, one.picks)
                refused.add_metric(values, one.refused)
        yield picks
        yield refused


def _latency(counts: Sequence[int], sum_s: float) -> HistogramMetricFamily:
    buckets, below = [], 0
    for bound, count in zip((*LATENCY_BOUNDS_S, "+Inf"), counts, strict=True):
        below += count
        buckets.append((str(bound), float(below)))
    return HistogramMetricFamily(
        "cairn_l4lb_connect_seconds",
        "from a SYN to the first answer of the backend",
        buckets=buckets,
        sum_value=sum_s,
    )
