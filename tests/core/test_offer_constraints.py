"""Which agents offer constraints let through."""

import msgspec
import pytest

from cairn_core.extensions import AgentId, AllocAgent
from cairn_core.mesos.scheduler_api import OfferConstraints
from cairn_core.offer_constraints import ConstraintError, compile_constraints
from cairn_core.resources import Resources, read_attributes

AGENT = AllocAgent(
    AgentId("s1"),
    "host1.example",
    Resources.parse("cpus:1"),
    attributes=read_attributes("rack:r1;level:10"),
    region="eu",
)


def constraint(*groups: list[dict[str, object]]) -> OfferConstraints:
    role = {"groups": [{"attribute_constraints": group} for group in groups]}
    return msgspec.convert({"role_constraints": {"web": role}}, OfferConstraints)


def attribute(name: str = "rack", **predicate: object) -> dict[str, object]:
    return {"selector": {"attribute_name": name}, "predicate": predicate}


def pseudo(kind: str, **predicate: object) -> dict[str, object]:
    return {"selector": {"pseudoattribute_type": kind}, "predicate": predicate}


@pytest.mark.parametrize(
    ("one", "allowed"),
    [
        (attribute(exists={}), True),
        (attribute("zone", exists={}), False),
        (attribute(not_exists={}), False),
        (attribute("zone", not_exists={}), True),
        (attribute(text_equals={"value": "r1"}), True),
        (attribute(text_equals={"value": "r2"}), False),
        (attribute("zone", text_equals={"value": "r1"}), False),
        (attribute(text_not_equals={"value": "r1"}), False),
        (attribute("zone", text_not_equals={"value": "r1"}), True),
        (attribute(text_matches={"regex": "r[0-9]"}), True),
        (attribute(text_matches={"regex": "r"}), False),
        (attribute("zone", text_matches={"regex": ".*"}), False),
        (attribute(text_not_matches={"regex": "r[0-9]"}), False),
        (attribute("zone", text_not_matches={"regex": ".*"}), True),
        (attribute("level", text_equals={"value": "x"}), True),
        (attribute("level", text_not_equals={"value": "x"}), True),
        (attribute("level", text_matches={"regex": "x"}), True),
        (attribute("level", text_not_matches={"regex": "x"}), True),
        (pseudo("HOSTNAME", text_matches={"regex": "host1[.].*"}), True),
        (pseudo("REGION", text_equals={"value": "eu"}), True),
        (pseudo("ZONE", exists={}), False),
    ],
)
def test_one_predicate(one: dict[str, object], allowed: bool) -> None:
    assert compile_constraints(constraint([one]))["web"].allows(AGENT) is allowed


def test_groups_are_alternatives_of_constraints_that_all_hold() -> None:
    yes, no = attribute(exists={}), attribute("zone", exists={})
    assert compile_constraints(constraint([yes, no], [yes]))["web"].allows(AGENT)
    assert not compile_constraints(constraint([yes, no], [no]))["web"].allows(AGENT)
    assert compile_constraints(constraint())["web"].allows(AGENT)
    assert compile_constraints(None) == {}


def test_only_host_names_make_a_constraint_depend_on_the_host() -> None:
    assert compile_constraints(constraint([pseudo("HOSTNAME", exists={})]))["web"].per_host
    assert not compile_constraints(constraint([pseudo("REGION", exists={})]))["web"].per_host


def test_equal_constraints_are_equal_once_compiled() -> None:
    one = constraint([attribute(text_matches={"regex": "a+"})])
    other = constraint([attribute(text_matches={"regex": "b+"})])
    assert compile_constraints(one) == compile_constraints(one)
    assert compile_constraints(one) != compile_constraints(other)


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        ([[]], "no constraint"),
        ([[{"selector": {}, "predicate": {"exists": {}}}]], "selector"),
        ([[attribute()]], "0 predicates"),
        ([[attribute(exists={}, not_exists={})]], "2 predicates"),
        ([[pseudo("PLANET", exists={})]], "PLANET"),
        ([[attribute(text_matches={"regex": "("})]], "malformed"),
        ([[attribute(exists={})]] * 1001, "1001 groups"),
        ([[attribute(exists={})] * 10_001], "more than 10000"),
    ],
)
def test_what_makes_no_sense_is_refused(groups: list[list[dict[str, object]]], fault: str) -> None:
    with pytest.raises(ConstraintError, match=fault) as caught:
        compile_constraints(constraint(*groups))
    assert caught.value.role == "web"
