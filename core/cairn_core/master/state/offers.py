"""Offers: made of allocations, answered, rescinded.

Resources of an offer are allocated in the allocator from `allocate` on; whoever ends the offer
gives them back (`recover`) or makes tasks of them. Source: Apache Mesos `src/master/master.cpp`
(`Master::offer`, `decline`, `removeOffer`).
"""

from collections.abc import Iterable

from cairn_core.extensions import Allocation
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import Change, OfferChanged
from cairn_core.master.state.records import AgentRecord, FrameworkRecord, OfferRecord
from cairn_core.master.state.settings import DEFAULT_REFUSE_S, refusal
from cairn_core.mesos import scheduler_api, types
from cairn_core.mesos.scheduler_api import Event, Offer
from cairn_core.resources import Resources

#: Offers in one event; a full cluster comes in several, so that no record grows without bound.
OFFERS_PER_EVENT = 256


def make(c: Cluster, allocations: Iterable[Allocation]) -> None:
    """Turn allocations into offers and send them, or give back what cannot be offered."""
    events: dict[str, list[Offer]] = {}
    for allocation in allocations:
        framework = c.frameworks.get(allocation.framework_id)
        agent = c.agents.get(allocation.agent_id)
        if framework is None or agent is None or not (framework.active and agent.active):
            give_back(c, allocation)
        elif len(framework.offers) >= c.settings.max_offers:
            give_back(c, allocation, refuse_s=DEFAULT_REFUSE_S)
        else:
            offer = _add(c, framework, agent, allocation)
            events.setdefault(framework.framework_id, []).append(_wire(offer, framework, agent))
    for framework_id, offers in events.items():
        framework = c.frameworks[framework_id]
        for start in range(0, len(offers), OFFERS_PER_EVENT):
            part = tuple(offers[start : start + OFFERS_PER_EVENT])
            c.tell(framework, Event(type="OFFERS", offers=scheduler_api.Offers(part)))


def give_back(c: Cluster, what: Allocation | OfferRecord, *, refuse_s: float | None = None) -> None:
    """Return resources to the allocator."""
    c.allocator.recover(
        what.framework_id, what.agent_id, what.role, what.resources, refuse_s=refuse_s, now=c.now
    )


def _add(
    c: Cluster, framework: FrameworkRecord, agent: AgentRecord, allocation: Allocation
) -> OfferRecord:
    offer = OfferRecord(
        f"{c.master.master_id}-O{c.number('offer')}",
        allocation.framework_id,
        allocation.agent_id,
        allocation.role,
        allocation.resources,
    )
    if c.settings.offer_timeout_s is not None:
        offer.deadline = c.now + c.settings.offer_timeout_s
        c.wake_at(offer.deadline, "offer", offer.offer_id)
    c.offers[offer.offer_id] = framework.offers[offer.offer_id] = offer
    agent.offers[offer.offer_id] = offer
    c.emit(OfferChanged(offer, Change.ADDED))
    return offer


def _wire(offer: OfferRecord, framework: FrameworkRecord, agent: AgentRecord) -> Offer:
    """The offer in the form that this framework understands."""
    role = offer.role if framework.multi_role else None
    resources = offer.resources if framework.refined else _without_refined(offer.resources)
    executors = agent.executors.get(framework.framework_id, {})
    return Offer(
        id=types.OfferID(offer.offer_id),
        framework_id=types.FrameworkID(framework.framework_id),
        agent_id=types.AgentID(agent.agent_id),
        hostname=agent.hostname,
        url=types.URL(
            "http",
            types.Address(agent.port, agent.hostname, agent.ip),
            f"/{agent.pid.partition('@')[0]}",
        ),
        domain=agent.domain,
        resources=tuple(resources.to_wire(framework.refined, role)),
        attributes=agent.attributes,
        executor_ids=tuple(types.ExecutorID(executor_id) for executor_id in executors),
        allocation_info=types.AllocationInfo(role) if role is not None else None,
    )


def _without_refined(resources: Resources) -> Resources:
    """What can be said in the form before refinement."""
    refined = resources.refined()
    return resources - refined if refined else resources


def take_off(c: Cluster, offer: OfferRecord) -> None:
    """Take an offer out of the tables; its resources are the caller's now."""
    del c.offers[offer.offer_id]
    del c.frameworks[offer.framework_id].offers[offer.offer_id]
    del c.agents[offer.agent_id].offers[offer.offer_id]
    c.emit(OfferChanged(offer, Change.REMOVED))


def remove(c: Cluster, offer: OfferRecord, *, refuse_s: float | None = None) -> None:
    """End an offer and give its resources back."""
    take_off(c, offer)
    give_back(c, offer, refuse_s=refuse_s)


def rescind(c: Cluster, offer: OfferRecord) -> None:
    """End an offer that the framework still has."""
    remove(c, offer)
    rescinded = scheduler_api.Rescind(types.OfferID(offer.offer_id))
    c.tell(c.frameworks[offer.framework_id], Event(type="RESCIND", rescind=rescinded))


def remove_all_of_framework(c: Cluster, framework: FrameworkRecord, *, tell: bool) -> None:
    """End all offers of a framework; `tell` it only where it still listens."""
    for offer in list(framework.offers.values()):
        if tell:
            rescind(c, offer)
        else:
            remove(c, offer)
    c.allocate_soon()


def rescind_all_of_agent(c: Cluster, agent: AgentRecord) -> None:
    """End all offers of an agent that is not there any more."""
    for offer in list(agent.offers.values()):
        rescind(c, offer)


def timeout_due(c: Cluster, offer_id: str) -> None:
    """The timer of an offer rang."""
    offer = c.offers.get(offer_id)
    if offer is not None:
        rescind(c, offer)
        c.allocate_soon()


def decline(c: Cluster, framework: FrameworkRecord, call: scheduler_api.Decline) -> None:
    """Offers refused; those that are not outstanding any more are passed over."""
    refuse_s = refusal(call.filters.refuse_seconds if call.filters else None)
    for offer_id in call.offer_ids:
        offer = framework.offers.get(offer_id.value)
        if offer is not None:
            remove(c, offer, refuse_s=refuse_s)
    c.allocate_soon()
