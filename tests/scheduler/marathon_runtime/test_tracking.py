"""Kills, reconciliation, launch tokens, roles and what else is kept track of, in virtual time."""

from collections.abc import Callable
from typing import Any

from cairn_core.mesos.scheduler_api import SchedulerMessage
from cairn_core.mesos.types import AgentID, ExecutorID, TaskID, TaskState, TaskStatus
from cairn_scheduler.marathon import events
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.core import CoreSettings
from cairn_scheduler.marathon.effects import ReconcileTasks, ReviveOffers, SendKill, UseRoles
from cairn_scheduler.marathon.launching import LaunchSettings
from cairn_scheduler.marathon.tracking import MAX_KILLS, TrackerSettings

MakeApp = Callable[..., App]
MakeWorld = Callable[..., Any]
World = Any


def kills(world: World) -> list[str]:
    return [call.task_id for call in world.calls if isinstance(call, SendKill)]


def test_kills_are_limited_and_sent_again(make_world: MakeWorld, make_app: MakeApp) -> None:
    tracking = TrackerSettings(kill_chunk=3, kill_retry_s=30.0)
    world = make_world(settings=CoreSettings(tracking=tracking))
    world.deploy(make_app(instances=8))
    answer = world.kill
    world.kill = lambda task_id: None  # nobody answers
    world.put(make_app(instances=0))
    assert len(kills(world)) == 3
    world.run(60)
    assert len(set(kills(world))) == 3, "the limit holds while nobody answers"
    assert len(kills(world)) >= 6
    world.kill = answer
    world.until(world.settled, 120)
    assert not world.running


def test_kill_that_nobody_answers_is_given_up(make_world: MakeWorld, make_app: MakeApp) -> None:
    world = make_world(settings=CoreSettings(tracking=TrackerSettings(kill_retry_s=5.0)))
    world.deploy(make_app(instances=1))
    name = "old.instance-22222222-2222-2222-2222-222222222222._app.1"
    world.running[name], world.where[name] = TaskState.RUNNING, "S0"
    world.lost.add(name)
    world.report(name, TaskState.RUNNING, "S0")
    world.run(5 * MAX_KILLS * 2)
    assert kills(world).count(name) == MAX_KILLS


def test_kill_survives_a_crash(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=1))
    [task_id] = world.tasks()
    world.lost.add(task_id)
    [victim] = world.instances()
    world.take(world.core.kill_instances(5, [victim.id], now=world.now, wall=world.wall))
    world.quiet()
    world.crash()
    world.lost.clear()
    world.run(5)
    assert task_id not in world.running
    assert len(world.tasks()) == 1


def test_every_task_is_asked_for_and_then_all(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=2))
    world.calls.clear()
    world.disconnect()
    world.take(world.core.disconnected(now=world.now, wall=world.wall))
    world.connect()
    world.run(10)
    asked = [call.body for call in world.calls if isinstance(call, ReconcileTasks)]
    assert {t.task_id.value for t in asked[0].tasks} == world.tasks()
    assert all(t.agent_id is not None for t in asked[0].tasks)
    assert asked[-1].tasks == ()
    world.calls.clear()
    world.run(700)
    assert [c for c in world.calls if isinstance(c, ReconcileTasks)]


def test_launch_that_got_lost_is_found_out_and_made_again(world: World, make_app: MakeApp) -> None:
    world.put(make_app(instances=1))
    world.now = max(world.now, world.next_tick)
    world.offer()
    outcome = world.pending.popleft()
    while not any(type(e).__name__ == "AcceptOffer" for e in outcome.effects):
        world.write(outcome)
        outcome = world.pending.popleft()
    world.write(outcome)  # the launch is recorded, and the process dies
    assert world.instances()[0].condition is Condition.PROVISIONED
    world.crash()
    world.until(world.settled, 60)
    assert len(world.running) == 1
    assert world.instances()[0].attempt == 2


def test_failed_call_makes_it_ask_once(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=1))
    world.run(30)
    world.calls.clear()
    for _ in range(5):
        world.take(world.core.calls_lost(now=world.now, wall=world.wall))
    world.run(3)
    asked = [c for c in world.calls if isinstance(c, ReconcileTasks) and c.body.tasks]
    assert len(asked) == 1


