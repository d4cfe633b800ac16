"""Steering: what a SYN gets, and what its answer, silence or refusal means."""

from collections import Counter

import pytest

from cairn_l4lb.model import Options, Service, Vip
from cairn_l4lb.testing_steering import SEEN_REPLY, UDP, VIP, World, backend, service, source, text

VIP6 = Vip("tcp", "fd01:c::1", 80)
DNS = Vip("udp", "11.0.0.2", 53)


def test_a_syn_gets_a_backend_with_its_slot() -> None:
    world = World(service(backends=[backend(7)]))
    decision = world.open(world.flow())
    assert decision == (7, bytes([10, 0, 0, 7]), 80, False, "mark", 0.0)


def test_ipv6_and_udp() -> None:
    six = backend(1)
    six = type(six)("fd00::1", 8080, slot=3)
    world = World(
        service(vip=VIP6, backends=[six]), service(vip=DNS, backends=[backend(2, slot=5)])
    )
    decision = world.open(world.flow(vip=VIP6, client="fd00::99"))
    assert (decision.slot, decision.port, len(decision.address)) == (3, 8080, 16)
    assert world.open(world.flow(vip=DNS), protocol=UDP).slot == 5
    assert world.syn(world.flow(vip=DNS)) is None


def test_no_vip_no_backend() -> None:
    world = World(service(backends=[]), service(vip=DNS, backends=[backend(1, weight=0)]))
    assert world.syn(world.flow(vip=Vip("tcp", "11.9.9.9", 80))) is None
    assert world.syn(world.flow()) is None
    assert world.syn(world.flow(vip=DNS), protocol=UDP) is None
    world.report()
    assert world.counters["unknown_vip"] == 1
    assert world.counters["no_backend"] == 2
    assert world.vips[VIP].refused == 1


def test_a_backend_without_slot_cannot_be_marked() -> None:
    world = World(service(backends=[backend(1, slot=0), backend(2)]))
    assert {world.connect().slot for _ in range(20)} == {2}
    world = World(service(backends=[backend(1, slot=0)], mode="ctnetlink"))
    assert world.connect().mode == "ctnetlink"


def test_balance_over_ten() -> None:
    world = World(service(10))
    found = Counter(text(world.connect()) for _ in range(10_000))
    assert all(abs(count - 1000) <= 10 for count in found.values())


def test_an_answer_is_a_success_with_its_latency() -> None:
    world = World(service(1))
    world.connect(after=0.003)
    world.report()
    one = world.backends["10.0.0.1:80"]
    assert (one.picks, one.successes, one.failures, one.pending) == (1, 1, 0, 0)
    assert one.ewma_ns == pytest.approx(3e6)
    assert one.latency[5] == sum(one.latency) == 1
    assert one.latency_sum_s == pytest.approx(0.003)
    assert world.counters["observed_conns"] == world.counters["successes"] == 1
    assert world.counters["reachable_open_backend"] == 1


def test_silence_is_a_failure_after_the_threshold() -> None:
    world = World(service(1))
    flow = world.flow()
    decision = world.open(flow)
    world.wait(0.39)
    assert world.pending() == 1
    world.wait(0.02)
    assert world.pending() == 0
    assert world.backends["10.0.0.1:80"].failures == 1
    assert world.counters["timeouts"] == 1
    # an answer that comes late is one all the same
    world.answer(flow, decision)
    world.report()
    one = world.backends["10.0.0.1:80"]
    assert (one.successes, one.consecutive_failures, one.pending) == (1, 0, 0)


def test_the_end_of_an_unanswered_flow_is_a_failure_at_once() -> None:
    world = World(service(1))
    flow = world.flow()
    world.end(flow, world.open(flow), answered=False)
    world.report()
    assert (world.backends["10.0.0.1:80"].failures, world.pending()) == (1, 0)
    world.wait(1.0)
    world.report()
    assert world.backends["10.0.0.1:80"].failures == 1


def test_a_repeated_syn_goes_to_another_backend() -> None:
    world = World(service(3))
    flow = world.flow()
    first = world.open(flow)
    world.wait(1.0)
    second = world.open(flow)
    world.end(flow, first, answered=False)  # its entry was deleted, and that is no failure
    world.wait(2.0)
    third = world.open(flow)
    assert len({first.slot, second.slot, third.slot}) == 3
    assert (first.again, second.again, third.again) == (False, True, True)
    world.wait(4.0)
    assert world.open(flow) == third._replace(again=False)
    world.answer(flow, third)
    assert world.pending() == 0
    assert Counter(one.failures for one in world.backends.values()) == {1: 3}
    assert world.counters["failovers"] == world.vips[VIP].failovers == 2


