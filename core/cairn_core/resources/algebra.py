"""`Resources`: an immutable bag of resources with exact arithmetic.

Scalars are whole thousandths, so `0.1 + 0.2 == 0.3`; ranges are sorted spans; sets are
frozensets. Amounts add up only within one kind (see `kinds`). Source of the rules: Apache Mesos
`docs/attributes-resources.md` and `src/common/resources.cpp`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType

from cairn_core.mesos import types
from cairn_core.resources import spans, text, wire
from cairn_core.resources.bag import Bag
from cairn_core.resources.errors import ResourceError
from cairn_core.resources.kinds import Kind, Reservation, is_whole
from cairn_core.resources.spans import Spans
from cairn_core.roles import DEFAULT_ROLE

_NO_SCALARS: Mapping[Kind, int] = MappingProxyType({})
_NO_RANGES: Mapping[Kind, Spans] = MappingProxyType({})
_NO_SETS: Mapping[Kind, frozenset[str]] = MappingProxyType({})


class Resources:
    """An immutable value; `+`, `-`, `==`, `hash`, truth value, iteration over kinds.

    `a + b` of ranges and sets is their union. So `(a + b) - b == a` holds when a and b share no
    port, which is so for the resources of one agent; a sum over several agents is good for
    display and for `quantities`, not for taking parts off again.

    Invariant: no empty amount is stored, so equal bags have equal dictionaries.
    """

    __slots__ = ("_hash", "_quantities", "_ranges", "_scalars", "_sets")

    _scalars: Mapping[Kind, int]
    _ranges: Mapping[Kind, Spans]
    _sets: Mapping[Kind, frozenset[str]]
    _quantities: Mapping[str, int] | None
    _hash: int | None

    def __init__(
        self,
        scalars: Mapping[Kind, int] = _NO_SCALARS,
        ranges: Mapping[Kind, Spans] = _NO_RANGES,
        sets: Mapping[Kind, frozenset[str]] = _NO_SETS,
    ) -> None:
        """From dictionaries without empty amounts, which must not be changed afterwards."""
        self._scalars = scalars
        self._ranges = ranges
        self._sets = sets
        self._quantities = None
        self._hash = None

    # Making them

    @classmethod
    def from_wire(cls, resources: Iterable[types.Resource]) -> "Resources":
        """Validate and read wire resources, in the form before or after refinement.

        Amounts of one kind are added up, and zero amounts dropped. `allocation_info` is not
        part of the value. Raises ResourceError.
        """
        return cls._of(wire.read(resources))

    @classmethod
    def parse(cls, source: str, default_role: str = DEFAULT_ROLE) -> "Resources":
        """Read the agent's `--resources`: `cpus:2;mem:1024;ports:[31000-32000];cpus(role):1`,
        or a JSON list of wire resources.

        default_role: reserves (statically) what names no role, unless it is `*`.
        Raises ResourceError.
        """
        return cls.from_wire(text.read(source, default_role))

    @classmethod
    def scalars(cls, **amounts: int) -> "Resources":
        """Unreserved scalars in thousandths: `Resources.scalars(cpus=1500, mem=32_000)`."""
        return cls({Kind.plain(name): amount for name, amount in amounts.items() if amount})

    @classmethod
    def from_quantities(cls, amounts: Mapping[str, int]) -> "Resources":
        """Unreserved scalars in thousandths, by name."""
        return cls({Kind.plain(name): amount for name, amount in amounts.items() if amount > 0})

    @classmethod
    def sum(cls, parts: Iterable["Resources"]) -> "Resources":
        """Add up many, in time linear in their number."""
        bag = Bag()
        spans_of: dict[Kind, list[Spans]] = {}
        for part in parts:
            bag.add(part._scalars, {}, part._sets)
            for kind, more in part._ranges.items():
                spans_of.setdefault(kind, []).append(more)
        for kind, found in spans_of.items():
            bag.add_ranges(kind, spans.normalise(chain.from_iterable(found)))
        return cls._of(bag)

    @classmethod
    def _of(cls, bag: Bag) -> "Resources":
        return cls(bag.scalars, bag.ranges, bag.sets)

    # Arithmetic

    def __add__(self, other: "Resources") -> "Resources":
        if not other:
            return self
        if not self:
            return other
        bag = Bag(dict(self._scalars), dict(self._ranges), dict(self._sets))
        bag.add(other._scalars, other._ranges, other._sets)
        return Resources._of(bag)

    def __sub__(self, other: "Resources") -> "Resources":
        """What is left; raises ResourceError unless `self` contains `other`."""
        if not other:
            return self
        if not self.contains(other):
            raise ResourceError("resources", other, f"is not contained in {self}")
        return self.minus_common(other)

    def contains(self, other: "Resources") -> bool:
        """Whether `other` could be taken out of `self`."""
        mine = self._scalars
        for kind, amount in other._scalars.items():
            if mine.get(kind, 0) < amount:
                return False
        for kind, wanted in other._ranges.items():
            if not spans.contains(self._ranges.get(kind, spans.EMPTY), wanted):
                return False
        none: frozenset[str] = frozenset()
        return all(items <= self._sets.get(kind, none) for kind, items in other._sets.items())

    def minus_common(self, other: "Resources") -> "Resources":
        """What is left after taking off what of `other` is there; never raises."""
        scalars = {
            kind: left
            for kind, amount in self._scalars.items()
            if (left := amount - other._scalars.get(kind, 0)) > 0
        }
        ranges = self._ranges
        if other._ranges:
            ranges = {
                kind: rest
                for kind, have in ranges.items()
                if (rest := spans.difference(have, other._ranges.get(kind, spans.EMPTY)))
            }
        sets = self._sets
        if other._sets:
            sets = {
                kind: words
                for kind, items in sets.items()
                if (words := items - other._sets.get(kind, frozenset()))
            }
        return Resources(scalars, ranges, sets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Resources):
            return NotImplemented
        return self is other or (
            self._scalars == other._scalars
            and self._ranges == other._ranges
            and self._sets == other._sets
        )

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(
                (
                    frozenset(self._scalars.items()),
                    frozenset(self._ranges.items()),
                    frozenset(self._sets.items()),
                )
            )
        return self._hash

    def __bool__(self) -> bool:
        return bool(self._scalars or self._ranges or self._sets)

    def __iter__(self) -> Iterator[Kind]:
        yield from self._scalars
        yield from self._ranges
        yield from self._sets

    # Reading them

    def scalar(self, name: str) -> int:
        """Thousandths of a scalar, all kinds of that name together."""
        return self.quantities().get(name, 0)

    def ranges(self, name: str) -> Spans:
        """All numbers of a ranges resource, for instance of `ports`."""
        out = spans.EMPTY
        for kind, have in self._ranges.items():
            if kind.name == name:
                out = spans.union(out, have)
        return out

    def items(self, name: str) -> frozenset[str]:
        """All words of a set resource."""
        return frozenset().union(*(have for kind, have in self._sets.items() if kind.name == name))

    def quantities(self) -> Mapping[str, int]:
        """Thousandths per scalar name, whatever the kind; a shared volume counts once."""
        if self._quantities is None:
            out: dict[str, int] = {}
            for kind, amount in self._scalars.items():
                if kind.unit:
                    amount = kind.unit if kind.shared else kind.unit * amount
                out[kind.name] = out.get(kind.name, 0) + amount
            self._quantities = MappingProxyType(out)
        return self._quantities

    def scalar_kinds(self) -> Mapping[Kind, int]:
        """Kinds of scalars with their amounts; see `Kind.unit` for what the amount counts."""
        return self._scalars

    def volumes(self) -> dict[str, "Resources"]:
        """Persistent volumes by id."""
        out: dict[str, Resources] = {}
        for kind, count in self._scalars.items():
            if kind.volume_id is not None:
                out[kind.volume_id] = Resources({kind: count})
        return out

    # Parts of them

    def filter(self, keep: Callable[[Kind], bool]) -> "Resources":
        """Only the kinds that `keep` says yes to."""
        return Resources(
            {kind: amount for kind, amount in self._scalars.items() if keep(kind)},
            {kind: have for kind, have in self._ranges.items() if keep(kind)},
            {kind: have for kind, have in self._sets.items() if keep(kind)},
        )

    def named(self, *names: str) -> "Resources":
        """Only these names."""
        return self.filter(lambda kind: kind.name in names)

    def without(self, *names: str) -> "Resources":
        """All but these names, for instance `without("gpus")`."""
        return self.filter(lambda kind: kind.name not in names)

    def without_gpus(self) -> "Resources":
        """All but GPUs."""
        return self.without("gpus")

    def unreserved(self) -> "Resources":
        """What no role has reserved."""
        return self.filter(lambda kind: not kind.reservations)

    def reserved(self) -> "Resources":
        """What some role has reserved."""
        return self.filter(lambda kind: bool(kind.reservations))

    def reserved_to(self, role: str) -> "Resources":
        """What is reserved to exactly this role."""
        return self.filter(lambda kind: bool(kind.reservations) and kind.role == role)

    def allocatable_to(self, role: str) -> "Resources":
        """What may be offered to a role: unreserved, or reserved to it or to a role above it."""
        return self.filter(lambda kind: kind.usable_by(role))

    def reservations(self) -> Mapping[str, "Resources"]:
        """What is reserved, by role."""
        return {role: self.reserved_to(role) for role in {k.role for k in self if k.reservations}}

    def scalars_only(self) -> "Resources":
        """Without ranges and sets."""
        return Resources(self._scalars)

    def non_scalars(self) -> "Resources":
        """Ranges and sets."""
        return Resources(_NO_SCALARS, self._ranges, self._sets)

    def revocable(self) -> "Resources":
        """What may be taken back at any time."""
        return self.filter(lambda kind: kind.revocable)

    def non_revocable(self) -> "Resources":
        """What may not be taken back."""
        return self.filter(lambda kind: not kind.revocable)

    def shared(self) -> "Resources":
        """What several tasks may use at once."""
        return self.filter(lambda kind: kind.shared)

    def non_shared(self) -> "Resources":
        """What only one user can have."""
        return self.filter(lambda kind: not kind.shared)

    def refined(self) -> "Resources":
        """What carries more than one reservation."""
        return self.filter(lambda kind: len(kind.reservations) > 1)

    # Operations of frameworks and operators

    def map_kinds(self, change: Callable[[Kind], Kind]) -> "Resources":
        """The same amounts with other kinds; amounts whose kinds fall together are added."""
        bag = Bag()
        for kind, amount in self._scalars.items():
            new = change(kind)
            if bool(new.unit) != bool(kind.unit):
                amount = amount * kind.unit if kind.unit else amount // new.unit
            bag.add_scalar(new, amount)
        for kind, have in self._ranges.items():
            bag.add_ranges(change(kind), have)
        for kind, words in self._sets.items():
            bag.add_set(change(kind), words)
        return Resources._of(bag)

    def push_reservation(self, reservation: Reservation) -> "Resources":
        """Reserve all of it one level further."""
        return self.map_kinds(
            lambda kind: kind.with_(reservations=(*kind.reservations, reservation))
        )

    def pop_reservation(self) -> "Resources":
        """Take the last reservation off; raises ResourceError where there is none."""
        bare = self.unreserved()
        if bare:
            raise ResourceError("resources", bare, "is not reserved")
        return self.map_kinds(lambda kind: kind.with_(reservations=kind.reservations[:-1]))

    def without_volumes(self) -> "Resources":
        """The disk that persistent volumes are made of: what CREATE takes and DESTROY gives
        back.
        """

        def plain(kind: Kind) -> Kind:
            if kind.volume_id is None or kind.disk is None:
                return kind
            source = kind.disk.source
            disk = types.DiskInfo(source=source) if source is not None else None
            whole = is_whole(disk, False)
            return kind.with_(
                disk=disk, keep_disk=False, shared=False, unit=kind.unit if whole else 0
            )

        return self.map_kinds(plain)

    # Printing them

    def to_wire(
        self, refined: bool = True, allocation_role: str | None = None
    ) -> list[types.Resource]:
        """Wire form, in a stable order.

        refined: with `reservations`; else the older `role` and `reservation`, which raises
            ResourceError for refined reservations (strip `refined()` first).
        allocation_role: put as `allocation_info` into each.
        """
        form = wire.REFINED if refined else wire.UNREFINED
        return wire.write(self._scalars, self._ranges, self._sets, form, allocation_role)

    def to_endpoint_wire(self) -> list[types.Resource]:
        """Wire form of the JSON endpoints (`*_full`): both forms side by side."""
        return wire.write(self._scalars, self._ranges, self._sets, wire.ENDPOINT, None)

    def endpoint(self) -> dict[str, float | str]:
        """The resources object of `/state`: cpus, gpus, mem and disk are always there."""
        return text.endpoint(self._scalars, self._ranges, self._sets)

    def __str__(self) -> str:
        return text.show(self._scalars, self._ranges, self._sets)

    def __repr__(self) -> str:
        return f"Resources({self})"
