"""Where instances may be placed: the constraint operators, on offers and on what is placed.

A constraint is `[field, operator, value?]`; a field is `hostname`, `@region`, `@zone`, or the name
of an agent's attribute. Source: the released Marathon's constraint rules. GROUP_BY is the
released algorithm (the smallest group, or a new one); the unreleased one differs.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import TypeVar

from cairn_core.linear_regex import Pattern, RegexError
from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import Attribute

T = TypeVar("T")

UNIQUE, CLUSTER, GROUP_BY, LIKE = "UNIQUE", "CLUSTER", "GROUP_BY", "LIKE"
UNLIKE, MAX_PER, IS = "UNLIKE", "MAX_PER", "IS"
OPERATORS = (UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, UNLIKE, IS)
HOSTNAME_FIELDS = ("hostname", "@hostname")
REGION, ZONE = "@region", "@zone"
_LITERAL = re.compile(r"^[a-zA-Z0-9_/.-]*$")
_FLOAT = re.compile(r"^[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]{1,3})?$")
_WHOLE = re.compile(r"^-?[0-9]{1,9}$")


def constraint_faults(constraint: Sequence[str]) -> list[str]:
    """What is wrong with a constraint, as texts for a validation error."""
    if len(constraint) not in (2, 3):
        return ["Each constraint must have either 2 or 3 fields"]
    name, operator = constraint[0], constraint[1]
    value = constraint[2] if len(constraint) == 3 else None
    if not name:
        return ["missing field for constraint declaration"]
    if operator not in OPERATORS:
        return [
            "operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, "
            "UNLIKE or IS"
        ]
    match operator:
        case "UNIQUE" if value:
            return ["UNIQUE does not accept a value"]
        case "GROUP_BY" if value and not _WHOLE.match(value):
            return ["GROUP BY must define an integer value or else no value at all"]
        case "MAX_PER" if not value or not _WHOLE.match(value):
            return ["MAX_PER requires an integer value"]
        case "LIKE" | "UNLIKE" if not value:
            return ["LIKE and UNLIKE require a non-empty, regular expression value"]
        case "LIKE" | "UNLIKE" if value is not None and _compiled(value) is None:
            return ["is not a valid regular expression"]
        case "IS" if not value or not _LITERAL.match(value):
            return [
                "IS only supports Mesos text and float values (see "
                "http://mesos.apache.org/documentation/latest/attributes-resources/)"
            ]
    return []


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Pattern | None:
    """The regular expression, None if it is none.

    Differs: look-around and back-references, which Java knows, are refused; a pattern of a stranger
    must not stop us (`cairn_core.linear_regex`).
    """
    try:
        return Pattern(pattern)
    except RegexError:
        return None


def number_text(value: float) -> str:
    """A number with at most three decimals, half to even, without trailing zeros."""
    rounded = Decimal(repr(value)).quantize(Decimal("0.001"), rounding=ROUND_HALF_EVEN)
    text = f"{rounded:f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def attribute_text(attribute: Attribute) -> str:
    """An attribute as constraints compare it."""
    if attribute.text is not None:
        return attribute.text.value
    if attribute.scalar is not None:
        return number_text(attribute.scalar.value)
    if attribute.ranges is not None:
        spans = sorted((r.begin, r.end) for r in attribute.ranges.range)
        return "[" + ",".join(f"{first}-{last}" for first, last in spans) + "]"
    if attribute.set is not None:
        return "{" + ",".join(sorted(attribute.set.item)) + "}"
    return ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an offer is, or an instance was put: all that constraints look at.

    attributes: name to text, as `attribute_text` gives it.
    """

    hostname: str
    region: str | None = None
    zone: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str | None:
        """The value of a constraint's field, None where the agent has none."""
        if name in HOSTNAME_FIELDS:
            return self.hostname
        if name == REGION:
            return self.region
        if name == ZONE:
            return self.zone
        return self.attributes.get(name)


