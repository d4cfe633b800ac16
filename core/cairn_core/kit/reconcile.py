"""Keeping a table that we do not own alone (kernel, HAProxy) equal to the one we want.

`plan` is pure: the smallest set of changes. `Reconciler` remembers what is desired and when the
next sync is due; a `Driver` is the only object that does I/O. `Reconciler.sync` blocks, so a daemon
runs it in a thread; `set` may be called from the loop meanwhile.

Rules: nothing is touched before the source of truth said it is complete (`enable`); an error keeps
the work dirty; a full resync happens even when nothing changed, since others edit the table too.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Generic, Protocol, TypeVar

from cairn_core.kit.backoff import Backoff

K = TypeVar("K")
V = TypeVar("V")

#: The period of the original's network daemon.
RESYNC_S = 30.0
#: Nodes started together must not resync together.
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Plan(Generic[K, V]):
    """The smallest set of changes from actual to desired.

    change: key -> (actual value, desired value). remove: key -> actual value.
    """

    add: Mapping[K, V]
    change: Mapping[K, tuple[V, V]]
    remove: Mapping[K, V]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.add or self.change or self.remove)

    def __str__(self) -> str:
        """The sentence for the log."""
        return f"added={len(self.add)} changed={len(self.change)} removed={len(self.remove)}"


def plan(desired: Mapping[K, V], actual: Mapping[K, V]) -> Plan[K, V]:
    """What turns `actual` into `desired`; O(size of both). Order follows the tables."""
    return Plan(
        add={key: value for key, value in desired.items() if key not in actual},
        change={
            key: (actual[key], value)
            for key, value in desired.items()
            if key in actual and actual[key] != value
        },
        remove={key: value for key, value in actual.items() if key not in desired},
    )


class Driver(Protocol[K, V]):
    """One foreign table. Its docstring says how a restarted process recognises its entries."""

    def read(self) -> Mapping[K, V]:
        """Our entries, and only ours."""

    def apply(self, plan: Plan[K, V]) -> None:
        """Make the changes; may stop half-way with an exception, the next sync goes on."""


@dataclass(slots=True)
class Reconciler(Generic[K, V]):
    """Owns the desired table; `set` is cheap, `sync` does the I/O.

    Invariant: after `sync` returned, driver.read() was equal to the table desired when it began,
    or `needs_sync` is still true.

    min_s: shortest time between two syncs, so that a burst of `set` becomes one batch.
    """

    driver: Driver[K, V]
    rng: Random
    min_s: float = 0.05
    resync_s: float = RESYNC_S
    #: Whether the source of truth was complete once; before that nothing is touched.
    enabled: bool = False
    _desired: Mapping[K, V] = field(default_factory=dict)
    #: Counts `set`; a sync covers the generation it began with.
    _generation: int = 1
    _synced: int = 0
    _next: float = float("-inf")
    _resync_at: float = float("-inf")
    _backoff: Backoff | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, desired: Mapping[K, V]) -> None:
        """This is what the table shall hold; the mapping must not change afterwards."""
        with self._lock:
            if desired != self._desired:
                self._desired = desired
                self._generation += 1

    def enable(self) -> None:
        """The desired table is complete: from now on entries may be removed too."""
        self.enabled = True

    def request(self) -> None:
        """Sync at the next occasion even if nothing changed (an operator asked, an event came)."""
        with self._lock:
            self._generation += 1

    @property
    def needs_sync(self) -> bool:
        """Whether the last successful sync is behind the desired table."""
        return self._synced != self._generation

    def next_sync(self) -> float | None:
        """When to call `sync`, on the clock of `now`; None before `enable`."""
        if not self.enabled:
            return None
        return self._next if self.needs_sync else max(self._resync_at, self._next)

    def preview(self) -> Plan[K, V]:
        """What a sync would do now; reads, and touches nothing."""
        return plan(self._desired, self.driver.read())

    def sync(self, *, now: float) -> Plan[K, V]:
        """Read, plan, apply; returns what was done. Blocks as long as the driver does.

        now: seconds on the monotonic clock. What the driver raises goes through, and the next
        sync is then due after a backoff that grows to the resync period.
        """
        if not self.enabled:
            raise RuntimeError("sync before enable: the desired table is not complete")
        with self._lock:
            desired, generation = self._desired, self._generation
        try:
            changes = plan(desired, self.driver.read())
            if changes:
                self.driver.apply(changes)
        except BaseException:
            if self._backoff is None:
                self._backoff = Backoff(self.min_s, max(self.resync_s, self.min_s), self.rng)
            with self._lock:
                # also a resync that failed leaves work to do
                self._synced = -1
            self._next = now + self._backoff.next()
            raise
        self._backoff = None
        self._synced = generation
        self._next = now + self.min_s
        self._resync_at = now + self.resync_s * (1 + JITTER * self.rng.random())
        return changes
