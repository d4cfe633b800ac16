"""Labels `L4LB_...`: what they say, what is wrong with them, and what holds when tasks differ."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb.model import Options
from cairn_l4lb.options import MAX_LABELS, merge, read_options


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [
        ("L4LB_0_POLICY", "maglev", Options(policy="maglev")),
        ("L4LB_0_POLICY", " P2C ", Options(policy="p2c")),
        ("l4lb_0_policy", "random", Options(policy="random")),
        ("L4LB_POLICY", "round-robin", Options(policy="round-robin")),
        ("L4LB_0_COST", "peak-ewma", Options(cost="peak-ewma")),
        ("L4LB_0_MODE", "kernel", Options(mode="kernel")),
        ("L4LB_0_LOCALITY", "zone", Options(locality="zone")),
        ("L4LB_0_STICKY", "10mins", Options(sticky_s=600.0)),
        ("L4LB_0_STICKY", "0", Options(sticky_s=0.0)),
        ("L4LB_0_SLOW_START", "1.5secs", Options(slow_start_s=1.5)),
        ("L4LB_0_HEDGE_MS", "100", Options(hedge_ms=100.0)),
        ("L4LB_0_HEDGE_MS", "2.5", Options(hedge_ms=2.5)),
        ("L4LB_1_POLICY", "random", Options()),
    ],
)
def test_options_are_those_of_the_labels(key: str, value: str, options: Options) -> None:
    assert read_options([(key, value)], "0", ["0", "1"]) == (options, None, ())


def test_a_label_of_one_vip_wins_over_that_of_all() -> None:
    labels = [("L4LB_1_POLICY", "random"), ("L4LB_POLICY", "maglev"), ("L4LB_WEIGHT", "7")]
    assert read_options(labels, "0", ["0", "1"])[:2] == (Options(policy="maglev"), 7)
    assert read_options(labels, "1", ["0", "1"])[:2] == (Options(policy="random"), 7)


def test_other_labels_say_nothing() -> None:
    labels = [("VIP_0", "web:80"), ("network-scope", "host"), ("HAPROXY_GROUP", "external")]
    assert read_options(labels, "0", ["0"]) == (Options(), None, ())


def test_an_index_is_any_text() -> None:
    labels = [("L4LB_http_SLOW_START", "5secs")]
    assert read_options(labels, "HTTP", ["HTTP"])[0] == Options(slow_start_s=5.0)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("L4LB_0_POLICY", "best", "p2c, least-latency, round-robin, random, source-hash, maglev"),
        ("L4LB_0_COST", "", "pending, peak-ewma"),
        ("L4LB_0_STICKY", "10", "durations such as 10mins"),
        ("L4LB_0_STICKY", "-1secs", "durations such as 10mins"),
        ("L4LB_0_STICKY", "25hrs", "0 to 24hrs"),
        ("L4LB_0_HEDGE_MS", "nan", "milliseconds from 0 to 10000"),
        ("L4LB_0_HEDGE_MS", "1_0", "milliseconds from 0 to 10000"),
        ("L4LB_0_HEDGE_MS", "10001", "milliseconds from 0 to 10000"),
        ("L4LB_0_WEIGHT", "101", "whole numbers from 0 to 100"),
        ("L4LB_0_WEIGHT", "\u0663", "whole numbers from 0 to 100"),
        ("L4LB_0_WEIGHT", "1.5", "whole numbers from 0 to 100"),
        ("L4LB_7_WEIGHT", "1", "no VIP_7 at this port"),
        ("L4LB_0_COLOUR", "red", "no option; there are POLICY, COST"),
    ],
)
def test_a_wrong_label_is_reported_and_the_others_hold(key: str, value: str, reason: str) -> None:
    labels = [(key, value), ("L4LB_0_MODE", "mark")]
    read = read_options(labels, "0", ["0"])
    assert (read.options, read.weight) == (Options(mode="mark"), None)
    [problem] = read.problems
    assert repr(key) in problem
    assert reason in problem


def test_weights_are_0_to_100() -> None:
    for text, weight in [("0", 0), ("1", 1), ("100", 100), ("007", 7)]:
        assert read_options([("L4LB_0_WEIGHT", text)], "0", ["0"]).weight == weight


def test_labels_beyond_the_limit_are_not_read() -> None:
    labels = [("L4LB_0_MODE", "mark")] * MAX_LABELS + [("L4LB_0_WEIGHT", "5")]
    read = read_options(labels, "0", ["0"])
    assert (read.options, read.weight, len(read.problems)) == (Options(mode="mark"), None, 1)


@given(
    st.lists(st.tuples(st.text() | st.text().map(lambda x: "L4LB_" + x), st.text()), max_size=8),
    st.text(max_size=5),
)
def test_nothing_raises(labels: list[tuple[str, str]], index: str) -> None:
    read = read_options(labels, index, [index])
    assert all("\n" not in one for one in read.problems)


# -- of several tasks ------------------------------------------------------------------------------


def test_what_most_tasks_say_holds() -> None:
    old, new = Options(policy="random", sticky_s=60.0), Options(policy="maglev")
    assert merge([]) == (Options(), ())
    assert merge([old, old]) == (old, ())
    merged = merge([old, new, new])
    assert merged.options == Options(policy="maglev")
    assert merged.conflicts == (
        "tasks differ in policy: maglev (2), random (1); maglev holds",
        "tasks differ in sticky_s: nothing (2), 60.0 (1); nothing holds",
    )


def test_of_equally_many_a_told_value_holds_then_the_first_text() -> None:
    assert merge([Options(), Options(mode="mark")]).options == Options(mode="mark")
    told = [Options(policy="random"), Options(policy="maglev")]
    assert merge(told).options == Options(policy="maglev")


@given(
    st.lists(
        st.builds(
            Options,
            policy=st.sampled_from([None, "p2c", "maglev"]),
            sticky_s=st.sampled_from([None, 0.0, 60.0]),
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter(told: list[Options], rng: Random) -> None:
    shuffled = told[:]
    rng.shuffle(shuffled)
    assert merge(told) == merge(shuffled)
