"""Offer constraints of a framework, decoded into what the allocator asks of each agent.

Groups are OR-ed, the constraints of a group AND-ed. A predicate over text lets an attribute of
another type pass. Source: Apache Mesos `docs/app-framework-development-guide.md` and
`src/master/allocator/mesos/offer_constraints_filter.cpp`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cairn_core.errors import RemoteError
from cairn_core.extensions import AllocAgent, Constraint
from cairn_core.linear_regex import Pattern, RegexError
from cairn_core.mesos import scheduler_api
from cairn_core.mesos.scheduler_api import AttributeConstraint, Predicate, Selector

#: Most constraints of one framework.
MAX_CONSTRAINTS = 1000

#: Looks at a value: text; True for an attribute that is no text; None for one that is absent.
_Value: TypeAlias = str | bool | None
_Test: TypeAlias = Callable[[_Value], bool]
_Read: TypeAlias = Callable[[AllocAgent], tuple[_Value, ...]]


class ConstraintError(RemoteError):
    """The constraints cannot be understood."""


@dataclass(frozen=True, slots=True)
class _One:
    """One constraint. It holds when the test holds for any of the values read."""

    read: _Read
    test: _Test

    def allows(self, agent: AllocAgent) -> bool:
        return any(self.test(value) for value in self.read(agent))


@dataclass(frozen=True, slots=True)
class RoleConstraint:
    """The constraints of one role: see `extensions.Constraint`."""

    groups: tuple[tuple[_One, ...], ...]
    per_host: bool

    def allows(self, agent: AllocAgent) -> bool:
        """Whether all constraints of some group hold; no group allows every agent."""
        return not self.groups or any(
            all(one.allows(agent) for one in group) for group in self.groups
        )


def decode_constraints(
    wire: scheduler_api.OfferConstraints | None, roles: frozenset[str]
) -> Mapping[str, Constraint]:
    """Constraints by role; raises ConstraintError."""
    if wire is None:
        return {}
    decoded: dict[str, Constraint] = {}
    count = 0
    for role, constraints in wire.role_constraints.items():
        if role not in roles:
            raise ConstraintError(f"role '{role[:200]}' is not one of the framework's")
        groups = []
        per_host = False
        for group in constraints.groups:
            count += len(group.attribute_constraints)
            if count > MAX_CONSTRAINTS:
                raise ConstraintError(f"more than {MAX_CONSTRAINTS} constraints")
            if not group.attribute_constraints:
                raise ConstraintError(f"role '{role[:200]}' has an empty group")
            groups.append(tuple(_one(c) for c in group.attribute_constraints))
            per_host |= any(
                c.selector.pseudoattribute_type == "HOSTNAME" for c in group.attribute_constraints
            )
        decoded[role] = RoleConstraint(tuple(groups), per_host)
    return decoded


def _one(constraint: AttributeConstraint) -> _One:
    return _One(_reader(constraint.selector), _test(constraint.predicate))


def _reader(selector: Selector) -> _Read:
    name, pseudo = selector.attribute_name, selector.pseudoattribute_type
    if (name is None) == (pseudo is None):
        raise ConstraintError("a selector needs exactly one of attribute and pseudoattribute")
    if name is not None:
        return lambda agent: _attributes(agent, name)
    match pseudo:
        case "HOSTNAME":
            return lambda agent: (agent.hostname,)
        case "REGION":
            return lambda agent: (agent.region,)
        case "ZONE":
            return lambda agent: (agent.zone,)
    raise ConstraintError(f"unknown pseudoattribute {str(pseudo)[:40]!r}")


def _attributes(agent: AllocAgent, name: str) -> tuple[_Value, ...]:
    """Every attribute of the name; an agent may have several."""
    found: list[_Value] = [
        attribute.text.value if attribute.text is not None else True
        for attribute in agent.attributes
        if attribute.name == name
    ]
    return tuple(found) or (None,)


def _test(predicate: Predicate) -> _Test:
    tests: list[_Test] = []
    if predicate.exists is not None:
        tests.append(lambda value: value is not None)
    if predicate.not_exists is not None:
        tests.append(lambda value: value is None)
    if (equals := predicate.text_equals) is not None:
        wanted = equals.value
        tests.append(lambda value: value is True or value == wanted)
    if (differs := predicate.text_not_equals) is not None:
        unwanted = differs.value
        tests.append(lambda value: value != unwanted)
    if (matches := predicate.text_matches) is not None:
        wanted_form = _pattern(matches.regex)
        tests.append(
            lambda value: value is True or (isinstance(value, str) and wanted_form.matches(value))
        )
    if (matches_not := predicate.text_not_matches) is not None:
        unwanted_form = _pattern(matches_not.regex)
        tests.append(lambda value: not (isinstance(value, str) and unwanted_form.matches(value)))
    if len(tests) != 1:
        raise ConstraintError(f"a predicate needs exactly one kind, not {len(tests)}")
    return tests[0]


def _pattern(regex: str) -> Pattern:
    try:
        return Pattern(regex)
    except RegexError as error:
        raise ConstraintError(str(error)) from None
