"""The launch queue as clients see it: what waits, since when, and why offers were not taken.

Source: the released Marathon's queue resource. Each reason counts an offer once: the first in the
order of the funnel at which it fell out; `processed` is what got as far as that stage.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import Attribute, Resource
from cairn_scheduler.marathon.matcher import FUNNEL, Reason
from cairn_scheduler.marathon.timestamps import timestamp

#: Unused offers that are shown with `embed=lastUnusedOffers`.
MAX_UNUSED = 10
#: Agents whose last offer is remembered per app.
MAX_AGENTS = 10_000
_SHOWN = tuple(reason for reason in FUNNEL if reason is not Reason.NOT_SUPPORTED)


@dataclass(frozen=True, slots=True)
class UnusedOffer:
    """An offer that an app did not take; `wall` in seconds since the epoch."""

    offer: Offer
    reasons: tuple[Reason, ...]
    wall: float


@dataclass(slots=True)
class QueueStatistics:
    """What became of the offers that one waiting app was shown, since it began to wait.

    last_by_agent: the last outcome per agent, None for a used offer.
    """

    since: float
    processed: int = 0
    unused: int = 0
    last_unused: float | None = None
    last_used: float | None = None
    reasons: dict[Reason, int] = field(default_factory=dict)
    last_by_agent: OrderedDict[str, Reason | None] = field(default_factory=OrderedDict)
    recent: deque[UnusedOffer] = field(default_factory=lambda: deque(maxlen=MAX_UNUSED))

    def used(self, offer: Offer, *, wall: float) -> None:
        """The app was launched on an offer."""
        self.processed += 1
        self.last_used = wall
        self._remember(offer, None)

    def declined(self, offer: Offer, reasons: Sequence[Reason], *, wall: float) -> None:
        """The app did not take an offer; reasons in the order of the funnel, at least one."""
        self.processed += 1
        self.unused += 1
        self.last_unused = wall
        self.reasons[reasons[0]] = self.reasons.get(reasons[0], 0) + 1
        self.recent.append(UnusedOffer(offer, tuple(reasons), wall))
        self._remember(offer, reasons[0])

    def _remember(self, offer: Offer, outcome: Reason | None) -> None:
        agent = offer.agent_id.value
        self.last_by_agent[agent] = outcome
        self.last_by_agent.move_to_end(agent)
        if len(self.last_by_agent) > MAX_AGENTS:
            self.last_by_agent.popitem(last=False)

    def summary_json(self, obstacle: str | None = None) -> dict[str, Any]:
        """The `processedOffersSummary`. obstacle: why the app can run nowhere here."""
        last: dict[Reason, int] = {}
        for outcome in self.last_by_agent.values():
            if outcome is not None:
                last[outcome] = last.get(outcome, 0) + 1
        body: dict[str, Any] = {
            "processedOffersCount": self.processed,
            "unusedOffersCount": self.unused,
        }
        if self.last_unused is not None:
            body["lastUnusedOfferAt"] = timestamp(self.last_unused)
        if self.last_used is not None:
            body["lastUsedOfferAt"] = timestamp(self.last_used)
        body["rejectSummaryLastOffers"] = _funnel(last, len(self.last_by_agent), obstacle)
        body["rejectSummaryLaunchAttempt"] = _funnel(self.reasons, self.processed, obstacle)
        return body


def _funnel(
    counts: dict[Reason, int], processed: int, obstacle: str | None
) -> list[dict[str, Any]]:
    """The stages in order, each with what came to it and what it declined."""
    stages = []
    if obstacle is not None or Reason.NOT_SUPPORTED in counts:
        declined = counts.get(Reason.NOT_SUPPORTED, 0)
        text = f"{Reason.NOT_SUPPORTED}: {obstacle}" if obstacle else Reason.NOT_SUPPORTED.value
        stages.append({"reason": text, "declined": declined, "processed": processed})
        processed -= declined
    for reason in _SHOWN:
        declined = counts.get(reason, 0)
        stages.append({"reason": reason.value, "declined": declined, "processed": processed})
        processed -= declined
    return stages


def item_json(
    app: Any,
    count: int,
    role: str,
    statistics: QueueStatistics,
    *,
    delay_left_s: float,
    obstacle: str | None = None,
    with_offers: bool = False,
    with_role: bool = True,
) -> dict[str, Any]:
    """An item of the queue.

    app: its JSON. count: instances that wait. delay_left_s: of the launch delay, seconds.
    with_role: off for clients that fail on keys they do not know.
    """
    body: dict[str, Any] = {
        "count": count,
        "delay": {"timeLeftSeconds": int(max(0.0, delay_left_s)), "overdue": delay_left_s <= 0},
        "since": timestamp(statistics.since),
        "processedOffersSummary": statistics.summary_json(obstacle),
        "app": app,
    }
    if with_role:
        body["role"] = role
    if with_offers:
        body["lastUnusedOffers"] = [unused_json(unused) for unused in statistics.recent]
    return body


def unused_json(unused: UnusedOffer) -> dict[str, Any]:
    """An offer that was not used, with the reasons."""
    offer = unused.offer
    return {
        "offer": {
            "id": offer.id.value,
            "hostname": offer.hostname,
            "agentId": offer.agent_id.value,
            "resources": [_resource_json(r) for r in offer.resources],
            "attributes": [_attribute_json(a) for a in offer.attributes],
        },
        "reason": [reason.value for reason in unused.reasons],
        "timestamp": timestamp(unused.wall),
    }


def _resource_json(resource: Resource) -> dict[str, Any]:
    role = resource.reservations[-1].role if resource.reservations else resource.role
    return {"name": resource.name, "role": role or "*"} | _value_json(resource)


def _attribute_json(attribute: Attribute) -> dict[str, Any]:
    text = {"text": attribute.text.value} if attribute.text is not None else {}
    return {"name": attribute.name} | text | _value_json(attribute)


def _value_json(item: Resource | Attribute) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if item.scalar is not None:
        body["scalar"] = item.scalar.value
    if item.ranges is not None:
        body["ranges"] = [{"begin": r.begin, "end": r.end} for r in item.ranges.range]
    if item.set is not None:
        body["set"] = list(item.set.item)
    return body


def reasons_text(reasons: Iterable[Reason]) -> str:
    """Reasons in a log line."""
    return ", ".join(reason.value for reason in reasons)