def test_a_copy_of_a_syn_is_not_its_repetition() -> None:
    world = World(service(3))
    flow = world.flow()
    first = world.open(flow)
    world.now += 0.01
    assert world.open(flow) == first
    assert world.pending() == 1


def test_a_syn_that_crosses_its_answer_stays_where_it_is() -> None:
    world = World(service(3))
    flow = world.flow()
    first = world.open(flow)
    world.now += 0.9
    world.answer(flow, first)
    world.now += 0.1
    assert world.open(flow) == first
    assert world.pending() == 0


def test_ports_that_are_used_again() -> None:
    world = World(service(3))
    flow = world.flow()
    first = world.open(flow, seq=1)
    world.answer(flow, first)
    again = world.open(flow, seq=2)
    assert not again.again
    world.end(flow, first)  # of the connection before
    assert world.pending() == 1
    # the kernel still has an entry of the SYN that nobody answered
    after = world.open(flow, seq=3)
    assert after.again
    world.event(2, flow, again)
    assert world.pending() == 1
    world.answer(flow, after)
    assert world.pending() == 0
    assert sum(one.failures for one in world.backends.values()) == 0


def test_a_refusal_goes_to_another_backend() -> None:
    world = World(service(2))
    flow = world.flow()
    first = world.open(flow)
    second = world.steering.refused(flow, world.now)
    assert second is not None
    assert second.again
    assert second.slot != first.slot
    world.end(flow, first, answered=False)
    assert world.steering.refused(flow, world.now) is None
    assert world.pending() == 0
    assert Counter(one.failures for one in world.backends.values()) == {1: 2}
    assert world.counters["refusals"] == 2
    assert world.counters["retried_refusals"] == 1
    assert world.steering.refused(flow, world.now) is None


def test_a_refusal_whose_entry_ended_first() -> None:
    world = World(service(2))
    flow = world.flow()
    first = world.open(flow)
    world.end(flow, first, answered=False)
    second = world.steering.refused(flow, world.now)
    assert second is not None
    world.answer(flow, second)
    world.report()
    assert [world.backends[text(one)].failures for one in (first, second)] == [1, 0]


def test_refusals_are_the_clients_if_so_set() -> None:
    world = World(service(2), retry_refused=False)
    flow = world.flow()
    world.open(flow)
    assert world.steering.refused(flow, world.now) is None
    assert world.pending() == 0


def test_silence_is_usual_for_datagrams() -> None:
    world = World(service(2, vip=DNS))
    for _ in range(40):
        world.open(world.flow(vip=DNS), protocol=UDP)
        world.wait(1.0)
    flow = world.flow(vip=DNS)
    decision = world.open(flow, protocol=UDP)
    assert world.open(flow, protocol=UDP) == decision
    world.answer(flow, decision, UDP)
    assert world.pending() == 0
    assert sum(one.failures for one in world.backends.values()) == 0
    assert sum(one.successes for one in world.backends.values()) == 1


def test_a_client_sticks_to_its_backend() -> None:
    world = World(service(5, sticky_s=60.0))
    homes: dict[str, str] = {}
    for _ in range(20):
        for client in ("10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"):
            where = text(world.connect(world.flow(client=client)))
            assert homes.setdefault(client, where) == where
        world.now += 50.0
    assert len(set(homes.values())) > 1
    home = homes["10.9.0.1"]
    backends = [backend(n + 1, weight=int(f"10.0.0.{n + 1}:80" != home)) for n in range(5)]
    world.update(service(backends=backends, sticky_s=60.0))
    assert text(world.connect()) != home


def test_near_backends_come_first() -> None:
    backends = [
        backend(1, agent_address="10.1.0.1", zone="a"),
        backend(2, agent_address="10.1.0.2", zone="a"),
        backend(3, agent_address="10.1.0.3", zone="b"),
    ]
    world = World(own_addresses=("10.1.0.1",), zone="a")
    world.update(service(backends=backends, locality="host"))
    assert {world.connect().slot for _ in range(20)} == {1}
    world.update(service(backends=backends[1:], locality="zone"))
    assert {world.connect().slot for _ in range(20)} == {2}
    world.update(service(backends=backends[1:], locality="host"))
    assert {world.connect().slot for _ in range(20)} == {2, 3}
    world.fail("10.0.0.2:80")
    world.update(service(backends=backends[1:], locality="zone"))
    assert {world.connect().slot for _ in range(20)} == {3}


