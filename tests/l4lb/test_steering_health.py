"""Steering: backends that close, are probed, and come back; VIPs with none that is open."""

from collections import Counter

import pytest

from cairn_l4lb.members import REFUSE
from cairn_l4lb.model import Vip
from cairn_l4lb.testing_steering import VIP, World, backend, container, service, text

ONE, TWO = "10.0.0.1:80", "10.0.0.2:80"
OTHER_VIP = Vip("tcp", "11.0.0.9", 80)


def places(world: World, count: int = 50) -> Counter[str]:
    """Where so many connections go that are answered."""
    return Counter(text(world.connect()) for _ in range(count))


def test_failures_in_turn_close_a_backend() -> None:
    world = World(service(2))
    world.fail(ONE, 4)
    assert ONE in places(world)  # and the answer opens the count again
    world.fail(ONE, 4)
    assert not world.steering.urgent
    world.fail(ONE, 1)
    assert world.steering.urgent
    world.report()
    assert not world.steering.urgent
    assert (world.backends[ONE].open, world.backends[TWO].open) == (False, True)
    assert 30.0 <= world.backends[ONE].closed_for_s <= 37.5
    assert places(world) == {TWO: 50}


def test_after_the_backoff_one_connection_probes_it() -> None:
    world = World(service(2))
    world.fail(ONE)
    world.wait(38.0)
    flow = world.flow()
    probe = world.open(flow)
    assert text(probe) == ONE
    assert places(world) == {TWO: 50}
    world.wait(0.5)
    assert places(world) == {TWO: 50}
    world.wait(29.0)
    assert places(world) == {TWO: 50}
    world.wait(9.0)
    assert text(world.connect()) == ONE
    assert world.steering.urgent
    assert set(places(world)) == {ONE, TWO}
    world.report()
    assert world.backends[ONE].open
    assert world.counters["probes"] == 2


def test_a_failed_probe_fails_over_like_any_other() -> None:
    world = World(service(2))
    world.fail(ONE)
    world.wait(38.0)
    flow = world.flow()
    assert text(world.open(flow)) == ONE
    decision = world.steering.refused(flow, world.now)
    assert decision is not None
    assert text(decision) == TWO


def test_a_probe_nobody_heard_of_is_repeated() -> None:
    world = World(service(2))
    world.fail(ONE)
    world.wait(38.0)
    flow = world.flow()
    assert text(world.open(flow)) == ONE
    world.steering._flows.forget(world.steering._flows.tcp[flow])
    world.steering._flows.waiting.clear()
    world.wait(29.9)
    assert places(world, 5) == {TWO: 5}
    world.wait(0.2)
    assert text(world.open(world.flow())) == ONE


def test_with_all_closed_it_is_refused_but_for_probes() -> None:
    world = World(service(2))
    for _ in range(10):
        world.end(*(lambda flow: (flow, world.open(flow)))(world.flow()), answered=False)
    first = [world.syn(world.flow()) for _ in range(20)]
    assert sum(one is not None for one in first) == 2
    probes = 0
    for _ in range(100):  # ten seconds
        world.wait(0.1)
        probes += world.syn(world.flow()) is not None
    assert 16 <= probes <= 22
    world.wait(1.1)
    assert world.connect()
    assert world.syn(world.flow()) is not None
    world.report()
    assert world.vips[VIP].refused >= 78


def test_with_all_closed_one_of_them_is_tried_if_so_set() -> None:
    world = World(service(2), refuse_closed=False)
    for _ in range(40):
        flow = world.flow()
        world.end(flow, world.open(flow), answered=False)
    world.report()
    assert not any(one.open for one in world.backends.values())
    assert world.counters["other_backend"] > 0
    assert world.counters["no_backend"] == 0


def test_unreachable_ones_come_second() -> None:
    world = World(service(backends=[backend(1, reachable=False), backend(2), backend(3)]))
    assert set(places(world)) == {TWO, "10.0.0.3:80"}
    world.fail(TWO)
    world.fail("10.0.0.3:80")
    assert places(world, 1) == {ONE: 1}
    world.report()
    assert world.counters["open_backend"] > 0


def test_drained_ones_get_nothing_new() -> None:
    world = World(service(2))
    flow = world.flow()
    decision = world.open(flow)
    drained = [backend(1, weight=0), backend(2)]
    world.update(service(backends=drained))
    assert places(world) == {TWO: 50}
    world.answer(flow, decision)
    world.update(service(2))
    assert set(places(world)) == {ONE, TWO}


