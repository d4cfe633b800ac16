"""The v1 operator API of master and agent: calls, answers and the master's event stream.

Source: `include/mesos/v1/{master/master,agent/agent,quota/quota}.proto`. Calls that are known but
not served keep their body unread; `type` is text so that an unknown one can be answered.
"""

from typing import Any

from cairn_core.mesos.scheduler_api import Offer, OfferConstraints
from cairn_core.mesos.types import (
    AgentID,
    AgentInfo,
    Capability,
    ContainerID,
    ContainerStatus,
    DurationInfo,
    ExecutorID,
    ExecutorInfo,
    FrameworkID,
    FrameworkInfo,
    MasterInfo,
    Message,
    Resource,
    ResourceStatistics,
    Scalar,
    Task,
    TaskState,
    TaskStatus,
    TimeInfo,
    VersionInfo,
)

MASTER_CALL_TYPES = frozenset(
    {
        "GET_HEALTH", "GET_FLAGS", "GET_VERSION", "GET_METRICS", "GET_LOGGING_LEVEL",
        "SET_LOGGING_LEVEL", "LIST_FILES", "READ_FILE", "GET_STATE", "GET_AGENTS",
        "GET_FRAMEWORKS", "GET_EXECUTORS", "GET_OPERATIONS", "GET_TASKS", "GET_ROLES",
        "GET_WEIGHTS", "UPDATE_WEIGHTS", "GET_MASTER", "SUBSCRIBE", "RESERVE_RESOURCES",
        "UNRESERVE_RESOURCES", "CREATE_VOLUMES", "DESTROY_VOLUMES", "GROW_VOLUME",
        "SHRINK_VOLUME", "GET_MAINTENANCE_STATUS", "GET_MAINTENANCE_SCHEDULE",
        "UPDATE_MAINTENANCE_SCHEDULE", "START_MAINTENANCE", "STOP_MAINTENANCE", "DRAIN_AGENT",
        "DEACTIVATE_AGENT", "REACTIVATE_AGENT", "GET_QUOTA", "UPDATE_QUOTA", "SET_QUOTA",
        "REMOVE_QUOTA", "TEARDOWN", "MARK_AGENT_GONE",
    }
)  # fmt: skip
AGENT_CALL_TYPES = frozenset(
    {
        "GET_HEALTH", "GET_FLAGS", "GET_VERSION", "GET_METRICS", "GET_LOGGING_LEVEL",
        "SET_LOGGING_LEVEL", "LIST_FILES", "READ_FILE", "GET_STATE", "GET_CONTAINERS",
        "GET_FRAMEWORKS", "GET_EXECUTORS", "GET_OPERATIONS", "GET_TASKS", "GET_AGENT",
        "GET_RESOURCE_PROVIDERS", "LAUNCH_NESTED_CONTAINER", "WAIT_NESTED_CONTAINER",
        "KILL_NESTED_CONTAINER", "REMOVE_NESTED_CONTAINER", "LAUNCH_NESTED_CONTAINER_SESSION",
        "ATTACH_CONTAINER_INPUT", "ATTACH_CONTAINER_OUTPUT", "LAUNCH_CONTAINER",
        "WAIT_CONTAINER", "KILL_CONTAINER", "REMOVE_CONTAINER", "ADD_RESOURCE_PROVIDER_CONFIG",
        "UPDATE_RESOURCE_PROVIDER_CONFIG", "REMOVE_RESOURCE_PROVIDER_CONFIG",
        "MARK_RESOURCE_PROVIDER_GONE", "PRUNE_IMAGES",
    }
)  # fmt: skip


class GetMetricsCall(Message, frozen=True):
    """How long gauges may take."""

    timeout: DurationInfo | None = None


class SetLoggingLevel(Message, frozen=True):
    """Raise the level of logging for some time."""

    level: int
    duration: DurationInfo


class ListFilesCall(Message, frozen=True):
    """List a virtual directory."""

    path: str


class ReadFileCall(Message, frozen=True):
    """Read from a virtual file."""

    path: str
    offset: int
    length: int | None = None


class WeightInfo(Message, frozen=True):
    """Weight of a role, above 0."""

    weight: float
    role: str | None = None


class UpdateWeights(Message, frozen=True):
    """Set weights; roles not named keep theirs."""

    weight_infos: tuple[WeightInfo, ...] = ()


class QuotaConfig(Message, frozen=True):
    """Quota of a role: scalar amounts by resource name; no limit means unlimited."""

    role: str
    guarantees: dict[str, Scalar] = {}
    limits: dict[str, Scalar] = {}


