"""The rules of the agent under every order of events and a crash at every point.

A model of the world around the rules: a disk that keeps what was written, containers and executors
that live on when the agent dies, a master that acknowledges late and lists what it expects. Effects
are carried out one by one - of a Persist one write at a time - and a crash forgets the rest.
"""

from collections import deque
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.agent import recovery
from cairn_core.agent.effects import (
    Append,
    CloseExecutor,
    ContainerLaunched,
    ContainerMissing,
    ContainerRecovered,
    ContainerTerminated,
    DestroyContainer,
    Discard,
    Effect,
    ExecutorDisconnected,
    ExecutorSubscribed,
    ExecutorUpdate,
    Fact,
    LaunchContainer,
    Link,
    MasterDisconnected,
    Persist,
    PersistFailed,
    Put,
    Remove,
    Settings,
    Tick,
    ToExecutor,
    ToMaster,
    UpdateContainer,
    Write,
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

FRAMEWORK = FrameworkInfo(user="root", name="test", id=FrameworkID("fw"), checkpoint=True)
SETTINGS = Settings(
    info=AgentInfo(hostname="agent-1"), work_dir="/w", endpoint="127.0.0.1:5051", pid="slave(1)@x"
)
NEXT = {
    TaskState.STAGING: TaskState.STARTING,
    TaskState.STARTING: TaskState.RUNNING,
    TaskState.RUNNING: TaskState.FINISHED,
}


def task_info(task_id: str, executor: str | None = None) -> TaskInfo:
    command = CommandInfo(value="x")
    return TaskInfo(
        name=task_id,
        task_id=TaskID(task_id),
        agent_id=AgentID(AGENT_ID),
        executor=ExecutorInfo(ExecutorID(executor), command=command) if executor else None,
        command=None if executor else command,
    )


@dataclass
class SimExecutor:
    """A process that outlives the agent, as it behaves behind the wire."""

    framework_id: str
    executor_id: str
    connected: bool = False
    stream: int = 0
    shutdown: bool = False
    states: dict[str, TaskState] = field(default_factory=dict)
    infos: dict[str, TaskInfo] = field(default_factory=dict)
    unconfirmed: list[TaskStatus] = field(default_factory=list)
    #: Tasks of which no update was confirmed.
    unacknowledged: set[str] = field(default_factory=set)


@dataclass
class World:
    """Everything outside of the rules, and the rules."""

    rng: Random
    disk: dict[str, bytes] = field(default_factory=dict)
    latest: str | None = None
    full: bool = False
    now: float = 0.0
    steps: deque[Effect] = field(default_factory=deque)
    running: dict[str, SimExecutor] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    #: What the master believes: task -> states in the order in which it was told.
    told: dict[str, list[TaskState]] = field(default_factory=dict)
    to_acknowledge: list[agent_api.Update] = field(default_factory=list)
    told_uuids: set[bytes | None] = field(default_factory=set)
    inventory: set[str] = field(default_factory=set)
    registered: bool = False
    operations: int = 0
    streams: int = 0
    state: AgentState = field(init=False)

    def __post_init__(self) -> None:
        self.state = AgentState(SETTINGS, self.rng)

    # ---- the shell --------------------------------------------------------------------------

    def feed(self, fact: Fact) -> None:
        self.steps += self.state.handle(fact, now=self.now, wall=self.now)
        self.state.check()

    def step(self) -> None:
        """Carry out one effect, or one write."""
        effect = self.steps.popleft()
        match effect:
            case Persist(writes, then, failed):
                if self.full and failed is not None:
                    self.feed(PersistFailed(failed, "No space left on device"))
                elif self.full:
                    pass
                elif writes:
                    self.write(writes[0])
                    self.steps.appendleft(Persist(writes[1:], then, failed))
                else:
                    self.steps.extendleft(reversed(then))
            case LaunchContainer(container_id, config):
                assert container_id not in self.started, "a container was started twice"
                self.started.add(container_id)
                env = config.environment
                self.running[container_id] = SimExecutor(
                    env["MESOS_FRAMEWORK_ID"], env["MESOS_EXECUTOR_ID"]
                )
                self.feed(ContainerLaunched(container_id))
            case DestroyContainer(container_id):
                self.running.pop(container_id, None)
                self.feed(ContainerTerminated(container_id, 9))
            case ToExecutor(framework_id, executor_id, stream, event):
                executor = self.find(framework_id, executor_id)
                if executor is not None and executor.connected and executor.stream == stream:
                    self.deliver(executor, event)
            case CloseExecutor(framework_id, executor_id):
                pass
            case ToMaster(message):
                self.tell_master(message)
            case UpdateContainer() | Discard():
                pass
            case _:
                raise AssertionError(f"unexpected {effect}")

    def write(self, write: Write) -> None:
        match write:
            case Put(path, data):
                self.disk[path] = data
            case Append(path, data):
                self.disk[path] = self.disk.get(path, b"") + data
            case Link(_, target):
                self.latest = target
            case Remove(path):
                self.disk.pop(path, None)

    def settle(self) -> None:
        while self.steps:
            self.step()

    def crash(self) -> None:
        """The agent dies now and starts again."""
        self.steps.clear()
        self.registered = False
        self.to_acknowledge.clear()
        for executor in self.running.values():
            executor.connected = False
        epoch = self.state.epoch
        self.state = AgentState(SETTINGS, self.rng)
        recovery.restore(self.state, dict(self.disk), self.latest, strict=True)
        assert self.state.epoch <= epoch
        self.state.check()
        unknown = set(self.running) - set(self.state.containers)
        for container_id in unknown:
            # only what has nothing left to do may be unknown
            orphan = self.running.pop(container_id)
            assert all(state.is_terminal for state in orphan.states.values())
            assert {status.uuid for status in orphan.unconfirmed} <= self.told_uuids
        for container_id in list(self.state.containers):
            if container_id not in self.started:
                self.feed(ContainerMissing(container_id))
                continue
            self.feed(ContainerRecovered(container_id))
            if container_id not in self.running:
                self.feed(ContainerTerminated(container_id, 9))

    # ---- executors --------------------------------------------------------------------------

    def find(self, framework_id: str, executor_id: str) -> SimExecutor | None:
        for executor in self.running.values():
            if (executor.framework_id, executor.executor_id) == (framework_id, executor_id):
                return executor
        return None

    def deliver(self, executor: SimExecutor, event: object) -> None:
        kind = getattr(event, "type", "")
        if kind == "LAUNCH":
            info = event.launch.task  # type: ignore[attr-defined]
            task_id = info.task_id.value
            assert task_id not in executor.states, f"{task_id} was launched twice"
            executor.states[task_id] = TaskState.STAGING
            executor.infos[task_id] = info
            executor.unacknowledged.add(task_id)
        elif kind == "KILL":
            task_id = event.kill.task_id.value  # type: ignore[attr-defined]
            state = executor.states.get(task_id)
            if state is not None and not state.is_terminal:
                self.report(executor, task_id, TaskState.KILLED)
        elif kind == "ACKNOWLEDGED":
            acknowledged = event.acknowledged  # type: ignore[attr-defined]
            executor.unconfirmed = [s for s in executor.unconfirmed if s.uuid != acknowledged.uuid]
            executor.unacknowledged.discard(acknowledged.task_id.value)
        elif kind == "SHUTDOWN":
            executor.shutdown = True

    def report(self, executor: SimExecutor, task_id: str, state: TaskState) -> None:
        executor.states[task_id] = state
        status = TaskStatus(
            task_id=TaskID(task_id),
            state=state,
            source="SOURCE_EXECUTOR",
            uuid=self.rng.randbytes(16),
            timestamp=self.now,
        )
        executor.unconfirmed.append(status)
        if executor.connected:
            self.feed(ExecutorUpdate(executor.framework_id, executor.executor_id, status))

    def subscribe(self, executor: SimExecutor) -> None:
        known = self.state.find_executor(executor.framework_id, executor.executor_id)
        if known is None:
            return
        executor.connected = True
        self.streams += 1
        executor.stream = self.streams
        self.feed(
            ExecutorSubscribed(
                executor.framework_id,
                executor.executor_id,
                executor.stream,
                tuple(executor.infos[t] for t in sorted(executor.unacknowledged)),
                tuple(executor.unconfirmed),
            )
        )

    def exit(self, container_id: str) -> None:
        del self.running[container_id]
        self.feed(ContainerTerminated(container_id, 0))

    # ---- the master -------------------------------------------------------------------------

    def connect(self) -> None:
        self.inventory = set()
        self.feed(agent_api.Welcome(AgentID(AGENT_ID), 1, 75.0, MASTER_INFO))

    def tell_master(self, message: agent_api.AgentMessage) -> None:
        if isinstance(message, agent_api.Inventory):
            self.inventory |= {t.task_id.value for t in message.tasks}
            if message.last:
                expected = tuple(
                    agent_api.Expected(FrameworkID("fw"), TaskID(task_id))
                    for task_id, states in sorted(self.told.items())
                    if task_id not in self.inventory and not any(s.is_terminal for s in states)
                )
                self.registered = True
                self.feed(agent_api.Registered(expected))
        elif isinstance(message, agent_api.Update) and self.registered:
            states = self.told[message.status.task_id.value]
            states.append(message.status.state)
            self.told_uuids.add(message.status.uuid)
            self.to_acknowledge.append(message)

    def operation(self) -> str:
        self.operations += 1
        return f"op-{self.operations}"

    def run_task(self, task_id: str, executor: str | None) -> None:
        self.told[task_id] = []
        info = task_info(task_id, executor)
        self.feed(agent_api.RunTask(1, self.operation(), FRAMEWORK, info))

    def kill_task(self, task_id: str) -> None:
        kill = agent_api.KillTask(1, self.operation(), FrameworkID("fw"), TaskID(task_id))
        self.feed(kill)

    def acknowledge(self, index: int) -> None:
        update = self.to_acknowledge.pop(index % len(self.to_acknowledge))
        assert update.status.uuid is not None
        self.feed(
            agent_api.Acknowledge(1, FrameworkID("fw"), update.status.task_id, update.status.uuid)
        )

    # ---- random life ------------------------------------------------------------------------

    def choices(self) -> list[tuple[str, object]]:
        found: list[tuple[str, object]] = []
        if self.steps:
            found += [("step", None)] * 4
        if not self.registered:
            found.append(("connect", None))
            return found
        if len(self.told) < 4:
            found.append(("run", None))
        if self.to_acknowledge:
            found += [("acknowledge", None)] * 2
        found += [("kill", t) for t, s in self.told.items() if not any(x.is_terminal for x in s)]
        for container_id, executor in self.running.items():
            if not executor.connected:
                found += [("subscribe", container_id)] * 2
            elif self.rng.random() < 0.2:
                found.append(("drop", container_id))
            found += [
                ("advance", (container_id, t)) for t, s in executor.states.items() if s in NEXT
            ]
            if executor.shutdown or self.rng.random() < 0.1:
                found.append(("exit", container_id))
        if self.rng.random() < 0.2:
            found.append(("crash", None))
        if self.rng.random() < 0.1:
            found.append(("disconnect", None))
        found.append(("time", None))
        return found

    def act(self, action: str, argument: object) -> None:
        match action, argument:
            case "step", _:
                self.step()
            case "connect", _:
                self.connect()
            case "run", _:
                shared = self.rng.choice([None, "shared", "shared"])
                self.run_task(f"task-{len(self.told)}", shared)
            case "acknowledge", _:
                self.acknowledge(self.rng.randrange(100))
            case "kill", str(task_id):
                self.kill_task(task_id)
            case "subscribe", str(container_id):
                self.subscribe(self.running[container_id])
            case "drop", str(container_id):
                executor = self.running[container_id]
                executor.connected = False
                self.feed(ExecutorDisconnected(executor.framework_id, executor.executor_id))
            case "advance", (str(container_id), str(task_id)):
                executor = self.running[container_id]
                self.report(executor, task_id, NEXT[executor.states[task_id]])
            case "exit", str(container_id):
                self.exit(container_id)
            case "crash", _:
                self.crash()
            case "disconnect", _:
                self.registered = False
                self.to_acknowledge.clear()
                self.feed(MasterDisconnected())
            case "time", _:
                self.now += self.rng.choice([1.0, 11.0, 61.0])
                self.feed(Tick())

    def quiesce(self) -> None:
        """Let everything end without further trouble."""
        for _ in range(400):
            self.settle()
            if not self.registered:
                self.connect()
                continue
            for container_id, executor in list(self.running.items()):
                if container_id not in self.running:
                    continue
                if not executor.connected:
                    self.subscribe(executor)
                for task_id, state in list(executor.states.items()):
                    if state in NEXT:
                        self.report(executor, task_id, NEXT[state])
                self.settle()
                done = executor.states and all(s.is_terminal for s in executor.states.values())
                if container_id in self.running and (executor.shutdown or done):
                    self.exit(container_id)
            self.settle()
            while self.to_acknowledge:
                self.acknowledge(0)
            self.settle()
            if not self.state.containers and all(
                any(s.is_terminal for s in states) for states in self.told.values()
            ):
                return
            self.now += 700.0
            self.feed(Tick())
        raise AssertionError(f"does not come to rest: {self.told}, {self.state.containers}")


def in_order(states: list[TaskState]) -> bool:
    """Whether states only go forward, repeats aside."""
    order = [TaskState.STARTING, TaskState.RUNNING]
    ranks = [order.index(s) if s in order else len(order) for s in states]
    return ranks == sorted(ranks)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(5, 120))
