"""What serving processes count: of one since it started, and sums of several."""

from collections import Counter
from collections.abc import Iterable

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


class Stats(Struct):
    """Counts since the start, and at the end what is so just now.

    answers: how many, by zone, type and rcode; the zone is empty where there is none.
    counts: by name, see `COUNTS`. gauges: by name, see `GAUGES`.
    latency: of queries over UDP, from when they were read until their answers were sent.
    """

    answers: list[tuple[str, str, str, int]] = []
    counts: dict[str, int] = {}
    gauges: dict[str, float] = {}
    latency: Histogram = field(default_factory=Histogram)


#: What is counted, and what it means.
COUNTS = {
    "udp": "queries over UDP",
    "tcp": "queries over TCP",
    "rate_limited": "queries of foreign networks that had too many answers",
    "unsent": "answers over UDP that the kernel did not take",
    "forwarded": "queries handed to other servers",
    "forward_failed": "of these, queries that no server answered",
    "forward_refused": "queries for names that are not ours, of clients that are not forwarded for",
    "forward_overload": "queries not forwarded because too many were under way",
    "tcp_accepted": "TCP connections",
    "tcp_refused": "TCP connections that were too many",
    "tcp_cut": "TCP connections of clients that were slow or silent",
    "transfers": "whole zones that were sent",
    "transfers_refused": "whole zones that were refused",
    "updates": "updates of the table",
}
#: What is so just now.
GAUGES = {
    "entries": "questions that have answers",
    "tcp_open": "TCP connections",
    "update_max_s": "longest time that one update took, seconds",
}


def total(dead: Stats, living: Iterable[Stats]) -> Stats:
    """The sum; of what is just now, that of the living, or the largest of times and entries."""
    living = list(living)
    answers: Counter[tuple[str, str, str]] = Counter()
    counts: Counter[str] = Counter()
    latency = Histogram()
    for one in (dead, *living):
        for zone, kind, rcode, count in one.answers:
            answers[zone, kind, rcode] += count
        counts.update(one.counts)
        latency += one.latency
    gauges = {name: max([one.gauges.get(name, 0) for one in living], default=0) for name in GAUGES}
    gauges["tcp_open"] = sum(one.gauges.get("tcp_open", 0) for one in living)
    listed = [(*label, count) for label, count in sorted(answers.items())]
    return Stats(listed, dict(counts), gauges, latency)
