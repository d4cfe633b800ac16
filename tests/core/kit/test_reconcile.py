"""Reconciling: plans are minimal, failures lose no work, foreign entries stay."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.kit.reconcile import Plan, Reconciler, plan

Table = dict[str, int]
tables = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3))


@dataclass
class Kernel:
    """A table with entries of others beside ours, which can fail at any step."""

    ours: Table = field(default_factory=dict)
    foreign: Table = field(default_factory=lambda: {"foreign": 1})
    fail_after: int | None = None
    steps: int = 0
    during: Table | None = None
    reconciler: Reconciler[str, int] | None = None

    def _step(self) -> None:
        if self.fail_after is not None and self.steps >= self.fail_after:
            raise OSError("no buffer space")
        self.steps += 1

    def read(self) -> Mapping[str, int]:
        self._step()
        return dict(self.ours)

    def apply(self, changes: Plan[str, int]) -> None:
        if self.during is not None and self.reconciler is not None:
            self.reconciler.set(self.during)
        for key, value in changes.add.items():
            self._step()
            assert key not in self.ours
            self.ours[key] = value
        for key, (old, new) in changes.change.items():
            self._step()
            assert self.ours[key] == old
            self.ours[key] = new
        for key in changes.remove:
            self._step()
            del self.ours[key]


def reconciler(kernel: Kernel) -> Reconciler[str, int]:
    made: Reconciler[str, int] = Reconciler(kernel, Random(1))
    kernel.reconciler = made
    made.enable()
    return made


@given(tables, tables)
def test_a_plan_is_the_difference_and_nothing_else(desired: Table, actual: Table) -> None:
    changes = plan(desired, actual)
    after = dict(actual)
    after.update(changes.add)
    after.update({key: new for key, (_, new) in changes.change.items()})
    for key in changes.remove:
        del after[key]
    assert after == desired
    assert all(old != new for old, new in changes.change.values())
    assert bool(changes) == (desired != actual)


@given(tables, tables)
def test_a_sync_reaches_the_desired_table_and_a_second_does_nothing(a: Table, b: Table) -> None:
    kernel = Kernel(ours=dict(a))
    ours = reconciler(kernel)
    ours.set(b)
    ours.sync(now=0.0)
    assert kernel.ours == b
    assert not ours.needs_sync
    steps = kernel.steps
    assert not ours.sync(now=1.0)
    assert kernel.steps == steps + 1
    assert kernel.foreign == {"foreign": 1}


@given(tables, tables, st.integers(0, 10))
def test_a_failure_anywhere_loses_no_work(actual: Table, desired: Table, after: int) -> None:
    kernel = Kernel(ours=dict(actual), fail_after=after)
    ours = reconciler(kernel)
    ours.set(desired)
    try:
        ours.sync(now=0.0)
    except OSError:
        assert ours.needs_sync
        due = ours.next_sync()
        assert due is not None
        assert 0.0 < due <= ours.resync_s
        kernel.fail_after = None
        ours.sync(now=due)
    assert kernel.ours == desired
    assert not ours.needs_sync


def test_a_failed_resync_is_tried_again_soon() -> None:
    kernel = Kernel()
    ours = reconciler(kernel)
    ours.sync(now=0.0)
    kernel.fail_after = 0
    with pytest.raises(OSError, match="no buffer"):
        ours.sync(now=40.0)
    due = ours.next_sync()
    assert due is not None
    assert due < 41.0


def test_a_set_during_a_sync_is_not_forgotten() -> None:
    kernel = Kernel(during={"x": 2})
    ours = reconciler(kernel)
    ours.set({"x": 1})
    ours.sync(now=0.0)
    assert kernel.ours == {"x": 1}
    assert ours.needs_sync
    ours.sync(now=1.0)
    assert kernel.ours == {"x": 2}
    assert not ours.needs_sync


def test_nothing_is_touched_before_the_table_is_complete() -> None:
    kernel = Kernel(ours={"old": 1})
    ours: Reconciler[str, int] = Reconciler(kernel, Random(1))
    ours.set({})
    assert ours.next_sync() is None
    with pytest.raises(RuntimeError, match="before enable"):
        ours.sync(now=0.0)
    assert ours.preview().remove == {"old": 1}
    assert kernel.ours == {"old": 1}


def test_syncs_are_batched_and_resyncs_spread() -> None:
    ours = reconciler(Kernel())
    ours.sync(now=100.0)
    due = ours.next_sync()
    assert due is not None
    assert 130.0 <= due <= 136.0
    ours.set({"a": 1})
    assert ours.next_sync() == 100.05
    ours.sync(now=100.05)
    ours.request()
    assert ours.next_sync() == pytest.approx(100.1)


def test_the_sentence_counts() -> None:
    assert str(plan({"a": 1, "b": 2}, {"b": 1, "c": 1})) == "added=1 changed=1 removed=1"