def test_a_hedge_goes_to_another_backend() -> None:
    world = World(service(2, hedge_ms=100.0))
    flow = world.flow()
    first = world.open(flow)
    assert first.hedge_s == 0.1
    [(hedged, second)] = world.wait(0.101)
    assert hedged == flow
    assert second.again
    assert second.slot != first.slot
    world.now += 0.002
    world.answer(flow, second)
    assert world.pending() == 0
    # the other one was quicker than the first had time
    assert world.backends[text(first)].failures == 1
    assert world.backends[text(second)].successes == 1
    assert world.counters["hedges"] == 1
    assert world.wait(5.0) == []


def test_a_slow_answer_to_a_hedge_blames_nobody() -> None:
    world = World(service(2, hedge_ms=100.0))
    flow = world.flow()
    world.open(flow)
    [(_, second)] = world.wait(0.101)
    world.wait(0.2)
    world.answer(flow, second)
    assert world.pending() == 0
    assert sum(one.failures for one in world.backends.values()) == 0


def test_hedges_are_few() -> None:
    world = World(service(2, hedge_ms=10.0), failure_limit=10_000)
    hedged = 0
    for _ in range(1000):
        world.open(world.flow())
        hedged += len(world.wait(0.02))
    assert 100 <= hedged <= 125


def test_a_lone_backend_is_not_hedged() -> None:
    world = World(service(1, hedge_ms=100.0))
    world.open(world.flow())
    assert world.wait(0.3) == []
    assert world.pending() == 1
    world.wait(0.2)
    assert world.pending() == 0


def test_the_kernel_chose() -> None:
    world = World(service(2))
    where = world.open(world.flow())
    flow = world.flow()
    world.begin(flow, where)
    world.now += 0.002
    world.answer(flow, where)
    lost = world.flow()
    world.begin(lost, where)
    world.wait(0.5)
    world.report()
    one = world.backends[text(where)]
    assert (one.successes, one.failures, one.pending) == (1, 2, 0)
    # the next connection between the ports of the one that had no answer
    world.wait(10.0)
    world.begin(lost, where)
    world.now += 0.002
    world.answer(lost, where)
    world.report()
    assert sum(world.backends[text(where)].latency[:6]) == 2
    # of what is unknown altogether an answer is a success, and an end without one says nothing:
    # the RST has told of it
    world.answer(world.flow(), where)
    world.end(world.flow(), where, answered=False)
    world.report()
    one = world.backends[text(where)]
    assert (one.successes, one.failures) == (3, 2)
    ended = world.flow()
    world.begin(ended, where)
    world.end(ended, where, answered=False)
    assert world.pending() == 0
    assert world.backends[text(where)].failures == 2
    world.steering.refusal(source(where.address, where.port), ended[:4], world.now)
    world.report()
    assert world.backends[text(where)].failures == 3


def test_the_end_of_what_the_kernel_gave_away_tells_where_refusals_do_not() -> None:
    world = World(service(1), retry_refused=False)
    where = world.open(world.flow())
    for flow in (world.flow(), world.flow()):
        world.begin(flow, where)
        world.end(flow, where, answered=False)
    world.end(world.flow(), where, answered=False)
    world.report()
    assert world.backends[text(where)].failures == 3


def test_flows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_l4lb.steering.core.MAX_FLOWS", 100)
    world = World(service(3))
    for _ in range(1000):
        world.open(world.flow())
    assert len(world.steering._flows) == 100
    assert world.pending() == 100
    assert world.counters["forgotten_flows"] == 900
    world.wait(131.0)
    assert len(world.steering._flows) == world.pending() == 0
    assert world.steering.due() is None


def test_nothing_that_arrives_raises() -> None:
    world = World(service(2))
    for protocol in (0, 6, 17, 132, 255):
        for flow in (b"", b"x", bytes(12), bytes(36), bytes(100)):
            assert world.steering.packet(protocol, flow, -5, world.now) is None
            for kind in (0, 1, 2, 9):
                world.steering.event(kind, protocol, flow, flow, 0xFFFFFFFF, world.now)
                world.steering.event(kind, protocol, flow, source(bytes(4), 0), 0, world.now)
            assert world.steering.refused(flow, world.now) is None


def test_a_vip_that_leaves_and_its_counts() -> None:
    world = World(service(2))
    flow = world.flow()
    decision = world.open(flow)
    world.update(gone=(VIP,))
    assert world.syn(world.flow()) is None
    world.answer(flow, decision)
    assert world.pending() == 0
    world.update(service(2))
    world.connect()
    world.report()
    assert world.vips[VIP].picks == 2
    assert sum(one.picks for one in world.backends.values()) == 2
    world.update(service(1, vip=DNS), whole=True)
    assert world.syn(world.flow()) is None


