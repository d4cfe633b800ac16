"""What the allocator keeps of one agent: what is free, who holds what, who refused it."""

from cairn_core.extensions import AllocAgent, Constraint
from cairn_core.resources import EMPTY, Resources
from cairn_scheduler.allocator.filters import Refusals
from cairn_scheduler.allocator.quota import charged
from cairn_scheduler.allocator.slots import Slot


class Verdicts:
    """Which constrained slots an agent, or a class of alike agents, was judged by."""

    __slots__ = ("__weakref__", "allowed", "known")

    def __init__(self) -> None:
        self.known = 0
        self.allowed = 0

    def judge(self, slot: Slot, constraint: Constraint, agent: AllocAgent) -> None:
        """Evaluate one constraint and remember the answer."""
        self.known |= slot.bit
        if constraint.allows(agent):
            self.allowed |= slot.bit

    def forget(self, mask: int) -> None:
        """Constraints of some slots changed."""
        self.known &= ~mask
        self.allowed &= ~mask


class Agent:
    """One agent.

    free: total less what is held; shared resources stay in it, as they can be had many times.
    open: the part of `free` that quota and headroom govern, thousandths by name.
    plain: nothing in `free` is reserved, revocable or shared, so everybody may have all of it.
    reserved_to: roles that something in `free` is reserved to.

    Invariant: the other three follow from `free` (`set_free` is the only writer).
    """

    __slots__ = (
        "active", "covered", "free", "has_gpus", "has_revocable", "held", "host_verdicts", "info",
        "open", "overcommitted", "plain", "refusals", "remote", "reserved_to", "rest_epoch",
        "resting", "shared_epoch", "shared_offered", "tried", "tried_epoch", "unreserved",
        "verdicts",
    )  # fmt: skip

    def __init__(self, info: AllocAgent) -> None:
        self.info = info
        self.active = True
        #: In another region than the master.
        self.remote = False
        self.has_gpus = False
        self.held: dict[Slot, Resources] = {}
        #: Total does not contain what is held: free is recomputed, not added to.
        self.overcommitted = False
        self.refusals: Refusals | None = None
        #: Cache of covering refusals; None: compute again.
        self.covered: tuple[int, int] | None = None
        #: Slots that were tried in vain since `free` changed, because they refused; a cache,
        #: good for `tried_epoch`.
        self.tried = 0
        self.tried_epoch = -1
        #: Slots that declined without a filter in this epoch (between two ticks).
        self.resting = 0
        self.rest_epoch = -1
        #: Shared resources offered in this round; shared_epoch says which round.
        self.shared_offered = EMPTY
        self.shared_epoch = -1
        self.verdicts = Verdicts()
        self.host_verdicts = Verdicts()
        self.set_free(EMPTY)

    def set_free(self, free: Resources) -> None:
        """Set what is free, and what follows from it."""
        self.free = free
        self.filters_changed()
        self.plain = True
        self.has_revocable = False
        self.reserved_to: tuple[str, ...] = ()
        for kind in free:
            if kind.reservations or kind.revocable or kind.shared:
                self.plain = False
                break
        if self.plain:
            self.open = free.quantities()
            self.unreserved = free
            return
        self.open = charged(free).quantities()
        self.unreserved = free.unreserved()
        self.has_revocable = any(kind.revocable for kind in free)
        self.reserved_to = tuple(sorted({kind.role for kind in free if kind.reservations}))

    def filters_changed(self) -> None:
        """Filters came or went: what was derived from them is void."""
        self.covered = None
        self.tried = 0

    def recompute(self) -> Resources:
        """What is free, from total and what is held. Sets `overcommitted`."""
        total = self.info.total
        held = Resources.sum(self.held.values())
        shared = total.shared()
        used = held.non_shared() if shared else held
        self.overcommitted = not total.contains(used)
        return total.minus_common(used)

    def after_taking(self, taken: Resources) -> Resources:
        """What is free after this much of it was taken."""
        if taken is self.free and self.plain:
            return EMPTY
        return self.free.minus_common(taken if self.plain else taken.non_shared())

    def after_return(self, back: Resources) -> Resources:
        """What is free after this came back; `held` must be up to date."""
        if self.overcommitted:
            return self.recompute()
        if any(kind.shared for kind in back):
            back = back.non_shared()
        return self.free + back
