"""Waiting longer after each failure: the one backoff of the whole code base.

Exponential with full-range jitter between half and all of the current step, so that many nodes
that lost the same master do not come back in one wave.
"""

from random import Random


class Backoff:
    """Delays between attempts: `next()` after a failure, `reset()` after a success.

    min_s, max_s: seconds, 0 < min_s <= max_s. The n-th delay lies in
    [step / 2, step] with step = min(max_s, min_s * 2**n).
    """

    __slots__ = ("_failures", "_max_s", "_min_s", "_rng")

    def __init__(self, min_s: float, max_s: float, rng: Random) -> None:
        if not 0 < min_s <= max_s:
            raise ValueError(f"backoff from {min_s} to {max_s} s")
        self._min_s = min_s
        self._max_s = max_s
        self._rng = rng
        self._failures = 0

    @property
    def failures(self) -> int:
        """Delays handed out since the last reset."""
        return self._failures

    def next(self) -> float:
        """Seconds to wait before the next attempt; counts one failure."""
        # 2**63 of any sensible minimum is above any sensible maximum; keeps the float finite
        step = min(self._max_s, self._min_s * 2.0 ** min(self._failures, 63))
        self._failures += 1
        return step * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        """The attempt worked; the next failure starts at `min_s` again."""
        self._failures = 0
