"""Quota: guarantees and limits of top-level roles, and what counts against them.

Consumed = all reservations to the role and the roles below it, allocated or not, plus their
unreserved, non-revocable allocations. Headroom = what is free, unreserved and not revocable, in
the whole cluster; while guarantees are not met, what they still require is kept back from
everybody else. Source: Apache Mesos `docs/quota.md` and
`src/master/allocator/mesos/hierarchical.cpp`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from cairn_core.resources import Kind, Resources, quantities
from cairn_core.roles import top_level


@dataclass(slots=True)
class RoleQuota:
    """Quota of one top-level role, in thousandths. A name absent from limits is unlimited.

    consumed: kept up to date by `Quotas`.
    """

    guarantees: dict[str, int]
    limits: dict[str, int]
    consumed: dict[str, int]

    def unsatisfied(self) -> dict[str, int]:
        """What the guarantees still require."""
        return quantities.subtract(self.guarantees, self.consumed)

    def left(self) -> dict[str, int]:
        """What the limits still allow; a name at its limit is 0."""
        consumed = self.consumed
        return {n: max(0, limit - consumed.get(n, 0)) for n, limit in self.limits.items()}


class Quotas:
    """All quotas, and what every top-level role consumes.

    Invariant: `required` is the sum of `unsatisfied()` over all roles, without zeros.
    """

    def __init__(self) -> None:
        self._roles: dict[str, RoleQuota] = {}
        self._consumed: dict[str, dict[str, int]] = {}
        self.required: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._roles)

    def of(self, role: str) -> RoleQuota | None:
        """Quota that governs a role: that of its top-level role."""
        return self._roles.get(top_level(role)) if self._roles else None

    def exactly(self, role: str) -> RoleQuota | None:
        """Quota set on this very role."""
        return self._roles.get(role)

    def roles(self) -> Mapping[str, RoleQuota]:
        """All quotas by role."""
        return self._roles

    def set(self, role: str, guarantees: Mapping[str, int], limits: Mapping[str, int]) -> None:
        """Set or (both empty) remove the quota of a top-level role."""
        old = self._roles.pop(role, None)
        if old is not None:
            self._require(old.unsatisfied(), -1)
        if guarantees or limits:
            consumed = self._consumed.setdefault(role, {})
            new = self._roles[role] = RoleQuota(dict(guarantees), dict(limits), consumed)
            self._require(new.unsatisfied(), 1)

    def consume(self, role: str, amounts: Mapping[str, int], sign: int = 1) -> None:
        """Amounts were taken by (1) or came back from (-1) a role."""
        if not amounts:
            return
        top = top_level(role)
        quota = self._roles.get(top)
        consumed = self._consumed.get(top)
        if consumed is None:
            consumed = self._consumed[top] = {}
        for name, amount in amounts.items():
            before = consumed.get(name, 0)
            after = consumed[name] = before + sign * amount
            if quota is not None and name in quota.guarantees:
                guarantee = quota.guarantees[name]
                change = max(0, guarantee - after) - max(0, guarantee - before)
                if change:
                    self._require({name: change}, 1)
            if not after:
                del consumed[name]
        if not consumed and quota is None:
            del self._consumed[top]

    def _require(self, amounts: Mapping[str, int], sign: int) -> None:
        for name, amount in amounts.items():
            self.required[name] = self.required.get(name, 0) + sign * amount
            if not self.required[name]:
                del self.required[name]


def counted(resources: Resources) -> Mapping[str, int]:
    """What of an allocation counts as consumed beside reservations."""
    return charged(resources).quantities()


def charged(resources: Resources) -> Resources:
    """The scalars that quota and headroom govern: unreserved and not revocable."""
    for kind in resources.scalar_kinds():
        if kind.reservations or kind.revocable:
            break
    else:
        return resources.scalars_only()
    return resources.scalars_only().filter(lambda k: not k.reservations and not k.revocable)


def shrink(
    resources: Resources, target: Mapping[str, int], rng: Random, *, absent: int | None
) -> Resources:
    """Cut scalars down to target amounts, in thousandths.

    absent: what a name outside `target` may keep: 0 (a guarantee) or None, no bound (a limit).
    Kinds of one name are cut in random order, so that no kind is always the one to suffer; what
    cannot be cut is kept whole or dropped whole.
    """
    kinds = resources.scalar_kinds()
    if absent is None and all(
        amount <= target[name] for name, amount in resources.quantities().items() if name in target
    ):
        return resources
    order = list(kinds)
    if len({kind.name for kind in order}) < len(order):
        rng.shuffle(order)
    left = dict(target)
    kept: dict[Kind, int] = {}
    for kind in order:
        have = kinds[kind]
        room = left.get(kind.name, absent)
        if room is None:
            kept[kind] = have
            continue
        amount = min(have, room // kind.unit if kind.unit else room)
        if amount > 0:
            kept[kind] = amount
            left[kind.name] = room - amount * (kind.unit or 1)
    return Resources(kept)
