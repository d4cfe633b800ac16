"""Hierarchical DRF: who is offered which agent, in the original's order and by its rules.

A round visits agents in random order. On each, the first eligible slot in the order of shares
takes all it may have of what is free there. Roles with unmet quota guarantees are served in a
first stage over all agents, everybody in a second. Source: Apache Mesos
`src/master/allocator/mesos/hierarchical.cpp` (__allocate).

What is not as there, and why:
- Differs: a round also runs when resources come back, over the agents concerned; what a slot
  just declined without a filter goes back to the same slot only after the next tick.
- Differs: rounds run in slices. Headroom and consumption are those of the moment, not of the
  start of the round, since facts may arrive between two slices.
"""

from collections.abc import Mapping
from random import Random

from cairn_core.extensions import (
    AgentId,
    Allocation,
    AllocatorSettings,
    FrameworkId,
    StepResult,
    Why,
    WhyNot,
)
from cairn_core.resources import EMPTY, Resources
from cairn_scheduler.allocator.agents import Agent
from cairn_scheduler.allocator.facts import Facts
from cairn_scheduler.allocator.quota import charged, counted, shrink
from cairn_scheduler.allocator.shares import Node
from cairn_scheduler.allocator.slots import Slot, meets

_GUARANTEES = 1
_FAIR_SHARE = 2
_EXAMPLES = 5


