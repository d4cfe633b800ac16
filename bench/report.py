"""What a benchmark reports, and how it measures."""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


class CannotRun(Exception):
    """The benchmark needs something that is not here; the text says what, in one line."""


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. peer: who else was measured in the same run; None: Cairn itself.

    n: how many measurements `value` is the median (or, where the metric says so, maximum) of.
    """

    bench: str
    case: str
    metric: str
    value: float
    unit: str
    n: int = 1
    peer: str | None = None

    def line(self) -> str:
        """As one line of JSON; four significant digits."""
        fields = asdict(self)
        fields["value"] = float(f"{self.value:.4g}")
        return json.dumps(fields)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that a call took, and what it returned."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def median_s(work: Callable[[], object], n: int) -> float:
    """Median of the seconds of n calls."""
    return median(timed(work)[0] for _ in range(n))


@contextmanager
def as_in_a_daemon() -> Iterator[None]:
    """Treat garbage as our daemons do: what has been built is frozen, and the collector runs
    when they are idle, not in the middle of work.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
