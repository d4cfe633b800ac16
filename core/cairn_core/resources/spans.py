"""Sets of whole numbers as sorted ranges: ports, and whatever else comes as RANGES.

A `Spans` is a tuple of (first, last) pairs, both ends included, sorted, and neither
overlapping nor touching, so that equal sets are equal tuples. Every operation is linear in the
number of ranges; `contains` of few ranges in many is logarithmic.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Spans: TypeAlias = tuple[Span, ...]

EMPTY: Spans = ()


def normalise(pairs: Iterable[Span]) -> Spans:
    """Sort and merge ranges that overlap or touch. Each pair must have first <= last."""
    out: list[Span] = []
    for first, last in sorted(pairs):
        if out and first <= out[-1][1] + 1:
            if last > out[-1][1]:
                out[-1] = (out[-1][0], last)
        else:
            out.append((first, last))
    return tuple(out)


def union(a: Spans, b: Spans) -> Spans:
    """Numbers in a or b."""
    if not a or not b or a == b:
        return a or b
    return normalise(chain(a, b))


def difference(a: Spans, b: Spans) -> Spans:
    """Numbers in a and not in b."""
    if not b:
        return a
    out: list[Span] = []
    at = 0
    for first, last in a:
        while at < len(b) and b[at][1] < first:
            at += 1
        look = at
        while look < len(b) and b[look][0] <= last:
            if b[look][0] > first:
                out.append((first, b[look][0] - 1))
            first = b[look][1] + 1
            look += 1
        if first <= last:
            out.append((first, last))
    return tuple(out)


def intersection(a: Spans, b: Spans) -> Spans:
    """Numbers in both."""
    out: list[Span] = []
    i = j = 0
    while i < len(a) and j < len(b):
        first, last = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if first <= last:
            out.append((first, last))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(out)


def contains(a: Spans, b: Spans) -> bool:
    """Whether every number of b is in a."""
    if a == b:
        return True
    for first, last in b:
        at = bisect_right(a, first, key=lambda span: span[0]) - 1
        if at < 0 or a[at][1] < last:
            return False
    return True


def size(spans: Spans) -> int:
    """How many numbers."""
    return sum(last - first + 1 for first, last in spans)


def text(spans: Spans) -> str:
    """`[31000-31005, 31010-31010]`, as the JSON endpoints print it."""
    return "[" + ", ".join(f"{first}-{last}" for first, last in spans) + "]"
