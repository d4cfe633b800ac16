"""Weights of a VIP that the kernel serves, as shares of a fixed number.

The kernel draws a number below `count` and looks up the slot at that position, so a backend's
weight is how many positions hold its slot.  Each position that changes is a write to the kernel:
as few as possible do.
"""

from collections.abc import Mapping, Sequence
from math import floor, sqrt

#: How far costs may move a backend's share from what its weight says.
MAX_SHIFT = 2.0
#: How much of the way a share moves at a time, so that hosts do not swing together.
SHIFT_STEP = 0.3
#: Factors that differ less are not worth a write.
SHIFT_NOISE = 0.1


def quotas(weights: Mapping[int, float], count: int) -> dict[int, int]:
    """How many of `count` positions each slot gets: largest remainder, at least one each.

    weights: by slot; those of 0 or less get none. With more slots than positions the heaviest get
    one each.
    """
    rest = {slot: weight for slot, weight in weights.items() if weight > 0}
    heaviest_first = sorted(rest, key=lambda slot: (-rest[slot], slot))
    if len(rest) >= count:
        return dict.fromkeys(heaviest_first[:count], 1)
    found: dict[int, int] = {}
    left = count
    # who would get less than one position gets one, and the others share what is left
    for slot in reversed(heaviest_first):
        if rest[slot] * left >= sum(rest.values()):
            break
        found[slot] = 1
        left -= 1
        del rest[slot]
    total = sum(rest.values())
    exact = {slot: weight * left / total for slot, weight in rest.items()}
    found |= {slot: floor(share) for slot, share in exact.items()}
    missing = count - sum(found.values()) if exact else 0
    by_remainder = sorted(exact, key=lambda slot: (found[slot] - exact[slot], slot))
    for slot in by_remainder[:missing]:
        found[slot] += 1
    return found


def assign(
    weights: Mapping[int, float], count: int, previous: Sequence[int] = ()
) -> tuple[int, ...]:
    """The slot of each position; empty if no slot has weight.

    previous: the last assignment, of which as much stays as the quotas allow.
    """
    wanted = quotas(weights, count)
    if not wanted:
        return ()
    found: list[int] = [0] * count
    free: list[int] = []
    for position in range(count):
        slot = previous[position] if position < len(previous) else 0
        if wanted.get(slot, 0):
            wanted[slot] -= 1
            found[position] = slot
        else:
            free.append(position)
    missing = [slot for slot in sorted(wanted) for _ in range(wanted[slot])]
    for position, slot in zip(free, missing, strict=True):
        found[position] = slot
    return tuple(found)


def shift(
    costs: Mapping[int, float], factors: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Factors for the weights that move share from expensive slots to cheap ones.

    costs: by slot, above 0 where known; a slot without is left where it is. factors: the last
    ones. A factor lies between 1 / `MAX_SHIFT` and `MAX_SHIFT`.
    """
    old = factors or {}
    known = sorted(cost for cost in costs.values() if cost > 0)
    if not known:
        return {slot: old.get(slot, 1.0) for slot in costs}
    median = known[len(known) // 2]
    found: dict[int, float] = {}
    for slot, cost in costs.items():
        before = old.get(slot, 1.0)
        # the root: half the share for four times the latency, else two backends would swing
        goal = sqrt(median / cost) if cost > 0 else 1.0
        goal = min(max(goal, 1 / MAX_SHIFT), MAX_SHIFT)
        far = abs(goal - before) > SHIFT_NOISE
        found[slot] = before + (goal - before) * SHIFT_STEP if far else before
    return found
