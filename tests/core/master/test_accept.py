"""ACCEPT: launches, refusals and what becomes of the resources."""

from random import Random

import msgspec
import pytest

from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.scheduler_api import Event
from cairn_core.mesos.types import TaskState
from cairn_core.resources import Resources
from cairn_core.testing.master_rig import MasterRig, task
from cairn_scheduler.allocator import HierarchicalDrf

AWARE = (types.Capability("PARTITION_AWARE"),)


@pytest.fixture
def rig() -> MasterRig:
    return MasterRig(HierarchicalDrf(Random(1)))


def statuses(events: list[Event]) -> list[types.TaskStatus]:
    return [event.update.status for event in events if event.update is not None]


def run_tasks(rig: MasterRig, link: int) -> list[agent_api.RunTask]:
    return [m for m in rig.messages[link] if isinstance(m, agent_api.RunTask)]


def test_an_offer_has_the_form_of_the_original(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    offers = rig.events["web"][-1].offers
    assert offers is not None
    (offer,) = offers.offers
    assert offer.id.value.endswith("-O0")
    assert offer.framework_id.value == framework_id
    assert offer.agent_id.value == agent_id
    assert offer.hostname == "host1"
    assert offer.url is not None
    assert (offer.url.address.ip, offer.url.address.port) == ("10.0.0.1", 5051)
    assert offer.url.path == "/slave(1)"
    assert offer.allocation_info is None, "not without MULTI_ROLE"
    assert Resources.from_wire(offer.resources) == rig.cluster.agents[agent_id].total


def test_multi_role_frameworks_see_the_role(rig: MasterRig) -> None:
    rig.agent()
    rig.framework(roles=("a", "b"), capabilities=(types.Capability("MULTI_ROLE"),))
    rig.allocate()
    offers = rig.events["web"][-1].offers
    assert offers is not None
    (offer,) = offers.offers
    assert offer.allocation_info is not None
    assert offer.allocation_info.role in {"a", "b"}
    assert all(r.allocation_info == offer.allocation_info for r in offer.resources)


def test_a_task_goes_to_its_agent_and_the_rest_comes_back(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    assert rig.accept(framework_id, task("t1", agent_id), refuse_s=0.0) == []
    (run,) = run_tasks(rig, 1)
    assert run.epoch == 1
    assert run.framework.id == types.FrameworkID(framework_id)
    assert all(r.allocation_info == types.AllocationInfo("*") for r in run.task.resources), (
        "the master fills in the role"
    )
    record = rig.cluster.frameworks[framework_id].tasks["t1"]
    assert record.state is TaskState.STAGING
    assert record.describe().state is TaskState.STAGING
    rig.allocate()
    (offer,) = rig.cluster.offers.values()
    assert offer.resources.scalar("cpus") == 3000


def test_a_refused_rest_is_not_offered_again_before_its_time(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    rig.accept(framework_id, task("t1", agent_id), refuse_s=20.0)
    rig.allocate()
    assert not rig.cluster.offers
    rig.pass_time(20.0)
    rig.allocate()
    assert len(rig.cluster.offers) == 1


@pytest.mark.parametrize("aware", [True, False])
def test_an_offer_that_is_gone_loses_the_tasks(rig: MasterRig, aware: bool) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework(capabilities=AWARE if aware else ())
    rig.allocate()
    valid = list(rig.cluster.offers)
    (status,) = statuses(
        rig.accept(framework_id, task("t1", agent_id), offers=[*valid, "no-such-offer"])
    )
    assert status.state is (TaskState.DROPPED if aware else TaskState.LOST)
    assert status.reason == "REASON_INVALID_OFFERS"
    assert status.source == "SOURCE_MASTER"
    assert status.uuid is None
    assert (status.message or "").startswith("Task launched with invalid offers:")
    assert not rig.cluster.offers, "the valid offer is recovered too"
    rig.allocate()
    assert len(rig.cluster.offers) == 1, "and without a filter"


def test_the_same_offer_twice_is_invalid(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    (offer_id,) = rig.cluster.offers
    (status,) = statuses(
        rig.accept(framework_id, task("t1", agent_id), offers=[offer_id, offer_id])
    )
    assert "Duplicate offer" in (status.message or "")


def test_offers_of_two_agents_cannot_be_combined(rig: MasterRig) -> None:
    agent_id = rig.agent(1)
    rig.agent(2)
    framework_id = rig.framework()
    rig.allocate()
    assert len(rig.cluster.offers) == 2
    (status,) = statuses(rig.accept(framework_id, task("t1", agent_id)))
    assert "single agent" in (status.message or "")
    assert not rig.cluster.offers


def test_launching_on_no_offer_loses_the_tasks(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    (status,) = statuses(rig.accept(framework_id, task("t1", agent_id), offers=[]))
    assert status.reason == "REASON_INVALID_OFFERS"


def invalid(rig: MasterRig, info: types.TaskInfo) -> types.TaskStatus:
    """The answer to a launch on the only offer."""
    (framework_id,) = rig.cluster.frameworks
    rig.allocate()
    (status,) = statuses(rig.accept(framework_id, info, refuse_s=0.0))
    assert status.state is TaskState.ERROR
    assert status.reason == "REASON_TASK_INVALID"
    assert not rig.cluster.frameworks[framework_id].tasks
    return status


CASES: dict[str, tuple[dict[str, object], str]] = {
    "too much": ({"resources": "cpus:100"}, "more than available"),
    "nothing": ({"resources": ""}, "uses no resources"),
    "bad id": ({"task_id": "a/b"}, "slash"),
    "dots": ({"task_id": ".."}, "disallowed"),
    "neither": ({"command": None}, "at least one (but not both)"),
    "port taken": ({"resources": "ports:[1-2]"}, "more than available"),
    "no value": ({"command": types.CommandInfo()}, "'TaskInfo.command.value' must be set"),
    "null byte": ({"command": types.CommandInfo(value="a\0b")}, "null byte"),
    "grace": (
        {"kill_policy": types.KillPolicy(types.DurationInfo(-1))},
        "must be non-negative",
    ),
    "health": (
        {
            "health_check": types.HealthCheck(
                delay_seconds=-1.0, command=types.CommandInfo(value="x")
            )
        },
        "'delay_seconds' to be non-negative",
    ),
    "health type": ({"health_check": types.HealthCheck()}, "must specify 'type'"),
    "check": ({"check": types.CheckInfo("HTTP")}, "expecting 'http' to be set"),
    "limit below": ({"limits": {"cpus": types.LimitScalar(0.5)}}, "below its request"),
    "limit name": ({"limits": {"disk": types.LimitScalar(9.0)}}, "only cpus and mem"),
    "limit nan": ({"limits": {"mem": types.LimitScalar("lots")}}, "is not a number"),
    "default executor": (
        {
            "command": None,
            "executor": types.ExecutorInfo(types.ExecutorID("e"), "DEFAULT"),
        },
        "default executor is not supported",
    ),
    "executor without command": (
        {"command": None, "executor": types.ExecutorInfo(types.ExecutorID("e"))},
        "must be set for 'CUSTOM' executor",
    ),
    "variable": (
        {
            "command": types.CommandInfo(
                value="x",
                environment=types.Environment((types.EnvironmentVariable("A"),)),
            )
        },
        "must have a value set",
    ),
    "too large": ({"data": b"x" * 2_000_000}, "bytes of JSON"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_a_task_is_said(rig: MasterRig, name: str) -> None:
    changed, message = CASES[name]
    agent_id = rig.agent()
    rig.framework()
    fields = dict(changed)
    task_id = str(fields.pop("task_id", "t1"))
    resources = str(fields.pop("resources", "cpus:1;mem:128"))
    info = task(task_id, agent_id, resources, **fields)
    assert message in (invalid(rig, info).message or "")


def test_a_task_for_another_agent_is_invalid(rig: MasterRig) -> None:
    rig.agent()
    rig.framework()
    assert "invalid agent other" in (invalid(rig, task("t1", "other")).message or "")


def test_malformed_resources_name_field_and_value(rig: MasterRig) -> None:
    agent_id = rig.agent()
    rig.framework()
    wire = (types.Resource("cpus", "SCALAR", scalar=types.Scalar(-1.0)),)
    info = msgspec.structs.replace(task("t1", agent_id), resources=wire)
    message = invalid(rig, info).message
    assert "-1.0" in (message or "")


def test_an_id_that_lives_cannot_be_used_again(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    (status,) = statuses(
        rig.accept(framework_id, task("t1", agent_id), task("t1", agent_id), task("t2", agent_id))
    )
    assert status.message == "Task has duplicate ID: t1"
    assert sorted(rig.cluster.frameworks[framework_id].tasks) == ["t1", "t2"]


def test_one_bad_task_does_not_hold_up_the_others(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    (status,) = statuses(
        rig.accept(
            framework_id,
            task("t1", agent_id, "cpus:3"),
            task("t2", agent_id, "cpus:3"),
            task("t3", agent_id, "cpus:1"),
        )
    )
    assert status.task_id.value == "t2"
    assert [run.task.task_id.value for run in run_tasks(rig, 1)] == ["t1", "t3"]


def group(agent_id: str) -> scheduler_api.Operation:
    return scheduler_api.Operation(
        "LAUNCH_GROUP",
        launch_group=scheduler_api.LaunchGroup(
            types.ExecutorInfo(types.ExecutorID("e"), "DEFAULT"),
            types.TaskGroupInfo((task("g1", agent_id), task("g2", agent_id))),
        ),
    )


def test_what_is_not_served_is_answered(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    launch = scheduler_api.Operation(
        "LAUNCH",
        id=types.OperationID("op"),
        launch=scheduler_api.Launch((task("t1", agent_id),)),
    )
    reserve = scheduler_api.Operation("RESERVE", types.OperationID("r1"), reserve={})
    silent = scheduler_api.Operation("CREATE", create={})
    events = rig.accept(
        framework_id, operations=(group(agent_id), launch, reserve, silent), refuse_s=0.0
    )
    assert [(s.task_id.value, s.state, s.reason) for s in statuses(events)] == [
        ("g1", TaskState.ERROR, "REASON_TASK_GROUP_INVALID"),
        ("g2", TaskState.ERROR, "REASON_TASK_GROUP_INVALID"),
        ("t1", TaskState.ERROR, "REASON_TASK_INVALID"),
    ]
    (answer,) = [e.update_operation_status for e in events if e.update_operation_status]
    assert answer.status.state == "OPERATION_ERROR"
    assert answer.status.operation_id == types.OperationID("r1")
    rig.allocate()
    (offer,) = rig.cluster.offers.values()
    assert offer.resources == rig.cluster.agents[offer.agent_id].total


def executor(memory: int = 32) -> types.ExecutorInfo:
    return types.ExecutorInfo(
        types.ExecutorID("e"),
        command=types.CommandInfo(value="./executor"),
        resources=tuple(Resources.parse(f"cpus:0.5;mem:{memory}").to_wire()),
    )


def test_an_executor_is_paid_once(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    first, second = (
        task(name, agent_id, command=None, executor=executor()) for name in ("t1", "t2")
    )
    assert rig.accept(framework_id, first, second, refuse_s=0.0) == []
    agent = rig.cluster.agents[agent_id]
    assert agent.used[framework_id]["*"].scalar("cpus") == 2500
    third = task("t3", agent_id, command=None, executor=executor(64))
    assert "not compatible" in (invalid_on(rig, framework_id, third).message or "")
    rig.allocate()
    offers = rig.events["web"][-1].offers
    assert offers is not None
    assert offers.offers[0].executor_ids == (types.ExecutorID("e"),)
    rig.say(
        1,
        agent_api.ExecutorExited(types.FrameworkID(framework_id), types.ExecutorID("e"), 9),
    )
    failure = rig.events["web"][-1].failure
    assert failure is not None
    assert (failure.status, failure.executor_id) == (9, types.ExecutorID("e"))
    assert agent.used[framework_id]["*"].scalar("cpus") == 2000


def test_an_executor_that_an_agent_brought_along_takes_more_tasks(rig: MasterRig) -> None:
    """The agent lists it with the role that it is allocated to, which no framework sends."""
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    rig.accept(framework_id, task("t1", agent_id, command=None, executor=executor()))
    (run,) = run_tasks(rig, 1)
    assert run.task.executor is not None

    later = MasterRig(HierarchicalDrf(Random(1)))
    later.say(
        1,
        later.hello(1, agent_id=agent_id),
        agent_api.Inventory(
            frameworks=(run.framework,),
            executors=(agent_api.Executor(types.FrameworkID(framework_id), run.task.executor),),
            last=True,
        ),
    )
    info = msgspec.structs.replace(run.framework, failover_timeout=10.0)
    later.subscribe("web", scheduler_api.Subscribe(info))
    later.allocate()
    again = task("t2", agent_id, command=None, executor=executor())
    assert later.accept(framework_id, again) == []
    assert len(run_tasks(later, 1)) == 1


def invalid_on(rig: MasterRig, framework_id: str, info: types.TaskInfo) -> types.TaskStatus:
    rig.allocate()
    (status,) = statuses(rig.accept(framework_id, info, refuse_s=0.0))
    return status


@pytest.mark.parametrize("allowed", [True, False])
def test_a_task_cannot_become_root_behind_its_framework(allowed: bool) -> None:
    rig = MasterRig(HierarchicalDrf(Random(1)), Settings(root_submissions=allowed))
    agent_id = rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    command = types.CommandInfo(value="id", user="root")
    executor = types.ExecutorInfo(types.ExecutorID("e"), command=command)
    events = rig.accept(
        framework_id,
        task("t1", agent_id, command=command),
        task("t2", agent_id, command=None, executor=executor),
        task("t3", agent_id),
    )
    refused = [(s.task_id.value, s.state, s.reason) for s in statuses(events)]
    error = (TaskState.ERROR, "REASON_TASK_INVALID")
    assert refused == ([] if allowed else [("t1", *error), ("t2", *error)])
    assert [m.task.task_id.value for m in run_tasks(rig, 1)][-1] == "t3"


def test_decline_and_unknown_offers(rig: MasterRig) -> None:
    rig.agent()
    framework_id = rig.framework()
    rig.allocate()
    (offer_id,) = rig.cluster.offers
    ids = (types.OfferID("gone"), types.OfferID(offer_id))
    assert rig.call(framework_id, "DECLINE", decline=scheduler_api.Decline(ids)) == []
    assert not rig.cluster.offers
    rig.allocate()
    assert not rig.cluster.offers, "refused for 5 s when nothing is said"
    rig.call(framework_id, "REVIVE", revive=scheduler_api.Revive())
    rig.allocate()
    assert len(rig.cluster.offers) == 1


def test_offers_time_out() -> None:
    rig = MasterRig(HierarchicalDrf(Random(1)), Settings(offer_timeout_s=30.0))
    rig.agent()
    rig.framework()
    rig.allocate()
    (offer_id,) = rig.cluster.offers
    rig.pass_time(31.0)
    rescind = rig.events["web"][-1].rescind
    assert rescind is not None
    assert rescind.offer_id.value == offer_id
    assert not rig.cluster.offers


def test_outstanding_offers_are_bounded() -> None:
    rig = MasterRig(HierarchicalDrf(Random(1)), Settings(max_offers=2))
    for link in range(1, 6):
        rig.agent(link)
    rig.framework()
    for _ in range(8):
        rig.allocate()
        assert len(rig.cluster.offers) == 2
