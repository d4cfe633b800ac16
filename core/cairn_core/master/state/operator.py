"""What operators ask for: ending frameworks, quota, weights, marking agents gone.

Each request gets one Reply, after the registry has what must last. Source: Apache Mesos
`src/master/{http,quota_handler,weights_handler}.cpp`.
"""

from collections.abc import Iterable, Mapping

from cairn_core.errors import RemoteError
from cairn_core.extensions import AgentId, FrameworkId
from cairn_core.master import quota as quota_rules
from cairn_core.master.registry import AgentStanding, agent_record, quota_record, weight_record
from cairn_core.master.state import agents, frameworks, offers
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import AgentForgotten, Reply, RoleChanged
from cairn_core.master.state.records import KnownAgent, OfferRecord, Quota
from cairn_core.resources import quantities
from cairn_core.roles import is_subrole


def teardown(c: Cluster, request: int, framework_id: str) -> None:
    """Remove a framework; 400 for an unknown one."""
    framework = c.frameworks.get(FrameworkId(framework_id))
    if framework is None:
        c.emit(Reply(request, 400, f"No framework found with specified ID '{framework_id[:255]}'"))
        return
    frameworks.remove(c, framework)
    c.emit(Reply(request, 200))


def set_quotas(
    c: Cluster, request: int, quotas: Mapping[str, Quota | None], *, force: bool
) -> None:
    """Set (None: remove) quota of roles, all or nothing."""
    if not force:
        try:
            quota_rules.check(quotas, c)
        except RemoteError as error:
            c.emit(Reply(request, 400, str(error)))
            return

    def stored() -> None:
        for role, quota in quotas.items():
            if quota is None:
                c.quotas.pop(role, None)
                c.allocator.set_quota(role, {}, {})
            else:
                c.quotas[role] = quota
                c.allocator.set_quota(role, quota.guarantees, quota.limits)
                _make_room(c, role, quota)
            c.emit(RoleChanged(role))
        c.emit(Reply(request, 200))
        c.allocate_soon()

    if not quotas:
        c.emit(Reply(request, 200))
        return
    c.store([quota_record(role, quota) for role, quota in quotas.items()], stored)


def _make_room(c: Cluster, role: str, quota: Quota) -> None:
    """Rescind offers, best effort: those of the role when it has limits, and of others until the
    guarantees are covered.
    """
    if quota.limits:
        _rescind(c, [o for o in c.offers.values() if _within(o.role, role)])
    missing = dict(quota.guarantees)
    for offer in list(c.offers.values()):
        if not missing:
            return
        if not _within(offer.role, role):
            offers.rescind(c, offer)
            missing = quantities.subtract(missing, offer.resources.quantities())


def _rescind(c: Cluster, some: Iterable[OfferRecord]) -> None:
    for offer in some:
        offers.rescind(c, offer)


def _within(role: str, top: str) -> bool:
    return role == top or is_subrole(role, top)


def set_weights(c: Cluster, request: int, weights: Mapping[str, float]) -> None:
    """Set weights of roles, all or nothing; offers of these roles are rescinded."""

    def stored() -> None:
        c.weights.update(weights)
        c.allocator.set_weights(weights)
        _rescind(
            c, [o for o in c.offers.values() if any(_within(o.role, role) for role in weights)]
        )
        for role in weights:
            c.emit(RoleChanged(role))
        c.emit(Reply(request, 200))
        c.allocate_soon()

    for role, weight in weights.items():
        if not 0 < weight < float("inf"):
            c.emit(Reply(request, 400, f"Invalid weight for role '{role[:200]}': {weight}"))
            return
    if not weights:
        c.emit(Reply(request, 200))
        return
    c.store([weight_record(role, weight) for role, weight in weights.items()], stored)


def mark_agent_gone(c: Cluster, request: int, agent_id: str) -> None:
    """Its tasks will never come back: 404 for an unknown agent, 503 while it is in transition."""
    known_id = AgentId(agent_id)
    if known_id in c.transitions:
        c.emit(Reply(request, 503, f"agent '{agent_id}' is being marked or removed already"))
        return
    if known_id in c.gone_agents:
        c.emit(Reply(request, 200))
        return
    agent = c.agents.get(known_id)
    if agent is not None:
        agents.mark_gone(c, agent, lambda: c.emit(Reply(request, 200)))
        return
    known = c.recovered_agents.get(known_id) or c.unreachable_agents.get(known_id)
    if known is None:
        c.emit(Reply(request, 404, f"agent '{agent_id[:255]}' is unknown"))
        return
    _mark_absent_gone(c, request, known)


def _mark_absent_gone(c: Cluster, request: int, known: KnownAgent) -> None:
    agent_id = known.agent_id
    c.transitions.add(agent_id)

    def stored() -> None:
        c.transitions.discard(agent_id)
        c.recovered_agents.pop(agent_id, None)
        c.unreachable_agents.pop(agent_id, None)
        c.gone_agents[agent_id] = KnownAgent(agent_id, known.info, known.hostname, c.wall)
        c.emit(AgentForgotten(agent_id))
        c.emit(Reply(request, 200))

    c.store([agent_record(agent_id, AgentStanding.GONE, known.info, c.wall)], stored)
