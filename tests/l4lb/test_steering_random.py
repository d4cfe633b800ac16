"""Steering under any series of packets, events, updates and time: what always holds."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_l4lb.model import Vip
from cairn_l4lb.steering import Decision
from cairn_l4lb.steering.core import MAX_LOOKS
from cairn_l4lb.steering.flows import WAITING
from cairn_l4lb.testing_steering import TCP, UDP, World, backend, service, text

VIPS = (Vip("tcp", "11.0.0.1", 80), Vip("tcp", "11.0.0.2", 80), Vip("udp", "11.0.0.1", 80))
POLICIES = ("p2c", "least-latency", "round-robin", "random", "source-hash", "maglev")

BACKENDS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([0, 1, 1, 5]), st.booleans()),
    max_size=5,
    unique_by=lambda one: one[0],
)
SERVICES = st.tuples(
    st.sampled_from(VIPS),
    BACKENDS,
    st.sampled_from(POLICIES),
    st.sampled_from(["pending", "peak-ewma"]),
    st.sampled_from(["auto", "mark", "ctnetlink", "kernel"]),
    st.sampled_from([0.0, 10.0]),
    st.sampled_from([0.0, 10.0]),
    st.sampled_from([0.0, 50.0]),
)
STEPS = st.one_of(
    st.tuples(st.just("syn"), st.sampled_from(VIPS), st.integers(0, 5), st.integers(1, 2)),
    st.tuples(st.just("syn"), st.sampled_from(VIPS), st.integers(0, 5), st.integers(1, 2)),
    st.tuples(
        st.sampled_from(["answer", "end", "lose", "begin", "refuse", "hold", "drop"]),
        st.sampled_from(VIPS),
        st.integers(0, 5),
        st.integers(1, 6),
    ),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.2, 0.5, 1.0, 35.0, 140.0])),
    st.tuples(st.just("serve"), SERVICES),
    st.tuples(st.just("gone"), st.sampled_from(VIPS)),
    st.tuples(st.just("report")),
    st.tuples(st.just("explain"), st.sampled_from(VIPS)),
)


def served(drawn: Any) -> Any:
    vip, backends, policy, cost, mode, sticky_s, slow_start_s, hedge_ms = drawn
    listed = [backend(n, weight=w, reachable=r) for n, w, r in sorted(backends)]
    return service(
        vip=vip, backends=listed, policy=policy, cost=cost, mode=mode, sticky_s=sticky_s,
        slow_start_s=slow_start_s, hedge_ms=hedge_ms,
    )  # fmt: skip


class Watch:
    """A world, and what must hold after each step."""

    def __init__(self, refuse_closed: bool) -> None:
        self.world = World(refuse_closed=refuse_closed, promote_per_s=3.0, failure_limit=2)
        self.weights: dict[Vip, dict[str, int]] = {}
        self.last: dict[str, tuple[int, int, int]] = {}
        self.counters: dict[str, int] = {}

    def step(self, step: Any) -> None:
        world, what = self.world, step[0]
        if what == "serve":
            one = served(step[1])
            world.update(one)
            self.weights[one.vip] = {each.text: each.weight for each in one.backends}
        elif what == "gone":
            world.update(gone=(step[1],))
            self.weights.pop(step[1], None)
        elif what == "wait":
            for _, decision in world.wait(step[1]):
                assert decision.again
        elif what == "report":
            self.report()
        elif what == "explain":
            world.explain(vip=step[1])
        else:
            self.packet(*step)
        self.check()

    def packet(self, what: str, vip: Vip, number: int, which: int) -> None:
        world = self.world
        protocol = TCP if vip.protocol == "tcp" else UDP
        flow = world.flow(number, vip)
        known = world.steering._flows.of(protocol).get(flow)
        if what == "syn":
            gates = {
                each.key[1]: each.gate for each in world.steering._table.sources[protocol].values()
            }
            closed = {f"{address}:80" for address, gate in gates.items() if gate.closed}
            decision = world.syn(flow, which, protocol)
            if decision is not None and world.steering._flows.of(protocol).get(flow) is not known:
                self.new(vip, decision, closed)
            return
        if what == "drop":
            world.dropped ^= {flow}
            return
        if what in ("refuse", "hold"):
            decision = world.steering.refused(flow, world.now, what == "refuse")
            assert decision is None or decision.again
            return
        # of the backend that it has, or of any other
        where = Decision(0, bytes([10, 0, 0, which]), 80, False, "", 0.0)
        if known is not None and which > 2:
            where = known.member.decision
        if what == "answer":
            world.answer(flow, where, protocol)
        elif what == "begin":
            world.event(0, flow, where, 0, protocol)
        else:
            world.event(2, flow, where, 2 if what == "end" else 0, protocol)

    def new(self, vip: Vip, decision: Decision, closed: set[str]) -> None:
        weights = self.weights[vip]
        assert weights[text(decision)] > 0
        if text(decision) in closed:
            # a probe, or there is no open one
            state = self.world.steering._table.sources[TCP if vip.protocol == "tcp" else UDP]
            gate = state[decision.address + decision.port.to_bytes(2, "big")].gate
            assert gate.probing or all(name in closed for name, weight in weights.items() if weight)

    def check(self) -> None:
        flows = self.world.steering._flows
        waiting: dict[int, int] = {}
        assert self.world.steering._looks <= MAX_LOOKS
        for flow in (*flows.tcp.values(), *flows.udp.values()):
            if flow.stage == WAITING:
                at = id(flow.member.state)
                waiting[at] = waiting.get(at, 0) + 1
        table = self.world.steering._table
        for by_source in table.sources.values():
            for state in by_source.values():
                assert state.pending == waiting.get(id(state), 0)

    def report(self) -> None:
        report = self.world.report()
        for one in report.backends:
            now = (one.picks, one.successes, one.failures)
            key = str(one.backend)
            assert all(a >= b for a, b in zip(now, self.last.get(key, now), strict=True))
            assert one.pending >= 0
            assert sum(one.latency) <= one.successes
            self.last[key] = now
        for name, count in self.counters.items():
            assert report.counters[name] >= count
        self.counters = report.counters


@given(st.booleans(), st.lists(STEPS, max_size=80))
@settings(max_examples=300, deadline=None)
def test_invariants_hold_after_each_step(refuse_closed: bool, steps: list[Any]) -> None:
    watch = Watch(refuse_closed)
    watch.step(
        ("serve", (VIPS[0], [(1, 1, True), (2, 1, True)], "p2c", "pending", "auto", 0.0, 0.0, 0.0))
    )
    for step in steps:
        watch.step(step)
    # when nothing comes any more nothing waits and nothing is kept
    watch.step(("wait", 300.0))
    watch.report()
    assert watch.world.pending() == 0
    assert len(watch.world.steering._flows) == 0
    assert watch.world.steering.due() is None


def test_reports_add_up() -> None:
    world = World(service(3))
    for number in range(300):
        flow = world.flow()
        decision = world.open(flow)
        if number % 7:
            world.answer(flow, decision)
        if number % 50 == 0:
            world.report()
    world.wait(1.0)
    world.report()
    every = world.backends.values()
    assert sum(one.picks for one in every) == world.counters["observed_conns"] == 300
    assert sum(one.successes for one in every) == world.counters["successes"]
    assert sum(one.failures for one in every) == world.counters["timeouts"]
    assert sum(one.successes + one.failures for one in every) == 300
    assert world.vips[VIPS[0]].picks == 300
