"""What the rules do when the disk refuses a write and the process ends later."""

from random import Random

import pytest

from cairn_core.agent import recovery
from cairn_core.agent.effects import (
    Disconnect,
    Effect,
    ExecutorSubscribed,
    ExecutorUpdate,
    Fact,
    LaunchContainer,
    Persist,
    PersistFailed,
    Settings,
    ToExecutor,
    ToMaster,
)
from cairn_core.agent.state import AgentState
from cairn_core.mesos import agent_api
from cairn_core.mesos.types import (
    AgentID,
    AgentInfo,
    CommandInfo,
    ExecutorID,
    ExecutorInfo,
    FrameworkID,
    FrameworkInfo,
    TaskID,
    TaskInfo,
    TaskState,
    TaskStatus,
)
from cairn_core.testing.agents import AGENT_ID, MASTER_INFO
from cairn_core.testing.sim.disk import SimDisk

FRAMEWORK = FrameworkInfo(user="root", name="test", id=FrameworkID("fw"), checkpoint=True)
SETTINGS = Settings(
    info=AgentInfo(hostname="agent-1"), work_dir="/w", endpoint="127.0.0.1:5051", pid="slave(1)@x"
)
TASK = TaskInfo(
    "t", TaskID("t"), AgentID(AGENT_ID),
    executor=ExecutorInfo(ExecutorID("e"), command=CommandInfo(value="x")),
)  # fmt: skip


class Process:
    """Rules over a disk that can be full."""

    def __init__(self) -> None:
        self.disk = SimDisk(Random(1))
        self.sent: list[agent_api.AgentMessage] = []
        self.told: list[str] = []
        self.launched: list[str] = []
        self.dropped = 0
        self.begin()

    def begin(self) -> None:
        """A process starts and finds what the one before left."""
        self.state = AgentState(SETTINGS, Random(2))
        recovery.restore(self.state, dict(self.disk.files), self.disk.latest, strict=True)

    def feed(self, fact: Fact, *, full: bool = False) -> None:
        for effect in self.state.handle(fact, now=0.0, wall=0.0):
            if not isinstance(effect, Persist):
                self.do(effect)
            elif not full:
                self.disk.apply([effect.writes])
                for then in effect.then:
                    self.do(then)
            elif effect.failed is not None:
                self.feed(PersistFailed(effect.failed, "No space left on device"))
        self.state.check()

    def do(self, effect: Effect) -> None:
        match effect:
            case ToMaster(message):
                self.sent.append(message)
            case ToExecutor(event=event):
                self.told.append(event.type)
            case LaunchContainer(container_id):
                self.launched.append(container_id)
            case Disconnect():
                self.dropped += 1

    def register(self) -> None:
        self.feed(agent_api.Welcome(AgentID(AGENT_ID), 1, 75.0, MASTER_INFO))
        self.feed(agent_api.Registered(()))

    def run(self, *, joins: bool = False) -> None:
        self.register()
        self.feed(agent_api.RunTask(1, "op", FRAMEWORK, TASK, joins))

    def subscribe(self, *updates: TaskStatus, tasks: tuple[TaskInfo, ...] = ()) -> None:
        self.feed(ExecutorSubscribed("fw", "e", 1, tasks, updates))

    def update(self, status: TaskStatus, *, full: bool = False) -> None:
        self.feed(ExecutorUpdate("fw", "e", status), full=full)

    def acknowledge(self, status: TaskStatus, *, full: bool = False) -> None:
        assert status.uuid is not None
        ack = agent_api.Acknowledge(1, FrameworkID("fw"), TaskID("t"), status.uuid)
        self.feed(ack, full=full)


def status(state: TaskState) -> TaskStatus:
    return TaskStatus(TaskID("t"), state, source="SOURCE_EXECUTOR", uuid=state.encode().ljust(16))


RUNNING, FINISHED = status(TaskState.RUNNING), status(TaskState.FINISHED)


@pytest.fixture
def process() -> Process:
    return Process()


def test_an_epoch_that_was_not_written_is_written_before_anything_is_done(
    process: Process,
) -> None:
    welcome = agent_api.Welcome(AgentID(AGENT_ID), 3, 75.0, MASTER_INFO)
    process.feed(welcome, full=True)
    assert (process.sent, process.dropped) == ([], 1)
    process.feed(welcome)
    assert process.disk.files["master.epoch"] == b"3"
    assert process.sent


def test_an_update_is_confirmed_only_once_it_is_on_disk(process: Process) -> None:
    process.run()
    process.subscribe()
    process.update(RUNNING, full=True)
    assert "ACKNOWLEDGED" not in process.told
    process.subscribe(RUNNING, tasks=(TASK,))
    assert process.told.count("ACKNOWLEDGED") == 1
    process.begin()
    process.subscribe()
    assert process.told.count("LAUNCH") == 1, "the task runs, and is not launched again"


def test_a_later_acknowledgement_stands_for_the_earlier_ones(process: Process) -> None:
    process.run()
    process.subscribe()
    process.update(RUNNING)
    process.acknowledge(RUNNING, full=True)
    process.update(FINISHED)
    process.acknowledge(FINISHED)
    process.begin()
    assert process.state.find_task("fw", "t") is None


def test_an_end_that_only_the_master_knew_of_is_learned_from_the_executor(
    process: Process,
) -> None:
    process.run()
    process.subscribe()
    process.update(RUNNING)
    process.acknowledge(RUNNING)
    process.update(FINISHED, full=True)
    process.acknowledge(FINISHED)
    process.begin()
    found = process.state.find_task("fw", "t")
    assert found is not None
    assert found[1].state is TaskState.RUNNING
    process.subscribe(FINISHED)
    assert process.state.find_task("fw", "t") is None
    process.begin()
    assert process.state.find_task("fw", "t") is None


def test_a_task_does_not_join_an_executor_that_has_ended(process: Process) -> None:
    """The master counts only the task's resources, so a new executor would be counted nowhere."""
    process.run(joins=True)
    assert process.launched == []
    (update,) = (m for m in process.sent if isinstance(m, agent_api.Update))
    assert update.status.state is TaskState.LOST
    assert update.status.reason == "REASON_EXECUTOR_TERMINATED"


def test_a_refused_launch_is_told(process: Process) -> None:
    process.register()
    run = agent_api.RunTask(1, "op", FRAMEWORK, TASK)
    process.feed(run, full=True)
    assert process.launched == []
    (update,) = (m for m in process.sent if isinstance(m, agent_api.Update))
    assert update.status.state is TaskState.FAILED
