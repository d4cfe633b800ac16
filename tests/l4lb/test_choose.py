"""Policies: shares by weight, nobody who is drained or closed, and clients that stay."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_l4lb.choose import (
    OPEN,
    OTHER,
    REACHABLE_OPEN,
    Pool,
    Rules,
    another,
    joined,
    picker,
    pool,
    seed,
    took,
)
from cairn_l4lb.members import Member, State
from cairn_l4lb.model import Backend, Locality, Policy

POLICIES: tuple[Policy, ...] = (
    "p2c", "least-latency", "round-robin", "random", "source-hash", "maglev",
)  # fmt: skip
NOW = 100.0


def member(
    number: int,
    weight: int = 1,
    *,
    closed: bool = False,
    reachable: bool = True,
    near: int = 2,
    since: float | None = None,
) -> Member:
    backend = Backend(f"10.0.0.{number}", 80, weight, reachable=reachable, slot=number)
    state = State("tcp", backend, NOW)
    one = Member(state, seed(state.text), since)
    one.configure(backend, near, "mark", 0.0)
    if closed:
        state.gate.failure(1, 30.0, NOW)
    return one


def made(members: list[Member], rules: Rules, now: float = NOW) -> Pool:
    found = pool(members, rules, 0.0, now)
    joined(found, None)
    return found


def picks(
    members: list[Member], rules: Rules, count: int, rng: Random | None = None, now: float = NOW
) -> Counter[str]:
    """Connections that are answered at once, each of a client of its own."""
    rng = rng or Random(1)
    source, pick = made(members, rules, now), picker(rules)
    found: Counter[str] = Counter()
    for number in range(count):
        reason = pick(source, number.to_bytes(4, "big"), rng, now)
        took(source, reason, now)
        found[reason[1].text] += 1
    return found


MEMBERS = st.lists(
    st.tuples(st.integers(0, 100), st.booleans(), st.booleans(), st.integers(0, 2)),
    min_size=1,
    max_size=30,
)


@given(
    MEMBERS,
    st.sampled_from(POLICIES),
    st.sampled_from(["pending", "peak-ewma"]),
    st.sampled_from(["none", "host", "zone"]),
    st.integers(0, 1 << 32),
)
def test_nobody_gets_what_a_better_one_could_have(
    drawn: list[tuple[int, bool, bool, int]],
    policy: Policy,
    cost: str,
    locality: Locality,
    number: int,
) -> None:
    members = [
        member(at + 1, weight, closed=closed, reachable=reachable, near=near)
        for at, (weight, closed, reachable, near) in enumerate(drawn)
    ]
    rules = Rules(policy, "pending" if cost == "pending" else "peak-ewma", locality)
    source = made(members, rules)
    takers = [one for one in members if one.weight]
    assert {*source.takers} == {*takers}
    if not takers:
        assert source.members == []
        return
    open_ = [one for one in takers if not one.state.gate.closed]
    best = [one for one in open_ if one.reachable] or open_ or takers
    if open_ and locality != "none":
        zone = [one for one in best if one.near <= 1] if locality == "zone" else []
        best = [one for one in best if one.near == 0] or zone or best
    assert {*source.members} == {*best}
    reachable_open = any(one.reachable for one in open_)
    assert source.kind == (REACHABLE_OPEN if reachable_open else OPEN if open_ else OTHER)
    rng = Random(number)
    for client in range(20):
        reason = picker(rules)(source, client.to_bytes(4, "big"), rng, NOW)
        assert reason[1] in best
        took(source, reason, NOW)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("weights", [[1] * 10, [1, 2, 3, 4], [1, 100], [50, 1, 1], [7]])
def test_shares_follow_weights(policy: Policy, weights: list[int]) -> None:
    members = [member(at + 1, weight) for at, weight in enumerate(weights)]
    count = 100_000 if policy in ("p2c", "random") else 20_000
    if policy == "least-latency":
        return  # it prefers who is quick, whatever the weight
    found = picks(members, Rules(policy), count)
    tolerance = {"p2c": 0.002, "round-robin": 0.001, "random": 0.01}.get(policy, 0.015)
    for one in members:
        expected = one.weight / sum(weights)
        assert found[one.text] / count == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("cost", ["pending", "peak-ewma"])
def test_equal_backends_are_even(cost: str) -> None:
    members = [member(at + 1) for at in range(10)]
    if cost == "peak-ewma":
        for one in members:
            one.state.ewma.observe(1e6, NOW)
    found = picks(members, Rules("p2c", "peak-ewma" if cost != "pending" else "pending"), 10_000)
    assert all(abs(count - 1000) <= 10 for count in found.values())


def test_of_two_the_one_with_fewer_pending() -> None:
    idle, busy = member(1), member(2)
    busy.state.pending = 3
    assert picks([idle, busy], Rules("p2c"), 100) == {idle.text: 100}
    heavy = member(3, weight=10)
    heavy.state.pending = 9
    light = member(4)
    light.state.pending = 1
    assert picks([heavy, light], Rules("p2c"), 100) == {heavy.text: 100}


def test_the_cheaper_one_never_loses_to_the_dearest() -> None:
    members = [member(at + 1) for at in range(10)]
    for at, one in enumerate(members):
        one.state.ewma.observe(1e6 * (at + 1), NOW)
    found = picks(members, Rules("p2c", "peak-ewma"), 10_000)
    assert found[members[9].text] == 0
    assert found[members[0].text] > found[members[5].text]


def test_a_backend_that_nothing_is_known_of_is_tried_once_at_a_time() -> None:
    members = [member(at + 1) for at in range(4)]
    for one in members[:3]:
        one.state.ewma.observe(1e6, NOW)
    rules = Rules("p2c", "peak-ewma")
    assert picks(members, rules, 100)[members[3].text] > 0
    members[3].state.pending = 1
    assert picks(members, rules, 100)[members[3].text] == 0


def test_who_was_slow_does_not_get_all_when_it_is_quick_again() -> None:
    quick, slow = member(1), member(2)
    rules = Rules("p2c")
    slow.state.pending = 1
    assert picks([quick, slow], rules, 1000) == {quick.text: 1000}
    slow.state.pending = 0
    source, rng = pool([quick, slow], rules, 0.0, NOW), Random(1)
    found: Counter[str] = Counter()
    for _ in range(100):
        reason = picker(rules)(source, b"", rng, NOW)
        took(source, reason, NOW)
        found[reason[1].text] += 1
    assert found[slow.text] <= 60


def test_a_newcomer_does_not_have_to_catch_up() -> None:
    members = [member(at + 1) for at in range(3)]
    rules = Rules("p2c")
    before = made(members[:2], rules)
    for one in members[:2]:
        one.served = 1000.0
    after = pool(members, rules, 0.0, NOW)
    joined(after, before)
    assert members[2].served == 1000.0


def test_least_latency_takes_the_quickest() -> None:
    members = [member(at + 1) for at in range(5)]
    for at, one in enumerate(members):
        one.state.ewma.observe(1e6 * (5 - at), NOW)
    assert picks(members, Rules("least-latency"), 50) == {members[4].text: 50}
    members[4].state.pending = 9
    assert picks(members, Rules("least-latency"), 50) == {members[3].text: 50}


def test_round_robin_spreads_the_heavy_one() -> None:
    members = [member(1, 5), member(2), member(3)]
    rules = Rules("round-robin")
    source = made(members, rules)
    order = []
    for _ in range(7):
        reason = picker(rules)(source, b"", Random(1), NOW)
        took(source, reason, NOW)
        order.append(reason[1].slot)
    assert Counter(order) == {1: 5, 2: 1, 3: 1}
    assert order[:3].count(1) >= 2
    assert order[4:].count(1) >= 2


@pytest.mark.parametrize("every", [1, 3, 7])
def test_a_round_goes_on_when_the_pool_is_made_again(every: int) -> None:
    members = [member(at + 1) for at in range(5)]
    rules = Rules("round-robin")
    source, found = made(members, rules), Counter[str]()
    for number in range(1000):
        if number % every == 0:
            before = source
            source = pool(members, rules, source.heap[0][0], NOW)
            joined(source, before)
        reason = picker(rules)(source, b"", Random(1), NOW)
        took(source, reason, NOW)
        found[reason[1].text] += 1
    assert set(found.values()) == {200}


@pytest.mark.parametrize("policy", ["source-hash", "maglev"])
@given(leaves=st.integers(0, 9), closes=st.booleans())
@settings(max_examples=20)
def test_only_clients_of_the_backend_that_leaves_move(
    policy: Policy, leaves: int, closes: bool
) -> None:
    members = [member(at + 1) for at in range(10)]
    rules = Rules(policy)
    clients = [number.to_bytes(4, "big") for number in range(500)]

    def homes(members: list[Member]) -> list[str]:
        source = made(members, rules)
        return [picker(rules)(source, client, Random(), NOW)[1].text for client in clients]

    before = homes(members)
    gone = members[leaves]
    if closes:
        gone.state.gate.failure(1, 30.0, NOW)
    else:
        members = [one for one in members if one is not gone]
    after = homes(members)
    assert gone.text not in after
    moved = sum(a != b for a, b in zip(before, after, strict=True) if a != gone.text)
    # Maglev moves a few more when its table is made for fewer
    assert moved <= (0 if closes or policy == "source-hash" else 100)


@pytest.mark.parametrize("policy", ["source-hash", "maglev"])
def test_every_host_agrees(policy: Policy) -> None:
    here = [member(at + 1) for at in range(7)]
    there = [member(at + 1) for at in reversed(range(7))]
    for client in range(200):
        rules, number = Rules(policy), client.to_bytes(16, "big")
        picked = [
            picker(rules)(made(members, rules), number, Random(), NOW)[1].text
            for members in (here, there)
        ]
        assert picked[0] == picked[1]


def test_slow_start_grows_to_the_full_share() -> None:
    rules = Rules("p2c", slow_start_s=60.0)
    for passed, expected in ((1.0, 0.05), (30.0, 0.5), (60.0, 1.0), (600.0, 1.0)):
        old, new = member(1), member(2, since=NOW)
        now = NOW + passed
        found = picks([old, new], rules, 10_000, now=now)
        ratio = found[new.text] / found[old.text]
        assert ratio == pytest.approx(expected, rel=0.05)
        assert (pool([old, new], rules, 0.0, now).wake < now + 5.0) == (passed < 60.0)


def test_a_due_one_is_probed_apart_from_the_others() -> None:
    up, down = member(1), member(2, closed=True)
    source = pool([up, down], Rules("p2c"), 0.0, NOW + 10.0)
    assert (source.members, source.probes, source.wake) == ([up], [], NOW + 30.0)
    source = pool([up, down], Rules("p2c"), 0.0, NOW + 30.0)
    assert (source.members, source.probes) == ([up], [down])
    # by hash its own clients probe it
    source = pool([up, down], Rules("maglev"), 0.0, NOW + 30.0)
    assert (source.members, source.probes) == ([up, down], [])
    assert source.wake > NOW + 30.0


@given(MEMBERS, st.integers(0, 1 << 32), st.sets(st.integers(0, 29)))
def test_another_one_was_not_tried_and_is_open(
    drawn: list[tuple[int, bool, bool, int]], number: int, had: set[int]
) -> None:
    members = [
        member(at + 1, weight, closed=closed, reachable=reachable, near=near)
        for at, (weight, closed, reachable, near) in enumerate(drawn)
    ]
    tried = [members[at] for at in had if at < len(members)]
    rules = Rules(locality="host")
    left = [one for one in members if one.weight and not one.state.gate.closed]
    left = [one for one in left if one not in tried]
    found = another(made(members, rules), tried, rules, Random(number), NOW)
    assert (found in left) if left else found is None


def test_draws_are_by_weight() -> None:
    members = [member(1, 10), member(2, 1), member(3, 1), member(4, 1)]
    found = picks(members, Rules("random"), 26_000)
    assert found[members[0].text] / 26_000 == pytest.approx(10 / 13, abs=0.01)