def place_of(offer: Offer) -> Place:
    """The place of an offer."""
    domain = offer.domain.fault_domain if offer.domain is not None else None
    return Place(
        hostname=offer.hostname,
        region=domain.region.name if domain is not None else None,
        zone=domain.zone.name if domain is not None else None,
        attributes={a.name: attribute_text(a) for a in offer.attributes},
    )


def satisfied(constraint: Sequence[str], offer: Place, placed: Iterable[Place]) -> bool:
    """Whether an instance may go where the offer is, given where its fellows are.

    placed: instances of the same app and configuration that are not terminal, oldest first.
    The constraint must be valid (`constraint_faults`).
    """
    name, operator = constraint[0], constraint[1]
    value = constraint[2] if len(constraint) == 3 else ""
    here = offer.value(name)
    if here is None:
        return operator == UNLIKE
    match operator:
        case "LIKE" | "UNLIKE":
            pattern = _compiled(value)
            found = pattern is not None and pattern.matches(here)
            return found == (operator == LIKE)
        case "IS":
            return _is(here, value)
        case "CLUSTER" if value:
            return here == value
        case "CLUSTER":
            first = next(iter(placed), None)
            return first is None or first.value(name) == here
    taken = [v for v in (p.value(name) for p in placed) if v is not None]
    match operator:
        case "UNIQUE":
            return here not in taken
        case "MAX_PER":
            return taken.count(here) < int(value)
        case "GROUP_BY":
            return _group_by(here, taken, int(value) if value else 0)
    raise AssertionError(f"operator {operator!r} passed validation")


def _is(here: str, value: str) -> bool:
    """Equality; numbers are compared as they print."""
    if _FLOAT.match(value) and _FLOAT.match(here):
        return number_text(float(value)) == number_text(float(here))
    return here == value


def _group_by(here: str, taken: Sequence[str], groups: int) -> bool:
    """A new group is fine; an old one only if all groups are known and it is a smallest."""
    counts = Counter(taken)
    if here not in counts:
        return True
    return len(counts) >= groups and counts[here] == min(counts.values())


def unsatisfied(
    constraints: Iterable[Sequence[str]], offer: Place, placed: Sequence[Place]
) -> Sequence[str] | None:
    """The first constraint that an offer does not meet, None if it meets all."""
    for constraint in constraints:
        if not satisfied(constraint, offer, placed):
            return constraint
    return None


def looks_at_domain(constraints: Iterable[Sequence[str]]) -> bool:
    """Whether a constraint names the region or the zone: only then other regions are used."""
    return any(c[0] in (REGION, ZONE) for c in constraints)


def surplus(
    constraints: Iterable[Sequence[str]],
    running: Sequence[T],
    place: Callable[[T], Place],
    count: int,
) -> list[T]:
    """Up to `count` instances whose end keeps every GROUP_BY balanced, in order of removal.

    running: candidates in order of preference. Of each grouping, an instance of a largest group
    goes first. With several groupings an instance must suit all of them; where none does, fewer
    are given. Empty without GROUP_BY.
    """
    fields = [c[0] for c in constraints if c[1] == GROUP_BY]
    if not fields or count <= 0:
        return []
    left = list(running)
    counts = [Counter(place(i).value(name) for i in left) for name in fields]
    chosen: list[T] = []
    while left and len(chosen) < count:
        largest = [max(c.values()) for c in counts]
        best = max(
            left,
            key=lambda i: sum(
                c[place(i).value(name)] == top
                for c, top, name in zip(counts, largest, fields, strict=True)
            ),
        )
        if any(
            c[place(best).value(name)] < top
            for c, top, name in zip(counts, largest, fields, strict=True)
        ):
            break
        left.remove(best)
        chosen.append(best)
        for c, name in zip(counts, fields, strict=True):
            value = place(best).value(name)
            c[value] -= 1
            if not c[value]:
                # An empty group is no group any more, and the next size counts as the smallest.
                del c[value]
    return chosen
