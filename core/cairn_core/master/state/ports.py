"""Freed host ports rest before they are offered again.

Whoever looked a task up - in DNS, in a load balancer - goes on sending to its port for a while. So
ports that a task or an executor held are nobody's for `Settings.port_rest_s`; everything else
comes back at once. The allocator knows nothing of it: it is told a total without the resting
ports, so that nothing is ever given back to it twice.

An agent short of ports gets those back early that have rested longest. What rests is forgotten
with the agent's record: after a change of masters, and when the agent was given up.

Invariant: what rests is within the agent's total, and neither used nor in an offer.
"""

from cairn_core.extensions import AgentId, AllocAgent
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import AgentRecord
from cairn_core.resources import EMPTY, Resources, spans

NAME = "ports"
#: One in so many ports must be free, or the oldest resting ones come back early.
SHORT = 10
#: Seconds in which ends of rests are one change for the allocator.
COALESCE_S = 1.0


def for_allocator(agent: AgentRecord) -> AllocAgent:
    """The agent as the allocator sees it: resting ports are not there."""
    fault_domain = agent.domain.fault_domain if agent.domain is not None else None
    total = agent.total.minus_common(agent.resting) if agent.resting else agent.total
    basics = AllocAgent(
        agent.agent_id,
        agent.hostname,
        total,
        agent.attributes,
        fault_domain.region.name if fault_domain is not None else None,
        fault_domain.zone.name if fault_domain is not None else None,
    )
    if not agent.capabilities:
        return basics
    return AllocAgent(
        basics.id, basics.hostname, basics.total, basics.attributes, basics.region, basics.zone,
        agent.capabilities,
    )  # fmt: skip


def rest(c: Cluster, agent: AgentRecord, freed: Resources) -> None:
    """Keep the ports of what was just freed from being offered. Others are passed over."""
    if not c.settings.port_rest_s or NAME not in {kind.name for kind in freed}:
        return
    ports = freed.named(NAME)
    # Freed twice, or not the agent's any more: nothing to keep.
    ports = ports.minus_common(ports.minus_common(agent.total)).minus_common(agent.resting)
    if not ports:
        return
    c.port_changes.setdefault(agent.agent_id, agent.resting)
    agent.rests.append((c.now + c.settings.port_rest_s, ports))
    agent.resting = agent.resting + ports


def take(c: Cluster, agent: AgentRecord, used: Resources) -> None:
    """Resources are used from now on; what of them rested (a task was forgotten) rests no more."""
    if agent.rests:
        c.port_changes.setdefault(agent.agent_id, agent.resting)
        _drop(agent, used)


def fit(agent: AgentRecord) -> None:
    """The agent's total changed: what is not in it cannot rest."""
    if agent.rests and not agent.total.contains(agent.resting):
        _drop(agent, agent.resting.minus_common(agent.total))


def _drop(agent: AgentRecord, gone: Resources) -> None:
    """End the rest of whatever is in `gone`."""
    kept = agent.resting.minus_common(gone)
    if kept == agent.resting:
        return
    parts = [(until, ports.minus_common(gone)) for until, ports in agent.rests]
    agent.rests.clear()
    agent.rests.extend((until, ports) for until, ports in parts if ports)
    agent.resting = kept


def settle(c: Cluster) -> None:
    """At the end of each fact: tell the allocator what rests now."""
    while c.port_changes:
        agent_id, told = c.port_changes.popitem()
        agent = c.agents.get(AgentId(agent_id))
        if agent is None:
            continue
        _end_early(agent)
        if agent.rests and agent.rest_deadline is None:
            _wake(c, agent)
        if agent.resting != told:
            c.allocator.update_agent(for_allocator(agent))
            c.allocate_soon()


def _end_early(agent: AgentRecord) -> None:
    """While fewer than a tenth of the ports are free, the oldest come back."""
    total = spans.size(agent.total.ranges(NAME))
    free = total - spans.size(agent.resting.ranges(NAME))
    for roles in agent.used.values():
        for held in roles.values():
            free -= spans.size(held.ranges(NAME))
    while agent.rests and free * SHORT < total:
        free += spans.size(_pop(agent).ranges(NAME))


def _pop(agent: AgentRecord) -> Resources:
    """End the oldest rest; its ports."""
    _, ports = agent.rests.popleft()
    agent.resting = agent.resting.minus_common(ports) if agent.rests else EMPTY
    return ports


def _wake(c: Cluster, agent: AgentRecord) -> None:
    agent.rest_deadline = max(agent.rests[0][0], c.now + COALESCE_S)
    c.wake_at(agent.rest_deadline, NAME, agent.agent_id)


def rest_due(c: Cluster, agent_id: str) -> None:
    """Some ports of an agent have rested."""
    agent = c.agents.get(AgentId(agent_id))
    if agent is None or agent.rest_deadline is None or agent.rest_deadline > c.now:
        return
    agent.rest_deadline = None
    c.port_changes.setdefault(agent.agent_id, agent.resting)
    while agent.rests and agent.rests[0][0] <= c.now:
        _pop(agent)
