"""Slots: one per framework and role, each with a bit of its own in every mask.

Which slots may be offered an agent is a handful of `&` on numbers with one bit per slot: active,
capable, not refused, large enough. Bits are used again after a slot has gone and every mask that
may hold its bit was cleaned by the owner.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from cairn_core.extensions import AllocFramework, FrameworkId
from cairn_scheduler.allocator.shares import Node, Tree

#: Alternatives of which an offer must contain one; amounts in thousandths.
Minimum: TypeAlias = tuple[tuple[tuple[str, int], ...], ...]


def minimum(alternatives: Iterable[Mapping[str, int]]) -> Minimum:
    """The hashable form of alternatives."""
    return tuple(tuple(sorted(a.items())) for a in alternatives)


def meets(amounts: Mapping[str, int], alternatives: Minimum) -> bool:
    """Whether amounts contain one of the alternatives; no alternative lets all through."""
    if not alternatives:
        return True
    for alternative in alternatives:
        for name, least in alternative:
            if amounts.get(name, 0) < least:
                break
        else:
            return True
    return False


class Slot:
    """A framework in a role.

    member: whether the framework is in the role now; a slot that is no member any more stays as
        long as it holds something, because that still counts.
    holding: on how many agents it holds something.
    """

    __slots__ = (
        "bit", "framework_id", "holding", "leaf", "member", "minimum", "role", "suppressed",
    )  # fmt: skip

    def __init__(self, framework_id: FrameworkId, role: str, bit: int, leaf: Node) -> None:
        self.framework_id = framework_id
        self.role = role
        self.bit = bit
        self.leaf = leaf
        self.member = False
        self.suppressed = False
        self.holding = 0
        self.minimum: Minimum = ()


class Framework:
    """A framework and its slots. `info` is None while only its tasks are known."""

    __slots__ = ("active", "info", "slots")

    def __init__(self) -> None:
        self.info: AllocFramework | None = None
        self.active = False
        self.slots: dict[str, Slot] = {}


class Slots:
    """All slots, and the masks that say what they are capable of."""

    def __init__(self, tree: Tree, default: Minimum) -> None:
        self._tree = tree
        self._default = default
        self._free_bits: list[int] = []
        self._size = 0
        self._by_leaf: dict[Node, Slot] = {}
        self._role_masks: dict[str, int] = {}
        #: May be offered something: member, framework active, role not suppressed.
        self.active = 0
        self.gpu_capable = 0
        self.region_aware = 0
        self.multi_role = 0
        self.hierarchical = 0
        #: Have offer constraints.
        self.constrained = 0
        #: Slots by the least they want to be offered.
        self.minima: dict[Minimum, int] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._by_leaf.values())

    def __len__(self) -> int:
        return len(self._by_leaf)

    def of_leaf(self, leaf: Node) -> Slot:
        """The slot of a leaf."""
        return self._by_leaf[leaf]

    def of_bits(self, mask: int) -> list[Slot]:
        """The slots of some bits."""
        return [slot for slot in self._by_leaf.values() if slot.bit & mask]

    def role_mask(self, role: str) -> int:
        """Bits of the slots of exactly this role."""
        return self._role_masks.get(role, 0)

    def add(self, framework: Framework, framework_id: FrameworkId, role: str) -> Slot:
        """Make a slot that may do nothing yet."""
        if self._free_bits:
            bit = self._free_bits.pop()
        else:
            bit = 1 << self._size
            self._size += 1
        leaf = self._tree.add_leaf(role, framework_id, bit)
        slot = Slot(framework_id, role, bit, leaf)
        framework.slots[role] = slot
        self._by_leaf[leaf] = slot
        self._role_masks[role] = self._role_masks.get(role, 0) | bit
        self._set_minimum(slot, self._default, new=True)
        return slot

    def remove(self, framework: Framework, slot: Slot) -> None:
        """Take a slot away. Masks of the caller that hold its bit must have been cleaned."""
        del framework.slots[slot.role], self._by_leaf[slot.leaf]
        self._tree.remove_leaf(slot.role, slot.framework_id)
        self._set_minimum(slot, None)
        keep = ~slot.bit
        self._role_masks[slot.role] &= keep
        if not self._role_masks[slot.role]:
            del self._role_masks[slot.role]
        for name in (
            "active", "gpu_capable", "region_aware", "multi_role", "hierarchical", "constrained",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) & keep)
        self._free_bits.append(slot.bit)

    def describe(self, framework: Framework, slot: Slot) -> None:
        """Put the slot's bit where it belongs, after anything about it changed."""
        info = framework.info
        if info is None:
            self.active &= ~slot.bit
            return
        bit, has = slot.bit, info.capabilities
        self.active = _put(
            self.active, bit, slot.member and framework.active and not slot.suppressed
        )
        self.gpu_capable = _put(self.gpu_capable, bit, "GPU_RESOURCES" in has)
        self.region_aware = _put(self.region_aware, bit, "REGION_AWARE" in has)
        self.multi_role = _put(self.multi_role, bit, "MULTI_ROLE" in has)
        self.hierarchical = _put(self.hierarchical, bit, "/" in slot.role)
        self.constrained = _put(self.constrained, bit, slot.role in info.offer_constraints)
        own = info.min_allocatable.get(slot.role)
        self._set_minimum(slot, self._default if own is None else minimum(own))

    def _set_minimum(self, slot: Slot, least: Minimum | None, *, new: bool = False) -> None:
        if not new:
            left = self.minima[slot.minimum] & ~slot.bit
            if left:
                self.minima[slot.minimum] = left
            else:
                del self.minima[slot.minimum]
        if least is not None:
            slot.minimum = least
            self.minima[least] = self.minima.get(least, 0) | slot.bit


def _put(mask: int, bit: int, on: bool) -> int:
    return mask | bit if on else mask & ~bit
