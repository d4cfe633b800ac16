"""Offer constraints: which agents a role of a framework wants to be offered.

`OfferConstraints` arrive with SUBSCRIBE and UPDATE_FRAMEWORK. Groups of a role are alternatives;
all constraints of a group must hold. `compile_constraints` turns them into the `Constraint` of
`cairn_core.extensions`, or says what is wrong with them. Source: Apache Mesos
`docs/scheduler-http-api.md` and `src/master/allocator/mesos/offer_constraints_filter.cpp`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cairn_core.errors import RemoteError, shorten
from cairn_core.extensions import AllocAgent
from cairn_core.mesos.scheduler_api import AttributeConstraint, OfferConstraints, Predicate
from cairn_core.regular import Pattern, PatternError

#: Bounds on what one framework may make us evaluate.
MAX_ROLES = 1000
MAX_GROUPS = 1000
MAX_CONSTRAINTS = 10_000

_PREDICATES = (
    "exists", "not_exists", "text_equals", "text_not_equals", "text_matches", "text_not_matches",
)  # fmt: skip
_PSEUDO = frozenset({"HOSTNAME", "REGION", "ZONE"})

#: A value as a predicate sees it: a text, None when the agent has none, or OTHER.
Value: TypeAlias = "str | _Other | None"


class ConstraintError(RemoteError):
    """Offer constraints that make no sense.

    role: the role whose constraints they are.
    """

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(f"offer constraints of role {shorten(role)!r}: {reason}")
        self.role = role


class _Other:
    """The value of an attribute that is no text."""


OTHER = _Other()


@dataclass(frozen=True, slots=True)
class Test:
    """One predicate over one attribute (or, when `pseudo`, host name, region or zone).

    `value` is the wire form of the predicate; equal tests are equal, compiled or not.
    """

    __test__ = False  # not a test case, whatever its name makes test runners think

    name: str
    pseudo: bool
    predicate: Predicate
    holds: Callable[[Value], bool]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Test):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return (self.name, self.pseudo, self.predicate)


@dataclass(frozen=True, slots=True)
class RoleConstraint:
    """The constraints of one role: groups of tests, of which one must hold as a whole.

    A role with no group at all lets every agent through.
    """

    groups: tuple[tuple[Test, ...], ...]

    @property
    def per_host(self) -> bool:
        """Whether any test looks at the host name."""
        return any(t.pseudo and t.name == "HOSTNAME" for group in self.groups for t in group)

    def allows(self, agent: AllocAgent) -> bool:
        """Whether one group holds as a whole."""
        if not self.groups:
            return True
        return any(all(test.holds(_value(agent, test)) for test in group) for group in self.groups)


def _value(agent: AllocAgent, test: Test) -> Value:
    if test.pseudo:
        return {"HOSTNAME": agent.hostname, "REGION": agent.region, "ZONE": agent.zone}[test.name]
    for attribute in agent.attributes:
        if attribute.name == test.name:
            return attribute.text.value if attribute.text is not None else OTHER
    return None


def compile_constraints(constraints: OfferConstraints | None) -> Mapping[str, RoleConstraint]:
    """Constraints per role. Raises ConstraintError, which names the role and the fault."""
    if constraints is None:
        return {}
    roles = constraints.role_constraints
    if len(roles) > MAX_ROLES:
        raise ConstraintError("*", f"{len(roles)} roles are more than {MAX_ROLES}")
    budget = MAX_CONSTRAINTS
    out = {}
    for role, given in roles.items():
        if len(given.groups) > MAX_GROUPS:
            raise ConstraintError(role, f"{len(given.groups)} groups are more than {MAX_GROUPS}")
        groups = []
        for group in given.groups:
            budget -= len(group.attribute_constraints)
            if budget < 0:
                raise ConstraintError(role, f"more than {MAX_CONSTRAINTS} constraints")
            if not group.attribute_constraints:
                raise ConstraintError(role, "a group has no constraint")
            groups.append(tuple(_test(role, one) for one in group.attribute_constraints))
        out[role] = RoleConstraint(tuple(groups))
    return out


def _test(role: str, given: AttributeConstraint) -> Test:
    selector, predicate = given.selector, given.predicate
    pseudo = selector.pseudoattribute_type
    if (pseudo is None) == (selector.attribute_name is None):
        raise ConstraintError(role, "a selector needs either attribute_name or a pseudoattribute")
    if pseudo is not None and pseudo not in _PSEUDO:
        raise ConstraintError(role, f"unknown pseudoattribute {shorten(pseudo)!r}")
    name = pseudo if pseudo is not None else selector.attribute_name
    assert name is not None
    given_names = [field for field in _PREDICATES if getattr(predicate, field) is not None]
    if len(given_names) != 1:
        raise ConstraintError(role, f"{len(given_names)} predicates where one is needed")
    return Test(name, pseudo is not None, predicate, _holds(role, predicate))


def _holds(role: str, predicate: Predicate) -> Callable[[Value], bool]:
    """The predicate as a function. What is no text satisfies every predicate over texts; what
    is absent satisfies only the negative ones.
    """
    if predicate.exists is not None:
        return lambda value: value is not None
    if predicate.not_exists is not None:
        return lambda value: value is None
    if predicate.text_equals is not None:
        wanted = predicate.text_equals.value
        return lambda value: value == wanted if isinstance(value, str) else value is OTHER
    if predicate.text_not_equals is not None:
        unwanted = predicate.text_not_equals.value
        return lambda value: value != unwanted
    if predicate.text_matches is not None:
        pattern = _pattern(role, predicate.text_matches.regex)
        return lambda value: pattern.matches(value) if isinstance(value, str) else value is OTHER
    assert predicate.text_not_matches is not None
    avoided = _pattern(role, predicate.text_not_matches.regex)
    return lambda value: not avoided.matches(value) if isinstance(value, str) else True


def _pattern(role: str, regex: str) -> Pattern:
    try:
        return Pattern(regex)
    except PatternError as error:
        raise ConstraintError(role, str(error)) from None