class UpdateQuota(Message, frozen=True):
    """Set quota, all or nothing; `force` skips the checks against the cluster."""

    force: bool | None = None
    quota_configs: tuple[QuotaConfig, ...] = ()


class Teardown(Message, frozen=True):
    """Remove a framework."""

    framework_id: FrameworkID


class MarkAgentGone(Message, frozen=True):
    """The agent will never return; its tasks are gone."""

    agent_id: AgentID


class GetContainersCall(Message, frozen=True):
    """Which containers to list."""

    show_nested: bool | None = None
    show_standalone: bool | None = None


class Call(Message, frozen=True):
    """A call to a master or an agent; calls that are not served are known by type only."""

    type: str | None = None
    get_metrics: GetMetricsCall | None = None
    set_logging_level: SetLoggingLevel | None = None
    list_files: ListFilesCall | None = None
    read_file: ReadFileCall | None = None
    update_weights: UpdateWeights | None = None
    update_quota: UpdateQuota | None = None
    teardown: Teardown | None = None
    mark_agent_gone: MarkAgentGone | None = None
    get_containers: GetContainersCall | None = None
    set_quota: Any = None
    remove_quota: Any = None


class GetHealth(Message, frozen=True):
    """Whether the process is well."""

    healthy: bool


class Flag(Message, frozen=True):
    """A setting."""

    name: str
    value: str | None = None


class GetFlags(Message, frozen=True):
    """All settings."""

    flags: tuple[Flag, ...] = ()


class GetVersion(Message, frozen=True):
    """The version."""

    version_info: VersionInfo


class Metric(Message, frozen=True):
    """One number."""

    name: str
    value: float | None = None


class GetMetrics(Message, frozen=True):
    """All numbers of `/metrics/snapshot`."""

    metrics: tuple[Metric, ...] = ()


class GetLoggingLevel(Message, frozen=True):
    """0 is the normal level."""

    level: int


class FileInfo(Message, frozen=True):
    """An entry of a directory; `mode` as in stat(2)."""

    path: str
    nlink: int | None = None
    size: int | None = None
    mtime: TimeInfo | None = None
    mode: int | None = None
    uid: str | None = None
    gid: str | None = None


class ListFiles(Message, frozen=True):
    """Entries of a directory."""

    file_infos: tuple[FileInfo, ...] = ()


class ReadFile(Message, frozen=True):
    """A piece of a file of `size` bytes."""

    size: int
    data: bytes


class DrainInfo(Message, frozen=True):
    """State of a drain."""

    state: str


