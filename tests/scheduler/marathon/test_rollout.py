"""Rolling restarts, scaling, launch delays."""

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn_scheduler.marathon.app import App, Residency, UpgradeStrategy
from cairn_scheduler.marathon.backoff import Backoff
from cairn_scheduler.marathon.conditions import Condition, Goal
from cairn_scheduler.marathon.instances import Agent, Instance, Task
from cairn_scheduler.marathon.rollout import Member, Moves, bounds, ignition, moves
from cairn_scheduler.marathon.scaling import Proposition, propose


def app(n: int, least: float, over: float, *, resident: bool = False) -> App:
    """An app with an upgrade strategy."""
    return App(
        id="/a",
        instances=n,
        upgrade_strategy=UpgradeStrategy(minimum_health_capacity=least, maximum_over_capacity=over),
        residency=Residency() if resident else None,
    )


@pytest.mark.parametrize(
    ("n", "least", "over", "resident", "healthy", "current", "expected"),
    [
        pytest.param(10, 0.5, 0, False, 10, 10, (5, 10), id="half may be down"),
        pytest.param(10, 1, 1, False, 10, 10, (0, 20), id="double capacity"),
        pytest.param(10, 1, 0, False, 10, 10, (0, 11), id="no room: one more"),
        pytest.param(10, 1, 0, True, 10, 10, (1, 10), id="no room and bound: one less"),
        pytest.param(10, 0.5, 0.3, False, 10, 10, (5, 13), id="both"),
        pytest.param(10, 1, 0, False, 9, 9, (0, 10), id="one is missing already"),
        pytest.param(5, 1, 0, False, 10, 10, (5, 6), id="surplus goes at once"),
        pytest.param(10, 0, 0, False, 10, 10, (10, 10), id="all at once"),
        pytest.param(1, 1, 1, False, 1, 1, (0, 2), id="one of one"),
        pytest.param(5, 0.5, 0, False, 5, 5, (2, 5), id="minimum is rounded up"),
        pytest.param(5, 1, 0.5, False, 5, 5, (0, 7), id="maximum is rounded down"),
    ],
)
def test_restart_begins_within_its_bounds(
    n: int,
    least: float,
    over: float,
    resident: bool,
    healthy: int,
    current: int,
    expected: tuple[int, int],
) -> None:
    assert ignition(app(n, least, over, resident=resident), healthy, current) == expected


def test_bounds_do_not_suffer_from_floating_point() -> None:
    assert bounds(app(10, 0.7, 0.1)).min_healthy == 7
    assert bounds(app(10, 0.7, 0.1)).max_capacity == 11


def members(prefix: str, *healthy: bool) -> list[Member]:
    """Instances by number."""
    return [Member(f"{prefix}{i}", well) for i, well in enumerate(healthy)]


def test_sick_instances_go_first() -> None:
    old = members("o", True, False, True, True)
    assert moves(app(4, 0.5, 0), old, 0, []).end == ("o1",)


def test_each_new_instance_that_serves_replaces_an_old_one() -> None:
    old, new = members("o", True, True), members("n", True, False)
    assert moves(app(2, 1, 1), old, 0, new).end == ("o0",)


def test_sick_instances_make_room_where_nothing_else_could_move() -> None:
    assert moves(app(2, 1, 0), members("o", False, False), 0, []) == Moves(end=("o0", "o1"))


def test_restart_is_done_when_all_are_new_and_serve() -> None:
    two = app(2, 1, 1)
    assert moves(two, [], 0, members("n", True, True)).done
    assert not moves(two, [], 0, members("n", True, False)).done
    assert not moves(two, [], 1, members("n", True, True)).done
    assert not moves(two, [], 0, members("n", True)).done


#: Other work on the machine must not fail a test.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHARES = st.sampled_from([0, 0.1, 0.25, 0.5, 0.7, 0.9, 1])


@CALM
@given(
    st.integers(1, 12),
    st.lists(st.booleans(), max_size=15),
    SHARES,
    SHARES,
    st.booleans(),
    st.integers(0, 1 << 32),
)
def test_rollout_ends_and_never_leaves_its_bounds(
    n: int, before: list[bool], least: float, over: float, resident: bool, seed: int
) -> None:
    rng = Random(seed)
    target = app(n, least, 0 if resident else over, resident=resident)
    limit = bounds(target)
    old, ending, new = members("o", *before), 0, 0
    well_new = 0
    loosened = limit.min_healthy == limit.max_capacity
    floor = max(0, limit.min_healthy - (resident and loosened))
    ceiling = max(limit.max_capacity + (loosened and not resident), len(before))
    for _ in range(1000):
        healthy = sum(m.healthy for m in old) + well_new
        fresh = [Member(f"n{i}", i < well_new) for i in range(new)]
        step = moves(target, old, ending, fresh)
        if step.done:
            break
        ended = [m for m in old if m.id in step.end]
        assert len(ended) == len(step.end)
        after = healthy - sum(m.healthy for m in ended)
        assert after >= min(healthy, floor)
        old = [m for m in old if m.id not in step.end]
        ending += len(ended)
        new += step.start
        assert len(old) + ending + new <= ceiling
        assert new <= n
        waiting = new - well_new
        assert ending or waiting, "a rollout that is not done has something to wait for"
        if ending and (not waiting or rng.random() < 0.5):
            ending -= 1
        else:
            well_new += 1
    else:
        pytest.fail("the rollout does not end")
    assert (len(old), ending, new, well_new) == (0, 0, n, n)


