"""A dumb allocator: the same rules, with nothing kept but facts and everything counted anew.

It is slow and short on purpose; the real one is compared with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cairn_core.extensions import AllocAgent, Allocation, AllocFramework
from cairn_core.resources import EMPTY, Resources, quantities
from cairn_core.roles import lineage, top_level

MINIMUM = ({"cpus": 10}, {"mem": 32_000})


def open_part(resources: Resources) -> Resources:
    return resources.scalars_only().unreserved().non_revocable()


def cut(resources: Resources, target: Mapping[str, int], absent: int | None) -> Resources:
    kept: dict[str, int] = {}
    for name, amount in resources.quantities().items():
        room = target.get(name, absent)
        kept[name] = amount if room is None else min(amount, room)
    return Resources.from_quantities(kept)


def big_enough(resources: Resources) -> bool:
    return any(quantities.contains(resources.quantities(), least) for least in MINIMUM)


def visiting_order(agents: list[str]) -> list[str]:
    """The order that a generator gives whose every number is zero."""
    queue, out = list(agents), []
    while queue:
        out.append(queue[0])
        queue[0] = queue[-1]
        queue.pop()
    return out


@dataclass
class Reference:
    frameworks: dict[str, AllocFramework] = field(default_factory=dict)
    suppressed: set[tuple[str, str]] = field(default_factory=set)
    agents: dict[str, AllocAgent] = field(default_factory=dict)
    inactive: set[str] = field(default_factory=set)
    held: dict[tuple[str, str, str], Resources] = field(default_factory=dict)
    filters: list[tuple[str, str, str, Resources]] = field(default_factory=list)
    resting: set[tuple[str, str, str]] = field(default_factory=set)
    quota: dict[str, tuple[dict[str, int], dict[str, int]]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    # What there is

    def free(self, agent: str) -> Resources:
        left = self.agents[agent].total
        for (_, _, where), resources in self.held.items():
            if where == agent:
                left = left - resources
        return left

    def consumed(self, top: str) -> dict[str, int]:
        parts = []
        for agent in self.agents.values():
            for role, resources in agent.total.reservations().items():
                if top_level(role) == top:
                    parts.append(resources.quantities())
        for (_, role, _), resources in self.held.items():
            if top_level(role) == top:
                parts.append(open_part(resources).quantities())
        return quantities.total(parts)

    def unsatisfied(self, role: str) -> dict[str, int]:
        guarantees = self.quota.get(role, ({}, {}))[0]
        return quantities.subtract(guarantees, self.consumed(role))

    def room(self, role: str) -> dict[str, int]:
        limits = self.quota.get(top_level(role), ({}, {}))[1]
        consumed = self.consumed(top_level(role))
        return {name: max(0, limit - consumed.get(name, 0)) for name, limit in limits.items()}

    def required(self) -> dict[str, int]:
        return quantities.total(self.unsatisfied(role) for role in self.quota)

    def surplus(self) -> dict[str, int]:
        headroom = quantities.total(open_part(self.free(a)).quantities() for a in self.agents)
        required = self.required()
        return {n: max(0, amount - required.get(n, 0)) for n, amount in headroom.items()}

    # Who is next

    def share(self, amounts: Mapping[str, int], weight: float) -> float:
        totals = quantities.total(a.total.quantities() for a in self.agents.values())
        return (
            max((n / totals[k] for k, n in amounts.items() if totals.get(k)), default=0.0) / weight
        )

    def subtree(self, path: str, exact: bool) -> dict[str, int]:
        return quantities.total(
            r.quantities()
            for (_, role, _), r in self.held.items()
            if role == path or (not exact and path in lineage(role))
        )

    def roles(self) -> list[str]:
        """Roles with frameworks, depth first, siblings by share, count and path."""
        with_frameworks = {role for f in self.frameworks.values() for role in f.roles}
        nodes = {path for role in with_frameworks for path in lineage(role)}

        def order(path: str, exact: bool) -> tuple[float, int, str]:
            key = path + "/." if exact else path
            weight = 1.0 if exact else self.weights.get(path, 1.0)
            return (self.share(self.subtree(path, exact), weight), self.counts.get(key, 0), key)

        def walk(parent: str) -> list[str]:
            children = [n for n in nodes if n.rpartition("/")[0] == parent]
            keyed = [(order(child, False), child) for child in children]
            if parent in with_frameworks and children:
                keyed.append((order(parent, True), "."))
            out: list[str] = []
            for _, child in sorted(keyed):
                if child == ".":
                    out.append(parent)
                elif any(n.rpartition("/")[0] == child for n in nodes):
                    out.extend(walk(child))
                else:
                    out.append(child)
            return out

        return walk("")

    def members(self, role: str) -> list[str]:
        def order(framework: str) -> tuple[float, int, str]:
            amounts = quantities.total(
                r.quantities() for (f, x, _), r in self.held.items() if (f, x) == (framework, role)
            )
            return (self.share(amounts, 1.0), self.counts.get(f"{role}:{framework}", 0), framework)

        able = [
            f.id
            for f in self.frameworks.values()
            if role in f.roles and (f.id, role) not in self.suppressed
        ]
        return sorted(able, key=order)

    # A round

    def round(self, agents: list[str]) -> set[Allocation]:
        offers: dict[tuple[str, str, str], Resources] = {}
        candidates = [a for a in visiting_order(agents)]
        for stage in (1, 2):
            for agent in candidates:
                if agent not in self.inactive:
                    self.visit(agent, stage, offers)
        return {
            Allocation(self.frameworks[f].id, role, self.agents[a].id, resources)
            for (f, role, a), resources in offers.items()
        }

    def visit(self, agent: str, stage: int, offers: dict[tuple[str, str, str], Resources]) -> None:
        order = [(role, self.members(role)) for role in self.roles()]
        made = []
        for role, frameworks in order:
            if stage == 1 and not self.unsatisfied(role):
                continue
            for framework in frameworks:
                if stage == 1 and not self.unsatisfied(role):
                    break
                offer = self.offer(agent, framework, role, stage)
                if not offer:
                    continue
                key = (framework, role, agent)
                self.held[key] = self.held.get(key, EMPTY) + offer
                offers[key] = offers.get(key, EMPTY) + offer
                made.append((framework, role))
        for framework, role in made:
            for path in [*lineage(role), role + "/.", f"{role}:{framework}"]:
                self.counts[path] = self.counts.get(path, 0) + 1

    def offer(self, agent: str, framework: str, role: str, stage: int) -> Resources:
        info = self.frameworks[framework]
        total = self.agents[agent].total
        if total.scalar("gpus") and "GPU_RESOURCES" not in info.capabilities:
            return EMPTY
        usable = self.free(agent).allocatable_to(role)
        if "REVOCABLE_RESOURCES" not in info.capabilities:
            usable = usable.non_revocable()
        if "RESERVATION_REFINEMENT" not in info.capabilities:
            usable = usable - usable.refined()
        pool = open_part(usable)
        if stage == 1:
            part = cut(pool, self.unsatisfied(role), 0)
            if not part:
                return EMPTY
            got = part.quantities()
            room = {n: left - got.get(n, 0) for n, left in self.room(role).items()}
            kept = cut(pool - part, room, None)
            if self.required():
                kept = cut(kept, self.surplus(), 0)
            kept = kept + part
        else:
            kept = cut(pool, self.room(role), None)
            if self.required():
                kept = cut(kept, self.surplus(), 0)
        offer = kept + (usable - pool)
        if not big_enough(offer) or (framework, role, agent) in self.resting:
            return EMPTY
        for f, r, a, refused in self.filters:
            if (f, r, a) == (framework, role, agent) and refused.contains(offer):
                return EMPTY
        return offer

    def give_back(
        self, framework: str, role: str, agent: str, resources: Resources, refuse_s: float | None
    ) -> None:
        key = (framework, role, agent)
        self.held[key] = self.held[key] - resources
        if not self.held[key]:
            del self.held[key]
        if refuse_s == 0:
            self.resting.add(key)
        elif refuse_s is not None:
            self.filters.append((framework, role, agent, resources))
