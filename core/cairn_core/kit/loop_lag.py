"""How late the event loop is: what a request waits before anybody looks at it.

A timer every 10 ms notes by how much it came too late. The last minute gives quantiles, a
histogram (if one is given) everything since the start.
"""

import asyncio
from collections import deque

from prometheus_client import Histogram

PERIOD_S = 0.01
#: Samples that quantiles are made of: a minute of them.
KEPT = 6000
#: Bounds of the histogram, seconds.
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class LoopLag:
    """The measurement; `run` is a service."""

    def __init__(self) -> None:
        #: Lags in seconds, newest last.
        self.samples: deque[float] = deque(maxlen=KEPT)
        self.histogram: Histogram | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Measure until told to stop."""
        loop = asyncio.get_running_loop()
        handle: asyncio.TimerHandle | None = None

        def tick(due: float) -> None:
            nonlocal handle
            now = loop.time()
            late = max(0.0, now - due)
            self.samples.append(late)
            if self.histogram is not None:
                self.histogram.observe(late)
            handle = loop.call_at(now + PERIOD_S, tick, now + PERIOD_S)

        tick(loop.time())
        try:
            await stop.wait()
        finally:
            if handle is not None:
                handle.cancel()

    def quantiles(self) -> dict[str, float]:
        """Milliseconds over the last minute: `p50`, `p99`, `p999`, `max`; 0 without samples."""
        ordered = sorted(self.samples) or [0.0]
        last = len(ordered) - 1
        found = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
        return {name: ordered[round(last * part)] * 1e3 for name, part in found.items()}
