"""Deployments carried out against a small model of a cluster."""

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn_core.mesos.types import TaskID, TaskState, TaskStatus
from cairn_scheduler.marathon import instances as rules
from cairn_scheduler.marathon.app import App, UpgradeStrategy, VersionInfo
from cairn_scheduler.marathon.conditions import Condition, Goal
from cairn_scheduler.marathon.execution import Work, advance
from cairn_scheduler.marathon.instances import Agent, Instance
from cairn_scheduler.marathon.planner import Action, ActionKind
from cairn_scheduler.marathon.rollout import bounds

START, STOP, SCALE, RESTART = (
    ActionKind.START,
    ActionKind.STOP,
    ActionKind.SCALE,
    ActionKind.RESTART,
)
AGENT = Agent("S1", "host1")
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def app(n: int, config: str = "v2", least: float = 1, over: float = 1) -> App:
    """An app of a configuration."""
    return App(
        id="/a",
        instances=n,
        version=config,
        version_info=VersionInfo(last_scaling_at=config, last_config_change_at=config),
        upgrade_strategy=UpgradeStrategy(minimum_health_capacity=least, maximum_over_capacity=over),
    )


def runs(name: str, config: str = "v1", **keys: Goal) -> Instance:
    """An instance that runs."""
    waiting = rules.schedule(app(1, config), name, wall=0.0).after
    assert waiting is not None
    sent = rules.provision(waiting, AGENT, (), wall=1.0).after
    assert sent is not None
    return replace(report(sent, TaskState.RUNNING) or sent, **keys)


def report(instance: Instance, state: TaskState) -> Instance | None:
    """The instance after a status of its task."""
    assert instance.task is not None
    status = TaskStatus(TaskID(instance.task.id), state, timestamp=2.0)
    return rules.update(instance, status, wall=2.0).after


def serves(instance: Instance) -> bool:
    """Apps of this model have no checks."""
    return instance.condition is Condition.RUNNING


def test_marker_is_done_at_once() -> None:
    assert advance(Action(START, "/a"), app(3), [], serves).done


def test_stopping_ends_all_and_waits_until_none_is_left() -> None:
    action = Action(STOP, "/a")
    both = [runs("i1"), runs("i2", goal=Goal.DECOMMISSIONED)]
    assert advance(action, None, both, serves) == Work(end=("i1",))
    assert advance(action, None, both[1:], serves) == Work()
    assert advance(action, None, [], serves).done


def test_scaling_up_waits_until_all_serve() -> None:
    action = Action(SCALE, "/a", 2)
    assert advance(action, app(2), [], serves).start == 2
    waiting = rules.schedule(app(2), "i2", wall=0.0).after
    assert waiting is not None
    assert advance(action, app(2), [runs("i1"), waiting], serves) == Work()
    assert advance(action, app(2), [runs("i1"), runs("i2")], serves).done


def test_scaling_down_waits_until_the_ended_are_gone() -> None:
    action = Action(SCALE, "/a", 1, ("i1",))
    assert advance(action, app(1), [runs("i1"), runs("i2")], serves).end == ("i1",)
    ending = [runs("i1", goal=Goal.DECOMMISSIONED), runs("i2")]
    assert advance(action, app(1), ending, serves) == Work()
    assert advance(action, app(1), ending[1:], serves).done


def test_restart_ends_surplus_of_the_new_configuration() -> None:
    three = [runs(f"n{i}", "v2") for i in range(3)]
    work = advance(Action(RESTART, "/a", 2), app(2), three, serves)
    assert len(work.end) == 1
    assert not work.done


class Cluster:
    """Instances of one app, and chance."""

    def __init__(self, found: Iterable[Instance], rng: Random) -> None:
        self.instances = {i.id: i for i in found}
        self.rng = rng
        self.made = 0

    def put(self, change: rules.Change) -> None:
        assert change.before is not None
        if change.after is None:
            del self.instances[change.before.id]
        else:
            self.instances[change.after.id] = change.after

    def do(self, work: Work, target: App) -> None:
        for name in work.end:
            self.put(rules.set_goal(self.instances[name], work.goal, wall=3.0))
        for _ in range(work.start):
            self.made += 1
            added = rules.schedule(target, f"n{self.made}", wall=3.0).after
            assert added is not None
            self.instances[added.id] = added

    def happen(self) -> bool:
        """One thing that Mesos would do, if there is any left to do."""
        ending = [i for i in self.instances.values() if i.goal is not Goal.RUNNING]
        waiting = [i for i in self.instances.values() if i.is_scheduled]
        sent = [i for i in self.instances.values() if i.condition is Condition.PROVISIONED]
        choices = ending + waiting + sent
        if not choices:
            return False
        one = self.rng.choice(choices)
        if one in waiting:
            self.put(rules.provision(one, AGENT, (), wall=4.0))
            return True
        state = TaskState.KILLED if one in ending else TaskState.RUNNING
        if one not in ending and self.rng.random() < 0.2:
            state = TaskState.FAILED
        assert one.task is not None
        status = TaskStatus(TaskID(one.task.id), state, timestamp=5.0)
        self.put(rules.update(one, status, wall=5.0))
        return True


@CALM
@given(
    st.integers(0, 8),
    st.integers(1, 8),
    st.sampled_from([0, 0.5, 1]),
    st.sampled_from([0, 0.5, 1]),
    st.integers(0, 1 << 32),
)
def test_restart_reaches_its_target_through_failures(
    before: int, n: int, least: float, over: float, seed: int
) -> None:
    target = app(n, "v2", least, over)
    cluster = Cluster((runs(f"o{i}") for i in range(before)), Random(seed))
    action = Action(RESTART, "/a", n)
    limit = bounds(target)
    ceiling = max(before, limit.max_capacity + (limit.min_healthy == limit.max_capacity))
    for _ in range(5000):
        well = sum(serves(i) and i.goal is Goal.RUNNING for i in cluster.instances.values())
        work = advance(action, target, list(cluster.instances.values()), serves)
        if work.done:
            break
        cluster.do(work, target)
        left = sum(serves(i) and i.goal is Goal.RUNNING for i in cluster.instances.values())
        assert left >= min(well, limit.min_healthy)
        assert len(cluster.instances) <= ceiling
        assert cluster.happen(), "a deployment that is not done has something to wait for"
    else:
        pytest.fail("the deployment does not end")
    assert len(cluster.instances) == n
    assert all(i.config_version == "v2" and serves(i) for i in cluster.instances.values())
