"""Which quota may be set (the original's src/master/quota_handler.cpp and quota.cpp).

Quota is for top-level roles, scalar amounts only; a guarantee never exceeds its limit. Unless
forced, guarantees must fit the cluster and limits must not be below what is in use.
"""

import math
from collections.abc import Mapping

from cairn_core import roles
from cairn_core.errors import RemoteError
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import Quota
from cairn_core.mesos.operator_api import QuotaConfig
from cairn_core.mesos.types import Scalar
from cairn_core.resources import quantities

MAX_NAMES = 64


class QuotaError(RemoteError):
    """The quota cannot be set; the text names the role, the resource and the value."""


def read(config: QuotaConfig) -> Quota:
    """Quota of a wire message. Raises QuotaError."""
    try:
        roles.validate(config.role)
    except roles.RoleError as error:
        raise QuotaError(f"role: {error}") from None
    if "/" in config.role:
        raise QuotaError(f"role '{config.role}': quota of nested roles is not supported yet")
    guarantees = _amounts(config.role, "guarantees", config.guarantees)
    limits = _amounts(config.role, "limits", config.limits)
    for name, amount in guarantees.items():
        if name in limits and amount > limits[name]:
            raise QuotaError(
                f"role '{config.role}': guarantee of {name} "
                f"{quantities.text_milli(amount)} exceeds its limit "
                f"{quantities.text_milli(limits[name])}"
            )
    return Quota(guarantees, limits)


def _amounts(role: str, field: str, given: Mapping[str, Scalar]) -> dict[str, int]:
    if len(given) > MAX_NAMES:
        raise QuotaError(
            f"role '{role}': {field} names {len(given)} resources, {MAX_NAMES} at most"
        )
    amounts: dict[str, int] = {}
    for name, scalar in given.items():
        if not name or name == "ports":
            raise QuotaError(f"role '{role}': {field} '{name}' is no scalar resource")
        if not math.isfinite(scalar.value) or scalar.value < 0:
            raise QuotaError(f"role '{role}': {field}.{name} is {scalar.value}, not >= 0")
        amounts[name] = quantities.to_milli(scalar.value, f"{field}.{name}")
    return amounts


def check(quotas: Mapping[str, Quota | None], cluster: Cluster) -> None:
    """Whether the cluster can keep this promise. Raises QuotaError; `force` skips this check."""
    allowed = cluster.settings.roles
    for role in quotas:
        if allowed is not None and role not in allowed:
            raise QuotaError(f"role '{role}' is not in --roles")
    wanted = {**cluster.quotas, **quotas}
    guaranteed = quantities.total(quota.guarantees for quota in wanted.values() if quota)
    capacity = quantities.total(agent.total.quantities() for agent in cluster.agents.values())
    for name, amount in guaranteed.items():
        if amount > capacity.get(name, 0):
            raise QuotaError(
                f"guarantees of {name} add up to {quantities.text_milli(amount)}, the cluster has "
                f"{quantities.text_milli(capacity.get(name, 0))} (force: true skips this check)"
            )
    for role, quota in quotas.items():
        used = consumption(role, cluster) if quota and quota.limits else {}
        for name, limit in (quota.limits if quota else {}).items():
            if used.get(name, 0) > limit:
                raise QuotaError(
                    f"role '{role}': limit of {name} {quantities.text_milli(limit)} is below what "
                    f"it uses, {quantities.text_milli(used[name])} (force: true skips this check)"
                )


def consumption(role: str, cluster: Cluster) -> dict[str, int]:
    """What counts against the quota of a top-level role, in thousandths: its reservations, and
    what it and the roles below it use unreserved."""
    parts: list[Mapping[str, int]] = []
    for agent in cluster.agents.values():
        for owner, reserved in agent.total.reservations().items():
            if roles.is_subrole(owner, role) or owner == role:
                parts.append(reserved.quantities())
        for used in agent.used.values():
            for owner, held in used.items():
                if roles.is_subrole(owner, role) or owner == role:
                    parts.append(held.unreserved().non_revocable().quantities())
    return quantities.total(parts)


def write(role: str, quota: Quota) -> QuotaConfig:
    """The wire message of a quota."""
    return QuotaConfig(
        role=role,
        guarantees={n: Scalar(value=quantities.from_milli(a)) for n, a in quota.guarantees.items()},
        limits={n: Scalar(value=quantities.from_milli(a)) for n, a in quota.limits.items()},
    )
