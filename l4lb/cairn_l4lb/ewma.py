"""Peak EWMA of a backend's latency: up at once, down slowly.

After Finagle's balancer `PeakEwma`, as `dcos/minuteman src/minuteman_ewma.erl` had it.
"""

from math import exp

DECAY_S = 10.0
#: Cost of a backend that nothing is known of: more than any that was measured.
PENALTY = 1e307


class PeakEwma:
    """A moving average in nanoseconds that a peak replaces.

    Silence counts as answers that took no time, so an old peak is forgotten: after `DECAY_S` 37 %
    of it is left.
    """

    __slots__ = ("_stamp", "_value", "measured")

    def __init__(self, now: float) -> None:
        self._stamp = now
        self._value = 0.0
        #: Whether anything was observed.
        self.measured = False

    def observe(self, nanoseconds: float, now: float) -> None:
        """Something took so long."""
        weight = self._weight(now)
        if nanoseconds > self._value:
            self._value = float(nanoseconds)
        else:
            self._value = self._value * weight + nanoseconds * (1.0 - weight)
        self._stamp = max(self._stamp, now)
        self.measured = True

    def read(self, now: float) -> float:
        """The average by now, nanoseconds; changes nothing."""
        return self._value * self._weight(now)

    def settle(self, now: float) -> None:
        """Keep what was read, as the original does each time a connection is decided by it.

        What is observed next then counts by the time since, not since the last observation.
        """
        self._value *= self._weight(now)
        self._stamp = max(self._stamp, now)

    def cost(self, pending: int, now: float) -> float:
        """What one more connection would cost, nanoseconds, with so many not yet answered."""
        value = self.read(now)
        return value * (pending + 1) if value else PENALTY + pending

    def _weight(self, now: float) -> float:
        return exp(-max(now - self._stamp, 0.0) / DECAY_S)
