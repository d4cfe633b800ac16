"""Status updates, acknowledgements, kills, reconciliation."""

from random import Random

import pytest

from cairn_core.extensions import AgentId
from cairn_core.master.registry import RegistryImage
from cairn_core.master.state.records import KnownAgent
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.scheduler_api import Event
from cairn_core.mesos.types import TaskState
from cairn_core.testing.master_rig import MasterRig, task
from cairn_scheduler.allocator import HierarchicalDrf


class Running(MasterRig):
    """One framework with one task `t1` on one agent."""

    def __init__(self, *capabilities: str) -> None:
        super().__init__(HierarchicalDrf(Random(1)))
        self.agent_id = self.agent()
        self.id = self.framework(
            failover_timeout=1000.0,
            capabilities=tuple(types.Capability(name) for name in capabilities),
        )
        self.allocate()
        self.accept(self.id, task("t1", self.agent_id), refuse_s=3600.0)

    def status(self) -> types.TaskStatus:
        """The newest status that the framework was told."""
        updates = [e.update.status for e in self.events["web"] if e.update is not None]
        return updates[-1]

    def acknowledge(self, uuid: bytes) -> None:
        body = scheduler_api.Acknowledge(types.AgentID(self.agent_id), types.TaskID("t1"), uuid)
        self.call(self.id, "ACKNOWLEDGE", acknowledge=body)

    def reconcile(self, *tasks: scheduler_api.ReconcileTask) -> list[types.TaskStatus]:
        events = self.call(self.id, "RECONCILE", reconcile=scheduler_api.Reconcile(tasks))
        return [event.update.status for event in events if event.update is not None]

    def of_kind(self, kind: type) -> list[agent_api.MasterMessage]:
        return [m for m in self.messages[1] if isinstance(m, kind)]


@pytest.fixture
def rig() -> Running:
    return Running("PARTITION_AWARE")


def asked(task_id: str, agent_id: str | None = None) -> scheduler_api.ReconcileTask:
    return scheduler_api.ReconcileTask(
        types.TaskID(task_id), types.AgentID(agent_id) if agent_id else None
    )


def test_an_update_is_forwarded_and_kept(rig: Running) -> None:
    uuid = rig.update(1, rig.id, "t1", TaskState.RUNNING, healthy=True, data=b"x", message="m")
    assert rig.status().uuid == uuid
    assert rig.status().data == b"x"
    record = rig.cluster.frameworks[rig.id].tasks["t1"]
    assert record.state is TaskState.RUNNING
    assert record.healthy
    (kept,) = record.describe().statuses
    assert (kept.uuid, kept.data, kept.message) == (None, None, None)
    assert rig.cluster.counts["master/valid_status_updates"] == 1


def test_a_repeated_update_is_forwarded_again_and_kept_once(rig: Running) -> None:
    for _ in range(3):
        rig.update(1, rig.id, "t1", TaskState.RUNNING)
    told = [e for e in rig.events["web"] if e.update is not None]
    assert len(told) == 3
    assert len(rig.cluster.frameworks[rig.id].tasks["t1"].statuses) == 1


def test_one_status_per_state_is_kept(rig: Running) -> None:
    for number, state in enumerate([TaskState.STARTING, TaskState.RUNNING, TaskState.RUNNING]):
        rig.update(1, rig.id, "t1", state, uuid=bytes([number]) * 16)
    record = rig.cluster.frameworks[rig.id].tasks["t1"]
    assert [kept.state for kept in record.statuses] == [TaskState.STARTING, TaskState.RUNNING]


def test_the_end_frees_resources_and_the_acknowledgement_the_record(rig: Running) -> None:
    running = rig.update(1, rig.id, "t1", TaskState.RUNNING)
    rig.acknowledge(running)
    assert "t1" in rig.cluster.frameworks[rig.id].tasks
    ended = rig.update(1, rig.id, "t1", TaskState.FINISHED)
    assert rig.cluster.agents[rig.agent_id].used == {}
    assert "t1" in rig.cluster.frameworks[rig.id].tasks, "until it is acknowledged"
    rig.acknowledge(b"another update.."[:16])
    assert "t1" in rig.cluster.frameworks[rig.id].tasks
    rig.acknowledge(ended)
    framework = rig.cluster.frameworks[rig.id]
    assert not framework.tasks
    assert [t.task_id for t in framework.completed_tasks] == ["t1"]
    assert [m.uuid for m in rig.of_kind(agent_api.Acknowledge)][-1:] == [ended]  # type: ignore[union-attr]  # of that kind
    assert rig.cluster.counts["master/tasks_finished"] == 1


def test_resources_are_free_when_the_agent_knows_the_end_already(rig: Running) -> None:
    rig.update(1, rig.id, "t1", TaskState.RUNNING, latest=TaskState.FAILED)
    assert rig.cluster.agents[rig.agent_id].used == {}
    record = rig.cluster.frameworks[rig.id].tasks["t1"]
    assert (record.state, record.status_update_state) == (TaskState.FAILED, TaskState.RUNNING)
    assert rig.reconcile()[0].state is TaskState.RUNNING, "what was forwarded last"


def test_kill_reaches_the_agent(rig: Running) -> None:
    policy = types.KillPolicy(types.DurationInfo(5_000_000_000))
    rig.call(rig.id, "KILL", kill=scheduler_api.Kill(types.TaskID("t1"), kill_policy=policy))
    (kill,) = rig.of_kind(agent_api.KillTask)
    assert isinstance(kill, agent_api.KillTask)
    assert (kill.task_id.value, kill.kill_policy) == ("t1", policy)


