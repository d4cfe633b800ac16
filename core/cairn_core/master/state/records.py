"""What the master remembers of frameworks, agents, tasks, executors and offers.

A cluster has 200,000 tasks, so a record is hot fields in slots plus immutable JSON bytes of what
is only ever shown. Only the modules of this package change a record; readers take what they find.
Times named `*_time` are wall-clock seconds since the epoch; deadlines are monotonic seconds.
Field names and their meaning follow `mesos.proto` and the master's `Framework` and `Slave`.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from cairn_core.extensions import AgentId, Constraint, FrameworkId
from cairn_core.mesos import types
from cairn_core.mesos.scheduler_api import OfferConstraints
from cairn_core.mesos.types import Message, TaskState
from cairn_core.resources import EMPTY, Resources

#: What is remembered of the past, as in the original.
MAX_COMPLETED_FRAMEWORKS = 50
MAX_COMPLETED_TASKS = 1000
MAX_UNREACHABLE_TASKS = 1000


class StaticTask(Message, frozen=True):
    """The fields of a v1 `Task` that never change; encoded once, as `TaskRecord.static`."""

    name: str
    task_id: types.TaskID
    framework_id: types.FrameworkID
    agent_id: types.AgentID
    executor_id: types.ExecutorID | None = None
    resources: tuple[types.Resource, ...] = ()
    labels: types.Labels | None = None
    discovery: types.DiscoveryInfo | None = None
    container: types.ContainerInfo | None = None
    health_check: types.HealthCheck | None = None
    kill_policy: types.KillPolicy | None = None
    user: str | None = None
    limits: dict[str, types.LimitScalar] = {}


class KeptStatus(NamedTuple):
    """A status that a task has had: its state, and the JSON of the v1 `TaskStatus`.

    The JSON has neither `data` nor `uuid` nor `message`.
    """

    state: TaskState
    json: bytes


@dataclass(slots=True, eq=False)
class TaskRecord:
    """A task that was launched, until its terminal update is acknowledged.

    executor_id: None for a command task.
    role: the role that its resources are allocated to.
    resources: counted as used while `holds` is true.
    state: the newest state known, which may be ahead of what the framework was told.
    status_update_state, status_update_uuid: what the framework was told last, and the uuid to
        acknowledge; None before the first update, uuid None where nothing is to acknowledge.
    static: JSON object of `StaticTask`, without `state` and `statuses`: a v1 Task is
        `static[:-1] + b',"state":...,"statuses":[...]}'`.
    statuses: oldest first, at most one per state, the newest of each.
    holds: its resources are allocated; false from the first terminal or unreachable state on.
    """

    task_id: str
    framework_id: FrameworkId
    agent_id: AgentId
    executor_id: str | None
    name: str
    role: str
    resources: Resources
    state: TaskState
    static: bytes
    holds: bool = True
    status_update_state: TaskState | None = None
    status_update_uuid: bytes | None = None
    statuses: tuple[KeptStatus, ...] = ()
    healthy: bool | None = None

    @property
    def is_command_task(self) -> bool:
        """Whether the agent's own executor runs it."""
        return self.executor_id is None

    def describe(self) -> types.Task:
        """The whole v1 Task, decoded; for single tasks, not for loops over all of them."""
        static = msgspec.json.decode(self.static, type=StaticTask)
        return types.Task(
            state=self.state,
            statuses=tuple(
                msgspec.json.decode(kept.json, type=types.TaskStatus) for kept in self.statuses
            ),
            status_update_state=self.status_update_state,
            status_update_uuid=self.status_update_uuid,
            **{name: getattr(static, name) for name in StaticTask.__struct_fields__},
        )


@dataclass(slots=True, eq=False)
class ExecutorRecord:
    """An executor of a framework on an agent; command tasks have none.

    resources: allocated beside those of its tasks. info: JSON of the v1 ExecutorInfo, whose
    bytes are compared when another task names the same executor.
    """

    executor_id: str
    framework_id: FrameworkId
    agent_id: AgentId
    role: str
    resources: Resources
    info: bytes


@dataclass(slots=True, eq=False)
class OfferRecord:
    """Resources of one agent offered to one framework for one role, still undecided.

    deadline: monotonic seconds when it is rescinded; None for never.
    """

    offer_id: str
    framework_id: FrameworkId
    agent_id: AgentId
    role: str
    resources: Resources
    deadline: float | None = None


