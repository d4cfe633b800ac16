"""`/metrics` as the original shows it: `<name>_<type>` -> data points and the type.

dcos/minuteman `src/minuteman_wm.erl` prints what exometer has; its own metrics are named in
`src/minuteman_metrics.erl`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .histogram import figures_ns
from .model import BackendKey, endpoint
from .stats import BackendStats, Stats

#: Backends shown, the busiest first; the original keeps as many.
MAX_BACKENDS = 1000
#: Counters of the steering process that are counters of the original.
COUNTERS = ("observed_conns", "successes", "timeouts")
#: And those that are spirals: a total and what came in the last minute.
SPIRALS = ("reachable_open_backend", "open_backend", "other_backend")
#: Spirals that have other names here: entries of conntrack, where `ctnetlink` makes them.
RENAMED = {"ct_success": "entries", "ct_failure": "entries_failed"}
#: All of one kind of decision, which the original counts by itself.
PICKER = "probabilistic_backend_picker"


class LastMinute:
    """What counters grew by in the last minute.

    `look` is called now and then, best each second; between two looks nothing is known.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, dict[str, int]]] = []

    def look(self, counters: Mapping[str, int], now: float) -> None:
        """Remember the counters as they are."""
        if not self._seen or now - self._seen[-1][0] >= 1.0:
            self._seen.append((now, dict(counters)))
        while len(self._seen) > 2 and now - self._seen[1][0] >= 60.0:
            del self._seen[0]

    def of(self, name: str, total: int) -> int:
        """How much of `total` came in the last minute."""
        if not self._seen:
            return 0
        return max(0, total - self._seen[0][1].get(name, 0))


def document(stats: Stats, minute: LastMinute, now: float, since_ms: int) -> dict[str, Any]:
    """The whole answer.  since_ms: milliseconds since the daemon started."""
    counters = stats.counters()
    found: dict[str, Any] = {}
    for name, count in sorted(counters.items()):
        if name not in SPIRALS:
            found[f"{name}_counter"] = _counter(count, since_ms)
    for name in COUNTERS:
        found.setdefault(f"{name}_counter", _counter(0, since_ms))
    for name in SPIRALS:
        count = counters.get(name, 0)
        found[f"{name}_spiral"] = _spiral(count, minute.of(name, count))
    for theirs, ours in RENAMED.items():
        count = counters.get(ours, 0)
        found[f"{theirs}_spiral"] = _spiral(count, minute.of(ours, count))
    picked = sum(counters.get(name, 0) for name in SPIRALS)
    lately = sum(minute.of(name, counters.get(name, 0)) for name in SPIRALS)
    found[f"{PICKER}_spiral"] = _spiral(picked, lately)
    found["connect_latency_histogram"] = _histogram(stats.minute.get(now))
    for (_, address, port), one in _busiest(stats.backends.items()):
        name = f"backend_{endpoint(address, port)}"
        found[f"{name}_successes_counter"] = _counter(one.successes, since_ms)
        found[f"{name}_failures_counter"] = _counter(one.failures, since_ms)
        found[f"{name}_connect_latency_histogram"] = _histogram(one.minute.get(now))
    return found


def _busiest(
    backends: Iterable[tuple[BackendKey, BackendStats]],
) -> list[tuple[BackendKey, BackendStats]]:
    ranked = sorted(backends, key=lambda one: -(one[1].successes + one[1].failures))
    return ranked[:MAX_BACKENDS]


def _counter(value: int, since_ms: int) -> dict[str, Any]:
    return {"value": value, "ms_since_reset": since_ms, "type": "counter"}


def _spiral(count: int, one: int) -> dict[str, Any]:
    return {"count": count, "one": one, "type": "spiral"}


def _histogram(minute: tuple[list[int], float]) -> dict[str, Any]:
    return {**figures_ns(*minute), "type": "histogram"}
