"""The v1 scheduler API: calls of a framework and events to it.

Source: `include/mesos/v1/scheduler/scheduler.proto`. `type` is text, because a type that is
unknown here must be answered, not refused as malformed.
"""

from typing import Any

from cairn_core.mesos.types import (
    URL,
    AgentID,
    AllocationInfo,
    Attribute,
    DomainInfo,
    ExecutorID,
    ExecutorInfo,
    Filters,
    FrameworkID,
    FrameworkInfo,
    KillPolicy,
    MasterInfo,
    Message,
    OfferID,
    OperationID,
    Resource,
    ResourceProviderID,
    TaskGroupInfo,
    TaskID,
    TaskInfo,
    TaskStatus,
    Unavailability,
)

CALL_TYPES = frozenset(
    {
        "SUBSCRIBE", "TEARDOWN", "ACCEPT", "DECLINE", "ACCEPT_INVERSE_OFFERS",
        "DECLINE_INVERSE_OFFERS", "REVIVE", "KILL", "SHUTDOWN", "ACKNOWLEDGE",
        "ACKNOWLEDGE_OPERATION_STATUS", "RECONCILE", "RECONCILE_OPERATIONS", "MESSAGE", "REQUEST",
        "SUPPRESS", "UPDATE_FRAMEWORK",
    }
)  # fmt: skip


class Selector(Message, frozen=True):
    """What an offer constraint looks at: an attribute, or HOSTNAME, REGION, ZONE."""

    pseudoattribute_type: str | None = None
    attribute_name: str | None = None


class TextPredicate(Message, frozen=True):
    """Compares with a text."""

    value: str


class RegexPredicate(Message, frozen=True):
    """Compares with a regular expression, whole value."""

    regex: str


class Nothing(Message, frozen=True):
    """A message without fields."""


class Predicate(Message, frozen=True):
    """Exactly one of these is set."""

    exists: Nothing | None = None
    not_exists: Nothing | None = None
    text_equals: TextPredicate | None = None
    text_not_equals: TextPredicate | None = None
    text_matches: RegexPredicate | None = None
    text_not_matches: RegexPredicate | None = None


class AttributeConstraint(Message, frozen=True):
    """A predicate over one attribute of an agent."""

    selector: Selector
    predicate: Predicate


class ConstraintGroup(Message, frozen=True):
    """All of these must hold."""

    attribute_constraints: tuple[AttributeConstraint, ...] = ()


class RoleConstraints(Message, frozen=True):
    """One of these groups must hold."""

    groups: tuple[ConstraintGroup, ...] = ()


class OfferConstraints(Message, frozen=True):
    """Per role, which agents a framework wants to be offered at all."""

    role_constraints: dict[str, RoleConstraints] = {}


