"""Executors of the simulation: processes that outlive their agent.

`CommandProcess` runs the rules of the command executor; `GroupProcess` is somebody else's executor
with many tasks. Both speak to the agent over a connection that breaks with the agent's process.
"""

import json
from collections.abc import Mapping
from typing import Protocol

from cairn_core.executor.checks import Probe
from cairn_core.executor.rules import Effect, Executor, Exit, Send, Signal, Start
from cairn_core.executor.settings import read_settings
from cairn_core.mesos import codec, executor_api
from cairn_core.mesos.types import (
    ExecutorID,
    FrameworkID,
    Source,
    TaskID,
    TaskInfo,
    TaskState,
    TaskStatus,
)
from cairn_core.resources import Resources
from cairn_core.testing.sim.ledger import Ledger
from cairn_core.testing.sim.world import Connection, World

AGENT_END, EXECUTOR_END = 0, 1
LATENCY_S = 0.005
BACKOFF_S = 0.5


class Machine(Protocol):
    """What a process needs of the machine that it runs on."""

    world: World
    ledger: Ledger

    def subscribe(
        self, process: "SimProcess", connection: Connection, call: executor_api.Call
    ) -> None:
        """Open a stream."""

    def call(self, process: "SimProcess", call: executor_api.Call) -> None:
        """Any other call."""

    def exited(self, container_id: str, status: int) -> None:
        """The process ended by itself with this wait status."""

    def task_started(self, wanted: Resources) -> float | None:
        """A task starts with these resources; seconds after which it ends by itself."""


class SimProcess:
    """What both have in common. running: resources of the tasks that run now, by task id."""

    def __init__(self, machine: Machine, container_id: str, environment: Mapping[str, str]) -> None:
        self.machine = machine
        self.world = machine.world
        self.container_id = container_id
        self.settings = read_settings(environment)
        self.framework_id = self.settings.framework_id
        self.executor_id = self.settings.executor_id
        self.alive = True
        self.running: dict[str, Resources] = {}
        self.connection: Connection | None = None
        self.subscribed = False
        self._retry()

    # Hooks

    def subscribe_call(self) -> executor_api.Call:
        """What to subscribe with now."""
        raise NotImplementedError

    def event(self, event: executor_api.Event) -> None:
        """The agent says something."""
        raise NotImplementedError

    def lost(self) -> None:
        """No agent, or no more."""

    # Life

    def end(self) -> None:
        """Everything in the container is gone."""
        self.alive = False
        self.running.clear()
        if self.connection is not None:
            self.connection.cut(silent=EXECUTOR_END)
            self.connection = None

    def exit(self, status: int) -> None:
        """End by itself."""
        if self.alive:
            self.end()
            self.machine.exited(self.container_id, status)

    def start_task(self, info: TaskInfo) -> float | None:
        """Note that a task runs; seconds after which it ends by itself."""
        wanted = Resources.from_wire(info.resources)
        lasts = self.machine.task_started(wanted)
        self.machine.ledger.start((self.framework_id, info.task_id.value))
        self.running[info.task_id.value] = wanted
        return lasts

    # The agent

    def _retry(self) -> None:
        delay = BACKOFF_S * self.world.rng.random()
        self.world.after(delay, self._connect)

    def _connect(self) -> None:
        if not self.alive or self.connection is not None:
            return
        connection = self.connection = Connection(self.world, latency_s=LATENCY_S)
        self.subscribed = False

        def cut() -> None:
            if self.connection is connection and self.alive:
                self.connection = None
                self.subscribed = False
                self.lost()
                self._retry()

        connection.on_cut[EXECUTOR_END] = cut
        call = self.subscribe_call()
        connection.send(AGENT_END, lambda: self.machine.subscribe(self, connection, call))

    def deliver(self, connection: Connection, event: executor_api.Event) -> None:
        """An event arrived."""
        if connection is not self.connection or not self.alive:
            return
        if event.type == "SUBSCRIBED":
            self.subscribed = True
        if event.acknowledged is not None:
            self.machine.ledger.confirm(event.acknowledged.uuid)
        self.event(event)

    def send(self, call: executor_api.Call) -> None:
        """Send a call; dropped while not subscribed, as updates go along with SUBSCRIBE."""
        assert call.update is not None
        status = call.update.status
        assert status.uuid is not None
        self.machine.ledger.make((self.framework_id, status.task_id.value), status.uuid)
        if self.connection is not None and self.subscribed:
            self.connection.send(AGENT_END, lambda: self.machine.call(self, call))