@dataclass(slots=True, eq=False)
class FrameworkRecord:
    """A framework, connected or waited for.

    info: as last subscribed, with `id` set.
    capabilities: by name. roles: those it subscribed to. suppressed: of those, without offers.
    connected: its stream is open. active: it gets offers. recovered: known only from agents
        since this master was elected; it has not subscribed here yet.
    offer_constraints: as it gave them; `constraints`: the same, decoded, by role.
    principal: of the connection; None without authentication.
    stream_id: `Mesos-Stream-Id` of the open stream.
    deadline: monotonic seconds when a disconnected framework is removed.
    reconciling: answers of a large reconciliation that wait for their turn, as (task id, agent
        id, whether the framework named the task). implicit: one about all tasks is among them.
    tasks: by task id; those on unreachable agents are in `unreachable_tasks`.
    executors: by (agent id, executor id).
    """

    framework_id: FrameworkId
    info: types.FrameworkInfo
    roles: frozenset[str]
    capabilities: frozenset[str]
    suppressed: frozenset[str] = frozenset()
    offer_constraints: OfferConstraints | None = None
    constraints: Mapping[str, Constraint] = field(default_factory=dict)
    principal: str | None = None
    connected: bool = False
    active: bool = False
    recovered: bool = False
    stream_id: str | None = None
    deadline: float | None = None
    reconciling: deque[tuple[str, str | None, bool]] = field(default_factory=deque)
    implicit: bool = False
    registered_time: float = 0.0
    reregistered_time: float | None = None
    unregistered_time: float | None = None
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    unreachable_tasks: dict[str, TaskRecord] = field(default_factory=dict)
    completed_tasks: deque[TaskRecord] = field(
        default_factory=lambda: deque(maxlen=MAX_COMPLETED_TASKS)
    )
    executors: dict[tuple[str, str], ExecutorRecord] = field(default_factory=dict)
    offers: dict[str, OfferRecord] = field(default_factory=dict)

    @property
    def partition_aware(self) -> bool:
        """Whether it is told UNREACHABLE, DROPPED, GONE... instead of LOST."""
        return "PARTITION_AWARE" in self.capabilities

    @property
    def refined(self) -> bool:
        """Whether resources go to it in the form with `reservations`."""
        return "RESERVATION_REFINEMENT" in self.capabilities

    @property
    def multi_role(self) -> bool:
        """Whether it has `roles` and sees `allocation_info`."""
        return "MULTI_ROLE" in self.capabilities


@dataclass(slots=True, eq=False)
class AgentRecord:
    """An agent that registered with this master and was not removed.

    info: JSON of the v1 AgentInfo, with `id`. pid: `slave(1)@ip:port`.
    connected: its link is open. active: its resources are offered (not after `deactivated`
        by an operator). deactivated: by an operator.
    deadline: monotonic seconds when a disconnected agent becomes unreachable.
    link: of the open connection. session: of the agent process. pings: unanswered ones.
    tasks: by framework id and task id. executors: by framework id and executor id.
    used: by framework id and role, what tasks and executors hold.
    kills: (framework id, task id) whose kill waits for the agent's return.
    rests: freed ports that are not offered yet, each with the end of its rest (monotonic seconds),
        the oldest first. resting: the sum. rest_deadline: when they are looked at next.
    """

    agent_id: AgentId
    info: bytes
    hostname: str
    pid: str
    ip: str
    port: int
    version: str
    boot_id: str
    total: Resources
    attributes: tuple[types.Attribute, ...] = ()
    domain: types.DomainInfo | None = None
    capabilities: frozenset[str] = frozenset()
    connected: bool = False
    active: bool = False
    deactivated: bool = False
    deadline: float | None = None
    link: int | None = None
    session: str = ""
    pings: int = 0
    registered_time: float = 0.0
    reregistered_time: float | None = None
    tasks: dict[str, dict[str, TaskRecord]] = field(default_factory=dict)
    executors: dict[str, dict[str, ExecutorRecord]] = field(default_factory=dict)
    offers: dict[str, OfferRecord] = field(default_factory=dict)
    used: dict[str, dict[str, Resources]] = field(default_factory=dict)
    kills: dict[tuple[str, str], types.KillPolicy | None] = field(default_factory=dict)
    rests: deque[tuple[float, Resources]] = field(default_factory=deque)
    resting: Resources = EMPTY
    rest_deadline: float | None = None


@dataclass(slots=True, frozen=True)
class KnownAgent:
    """An agent that the registry knows and that is not registered now.

    info: as in AgentRecord. time: wall-clock of becoming unreachable or gone; 0 for one that is
    only awaited after a change of masters.
    """

    agent_id: AgentId
    info: bytes
    hostname: str
    time: float = 0.0


@dataclass(slots=True, frozen=True)
class Quota:
    """Guarantees and limits of a role, thousandths by resource name."""

    guarantees: dict[str, int]
    limits: dict[str, int]


@dataclass(slots=True, frozen=True)
class MasterRecord:
    """This master. `start_time`, `elected_time`: wall-clock seconds since the epoch."""

    info: types.MasterInfo
    start_time: float
    elected_time: float

    @property
    def master_id(self) -> str:
        """The UUID that all ids made by this master begin with."""
        return self.info.id
