"""Deployments in virtual time: what is launched and killed, and in which order."""

from collections.abc import Callable
from typing import Any

import pytest

from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import (
    AgentID,
    AllocationInfo,
    FrameworkID,
    OfferID,
    ReservationInfo,
    Resource,
    Scalar,
    TaskState,
)
from cairn_scheduler.marathon import events
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.core import CoreSettings
from cairn_scheduler.marathon.effects import (
    DeclineOffers,
    Deployed,
    Probed,
    ReviveOffers,
    SuppressOffers,
)
from cairn_scheduler.marathon.errors import Locked, NotFound
from cairn_scheduler.marathon.groups import put_app
from cairn_scheduler.marathon.matcher import MatchRules

MakeApp = Callable[..., App]
World = Any


def test_new_app_runs_with_as_many_instances_as_it_wants(world: World, make_app: MakeApp) -> None:
    world.put(make_app(instances=5))
    world.until(world.settled)
    assert len(world.tasks()) == 5
    assert world.serving() == 5
    assert not world.kills
    names = [type(e).__name__ for e in world.events if "Deployment" in type(e).__name__]
    assert names == [
        "DeploymentInfo",
        "DeploymentStepSucceeded",
        "DeploymentInfo",
        "DeploymentStepSucceeded",
        "DeploymentSucceeded",
    ]


def test_instances_are_spread_over_the_offers(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=6))
    assert sorted(len(node.tasks) for node in world.agents.values()) == [2, 2, 2]


def test_unique_hosts_are_kept(world: World, make_app: MakeApp) -> None:
    world.put(make_app(instances=5, constraints=[["hostname", "UNIQUE"]]))
    world.run(10)
    assert sorted(len(node.tasks) for node in world.agents.values()) == [1, 1, 1]
    assert world.core.tables.pending("/web") == 2
    assert world.core.tables.queue["/web"].unused > 0


def test_resources_reserved_for_the_role_of_an_app_are_used(
    make_world: Callable[..., World], make_app: MakeApp
) -> None:
    rules = MatchRules(accepted_roles=frozenset())
    world = make_world(nodes=1, settings=CoreSettings(matching=rules))
    world.put(make_app("/dev/app", role="dev", portDefinitions=[]))
    world.run(3)
    mine = AllocationInfo("dev")
    reserved = (ReservationInfo(type="STATIC", role="dev"),)
    offer = Offer(
        OfferID("R"), FrameworkID("F1"), AgentID("S0"), "node0", allocation_info=mine,
        resources=tuple(
            Resource(
                name=name, type="SCALAR", scalar=Scalar(512), allocation_info=mine,
                reservations=reserved,
            )
            for name in ("cpus", "mem")
        ),
    )  # fmt: skip
    world.agents["S0"].offered = "R"
    world.take(world.core.offers([offer], now=world.now, wall=world.wall))
    world.until(world.settled, 5)
    assert len(world.tasks("/dev/app")) == 1


def test_scaling_restarts_nothing(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=3))
    before = world.tasks()
    world.deploy(make_app(instances=6))
    assert before < world.tasks()
    assert len(world.tasks()) == 6
    world.deploy(make_app(instances=2))
    assert len(world.tasks()) == 2
    assert len(world.kills) == 4


def test_restart_replaces_all_within_bounds(world: World, make_app: MakeApp) -> None:
    strategy = {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.25}
    world.deploy(make_app(instances=8, upgradeStrategy=strategy))
    before = world.tasks()
    world.put(make_app(instances=8, cmd="sleep 2000", upgradeStrategy=strategy))
    lowest = 8
    while not world.settled():
        lowest = min(lowest, len(world.tasks()))
        world.pass_time(world.now + 5)
        world.quiet()
    assert not world.tasks() & before
    assert len(world.tasks()) == 8
    assert world.most["web"] <= 10
    assert lowest >= 4


def test_restart_without_change(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=2))
    before = world.tasks()
    result = world.change(lambda root: root, restarts=["/web"])
    assert isinstance(result, Deployed)
    assert not result.plan.is_empty
    world.until(world.settled)
    assert not world.tasks() & before
    assert len(world.tasks()) == 2


