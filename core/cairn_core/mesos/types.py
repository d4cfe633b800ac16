"""The messages that all Mesos v1 APIs share.

Source: the v1 protobuf definitions of Apache Mesos (`include/mesos/v1/mesos.proto`).
Callers import from here; the smaller pieces live in `base` and `containers`.
"""

from enum import StrEnum

from cairn_core.mesos.base import (
    URL,
    Address,
    AgentID,
    ContainerID,
    DurationInfo,
    ExecutorID,
    FrameworkID,
    Label,
    Labels,
    Message,
    OfferID,
    OperationID,
    Parameter,
    Parameters,
    ResourceProviderID,
    TaskID,
    TimeInfo,
    emitted,
)
from cairn_core.mesos.containers import (
    URI,
    CheckCommand,
    CheckHttp,
    CheckInfo,
    CheckTcp,
    CommandInfo,
    ContainerInfo,
    ContainerStatus,
    DockerInfo,
    Environment,
    EnvironmentVariable,
    HealthCheck,
    HealthCheckHttp,
    HealthCheckTcp,
    Image,
    IPAddress,
    KillPolicy,
    MesosInfo,
    NetworkInfo,
    PortMapping,
    ResourceStatistics,
    Volume,
)

__all__ = [
    "URI", "URL", "Address", "AgentID", "AgentInfo", "AllocationInfo", "Attribute", "Capability",
    "CheckCommand", "CheckHttp", "CheckInfo", "CheckStatusCommand", "CheckStatusHttp",
    "CheckStatusInfo", "CheckStatusTcp", "CheckTcp", "CommandInfo", "ContainerID",
    "ContainerInfo", "ContainerStatus", "DiscoveryInfo", "DiskInfo", "DiskSource",
    "DiskSourceRoot", "DockerInfo", "DomainInfo", "DurationInfo", "Environment",
    "EnvironmentVariable", "ExecutorID", "ExecutorInfo", "FaultDomain", "Filters", "FrameworkID",
    "FrameworkInfo", "HealthCheck", "HealthCheckHttp", "HealthCheckTcp", "IPAddress", "Image",
    "KillPolicy", "Label", "Labels", "LimitScalar", "MasterInfo", "MesosInfo", "Message",
    "NameInfo", "NetworkInfo", "OfferFilters", "OfferID", "OperationID", "Parameter",
    "Parameters", "Persistence", "Port", "PortMapping", "Ports", "Range", "Ranges", "Reason",
    "ReservationInfo", "Resource", "ResourceProviderID", "ResourceQuantities",
    "ResourceStatistics", "RevocableInfo", "Scalar", "SharedInfo", "Source", "Task",
    "TaskGroupInfo", "TaskID", "TaskInfo", "TaskResourceLimitation", "TaskState", "TaskStatus",
    "Text", "TimeInfo", "Unavailability", "ValueSet", "VersionInfo", "Volume", "emitted",
]  # fmt: skip


class TaskState(StrEnum):
    """States of a task. UNREACHABLE and UNKNOWN are not terminal: the task may come back."""

    STAGING = "TASK_STAGING"
    STARTING = "TASK_STARTING"
    RUNNING = "TASK_RUNNING"
    KILLING = "TASK_KILLING"
    FINISHED = "TASK_FINISHED"
    FAILED = "TASK_FAILED"
    KILLED = "TASK_KILLED"
    ERROR = "TASK_ERROR"
    LOST = "TASK_LOST"
    DROPPED = "TASK_DROPPED"
    UNREACHABLE = "TASK_UNREACHABLE"
    GONE = "TASK_GONE"
    GONE_BY_OPERATOR = "TASK_GONE_BY_OPERATOR"
    UNKNOWN = "TASK_UNKNOWN"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in _TERMINAL

    def for_framework(self, *, partition_aware: bool) -> "TaskState":
        """The state as a framework with or without PARTITION_AWARE is told it."""
        return self if partition_aware or self not in _PARTITION_STATES else TaskState.LOST


_TERMINAL = frozenset(
    {
        TaskState.FINISHED, TaskState.FAILED, TaskState.KILLED, TaskState.ERROR, TaskState.LOST,
        TaskState.DROPPED, TaskState.GONE, TaskState.GONE_BY_OPERATOR,
    }
)  # fmt: skip
_PARTITION_STATES = frozenset(
    {
        TaskState.DROPPED, TaskState.UNREACHABLE, TaskState.GONE, TaskState.GONE_BY_OPERATOR,
        TaskState.UNKNOWN,
    }
)  # fmt: skip


