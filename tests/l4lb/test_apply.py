"""What work a change becomes."""

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.apply import Balancer
from cairn_l4lb.channel import BackendReport, Report, SteerSettings, VipReport
from cairn_l4lb.io_apply import Applier
from cairn_l4lb.model import Backend, BackendKey, Service, Vip
from cairn_l4lb.slots import REST_S, Slots
from cairn_l4lb.table import TableChange

VIPS = [Vip("tcp", f"11.0.0.{n}", 80) for n in range(1, 5)]
VIP = VIPS[0]


def service(vip: Vip, *ports: int) -> Service:
    return Service(vip, "", tuple(Backend("10.0.0.1", port) for port in sorted(ports)))


def change(*services: Service, gone: Sequence[Vip] = ()) -> TableChange:
    return TableChange({one.vip: one for one in services}, set(gone))


def test_changes_are_merged_until_they_are_taken() -> None:
    balancer = Balancer(Slots(10))
    assert not balancer.is_due
    balancer.note(TableChange(), 0)
    assert not balancer.is_due
    balancer.note(change(service(VIP, 1)), 1)
    balancer.note(change(service(VIP, 1, 2)), 2)
    balancer.note(change(service(VIPS[1], 3)), 3)
    work = balancer.take(4)
    assert work.since == 1
    assert [one.slot for one in work.changed[VIP].backends] == [1, 2]
    assert not work.leaving
    assert not balancer.is_due
    update = work.update()
    assert update is not None
    assert {one.vip for one in update.services} == set(VIPS[:2])
    assert balancer.index == 1


def test_what_leaves_is_told() -> None:
    balancer = Balancer(Slots(10))
    balancer.note(change(service(VIP, 1, 2)), 0)
    balancer.take(0)
    balancer.note(change(service(VIP, 1, 3)), 1)
    work = balancer.take(1)
    assert work.leaving
    assert [(one.port, one.slot) for one in work.changed[VIP].backends] == [(1, 1), (3, 3)]
    balancer.note(change(gone=[VIP]), 2)
    assert balancer.take(2).leaving
    assert not balancer.services


def test_work_that_failed_is_done_with_what_comes_next() -> None:
    balancer = Balancer(Slots(10))
    balancer.note(change(service(VIP, 1), service(VIPS[1], 1)), 0)
    failed = balancer.take(0)
    balancer.note(change(service(VIP, 1, 2), gone=[VIPS[1]]), 1)
    balancer.again(failed, 2)
    work = balancer.take(2)
    assert [one.port for one in work.changed[VIP].backends] == [1, 2]
    assert work.gone == {VIPS[1]}
    assert work.health


def test_health_is_work_only_when_it_changes() -> None:
    balancer = Balancer(Slots(10))
    balancer.note(change(service(VIP, 1)), 0)
    balancer.take(0)
    key: BackendKey = ("tcp", "10.0.0.1", 1)
    balancer.report(Report([BackendReport(key, picks=1)]), 0)
    assert not balancer.is_due
    balancer.report(Report([BackendReport(key, open=False)], [VipReport(VIP, slots=(1,))]), 0)
    work = balancer.take(0)
    assert (set(work.closed), dict(work.promoted), work.health) == ({key}, {VIP: (1,)}, True)
    assert work.update() is None
    assert balancer.index == 1
    balancer.restarted(1)
    assert balancer.take(1).closed == frozenset()


def test_nothing_is_left_of_vips_that_come_and_go() -> None:
    balancer = Balancer(Slots(10))
    for now in range(50):
        vip = Vip("tcp", f"11.0.1.{now}", 80)
        report = Report(vips=[VipReport(vip, picks=1, slots=(1,), sampled=True)])
        balancer.note(change(service(vip, 1)), now)
        balancer.take(now)
        balancer.report(report, now)
        assert balancer.take(now).promoted == {vip: (1,)}
        balancer.note(change(gone=[vip]), now)
        balancer.take(now)
        # the steering process counted until it heard of it
        balancer.report(report, now)
        assert not balancer.is_due
    stats = balancer.stats
    assert [*stats.vips, *stats.promoted, *stats.sampled] == []


async def test_nothing_beside_ends_unseen() -> None:
    async def fails() -> None:
        raise ZeroDivisionError("a bug")

    async def ends() -> None:
        return

    async def nothing() -> None:
        return

    applier = Applier(
        Balancer(Slots(10)), None, SteerSettings(), lambda work, took_s: None, lambda took_s: None,
        prepare=nothing, rng=Random(1),
    )  # fmt: skip
    stop = asyncio.Event()
    applier._start_beside(ends(), "ends")
    running = asyncio.create_task(applier.run(stop))
    await asyncio.sleep(0)
    applier._start_beside(fails(), "fails")
    applier.balancer.note(change(service(VIP, 1)), 0)
    applier.wake(known=True)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        async with asyncio.timeout(10):
            await running


def test_a_backend_that_waits_for_a_slot_gets_one_when_it_rested() -> None:
    balancer = Balancer(Slots(2))
    balancer.note(change(service(VIP, 1, 2)), 0)
    balancer.take(0)
    balancer.note(change(service(VIP, 1, 3)), 1)
    assert [one.port for one in balancer.take(1).changed[VIP].backends] == [1]
    assert balancer.left_out() == {VIP: 1}
    balancer.expire(2)
    assert not balancer.is_due
    balancer.expire(2 + REST_S)
    assert [one.port for one in balancer.take(2 + REST_S).changed[VIP].backends] == [1, 3]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(VIPS), st.sets(st.integers(1, 6))),
            st.tuples(st.sampled_from(VIPS), st.none()),
            st.just("take"),
            st.just("fail"),
        ),
        max_size=40,
    )
)
def test_all_work_together_makes_the_table(series: list[object]) -> None:
    balancer = Balancer(Slots(100))
    wanted: dict[Vip, Service] = {}
    made: dict[Vip, Service] = {}

    def take(now: float, *, fail: bool) -> None:
        work = balancer.take(now)
        if fail:
            balancer.again(work, now)
            return
        assert not work.changed.keys() & work.gone
        made.update(work.changed)
        for vip in work.gone:
            made.pop(vip, None)

    for now, step in enumerate(series):
        if isinstance(step, str):
            take(now, fail=step == "fail")
            continue
        assert isinstance(step, tuple)
        vip, ports = step
        if ports is None:
            wanted.pop(vip, None)
            balancer.note(change(gone=[vip]), now)
        else:
            wanted[vip] = service(vip, *ports)
            balancer.note(change(wanted[vip]), now)
    take(len(series), fail=False)
    assert made == balancer.services
    plain = {vip: [(one.address, one.port) for one in each.backends] for vip, each in made.items()}
    assert plain == {
        vip: [(one.address, one.port) for one in each.backends] for vip, each in wanted.items()
    }
