"""What a serving process counts."""

from msgspec import Struct, field

#: Upper bounds of the latency's buckets, seconds; one more takes what is above.
LATENCY_BOUNDS_S = (
    0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25,
)  # fmt: skip


class Histogram(Struct):
    """Counts by latency, and the sum of all in seconds.

    counts: of each bucket alone, not of all below.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float, count: int) -> None:
        """`count` queries took so long each."""
        at = 0
        for bound in LATENCY_BOUNDS_S:
            if seconds <= bound:
                break
            at += 1
        self.counts[at] += count
        self.sum_s += seconds * count

    def __add__(self, other: "Histogram") -> "Histogram":
        both = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Histogram(both, self.sum_s + other.sum_s)