class CommandProcess(SimProcess):
    """The command executor: its real rules, and a task that is a timer."""

    def __init__(self, machine: Machine, container_id: str, environment: Mapping[str, str]) -> None:
        super().__init__(machine, container_id, environment)
        world = machine.world
        self.rules = Executor(
            self.settings, draw_uuid=lambda: world.rng.randbytes(16), now=world.now
        )
        self._timer: float | None = None
        self._arm()

    def subscribe_call(self) -> executor_api.Call:
        """See SimProcess."""
        return _call(self.rules.subscribe_call())

    def event(self, event: executor_api.Event) -> None:
        """See SimProcess."""
        body = json.loads(codec.encode(event))
        self._do(self.rules.received(body, now=self.world.now, wall=self.world.wall))

    def lost(self) -> None:
        """See SimProcess."""
        self._do(self.rules.disconnected(now=self.world.now, wall=self.world.wall))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Start(task):
                    info = codec.decode(TaskInfo, json.dumps(task).encode())
                    lasts = self.start_task(info)
                    self._do(self.rules.started(now=self.world.now, wall=self.world.wall))
                    if lasts is not None:
                        self.world.after(lasts, lambda: self._ended(0))
                case Signal(number):
                    delay = self.world.rng.random() if number != 9 else 0.0
                    self.world.after(delay, lambda n=number: self._ended(n))  # type: ignore[misc]  # bound
                case Send(call):
                    self.send(_call(call))
                case Probe():
                    raise AssertionError("tasks of the simulation have no checks")
                case Exit(code):
                    self.exit(code << 8)
                    return
        self._arm()

    def _ended(self, status: int) -> None:
        if self.alive and self.running:
            self.running.clear()
            self._do(self.rules.exited(status, now=self.world.now, wall=self.world.wall))

    def _arm(self) -> None:
        deadline = self.rules.next_deadline()
        if deadline is None or (self._timer is not None and self._timer <= deadline):
            return
        self._timer = deadline

        def expire() -> None:
            if self.alive and self._timer == deadline:
                self._timer = None
                self._do(self.rules.expire(now=self.world.now, wall=self.world.wall))

        self.world.at(deadline, expire)


def _call(call: dict[str, object]) -> executor_api.Call:
    return codec.decode(executor_api.Call, json.dumps(call).encode())


class GroupProcess(SimProcess):
    """An executor of a framework: runs many tasks, and stays until it is told to leave."""

    def __init__(self, machine: Machine, container_id: str, environment: Mapping[str, str]) -> None:
        super().__init__(machine, container_id, environment)
        self._tasks: dict[str, TaskInfo] = {}
        #: Tasks of which no update was confirmed; updates that were not, oldest first.
        self._unknown: dict[str, None] = {}
        self._unconfirmed: dict[bytes, TaskStatus] = {}

    def subscribe_call(self) -> executor_api.Call:
        """See SimProcess."""
        updates = tuple(executor_api.Update(status) for status in self._unconfirmed.values())
        tasks = tuple(self._tasks[task_id] for task_id in self._unknown)
        body = executor_api.Subscribe(tasks, updates)
        return self._call_of("SUBSCRIBE", subscribe=body)

    def _call_of(self, kind: str, **body: object) -> executor_api.Call:
        executor, framework = ExecutorID(self.executor_id), FrameworkID(self.framework_id)
        return executor_api.Call(executor, framework, kind, **body)  # type: ignore[arg-type]  # by name

    def event(self, event: executor_api.Event) -> None:
        """See SimProcess."""
        after, rng = self.world.after, self.world.rng
        if event.launch is not None:
            info = event.launch.task
            task_id = info.task_id.value
            if task_id in self._tasks:
                raise AssertionError(f"task {task_id} was launched twice in one executor")
            self._tasks[task_id] = info
            self._unknown[task_id] = None
            lasts = self.start_task(info)
            after(rng.random(), lambda: self._report(task_id, TaskState.RUNNING))
            if lasts is not None:
                after(1 + lasts, lambda: self._report(task_id, TaskState.FINISHED))
        elif event.kill is not None:
            killed = event.kill.task_id.value
            after(rng.random(), lambda: self._report(killed, TaskState.KILLED))
        elif event.acknowledged is not None:
            self._unconfirmed.pop(event.acknowledged.uuid, None)
            self._unknown.pop(event.acknowledged.task_id.value, None)
        elif event.type == "SHUTDOWN":
            for task_id in list(self.running):
                self._report(task_id, TaskState.KILLED)
            after(rng.random(), lambda: self.exit(0))

    def _report(self, task_id: str, state: TaskState) -> None:
        if not self.alive or task_id not in self.running:
            return
        if state.is_terminal:
            del self.running[task_id]
        status = TaskStatus(
            TaskID(task_id),
            state,
            source=Source.EXECUTOR,
            timestamp=self.world.wall,
            uuid=self.world.rng.randbytes(16),
        )
        assert status.uuid is not None
        self._unconfirmed[status.uuid] = status
        self.send(self._call_of("UPDATE", update=executor_api.Update(status)))
