"""The tables of the agent: frameworks, their executors, the executors' tasks.

A framework is here while it has executors. An executor goes through

    REGISTERING --subscribes--> RUNNING --shutdown--> TERMINATING --container ends--> TERMINATED

and leaves for the history once it is TERMINATED and every terminal update is acknowledged. A task
is in exactly one of `queued` (the executor has not been told), `launched` (it has), `terminated`
(ended, the last update not acknowledged) and `completed` (history).
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from cairn_core.agent.effects import Kill
from cairn_core.mesos.types import (
    AgentID,
    ContainerStatus,
    ExecutorID,
    ExecutorInfo,
    FrameworkID,
    FrameworkInfo,
    Reason,
    Source,
    Task,
    TaskInfo,
    TaskState,
    TaskStatus,
)

#: Statuses kept per task, one per state at most, so this is never reached by honest executors.
MAX_STATUSES = 16


class ExecutorState(Enum):
    """Where an executor is in its life."""

    REGISTERING = "REGISTERING"
    RUNNING = "RUNNING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"


@dataclass(slots=True)
class TaskRecord:
    """One task.

    state: the newest the agent knows. Invariant: it never leaves a terminal state.
    statuses: newest of each state, oldest first, as `/state` shows them.
    """

    info: TaskInfo
    framework_id: str
    executor_id: str
    operation_id: str
    user: str | None = None
    state: TaskState = TaskState.STAGING
    statuses: list[TaskStatus] = field(default_factory=list)
    kill: Kill | None = None

    @property
    def id(self) -> str:
        return self.info.task_id.value

    def note(self, status: TaskStatus) -> None:
        """Take in a status as the newest of its state."""
        self.statuses = [s for s in self.statuses if s.state != status.state][-MAX_STATUSES:]
        self.statuses.append(status)
        if not self.state.is_terminal:
            self.state = status.state

    def as_task(self, agent_id: str, head: TaskStatus | None = None) -> Task:
        """The task as master and tools are told of it. head: its update on the way, if any."""
        info = self.info
        return Task(
            name=info.name,
            task_id=info.task_id,
            framework_id=FrameworkID(self.framework_id),
            agent_id=AgentID(agent_id),
            state=self.state,
            executor_id=ExecutorID(self.executor_id) if info.executor is not None else None,
            resources=info.resources,
            statuses=tuple(self.statuses),
            status_update_state=head.state if head is not None else None,
            status_update_uuid=head.uuid if head is not None else None,
            labels=info.labels,
            discovery=info.discovery,
            container=info.container,
            health_check=info.health_check,
            kill_policy=info.kill_policy,
            user=self.user,
            limits=info.limits,
        )


@dataclass(slots=True)
class ExecutorRecord:
    """One executor and its container."""

    framework_id: str
    info: ExecutorInfo
    container_id: str
    #: Secret that its calls carry.
    token: str
    #: Sandbox, below the work directory.
    sandbox: str
    user: str | None
    #: Whether it is our command executor, made for one task.
    is_command: bool
    state: ExecutorState = ExecutorState.REGISTERING
    connected: bool = False
    #: Number of the newest stream.
    stream: int = 0
    #: Taken over from an earlier agent process and not subscribed since.
    recovered: bool = False
    #: Whether the framework's executors and tasks are kept on disk.
    checkpoint: bool = True
    #: The task with which its launch is written down; None once the container runs.
    launched_for: str | None = None
    #: When the container is destroyed unless something happens before; monotonic seconds.
    deadline: float | None = None
    container_status: ContainerStatus | None = None
    #: Updates that the disk refused: written when the executor repeats them.
    unwritten: set[bytes] = field(default_factory=set)
    #: What the agent itself says of the tasks once the container is gone.
    ending: "Ending | None" = None
    queued: dict[str, TaskRecord] = field(default_factory=dict)
    launched: dict[str, TaskRecord] = field(default_factory=dict)
    terminated: dict[str, TaskRecord] = field(default_factory=dict)
    completed: deque[TaskRecord] = field(default_factory=deque)

    @property
    def id(self) -> str:
        return self.info.executor_id.value

    @property
    def live(self) -> list[TaskRecord]:
        """Tasks that have not ended."""
        return [*self.queued.values(), *self.launched.values()]

    @property
    def tasks(self) -> list[TaskRecord]:
        """Tasks that the master still has to know of."""
        return [*self.live, *self.terminated.values()]

    @property
    def ever_ran(self) -> bool:
        """Whether any task reached the executor, as far as one can tell."""
        past = (*self.terminated.values(), *self.completed)
        return bool(self.launched) or any(
            status.source == Source.EXECUTOR for task in past for status in task.statuses
        )

    def task(self, task_id: str) -> TaskRecord | None:
        """A task of `tasks` by its id."""
        return (
            self.queued.get(task_id) or self.launched.get(task_id) or self.terminated.get(task_id)
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the agent ends a container."""

    state: TaskState
    reason: Reason
    message: str


@dataclass(slots=True)
class FrameworkRecord:
    """One framework with executors here."""

    info: FrameworkInfo
    executors: dict[str, ExecutorRecord] = field(default_factory=dict)
    completed_executors: deque[ExecutorRecord] = field(default_factory=deque)
    #: The master said that it is gone: nobody wants updates any more.
    terminating: bool = False

    @property
    def id(self) -> str:
        assert self.info.id is not None
        return self.info.id.value

    def has(self, capability: str) -> bool:
        """Whether the framework has a capability."""
        return any(c.type == capability for c in self.info.capabilities)