class Agent(Message, frozen=True):
    """An agent as the master sees it (`GetAgents.Agent`)."""

    agent_info: AgentInfo
    active: bool
    version: str
    deactivated: bool | None = None
    pid: str | None = None
    registered_time: TimeInfo | None = None
    reregistered_time: TimeInfo | None = None
    total_resources: tuple[Resource, ...] = ()
    allocated_resources: tuple[Resource, ...] = ()
    offered_resources: tuple[Resource, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    drain_info: DrainInfo | None = None
    estimated_drain_start_time: TimeInfo | None = None


class GetAgents(Message, frozen=True):
    """Registered agents, and those that have not come back after a failover."""

    agents: tuple[Agent, ...] = ()
    recovered_agents: tuple[AgentInfo, ...] = ()


class Framework(Message, frozen=True):
    """A framework as the master sees it (`GetFrameworks.Framework`)."""

    framework_info: FrameworkInfo
    active: bool
    connected: bool
    recovered: bool
    registered_time: TimeInfo | None = None
    reregistered_time: TimeInfo | None = None
    unregistered_time: TimeInfo | None = None
    offers: tuple[Offer, ...] = ()
    allocated_resources: tuple[Resource, ...] = ()
    offered_resources: tuple[Resource, ...] = ()
    offer_constraints: OfferConstraints | None = None


class GetFrameworks(Message, frozen=True):
    """All frameworks."""

    frameworks: tuple[Framework, ...] = ()
    completed_frameworks: tuple[Framework, ...] = ()


class Executor(Message, frozen=True):
    """A running executor."""

    executor_info: ExecutorInfo
    agent_id: AgentID | None = None


class GetExecutors(Message, frozen=True):
    """All executors."""

    executors: tuple[Executor, ...] = ()
    completed_executors: tuple[Executor, ...] = ()


class GetTasks(Message, frozen=True):
    """All tasks, by what became of them."""

    tasks: tuple[Task, ...] = ()
    unreachable_tasks: tuple[Task, ...] = ()
    completed_tasks: tuple[Task, ...] = ()
    pending_tasks: tuple[Task, ...] = ()
    queued_tasks: tuple[Task, ...] = ()
    launched_tasks: tuple[Task, ...] = ()
    terminated_tasks: tuple[Task, ...] = ()


class GetState(Message, frozen=True):
    """Everything at one instant."""

    get_tasks: GetTasks | None = None
    get_executors: GetExecutors | None = None
    get_frameworks: GetFrameworks | None = None
    get_agents: GetAgents | None = None


class Role(Message, frozen=True):
    """A role that somebody uses."""

    name: str
    weight: float
    frameworks: tuple[FrameworkID, ...] = ()
    resources: tuple[Resource, ...] = ()


class GetRoles(Message, frozen=True):
    """All roles in use."""

    roles: tuple[Role, ...] = ()


class GetWeights(Message, frozen=True):
    """Weights that were set."""

    weight_infos: tuple[WeightInfo, ...] = ()


class GetMaster(Message, frozen=True):
    """The leading master; times in seconds since the epoch."""

    master_info: MasterInfo | None = None
    start_time: float | None = None
    elected_time: float | None = None


class QuotaInfo(Message, frozen=True):
    """Quota in the form before limits; deprecated by the original, still read."""

    role: str | None = None
    principal: str | None = None
    guarantee: tuple[Resource, ...] = ()


class QuotaStatus(Message, frozen=True):
    """Quota of all roles, in both forms."""

    infos: tuple[QuotaInfo, ...] = ()
    configs: tuple[QuotaConfig, ...] = ()


class GetQuota(Message, frozen=True):
    """Quota of all roles."""

    status: QuotaStatus


class Container(Message, frozen=True):
    """A container on an agent."""

    container_id: ContainerID
    framework_id: FrameworkID | None = None
    executor_id: ExecutorID | None = None
    executor_name: str | None = None
    container_status: ContainerStatus | None = None
    resource_statistics: ResourceStatistics | None = None


class GetContainers(Message, frozen=True):
    """Containers on an agent."""

    containers: tuple[Container, ...] = ()


class GetOperations(Message, frozen=True):
    """Operations under way; there are none."""


class GetAgent(Message, frozen=True):
    """The agent itself."""

    agent_info: AgentInfo | None = None


class Response(Message, frozen=True):
    """An answer of a master or an agent."""

    type: str
    get_health: GetHealth | None = None
    get_flags: GetFlags | None = None
    get_version: GetVersion | None = None
    get_metrics: GetMetrics | None = None
    get_logging_level: GetLoggingLevel | None = None
    list_files: ListFiles | None = None
    read_file: ReadFile | None = None
    get_state: GetState | None = None
    get_agents: GetAgents | None = None
    get_frameworks: GetFrameworks | None = None
    get_executors: GetExecutors | None = None
    get_operations: GetOperations | None = None
    get_tasks: GetTasks | None = None
    get_roles: GetRoles | None = None
    get_weights: GetWeights | None = None
    get_master: GetMaster | None = None
    get_quota: GetQuota | None = None
    get_containers: GetContainers | None = None
    get_agent: GetAgent | None = None


class Subscribed(Message, frozen=True):
    """First event: everything as it is now."""

    get_state: GetState | None = None
    heartbeat_interval_seconds: float | None = None


class TaskAdded(Message, frozen=True):
    """A task was launched or came back."""

    task: Task


class TaskUpdated(Message, frozen=True):
    """A task changed state or health; `status` is forwarded now, `state` is the newest known."""

    framework_id: FrameworkID
    status: TaskStatus
    state: TaskState


class AgentAdded(Message, frozen=True):
    """An agent registered."""

    agent: Agent


class AgentRemoved(Message, frozen=True):
    """An agent is gone or unreachable."""

    agent_id: AgentID


class FrameworkAdded(Message, frozen=True):
    """A framework subscribed for the first time."""

    framework: Framework


class FrameworkRemoved(Message, frozen=True):
    """A framework was torn down or timed out."""

    framework_info: FrameworkInfo


class Event(Message, frozen=True):
    """An event of the master's operator stream."""

    type: str
    subscribed: Subscribed | None = None
    task_added: TaskAdded | None = None
    task_updated: TaskUpdated | None = None
    agent_added: AgentAdded | None = None
    agent_removed: AgentRemoved | None = None
    framework_added: FrameworkAdded | None = None
    framework_updated: FrameworkAdded | None = None
    framework_removed: FrameworkRemoved | None = None


HEARTBEAT = Event(type="HEARTBEAT")