class Offer(Message, frozen=True):
    """Resources of one agent for one role of one framework."""

    id: OfferID
    framework_id: FrameworkID
    agent_id: AgentID
    hostname: str
    url: URL | None = None
    domain: DomainInfo | None = None
    resources: tuple[Resource, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    executor_ids: tuple[ExecutorID, ...] = ()
    unavailability: Unavailability | None = None
    allocation_info: AllocationInfo | None = None


class Launch(Message, frozen=True):
    """Launch tasks, each with its own command or executor."""

    task_infos: tuple[TaskInfo, ...] = ()


class LaunchGroup(Message, frozen=True):
    """Launch tasks that live and die together."""

    executor: ExecutorInfo
    task_group: TaskGroupInfo


class Operation(Message, frozen=True):
    """One operation of an ACCEPT; those that are not served yet keep their body unread."""

    type: str | None = None
    id: OperationID | None = None
    launch: Launch | None = None
    launch_group: LaunchGroup | None = None
    reserve: Any = None
    unreserve: Any = None
    create: Any = None
    destroy: Any = None
    grow_volume: Any = None
    shrink_volume: Any = None
    create_disk: Any = None
    destroy_disk: Any = None


class Subscribe(Message, frozen=True):
    """Opens the event stream."""

    framework_info: FrameworkInfo
    suppressed_roles: tuple[str, ...] = ()
    offer_constraints: OfferConstraints | None = None


class Accept(Message, frozen=True):
    """Uses offers; what is left over is declined with `filters`."""

    offer_ids: tuple[OfferID, ...] = ()
    operations: tuple[Operation, ...] = ()
    filters: Filters | None = None


class Decline(Message, frozen=True):
    """Gives offers back."""

    offer_ids: tuple[OfferID, ...] = ()
    filters: Filters | None = None


class Revive(Message, frozen=True):
    """Asks for offers again; no roles means all."""

    roles: tuple[str, ...] = ()


class Suppress(Message, frozen=True):
    """Wants no offers; no roles means all."""

    roles: tuple[str, ...] = ()


class Kill(Message, frozen=True):
    """Ends a task."""

    task_id: TaskID
    agent_id: AgentID | None = None
    kill_policy: KillPolicy | None = None


class Shutdown(Message, frozen=True):
    """Ends an executor."""

    executor_id: ExecutorID
    agent_id: AgentID


class Acknowledge(Message, frozen=True):
    """Confirms a status update."""

    agent_id: AgentID
    task_id: TaskID
    uuid: bytes


class AcknowledgeOperationStatus(Message, frozen=True):
    """Confirms an operation status update."""

    uuid: bytes
    operation_id: OperationID
    agent_id: AgentID | None = None
    resource_provider_id: ResourceProviderID | None = None


class ReconcileTask(Message, frozen=True):
    """A task whose state is asked for."""

    task_id: TaskID
    agent_id: AgentID | None = None


class Reconcile(Message, frozen=True):
    """Asks for task states; none named means all."""

    tasks: tuple[ReconcileTask, ...] = ()


class SchedulerMessage(Message, frozen=True):
    """Free-form data between scheduler and executor."""

    agent_id: AgentID
    executor_id: ExecutorID
    data: bytes


class UpdateFramework(Message, frozen=True):
    """Changes the framework without a new subscription."""

    framework_info: FrameworkInfo
    suppressed_roles: tuple[str, ...] = ()
    offer_constraints: OfferConstraints | None = None


class Call(Message, frozen=True):
    """What a framework sends."""

    type: str | None = None
    framework_id: FrameworkID | None = None
    subscribe: Subscribe | None = None
    accept: Accept | None = None
    decline: Decline | None = None
    revive: Revive | None = None
    suppress: Suppress | None = None
    kill: Kill | None = None
    shutdown: Shutdown | None = None
    acknowledge: Acknowledge | None = None
    acknowledge_operation_status: AcknowledgeOperationStatus | None = None
    reconcile: Reconcile | None = None
    reconcile_operations: Any = None
    message: SchedulerMessage | None = None
    request: Any = None
    accept_inverse_offers: Any = None
    decline_inverse_offers: Any = None
    update_framework: UpdateFramework | None = None


class Subscribed(Message, frozen=True):
    """First event of a stream."""

    framework_id: FrameworkID
    heartbeat_interval_seconds: float | None = None
    master_info: MasterInfo | None = None


class Offers(Message, frozen=True):
    """New offers."""

    offers: tuple[Offer, ...] = ()


class Rescind(Message, frozen=True):
    """An offer is no longer valid."""

    offer_id: OfferID


class Update(Message, frozen=True):
    """A task's state changed."""

    status: TaskStatus


class OperationStatus(Message, frozen=True):
    """State of an operation."""

    state: str
    operation_id: OperationID | None = None
    message: str | None = None
    agent_id: AgentID | None = None


class UpdateOperationStatus(Message, frozen=True):
    """An operation's state changed."""

    status: OperationStatus


class Failure(Message, frozen=True):
    """An agent is gone (agent alone) or an executor ended (with its wait status)."""

    agent_id: AgentID | None = None
    executor_id: ExecutorID | None = None
    status: int | None = None


class Error(Message, frozen=True):
    """The subscription is over."""

    message: str


class Event(Message, frozen=True):
    """What a framework receives."""

    type: str
    subscribed: Subscribed | None = None
    offers: Offers | None = None
    rescind: Rescind | None = None
    update: Update | None = None
    update_operation_status: UpdateOperationStatus | None = None
    message: SchedulerMessage | None = None
    failure: Failure | None = None
    error: Error | None = None


HEARTBEAT = Event(type="HEARTBEAT")
HEARTBEAT_INTERVAL_S = 15.0
