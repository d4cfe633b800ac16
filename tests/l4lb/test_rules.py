"""What the kernel shall hold, and the order of the work that gets it there."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_l4lb.kernel import Desired, counts, difference
from cairn_l4lb.model import Backend, BackendKey, Service, Vip
from cairn_l4lb.rules import (
    MANY_SHARES,
    MORE_SHARES,
    KernelSettings,
    Key,
    Placed,
    Work,
    contents,
    element_text,
    is_backend,
    is_pick_chain,
    pick_chain,
    place,
    read_element,
    read_slots,
    share,
    shares_of,
)

SHIFT = 16
WEB = Vip("tcp", "11.0.0.1", 80)


def backend(slot: int, weight: int = 1, reachable: bool = True) -> Backend:
    return Backend(f"10.0.0.{slot}", 8080, weight=weight, reachable=reachable, slot=slot)


def closed(*numbers: int) -> set[BackendKey]:
    return {("tcp", f"10.0.0.{n}", 8080) for n in numbers}


def web(*backends: Backend) -> Service:
    return Service(WEB, backends=backends)


# -- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([], ()),
        ([(7, 5)], (7,)),
        ([(1, 1), (2, 1), (3, 1)], (1, 2, 3)),
        ([(1, 100), (2, 50)], (1, 1, 2)),
        ([(4, 2), (9, 6)], (4, 9, 9, 9)),
    ],
)
def test_equal_weights_need_few_shares(
    weights: list[tuple[int, int]], expected: tuple[int, ...]
) -> None:
    assert share(weights) == expected


@pytest.mark.parametrize("ipv6", [False, True])
def test_chains_that_draw_tell_what_they_are(ipv6: bool) -> None:
    for shares in (1, MANY_SHARES, *MORE_SHARES):
        name = pick_chain(ipv6, shares)
        assert is_pick_chain(name)
        assert shares_of(name) == (ipv6, shares)
    for other in ("pick-", "pick-0", "pick-x", "pick7-1", "pick-123456", "unknown", "pick-1\n"):
        assert not is_pick_chain(other)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=300))
def test_shares_follow_weights(weights: list[int]) -> None:
    slots = share(list(enumerate(weights, 1)))
    assert len(slots) <= MANY_SHARES or len(slots) in MORE_SHARES
    counted, total = Counter(slots), sum(weights)
    for slot, weight in enumerate(weights, 1):
        assert counted[slot] >= 1
        # one for the remainder, and one more where shares are too few for all
        assert abs(counted[slot] - weight * len(slots) / total) <= 2


# -- placing ---------------------------------------------------------------------------------------


def test_a_backend_that_drains_is_kept_but_not_chosen() -> None:
    placed = place(web(backend(1), backend(2, weight=0)))
    assert [slot for slot, _, _ in placed.backends] == [1, 2]
    assert placed.shares == (1,)


def test_a_closed_one_is_not_chosen_and_with_all_closed_the_vip_is_refused() -> None:
    service = web(backend(1), backend(2))
    assert place(service, closed(1)).shares == (2,)
    nobody = place(service, closed(1, 2))
    assert nobody.shares == ()
    assert {name for (name, _), _ in contents(WEB, nobody, SHIFT)} == {"be"}


def test_one_on_a_lost_host_is_chosen_when_there_is_no_other() -> None:
    assert place(web(backend(1, reachable=False), backend(2))).shares == (2,)
    assert place(web(backend(1, reachable=False))).shares == (1,)


def test_one_without_a_slot_is_not_there() -> None:
    assert place(web(Backend("10.0.0.1", 80))) == Placed((), (), False)


def test_a_hot_vip_has_the_shares_it_was_given_but_for_those_that_may_not_be_chosen() -> None:
    service = web(backend(1), backend(2), backend(3))
    assert place(service, hot=(1, 2, 2, 3)) == Placed(
        tuple((n, f"10.0.0.{n}", 8080) for n in (1, 2, 3)), (1, 2, 2, 3), True
    )
    # whoever gave the shares knows who is closed, and has it probed by one
    assert place(service, closed(2), (1, 2, 3, 3)).shares == (1, 2, 3, 3)
    drained = web(backend(1), backend(2, weight=0), backend(3))
    assert place(drained, hot=(1, 2, 2, 3)).shares == (1, 1, 3, 3)
    # shares that are nobody's: user space decides
    assert not place(service, hot=(8, 9)).hot
    assert not place(service, closed(1, 2, 3), (1, 2)).hot


# -- elements --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("address", "behind"), [("11.0.0.1", "10.0.0.9"), ("fd01:c::1", "fd00::9")]
)
@pytest.mark.parametrize("busy", [False, True])
def test_elements_can_be_read_back(protocol: Any, address: str, behind: str, busy: bool) -> None:
    vip = Vip(protocol, address, 65535)
    service = Service(vip, backends=(Backend(behind, 81, slot=4095),))
    placed = place(service, hot=(4095, 4095), sampled=busy)
    elements = dict(contents(vip, placed, SHIFT))
    assert read_slots(elements, SHIFT) == {vip: {4095: (behind, 81)}}
    texts = {element_text(key, data, SHIFT) for key, data in elements.items()}
    six = "6" if ":" in address else ""
    assert texts == {
        f"be{six} {{ {address} . {protocol} . 65535 . 0xfff0000 : {behind} . 81 }}",
        f"picks{six} {{ {address} . {protocol} . 65535 . 0 : 0xfff0000 }}",
        f"picks{six} {{ {address} . {protocol} . 65535 . 1 : 0xfff0000 }}",
        f"vips{six} {{ {address} . {protocol} . 65535 : goto pick{six}-2 }}",
        f"{'busy' if busy else 'hot'}{six} {{ {address} . {protocol} . 65535 }}",
    }


@given(
    st.sampled_from(["be", "be6", "picks", "picks6", "vips", "vips6", "hot", "busy6"]),
    st.binary(max_size=40),
)
def test_what_is_not_ours_is_shown_and_not_understood(name: str, raw: bytes) -> None:
    key = (name, raw + b"x" if len(raw) % 4 == 0 else raw)
    assert read_element(key, None, SHIFT) is None
    assert raw.hex() in element_text(key, None, SHIFT)


# -- order of the work -----------------------------------------------------------------------------


class FakeKernel:
    """Maps and sets that complain as the real ones do, and look at themselves as a packet does."""

    def __init__(self) -> None:
        self.elements: dict[Key, bytes | None] = {}
        self.queued: set[Vip] = set()

    def at_once(self, desired: Desired) -> None:
        work = desired.work
        for key in [*work.remove, *work.replace]:
            del self.elements[key]
        for key, data in {**work.add, **work.replace}.items():
            assert key not in self.elements
            self.elements[key] = data
        self.queued |= work.queue
        hot = {vip for vip in work.unqueue if vip in desired.placed}
        self.queued -= hot
        work.unqueue -= hot
        for done in (work.add, work.replace, work.remove, work.queue):
            done.clear()

    def later(self, work: Work) -> None:
        self.queued -= work.unqueue
        for key in work.later:
            del self.elements[key]
        work.unqueue.clear()
        work.later.clear()

    def check(self) -> None:
        """Whoever chooses meets a backend, and whoever is queued has all that may be chosen."""
        slots = read_slots(self.elements, SHIFT)
        for key, data in self.elements.items():
            found = read_element(key, data, SHIFT)
            assert found is not None
            if key[0].startswith("picks"):
                assert int(found.data, 16) >> SHIFT in slots[found.vip]
            if key[0].startswith("vips"):
                shares = int(found.data.split("-")[1])
                picks = [
                    one
                    for one in self.elements
                    if one[0].startswith("picks") and one[1].startswith(key[1])
                ]
                assert len(picks) == shares
            if key[0].startswith(("hot", "busy")):
                assert found.vip not in self.queued


vips = st.sampled_from(
    [WEB, Vip("udp", "11.0.0.1", 80), Vip("tcp", "11.0.0.2", 80), Vip("tcp", "fd01:c::1", 80)]
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    vip = draw(vips)
    places = draw(st.lists(st.integers(1, 6), unique=True, max_size=5))
    slots = draw(st.permutations(range(1, 8)))
    return Service(
        vip,
        backends=tuple(
            Backend(
                f"fd00::{n}" if vip.ipv6 else f"10.0.0.{n}",
                8080,
                weight=draw(st.sampled_from([0, 1, 1, 2])),
                slot=slot,
            )
            for n, slot in zip(sorted(places), slots, strict=False)
        ),
    )


keys: st.SearchStrategy[BackendKey] = st.tuples(
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]),
    st.just(8080),
)
steps: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("grow"), st.lists(services(), max_size=3), st.lists(vips, max_size=1)),
    st.tuples(st.just("whole"), st.lists(services(), max_size=3), st.just([])),
    st.tuples(
        st.just("weigh"),
        st.frozensets(keys, max_size=3),
        st.dictionaries(vips, st.lists(st.integers(1, 7), max_size=8), max_size=2),
    ),
    st.tuples(st.just("shrink"), st.none(), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=12))
def test_any_series_of_changes_ends_where_it_should(series: list[Any]) -> None:
    desired, kernel = Desired(SHIFT), FakeKernel()
    desired.follows = True
    for kind, first, second in series:
        before = {key for key in kernel.elements if is_backend(key)}
        if kind in ("grow", "whole"):
            desired.update(first, second or (), whole=kind == "whole")
            kernel.at_once(desired)
            # whoever may still be chosen by the steering process is there
            assert before <= kernel.elements.keys()
        elif kind == "weigh":
            desired.weigh(first, second)
            kernel.at_once(desired)
        else:
            kernel.later(desired.work)
        kernel.check()
        assert desired.queued() <= kernel.queued
    kernel.later(desired.work)
    assert kernel.elements == desired.elements()
    assert kernel.queued == desired.queued()


def test_a_slot_that_another_backend_gets_is_replaced_at_once() -> None:
    desired = Desired(SHIFT)
    desired.follows = True
    desired.update([web(Backend("10.0.0.1", 1, slot=1))], (), whole=True)
    desired.work = Work()
    desired.update([web(Backend("10.0.0.2", 1, slot=1))], (), whole=False)
    assert [key[0] for key in desired.work.replace] == ["be"]
    assert not desired.work.later


def test_a_change_of_one_vip_is_work_for_one_vip() -> None:
    desired = Desired(SHIFT)
    desired.follows = True
    many = [
        Service(Vip("tcp", f"11.0.0.{n}", 80), backends=(backend(1), backend(2)))
        for n in range(200)
    ]
    desired.update(many, (), whole=True)
    desired.work = Work()
    desired.update([Service(many[7].vip, backends=(backend(1), backend(3)))], (), whole=False)
    work = desired.work
    assert [len(one) for one in (work.add, work.replace, work.later)] == [1, 1, 1]
    assert [len(one) for one in (work.remove, work.queue, work.unqueue)] == [0, 0, 0]


def test_the_difference_keeps_what_may_still_be_chosen() -> None:
    there: dict[Key, bytes | None] = {("be", b"1"): b"a", ("be", b"2"): b"a", ("vips", b"3"): b"a"}
    wanted: dict[Key, bytes | None] = {("be", b"1"): b"b", ("hot", b"4"): None}
    work = difference(wanted, there, keep_backends=True)
    assert work.replace == {("be", b"1"): b"b"}
    assert work.add == {("hot", b"4"): None}
    assert work.later == {("be", b"2")}
    assert work.remove == {("vips", b"3")}
    assert counts(work) == [
        "map be: missing=0 wrong=1 extra=0",
        "map hot: missing=1 wrong=0 extra=0",
        "map vips: missing=0 wrong=0 extra=1",
    ]
    assert difference(wanted, there, keep_backends=False).remove == {("be", b"2"), ("vips", b"3")}
    assert difference(wanted, there, {("be", b"2")}, keep_backends=False).later == {("be", b"2")}


def test_the_mark_says_where_a_slot_begins() -> None:
    assert KernelSettings().shift == 16
    assert KernelSettings(mark_mask=0xFF).shift == 0