def test_no_task_is_lost_or_doubled_whatever_happens_when(seed: int, length: int) -> None:
    world = World(Random(seed))
    for _ in range(length):
        world.act(*world.rng.choice(world.choices()))
    world.quiesce()
    for task_id, states in world.told.items():
        assert sum(s.is_terminal for s in dict.fromkeys(states)) == 1, (task_id, states)
        assert in_order(states), (task_id, states)
    assert not world.running
    assert not len(world.state.streams)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(5, 60))
def test_a_full_disk_fails_tasks_and_never_the_agent(seed: int, length: int) -> None:
    world = World(Random(seed))
    world.connect()
    world.settle()
    for at in range(length):
        world.full = at % 20 > 10
        choices = [c for c in world.choices() if c[0] != "crash"]
        world.act(*world.rng.choice(choices))
    world.full = True
    world.run_task("late", None)
    world.settle()
    assert world.told["late"] == [TaskState.FAILED] or not world.registered
    world.full = False
    world.quiesce()
    for task_id, states in world.told.items():
        assert sum(s.is_terminal for s in dict.fromkeys(states)) == 1, (task_id, states)


@pytest.mark.parametrize("crash_at", range(40))
def test_a_crash_at_any_step_of_a_tasks_life_loses_nothing(crash_at: int) -> None:
    world = World(Random(7))
    world.connect()
    world.settle()
    world.run_task("task-1", None)
    crashed = False
    for _ in range(200):
        if crash_at == 0 and not crashed:
            crashed = True
            world.crash()
        crash_at -= 1
        if world.steps:
            world.step()
        elif not world.registered:
            world.connect()
        elif world.to_acknowledge:
            world.acknowledge(0)
        else:
            for executor in list(world.running.values()):
                if not executor.connected:
                    world.subscribe(executor)
                elif executor.states.get("task-1") in NEXT:
                    world.report(executor, "task-1", NEXT[executor.states["task-1"]])
    world.quiesce()
    states = list(dict.fromkeys(world.told["task-1"]))
    assert states[-1] in (TaskState.FINISHED, TaskState.LOST)
    if world.started:
        assert states == [TaskState.STARTING, TaskState.RUNNING, TaskState.FINISHED]
