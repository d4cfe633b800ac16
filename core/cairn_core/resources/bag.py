"""The mutable form in which amounts are collected, before they become `Resources`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cairn_core.resources import spans
from cairn_core.resources.kinds import Kind
from cairn_core.resources.spans import Spans


@dataclass(slots=True)
class Bag:
    """Amounts per kind. Empty amounts are never stored."""

    scalars: dict[Kind, int] = field(default_factory=dict)
    ranges: dict[Kind, Spans] = field(default_factory=dict)
    sets: dict[Kind, frozenset[str]] = field(default_factory=dict)

    def add_scalar(self, kind: Kind, amount: int) -> None:
        """Add thousandths, or a count for a kind with a unit."""
        if amount:
            self.scalars[kind] = self.scalars.get(kind, 0) + amount

    def add_ranges(self, kind: Kind, more: Spans) -> None:
        """Unite ranges."""
        if more:
            self.ranges[kind] = spans.union(self.ranges.get(kind, spans.EMPTY), more)

    def add_set(self, kind: Kind, words: frozenset[str]) -> None:
        """Unite sets."""
        if words:
            self.sets[kind] = self.sets.get(kind, frozenset()) | words

    def add(
        self,
        scalars: Mapping[Kind, int],
        ranges: Mapping[Kind, Spans],
        sets: Mapping[Kind, frozenset[str]],
    ) -> None:
        """Add all of another bag."""
        mine = self.scalars
        for kind, amount in scalars.items():
            mine[kind] = mine.get(kind, 0) + amount
        for kind, more in ranges.items():
            self.add_ranges(kind, more)
        for kind, words in sets.items():
            self.add_set(kind, words)