class HierarchicalDrf(Facts):
    """The default allocator; implements `cairn_core.extensions.Allocator`."""

    def __init__(self, rng: Random, settings: AllocatorSettings | None = None) -> None:
        super().__init__(settings or AllocatorSettings())
        self._rng = rng
        #: Stage of the round that is under way; 0: none is.
        self._stage = 0
        self._queue: list[Agent] = []
        self._next_queue: list[Agent] = []
        #: Allocations of the first stage, until the second has seen the agent.
        self._first_stage: dict[Agent, list[tuple[Slot, Resources]]] = {}
        self._rounds = 0
        self._round_started = 0.0
        self._round_s = 0.0
        self._allocations = 0

    # Rounds

    def tick(self, *, now: float) -> None:
        self._epoch += 1
        self._grown_before, self._grown = self._grown, 0
        self._all_wanted = True

    def pending(self) -> bool:
        if self._hold is not None:
            return False
        return bool(self._stage or self._all_wanted or self._wanted)

    def next_deadline(self) -> float | None:
        due = self._deadlines.next()
        if self._hold is not None and (due is None or self._hold[1] < due):
            return self._hold[1]
        return due

    def step(self, *, now: float, max_agents: int) -> StepResult:
        for agent_id in self._deadlines.due(now, max_agents):
            agent = self._agents.get(agent_id)
            if agent is not None and agent.refusals is not None and agent.refusals.expire(now):
                agent.filters_changed()
                self._wanted[agent_id] = None
        if self._hold is not None:
            if now < self._hold[1]:
                return StepResult()
            self._hold = None
            self._all_wanted = True
        self._tree.refresh()
        self._refresh_quota_masks()
        out: list[Allocation] = []
        if not self._stage:
            self._start(now)
        for _ in range(max_agents):
            if not self._queue and not self._next_stage(now):
                break
            agent = self._pick()
            if self._offerable(agent):
                self._visit(agent, self._stage)
            if self._stage == _FAIR_SHARE:
                self._emit(agent, out)
        else:
            if not self._queue:
                self._next_stage(now)
        self._allocations += len(out)
        overdue = self._deadlines.next()
        late = overdue is not None and overdue <= now
        return StepResult(tuple(out), self.pending() or late)

    def _start(self, now: float) -> None:
        if self._all_wanted:
            agents = list(self._agents.values())
        else:
            agents = [self._agents[agent_id] for agent_id in self._wanted]
        self._all_wanted = False
        self._wanted.clear()
        if not agents:
            return
        self._rounds += 1
        self._round_started = now
        self._stage = _GUARANTEES if self._unsatisfied else _FAIR_SHARE
        self._queue = agents
        self._next_queue = agents.copy() if self._unsatisfied else []

    def _next_stage(self, now: float) -> bool:
        """Go on with the second stage, or end the round; whether there is more to visit."""
        self._queue, self._next_queue = self._next_queue, []
        if self._queue:
            self._stage = _FAIR_SHARE
            return True
        if self._stage:
            self._round_s = now - self._round_started
        self._stage = 0
        return False

    def _pick(self) -> Agent:
        """Take a random agent out of the queue: a shuffle that is spread over the slices."""
        queue = self._queue
        at = int(self._rng.random() * len(queue))
        agent = queue[at]
        queue[at] = queue[-1]
        queue.pop()
        return agent

    def _emit(self, agent: Agent, out: list[Allocation]) -> None:
        """Allocations of both stages on one agent, as one offer per slot."""
        if not self._first_stage or agent not in self._first_stage:
            return
        by_slot: dict[Slot, Resources] = {}
        for slot, resources in self._first_stage.pop(agent):
            by_slot[slot] = by_slot[slot] + resources if slot in by_slot else resources
        for slot, resources in by_slot.items():
            # What was recovered between the stages is no offer any more.
            held = agent.held.get(slot, EMPTY)
            if held is resources or held.contains(resources):
                out.append(Allocation(slot.framework_id, slot.role, agent.info.id, resources))

    def _offerable(self, agent: Agent) -> bool:
        return (
            agent.active
            and bool(agent.free)
            and (self._whitelist is None or agent.info.hostname in self._whitelist)
        )

    def _visit(self, agent: Agent, stage: int) -> None:
        """Allocate on one agent. The order of service is that at the start of the visit."""
        eligible = self._eligible(agent, stage)
        taken: list[tuple[Node, Mapping[str, int]]] = []
        while eligible:
            leaf = self._tree.first(eligible)
            if leaf is None:
                break
            eligible &= ~leaf.mask
            slot = self._slots.of_leaf(leaf)
            offer = self._offer(agent, slot, stage)
            if isinstance(offer, Resources):
                taken.append((leaf, self._commit(agent, slot, offer)))
                if not agent.free:
                    break
                eligible &= self._eligible(agent, stage)
            elif offer is WhyNot.REFUSED and stage == _FAIR_SHARE and not agent.shared_offered:
                self._forget_old_tries(agent)
                agent.tried |= slot.bit
        for leaf, amounts in taken:
            self._tree.allocated(leaf, amounts)

    def _commit(self, agent: Agent, slot: Slot, offer: Resources) -> Mapping[str, int]:
        """Take the offer out of what is free; what it adds to the slot's share."""
        before = agent.held.get(slot)
        amounts = offer.quantities()
        if before is None:
            agent.held[slot] = offer
            slot.holding += 1
        else:
            after = agent.held[slot] = before + offer
            if not agent.plain and any(kind.shared for kind in offer):
                amounts = {
                    name: more
                    for name, amount in after.quantities().items()
                    if (more := amount - before.quantities().get(name, 0))
                }
        if not agent.plain:
            shared = offer.shared()
            if shared:
                agent.shared_offered = self._shared_offered(agent) + shared
                agent.shared_epoch = self._rounds
        self._consume(slot.role, counted(offer), 1)
        self._set_free(agent, agent.after_taking(offer))
        self._first_stage.setdefault(agent, []).append((slot, offer))
        return amounts

    # Deciding

    def _eligible(self, agent: Agent, stage: int) -> int:
        """Bits of the slots that are worth asking for an offer of this agent.

        Each condition is necessary for an offer, none is sufficient; `_offer` decides.
        """
        slots = self._slots
        eligible = slots.active & ~self._refused(agent)
        if agent.rest_epoch == self._epoch:
            eligible &= ~agent.resting
        if agent.tried and stage == _FAIR_SHARE:
            self._forget_old_tries(agent)
            eligible &= ~agent.tried | self._grown
        if not eligible:
            return 0
        eligible &= self._capable(agent)
        if stage == _GUARANTEES:
            wanted = 0
            for name, mask in self._unsatisfied.items():
                if agent.open.get(name):
                    wanted |= mask
            eligible &= wanted
        free = agent.free.quantities()
        for least, mask in slots.minima.items():
            if not meets(free, least):
                eligible &= ~mask
        special = self._special(agent)
        if not agent.open and not agent.unreserved:
            eligible &= special
        if self._quotas:
            eligible &= ~self._withheld(agent, stage) | special
        if slots.constrained & eligible:
            eligible &= self._allowed(agent, slots.constrained & eligible)
        return eligible

    def _refused(self, agent: Agent) -> int:
        """Bits of slots that surely refuse whatever of the agent they could be offered."""
        refusals = agent.refusals
        if refusals is None or not refusals.any:
            return 0
        if agent.covered is None:
            whole = refusals.covering(agent.free)
            common = whole if agent.plain else refusals.covering(agent.unreserved)
            agent.covered = (whole, common)
        whole, common = agent.covered
        return whole if agent.plain else whole | (common & ~self._special(agent))

    def _forget_old_tries(self, agent: Agent) -> None:
        """Take out of the tried what may be offered more now, or was not looked at for long."""
        if agent.tried_epoch != self._epoch:
            kept = agent.tried_epoch == self._epoch - 1
            agent.tried = agent.tried & ~self._grown_before if kept else 0
            agent.tried_epoch = self._epoch

    def _special(self, agent: Agent) -> int:
        """Bits of slots that may get more of the agent than what is unreserved: those of roles
        it is reserved to and below; all, when something is revocable.
        """
        if agent.has_revocable:
            return self._slots.active
        mask = 0
        for role in agent.reserved_to:
            mask |= self._tree.mask_of(role)
        return mask

    def _capable(self, agent: Agent) -> int:
        slots = self._slots
        mask = slots.active
        if agent.has_gpus and self._settings.filter_gpus:
            mask &= slots.gpu_capable
        if agent.remote:
            mask &= slots.region_aware
        has = agent.info.capabilities
        if "MULTI_ROLE" not in has:
            mask &= ~slots.multi_role
        if "HIERARCHICAL_ROLE" not in has:
            mask &= ~slots.hierarchical
        return mask

    def _allowed(self, agent: Agent, constrained: int) -> int:
        """Slots whose constraints allow the agent, and all that have none."""
        verdicts, own = agent.verdicts, agent.host_verdicts
        unknown = constrained & ~verdicts.known & ~own.known
        if unknown:
            for slot in self._slots.of_bits(unknown):
                info = self._frameworks[slot.framework_id].info
                if info is not None:
                    constraint = info.offer_constraints[slot.role]
                    judge = own if constraint.per_host else verdicts
                    judge.judge(slot, constraint, agent.info)
        return ~constrained | verdicts.allowed | own.allowed

    def _withheld(self, agent: Agent, stage: int) -> int:
        """Slots that quota leaves too little of the agent's unreserved resources for any offer:
        all their alternatives lack something on the agent, in the limit, or in the headroom.
        """
        free = agent.open
        if stage == _FAIR_SHARE and self._quotas.required:
            surplus = self._surplus()
            free = {name: min(amount, surplus[name]) for name, amount in free.items()}
        withheld = 0
        for least, mask in self._slots.minima.items():
            for alternative in least:
                lacking = 0
                for pair in alternative:
                    if free.get(pair[0], 0) < pair[1]:
                        break
                    lacking |= self._used_up[pair]
                else:
                    mask &= lacking
            if least:
                withheld |= mask
        return withheld

    def _surplus(self) -> dict[str, int]:
        """Headroom beyond what guarantees still require, thousandths by name."""
        required = self._quotas.required
        return {
            name: max(0, amount - required.get(name, 0)) for name, amount in self._headroom.items()
        }

    def _usable(self, agent: Agent, slot: Slot) -> Resources:
        """What of the free resources the slot's role and capabilities let it have."""
        if agent.plain:
            return agent.free
        usable = agent.free.allocatable_to(slot.role)
        info = self._frameworks[slot.framework_id].info
        has = info.capabilities if info is not None else frozenset()
        if "SHARED_RESOURCES" not in has:
            usable = usable.non_shared()
        else:
            usable = usable.minus_common(self._shared_offered(agent))
        if "REVOCABLE_RESOURCES" not in has:
            usable = usable.non_revocable()
        if "RESERVATION_REFINEMENT" not in has:
            usable = usable.filter(lambda kind: len(kind.reservations) < 2)
        return usable

    def _shared_offered(self, agent: Agent) -> Resources:
        """Shared resources of the agent that were offered in this round already."""
        return agent.shared_offered if agent.shared_epoch == self._rounds else EMPTY

    def _offer(self, agent: Agent, slot: Slot, stage: int) -> Resources | WhyNot:
        """What the slot is offered of the agent now, or why nothing."""
        usable = self._usable(agent, slot)
        if not usable:
            return WhyNot.RESERVED
        if not meets(usable.quantities(), slot.minimum):
            return WhyNot.TOO_SMALL
        offer = usable
        if stage == _GUARANTEES:
            offer = self._guaranteed(agent, usable, slot)
        elif self._quotas:
            offer = self._fair(agent, usable, slot)
        if offer is not usable and not (offer and meets(offer.quantities(), slot.minimum)):
            return self._quota_reason(usable, slot)
        refusals = agent.refusals
        if refusals is not None and refusals.any & slot.bit and refusals.matches(slot.bit, offer):
            return WhyNot.REFUSED
        return offer

    def _quota_reason(self, usable: Resources, slot: Slot) -> WhyNot:
        """Whether the role's own limit is enough to explain that too little is left."""
        quota = self._quotas.of(slot.role)
        left = quota.left() if quota is not None else {}
        room = {name: min(n, left.get(name, n)) for name, n in usable.quantities().items()}
        return WhyNot.HEADROOM if meets(room, slot.minimum) else WhyNot.QUOTA_LIMIT

    def _guaranteed(self, agent: Agent, usable: Resources, slot: Slot) -> Resources:
        """First stage: what the guarantee lacks, and what comes along with it."""
        quota = self._quotas.exactly(slot.role)
        if quota is None:
            return EMPTY
        pool = charged(usable)
        part = shrink(pool, quota.unsatisfied(), self._rng, absent=0)
        if not part:
            return EMPTY
        got = part.quantities()
        left = {name: room - got.get(name, 0) for name, room in quota.left().items()}
        extra = shrink(pool.minus_common(part), left, self._rng, absent=None)
        if self._quotas.required:
            extra = shrink(extra, self._surplus(), self._rng, absent=0)
        return part + extra + self._ungoverned(agent, usable, pool)

    def _fair(self, agent: Agent, usable: Resources, slot: Slot) -> Resources:
        """Second stage: what limits and the headroom of others leave."""
        quota = self._quotas.of(slot.role)
        if not self._quotas.required and (quota is None or not quota.limits):
            return usable
        pool = kept = charged(usable)
        if quota is not None and quota.limits:
            kept = shrink(kept, quota.left(), self._rng, absent=None)
        if self._quotas.required:
            kept = shrink(kept, self._surplus(), self._rng, absent=0)
        return usable if kept is pool else kept + self._ungoverned(agent, usable, pool)

    @staticmethod
    def _ungoverned(agent: Agent, usable: Resources, pool: Resources) -> Resources:
        """What quota has no say in: ports and sets, what is reserved, what is revocable."""
        return usable.non_scalars() if agent.plain else usable.minus_common(pool)

    # Telling

    def explain(self, framework_id: FrameworkId, role: str) -> Why:
        entry = self._frameworks.get(framework_id)
        slot = entry.slots.get(role) if entry is not None else None
        counts: dict[WhyNot, int] = {}
        examples: dict[WhyNot, list[AgentId]] = {}
        self._tree.refresh()
        self._refresh_quota_masks()
        for agent in self._agents.values():
            reason = self._why_not(agent, slot)
            counts[reason] = counts.get(reason, 0) + 1
            if len(known := examples.setdefault(reason, [])) < _EXAMPLES:
                known.append(agent.info.id)
        return Why(
            framework_id,
            role,
            counts,
            {reason: tuple(ids) for reason, ids in examples.items()},
            share=self._tree.share(slot.leaf) if slot is not None else 0.0,
            allocated=slot.holding if slot is not None else 0,
        )

    def _why_not(self, agent: Agent, slot: Slot | None) -> WhyNot:
        """The first condition that keeps the slot from the agent, by the tests of a round."""
        if slot is None or not slot.member:
            return WhyNot.NOT_IN_ROLE
        if not slot.bit & self._slots.active:
            return WhyNot.SUPPRESSED if slot.suppressed else WhyNot.INACTIVE
        if self._hold is not None:
            return WhyNot.PAUSED
        if not agent.free and agent.active:
            return WhyNot.NOTHING_FREE
        if not self._offerable(agent):
            return WhyNot.AGENT_INACTIVE
        if not slot.bit & self._capable(agent):
            if agent.has_gpus and not slot.bit & self._slots.gpu_capable:
                return WhyNot.GPU
            if agent.remote and not slot.bit & self._slots.region_aware:
                return WhyNot.REGION
            return WhyNot.AGENT_TOO_OLD
        if slot.bit & self._slots.constrained and not slot.bit & self._allowed(agent, slot.bit):
            return WhyNot.CONSTRAINT
        resting = agent.rest_epoch == self._epoch and slot.bit & agent.resting
        if resting or slot.bit & self._refused(agent):
            return WhyNot.REFUSED
        offer = self._offer(agent, slot, _FAIR_SHARE)
        return WhyNot.ELIGIBLE if isinstance(offer, Resources) else offer

    def shares(self) -> Mapping[str, float]:
        return self._tree.role_shares()

    def quota_consumption(self) -> Mapping[str, Mapping[str, int]]:
        return {role: dict(quota.consumed) for role, quota in self._quotas.roles().items()}

    def metrics(self) -> Mapping[str, float]:
        prefix = "allocator/mesos/"
        out = {
            prefix + "allocation_runs": float(self._rounds),
            prefix + "allocation_run_ms": self._round_s * 1000,
            prefix + "event_queue_dispatches": float(len(self._wanted)),
            prefix + "offers_allocated": float(self._allocations),
        }
        held = self._tree.allocated_amounts()
        for name, total in self._tree.totals.items():
            out[f"{prefix}resources/{name}/total"] = total / 1000
            out[f"{prefix}resources/{name}/offered_or_allocated"] = held.get(name, 0) / 1000
        for role, share in self.shares().items():
            out[f"{prefix}roles/{role}/shares/dominant"] = share
        for role, quota in self._quotas.roles().items():
            base = f"{prefix}quota/roles/{role}/resources/"
            for name in quota.guarantees.keys() | quota.limits.keys():
                out[f"{base}{name}/guarantee"] = quota.guarantees.get(name, 0) / 1000
                if name in quota.limits:
                    out[f"{base}{name}/limit"] = quota.limits[name] / 1000
                out[f"{base}{name}/offered_or_allocated"] = quota.consumed.get(name, 0) / 1000
        return out
