"""The v1 executor API: calls of an executor to its agent and events to it.

Source: `include/mesos/v1/executor/executor.proto`.
"""

from cairn_core.mesos.types import (
    AgentInfo,
    ContainerID,
    ExecutorID,
    ExecutorInfo,
    FrameworkID,
    FrameworkInfo,
    KillPolicy,
    Message,
    TaskGroupInfo,
    TaskID,
    TaskInfo,
    TaskStatus,
)

CALL_TYPES = frozenset({"SUBSCRIBE", "UPDATE", "MESSAGE", "HEARTBEAT"})


class Update(Message, frozen=True):
    """A status update; it needs a uuid, a timestamp and SOURCE_EXECUTOR."""

    status: TaskStatus


class Subscribe(Message, frozen=True):
    """Opens the event stream, again after an agent restart."""

    unacknowledged_tasks: tuple[TaskInfo, ...] = ()
    unacknowledged_updates: tuple[Update, ...] = ()


class ExecutorMessage(Message, frozen=True):
    """Free-form data between executor and scheduler."""

    data: bytes


class Call(Message, frozen=True):
    """What an executor sends."""

    executor_id: ExecutorID
    framework_id: FrameworkID
    type: str | None = None
    subscribe: Subscribe | None = None
    update: Update | None = None
    message: ExecutorMessage | None = None


class Subscribed(Message, frozen=True):
    """First event; `framework_info.id` is filled in."""

    executor_info: ExecutorInfo
    framework_info: FrameworkInfo
    agent_info: AgentInfo
    container_id: ContainerID | None = None


class Launch(Message, frozen=True):
    """Run a task."""

    task: TaskInfo


class LaunchGroup(Message, frozen=True):
    """Run a group of tasks."""

    task_group: TaskGroupInfo


class Kill(Message, frozen=True):
    """End a task."""

    task_id: TaskID
    kill_policy: KillPolicy | None = None


class Acknowledged(Message, frozen=True):
    """The agent has kept this update."""

    task_id: TaskID
    uuid: bytes


class Error(Message, frozen=True):
    """The subscription is over."""

    message: str


class Event(Message, frozen=True):
    """What an executor receives."""

    type: str
    subscribed: Subscribed | None = None
    launch: Launch | None = None
    launch_group: LaunchGroup | None = None
    kill: Kill | None = None
    acknowledged: Acknowledged | None = None
    message: ExecutorMessage | None = None
    error: Error | None = None


HEARTBEAT = Event(type="HEARTBEAT")
SHUTDOWN = Event(type="SHUTDOWN")
HEARTBEAT_INTERVAL_S = 1800.0
