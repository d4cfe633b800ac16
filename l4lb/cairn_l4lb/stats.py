"""What the steering process reported, added up over its restarts.

Reports hold totals since the steering process started; a new one begins at nothing, and what the
old one counted stays.  Health is not kept: a new process thinks well of every backend.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .channel import LATENCY_BOUNDS_S, BackendReport, Report, VipReport
from .histogram import Minute
from .model import BackendKey, Vip

#: A backend that nobody serves any more is forgotten after this time, seconds: as long as the
#: original shows it (dcos/minuteman `src/minuteman_metrics.erl`).
FORGET_S = 3600.0
_SIZE = len(LATENCY_BOUNDS_S) + 1


@dataclass(slots=True)
class BackendStats:
    """Of one backend.  now: as last reported; before: by earlier processes; at: of the report."""

    now: BackendReport
    before: BackendReport
    at: float = 0.0
    minute: Minute = field(default_factory=Minute)

    @property
    def picks(self) -> int:
        return self.before.picks + self.now.picks

    @property
    def successes(self) -> int:
        return self.before.successes + self.now.successes

    @property
    def failures(self) -> int:
        return self.before.failures + self.now.failures


@dataclass(slots=True)
class VipStats:
    """Of one VIP, likewise."""

    now: VipReport
    before: VipReport

    @property
    def picks(self) -> int:
        return self.before.picks + self.now.picks

    @property
    def refused(self) -> int:
        return self.before.refused + self.now.refused

    @property
    def failovers(self) -> int:
        return self.before.failovers + self.now.failovers


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What a report means for the kernel.

    closed: whether the set of closed backends is another one; promoted: VIPs whose shares are.
    """

    closed: bool
    promoted: frozenset[Vip]

    def __bool__(self) -> bool:
        return self.closed or bool(self.promoted)


class Stats:
    """Counts and health; all `now` are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self.backends: dict[BackendKey, BackendStats] = {}
        self.vips: dict[Vip, VipStats] = {}
        self.closed: set[BackendKey] = set()
        #: Shares of VIPs that the kernel decides, by slot.
        self.promoted: dict[Vip, tuple[int, ...]] = {}
        #: Those of them that have so many connections that the kernel tells of few.
        self.sampled: set[Vip] = set()
        #: Of all backends: in the last minute; counts by bound and their sum of all times.
        self.minute = Minute()
        self.latency = [0] * _SIZE
        self.latency_sum_s = 0.0
        self._counters: dict[str, int] = {}
        self._counters_before: dict[str, int] = {}

    def absorb(self, report: Report, now: float) -> Absorbed:
        """Take a report.  O(report)."""
        closed = False
        for one in report.backends:
            closed |= self._backend(one, now)
        promoted = {one.vip for one in report.vips if self._vip(one)}
        self._counters = dict(report.counters)
        return Absorbed(closed, frozenset(promoted))

    def restarted(self) -> Absorbed:
        """The steering process ended: nothing is closed or promoted for the next one."""
        found = Absorbed(bool(self.closed), frozenset(self.promoted))
        for stats in self.backends.values():
            stats.before = BackendReport(
                stats.now.backend,
                picks=stats.picks,
                successes=stats.successes,
                failures=stats.failures,
            )
            stats.now = BackendReport(stats.now.backend)
        for each in self.vips.values():
            each.before = VipReport(
                each.now.vip, picks=each.picks, refused=each.refused, failovers=each.failovers
            )
            each.now = VipReport(each.now.vip)
        self._counters_before = dict(self.counters())
        self._counters = {}
        self.closed.clear()
        self.promoted.clear()
        self.sampled.clear()
        return found

    def counters(self) -> Mapping[str, int]:
        """Totals by name."""
        found = dict(self._counters_before)
        for name, count in self._counters.items():
            found[name] = found.get(name, 0) + count
        return found

    def backend(self, key: BackendKey) -> BackendStats:
        """Of a backend; nothing was counted where it was never seen."""
        found = self.backends.get(key)
        return found if found is not None else BackendStats(BackendReport(key), BackendReport(key))

    def vip(self, vip: Vip) -> VipStats:
        """Of a VIP, likewise."""
        found = self.vips.get(vip)
        return found if found is not None else VipStats(VipReport(vip), VipReport(vip))

    def forget(self, vips: Iterable[Vip]) -> None:
        """VIPs that are gone."""
        for vip in vips:
            self.vips.pop(vip, None)
            self.promoted.pop(vip, None)
            self.sampled.discard(vip)

    def tidy(self, served: Iterable[BackendKey], now: float) -> None:
        """Forget backends that are not `served` any more, after a while."""
        keep = set(served)
        for key in [
            key
            for key, stats in self.backends.items()
            if key not in keep and now - stats.at > FORGET_S
        ]:
            del self.backends[key]
            self.closed.discard(key)

    def _backend(self, report: BackendReport, now: float) -> bool:
        """Whether it opened or closed."""
        key = report.backend
        stats = self.backends.get(key)
        if stats is None:
            stats = self.backends[key] = BackendStats(BackendReport(key), BackendReport(key))
        old, stats.now, stats.at = stats.now, report, now
        if report.latency:
            more = [a - b for a, b in zip(_full(report), _full(old), strict=True)]
            if any(more):
                seconds = report.latency_sum_s - old.latency_sum_s
                stats.minute.add(more, seconds, now)
                self.minute.add(more, seconds, now)
                self.latency = [a + b for a, b in zip(self.latency, more, strict=True)]
                self.latency_sum_s += seconds
        was_closed = key in self.closed
        if report.open:
            self.closed.discard(key)
        else:
            self.closed.add(key)
        return was_closed == report.open

    def _vip(self, report: VipReport) -> bool:
        """Whether its shares in the kernel are others."""
        stats = self.vips.get(report.vip)
        if stats is None:
            self.vips[report.vip] = VipStats(report, VipReport(report.vip))
        else:
            stats.now = report
        known = self.promoted.get(report.vip, ()), report.vip in self.sampled
        if known == (report.slots, report.sampled):
            return False
        if report.sampled:
            self.sampled.add(report.vip)
        else:
            self.sampled.discard(report.vip)
        if report.slots:
            self.promoted[report.vip] = report.slots
        else:
            self.promoted.pop(report.vip, None)
        return True


def _full(report: BackendReport) -> tuple[int, ...]:
    return report.latency or (0,) * _SIZE