class Source(StrEnum):
    """Who made a status update."""

    MASTER = "SOURCE_MASTER"
    AGENT = "SOURCE_AGENT"
    EXECUTOR = "SOURCE_EXECUTOR"


class Reason(StrEnum):
    """Why a task is in its state; the reasons that Cairn itself gives."""

    COMMAND_EXECUTOR_FAILED = "REASON_COMMAND_EXECUTOR_FAILED"
    CONTAINER_LAUNCH_FAILED = "REASON_CONTAINER_LAUNCH_FAILED"
    CONTAINER_LIMITATION = "REASON_CONTAINER_LIMITATION"
    CONTAINER_LIMITATION_DISK = "REASON_CONTAINER_LIMITATION_DISK"
    CONTAINER_LIMITATION_MEMORY = "REASON_CONTAINER_LIMITATION_MEMORY"
    CONTAINER_PREEMPTED = "REASON_CONTAINER_PREEMPTED"
    CONTAINER_UPDATE_FAILED = "REASON_CONTAINER_UPDATE_FAILED"
    MAX_COMPLETION_TIME_REACHED = "REASON_MAX_COMPLETION_TIME_REACHED"
    EXECUTOR_REGISTRATION_TIMEOUT = "REASON_EXECUTOR_REGISTRATION_TIMEOUT"
    EXECUTOR_REREGISTRATION_TIMEOUT = "REASON_EXECUTOR_REREGISTRATION_TIMEOUT"
    EXECUTOR_TERMINATED = "REASON_EXECUTOR_TERMINATED"
    EXECUTOR_UNREGISTERED = "REASON_EXECUTOR_UNREGISTERED"
    FRAMEWORK_REMOVED = "REASON_FRAMEWORK_REMOVED"
    GC_ERROR = "REASON_GC_ERROR"
    INVALID_FRAMEWORKID = "REASON_INVALID_FRAMEWORKID"
    INVALID_OFFERS = "REASON_INVALID_OFFERS"
    MASTER_DISCONNECTED = "REASON_MASTER_DISCONNECTED"
    RECONCILIATION = "REASON_RECONCILIATION"
    RESOURCES_UNKNOWN = "REASON_RESOURCES_UNKNOWN"
    AGENT_DISCONNECTED = "REASON_AGENT_DISCONNECTED"
    AGENT_DRAINING = "REASON_AGENT_DRAINING"
    AGENT_REMOVED = "REASON_AGENT_REMOVED"
    AGENT_REMOVED_BY_OPERATOR = "REASON_AGENT_REMOVED_BY_OPERATOR"
    AGENT_REREGISTERED = "REASON_AGENT_REREGISTERED"
    AGENT_RESTARTED = "REASON_AGENT_RESTARTED"
    AGENT_UNKNOWN = "REASON_AGENT_UNKNOWN"
    TASK_KILLED_DURING_LAUNCH = "REASON_TASK_KILLED_DURING_LAUNCH"
    TASK_CHECK_STATUS_UPDATED = "REASON_TASK_CHECK_STATUS_UPDATED"
    TASK_HEALTH_CHECK_STATUS_UPDATED = "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED"
    TASK_GROUP_INVALID = "REASON_TASK_GROUP_INVALID"
    TASK_GROUP_UNAUTHORIZED = "REASON_TASK_GROUP_UNAUTHORIZED"
    TASK_INVALID = "REASON_TASK_INVALID"
    TASK_UNAUTHORIZED = "REASON_TASK_UNAUTHORIZED"
    TASK_UNKNOWN = "REASON_TASK_UNKNOWN"


class Scalar(Message, frozen=True, gc=False):
    """A number."""

    value: float


class LimitScalar(Message, frozen=True, gc=False):
    """A limit: a number, or `Infinity` (JSON has no such number, so it travels as text)."""

    value: float | str


class Range(Message, frozen=True, gc=False):
    """Both ends belong to the range."""

    begin: int
    end: int


class Ranges(Message, frozen=True):
    """A list of ranges."""

    range: tuple[Range, ...] = ()


class ValueSet(Message, frozen=True):
    """A set of words (`Value.Set`)."""

    item: tuple[str, ...] = ()


class Text(Message, frozen=True):
    """A text."""

    value: str


