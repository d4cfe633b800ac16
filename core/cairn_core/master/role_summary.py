"""The roles of the cluster as `/roles` and GET_ROLES show them."""

from typing import Any

from cairn_core import roles
from cairn_core.master import quota
from cairn_core.master.legacy_json import resources_json
from cairn_core.master.state.cluster import Cluster
from cairn_core.resources import EMPTY, Resources, quantities


def names(cluster: Cluster) -> list[str]:
    """Every role that a framework, a reservation, quota or weight uses, sorted."""
    found = {role for framework in cluster.frameworks.values() for role in framework.roles}
    found.update(role for agent in cluster.agents.values() for role in agent.total.reservations())
    found.update(cluster.quotas)
    found.update(cluster.weights)
    return sorted(found)


def allocated(cluster: Cluster) -> dict[str, Resources]:
    """What tasks and executors of each role hold. O(agents)."""
    parts: dict[str, list[Resources]] = {}
    for agent in cluster.agents.values():
        for held in agent.used.values():
            for role, part in held.items():
                parts.setdefault(role, []).append(part)
    return {role: Resources.sum(found) for role, found in parts.items()}


def offered(cluster: Cluster) -> dict[str, Resources]:
    """What outstanding offers of each role hold."""
    parts: dict[str, list[Resources]] = {}
    for offer in cluster.offers.values():
        parts.setdefault(offer.role, []).append(offer.resources)
    return {role: Resources.sum(found) for role, found in parts.items()}


def summarise(cluster: Cluster) -> list[dict[str, Any]]:
    """The objects of `/roles`."""
    used, open_offers = allocated(cluster), offered(cluster)
    reserved: dict[str, Resources] = {}
    for agent in cluster.agents.values():
        for role, part in agent.total.reservations().items():
            reserved[role] = reserved.get(role, EMPTY) + part
    out = []
    for role in names(cluster):
        entry: dict[str, Any] = {
            "name": role,
            "weight": cluster.weights.get(role, 1.0),
            "frameworks": [
                framework.framework_id
                for framework in cluster.frameworks.values()
                if role in framework.roles
            ],
            "resources": resources_json(used.get(role, EMPTY) + open_offers.get(role, EMPTY)),
            "allocated": resources_json(used.get(role, EMPTY)),
            "offered": resources_json(open_offers.get(role, EMPTY)),
            "reserved": resources_json(reserved.get(role, EMPTY)),
        }
        if roles.top_level(role) == role:
            limits = cluster.quotas.get(role)
            entry["quota"] = {
                "role": role,
                "guarantee": _numbers(limits.guarantees if limits else {}),
                "limit": _numbers(limits.limits if limits else {}),
                "consumed": _numbers(quota.consumption(role, cluster) if limits else {}),
            }
        out.append(entry)
    return out


def _numbers(amounts: dict[str, int]) -> dict[str, float]:
    return {name: quantities.from_milli(amount) for name, amount in amounts.items()}
