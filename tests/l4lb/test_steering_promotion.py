"""Steering: VIPs that the kernel serves, by shares that follow health, weights and cost."""

from collections import Counter
from typing import Any

import pytest

from cairn_l4lb.steering.promotion import SAMPLE
from cairn_l4lb.testing_steering import VIP, World, backend, service, text


def load(world: World, per_second: int, seconds: float) -> None:
    """Connections at a rate, seen by user space, with a report every 0.25 s."""
    for _ in range(int(seconds * 4)):
        for _ in range(per_second // 4):
            world.connect(after=0.0)
        world.wait(0.25)
        world.report()


def test_a_hot_vip_is_left_to_the_kernel_until_it_is_cold() -> None:
    world = World(service(4), promote_per_s=400.0)
    load(world, 200, 5)
    assert world.vips[VIP].slots == ()
    assert world.vips[VIP].rate == pytest.approx(200, rel=0.05)
    load(world, 800, 2)
    slots = world.vips[VIP].slots
    assert Counter(slots) == {1: 32, 2: 32, 3: 32, 4: 32}
    # it tells of each; half the limit keeps it promoted
    assert not world.vips[VIP].sampled
    told(world, 300, 15.0)
    assert world.vips[VIP].slots
    assert world.vips[VIP].rate == pytest.approx(300, rel=0.1)
    world.beats(9.0)
    assert world.vips[VIP].slots
    world.beats(3.0)
    assert world.vips[VIP].slots == ()
    assert world.counters["promoted"] == 1


def test_only_of_a_busy_vip_a_sample_stands_for_all() -> None:
    world = World(service(1, mode="kernel"))
    world.beats(0.5)
    told(world, 600, 5.0)
    assert (world.vips[VIP].sampled, world.vips[VIP].picks) == (False, 3000)
    told(world, 2000, 2.0)
    assert world.vips[VIP].sampled
    before, picks = world.backends["10.0.0.1:80"], world.vips[VIP].picks
    told(world, 640 // SAMPLE, 10.0)
    one = world.backends["10.0.0.1:80"]
    assert world.vips[VIP].picks - picks == one.picks - before.picks == 6400
    assert one.successes - before.successes == 6400
    assert sum(one.latency) - sum(before.latency) == 6400
    assert world.vips[VIP].rate == pytest.approx(640, rel=0.1)
    told(world, 400 // SAMPLE, 5.0)
    assert not world.vips[VIP].sampled


def test_a_dead_backend_of_the_kernels_is_closed_after_its_first_failures() -> None:
    world = World(service(3, mode="kernel"))
    world.beats(0.5)
    dead, *others = [one.decision for one in world.steering._table.vips[VIP].members]
    for n in range(15):  # one a second, each third of them dropped
        flow, where = world.flow(), (dead, *others)[n % 3]
        world.begin(flow, where)
        if where is not dead:
            world.answer(flow, where)
        world.beats(1.0)
    assert not world.backends[text(dead)].open
    assert set(world.vips[VIP].slots) == {2, 3}


def told(world: World, per_second: int, seconds: float) -> None:
    """The kernel tells of answered connections at a rate."""
    where = world.steering._table.vips[VIP].members[0].decision
    for _ in range(int(seconds * 4)):
        for _ in range(per_second // 4):
            flow = world.flow()
            world.begin(flow, where)
            world.now += 1e-6
            world.answer(flow, where)
        world.wait(0.25)
        world.report()


def test_who_is_closed_or_drained_has_no_share() -> None:
    world = World(service(3, mode="kernel"))
    world.beats(0.5)
    assert set(world.vips[VIP].slots) == {1, 2, 3}
    world.fail("10.0.0.2:80")
    assert world.steering.urgent
    world.report()
    before = world.vips[VIP].slots
    assert set(before) == {1, 3}
    # with many connections one share probes it when its backoff is over
    world.beats(36.0)
    told(world, 4000, 2.0)
    assert Counter(world.vips[VIP].slots)[2] == 1
    flow, where = world.flow(), world.steering._table.vips[VIP].members[1].decision
    world.begin(flow, where)
    world.answer(flow, where)
    world.report()
    assert Counter(world.vips[VIP].slots)[2] >= 42
    world.update(service(backends=[backend(1), backend(2, weight=0), backend(3)], mode="kernel"))
    world.beats(0.5)
    assert set(world.vips[VIP].slots) == {1, 3}


def test_with_few_connections_user_space_probes_so_that_none_is_lost() -> None:
    world = World(service(3, mode="kernel"))
    world.beats(0.5)
    world.fail("10.0.0.2:80")
    world.report()
    assert set(world.vips[VIP].slots) == {1, 3}
    world.beats(38.0)
    assert world.vips[VIP].slots == ()
    flow = world.flow()
    assert text(world.open(flow)) == "10.0.0.2:80"
    world.beats(1.0)
    # it is there still when the client asks again
    assert world.vips[VIP].slots == ()
    assert text(world.open(flow)) != "10.0.0.2:80"
    world.beats(4.0)
    assert set(world.vips[VIP].slots) == {1, 3}


def test_with_all_closed_user_space_refuses_and_probes() -> None:
    world = World(service(2, mode="kernel"))
    world.beats(0.5)
    for _ in range(10):
        flow = world.flow()
        world.end(flow, world.open(flow), answered=False)
    world.report()
    assert world.vips[VIP].slots == ()
    world.beats(38.0)
    assert world.vips[VIP].slots == ()
    world.connect()
    world.report()
    # the other one's backoff is over too
    assert world.vips[VIP].slots == ()
    world.connect()
    world.beats(5.0)
    assert set(world.vips[VIP].slots) == {1, 2}


def test_shares_follow_weights_and_cost() -> None:
    backends = [backend(1, weight=3), backend(2), backend(3)]
    world = World(service(backends=backends, mode="kernel", cost="peak-ewma"))
    world.beats(0.5)
    assert Counter(world.vips[VIP].slots) == {1: 77, 2: 26, 3: 25}
    flows = [(world.flow(), one.decision) for one in world.steering._table.vips[VIP].members]
    for _ in range(40):
        for flow, where in flows:
            world.begin(flow, where)
        world.wait(0.003)
        for flow, where in flows[:2]:
            world.answer(flow, where)
        world.wait(0.04)
        world.answer(*flows[2])
        world.beats(0.25)
    shares = Counter(world.vips[VIP].slots)
    assert shares[3] < 18
    assert shares[1] > 77


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "maglev"},
        {"policy": "source-hash"},
        {"sticky_s": 5.0},
        {"locality": "host"},
        {"mode": "mark"},
        {"policy": "source-hash", "mode": "kernel"},
        {"sticky_s": 5.0, "mode": "kernel"},
        {"locality": "host", "mode": "kernel"},
    ],
)
def test_what_weights_cannot_say_stays_in_user_space(options: dict[str, Any]) -> None:
    world = World(service(3, **options), promote_per_s=100.0)
    load(world, 400, 3)
    assert world.vips[VIP].slots == ()


def test_a_vip_that_is_gone_is_not_the_kernels() -> None:
    world = World(service(3, mode="kernel"))
    world.beats(0.5)
    assert world.vips[VIP].slots
    world.update(gone=(VIP,))
    world.report()
    assert world.vips[VIP].slots == ()


def test_idle_vips_cost_nothing() -> None:
    world = World(service(3))
    world.connect()
    world.beats(30.0)
    report = world.report()
    assert report.backends == []
    assert report.vips == []
    assert not world.steering._table.busy


def test_what_the_kernel_does_not_tell_of_is_no_failure() -> None:
    world = World(service(2), promote_per_s=400.0)
    load(world, 2000, 2)
    # on their way through user space when the kernel took over: no events
    for _ in range(100):
        world.open(world.flow())
    world.wait(0.5)
    assert world.pending() == 0
    assert all(one.open and not one.failures for one in world.backends.values())
    # of what the kernel tells that it began, it tells the end as well
    where = world.open(world.flow())
    for _ in range(5):
        world.begin(world.flow(), where)
    world.wait(0.5)
    world.report()
    assert not world.backends[text(where)].open
    # and when user space takes over again
    world.beats(14.0)
    assert world.vips[VIP].slots == ()


def test_silence_counts_again_after_the_kernel_gave_it_back() -> None:
    world = World(service(1, mode="kernel"))
    world.beats(0.5)
    told(world, 2000, 2.0)
    assert world.vips[VIP].sampled
    world.update(service(1, mode="mark"))
    world.beats(0.25)
    assert world.vips[VIP].slots == ()
    world.open(world.flow())
    world.wait(2.0)
    assert world.pending() == 0
    assert world.backends["10.0.0.1:80"].failures == 0
    world.open(world.flow())
    world.wait(0.5)
    world.report()
    assert world.backends["10.0.0.1:80"].failures == 1
