"""Marathon is killed at any point, and goes on from what its log has."""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn_core.mesos.types import TaskState
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.core import CoreSettings, MarathonCore
from cairn_scheduler.marathon.effects import Probed
from cairn_scheduler.marathon.rollout import bounds
from cairn_scheduler.marathon.store import Damaged

MakeApp = Callable[..., App]
World = Any
CALM = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def crash_somewhere(world: World, rng: Random) -> None:
    """Write some of what waits, carry out some of its effects, and die."""
    for _ in range(rng.randrange(4)):
        world.commit()
    if world.pending and rng.random() < 0.7:
        outcome = world.pending.popleft()
        world.write(outcome)
        for effect in outcome.effects[: rng.randrange(len(outcome.effects) + 1)]:
            world.carry_out(effect)
    world.crash()


def stir(world: World, rng: Random, steps: int) -> None:
    """Let things happen bit by bit, with crashes and disconnections in between."""
    for _ in range(steps):
        chance = rng.random()
        if chance < 0.08:
            crash_somewhere(world, rng)
        elif chance < 0.11:
            world.disconnect()
            world.take(world.core.disconnected(now=world.now, wall=world.wall))
            world.connect()
        elif chance < 0.5:
            world.commit()
        elif chance < 0.75:
            world.deliver()
        else:
            world.pass_time(world.now + 2)


@pytest.mark.slow
@CALM
@given(st.integers(0, 1 << 32))
def test_restart_survives_crashes_without_overshoot(
    make_world: Callable[..., World], make_app: MakeApp, seed: int
) -> None:
    rng = Random(seed)
    world = make_world(seed=seed)
    least, over = rng.choice([0, 0.5, 1]), rng.choice([0, 0.5, 1])
    strategy = {"minimumHealthCapacity": least, "maximumOverCapacity": over}
    n, m = rng.randrange(1, 7), rng.randrange(1, 7)
    world.deploy(make_app(instances=n, upgradeStrategy=strategy))
    world.behaviour = lambda info: TaskState.FAILED if rng.random() < 0.15 else TaskState.RUNNING
    target = make_app(instances=m, cmd="other", upgradeStrategy=strategy)
    world.put(target)
    world.most.clear()
    limit = bounds(target)
    stir(world, rng, 200)
    world.behaviour = lambda info: TaskState.RUNNING
    world.until(world.settled)
    world.run(15)
    assert len(world.tasks()) == m
    assert {i.config_version for i in world.instances()} == {
        world.core.tables.root.apps["/web"].config_version
    }
    ceiling = max(n, limit.max_capacity + (limit.min_healthy == limit.max_capacity))
    assert world.most["web"] <= ceiling
    assert not [key for key in world.log if key.startswith(("deployment/", "kill/"))]


@pytest.mark.slow
@CALM
@given(st.integers(0, 1 << 32))
def test_nothing_healthy_is_restarted_by_crashes(
    make_world: Callable[..., World], make_app: MakeApp, seed: int
) -> None:
    rng = Random(seed)
    world = make_world(seed=seed)
    world.put(make_app("/a", instances=4), make_app("/g/b", instances=3, dependencies=["/a"]))
    stir(world, rng, 150)
    world.until(world.settled)
    assert len(world.tasks("/a")) == 4
    assert len(world.tasks("/g/b")) == 3
    assert not world.kills
    before = dict(world.running)
    stir(world, rng, 100)
    world.run(700)
    assert world.running == before
    assert not world.kills


@pytest.mark.slow
@CALM
@given(st.integers(0, 1 << 32))
def test_any_history_of_changes_converges(
    make_world: Callable[..., World], make_app: MakeApp, seed: int
) -> None:
    rng = Random(seed)
    world = make_world(seed=seed)
    names = ["/a", "/b", "/g/c"]
    for number in range(8):
        app_id = rng.choice(names)
        known = app_id in world.core.tables.root.apps
        if known and rng.random() < 0.2:
            world.remove(app_id, force=True)
        else:
            command = rng.choice(["one", "two", f"n{number}"])
            world.put(make_app(app_id, instances=rng.randrange(5), cmd=command), force=True)
        stir(world, rng, rng.randrange(60))
        if world.tasks(app_id) and rng.random() < 0.3:
            world.quiet()
            victims = sorted(world.tasks(app_id))
            if victims:
                world.end(victims[0], TaskState.FAILED)
    world.until(world.settled)
    world.run(60)
    expected = {name: app.instances for name, app in world.core.tables.root.apps.items()}
    assert {name: len(world.tasks(name)) for name in expected} == expected
    assert len(world.running) == sum(expected.values())
    for instance in world.core.tables.instances.values():
        app = world.core.tables.root.apps[instance.app_id]
        assert instance.config_version == app.config_version


def test_replay_gives_the_same_tables(world: World, make_app: MakeApp) -> None:
    check = {"protocol": "TCP", "portIndex": 0, "intervalSeconds": 5}
    world.deploy(make_app("/g/a", instances=3, healthChecks=[check]), make_app("/b"))
    world.deploy(make_app("/b", instances=2))
    world.remove("/b")
    world.until(world.settled)
    world.behaviour = lambda info: TaskState.FAILED
    world.put(make_app("/c", instances=1))
    world.run(5)
    old = world.core.tables
    again = MarathonCore(CoreSettings(), Random(1))
    again.ledger.read(world.log.items())
    new = again.tables
    assert new.root == old.root
    assert list(new.roots.items()) == list(old.roots.items())
    assert new.versions == old.versions
    assert new.instances == old.instances
    assert new.waiting.keys() == old.waiting.keys()
    assert {k: d.plan for k, d in new.deployments.items()} == {
        k: d.plan for k, d in old.deployments.items()
    }
    assert new.failures == old.failures
    assert new.framework_id == "F1"


def test_health_is_known_after_a_restart(world: World, make_app: MakeApp) -> None:
    check = {"protocol": "TCP", "portIndex": 0, "intervalSeconds": 5}
    world.deploy(make_app(instances=2, healthChecks=[check]))
    world.probe = lambda probe: Probed(probe.key, False, failure="too early to say")
    world.crash()
    assert all(h.alive for i in world.instances() for h in world.core.tables.health_of(i.id))
    assert len(world.core.tables.health) == 2


def test_versions_are_bounded_and_a_current_one_is_never_lost(
    make_world: Callable[..., World], make_app: MakeApp
) -> None:
    world = make_world(settings=CoreSettings(max_versions=5))
    world.deploy(make_app("/quiet"))
    for number in range(20):
        world.deploy(make_app(cmd=f"sleep {number}"))
    assert len(world.core.tables.versions["/web"]) == 5
    assert len(world.core.tables.roots) == 5
    kinds = Counter(key.partition("/")[0] for key in world.log)
    assert kinds["version"] <= 7
    assert kinds["change"] <= 5
    world.crash()
    assert set(world.core.tables.root.apps) == {"/quiet", "/web"}
    world.run(5)
    assert len(world.running) == 2
    assert list(world.core.tables.roots)[-1] == world.core.tables.root.version


def test_damaged_record_is_named(world: World) -> None:
    with pytest.raises(Damaged, match="instance/x is damaged"):
        MarathonCore(CoreSettings(), Random(1)).ledger.read([("instance/x", b"{}")])
    with pytest.raises(Damaged, match="unknown kind"):
        MarathonCore(CoreSettings(), Random(1)).ledger.read(
            [("pods/x", msgspec.json.encode("later"))]
        )
