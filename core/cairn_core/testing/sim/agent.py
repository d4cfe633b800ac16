"""An agent of the simulation: keeps what a good agent keeps, and asserts what it must never see.

Its tasks and its notes (id, epoch, unacknowledged updates) survive its crashes, as executors and
the disk do. A task either runs until it is killed or ends by itself after a while.
"""

import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cairn_core.mesos import agent_api, types
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.mesos.types import Reason, Source, TaskState, TaskStatus
from cairn_core.resources import EMPTY, Resources
from cairn_core.testing.sim.master import MASTER_END, PEER_END, SimMaster
from cairn_core.testing.sim.world import Connection, World

RETRY_S = 5.0
BACKOFF_S = 1.0
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
        )


class SimAgent:
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
        self.world = world
        self.master = master
        self.number = number
        self.resources = resources
        self.up = False
        self.cut_off = False
        self.shut_down = False
        self.agent_id: types.AgentID | None = None
        self.epoch = 0
        self.applied: set[str] = set()
        self.tasks: dict[tuple[str, str], SimTask] = {}
        self.registered = False
        self._launches = launches
        self._task_s = task_s
        self._connection: Connection | None = None
        self._to_master: Callable[[AgentMessage], None] | None = None
        self._session = ""
        self._life = 0
        self._heard = 0.0
        self._ping_timeout_s = 75.0

    # Life

    def start(self) -> None:
        """The process starts; what ran goes on running."""
        self.up = True
        self._life += 1
        self._session = f"session-{self.number}-{self._life}"
        self._connect_later()

    def crash(self) -> None:
        """The process ends; tasks go on."""
        self.up = False
        self._life += 1
        self._drop()

    def cut(self) -> None:
        """The network to the master is gone, and nobody is told: packets vanish."""
        self.cut_off = True
        if self._connection is not None:
            self._connection.vanish()

    def heal(self) -> None:
        """The network is back."""
        self.cut_off = False

    def _drop(self) -> None:
        self.registered = False
        if self._connection is not None:
            self._connection.cut(silent=PEER_END)
            self._connection = None

    def _connect_later(self) -> None:
        life = self._life
        delay = BACKOFF_S * (0.5 + self.world.rng.random())
        self.world.after(delay, lambda: self._connect() if life == self._life else None)

    def _connect(self) -> None:
        if not self.up or self._connection is not None or self.shut_down:
            return
        if self.cut_off or self.master.core is None:
            self._connect_later()
            return
        connection = self._connection = Connection(self.world)

        def cut() -> None:
            if self._connection is connection:
                self._connection = None
                self.registered = False
                self._connect_later()

        connection.on_cut[PEER_END] = cut
        self._to_master = self.master.open_link(
            connection, lambda message: self._take(connection, message)
        )
        self._heard = self.world.now
        self._watch(connection)
        self._hello()

    def _watch(self, connection: Connection) -> None:
        """Look for a master anew when this one is silent."""

        def look() -> None:
            if self._connection is not connection:
                return
            if self.world.now - self._heard > self._ping_timeout_s:
                self._drop()
                self._connect_later()
            else:
                self._watch(connection)

        self.world.after(self._ping_timeout_s / 2, look)

    def _send(self, message: AgentMessage) -> None:
        connection, take = self._connection, self._to_master
        if connection is not None and take is not None:
            connection.send(MASTER_END, lambda: take(message))

    def _hello(self) -> None:
        wire = tuple(self.resources.to_wire())
        self._send(
            agent_api.Hello(
                protocol_min=1,
                protocol_max=1,
                agent_id=self.agent_id,
                boot_id="boot",
                session=self._session,
                epoch=self.epoch,
                pid=f"slave(1)@10.{self.number >> 16}.{self.number >> 8 & 255}."
                f"{self.number & 255}:5051",
                info=types.AgentInfo(f"host{self.number}", resources=wire),
                version="1.11.0",
            )
        )

    # What the master says

    def _take(self, connection: Connection, message: MasterMessage) -> None:
        if connection is not self._connection:
            return
        self._heard = self.world.now
        epoch = getattr(message, "epoch", self.epoch)
        if epoch < self.epoch:
            return
        self.epoch = epoch
        match message:
            case agent_api.Admission(retry_after_s, problem):
                assert problem is None, problem
                self.world.after(
                    retry_after_s,
                    lambda: self._hello() if connection is self._connection else None,
                )
            case agent_api.Welcome():
                assert self.agent_id is None or self.agent_id == message.agent_id
                self.agent_id = message.agent_id
                self._ping_timeout_s = message.ping_timeout_s
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