def test_same_definition_changes_nothing(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=2))
    version, before = world.core.tables.root.version, world.tasks()
    assert world.put(make_app(instances=2)).plan.is_empty
    assert world.core.tables.root.version == version
    world.run(5)
    assert world.tasks() == before


def test_removed_app_is_gone(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=3))
    world.remove("/web")
    world.until(world.settled)
    assert not world.running
    assert not world.instances()
    assert len(world.told(events.AppTerminated)) == 1
    assert not [key for key in world.log if key.startswith(("instance/", "deployment/", "app/"))]


def test_dependencies_come_up_in_order(world: World, make_app: MakeApp) -> None:
    broken = True

    def behave(info: Any) -> TaskState:
        return TaskState.FAILED if info.name == "db" and broken else TaskState.RUNNING

    world.behaviour = behave
    world.put(make_app("/db", instances=1), make_app("/web", instances=2, dependencies=["/db"]))
    world.run(30)
    assert not world.tasks("/web")
    broken = False
    world.until(world.settled)
    assert len(world.tasks("/web")) == 2


def test_locked_app_is_refused_unless_forced(world: World, make_app: MakeApp) -> None:
    world.behaviour = lambda info: TaskState.FAILED
    first = world.put(make_app(instances=1))
    refused = world.change(lambda root: put_app(root, make_app(instances=2)))
    assert isinstance(refused, Locked)
    assert refused.deployment_ids == (first.plan.id,)
    world.behaviour = lambda info: TaskState.RUNNING
    world.put(make_app(instances=2), force=True)
    assert [e.id for e in world.told(events.DeploymentFailed)] == [first.plan.id]
    world.until(world.settled)
    assert len(world.tasks()) == 2


def test_rollback_brings_back_the_old_app(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=2))
    before = world.tasks()
    world.behaviour = lambda info: TaskState.FAILED
    broken = world.put(make_app(instances=2, cmd="false"))
    world.run(20)
    world.behaviour = lambda info: TaskState.RUNNING
    world.take(world.core.rollback(77, broken.plan.id, now=world.now, wall=world.wall))
    world.quiet()
    assert isinstance(world.replies[77], Deployed)
    world.until(world.settled)
    assert world.core.tables.root.apps["/web"].cmd == "sleep 1000"
    assert len(world.tasks()) == 2
    # The original left as many old ones alone as the strategy asks for; they are as wanted again.
    assert all(i.version == i.version for i in world.instances())
    assert len(before) == 2


def test_rollback_of_a_new_app_removes_it(world: World, make_app: MakeApp) -> None:
    world.behaviour = lambda info: TaskState.FAILED
    made = world.put(make_app(instances=2))
    world.take(world.core.rollback(77, made.plan.id, now=world.now, wall=world.wall))
    world.until(world.settled)
    assert not world.core.tables.root.apps
    assert not world.instances()


def test_cancel_leaves_the_cluster_as_it_is(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=4))
    made = world.put(make_app(instances=4, cmd="other"))
    world.take(world.core.cancel(78, made.plan.id, now=world.now, wall=world.wall))
    world.quiet()
    assert world.settled()
    world.run(10)
    assert len(world.tasks()) == 4
    world.take(world.core.cancel(79, made.plan.id, now=world.now, wall=world.wall))
    world.quiet()
    assert isinstance(world.replies[79], NotFound)


def test_rest_of_a_cancelled_restart_goes_with_the_next_change(
    world: World, make_app: MakeApp
) -> None:
    world.deploy(make_app(instances=4))
    made = world.put(make_app(instances=4, cmd="other"))
    world.take(world.core.cancel(78, made.plan.id, now=world.now, wall=world.wall))
    world.run(5)
    world.deploy(make_app(instances=5, cmd="other"))
    versions = {i.config_version for i in world.instances()}
    assert versions == {world.core.tables.root.apps["/web"].config_version}
    assert len(world.tasks()) == 5