def test_options_before_settings() -> None:
    world = World(Service(VIP, "", (backend(1),), Options(mode="ctnetlink", hedge_ms=50.0)))
    decision = world.open(world.flow())
    assert (decision.mode, decision.hedge_s) == ("ctnetlink", 0.05)
    world = World(Service(VIP, "", (backend(1),), Options()), mode="ctnetlink", hedge_ms=20.0)
    decision = world.open(world.flow())
    assert (decision.mode, decision.hedge_s) == ("ctnetlink", 0.02)
    world.steering.configure(type(world.settings)(), world.now)
    decision = world.open(world.flow())
    assert (decision.mode, decision.hedge_s) == ("mark", 0.0)


def test_answers_by_status_only() -> None:
    world = World(service(1))
    flow = world.flow()
    decision = world.open(flow)
    world.event(1, flow, decision, status=0x8)
    assert world.pending() == 1
    world.event(1, flow, decision, status=0x8 | SEEN_REPLY)
    assert world.pending() == 0


def test_what_could_not_be_sent_is_nobodys_fault() -> None:
    world = World(service(2, hedge_ms=100.0))
    flow = world.flow()
    first = world.open(flow)
    assert world.wait(0.101)
    world.steering.unsent(flow)
    world.wait(1.0)
    assert world.pending() == 0
    assert sum(one.failures for one in world.backends.values()) == 0
    world.answer(flow, first)
    world.steering.unsent(flow)
    world.report()
    assert world.backends[text(first)].successes == 1


def test_each_try_has_the_whole_threshold() -> None:
    world = World(service(2))
    flow = world.flow()
    world.open(flow)
    world.wait(0.3)
    assert world.steering.refused(flow, world.now) is not None
    world.wait(0.2)
    assert world.pending() == 1
    world.wait(0.3)
    assert world.pending() == 0
    assert world.counters["timeouts"] == 1


def test_the_end_of_a_deleted_entry_is_not_the_new_connections() -> None:
    world = World(service(1))
    flow = world.flow()
    first = world.open(flow, seq=1)
    second = world.open(flow, seq=2)
    assert second.again
    world.end(flow, first, answered=False)
    assert world.pending() == 1
    world.end(flow, second, answered=False)
    assert world.pending() == 0
    assert world.backends["10.0.0.1:80"].failures == 1


def test_the_last_clients_stick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_l4lb.steering.sticky.MAX_STICKY", 10)
    monkeypatch.setattr("cairn_l4lb.steering.sticky.EVICTED", 2)
    others = [Vip("tcp", f"11.0.1.{n}", 80) for n in range(3)]
    world = World(service(2, sticky_s=60.0), *(service(2, vip=v, sticky_s=60.0) for v in others))
    sticky = world.steering._table.sticky
    for vip in others:
        world.connect(world.flow(vip=vip))
    for n in (*range(7), 0, *range(7, 10)):
        world.connect(world.flow(client=f"10.9.0.{n}"))
        assert len(sticky) <= 10
    # the busiest VIP gave way, and of its clients those that came long ago
    kept = world.steering._table.vips
    assert all(sticky.get(kept[one], bytes((10, 9, 0, 1)), world.now) for one in others)
    left = [n for n in range(10) if sticky.get(kept[VIP], bytes((10, 9, 0, n)), world.now)]
    assert left == [0, 5, 6, 7, 8, 9]


def test_clients_whose_time_is_over_leave() -> None:
    short = Vip("tcp", "11.0.0.7", 80)
    world = World(service(2, sticky_s=600.0), service(2, vip=short, sticky_s=10.0))
    for n in range(20):
        world.connect(world.flow(client=f"10.9.0.{n}", vip=short if n % 4 else VIP))
    assert len(world.steering._table.sticky) == 20
    world.beats(11.0)
    assert len(world.steering._table.sticky) == 5
    world.update(gone=(VIP,))
    assert len(world.steering._table.sticky) == 0


def test_a_syn_repeated_to_a_vip_that_is_a_new_one() -> None:
    world = World(service(1))
    flow = world.flow()
    world.open(flow)
    world.update(gone=(VIP,))
    world.update(service(backends=[backend(2)]))
    world.wait(1.0)
    decision = world.open(flow)
    assert (text(decision), decision.again) == ("10.0.0.2:80", True)