def test_a_backend_is_closed_in_all_vips_and_stays_so() -> None:
    world = World(service(2), service(2, vip=OTHER_VIP))
    world.fail(ONE)
    for _ in range(20):
        assert text(world.connect(world.flow(vip=OTHER_VIP))) == TWO
    # another table does not change what is known of a backend that stays
    world.update(service(3, vip=OTHER_VIP), gone=(VIP,))
    assert ONE not in {text(world.connect(world.flow(vip=OTHER_VIP))) for _ in range(20)}
    # nor does it move to another VIP
    world.update(service(1, vip=VIP), gone=(OTHER_VIP,))
    world.report()
    assert not world.backends[ONE].open
    # one that left and comes back is another one
    world.update(gone=(VIP,))
    world.update(service(2))
    world.report()
    assert world.backends[ONE].open
    assert world.backends[ONE].failures == 5
    assert world.backends[ONE].ewma_ns == 0.0
    assert ONE in places(world)


def test_failures_of_a_backend_that_left_do_not_close_it() -> None:
    world = World(service(1))
    flows = [world.flow() for _ in range(10)]
    decisions = [world.open(flow) for flow in flows]
    world.update(service(backends=[backend(2)]))
    for flow, decision in zip(flows, decisions, strict=True):
        world.end(flow, decision, answered=False)
    world.report()
    assert world.backends[ONE].open
    assert world.pending() == 0


def test_who_comes_back_starts_slowly() -> None:
    world = World(service(2, slow_start_s=60.0))
    assert abs(places(world)[ONE] - 25) <= 2
    world.fail(ONE)
    world.wait(38.0)
    assert text(world.connect(after=0.0)) == ONE
    found = Counter(text(world.connect(after=0.0)) for _ in range(200))
    assert found[ONE] < 20
    world.wait(61.0)
    assert abs(places(world, 200)[ONE] - 100) <= 10


def test_a_newcomer_starts_slowly() -> None:
    world = World(service(2, slow_start_s=60.0))
    world.update(service(3, slow_start_s=60.0))
    found = Counter(text(world.connect(after=0.0)) for _ in range(200))
    assert found["10.0.0.3:80"] < 20


def test_clients_of_a_closed_backend_move_and_return() -> None:
    world = World(service(4, policy="maglev"))

    def homes() -> list[str]:
        return [text(world.connect(world.flow(client=f"10.9.1.{n}"))) for n in range(60)]

    before = homes()
    while world.steering.report(world.now) is not None:
        flow = world.flow(client="10.9.1.0")
        decision = world.open(flow)
        if text(decision) != before[0]:
            world.answer(flow, decision)
            break
        world.end(flow, decision, answered=False)
    after = homes()
    assert before[0] not in after
    assert all(old in (new, before[0]) for old, new in zip(before, after, strict=True))
    world.wait(40.0)
    assert homes()[1:] == before[1:]


def test_a_near_one_that_is_closed_is_probed_and_the_far_ones_serve() -> None:
    backends = [backend(1, agent_address="10.1.0.1"), backend(2)]
    world = World(service(backends=backends, locality="host"), own_addresses=("10.1.0.1",))
    assert places(world) == {ONE: 50}
    world.fail(ONE)
    assert places(world) == {TWO: 50}
    world.wait(38.0)
    assert text(world.open(world.flow())) == ONE
    assert places(world) == {TWO: 50}
    world.wait(38.0)
    assert places(world) == {ONE: 50}


def test_each_closed_backend_is_probed_in_its_own_time() -> None:
    world = World(service(2))
    for _ in range(10):
        flow = world.flow()
        world.end(flow, world.open(flow), answered=False)
    first = world.open(world.flow())
    world.wait(0.5)
    second = world.open(world.flow())
    assert text(second) != text(first)
    world.wait(0.45)
    assert world.syn(world.flow()) is None
    world.wait(0.1)
    assert text(world.open(world.flow())) == text(first)
    assert world.syn(world.flow()) is None


def test_who_probed_in_vain_is_refused_when_it_asks_again() -> None:
    world = World(service(2))
    world.fail("10.0.0.1:80")
    world.fail("10.0.0.2:80")
    flow = world.flow()
    world.open(flow)  # a spare probe
    world.wait(1.0)
    assert world.open(flow) == REFUSE
    assert (world.pending(), world.vips[VIP].refused) == (0, 1)
    # whoever does not hear of it is told again
    world.wait(2.0)
    assert world.open(flow) == REFUSE
    # and has a backend as soon as there is one
    world.wait(37.0)
    world.connect()
    assert world.open(flow).slot


