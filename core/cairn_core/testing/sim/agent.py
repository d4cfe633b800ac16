"""A light agent of the simulation: keeps what a good agent keeps, asserts what it must never see.

It stands for the agent where thousands are wanted; `host` runs the real rules instead. Its tasks
and its notes (id, epoch, unacknowledged updates) survive its crashes, as executors and the disk do.
A task either runs until it is killed or ends by itself after a while.
"""

import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cairn_core.mesos import agent_api, types
from cairn_core.mesos.agent_api import MasterMessage
from cairn_core.mesos.types import Reason, Source, TaskState, TaskStatus
from cairn_core.resources import EMPTY, Resources
from cairn_core.testing.sim.link import LinkedAgent
from cairn_core.testing.sim.master import SimMaster
from cairn_core.testing.sim.world import World

RETRY_S = 5.0
CHUNK = 20


@dataclass(slots=True)
class SimTask:
    """A task on the agent's disk; `updates` are not acknowledged yet, oldest first."""

    info: types.TaskInfo
    framework: types.FrameworkInfo
    resources: Resources = EMPTY
    state: TaskState = TaskState.STAGING
    updates: deque[TaskStatus] = field(default_factory=deque)

    @property
    def key(self) -> tuple[str, str]:
        """Framework and task."""
        assert self.framework.id is not None
        return self.framework.id.value, self.info.task_id.value

    def describe(self, agent_id: str) -> types.Task:
        """As the inventory lists it."""
        assert self.framework.id is not None
        head = self.updates[0] if self.updates else None
        return types.Task(
            self.info.name,
            self.info.task_id,
            self.framework.id,
            types.AgentID(agent_id),
            self.state,
            resources=self.info.resources,
            status_update_state=head.state if head is not None else self.state,
            status_update_uuid=head.uuid if head is not None else None,
            discovery=self.info.discovery,
        )