def test_kill_on_another_agent_is_ignored(rig: Running) -> None:
    body = scheduler_api.Kill(types.TaskID("t1"), types.AgentID("other"))
    assert rig.call(rig.id, "KILL", kill=body) == []
    assert rig.of_kind(agent_api.KillTask) == []


def test_kill_of_an_unknown_task_is_a_reconciliation(rig: Running) -> None:
    rig.call(rig.id, "KILL", kill=scheduler_api.Kill(types.TaskID("nobody")))
    assert rig.status().state is TaskState.UNKNOWN
    assert rig.status().reason == "REASON_RECONCILIATION"


def test_a_kill_waits_for_the_agent(rig: Running) -> None:
    rig.close_link(1)
    rig.call(rig.id, "KILL", kill=scheduler_api.Kill(types.TaskID("t1")))
    assert rig.of_kind(agent_api.KillTask) == []
    framework = rig.cluster.frameworks[rig.id]
    listed = framework.tasks["t1"].describe()
    rig.say(2, rig.hello(2, agent_id=rig.agent_id))
    answers = rig.say(2, agent_api.Inventory((framework.info,), (), (listed,), last=True))
    assert [type(m).__name__ for m in answers] == ["Registered", "KillTask"]


def test_messages_go_both_ways(rig: Running) -> None:
    body = scheduler_api.SchedulerMessage(
        types.AgentID(rig.agent_id), types.ExecutorID("t1"), b"down"
    )
    rig.call(rig.id, "MESSAGE", message=body)
    (down,) = rig.of_kind(agent_api.ToExecutor)
    assert isinstance(down, agent_api.ToExecutor)
    assert down.data == b"down"
    rig.say(1, agent_api.FromExecutor(types.FrameworkID(rig.id), types.ExecutorID("t1"), b"up"))
    up = rig.events["web"][-1].message
    assert up is not None
    assert (up.data, up.agent_id.value) == (b"up", rig.agent_id)


def test_shutdown_of_an_executor(rig: Running) -> None:
    body = scheduler_api.Shutdown(types.ExecutorID("t1"), types.AgentID(rig.agent_id))
    rig.call(rig.id, "SHUTDOWN", shutdown=body)
    assert len(rig.of_kind(agent_api.ShutdownExecutor)) == 1


def test_reconciling_known_tasks(rig: Running) -> None:
    rig.update(1, rig.id, "t1", TaskState.RUNNING, healthy=False)
    for found in (rig.reconcile(), rig.reconcile(asked("t1"))):
        (status,) = found
        assert status.state is TaskState.RUNNING
        assert status.message == "Reconciliation: Latest task state"
        assert (status.uuid, status.source) == (None, "SOURCE_MASTER")
        assert status.healthy is False


def test_a_large_reconciliation_comes_in_parts(rig: Running) -> None:
    many = tuple(asked(f"x{n}") for n in range(1200))
    assert len(rig.reconcile(*many)) == 250
    assert rig.reconcile() == [], "it waits for its turn"
    assert rig.reconcile() == [], "and asking again changes nothing"
    before = len(rig.events["web"])
    rig.pass_time(1.0)
    told = [event.update.status for event in rig.events["web"][before:] if event.update]
    assert [status.task_id.value for status in told[:2]] == ["x250", "x251"]
    assert len(told) == 951
    assert told[-1].task_id.value == "t1"
    assert len(rig.reconcile()) == 1


@pytest.mark.parametrize("aware", [True, False])
def test_reconciling_unknown_tasks(aware: bool) -> None:
    rig = Running(*(["PARTITION_AWARE"] if aware else []))
    rig.cluster.gone_agents[AgentId("g")] = KnownAgent(AgentId("g"), b"{}", "h")
    rig.cluster.unreachable_agents[AgentId("u")] = KnownAgent(AgentId("u"), b"{}", "h", 7.0)
    found = rig.reconcile(
        asked("x", rig.agent_id), asked("x", "u"), asked("x", "g"), asked("x", "y"), asked("x")
    )
    states = [status.state.removeprefix("TASK_") for status in found]
    expected = ["GONE", "UNREACHABLE", "GONE_BY_OPERATOR", "UNKNOWN", "UNKNOWN"]
    assert states == (expected if aware else ["LOST"] * 5)
    assert found[1].unreachable_time == types.TimeInfo(7_000_000_000)


def test_nothing_is_said_of_tasks_whose_agent_may_return() -> None:
    waited = KnownAgent(AgentId("w"), b'{"hostname":"h"}', "h")
    rig = MasterRig(HierarchicalDrf(Random(1)), registry=RegistryImage(admitted={"w": waited}))
    framework_id = rig.framework(capabilities=(types.Capability("PARTITION_AWARE"),))

    def ask(*tasks: scheduler_api.ReconcileTask) -> list[Event]:
        return rig.call(framework_id, "RECONCILE", reconcile=scheduler_api.Reconcile(tasks))

    assert ask(asked("x", "w"), asked("x")) == []
    assert len(ask(asked("x", "other"))) == 1
    rig.pass_time(700.0)
    (event,) = ask(asked("x", "w"))
    assert event.update is not None
    assert event.update.status.state is TaskState.UNREACHABLE
    assert len(ask(asked("x"))) == 1


def test_updates_of_ended_frameworks_end_them_on_the_agent(rig: Running) -> None:
    rig.call(rig.id, "TEARDOWN")
    before = len(rig.of_kind(agent_api.ShutdownFramework))
    assert before == 1
    rig.update(1, rig.id, "t1", TaskState.RUNNING)
    assert len(rig.of_kind(agent_api.ShutdownFramework)) == before + 1