def test_kill_is_followed_by_a_replacement(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=2))
    victim = world.instances()[0]
    world.take(world.core.kill_instances(5, [victim.id], now=world.now, wall=world.wall))
    world.quiet()
    assert [i.id for i in world.replies[5].instances] == [victim.id]
    world.until(lambda: len(world.tasks()) == 2)
    assert world.core.tables.instances[victim.id].attempt == 2
    assert not [key for key in world.log if key.startswith("kill/")]


def test_kill_and_scale_makes_the_app_smaller(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=3))
    victim = world.instances()[1]
    world.take(
        world.core.kill_instances(6, [victim.id], scale=True, now=world.now, wall=world.wall)
    )
    world.until(world.settled)
    assert world.core.tables.root.apps["/web"].instances == 2
    assert len(world.tasks()) == 2
    assert victim.id not in world.core.tables.instances


def test_wipe_replaces_the_instance(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=2))
    victim = world.instances()[0]
    world.take(world.core.kill_instances(7, [victim.id], wipe=True, now=world.now, wall=world.wall))
    world.run(5)
    assert victim.id not in world.core.tables.instances
    assert len(world.tasks()) == 2


def test_failing_task_is_retried_with_growing_delay(world: World, make_app: MakeApp) -> None:
    world.behaviour = lambda info: TaskState.FAILED
    world.put(make_app(instances=1, backoffSeconds=10, backoffFactor=2))
    world.run(75)
    # At 0, 10, 30 and 70 seconds, and the ticks of the offers.
    assert len(world.launches) == 4
    failure = world.core.tables.failures["/web"]
    assert failure.status.state is TaskState.FAILED
    world.take(world.core.reset_delay(8, "/web", now=world.now, wall=world.wall))
    world.run(2)
    assert len(world.launches) == 5


def test_launches_that_fail_together_count_as_one_failure(world: World, make_app: MakeApp) -> None:
    world.behaviour = lambda info: TaskState.FAILED
    world.put(make_app(instances=50, backoffSeconds=10, backoffFactor=2))
    world.run(5)
    assert len(world.launches) == 50
    app = world.core.tables.root.apps["/web"]
    assert 0 < world.core.tables.backoff.left_s(app, now=world.now) <= 10


def test_thousands_are_launched_in_slices(
    make_world: Callable[..., World], make_app: MakeApp
) -> None:
    world = make_world(nodes=30)
    world.put(*(make_app(f"/a{n}", instances=300) for n in range(8)))
    world.until(world.settled, 60)
    assert len(world.running) == 2400
    assert not world.kills
    assert len(world.launches) == 2400
    sizes = [len(node.tasks) for node in world.agents.values()]
    assert max(sizes) - min(sizes) <= 30


def test_offers_are_suppressed_when_nothing_waits(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=2))
    world.run(10)
    assert world.suppressed
    assert any(isinstance(c, SuppressOffers) for c in world.calls)
    seen = sum(isinstance(c, DeclineOffers) for c in world.calls)
    world.run(600)
    assert sum(isinstance(c, DeclineOffers) for c in world.calls) == seen
    began = world.now
    world.deploy(make_app(instances=3))
    assert any(isinstance(c, ReviveOffers) for c in world.calls)
    assert world.now - began < 2


def test_offers_declined_before_an_app_came_are_wanted_again(
    world: World, make_app: MakeApp
) -> None:
    world.run(0.5)
    assert any(isinstance(c, DeclineOffers) for c in world.calls)
    began = world.now
    world.deploy(make_app(instances=1))
    assert world.now - began < 2


def test_app_that_needs_docker_waits_with_the_reason(world: World, make_app: MakeApp) -> None:
    docker = {"type": "DOCKER", "docker": {"image": "nginx"}}
    world.put(make_app("/docker", container=docker), make_app(instances=1))
    world.run(5)
    assert len(world.tasks()) == 1
    assert not world.tasks("/docker")
    assert world.core.tables.pending("/docker") == 1
    assert "/docker" in world.core.tables.queue


