"""What the master's rules want done, as values; the shell (`daemon`) does it.

Streams and links are connections: a stream carries events to a framework and is named by its
`Mesos-Stream-Id`, a link leads to an agent and is named by a number that the shell chose.
"""

import enum
from dataclasses import dataclass
from typing import TypeAlias

from cairn_core.extensions import AgentId
from cairn_core.master.state.records import AgentRecord, FrameworkRecord, OfferRecord, TaskRecord
from cairn_core.mesos.agent_api import MasterMessage
from cairn_core.mesos.scheduler_api import Event
from cairn_core.mesos.types import TaskStatus
from cairn_core.replog.interface import Record
from cairn_core.vips.addresses import Given


class Change(enum.Enum):
    """What happened to a record."""

    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class ToStream:
    """Send an event on a framework's stream; nothing happens when the stream is gone."""

    stream_id: str
    event: Event


@dataclass(frozen=True, slots=True)
class CloseStream:
    """End a framework's stream after what is queued."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class ToLink:
    """Send a message to an agent; nothing happens when the link is gone."""

    link: int
    message: MasterMessage


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Close an agent's link after what is queued."""

    link: int


@dataclass(frozen=True, slots=True)
class StoreRegistry:
    """Append records to the registry, then feed `stored(operation)` back.

    What depends on the records happens only then.
    """

    operation: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer an operator's request: an HTTP status, and a text for statuses from 400 on."""

    request: int
    status: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class AllocationNeeded:
    """The allocator has work: run its steps soon (coalesced over some milliseconds)."""


@dataclass(frozen=True, slots=True)
class FrameworkChanged:
    """A framework was added, changed (also its offers' sum), or moved to the completed ones."""

    framework: FrameworkRecord
    change: Change


@dataclass(frozen=True, slots=True)
class AgentChanged:
    """An agent was added, changed (state or resources), or removed (unreachable, gone)."""

    agent: AgentRecord
    change: Change
    why: str = ""  #: of a removal, for people


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task was added, changed its state or health, or is no longer live.

    status: the update that caused it, if it was one.
    """

    task: TaskRecord
    change: Change
    status: TaskStatus | None = None


@dataclass(frozen=True, slots=True)
class OfferChanged:
    """An offer came (ADDED) or went (REMOVED)."""

    offer: OfferRecord
    change: Change


@dataclass(frozen=True, slots=True)
class AgentForgotten:
    """An agent of the registry that was waited for is not waited for any more."""

    agent_id: AgentId


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """Quota or weight of a role changed."""

    role: str


@dataclass(frozen=True, slots=True)
class VipChanged:
    """A name has these addresses (ADDED) or no longer (REMOVED), and the registry says so."""

    name: str
    given: Given
    change: Change


@dataclass(frozen=True, slots=True)
class VipsRefused:
    """So many names that tasks ask for got no address; the first of them, and why."""

    count: int
    name: str
    reason: str


Changed: TypeAlias = (
    FrameworkChanged
    | AgentChanged
    | AgentForgotten
    | TaskChanged
    | OfferChanged
    | RoleChanged
    | VipChanged
    | VipsRefused
)
Effect: TypeAlias = (
    ToStream | CloseStream | ToLink | CloseLink | StoreRegistry | Reply | AllocationNeeded | Changed
)
