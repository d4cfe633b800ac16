"""What the agent's rules ask of the shell, as values; and the facts that the shell reports.

Facts that come from the master are the messages of `cairn_core.mesos.agent_api` themselves.
Order: the effects of one call are carried out in order. `Persist` is the only barrier: what
stands in its `then` happens after its writes are on disk, and not at all when they failed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cairn_core.extensions import Amounts, ContainerConfig
from cairn_core.mesos import agent_api, executor_api
from cairn_core.mesos.types import (
    AgentInfo,
    ContainerStatus,
    KillPolicy,
    MasterInfo,
    TaskInfo,
    TaskStatus,
)

# ---- writes, all below the work directory's `meta` ----------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """Replace a file as a whole: it is there with these bytes or as before, never half."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """Add one record to a file; a torn record at the end is ignored when read."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """Point the symbolic link `path` at `target` (a name in the same directory)."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file or link; fine when there is none."""

    path: str


Write: TypeAlias = Put | Append | Link | Remove


# ---- effects --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Bring `writes` to disk, then do `then`; on failure report `PersistFailed(failed)`.

    failed: what to tell the rules when the disk refuses; None when nothing depends on it.
    """

    writes: tuple[Write, ...]
    then: "tuple[Effect, ...]" = ()
    failed: "LaunchKey | UpdateKey | Disconnect | None" = None


@dataclass(frozen=True, slots=True)
class LaunchContainer:
    """Make the sandbox and start the container; report ContainerLaunched and how it ended."""

    container_id: str
    config: ContainerConfig


@dataclass(frozen=True, slots=True)
class UpdateContainer:
    """Change the resources of a running container."""

    container_id: str
    requests: Amounts
    limits: Amounts | None


@dataclass(frozen=True, slots=True)
class DestroyContainer:
    """End a container with everything in it; ContainerTerminated follows. Harmless twice."""

    container_id: str


@dataclass(frozen=True, slots=True)
class ToExecutor:
    """Send an event on this stream of the executor; dropped when it has another one or none.

    stream: its number. What was decided before an executor subscribed anew must not reach it
    afterwards, for on subscribing everything it lacks is sent again.
    """

    framework_id: str
    executor_id: str
    stream: int
    event: executor_api.Event


@dataclass(frozen=True, slots=True)
class CloseExecutor:
    """End the executor's stream after what was sent."""

    framework_id: str
    executor_id: str


@dataclass(frozen=True, slots=True)
class ToMaster:
    """Send to the master; dropped when there is no connection."""

    message: agent_api.AgentMessage


@dataclass(frozen=True, slots=True)
class Discard:
    """Nobody needs these any more: remove them after the garbage delay.

    sandbox, meta: below the work directory and its `meta`; empty when there is none.
    """

    sandbox: str
    meta: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Drop the connection to the master and look for one anew."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the agent; `message` says why."""

    message: str


Effect: TypeAlias = (
    Persist
    | LaunchContainer
    | UpdateContainer
    | DestroyContainer
    | ToExecutor
    | CloseExecutor
    | ToMaster
    | Discard
    | Disconnect
    | Stop
)


# ---- facts ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaunchKey:
    """Names a task whose launch must be on disk before anything happens."""

    framework_id: str
    task_id: str


@dataclass(frozen=True, slots=True)
class UpdateKey:
    """Names an update of an executor, which is not told that we have it before it is on disk."""

    container_id: str
    uuid: bytes


@dataclass(frozen=True, slots=True)
class PersistFailed:
    """The disk refused a write, for instance because it is full."""

    failed: LaunchKey | UpdateKey | Disconnect
    problem: str


@dataclass(frozen=True, slots=True)
class ContainerLaunched:
    """The container's process runs."""

    container_id: str
    status: ContainerStatus | None = None


@dataclass(frozen=True, slots=True)
class ContainerTerminated:
    """A container ended, or could not be started.

    status: wait status, None when unknown. reason, message, state: when the containerizer knows
    better than "the executor terminated".
    """

    container_id: str
    status: int | None = None
    reason: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ContainerMissing:
    """After a restart: the containerizer has never heard of this container."""

    container_id: str


@dataclass(frozen=True, slots=True)
class ContainerRecovered:
    """After a restart: the container is under the containerizer's care again."""

    container_id: str
    status: ContainerStatus | None = None


@dataclass(frozen=True, slots=True)
class Rebooted:
    """The machine has started anew since the tables were written: nothing in them is alive."""


@dataclass(frozen=True, slots=True)
class ExecutorSubscribed:
    """An executor opened its stream. stream: a number that no other stream has."""

    framework_id: str
    executor_id: str
    stream: int
    unacknowledged_tasks: tuple[TaskInfo, ...] = ()
    unacknowledged_updates: tuple[TaskStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ExecutorDisconnected:
    """The stream of an executor closed."""

    framework_id: str
    executor_id: str


@dataclass(frozen=True, slots=True)
class ExecutorUpdate:
    """An executor reports on a task."""

    framework_id: str
    executor_id: str
    status: TaskStatus


@dataclass(frozen=True, slots=True)
class ExecutorMessage:
    """An executor has data for its scheduler."""

    framework_id: str
    executor_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class MasterDisconnected:
    """The connection to the master is gone."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed: `AgentState.next_deadline` was reached."""


Fact: TypeAlias = (
    agent_api.MasterMessage
    | PersistFailed
    | ContainerLaunched
    | ContainerTerminated
    | ContainerMissing
    | ContainerRecovered
    | Rebooted
    | ExecutorSubscribed
    | ExecutorDisconnected
    | ExecutorUpdate
    | ExecutorMessage
    | MasterDisconnected
    | Tick
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the rules need to know of the configuration; times in seconds."""

    info: AgentInfo
    work_dir: str
    #: ip:port that executors reach over TCP, and the pid in the form `slave(1)@ip:port`.
    endpoint: str
    pid: str
    #: Path of the domain socket for executors; empty when there is none.
    domain_socket: str = ""
    #: How the command executor is started: a command line, or `module:function` in the helper.
    command_executor_argv: tuple[str, ...] = ()
    command_executor_entry: str = "cairn_core.executor.command:main"
    #: False leaves the agent's own user to every task.
    switch_user: bool = True
    executor_registration_timeout_s: float = 60.0
    executor_reregistration_timeout_s: float = 2.0
    executor_shutdown_grace_s: float = 5.0
    recovery_timeout_s: float = 900.0
    executor_environment: Mapping[str, str] = field(default_factory=dict)
    max_completed_frameworks: int = 50
    max_completed_executors: int = 150
    max_completed_tasks: int = 200


@dataclass(slots=True)
class Master:
    """Who commands us at the moment."""

    info: MasterInfo | None = None
    registered: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill that was asked for and whose task has not ended yet."""

    policy: KillPolicy | None = None
