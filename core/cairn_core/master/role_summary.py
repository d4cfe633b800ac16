"""The roles of the cluster as `/roles` and GET_ROLES show them."""

from collections.abc import Iterable, Iterator
from typing import Any

from cairn_core import roles
from cairn_core.master.legacy_json import resources_json
from cairn_core.master.state.cluster import Cluster
from cairn_core.resources import EMPTY, Resources, quantities


class Tally:
    """What the roles hold, added up in steps: run `steps` first.

    used: what tasks and executors of each role hold. reserved: to each role, on all agents.
    """

    def __init__(self) -> None:
        self.used: dict[str, Resources] = {}
        self.reserved: dict[str, Resources] = {}

    def steps(self, cluster: Cluster) -> Iterator[None]:
        """Add up; a step is some agents."""
        agents = list(cluster.agents.values())
        for start in range(0, len(agents), 20):
            some = agents[start : start + 20]
            _add_up(
                self.used,
                (held for agent in some for parts in agent.used.values() for held in parts.items()),
            )
            _add_up(
                self.reserved,
                (part for agent in some for part in agent.total.reservations().items()),
            )
            yield

    def names(self, cluster: Cluster) -> list[str]:
        """Every role that a framework, a reservation, quota or weight uses, sorted."""
        found = {role for framework in cluster.frameworks.values() for role in framework.roles}
        return sorted(found.union(self.reserved, cluster.quotas, cluster.weights))

    @staticmethod
    def members(cluster: Cluster) -> dict[str, list[str]]:
        """The frameworks of each role."""
        found: dict[str, list[str]] = {}
        for framework in cluster.frameworks.values():
            for role in framework.roles:
                found.setdefault(role, []).append(framework.framework_id)
        return found

    def consumed(self, role: str) -> dict[str, int]:
        """What counts against the quota of a top-level role, in thousandths."""
        return quantities.total(
            [
                *(part.quantities() for owner, part in self.reserved.items() if _in(owner, role)),
                *(
                    part.unreserved().non_revocable().quantities()
                    for owner, part in self.used.items()
                    if _in(owner, role)
                ),
            ]
        )


def _in(owner: str, role: str) -> bool:
    return owner == role or roles.is_subrole(owner, role)


def _add_up(sums: dict[str, Resources], parts: Iterable[tuple[str, Resources]]) -> None:
    by_role: dict[str, list[Resources]] = {}
    for role, part in parts:
        by_role.setdefault(role, []).append(part)
    for role, found in by_role.items():
        sums[role] = Resources.sum([sums.get(role, EMPTY), *found])


def offered(cluster: Cluster) -> dict[str, Resources]:
    """What outstanding offers of each role hold."""
    sums: dict[str, Resources] = {}
    _add_up(sums, ((offer.role, offer.resources) for offer in cluster.offers.values()))
    return sums


def summarise(cluster: Cluster, tally: Tally) -> list[dict[str, Any]]:
    """The objects of `/roles`."""
    used, open_offers, members = tally.used, offered(cluster), tally.members(cluster)
    out = []
    for role in tally.names(cluster):
        entry: dict[str, Any] = {
            "name": role,
            "weight": cluster.weights.get(role, 1.0),
            "frameworks": members.get(role, []),
            "resources": resources_json(used.get(role, EMPTY) + open_offers.get(role, EMPTY)),
            "allocated": resources_json(used.get(role, EMPTY)),
            "offered": resources_json(open_offers.get(role, EMPTY)),
            "reserved": resources_json(tally.reserved.get(role, EMPTY)),
        }
        if roles.top_level(role) == role:
            limits = cluster.quotas.get(role)
            entry["quota"] = {
                "role": role,
                "guarantee": _numbers(limits.guarantees if limits else {}),
                "limit": _numbers(limits.limits if limits else {}),
                "consumed": _numbers(tally.consumed(role) if limits else {}),
            }
        out.append(entry)
    return out


def _numbers(amounts: dict[str, int]) -> dict[str, float]:
    return {name: quantities.from_milli(amount) for name, amount in amounts.items()}
