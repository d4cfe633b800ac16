"""Who is asked, when, and whose answer counts; time is a number."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.proxy.race import HALF_LIFE_S, MAX_WAIT_S, MIN_WAIT_S, PROBE_S, Race, Servers

A, B, C, D = (("203.0.113.1", 53), ("203.0.113.2", 53), ("203.0.113.3", 53), ("203.0.113.4", 53))
GOOD = b"\0\0\x81\x80" + bytes(8)
SERVFAIL = b"\0\0\x81\x82" + bytes(8)
REFUSED = b"\0\0\x81\x85" + bytes(8)


def race(*servers: tuple[str, int], known: Servers | None = None, now: float = 0.0) -> Race:
    known = known or Servers()
    return Race([known.state(server) for server in servers], now)


def asked(one: Race, now: float) -> list[tuple[str, int]]:
    return [state.server for state in one.due(now)]


def test_the_first_server_alone_is_asked_first() -> None:
    one = race(A, B, C)
    assert asked(one, 0.0) == [A]
    assert asked(one, 0.1) == []


def test_a_second_server_is_asked_when_the_first_takes_longer_than_usual() -> None:
    known = Servers()
    known.state(A).replied(0.010, 0.0)
    one = race(A, B, C, known=known)
    assert asked(one, 0.0) == [A]
    assert MIN_WAIT_S <= one.wake_at() <= 0.035
    assert asked(one, one.wake_at()) == [B]
    wait = one.wake_at()
    assert wait <= 0.035 + MAX_WAIT_S
    assert asked(one, wait) == [C]


def test_the_next_is_asked_at_once_when_one_fails() -> None:
    one = race(A, B, C)
    one.due(0.0)
    one.failed(one.order[0], 0.001)
    assert asked(one, 0.001) == [B]


def test_the_first_good_answer_wins() -> None:
    one = race(A, B)
    one.due(0.0)
    one.due(0.3)
    one.replied(one.order[1], GOOD, 0.31)
    one.replied(one.order[0], GOOD + b"late", 0.32)
    assert one.over(0.31)
    assert one.answer == GOOD


def test_an_unwilling_answer_lets_the_others_go_on() -> None:
    one = race(A, B)
    one.due(0.0)
    one.replied(one.order[0], SERVFAIL, 0.01)
    assert not one.over(0.01)
    assert asked(one, 0.01) == [B]
    one.replied(one.order[1], GOOD, 0.02)
    assert one.answer == GOOD


def test_when_all_are_unwilling_that_is_the_answer() -> None:
    one = race(A, B)
    one.due(0.0)
    one.replied(one.order[0], REFUSED, 0.01)
    one.due(0.01)
    one.replied(one.order[1], SERVFAIL, 0.02)
    assert one.over(0.02)
    assert one.answer == SERVFAIL


def test_when_all_fail_there_is_no_answer() -> None:
    one = race(A)
    one.due(0.0)
    one.failed(one.order[0], 5.0)
    assert one.over(5.0)
    assert one.answer is None


def test_nobody_is_waited_for_longer_than_the_limit() -> None:
    one = race(A, B)
    now = 0.0
    while not one.over(now):
        one.due(now)
        now = one.wake_at()
    assert now == 10.0


def test_a_server_that_failed_comes_last_until_the_failure_is_old() -> None:
    known, rng = Servers(), Random(1)
    for server, latency_s in ((A, 0.001), (B, 0.008), (C, 0.064)):
        known.state(server).replied(latency_s, 0.0)
    order = [state.server for state in known.order([C, B, A], now=0.0, rng=rng)]
    assert order == [A, B, C]
    known.state(A).failed(0.0)
    order = [state.server for state in known.order([A, B, C], now=1.0, rng=rng)]
    assert order == [B, C, A]
    order = [state.server for state in known.order([A, B, C], now=2 * HALF_LIFE_S, rng=rng)]
    assert order == [A, B, C]


def test_servers_alike_take_turns() -> None:
    known, rng = Servers(), Random(2)
    firsts = {known.order([A, B, C], now=0.0, rng=rng)[0].server for _ in range(50)}
    assert firsts == {A, B, C}


def test_a_dead_server_is_probed_now_and_then_beside_a_live_one() -> None:
    known = Servers()
    known.state(A).replied(0.01, 0.0)
    known.state(B).failed(0.0)
    known.state(B).asked_at = 0.0
    early = race(A, B, known=known, now=1.0)
    assert asked(early, 1.0) == [A]
    late = race(A, B, known=known, now=PROBE_S)
    assert asked(late, PROBE_S) == [B, A]
    assert asked(race(A, B, known=known, now=PROBE_S + 1), PROBE_S + 1) == [A]


def test_servers_that_are_no_longer_configured_are_forgotten() -> None:
    known = Servers()
    known.state(A)
    known.keep([B])
    assert not known.states


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C, D]), st.sampled_from(["good", "bad", "silent"]),
                  st.floats(0, 3)),
        max_size=12,
    )
)  # fmt: skip
def test_every_race_ends_in_time_and_asks_each_server_once(
    events: list[tuple[tuple[str, int], str, float]],
) -> None:
    one, now, seen = race(A, B, C, D), 0.0, []
    for server, what, step in events:
        seen += asked(one, now)
        now += step
        state = next(state for state in one.order if state.server == server)
        if server not in one.open or what == "silent":
            continue
        if what == "good":
            one.replied(state, GOOD, now)
        else:
            one.failed(state, now)
    while not one.over(now):
        seen += asked(one, now)
        later = one.wake_at()
        assert later >= now or not one.over(now)
        now = max(later, now)
    assert len(seen) == len(set(seen))
    assert now <= max(10.0, sum(step for _, _, step in events))
