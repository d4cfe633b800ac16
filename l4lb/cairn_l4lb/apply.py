"""How a change of the cluster becomes changes of the kernel and of the steering process.

    cluster, agent, drains --> Table --> Balancer --take--> Work
    report of the steering process ------^                    |
                                      1 kernel.grow: what is new, before anybody chooses it
                                      2 steering process: UPDATE, and wait until it has it
                                      3 kernel.shrink: what nobody chooses any more

Changes that come while work is under way are merged, so a slow kernel gets fewer, larger ones.
No I/O; `daemon` does the work.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from .channel import Report, Update
from .model import BackendKey, Service, Vip
from .shapes import key_of
from .slots import Slots
from .stats import Stats
from .table import TableChange

#: How often backends that nobody serves are looked for, seconds.
TIDY_S = 60.0


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done at one go.

    changed: services with slots. gone: VIPs that are served no longer. closed: all backends that
    are closed. promoted: shares of all VIPs that the kernel decides; sampled: those of them of
    which it tells little. health: whether these are other ones than before. names: whether names
    or their addresses changed. leaving: whether backends or VIPs leave, so that the steering
    process has to know before the kernel forgets them. since: when the oldest of the changes came,
    on the clock of `now`.
    """

    changed: Mapping[Vip, Service] = field(default_factory=dict)
    gone: frozenset[Vip] = frozenset()
    closed: frozenset[BackendKey] = frozenset()
    promoted: Mapping[Vip, tuple[int, ...]] = field(default_factory=dict)
    sampled: frozenset[Vip] = frozenset()
    health: bool = False
    names: bool = False
    leaving: bool = False
    since: float = 0.0

    def update(self) -> Update | None:
        """What the steering process is told; None where nothing of it is for it."""
        if not self.changed and not self.gone:
            return None
        return Update(list(self.changed.values()), sorted(self.gone))


class Balancer:
    """What is served.  All `now` are seconds on one monotonic clock.

    Invariant: `services` is what the work taken so far makes of nothing; what came since is in the
    next work.
    """

    def __init__(self, slots: Slots) -> None:
        self.services: dict[Vip, Service] = {}
        self.stats = Stats()
        #: Grows with every change of `services`.
        self.index = 0
        self._slots = slots
        #: As the table has them: without slots, and with backends for which there is none.
        self._source: dict[Vip, Service] = {}
        self._due = TableChange()
        self._health_due = False
        self._since: float | None = None
        self._tidy_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether there is work to take."""
        return self._since is not None

    def note(self, change: TableChange, now: float) -> None:
        """The table changed."""
        if change:
            self._due = self._due.then(change)
            self._start(now)

    def report(self, report: Report, now: float) -> None:
        """The steering process told something."""
        # the last it tells of a VIP that is gone comes after it was forgotten
        vips = [one for one in report.vips if one.vip in self.services]
        report = replace(report, vips=vips)
        if self.stats.absorb(report, now):
            self._health_due = True
            self._start(now)

    def restarted(self, now: float) -> None:
        """The steering process ended: while it is away nothing is closed, and the kernel chooses
        among all."""
        if self.stats.restarted():
            self._health_due = True
            self._start(now)

    def expire(self, now: float) -> None:
        """Time passed: slots that rested long enough are given to backends that wait for one."""
        for vip in self._slots.expire(now):
            service = self.services.get(vip)
            if service is not None and vip not in self._due.changed and vip not in self._due.gone:
                self._waiting(vip, now)
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_S
            self.stats.tidy(self.backends(), now)

    def again(self, work: Work, now: float) -> None:
        """Work could not be done: it is due with what comes next.  Nothing newer is undone."""
        known = {vip: self._source.get(vip, one) for vip, one in work.changed.items()}
        self._due = TableChange(known, set(work.gone), work.names).then(self._due)
        self._health_due = True
        self._start(now)

    def take(self, now: float) -> Work:
        """All that is due; the caller does it, or gives it back with `again`."""
        due, self._due = self._due, TableChange()
        health, self._health_due = self._health_due, False
        since, self._since = self._since, None
        changed, leaving = {}, False
        for vip, service in due.changed.items():
            self._source[vip] = service
            old = self.services.get(vip)
            new = changed[vip] = self.services[vip] = self._slots.assign(service, now)
            leaving = leaving or (old is not None and bool(_places(old) - _places(new)))
        gone = frozenset(due.gone)
        for vip in gone:
            leaving |= self.services.pop(vip, None) is not None
            self._source.pop(vip, None)
            self._slots.release(vip, now)
        if gone:
            self.stats.forget(gone)
        if changed or gone:
            self.index += 1
        return Work(
            changed, gone, frozenset(self.stats.closed), dict(self.stats.promoted),
            frozenset(self.stats.sampled), health, due.names, leaving,
            now if since is None else since,
        )  # fmt: skip

    def whole(self) -> Update:
        """All services, for a steering process that begins."""
        return Update(list(self.services.values()), whole=True)

    def backends(self) -> Iterator[BackendKey]:
        """All backends; those of several VIPs several times."""
        for service in self.services.values():
            for one in service.backends:
                yield key_of(service.vip, one)

    def left_out(self) -> dict[Vip, int]:
        """Backends without a slot by VIP: there are more than marks."""
        return self._slots.left_out()

    def adopt(self, slots: Mapping[Vip, Mapping[int, tuple[str, int]]]) -> None:
        """Slots that the kernel has from before the start."""
        for vip, taken in slots.items():
            self._slots.adopt(vip, taken)

    def _waiting(self, vip: Vip, now: float) -> None:
        self._due = self._due.then(TableChange({vip: self._source[vip]}))
        self._start(now)

    def _start(self, now: float) -> None:
        if self._since is None:
            self._since = now


def _places(service: Service) -> set[tuple[str, int, int]]:
    return {(one.address, one.port, one.slot) for one in service.backends}
