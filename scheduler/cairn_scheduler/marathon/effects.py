"""What Marathon's rules want done, as values; the shell (`io_marathon`) does it.

A fact gives one `Outcome`: records, and effects that may be carried out only when the records are
in the log. So nothing is answered, launched, killed or acknowledged that a crash could forget.
Outcomes are carried out in the order of their facts.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from cairn_core.mesos.scheduler_api import Reconcile
from cairn_core.mesos.types import TaskInfo, TaskStatus
from cairn_core.replog.interface import Record
from cairn_scheduler.marathon.errors import MarathonError
from cairn_scheduler.marathon.events import Event
from cairn_scheduler.marathon.groups import RootGroup
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.planner import Plan


@dataclass(frozen=True, slots=True)
class Deployed:
    """A change was taken: the plan that carries it out, empty where there is nothing to do."""

    plan: Plan
    root: RootGroup


@dataclass(frozen=True, slots=True)
class Killed:
    """These instances are being killed, as they were."""

    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """It is done, and there is nothing to say about it."""


Result: TypeAlias = Deployed | Killed | Done


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a request."""

    request: int
    result: Result | MarathonError


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell subscribers."""

    event: Event


@dataclass(frozen=True, slots=True)
class AcceptOffer:
    """Launch tasks on an offer; what is left is refused for `refuse_s` seconds."""

    offer_id: str
    tasks: tuple[TaskInfo, ...]
    refuse_s: float


@dataclass(frozen=True, slots=True)
class DeclineOffers:
    """Give offers back for `refuse_s` seconds."""

    offer_ids: tuple[str, ...]
    refuse_s: float


@dataclass(frozen=True, slots=True)
class SendKill:
    """Ask for the end of a task."""

    task_id: str
    agent_id: str | None


@dataclass(frozen=True, slots=True)
class AcknowledgeUpdate:
    """Confirm a status update."""

    status: TaskStatus


@dataclass(frozen=True, slots=True)
class ReviveOffers:
    """Want offers for roles again, whatever was declined."""

    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SuppressOffers:
    """Want no offers for roles."""

    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReconcileTasks:
    """Ask for states of tasks."""

    body: Reconcile


@dataclass(frozen=True, slots=True)
class UseRoles:
    """Be subscribed with these roles."""

    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Run a check, then give the result back under `key`: whose, which task, which check.

    scheme: http, https or tcp. statuses: HTTP statuses that are good; None: 200 to 399.
    keep_body: hand back what was answered.
    """

    key: tuple[str, str, int]
    scheme: str
    host: str
    port: int
    path: str
    timeout_s: float
    statuses: tuple[int, ...] | None = None
    ignore_1xx: bool = False
    keep_body: bool = False


Call: TypeAlias = (
    AcceptOffer
    | DeclineOffers
    | SendKill
    | AcknowledgeUpdate
    | ReviveOffers
    | SuppressOffers
    | ReconcileTasks
    | UseRoles
)
Effect: TypeAlias = Reply | Publish | Probe | Call


@dataclass(frozen=True, slots=True)
class Probed:
    """What a check found. status: of HTTP, 0 for a TCP connection that was made.

    failure: why nothing was found, empty if something was.
    """

    key: tuple[str, str, int]
    good: bool
    status: int = 0
    failure: str = ""
    content_type: str = ""
    body: str = ""


@dataclass(slots=True)
class Outcome:
    """What came of a fact."""

    records: list[Record] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