def instance(
    name: str, condition: Condition = Condition.RUNNING, at: float = 0.0, **keys: Any
) -> Instance:
    """An instance on a host, `at` a time."""
    zone = keys.pop("zone", None)
    return Instance(
        id=name,
        app_id="/a",
        version="v",
        config_version="v",
        condition=condition,
        since=at,
        active_since=at if condition is Condition.RUNNING else None,
        agent=Agent("S1", f"host-{name}", attributes={"zone": zone} if zone else {}),
        task=Task(f"{name}._app.1", staged_at=at),
        **keys,
    )


def test_scaling_up_starts_what_is_missing() -> None:
    assert propose(app(5, 1, 1), [instance("a")], 5) == Proposition(start=4)


@pytest.mark.parametrize(
    ("selection", "expected"), [("YOUNGEST_FIRST", ("c", "b")), ("OLDEST_FIRST", ("a", "b"))]
)
def test_kill_selection_decides_between_equals(selection: Any, expected: tuple[str, ...]) -> None:
    running = [instance("a", at=1), instance("b", at=2), instance("c", at=3)]
    wanted = App(id="/a", instances=1, kill_selection=selection)
    assert propose(wanted, running, 1).end == expected


def test_condition_comes_before_age() -> None:
    mixed = [
        instance("running", at=9),
        instance("starting", Condition.STARTING),
        instance("lost", Condition.UNREACHABLE),
        instance("staging", Condition.STAGING),
        instance("waiting", Condition.SCHEDULED),
        instance("killing", Condition.KILLING),
    ]
    assert propose(App(id="/a"), mixed, 0).end == (
        "waiting", "lost", "staging", "starting", "running", "killing",
    )  # fmt: skip


def test_named_instances_go_first_and_are_replaced_where_too_few_remain() -> None:
    running = [instance("a", at=1), instance("b", at=2), instance("c", at=3)]
    assert propose(App(id="/a"), running, 2, {"a"}) == Proposition(end=("a",))
    assert propose(App(id="/a"), running, 3, {"a"}) == Proposition(end=("a",), start=1)


def test_what_does_not_count_is_left_alone() -> None:
    others = [
        instance("a"),
        instance("b", goal=Goal.DECOMMISSIONED),
        instance("c", Condition.UNREACHABLE_INACTIVE),
    ]
    assert propose(App(id="/a"), others, 1) == Proposition()


@CALM
@given(st.lists(st.sampled_from("xyz"), max_size=12), st.integers(0, 12))
def test_scaling_down_keeps_groups_balanced(zones: list[str], left: int) -> None:
    running = [instance(str(i), at=i, zone=zone) for i, zone in enumerate(zones)]
    wanted = App(id="/a", constraints=(("zone", "GROUP_BY"),))
    ended = propose(wanted, running, left).end
    assert len(ended) == max(0, len(running) - left)
    sizes = {zone: zones.count(zone) for zone in set(zones)}
    for name in ended:
        zone = zones[int(name)]
        assert sizes[zone] == max(sizes.values())
        sizes[zone] -= 1


FAILING = App(id="/a", version="v")


def test_delay_grows_by_the_factor_up_to_the_maximum() -> None:
    backoff = Backoff()
    assert backoff.deadline(FAILING) is None
    delays = [backoff.grow(FAILING, now=100.0) - 100.0 for _ in range(60)]
    assert delays[0] == 1.0
    assert delays[1] == pytest.approx(1.15)
    assert delays[2] == pytest.approx(1.3225)
    assert max(delays) == 300.0
    assert delays.index(300.0) == 41


def test_progress_moves_the_reference_and_silence_forgets() -> None:
    backoff = Backoff()
    backoff.grow(FAILING, now=0.0)
    backoff.advance("/a", "v", now=50.0)
    assert backoff.deadline(FAILING) == 51.0
    assert backoff.left_s(FAILING, now=50.5) == 0.5
    assert backoff.left_s(FAILING, now=60.0) == 0.0
    assert backoff.sweep(now=350.0) == []
    assert backoff.sweep(now=350.1) == [("/a", "v")]
    assert backoff.deadline(FAILING) is None


def test_delay_is_kept_per_configuration() -> None:
    backoff = Backoff()
    backoff.grow(FAILING, now=0.0)
    assert backoff.deadline(App(id="/a", version="w")) is None
    assert backoff.reset("/a")
    assert not backoff.reset("/a")
