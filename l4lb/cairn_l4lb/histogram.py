"""Counts by the bounds of `LATENCY_BOUNDS_S`: of the last minute, and as figures for people."""

from collections import deque
from collections.abc import Sequence

from .channel import LATENCY_BOUNDS_S

#: A minute in parts of so many seconds; the oldest part leaves as a whole.
PART_S = 5.0
PARTS = 12
#: What stands for the counts above the last bound, seconds.
_TOP_S = 2 * LATENCY_BOUNDS_S[-1]
_EDGES = (0.0, *LATENCY_BOUNDS_S, _TOP_S)


class Minute:
    """Counts of the last minute, in parts.  All `now` are seconds on one monotonic clock."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: deque[tuple[int, list[int], float]] = deque(maxlen=PARTS)

    def add(self, counts: Sequence[int], sum_s: float, now: float) -> None:
        """More counts, and the sum of what was counted."""
        part = int(now // PART_S)
        if self._parts and self._parts[-1][0] == part:
            _, have, before = self._parts.pop()
            self._parts.append(
                (part, [a + b for a, b in zip(have, counts, strict=True)], before + sum_s)
            )
        else:
            self._parts.append((part, list(counts), sum_s))

    def get(self, now: float) -> tuple[list[int], float]:
        """Counts and sum of the last minute, empty when there were none."""
        since = int(now // PART_S) - PARTS
        counts: list[int] = []
        sum_s = 0.0
        for part, more, seconds in self._parts:
            if part > since:
                counts = [a + b for a, b in zip(counts, more, strict=True)] if counts else more
                sum_s += seconds
        return list(counts), sum_s


def quantile(counts: Sequence[int], share: float, sum_s: float) -> float | None:
    """Seconds that `share` (0-1) of what was counted is not above; None without counts.

    sum_s: of all that was counted. Linear between two bounds, so off by no more than the width of
    one; a single time is known exactly.
    """
    total = sum(counts)
    if total <= 1:
        return sum_s if total else None
    wanted, below = share * total, 0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            low, high = _EDGES[index], _EDGES[index + 1]
            return low + (high - low) * max(0.0, wanted - below) / count
        below += count
    return _TOP_S


def figures_ns(counts: Sequence[int], sum_s: float) -> dict[str, float]:
    """What the original shows of a histogram, in nanoseconds; empty without counts.

    n and mean are exact; the others are off by the width of a bucket at most, and never contradict
    the mean.

    Keys of exometer's histogram: n, mean, min, max, median, 50, 75, 90, 95, 99, 999.
    """
    total = sum(counts)
    if not total:
        return {}
    mean = sum_s / total
    used = [index for index, count in enumerate(counts) if count]
    found: dict[str, float] = {
        "n": total,
        "mean": mean * 1e9,
        "min": (mean if total == 1 else min(_EDGES[used[0]], mean)) * 1e9,
        "max": (mean if total == 1 else max(_EDGES[used[-1] + 1], mean)) * 1e9,
    }
    for key, share in (
        ("median", 0.5), ("50", 0.5), ("75", 0.75), ("90", 0.9), ("95", 0.95), ("99", 0.99),
        ("999", 0.999),
    ):  # fmt: skip
        found[key] = (quantile(counts, share, sum_s) or 0.0) * 1e9
    return {key: round(value) for key, value in found.items()}