def test_lost_agent_is_replaced_and_its_tasks_killed_when_it_returns(
    world: World, make_app: MakeApp
) -> None:
    world.deploy(make_app(instances=3))
    lost = sorted(world.tasks())[0]
    world.lose(lost)
    world.until(lambda: len(world.tasks()) == 4)
    world.find(lost)
    world.run(5)
    assert len(world.tasks()) == 3
    assert lost not in world.tasks()


def test_unreachable_instance_is_waited_for_by_its_strategy(
    world: World, make_app: MakeApp
) -> None:
    strategy = {"inactiveAfterSeconds": 60, "expungeAfterSeconds": 600}
    world.deploy(make_app(instances=2, unreachableStrategy=strategy))
    lost = sorted(world.tasks())[0]
    world.lose(lost)
    world.run(30)
    assert len(world.tasks()) == 2
    world.run(60)
    assert len(world.tasks()) == 3
    world.find(lost)
    world.run(10)
    assert len(world.tasks()) == 2


def test_stranger_is_killed(world: World, make_app: MakeApp) -> None:
    world.deploy(make_app(instances=1))
    name = "web.instance-11111111-1111-1111-1111-111111111111._app.1"
    world.running[name], world.where[name] = TaskState.RUNNING, "S0"
    world.agents["S0"].tasks[name] = next(iter(world.agents.values())).tasks.get(name)
    world.disconnect()
    world.connect()
    world.run(5)
    assert name not in world.running
    assert len(world.tasks()) == 1
    assert world.told(events.UnknownInstanceTerminated)


def test_sick_instance_is_killed_and_replaced(world: World, make_app: MakeApp) -> None:
    check = {
        "protocol": "HTTP", "path": "/h", "portIndex": 0, "gracePeriodSeconds": 20,
        "intervalSeconds": 5, "timeoutSeconds": 2, "maxConsecutiveFailures": 3,
    }  # fmt: skip
    world.deploy(make_app(instances=2, healthChecks=[check]))
    assert all(h.alive for i in world.instances() for h in world.core.tables.health_of(i.id))
    victim = world.instances()[0]
    task_id = victim.task.id
    world.probe = lambda probe: Probed(
        probe.key, probe.key[1] != task_id, 200 if probe.key[1] != task_id else 500, "status 500"
    )
    world.until(lambda: world.kills[task_id] == 1, 60)
    world.until(lambda: all(len(world.core.tables.health_of(i.id)) for i in world.instances()), 60)
    assert len(world.told(events.HealthCheckFailed)) == 3
    assert len(world.told(events.UnhealthyInstanceKilled)) == 1
    assert len(world.tasks()) == 2
    failure = world.core.tables.failures["/web"]
    assert failure.task.id == task_id
    assert failure.status.message.startswith("killed while not healthy: status 500.")


def test_deployment_waits_for_health(world: World, make_app: MakeApp) -> None:
    check = {"protocol": "TCP", "portIndex": 0, "gracePeriodSeconds": 3000, "intervalSeconds": 5}
    world.probe = lambda probe: Probed(probe.key, False, 0, "refused")
    world.put(make_app(instances=1, healthChecks=[check]))
    world.run(60)
    assert not world.settled()
    assert not world.kills
    world.probe = lambda probe: Probed(probe.key, True)
    world.until(world.settled, 10)


@pytest.mark.parametrize("ready_after", [0, 3])
def test_deployment_waits_for_readiness(world: World, make_app: MakeApp, ready_after: int) -> None:
    asked = []

    def probe(probe: Any) -> Probed:
        asked.append(probe)
        return Probed(probe.key, len(asked) > ready_after, 200 if len(asked) > ready_after else 503)

    check = {"portName": "http-api", "intervalSeconds": 10, "timeoutSeconds": 5}
    ports = [{"port": 0, "name": "http-api"}]
    world.probe = probe
    began = world.now
    world.deploy(make_app(instances=1, portDefinitions=ports, readinessChecks=[check]))
    assert len(asked) == ready_after + 1
    assert world.now - began >= 10 * ready_after
    assert not world.core.tables.readiness
