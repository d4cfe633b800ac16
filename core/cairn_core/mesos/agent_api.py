"""What master and agent say to each other over the agent link.

Cairn's own protocol (the original speaks libprocess here): one connection that the agent opens
with `GET /cairn/v1/agent` and `Upgrade: cairn-agent/1` on the master's port; the frames,
numbering and credit are those of `cairn_core.kit.link`, the messages are these, in msgpack.

    agent                                   master
      | Hello ------------------------------> |   who I am, what I have, the newest epoch I saw
      | <------------------------- Admission  |   not yet: come in again after retry_after_s
      | <--------------------------- Welcome  |   your id, this epoch; send your inventory
      | Inventory, Inventory(last) ---------> |   frameworks, executors, tasks, in chunks
      | <------------- Registered(reconcile)  |   the tasks I expected and you did not list
      | Update, ExecutorExited, ... --------> |
      | <---------- RunTask, KillTask, Ping   |

Fencing: every command carries the master's epoch. An agent keeps the highest epoch on disk and
drops commands of a lower one; it applies an operation id once.
"""

from typing import TypeAlias

from cairn_core.mesos.base import (
    AgentID,
    ExecutorID,
    FrameworkID,
    Message,
    TaskID,
)
from cairn_core.mesos.types import (
    AgentInfo,
    ExecutorInfo,
    FrameworkInfo,
    KillPolicy,
    MasterInfo,
    Task,
    TaskInfo,
    TaskState,
    TaskStatus,
)

PATH = "/cairn/v1/agent"
UPGRADE = "cairn-agent/1"
PROTOCOL = 1


class Hello(Message, frozen=True, kw_only=True, tag=True):
    """First message of an agent on each new connection."""

    #: Oldest and newest protocol that the agent speaks.
    protocol_min: int
    protocol_max: int
    #: None before the first registration.
    agent_id: AgentID | None = None
    #: Differs after a reboot of the machine: nothing that ran before can be alive.
    boot_id: str
    #: Chosen anew by each agent process.
    session: str
    #: Highest master epoch seen; a master with a lower one must not command this agent.
    epoch: int
    #: pid as the original prints it: `slave(1)@ip:port`.
    pid: str
    info: AgentInfo
    version: str
    capabilities: tuple[str, ...] = ()
    principal: str | None = None
    secret: str | None = None


class Executor(Message, frozen=True):
    """An executor that runs on the agent."""

    framework_id: FrameworkID
    info: ExecutorInfo


class Inventory(Message, frozen=True, tag=True):
    """A part of what runs on the agent; `last` closes the list."""

    frameworks: tuple[FrameworkInfo, ...] = ()
    executors: tuple[Executor, ...] = ()
    tasks: tuple[Task, ...] = ()
    last: bool = False


class Update(Message, frozen=True, tag=True):
    """A status update; repeated until acknowledged when it has a uuid."""

    framework_id: FrameworkID
    status: TaskStatus
    #: The newest state the agent knows, which may be ahead of `status`.
    latest_state: TaskState


class ExecutorExited(Message, frozen=True, tag=True):
    """An executor ended; `status` is its wait status."""

    framework_id: FrameworkID
    executor_id: ExecutorID
    status: int


class FromExecutor(Message, frozen=True, tag=True):
    """Free-form data of an executor for its scheduler."""

    framework_id: FrameworkID
    executor_id: ExecutorID
    data: bytes


class Changed(Message, frozen=True, tag=True):
    """The agent's own description changed (resources, attributes)."""

    info: AgentInfo


class Pong(Message, frozen=True, tag=True):
    """Answers a Ping."""


class Goodbye(Message, frozen=True, tag=True):
    """The agent leaves for good (operator's wish): its tasks are gone."""


AgentMessage: TypeAlias = (
    Hello | Inventory | Update | ExecutorExited | FromExecutor | Changed | Pong | Goodbye
)


class Admission(Message, frozen=True, tag=True):
    """Not now; say Hello again after `retry_after_s` seconds. `problem` says why, if it is one."""

    retry_after_s: float
    problem: str | None = None


class Welcome(Message, frozen=True, tag=True):
    """The agent is admitted under this id; it keeps id and epoch on disk, then lists what runs."""

    agent_id: AgentID
    epoch: int
    #: Seconds without a Ping after which the agent looks for a master anew.
    ping_timeout_s: float
    master: MasterInfo


class Expected(Message, frozen=True):
    """A task that the master knows of and the agent did not list."""

    framework_id: FrameworkID
    task_id: TaskID
    partition_aware: bool = False


class Registered(Message, frozen=True, tag=True):
    """The inventory is taken in; the agent answers for each task here that it does not have."""

    expected: tuple[Expected, ...] = ()


class RunTask(Message, frozen=True, tag=True):
    """Launch a task; without `task.executor` by the command executor.

    joins: its executor runs already, as far as the master knows, and only the task's resources are
    accounted for. When the executor has ended meanwhile, the task is dropped.
    """

    epoch: int
    operation_id: str
    framework: FrameworkInfo
    task: TaskInfo
    joins: bool = False


class KillTask(Message, frozen=True, tag=True):
    """End a task."""

    epoch: int
    operation_id: str
    framework_id: FrameworkID
    task_id: TaskID
    kill_policy: KillPolicy | None = None


class Acknowledge(Message, frozen=True, tag=True):
    """The scheduler confirmed this update."""

    epoch: int
    framework_id: FrameworkID
    task_id: TaskID
    uuid: bytes


class ShutdownExecutor(Message, frozen=True, tag=True):
    """End an executor and its tasks."""

    epoch: int
    operation_id: str
    framework_id: FrameworkID
    executor_id: ExecutorID


class ShutdownFramework(Message, frozen=True, tag=True):
    """End all executors of a framework that is gone."""

    epoch: int
    operation_id: str
    framework_id: FrameworkID


class UpdateFramework(Message, frozen=True, tag=True):
    """A framework with tasks here changed its description."""

    epoch: int
    framework: FrameworkInfo


class ToExecutor(Message, frozen=True, tag=True):
    """Free-form data of a scheduler for its executor."""

    epoch: int
    framework_id: FrameworkID
    executor_id: ExecutorID
    data: bytes


class Ping(Message, frozen=True, tag=True):
    """Asks for a Pong; every 15 s."""


class Shutdown(Message, frozen=True, tag=True):
    """The agent shall end everything and stop; `message` says why."""

    epoch: int
    message: str


MasterMessage: TypeAlias = (
    Admission
    | Welcome
    | Registered
    | RunTask
    | KillTask
    | Acknowledge
    | ShutdownExecutor
    | ShutdownFramework
    | UpdateFramework
    | ToExecutor
    | Ping
    | Shutdown
)