class Attribute(Message, frozen=True):
    """A property of an agent; `type` is SCALAR, RANGES, SET or TEXT."""

    name: str
    type: str
    scalar: Scalar | None = None
    ranges: Ranges | None = None
    set: ValueSet | None = None
    text: Text | None = None


class AllocationInfo(Message, frozen=True):
    """The role that resources are allocated to."""

    role: str | None = None


class ReservationInfo(Message, frozen=True):
    """One reservation of a stack; `type` is STATIC or DYNAMIC."""

    type: str | None = None
    role: str | None = None
    principal: str | None = None
    labels: Labels | None = None


class Persistence(Message, frozen=True):
    """Makes a disk resource a persistent volume."""

    id: str
    principal: str | None = None


class DiskSourceRoot(Message, frozen=True):
    """Root of a PATH or MOUNT disk."""

    root: str | None = None


class DiskSource(Message, frozen=True):
    """Where a disk resource comes from; `type` is PATH, MOUNT, BLOCK or RAW."""

    type: str
    path: DiskSourceRoot | None = None
    mount: DiskSourceRoot | None = None
    vendor: str | None = None
    id: str | None = None
    metadata: Labels | None = None
    profile: str | None = None


class DiskInfo(Message, frozen=True):
    """What makes disk more than a number."""

    persistence: Persistence | None = None
    volume: Volume | None = None
    source: DiskSource | None = None


class RevocableInfo(Message, frozen=True):
    """Marks resources that may be taken back at any time."""


class SharedInfo(Message, frozen=True):
    """Marks resources that several tasks may use at once."""


class Resource(Message, frozen=True):
    """Resources of one kind; `role` and `reservation` are the form before refinement."""

    name: str
    type: str
    provider_id: ResourceProviderID | None = None
    scalar: Scalar | None = None
    ranges: Ranges | None = None
    set: ValueSet | None = None
    role: str | None = None
    allocation_info: AllocationInfo | None = None
    reservation: ReservationInfo | None = None
    reservations: tuple[ReservationInfo, ...] = ()
    disk: DiskInfo | None = None
    revocable: RevocableInfo | None = None
    shared: SharedInfo | None = None


class ResourceQuantities(Message, frozen=True):
    """Amount per scalar resource name."""

    quantities: dict[str, Scalar] = {}


class MinAllocatableResources(Message, frozen=True):
    """An offer must hold at least one of these."""

    quantities: tuple[ResourceQuantities, ...] = ()


class OfferFilters(Message, frozen=True):
    """What a role of a framework does not want to be offered."""

    min_allocatable_resources: MinAllocatableResources | None = None


class Capability(Message, frozen=True):
    """A capability of a framework, agent or master, by name."""

    type: str | None = None


class FrameworkInfo(Message, frozen=True):
    """A framework; `failover_timeout` in seconds."""

    user: str
    name: str
    id: FrameworkID | None = None
    failover_timeout: float = emitted(0.0)
    checkpoint: bool = emitted(False)
    role: str | None = None
    roles: tuple[str, ...] = ()
    hostname: str | None = None
    principal: str | None = None
    webui_url: str | None = None
    capabilities: tuple[Capability, ...] = ()
    labels: Labels | None = None
    offer_filters: dict[str, OfferFilters] = {}


class NameInfo(Message, frozen=True):
    """A region or a zone."""

    name: str


class FaultDomain(Message, frozen=True):
    """Where in the world a machine stands."""

    region: NameInfo
    zone: NameInfo


class DomainInfo(Message, frozen=True):
    """The fault domain of a master or an agent."""

    fault_domain: FaultDomain | None = None


class MasterInfo(Message, frozen=True):
    """A master; `ip` is the four address bytes read as a little-endian number."""

    id: str
    ip: int
    port: int = emitted(5050)
    pid: str | None = None
    hostname: str | None = None
    version: str | None = None
    address: Address | None = None
    domain: DomainInfo | None = None
    capabilities: tuple[Capability, ...] = ()