def test_without_backends_a_waiting_client_is_refused_too() -> None:
    world = World(service(1))
    flow = world.flow()
    world.open(flow)
    world.update(service(backends=[]))
    world.wait(1.0)
    assert world.open(flow) == REFUSE


def test_whoever_shall_not_be_refused_keeps_trying() -> None:
    world = World(service(1), refuse_closed=False)
    world.fail("10.0.0.1:80")
    flow = world.flow()
    first = world.open(flow)
    world.wait(1.0)
    assert world.open(flow) == first


def test_a_container_that_cannot_reach_itself_closes_nothing() -> None:
    world = World(service(backends=[container(1)]))
    for number in range(8):
        flow = world.flow(client="10.0.0.1")
        where = world.open(flow)  # there is no other, and its network may be a good one
        if number % 2:
            world.end(flow, where, answered=False)
        else:
            world.wait(0.5)
    # one that nobody knows any more
    world.end(world.flow(client="10.0.0.1"), where, answered=False)
    assert world.pending() == 0
    assert (world.backends[ONE].failures, world.backends[ONE].open) == (0, True)
    world.fail(ONE)
    world.report()
    assert not world.backends[ONE].open
    # nor does it probe: whoever comes from elsewhere does
    world.wait(40.0)
    assert world.syn(world.flow(client="10.0.0.1")) is None
    world.connect()
    world.report()
    assert world.backends[ONE].open


@pytest.mark.parametrize("policy", ["p2c", "round-robin", "source-hash", "maglev"])
def test_a_container_gets_another_one_than_itself(policy: str) -> None:
    members = [container(1), container(2), container(3, reachable=False)]
    world = World(service(backends=members, policy=policy))
    for _ in range(50):
        assert text(world.connect(world.flow(client="10.0.0.1"))) == TWO
    # only as long as there is one
    world.update(service(backends=[members[0], members[2]], policy=policy))
    assert text(world.connect(world.flow(client="10.0.0.1"))) == ONE


def test_a_host_reaches_itself() -> None:
    world = World(service(backends=[backend(1, agent_address="10.0.0.1"), container(2)]))
    found = {text(world.connect(world.flow(client="10.0.0.1"))) for _ in range(9)}
    assert found == {ONE, TWO}
    world = World(service(backends=[backend(1, agent_address="10.0.0.1")]))
    flow = world.flow(client="10.0.0.1")
    world.end(flow, world.open(flow), answered=False)
    world.report()
    assert world.backends[ONE].failures == 1


def test_whose_syn_never_left_the_host_closes_nothing() -> None:
    world = World(service(2))
    for number in range(40):
        flow = world.flow(client="10.9.0.66")
        world.dropped.add(flow)
        first = world.open(flow)
        world.wait(1.0)
        if number % 2:  # and the client tries once more: there may be a way to the other one
            second = world.open(flow)
            assert second.again
            assert second.slot != first.slot
            world.wait(1.0)
    assert world.pending() == 0
    assert all((one.open, one.failures) == (True, 0) for one in world.backends.values())
    assert world.counters["unblamed"] == 60
    assert world.counters["timeouts"] == 0


def test_a_repetition_that_comes_first_is_looked_at_likewise() -> None:
    world = World(service(2))
    for _ in range(20):
        flow = world.flow()
        world.dropped.add(flow)
        world.open(flow)
        world.wait(0.2)
        world.open(flow)
    assert world.pending() <= 4
    assert not any(one.failures for one in world.backends.values())


def test_the_kernel_is_not_asked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_l4lb.steering.core.MAX_LOOKS", 10)
    world = World(service(2), failure_limit=1000)
    for _ in range(100):
        world.open(world.flow())
    world.now += 1.0
    world.steering.tick(world.now)
    world.report()
    assert world.looks == 10
    assert sum(one.failures for one in world.backends.values()) == 10
    assert world.counters["unblamed"] == 90
    assert world.pending() == 0


def test_a_probe_that_never_left_the_host_is_followed_by_another() -> None:
    world = World(service(2))
    world.fail(ONE)
    world.wait(38.0)
    flow = world.flow()
    world.dropped.add(flow)
    assert text(world.open(flow)) == ONE
    assert places(world, 5) == {TWO: 5}
    world.wait(0.5)
    assert text(world.connect()) == ONE
    world.report()
    assert world.backends[ONE].open


def test_whose_syn_never_left_the_host_is_not_hedged() -> None:
    world = World(service(2, hedge_ms=100.0))
    flow = world.flow()
    world.dropped.add(flow)
    world.open(flow)
    assert world.wait(5.0) == []
    assert world.pending() == 0
    assert not any(one.failures for one in world.backends.values())
