"""Subscribing, failing over, ending; FrameworkInfo that is refused."""

from random import Random

import pytest

from cairn_core.extensions import FrameworkId
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.types import FrameworkInfo, MinAllocatableResources, TaskState
from cairn_core.testing.master_rig import MASTER_ID, MasterRig, task
from cairn_scheduler.allocator import HierarchicalDrf

MULTI = (types.Capability("MULTI_ROLE"),)


@pytest.fixture
def rig() -> MasterRig:
    return MasterRig(HierarchicalDrf(Random(1)))


def test_ids_count_up_under_the_master(rig: MasterRig) -> None:
    assert rig.framework("a") == f"{MASTER_ID}-0000"
    assert rig.framework("b") == f"{MASTER_ID}-0001"
    subscribed = rig.events["a"][0].subscribed
    assert subscribed is not None
    assert subscribed.heartbeat_interval_seconds == 15.0
    assert subscribed.master_info is not None
    assert subscribed.master_info.id == MASTER_ID


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "role of a multi-role framework": ({"role": "a", "capabilities": MULTI}, "must not be set"),
    "roles without the capability": ({"roles": ("a",)}, "without MULTI_ROLE"),
    "bad role": ({"role": "a//b"}, "empty component"),
    "role twice": ({"roles": ("a", "a"), "capabilities": MULTI}, "twice"),
    "timeout": ({"failover_timeout": float("nan")}, "failover_timeout"),
    "id": ({"id": types.FrameworkID("a/b")}, "slash"),
    "long name": ({"hostname": "x" * 5000}, "longer than"),
    "root": ({"user": "root"}, "root submissions"),
    "minimum": (
        {
            "offer_filters": {
                "*": types.OfferFilters(
                    MinAllocatableResources(
                        (types.ResourceQuantities({"cpus": types.Scalar(-1.0)}),)
                    )
                )
            }
        },
        "offer_filters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_comes_as_one_error_on_the_stream(name: str) -> None:
    fields, message = REFUSED[name]
    rig = MasterRig(HierarchicalDrf(Random(1)), Settings(root_submissions=False))
    values: dict[str, object] = {"user": "nobody", "name": "web", **fields}
    info = FrameworkInfo(**values)  # type: ignore[arg-type]  # by name
    (event,) = rig.subscribe("s", scheduler_api.Subscribe(info))
    assert event.error is not None
    assert message in event.error.message
    assert rig.closed_streams == ["s"]
    assert not rig.cluster.frameworks


def test_roles_and_principals_of_the_settings() -> None:
    settings = Settings(roles=frozenset({"*", "ops"}), authenticate_frameworks=True)
    rig = MasterRig(HierarchicalDrf(Random(1)), settings)
    foreign = FrameworkInfo("nobody", "web", role="dev")
    (event,) = rig.subscribe("1", scheduler_api.Subscribe(foreign), "me")
    assert event.error is not None
    assert "dev" in event.error.message
    mine = FrameworkInfo("nobody", "web", role="ops", principal="me")
    (event,) = rig.subscribe("2", scheduler_api.Subscribe(mine), None)
    assert event.error is not None
    (event,) = rig.subscribe("3", scheduler_api.Subscribe(mine), "you")
    assert event.error is not None
    assert "does not match" in event.error.message
    (event,) = rig.subscribe("4", scheduler_api.Subscribe(mine), "me")
    assert event.subscribed is not None


def again(framework_id: str, **fields: object) -> scheduler_api.Subscribe:
    values: dict[str, object] = {
        "user": "nobody", "name": "web", "id": types.FrameworkID(framework_id), **fields,
    }  # fmt: skip
    return scheduler_api.Subscribe(FrameworkInfo(**values))  # type: ignore[arg-type]  # by name


def test_a_second_stream_takes_over(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework("web", failover_timeout=60.0, checkpoint=True)
    rig.allocate()
    rig.accept(framework_id, task("t1", agent_id), refuse_s=0.0)
    rig.allocate()
    assert rig.cluster.offers
    rig.subscribe("new", again(framework_id, failover_timeout=90.0, user="other"))
    error = rig.events["web"][-1].error
    assert error is not None
    assert error.message == "Framework failed over"
    assert rig.closed_streams == ["web"]
    assert not rig.cluster.offers
    framework = rig.cluster.frameworks[FrameworkId(framework_id)]
    assert framework.stream_id == "new"
    assert framework.info.failover_timeout == 90.0
    assert (framework.info.user, framework.info.checkpoint) == ("nobody", True)
    assert isinstance(rig.messages[1][-1], agent_api.UpdateFramework)
    assert "t1" in framework.tasks
    rig.do(rig.core.stream_closed("web", now=rig.now, wall=rig.wall))
    assert framework.connected, "the end of the old stream is no news"


def test_the_principal_cannot_change(rig: MasterRig) -> None:
    framework_id = rig.framework("web", principal="a")
    rig.subscribe("new", again(framework_id, principal="b"))
    error = rig.events["new"][-1].error
    assert error is not None
    assert error.message == "Changing framework's principal is not allowed."
    assert "web" not in rig.closed_streams


def test_a_lost_framework_is_waited_for_and_then_removed(rig: MasterRig) -> None:
    agent_id = rig.agent()
    framework_id = rig.framework("web", failover_timeout=60.0)
    rig.allocate()
    rig.accept(framework_id, task("t1", agent_id))
    rig.do(rig.core.stream_closed("web", now=rig.now, wall=rig.wall))
    rig.pass_time(59.0)
    framework = next(iter(rig.cluster.frameworks.values()))
    assert (framework.connected, list(framework.tasks)) == (False, ["t1"])
    rig.pass_time(2.0)
    assert not rig.cluster.frameworks
    assert isinstance(rig.messages[1][-1], agent_api.ShutdownFramework)
    (ended,) = framework.completed_tasks
    assert ended.state is TaskState.KILLED
    assert ended.describe().statuses[-1].reason == "REASON_FRAMEWORK_REMOVED"
    assert rig.cluster.agents[ended.agent_id].used == {}
    rig.subscribe("late", again(framework_id))
    error = rig.events["late"][-1].error
    assert error is not None
    assert error.message == "Framework has been removed"


def test_without_failover_timeout_it_is_removed_at_once(rig: MasterRig) -> None:
    rig.framework("web")
    rig.do(rig.core.stream_closed("web", now=rig.now, wall=rig.wall))
    rig.pass_time(0.0)
    assert not rig.cluster.frameworks
    assert len(rig.cluster.completed_frameworks) == 1


def test_an_id_of_another_master_is_taken(rig: MasterRig) -> None:
    (event,) = rig.subscribe("s", again("other-master-0007"))
    assert event.subscribed is not None
    assert event.subscribed.framework_id.value == "other-master-0007"


def test_fifty_ended_frameworks_are_remembered(rig: MasterRig) -> None:
    ids = [rig.framework(f"f{n}") for n in range(60)]
    for framework_id in ids:
        rig.call(framework_id, "TEARDOWN")
    assert list(rig.cluster.completed_frameworks) == ids[10:]


def test_suppress_and_revive(rig: MasterRig) -> None:
    rig.agent()
    framework_id = rig.framework(roles=("a", "b"), capabilities=MULTI)
    rig.call(framework_id, "SUPPRESS", suppress=scheduler_api.Suppress(("a", "c")))
    assert rig.cluster.counts["master/dropped_messages"] == 1
    framework = next(iter(rig.cluster.frameworks.values()))
    assert framework.suppressed == frozenset()
    rig.call(framework_id, "SUPPRESS", suppress=scheduler_api.Suppress())
    assert framework.suppressed == {"a", "b"}
    rig.allocate()
    assert not rig.cluster.offers
    rig.call(framework_id, "REVIVE", revive=scheduler_api.Revive(("b",)))
    assert framework.suppressed == {"a"}
    rig.allocate()
    assert [offer.role for offer in rig.cluster.offers.values()] == ["b"]


def test_updating_a_framework_in_place(rig: MasterRig) -> None:
    rig.agent()
    framework_id = rig.framework(roles=("a",), capabilities=MULTI)
    rig.allocate()
    assert len(rig.cluster.offers) == 1

    def update(**fields: object) -> int:
        values: dict[str, object] = {
            "user": "nobody", "name": "web", "id": types.FrameworkID(framework_id),
            "roles": ("b",), "capabilities": MULTI, **fields,
        }  # fmt: skip
        info = FrameworkInfo(**values)  # type: ignore[arg-type]  # by name
        call = scheduler_api.UpdateFramework(info, ("b",))
        rig.do(rig.core.update_framework(7, framework_id, call, now=rig.now, wall=rig.wall))
        return rig.replies.pop(7).status

    assert update(user="other") == 400
    assert update(checkpoint=True) == 400
    assert update(principal="p") == 400
    assert update(roles=("a//",)) == 400
    assert len(rig.cluster.offers) == 1
    assert update() == 200
    assert not rig.cluster.offers, "offers for a role that was left are rescinded"
    framework = next(iter(rig.cluster.frameworks.values()))
    assert (framework.roles, framework.suppressed) == (
        frozenset({"b"}),
        frozenset({"b"}),
    )


def test_offer_constraints_choose_agents(rig: MasterRig) -> None:
    rig.agent(1)
    rig.agent(2)
    selector = scheduler_api.Selector("HOSTNAME")
    predicate = scheduler_api.Predicate(text_matches=scheduler_api.RegexPredicate("host[2-9]"))
    constraint = scheduler_api.AttributeConstraint(selector, predicate)
    group = scheduler_api.ConstraintGroup((constraint,))
    wire = scheduler_api.OfferConstraints({"*": scheduler_api.RoleConstraints((group,))})
    info = FrameworkInfo("nobody", "picky")
    rig.subscribe("s", scheduler_api.Subscribe(info, offer_constraints=wire))
    rig.allocate()
    assert [a.hostname for a in rig.cluster.agents.values() if a.offers] == ["host2"]
    broken = scheduler_api.Predicate(text_matches=scheduler_api.RegexPredicate("("))
    constraint = scheduler_api.AttributeConstraint(selector, broken)
    group = scheduler_api.ConstraintGroup((constraint,))
    wire = scheduler_api.OfferConstraints({"*": scheduler_api.RoleConstraints((group,))})
    (event,) = rig.subscribe("t", scheduler_api.Subscribe(info, offer_constraints=wire))
    assert event.error is not None
    assert "offer_constraints" in event.error.message