class AgentInfo(Message, frozen=True):
    """An agent as it describes itself."""

    hostname: str
    port: int = emitted(5051)
    resources: tuple[Resource, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    id: AgentID | None = None
    domain: DomainInfo | None = None


class Unavailability(Message, frozen=True):
    """A maintenance window; without duration it has no end."""

    start: TimeInfo
    duration: DurationInfo | None = None


class Port(Message, frozen=True):
    """A port that a task tells the world about."""

    number: int
    name: str | None = None
    protocol: str | None = None
    visibility: str | None = None
    labels: Labels | None = None


class Ports(Message, frozen=True):
    """The ports of a task."""

    ports: tuple[Port, ...] = ()


class DiscoveryInfo(Message, frozen=True):
    """How a task wants to be found; `visibility` is FRAMEWORK, CLUSTER or EXTERNAL."""

    visibility: str
    name: str | None = None
    environment: str | None = None
    location: str | None = None
    version: str | None = None
    ports: Ports | None = None
    labels: Labels | None = None


class ExecutorInfo(Message, frozen=True):
    """An executor; `type` is DEFAULT or CUSTOM."""

    executor_id: ExecutorID
    type: str | None = None
    framework_id: FrameworkID | None = None
    command: CommandInfo | None = None
    container: ContainerInfo | None = None
    resources: tuple[Resource, ...] = ()
    name: str | None = None
    source: str | None = None
    data: bytes | None = None
    discovery: DiscoveryInfo | None = None
    shutdown_grace_period: DurationInfo | None = None
    labels: Labels | None = None


class TaskInfo(Message, frozen=True):
    """A task as the framework launches it."""

    name: str
    task_id: TaskID
    agent_id: AgentID
    resources: tuple[Resource, ...] = ()
    executor: ExecutorInfo | None = None
    command: CommandInfo | None = None
    container: ContainerInfo | None = None
    health_check: HealthCheck | None = None
    check: CheckInfo | None = None
    kill_policy: KillPolicy | None = None
    data: bytes | None = None
    labels: Labels | None = None
    discovery: DiscoveryInfo | None = None
    max_completion_time: DurationInfo | None = None
    limits: dict[str, LimitScalar] = {}


class TaskGroupInfo(Message, frozen=True):
    """Tasks that live and die together."""

    tasks: tuple[TaskInfo, ...] = ()


class TaskResourceLimitation(Message, frozen=True):
    """The resources that a task exceeded."""

    resources: tuple[Resource, ...] = ()


class CheckStatusCommand(Message, frozen=True):
    """Exit code of the last run; none while unknown."""

    exit_code: int | None = None


class CheckStatusHttp(Message, frozen=True):
    """Status code of the last answer; none while unknown."""

    status_code: int | None = None


class CheckStatusTcp(Message, frozen=True):
    """Whether the last connection succeeded; none while unknown."""

    succeeded: bool | None = None


class CheckStatusInfo(Message, frozen=True):
    """Last result of a generic check."""

    type: str | None = None
    command: CheckStatusCommand | None = None
    http: CheckStatusHttp | None = None
    tcp: CheckStatusTcp | None = None


class TaskStatus(Message, frozen=True):
    """A status update; `timestamp` in seconds since the epoch.

    Only an update with `uuid` is acknowledged; those the master makes up have none.
    """

    task_id: TaskID
    state: TaskState
    message: str | None = None
    source: str | None = None
    reason: str | None = None
    data: bytes | None = None
    agent_id: AgentID | None = None
    executor_id: ExecutorID | None = None
    timestamp: float | None = None
    uuid: bytes | None = None
    healthy: bool | None = None
    check_status: CheckStatusInfo | None = None
    labels: Labels | None = None
    container_status: ContainerStatus | None = None
    unreachable_time: TimeInfo | None = None
    limitation: TaskResourceLimitation | None = None


class Task(Message, frozen=True):
    """A task as master and agent describe it to others."""

    name: str
    task_id: TaskID
    framework_id: FrameworkID
    agent_id: AgentID
    state: TaskState
    executor_id: ExecutorID | None = None
    resources: tuple[Resource, ...] = ()
    statuses: tuple[TaskStatus, ...] = ()
    status_update_state: TaskState | None = None
    status_update_uuid: bytes | None = None
    labels: Labels | None = None
    discovery: DiscoveryInfo | None = None
    container: ContainerInfo | None = None
    health_check: HealthCheck | None = None
    kill_policy: KillPolicy | None = None
    user: str | None = None
    limits: dict[str, LimitScalar] = {}


class Filters(Message, frozen=True):
    """How long, in seconds, the refused resources shall not be offered again."""

    refuse_seconds: float = emitted(5.0)


class VersionInfo(Message, frozen=True):
    """Version of a master or an agent."""

    version: str
    build_date: str | None = None
    build_time: float | None = None
    build_user: str | None = None
    git_sha: str | None = None
    git_branch: str | None = None
    git_tag: str | None = None
