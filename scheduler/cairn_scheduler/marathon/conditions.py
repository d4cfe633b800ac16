"""Conditions and goals of instances, and what a status update of Mesos means for them.

Source: the released Marathon's conditions and its reading of TASK_LOST by reason.
"""

from enum import StrEnum

from cairn_core.mesos.types import TaskState, TaskStatus


class Goal(StrEnum):
    """What shall become of an instance."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    DECOMMISSIONED = "Decommissioned"


class Condition(StrEnum):
    """How an instance is. Names are those of the events."""

    SCHEDULED = "Scheduled"
    PROVISIONED = "Provisioned"
    STAGING = "Staging"
    STARTING = "Starting"
    RUNNING = "Running"
    KILLING = "Killing"
    UNREACHABLE = "Unreachable"
    UNREACHABLE_INACTIVE = "UnreachableInactive"
    FINISHED = "Finished"
    FAILED = "Failed"
    KILLED = "Killed"
    ERROR = "Error"
    DROPPED = "Dropped"
    GONE = "Gone"
    UNKNOWN = "Unknown"

    @property
    def is_terminal(self) -> bool:
        """Whether the task is over."""
        return self in _TERMINAL

    @property
    def is_active(self) -> bool:
        """Whether Mesos has, or may have, a task that counts."""
        return self in _ACTIVE

    @property
    def is_lost(self) -> bool:
        """Whether nobody can say how the task is."""
        return self in _LOST

    @property
    def task_state(self) -> TaskState:
        """The state that the API shows; what Mesos has not confirmed yet is staging."""
        return _STATES.get(self, TaskState.STAGING)


_TERMINAL = frozenset(
    {
        Condition.FINISHED, Condition.FAILED, Condition.KILLED, Condition.ERROR,
        Condition.DROPPED, Condition.GONE, Condition.UNKNOWN,
    }
)  # fmt: skip
_ACTIVE = frozenset(
    {
        Condition.PROVISIONED, Condition.STAGING, Condition.STARTING, Condition.RUNNING,
        Condition.KILLING, Condition.UNREACHABLE,
    }
)  # fmt: skip
_LOST = frozenset({Condition.GONE, Condition.UNREACHABLE, Condition.UNKNOWN, Condition.DROPPED})
_STATES = {
    Condition.STAGING: TaskState.STAGING,
    Condition.STARTING: TaskState.STARTING,
    Condition.RUNNING: TaskState.RUNNING,
    Condition.KILLING: TaskState.KILLING,
    Condition.UNREACHABLE: TaskState.UNREACHABLE,
    Condition.UNREACHABLE_INACTIVE: TaskState.UNREACHABLE,
    Condition.FINISHED: TaskState.FINISHED,
    Condition.FAILED: TaskState.FAILED,
    Condition.KILLED: TaskState.KILLED,
    Condition.ERROR: TaskState.ERROR,
    Condition.DROPPED: TaskState.DROPPED,
    Condition.GONE: TaskState.GONE,
    Condition.UNKNOWN: TaskState.UNKNOWN,
}
_CONDITIONS = {state: condition for condition, state in _STATES.items()} | {
    TaskState.UNREACHABLE: Condition.UNREACHABLE,
    TaskState.GONE_BY_OPERATOR: Condition.GONE,
}
#: Reasons of TASK_LOST after which the task may come back. A reconciliation hides the real one.
#: Both spellings: foreign masters still say "slave".
_MAY_RETURN = frozenset(
    {
        "REASON_RECONCILIATION", "REASON_AGENT_DISCONNECTED", "REASON_AGENT_REMOVED",
        "REASON_SLAVE_DISCONNECTED", "REASON_SLAVE_REMOVED",
    }
)  # fmt: skip


def condition_of(status: TaskStatus) -> Condition:
    """What a status update says. TASK_LOST, which old masters send, is read by its reason."""
    if status.state is TaskState.LOST:
        if status.reason in _MAY_RETURN:
            return Condition.UNREACHABLE
        if status.reason == "REASON_TASK_UNKNOWN":
            return Condition.UNKNOWN
        return Condition.GONE
    return _CONDITIONS[status.state]
