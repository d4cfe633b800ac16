"""The allocator's tables, and the facts that change them.

Everything the `Allocator` protocol tells ends here; deciding is in `drf`. Each fact updates the
tables in place, so that a round starts without a scan of the cluster: free resources and
headroom, consumption of quota, the tree of shares, and one mask per question.
"""

from collections.abc import Mapping
from weakref import WeakValueDictionary

from cairn_core.extensions import (
    AgentId,
    AllocAgent,
    AllocatorSettings,
    AllocFramework,
    FrameworkId,
)
from cairn_core.resources import EMPTY, Resources, quantities
from cairn_core.roles import top_level
from cairn_scheduler.allocator import filters
from cairn_scheduler.allocator.agents import Agent, Verdicts
from cairn_scheduler.allocator.filters import Deadlines, Refusals
from cairn_scheduler.allocator.quota import Quotas, counted
from cairn_scheduler.allocator.shares import Tree
from cairn_scheduler.allocator.slots import Framework, Slot, Slots, minimum

#: Every slot, as a mask.
_ALL = -1


class Facts:
    """Tables of frameworks, agents, roles, and who holds what.

    Invariant (`check`): for each agent, free + held == total, shared and overcommitted ones
    aside; `_headroom` is the sum of `open` over all agents; amounts in the tree are the sum of
    what is held.
    """

    def __init__(self, settings: AllocatorSettings) -> None:
        self._settings = settings
        self._frameworks: dict[FrameworkId, Framework] = {}
        self._agents: dict[AgentId, Agent] = {}
        self._tree = Tree(settings.fair_sharing_excluded)
        self._slots = Slots(self._tree, minimum(settings.min_allocatable))
        self._quotas = Quotas()
        #: Free, unreserved, not revocable: in the whole cluster, thousandths by name.
        self._headroom: dict[str, int] = {}
        #: Per resource name and amount, slots whose role has less than that left of its limit.
        self._used_up: dict[tuple[str, int], int] = {}
        #: Per resource name, slots whose role has a guarantee that lacks it.
        self._unsatisfied: dict[str, int] = {}
        self._quota_masks_stale = False
        self._whitelist: frozenset[str] | None = None
        self._deadlines = Deadlines()
        #: Verdicts of constraints, shared by agents of equal attributes, region and zone; gone
        #: with the last of them.
        self._verdicts: WeakValueDictionary[object, Verdicts] = WeakValueDictionary()
        #: Agents to look at in the next round; `_all_wanted`: all of them.
        self._wanted: dict[AgentId, None] = {}
        self._all_wanted = False
        #: Number of ticks so far; a slot that declined rests until it changes.
        self._epoch = 0
        #: Slots that might be offered more of an agent than earlier in this epoch (and in the
        #: one before), because of quota or of themselves.
        self._grown = 0
        self._grown_before = 0
        self._hold: tuple[int, float] | None = None

    # Frameworks

    def add_framework(
        self,
        framework: AllocFramework,
        used: Mapping[AgentId, Mapping[str, Resources]],
        *,
        active: bool,
    ) -> None:
        entry = self._frameworks.setdefault(framework.id, Framework())
        entry.active = active
        self._describe(entry, framework)
        for agent_id, by_role in used.items():
            agent = self._agents.get(agent_id)
            if agent is None:
                continue
            for role, resources in by_role.items():
                slot = self._slot(framework.id, role)
                if slot not in agent.held:
                    self._hold_used(agent, slot, resources)
        self._all_wanted = True

    def update_framework(self, framework: AllocFramework) -> None:
        entry = self._frameworks.get(framework.id)
        if entry is not None:
            self._describe(entry, framework)
            self._all_wanted = True

    def activate_framework(self, framework_id: FrameworkId) -> None:
        self._activate(framework_id, True)
        self._all_wanted = True

    def deactivate_framework(self, framework_id: FrameworkId) -> None:
        self._activate(framework_id, False)

    def _activate(self, framework_id: FrameworkId, active: bool) -> None:
        entry = self._frameworks.get(framework_id)
        if entry is None:
            return
        entry.active = active
        mask = 0
        for slot in entry.slots.values():
            mask |= slot.bit
            self._slots.describe(entry, slot)
        self._forget_filters(mask)

    def remove_framework(self, framework_id: FrameworkId) -> None:
        entry = self._frameworks.pop(framework_id, None)
        if entry is None:
            return
        slots = list(entry.slots.values())
        for slot in slots:
            if slot.holding:
                for agent in self._agents.values():
                    if slot in agent.held:
                        self._release(agent, slot, agent.held[slot])
        self._drop_slots(entry, slots)

    def suppress(self, framework_id: FrameworkId, roles: frozenset[str]) -> None:
        self._suppress(framework_id, roles, True)

    def revive(self, framework_id: FrameworkId, roles: frozenset[str], *, now: float) -> None:
        self._forget_filters(self._suppress(framework_id, roles, False))
        self._all_wanted = True

    def _suppress(self, framework_id: FrameworkId, roles: frozenset[str], on: bool) -> int:
        """Suppress or not; bits of the slots concerned."""
        entry = self._frameworks.get(framework_id)
        if entry is None:
            return 0
        mask = 0
        for role in roles or entry.slots:
            slot = entry.slots.get(role)
            if slot is not None:
                slot.suppressed = on
                self._slots.describe(entry, slot)
                mask |= slot.bit
        return mask

    def _describe(self, entry: Framework, info: AllocFramework) -> None:
        old = entry.info
        entry.info = info
        for role in sorted(info.roles):
            self._grown |= self._slot(info.id, role).bit
        changed, gone = 0, []
        for role, slot in entry.slots.items():
            slot.member = role in info.roles
            slot.suppressed = role in info.suppressed
            self._slots.describe(entry, slot)
            constraint = info.offer_constraints.get(role)
            if old is not None and constraint != old.offer_constraints.get(role):
                changed |= slot.bit
            if not slot.member:
                gone.append(slot)
        self._quota_masks_stale = True
        if changed:
            self._forget_verdicts(changed)
        if gone:
            self._forget_filters(sum(slot.bit for slot in gone))
            self._drop_slots(entry, [slot for slot in gone if not slot.holding])

    def _slot(self, framework_id: FrameworkId, role: str) -> Slot:
        """The slot of a framework in a role, made if need be - also for a framework of which
        only tasks are known yet.
        """
        entry = self._frameworks.setdefault(framework_id, Framework())
        slot = entry.slots.get(role)
        if slot is None:
            slot = self._slots.add(entry, framework_id, role)
            self._quota_masks_stale = True
        return slot

    def _drop_slots(self, entry: Framework, slots: list[Slot]) -> None:
        if not slots:
            return
        mask = sum(slot.bit for slot in slots)
        self._forget_filters(mask)
        self._forget_verdicts(mask)
        for slot in slots:
            self._slots.remove(entry, slot)
        self._quota_masks_stale = True

    def _forget_filters(self, mask: int) -> None:
        for agent in self._agents.values():
            if agent.refusals is not None and agent.refusals.drop(mask):
                agent.filters_changed()
            agent.resting &= ~mask

    def _forget_verdicts(self, mask: int) -> None:
        for agent in self._agents.values():
            agent.host_verdicts.forget(mask)
        for verdicts in self._verdicts.values():
            verdicts.forget(mask)

    # Agents

    def add_agent(
        self, agent: AllocAgent, used: Mapping[FrameworkId, Mapping[str, Resources]]
    ) -> None:
        if agent.id in self._agents:
            self.remove_agent(agent.id)
        entry = self._agents[agent.id] = Agent(agent)
        self._place(entry)
        self._tree.add_total(agent.total.quantities())
        self._count_reservations(agent.total, 1)
        self._set_free(entry, agent.total)
        for framework_id, by_role in used.items():
            for role, resources in by_role.items():
                self._count_used(entry, self._slot(framework_id, role), resources)
        if used:
            self._set_free(entry, entry.recompute())
        self._wanted[agent.id] = None
        if self._hold is not None and len(self._agents) >= self._hold[0]:
            self._hold = None
            self._all_wanted = True

    def update_agent(self, agent: AllocAgent) -> None:
        entry = self._agents.get(agent.id)
        if entry is None:
            return
        old = entry.info
        entry.info = agent
        if old.total != agent.total:
            self._tree.add_total(old.total.quantities(), -1)
            self._tree.add_total(agent.total.quantities())
            self._count_reservations(old.total, -1)
            self._count_reservations(agent.total, 1)
            self._set_free(entry, entry.recompute())
        if old.attributes != agent.attributes:
            entry.refusals = None
            entry.filters_changed()
        if _place_of(old) != _place_of(agent):
            self._place(entry)
        self._wanted[agent.id] = None

    def activate_agent(self, agent_id: AgentId) -> None:
        agent = self._agents.get(agent_id)
        if agent is not None:
            agent.active = True
            self._wanted[agent_id] = None

    def deactivate_agent(self, agent_id: AgentId) -> None:
        agent = self._agents.get(agent_id)
        if agent is not None:
            agent.active = False

    def remove_agent(self, agent_id: AgentId) -> None:
        agent = self._agents.get(agent_id)
        if agent is None:
            return
        for slot in list(agent.held):
            self._release(agent, slot, agent.held[slot])
        self._set_free(agent, EMPTY)
        self._tree.add_total(agent.info.total.quantities(), -1)
        self._count_reservations(agent.info.total, -1)
        agent.active = False
        del self._agents[agent_id]
        self._wanted.pop(agent_id, None)

    def set_whitelist(self, hostnames: frozenset[str] | None) -> None:
        self._whitelist = hostnames
        self._all_wanted = True

    def _place(self, agent: Agent) -> None:
        """What follows from an agent's place and nature."""
        info, home = agent.info, self._settings.region
        agent.remote = home is not None and info.region is not None and info.region != home
        agent.has_gpus = info.total.scalar("gpus") > 0
        alike = (info.attributes, info.region, info.zone)
        agent.verdicts = self._verdicts.setdefault(alike, Verdicts())
        agent.host_verdicts = Verdicts()

    def _set_free(self, agent: Agent, free: Resources) -> None:
        if self._quotas.required:
            self._grown = _ALL
        headroom = self._headroom
        for name, amount in agent.open.items():
            headroom[name] -= amount
        agent.set_free(free)
        for name, amount in agent.open.items():
            headroom[name] = headroom.get(name, 0) + amount

    # Quota and weights

    def set_quota(
        self, role: str, guarantees: Mapping[str, int], limits: Mapping[str, int]
    ) -> None:
        self._grown = _ALL
        self._quotas.set(role, guarantees, limits)
        self._quota_masks_stale = True
        self._all_wanted = True

    def set_weights(self, weights: Mapping[str, float]) -> None:
        for role, weight in weights.items():
            if weight <= 0:
                raise ValueError(f"weight {weight!r} of role {role!r} is not above 0")
            self._tree.set_weight(role, weight)

    def hold(self, *, agents: int, timeout_s: float, now: float) -> None:
        if self._quotas and len(self._agents) < agents:
            self._hold = (agents, now + timeout_s)

    def _count_reservations(self, total: Resources, sign: int) -> None:
        for role, resources in total.reservations().items():
            self._consume(role, resources.quantities(), sign)

    def _consume(self, role: str, amounts: Mapping[str, int], sign: int) -> None:
        if self._quotas.required:
            self._grown = _ALL
        self._quotas.consume(role, amounts, sign)
        if self._quotas.of(role) is None:
            return
        if sign < 0:
            self._grown |= self._tree.mask_of(top_level(role))
        if not self._quota_masks_stale:
            self._mask_quota(top_level(role))

    def _refresh_quota_masks(self) -> None:
        if not self._quota_masks_stale:
            return
        self._quota_masks_stale = False
        wanted = {pair for least in self._slots.minima for one in least for pair in one}
        self._used_up = dict.fromkeys(wanted, 0)
        self._unsatisfied.clear()
        for role in self._quotas.roles():
            self._mask_quota(role)

    def _mask_quota(self, role: str) -> None:
        """Bring the quota masks of one top-level role up to date."""
        quota = self._quotas.exactly(role)
        if quota is None:
            return
        if quota.limits:
            below, left = self._tree.mask_of(role), quota.left()
            for (name, least), mask in self._used_up.items():
                if left.get(name, least) < least:
                    self._used_up[name, least] = mask | below
                else:
                    self._used_up[name, least] = mask & ~below
        own = self._slots.role_mask(role)
        lacking = quota.unsatisfied()
        for name in quota.guarantees:
            if name in lacking:
                self._unsatisfied[name] = self._unsatisfied.get(name, 0) | own
            elif name in self._unsatisfied:
                self._unsatisfied[name] &= ~own
                if not self._unsatisfied[name]:
                    del self._unsatisfied[name]

    # Who holds what

    def recover(
        self,
        framework_id: FrameworkId,
        agent_id: AgentId,
        role: str,
        resources: Resources,
        *,
        refuse_s: float | None,
        now: float,
    ) -> None:
        agent = self._agents.get(agent_id)
        entry = self._frameworks.get(framework_id)
        slot = entry.slots.get(role) if entry is not None else None
        if agent is None or entry is None or slot is None:
            return
        if slot in agent.held:
            self._release(agent, slot, resources)
        self._wanted[agent_id] = None
        if refuse_s == 0:
            if agent.rest_epoch != self._epoch:
                agent.rest_epoch, agent.resting = self._epoch, 0
            agent.resting |= slot.bit
        elif refuse_s is not None and slot.member and resources:
            until = filters.deadline(now, filters.length(refuse_s, self._settings.interval_s))
            if agent.refusals is None:
                agent.refusals = Refusals()
            agent.refusals.add(slot.bit, resources, until)
            agent.filters_changed()
            self._deadlines.add(until, agent_id)
        if not slot.member and not slot.holding:
            self._drop_slots(entry, [slot])

    def allocate_used(
        self, framework_id: FrameworkId, agent_id: AgentId, role: str, resources: Resources
    ) -> None:
        agent = self._agents.get(agent_id)
        if agent is not None and resources:
            self._hold_used(agent, self._slot(framework_id, role), resources)

    def convert(
        self,
        framework_id: FrameworkId,
        agent_id: AgentId,
        role: str,
        before: Resources,
        after: Resources,
    ) -> None:
        agent = self._agents.get(agent_id)
        entry = self._frameworks.get(framework_id)
        slot = entry.slots.get(role) if entry is not None else None
        if agent is None or slot is None or slot not in agent.held:
            return
        held = agent.held[slot]
        if not held.contains(before):
            return
        total = agent.info.total
        new_total = total.minus_common(before) + after.minus_common(total.shared())
        self._count_reservations(total, -1)
        self._consume(role, counted(held), -1)
        agent.held[slot] = held - before + after
        self._consume(role, counted(agent.held[slot]), 1)
        self._count_reservations(new_total, 1)
        self._tree.released(slot.leaf, held.quantities())
        self._tree.allocated(slot.leaf, agent.held[slot].quantities())
        if total.quantities() != new_total.quantities():
            self._tree.add_total(total.quantities(), -1)
            self._tree.add_total(new_total.quantities())
        agent.info = replaced_total(agent.info, new_total)
        self._set_free(agent, agent.recompute())

    def _hold_used(self, agent: Agent, slot: Slot, resources: Resources) -> None:
        """Note what is used without an allocation of ours."""
        self._count_used(agent, slot, resources)
        self._set_free(agent, agent.recompute())

    def _count_used(self, agent: Agent, slot: Slot, resources: Resources) -> None:
        """The same, but what is free on the agent is left to the caller."""
        if not resources:
            return
        before = agent.held.get(slot, EMPTY)
        after = agent.held[slot] = before + resources
        slot.holding += not before
        self._tree.allocated(slot.leaf, added(before, after, resources))
        self._consume(slot.role, counted(resources), 1)

    def _release(self, agent: Agent, slot: Slot, resources: Resources) -> None:
        """Give back what of `resources` the slot holds on the agent."""
        before = agent.held[slot]
        if before is resources or before == resources:
            after, back = EMPTY, before
            del agent.held[slot]
            slot.holding -= 1
        else:
            after = before.minus_common(resources)
            back = before - after
            if after:
                agent.held[slot] = after
            else:
                del agent.held[slot]
                slot.holding -= 1
        self._tree.released(slot.leaf, added(after, before, back))
        self._consume(slot.role, counted(back), -1)
        self._set_free(agent, agent.after_return(back))

    def check(self) -> None:
        """Assert the invariants; for tests, O(everything)."""
        headroom: dict[str, int] = {}
        sums: dict[Slot, dict[str, int]] = {}
        for agent in self._agents.values():
            headroom = quantities.add(headroom, agent.open)
            if not agent.overcommitted:
                assert agent.free == agent.recompute(), agent.info.id
            for slot, held in agent.held.items():
                sums[slot] = quantities.add(sums.get(slot, {}), held.quantities())
        assert headroom == {n: a for n, a in self._headroom.items() if a or n in headroom}
        for slot in self._slots:
            assert slot.leaf.amounts == sums.get(slot, {}), (slot.framework_id, slot.role)
            assert slot.holding == sum(slot in a.held for a in self._agents.values())
        for role, quota in self._quotas.roles().items():
            expected: dict[str, int] = {}
            for agent in self._agents.values():
                for name, resources in agent.info.total.reservations().items():
                    if top_level(name) == role:
                        expected = quantities.add(expected, resources.quantities())
                for slot, held in agent.held.items():
                    if top_level(slot.role) == role:
                        expected = quantities.add(expected, counted(held))
            assert {n: a for n, a in quota.consumed.items() if a} == expected, role
        required = quantities.total(q.unsatisfied() for q in self._quotas.roles().values())
        assert required == self._quotas.required


def added(before: Resources, after: Resources, difference: Resources) -> Mapping[str, int]:
    """Quantities by which `after` is more than `before`; a shared volume counts once."""
    if any(kind.shared for kind in difference):
        return quantities.subtract(after.quantities(), before.quantities())
    return difference.quantities()


def _place_of(info: AllocAgent) -> tuple[object, ...]:
    """What `Facts._place` goes by."""
    has_gpus = info.total.scalar("gpus") > 0
    return info.hostname, info.attributes, info.region, info.zone, has_gpus


def replaced_total(info: AllocAgent, total: Resources) -> AllocAgent:
    """The same agent with another total."""
    return AllocAgent(
        id=info.id,
        hostname=info.hostname,
        total=total,
        attributes=info.attributes,
        region=info.region,
        zone=info.zone,
        capabilities=info.capabilities,
        unavailable=info.unavailable,
    )