class SimAgent(LinkedAgent):
    """One agent. launches: shared by all agents, counts the starts of each task."""

    def __init__(
        self,
        world: World,
        master: SimMaster,
        number: int,
        resources: Resources,
        launches: Counter[tuple[str, str]],
        *,
        task_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """task_s: seconds after which a new task ends by itself; None for never."""
        super().__init__(world, master, number)
        self.resources = resources
        self.agent_id: types.AgentID | None = None
        self.epoch = 0
        self.applied: set[str] = set()
        self.tasks: dict[tuple[str, str], SimTask] = {}
        self._launches = launches
        self._task_s = task_s

    # Life

    def start(self) -> None:
        """The process starts; what ran goes on running."""
        self._begin_life()
        self._connect_later()

    def crash(self) -> None:
        """The process ends; tasks go on."""
        self._end_life()

    def hello(self) -> agent_api.Hello:
        """See LinkedAgent."""
        wire = tuple(self.resources.to_wire())
        return agent_api.Hello(
            protocol_min=1,
            protocol_max=1,
            agent_id=self.agent_id,
            boot_id="boot",
            session=self._session,
            epoch=self.epoch,
            pid=self.pid,
            info=types.AgentInfo(f"host{self.number}", resources=wire),
            version="1.11.0",
        )

    # What the master says

    def received(self, message: MasterMessage) -> None:
        """See LinkedAgent."""
        epoch = getattr(message, "epoch", self.epoch)
        if epoch < self.epoch:
            if isinstance(message, agent_api.Welcome):
                self._lose()
            return
        self.epoch = epoch
        match message:
            case agent_api.Welcome():
                assert self.agent_id is None or self.agent_id == message.agent_id
                self.agent_id = message.agent_id
                self._inventory()
            case agent_api.Registered(expected):
                self.registered = True
                for task in expected:
                    self._unknown(task)
                for known in self.tasks.values():
                    self._forward(known)
            case agent_api.RunTask():
                self._run(message)
            case agent_api.KillTask():
                self._kill((message.framework_id.value, message.task_id.value))
            case agent_api.Acknowledge():
                self._acknowledge(message)
            case agent_api.ShutdownFramework():
                for key in [k for k in self.tasks if k[0] == message.framework_id.value]:
                    del self.tasks[key]
            case agent_api.Ping():
                self._send(agent_api.Pong())
            case agent_api.Shutdown():
                self.shut_down = True
                self.tasks.clear()
                self._drop()
            case _:
                return

    def _inventory(self) -> None:
        assert self.agent_id is not None
        frameworks = {t.framework.id: t.framework for t in self.tasks.values()}
        listed = [t.describe(self.agent_id.value) for t in self.tasks.values()]
        self._send(agent_api.Inventory(frameworks=tuple(frameworks.values())))
        for start in range(0, len(listed), CHUNK):
            self._send(agent_api.Inventory(tasks=tuple(listed[start : start + CHUNK])))
        self._send(agent_api.Inventory(last=True))

    def _run(self, run: agent_api.RunTask) -> None:
        if run.operation_id in self.applied:
            return
        self.applied.add(run.operation_id)
        wanted = Resources.from_wire(run.task.resources)
        task = SimTask(run.task, run.framework, wanted)
        self._launches[task.key] += 1
        assert self._launches[task.key] == 1, f"task {task.key} launched twice"
        in_use = Resources.sum(t.resources for t in self.tasks.values() if not t.state.is_terminal)
        assert self.resources.contains(in_use + wanted), f"agent {self.number} is overcommitted"
        self.tasks[task.key] = task
        rng = self.world.rng
        self.world.after(rng.random(), lambda: self._change(task.key, TaskState.RUNNING))
        lasts = self._task_s()
        if lasts is not None:
            self.world.after(1 + lasts, lambda: self._change(task.key, TaskState.FINISHED))

    def _kill(self, key: tuple[str, str]) -> None:
        self.world.after(self.world.rng.random(), lambda: self._change(key, TaskState.KILLED))

    def _change(self, key: tuple[str, str], state: TaskState) -> None:
        task = self.tasks.get(key)
        if task is None or task.state.is_terminal:
            return
        task.state = state
        self._report(task, state, Source.EXECUTOR, None)

    def _unknown(self, expected: agent_api.Expected) -> None:
        """The master thinks that a task is here."""
        key = (expected.framework_id.value, expected.task_id.value)
        if key in self.tasks:
            return
        state = TaskState.DROPPED if expected.partition_aware else TaskState.LOST
        info = types.TaskInfo("", expected.task_id, self.agent_id or types.AgentID(""))
        framework = types.FrameworkInfo("", "", id=expected.framework_id)
        task = self.tasks[key] = SimTask(info, framework, state=state)
        self._report(task, state, Source.AGENT, Reason.RECONCILIATION)

    # Status updates

    def _report(
        self, task: SimTask, state: TaskState, source: Source, reason: Reason | None
    ) -> None:
        status = TaskStatus(
            task.info.task_id,
            state,
            source=source,
            reason=reason,
            agent_id=self.agent_id,
            timestamp=self.world.wall,
            uuid=uuid.UUID(int=self.world.rng.getrandbits(128), version=4).bytes,
        )
        task.updates.append(status)
        if len(task.updates) == 1:
            self._forward(task)

    def _forward(self, task: SimTask) -> None:
        """Send the oldest update, and again until it is acknowledged."""
        if not task.updates:
            return
        head, life = task.updates[0], self._life
        if self.registered and self.up:
            self._send(agent_api.Update(types.FrameworkID(task.key[0]), head, task.state))

        def again() -> None:
            if life == self._life and task.updates and task.updates[0] is head:
                self._forward(task)

        self.world.after(RETRY_S, again)

    def _acknowledge(self, message: agent_api.Acknowledge) -> None:
        key = (message.framework_id.value, message.task_id.value)
        task = self.tasks.get(key)
        if task is None or not task.updates or task.updates[0].uuid != message.uuid:
            return
        ended = task.updates.popleft().state.is_terminal
        if ended:
            del self.tasks[key]
        else:
            self._forward(task)
