"""Slots stay, rest, and are given again."""

from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.model import Backend, Service, Vip
from cairn_l4lb.slots import REST_S, Slots, slots_of

VIP = Vip("tcp", "11.0.0.1", 80)


def service(*ports: int, drained: tuple[int, ...] = ()) -> Service:
    backends = (Backend("10.0.0.1", port, 0 if port in drained else 1) for port in sorted(ports))
    return Service(VIP, "web.marathon", tuple(backends))


def numbers(given: Service) -> dict[int, int]:
    return {one.port: one.slot for one in given.backends}


def test_a_backend_keeps_its_slot_while_others_come_and_go() -> None:
    slots = Slots(10)
    assert numbers(slots.assign(service(5, 6, 7), 0.0)) == {5: 1, 6: 2, 7: 3}
    assert numbers(slots.assign(service(4, 6, 8), 1.0)) == {4: 4, 6: 2, 8: 5}
    assert numbers(slots.assign(service(4, 6, 8), 2.0)) == {4: 4, 6: 2, 8: 5}


def test_nothing_but_the_slot_of_a_backend_changes() -> None:
    backend = Backend("10.0.0.1", 80, 7, "t", "a", "10.0.0.1", "zone", False)
    given = Slots(10).assign(Service(VIP, "n", (backend,)), 0.0)
    [found] = given.backends
    assert found == Backend("10.0.0.1", 80, 7, "t", "a", "10.0.0.1", "zone", False, 1)


def test_a_freed_slot_rests_and_its_own_backend_may_have_it_back() -> None:
    slots = Slots(3)
    slots.assign(service(1, 2, 3), 0.0)
    slots.assign(service(2, 3), 10.0)
    assert numbers(slots.assign(service(2, 3, 4), 10.0 + REST_S - 1)) == {2: 2, 3: 3}
    assert slots.left_out() == {VIP: 1}
    assert slots.expire(10.0 + REST_S - 1) == []
    assert slots.expire(10.0 + REST_S) == [VIP]
    assert numbers(slots.assign(service(2, 3, 4), 10.0 + REST_S)) == {2: 2, 3: 3, 4: 1}
    assert slots.left_out() == {}
    slots.assign(service(2, 3), 100.0)
    assert numbers(slots.assign(service(2, 3, 4), 101.0)) == {2: 2, 3: 3, 4: 1}


def test_the_slot_that_rests_longest_is_taken_first() -> None:
    slots = Slots(10)
    slots.assign(service(1, 2, 3), 0.0)
    slots.assign(service(1, 3), 1.0)
    slots.assign(service(3), 2.0)
    assert numbers(slots.assign(service(3, 8, 9), 2.0 + REST_S)) == {3: 3, 8: 2, 9: 1}


def test_with_too_few_slots_those_that_take_connections_come_first() -> None:
    slots = Slots(2)
    assert numbers(slots.assign(service(1, 2, 3, drained=(1,)), 0.0)) == {2: 1, 3: 2}
    assert slots.left_out() == {VIP: 1}


def test_slots_of_the_kernel_are_adopted() -> None:
    slots = Slots(10)
    kernel = {3: ("10.0.0.1", 5), 4: ("10.0.0.1", 6), 0: ("10.0.0.1", 7), 11: ("10.0.0.1", 8)}
    slots.adopt(VIP, kernel)
    given = slots.assign(service(5, 7, 8), 0.0)
    # 4 rests; nobody knows of 1 and 2, so they are free
    assert numbers(given) == {5: 3, 7: 1, 8: 2}
    assert numbers(slots.assign(service(5, 7, 8, 9), REST_S / 2)) == {5: 3, 7: 1, 8: 2, 9: 5}
    assert slots_of(given.backends) == {3: ("10.0.0.1", 5), 1: ("10.0.0.1", 7), 2: ("10.0.0.1", 8)}


def test_a_vip_that_comes_back_soon_finds_its_slots_resting() -> None:
    slots = Slots(10)
    slots.assign(service(1, 2), 0.0)
    slots.release(VIP, 1.0)
    slots.expire(2.0)
    assert numbers(slots.assign(service(2, 3), 2.0)) == {2: 2, 3: 3}
    slots.release(VIP, 3.0)
    slots.expire(3.0 + REST_S)
    assert numbers(slots.assign(service(9), 3.0 + REST_S)) == {9: 1}


@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 8)), st.sampled_from([0.0, 1.0, 30.0, 60.0, 61.0])),
        max_size=40,
    ),
    st.integers(1, 10),
    st.dictionaries(st.integers(0, 11), st.integers(1, 8), max_size=5),
)
def test_no_slot_is_shared_nor_given_away_while_it_rests(
    steps: list[tuple[set[int], float]], most: int, kernel: dict[int, int]
) -> None:
    slots, now = Slots(most), 0.0
    slots.adopt(VIP, {slot: ("10.0.0.1", port) for slot, port in kernel.items()})
    last: dict[int, int] = {}
    owner: dict[int, tuple[int, float]] = {}
    for ports, pause in steps:
        now += pause
        slots.expire(now)
        given = numbers(slots.assign(service(*ports), now))
        assert len(set(given.values())) == len(given)
        assert all(1 <= slot <= most for slot in given.values())
        for port, slot in given.items():
            assert last.get(port, slot) == slot
            former, at = owner.get(slot, (port, now))
            assert former == port or now - at >= REST_S
        for port, slot in last.items():
            if port not in given:
                owner[slot] = port, now
        for port, slot in given.items():
            owner[slot] = port, now
        assert len(given) + slots.left_out().get(VIP, 0) == len(ports)
        last = given
