"""Instances: their life, their ids, and how tasks are shown."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn_core.mesos.types import (
    AgentID,
    ContainerStatus,
    IPAddress,
    NetworkInfo,
    TaskID,
    TaskState,
    TaskStatus,
    TimeInfo,
)
from cairn_scheduler.marathon import instance_ids, instances
from cairn_scheduler.marathon.app import App, UnreachableEnabled
from cairn_scheduler.marathon.conditions import Condition, Goal, condition_of
from cairn_scheduler.marathon.errors import BadRequest
from cairn_scheduler.marathon.instances import (
    AdvanceDelay,
    Agent,
    Change,
    ConditionChanged,
    DelayLaunches,
    HealthChanged,
    Instance,
    KillTask,
    Launched,
    StatusReported,
    TaskFailed,
)
from cairn_scheduler.marathon.task_json import Counts, Health, counts, task_failure_json, task_json

APP = App(id="/a", version="2020-01-01T00:00:00.000Z")
AGENT = Agent("S1", "host1", region="r", zone="z")
ID = "a.instance-1"


def after(change: Change) -> Instance:
    """The instance that must be there."""
    assert change.after is not None
    return change.after


def kinds(change: Change) -> list[type[object]]:
    """What follows, by kind."""
    return [type(effect) for effect in change.effects]


def status(state: TaskState, task: str = f"{ID}._app.1", **keys: Any) -> TaskStatus:
    """A status update at second 20."""
    return TaskStatus(
        task_id=TaskID(task), state=state, agent_id=AgentID("S1"), timestamp=20.0, **keys
    )


def provisioned() -> Instance:
    """An instance whose offer was chosen at second 10."""
    waiting = after(instances.schedule(APP, ID, wall=1.0))
    return after(instances.provision(waiting, AGENT, (31000, None), wall=10.0))


def running(**keys: Any) -> Instance:
    """An instance that runs."""
    return replace(
        after(instances.update(provisioned(), status(TaskState.RUNNING), wall=21.0)), **keys
    )


def test_launch_goes_from_scheduled_to_running() -> None:
    change = instances.schedule(APP, ID, wall=1.0)
    assert after(change).is_scheduled
    change = instances.provision(after(change), AGENT, (31000, None), wall=10.0)
    assert (after(change).condition, after(change).attempt) == (Condition.PROVISIONED, 1)
    task = after(change).task
    assert task is not None
    assert (task.id, task.ports) == ("a.instance-1._app.1", (31000,))
    change = instances.update(after(change), status(TaskState.STAGING), wall=11.0)
    change = instances.update(after(change), status(TaskState.RUNNING), wall=21.0)
    assert kinds(change) == [StatusReported, ConditionChanged, AdvanceDelay, Launched]
    assert after(change).active_since == 20.0
    assert msgspec.json.decode(msgspec.json.encode(after(change)), type=Instance) == after(change)


def test_repeated_status_changes_nothing() -> None:
    before = running()
    change = instances.update(before, status(TaskState.RUNNING), wall=30.0)
    assert not change.is_change
    assert change.effects == ()


@pytest.mark.parametrize(
    ("state", "delayed"),
    [
        (TaskState.FAILED, True),
        (TaskState.FINISHED, True),
        (TaskState.ERROR, True),
        (TaskState.DROPPED, True),
        (TaskState.GONE, True),
        (TaskState.KILLED, False),
    ],
)
def test_ended_task_is_scheduled_again_under_the_same_id(state: TaskState, delayed: bool) -> None:
    change = instances.update(running(), status(state), wall=30.0)
    again = after(change)
    assert (again.id, again.condition, again.attempt) == (ID, Condition.SCHEDULED, 1)
    assert (again.task, again.agent) == (None, None)
    assert (DelayLaunches in kinds(change)) is delayed
    assert TaskFailed in kinds(change)
    second = after(instances.provision(again, AGENT, (), wall=40.0))
    assert second.task is not None
    assert second.task.id == f"{ID}._app.2"


def test_decommissioned_instance_is_killed_and_then_forgotten() -> None:
    change = instances.set_goal(running(), Goal.DECOMMISSIONED, wall=30.0)
    assert change.effects == (KillTask(f"{ID}._app.1", "S1"),)
    change = instances.update(after(change), status(TaskState.KILLED), wall=31.0)
    assert change.after is None
    assert TaskFailed not in kinds(change)


def test_decommissioned_instance_never_returns() -> None:
    doomed = after(instances.set_goal(running(), Goal.DECOMMISSIONED, wall=30.0))
    assert after(instances.set_goal(doomed, Goal.RUNNING, wall=31.0)).goal is Goal.DECOMMISSIONED


def test_waiting_instance_is_forgotten_at_once() -> None:
    waiting = after(instances.schedule(APP, ID, wall=1.0))
    change = instances.set_goal(waiting, Goal.DECOMMISSIONED, wall=2.0)
    assert change.after is None
    assert kinds(change) == [ConditionChanged]


def test_stopped_instance_stays_for_its_volumes() -> None:
    stopped = after(instances.set_goal(running(), Goal.STOPPED, wall=30.0))
    ended = after(instances.update(stopped, status(TaskState.KILLED), wall=31.0))
    assert (ended.goal, ended.condition) == (Goal.STOPPED, Condition.KILLED)
    again = after(instances.reschedule(ended, APP, wall=32.0))
    assert again.is_scheduled
    assert again.agent is None
    bound = replace(ended, volumes=("a#data#1",))
    assert after(instances.reschedule(bound, APP, wall=32.0)).agent == AGENT


def test_task_of_an_earlier_attempt_is_killed_if_it_still_runs() -> None:
    waiting = after(instances.update(running(), status(TaskState.FAILED), wall=21.0))
    now = after(instances.provision(waiting, AGENT, (), wall=22.0))
    change = instances.update(now, status(TaskState.RUNNING), wall=30.0)
    assert not change.is_change
    assert change.effects == (KillTask(f"{ID}._app.1", "S1"),)
    assert instances.update(now, status(TaskState.KILLED), wall=30.0).effects == ()


def test_health_of_the_executor_is_told() -> None:
    change = instances.update(running(), status(TaskState.RUNNING, healthy=False), wall=30.0)
    assert kinds(change) == [HealthChanged]
    assert not after(change).considered_healthy
    change = instances.update(after(change), status(TaskState.RUNNING, healthy=True), wall=31.0)
    assert kinds(change) == [HealthChanged, Launched]


def test_addresses_are_kept() -> None:
    network = NetworkInfo(ip_addresses=(IPAddress(ip_address="9.0.0.1"),))
    said = status(TaskState.RUNNING, container_status=ContainerStatus(network_infos=(network,)))
    task = after(instances.update(running(), said, wall=30.0)).task
    assert task is not None
    assert [a.ip_address for a in task.addresses] == ["9.0.0.1"]


def lost(inactive: int, expunge: int) -> Instance:
    """An instance whose agent is gone since second 25."""
    strategy = UnreachableEnabled(inactive_after_seconds=inactive, expunge_after_seconds=expunge)
    said = status(TaskState.UNREACHABLE, unreachable_time=TimeInfo(25_000_000_000))
    return after(instances.update(running(unreachable=strategy), said, wall=30.0))


def test_unreachable_instance_is_replaced_then_forgotten() -> None:
    gone = lost(10, 100)
    assert gone.counts
    assert not instances.expire(gone, wall=34.0).is_change
    inactive = after(instances.expire(gone, wall=35.0))
    assert inactive.condition is Condition.UNREACHABLE_INACTIVE
    assert not inactive.counts
    assert instances.expire(inactive, wall=125.0).after is None


def test_unreachable_by_default_is_forgotten_at_once_and_disabled_never() -> None:
    assert instances.expire(lost(0, 0), wall=30.0).after is None
    kept = replace(lost(0, 0), unreachable="disabled")
    assert not instances.expire(kept, wall=1e9).is_change


def test_returning_instance_counts_again() -> None:
    inactive = after(instances.expire(lost(10, 100), wall=40.0))
    back = after(instances.update(inactive, status(TaskState.RUNNING), wall=50.0))
    assert back.counts
    assert back.condition is Condition.RUNNING


def test_returning_instance_whose_end_was_decided_is_killed() -> None:
    doomed = after(instances.set_goal(lost(10, 100), Goal.DECOMMISSIONED, wall=31.0))
    change = instances.update(doomed, status(TaskState.RUNNING), wall=50.0)
    assert KillTask in kinds(change)


def test_launch_that_nobody_confirms_is_tried_again() -> None:
    assert not instances.expire(provisioned(), wall=310.0).is_change
    change = instances.expire(provisioned(), wall=311.0)
    assert after(change).is_scheduled
    assert KillTask in kinds(change)


def test_task_that_stages_for_too_long_is_killed() -> None:
    staging = after(instances.update(provisioned(), status(TaskState.STAGING), wall=20.0))
    assert kinds(instances.expire(staging, wall=321.0)) == [KillTask]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("REASON_SLAVE_REMOVED", Condition.UNREACHABLE),
        ("REASON_RECONCILIATION", Condition.UNREACHABLE),
        ("REASON_TASK_UNKNOWN", Condition.UNKNOWN),
        ("REASON_GC_ERROR", Condition.GONE),
        (None, Condition.GONE),
    ],
)
def test_lost_is_read_by_its_reason(reason: str | None, expected: Condition) -> None:
    assert condition_of(status(TaskState.LOST, reason=reason)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g_a.instance-u1._app.3", ("/g/a", "g_a.instance-u1", 3)),
        ("g_a.instance-u1.web", ("/g/a", "g_a.instance-u1", 0)),
        ("g_a.instance-u1", ("/g/a", "g_a.instance-u1", 0)),
        ("b.c_a.marathon-u1", ("/b.c/a", "b.c_a.marathon-u1", 0)),
        ("a.u1", ("/a", "a.marathon-u1", 0)),
    ],
)
def test_task_ids_of_every_age_are_read(text: str, expected: tuple[str, str, int]) -> None:
    assert instance_ids.parse_task_id(text) == expected


def test_what_is_no_task_id_is_refused() -> None:
    with pytest.raises(BadRequest, match="Invalid task id 'x'"):
        instance_ids.parse_task_id("x")
    with pytest.raises(BadRequest):
        instance_ids.app_of("a.b")


def test_ids_are_made_as_they_are_read() -> None:
    name = instance_ids.instance_id("/g/a", "u1")
    assert instance_ids.app_of(name) == "/g/a"
    assert instance_ids.parse_task_id(instance_ids.task_id(name, 2)) == ("/g/a", name, 2)


def test_task_is_shown_with_its_health() -> None:
    health = Health(ID, last_success=22.0, first_success=22.0)
    assert task_json(running(), [health], [10000]) == {
        "appId": "/a",
        "id": f"{ID}._app.1",
        "host": "host1",
        "slaveId": "S1",
        "state": "TASK_RUNNING",
        "ipAddresses": [],
        "healthCheckResults": [
            {
                "alive": True,
                "consecutiveFailures": 0,
                "instanceId": ID,
                "firstSuccess": "1970-01-01T00:00:22.000Z",
                "lastSuccess": "1970-01-01T00:00:22.000Z",
            }
        ],
        "localVolumes": [],
        "ports": [31000],
        "stagedAt": "1970-01-01T00:00:10.000Z",
        "startedAt": "1970-01-01T00:00:20.000Z",
        "version": APP.version,
        "servicePorts": [10000],
        "region": "r",
        "zone": "z",
        "role": "*",
    }


def test_task_that_is_not_active_has_no_ports() -> None:
    inactive = replace(running(), condition=Condition.UNREACHABLE_INACTIVE)
    assert not {"ports", "stagedAt", "startedAt", "version"} & set(task_json(inactive))


def test_counts() -> None:
    well = Health("i2", last_success=2.0, last_failure=1.0)
    sick = Health("i3", last_success=1.0, last_failure=2.0)
    found = [provisioned(), running(), running(id="i2"), running(id="i3")]
    assert counts(found, {"i2": [well], "i3": [well, sick]}) == Counts(1, 3, 1, 1)


def test_last_failure_is_shown() -> None:
    change = instances.update(running(), status(TaskState.FAILED, message="exit 1"), wall=30.0)
    (failure,) = [e for e in change.effects if isinstance(e, TaskFailed)]
    assert task_failure_json(failure, wall=30.0) == {
        "appId": "/a",
        "host": "host1",
        "message": "exit 1",
        "state": "TASK_FAILED",
        "taskId": f"{ID}._app.1",
        "timestamp": "1970-01-01T00:00:20.000Z",
        "version": APP.version,
        "slaveId": "S1",
    }


FACTS = st.one_of(
    st.tuples(st.just("status"), st.sampled_from(list(TaskState)), st.integers(0, 3)),
    st.tuples(st.just("goal"), st.sampled_from(list(Goal)), st.just(0)),
    st.tuples(st.just("provision"), st.none(), st.just(0)),
    st.tuples(st.just("expire"), st.none(), st.integers(0, 1000)),
    st.tuples(st.just("kill"), st.none(), st.just(0)),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FACTS, max_size=25))
def test_no_order_of_facts_leads_out_of_the_state_machine(
    facts: list[tuple[str, Any, int]],
) -> None:
    now = after(instances.schedule(APP, ID, wall=0.0))
    wall = 1.0
    for kind, value, number in facts:
        wall += 1 + number
        match kind:
            case "status":
                said = TaskStatus(TaskID(f"{ID}._app.{number}"), value, timestamp=wall)
                change = instances.update(now, said, wall=wall)
            case "goal":
                change = instances.set_goal(now, value, wall=wall)
            case "provision" if now.is_scheduled:
                change = instances.provision(now, AGENT, (31000,), wall=wall)
            case "expire":
                change = instances.expire(now, wall=wall)
            case _:
                change = instances.kill(now)
        if change.after is None:
            lost = (Condition.UNREACHABLE, Condition.UNREACHABLE_INACTIVE)
            assert (
                Goal.DECOMMISSIONED in (now.goal, value)
                or (kind == "expire" and now.condition in lost)
            )  # fmt: skip
            return
        if now.goal is Goal.DECOMMISSIONED:
            assert change.after.goal is Goal.DECOMMISSIONED
        assert change.after.attempt >= now.attempt
        now = change.after
        if now.condition.is_active:
            assert now.task is not None
            assert now.agent is not None
        if now.condition.is_terminal:
            assert now.goal is Goal.STOPPED
        assert msgspec.json.decode(msgspec.json.encode(now), type=Instance) == now
