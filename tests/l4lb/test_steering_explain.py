"""Steering: why a client gets its backend, without a change by the question."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.model import Vip
from cairn_l4lb.steering.explain import text as in_words
from cairn_l4lb.testing_steering import World, backend, container, service, text


def test_the_answer_says_what_would_be_and_why() -> None:
    world = World(service(2))
    answer = world.explain()
    assert answer.backend == text(world.open(world.flow()))
    assert answer.reasons[0] == (
        "10.0.0.1:80: open, reachable, weight 1, slot 1, 0 pending, latency unknown, "
        "0 failures in turn"
    )
    assert answer.reasons[2] == ("of those that are open and reachable: 10.0.0.1:80, 10.0.0.2:80")
    assert answer.reasons[3].startswith("p2c: 10.0.0.")
    assert answer.recent == []


def test_recent_decisions_have_their_reasons() -> None:
    world = World(service(2))
    flow = world.flow(client="10.9.0.7")
    first = world.open(flow)
    world.wait(1.0)
    second = world.open(flow)
    world.wait(0.5)
    recent = world.explain().recent
    assert [one[:3] for one in recent] == [
        ("10.9.0.7", text(second), f"repeated: {text(second)} after {text(first)}"),
        ("10.9.0.7", text(first), f"p2c: {text(first)} (0 pending) before {text(second)} "
         "(0 pending), which had no fewer connections"),
    ]  # fmt: skip
    assert [round(one[3], 1) for one in recent] == [0.5, 1.5]


def test_refusals_say_why() -> None:
    world = World(service(1))
    assert world.explain(vip=Vip("tcp", "11.9.9.9", 1)).reasons == ["tcp/11.9.9.9:1: no such VIP"]
    world.fail("10.0.0.1:80")
    world.open(world.flow())
    answer = world.explain()
    assert answer.backend is None
    assert "closed, a probe is under way" in answer.reasons[0]
    assert answer.reasons[-1] == "refused: all backends are closed"
    world.update(service(backends=[backend(1, weight=0)]))
    answer = world.explain()
    assert "takes no new connections" in answer.reasons[0]
    assert answer.reasons[-1] == "refused: no backend takes connections"


def test_each_rule_is_named() -> None:
    world = World(service(3, sticky_s=60.0, locality="host"), own_addresses=("10.0.0.2",))
    world.connect()
    answer = world.explain()
    assert answer.backend == "10.0.0.2:80"
    assert answer.reasons[-1] == "sticky: 10.0.0.2:80"
    assert any(line.startswith("locality: host") for line in answer.reasons)
    world = World(service(2, cost="peak-ewma"))
    world.fail("10.0.0.1:80")
    world.connect()
    assert any("closed for 3" in line and "400 ms" in line for line in world.explain().reasons)
    world.wait(40.0)
    assert world.explain().reasons[-1] == "probe: 10.0.0.1:80"


def test_the_kernels_choice_is_not_foretold() -> None:
    world = World(service(backends=[backend(1, weight=3), backend(2)], mode="kernel"))
    world.beats(0.5)
    answer = world.explain()
    assert answer.backend is None
    assert answer.reasons[-3:] == [
        "10.0.0.1:80: 96 of 128 shares",
        "10.0.0.2:80: 32 of 128 shares",
        "the kernel chooses, by these shares",
    ]


@pytest.mark.parametrize(
    "options", [{"policy": "source-hash"}, {"policy": "maglev"}, {"sticky_s": 9.0}]
)
def test_what_depends_on_the_client_is_not_said_without_one(options: dict[str, Any]) -> None:
    world = World(service(3, **options))
    for client in ("", "what", "fd00::1"):
        answer = world.explain(client)
        assert answer.backend is None
        assert answer.reasons[-1] == "depends on the client: give its address (--client)"
    assert world.explain("10.9.0.1").backend
    # and where the kernel cannot do it, it is said who does
    world = World(service(3, mode="kernel", **options))
    world.beats(0.5)
    answer = world.explain("10.9.0.1")
    assert answer.backend
    assert any(line.startswith("not by the kernel, though") for line in answer.reasons)


def test_a_container_gets_another_one_than_itself() -> None:
    world = World(service(backends=[container(1), container(2)], policy="round-robin"))
    assert {world.explain("10.0.0.1").backend for _ in range(9)} == {"10.0.0.2:80"}
    assert world.explain("10.0.0.1").reasons[-1].startswith("not itself: 10.0.0.2:80")


def test_bad_questions_are_answered() -> None:
    world = World(service(2))
    for client in ("", "what", "fd00::1", "10.0.0.1"):
        assert world.explain(client=client).backend


@given(
    st.sampled_from(["p2c", "least-latency", "round-robin", "random", "source-hash", "maglev"]),
    st.sampled_from(["pending", "peak-ewma"]),
    st.sampled_from([0.0, 30.0]),
    st.lists(
        st.tuples(st.sampled_from(["answer", "fail", "leave", "again"]), st.floats(0, 20)),
        max_size=60,
    ),
)
def test_questions_change_nothing_and_tell_the_truth(
    policy: str, cost: str, slow_start_s: float, steps: list[tuple[str, float]]
) -> None:
    options: dict[str, Any] = {"policy": policy, "cost": cost, "slow_start_s": slow_start_s}
    asked, left_alone = (World(service(3, **options), failure_limit=2) for _ in range(2))
    for number, (what, passed) in enumerate(steps):
        asked.explain(f"10.9.0.{number}")
        for world in (asked, left_alone):
            world.wait(passed)
        told = asked.explain(f"10.9.0.{number}").backend
        flows = [one.flow(client=f"10.9.0.{number}") for one in (asked, left_alone)]
        found = [one.syn(flow) for one, flow in zip((asked, left_alone), flows, strict=True)]
        assert found[0] == found[1]
        assert told == (None if found[0] is None else text(found[0]))
        for world, flow, decision in zip((asked, left_alone), flows, found, strict=True):
            if decision is None:
                continue
            if what == "answer":
                world.now += 0.001
                world.answer(flow, decision)
            elif what == "fail":
                world.end(flow, decision, answered=False)
            elif what == "again":
                world.wait(1.0)
                world.syn(flow)


def test_a_latency_that_faded_is_told_in_plain_figures() -> None:
    one, other = (
        cast(Any, SimpleNamespace(text=place)) for place in ("10.0.0.1:80", "10.0.0.2:80")
    )
    assert in_words(("p2c", one, other, 37.0, 2_345_678.0), "peak-ewma") == (
        "p2c: 10.0.0.1:80 (under 0.001 ms) before 10.0.0.2:80 (2.35 ms)"
    )