def test_launch_tokens_bound_what_is_unconfirmed(make_world: MakeWorld, make_app: MakeApp) -> None:
    launching = LaunchSettings(tokens=4, token_refresh_s=1000.0)
    world = make_world(settings=CoreSettings(launching=launching))
    held: list[str] = []
    report = world.report

    def hold(task_id: str, state: TaskState, *args: Any, **keys: Any) -> None:
        if state is TaskState.RUNNING and (task_id in held or len(held) < 4):
            held.append(task_id)
        else:
            report(task_id, state, *args, **keys)

    world.report = hold
    world.put(make_app(instances=10))
    world.run(20)
    assert len(world.running) == 4
    world.report = report
    for task_id in set(held):
        report(task_id, TaskState.RUNNING, world.where[task_id])
    world.until(world.settled, 100)
    assert len(world.running) == 10


def test_roles_of_apps_are_subscribed_with(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=1))
    assert not [c for c in world.calls if isinstance(c, UseRoles)]
    world.put(make_app("/dev/app", role="dev", instances=1))
    assert [c.roles for c in world.calls if isinstance(c, UseRoles)] == [("*", "dev")]
    world.run(1)
    assert any(isinstance(c, ReviveOffers) and "dev" in c.roles for c in world.calls)
    world.disconnect()
    world.take(world.core.disconnected(now=world.now, wall=world.wall))
    world.connect()
    world.run(1)
    assert [c.roles for c in world.calls if isinstance(c, UseRoles)] == [("*", "dev")] * 2
    world.remove("/dev/app", force=True)
    assert [c.roles for c in world.calls if isinstance(c, UseRoles)][-1] == ("*",)


def test_repeated_update_is_acknowledged_and_changes_nothing(
    world: World, make_app: MakeApp
) -> None:
    world.deploy(make_app(instances=1))
    [task_id] = world.tasks()
    told = len(world.told(events.StatusUpdate))
    status = TaskStatus(
        TaskID(task_id), TaskState.RUNNING, agent_id=AgentID("S0"), uuid=b"again",
        timestamp=world.wall,
    )  # fmt: skip
    outcome = world.core.status_update(status, now=world.now, wall=world.wall)
    assert [type(e).__name__ for e in outcome.effects] == ["AcknowledgeUpdate"]
    assert len(world.told(events.StatusUpdate)) == told


def test_health_of_the_executor_counts(world: World, make_app: MakeApp) -> None:
    check = {"protocol": "COMMAND", "command": {"value": "true"}}
    world.put(make_app(instances=1, healthChecks=[check]))
    world.run(10)
    assert not world.settled()
    [task_id] = world.tasks()
    world.report(task_id, TaskState.RUNNING, world.where[task_id], healthy=True)
    world.until(world.settled, 5)
    [health] = world.core.tables.health_of(world.instances()[0].id)
    assert health.alive
    world.report(task_id, TaskState.RUNNING, world.where[task_id], healthy=False)
    world.run(1)
    [health] = world.core.tables.health_of(world.instances()[0].id)
    assert not health.alive
    assert [e.healthy for e in world.told(events.InstanceHealthChanged)] == [True, False]
    assert not world.kills, "the executor kills by itself"


def test_task_that_stages_too_long_is_killed(world: World, make_app: MakeApp) -> None:
    report, mute = world.report, True

    def hold(task_id: str, state: TaskState, *args: Any, **keys: Any) -> None:
        report(task_id, TaskState.STAGING if mute and state == "TASK_RUNNING" else state, *args,
               **keys)  # fmt: skip

    world.report = hold
    world.put(make_app(instances=1))
    world.run(100)
    [first] = world.tasks()
    mute = False
    world.until(world.settled, 400)
    assert world.kills[first] == 1
    assert len(world.tasks()) == 1


def test_message_of_an_executor_is_passed_on(world: World) -> None:
    message = SchedulerMessage(AgentID("S1"), ExecutorID("e"), b"\x00\xff")
    world.take(world.core.framework_message(message, now=world.now, wall=world.wall))
    world.quiet()
    [event] = world.told(events.FrameworkMessage)
    assert event.message == (0, -1)
