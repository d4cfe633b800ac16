"""Where instances go: constraints, offers, ports."""

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import (
    AgentID,
    AllocationInfo,
    Attribute,
    DomainInfo,
    FaultDomain,
    FrameworkID,
    NameInfo,
    OfferID,
    Range,
    Ranges,
    Scalar,
    Text,
    TimeInfo,
    Unavailability,
    ValueSet,
)
from cairn_core.resources import Kind, Resources
from cairn_scheduler.marathon import legacy_app, normalize, ports
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.constraints import Place, attribute_text, place_of, satisfied, surplus
from cairn_scheduler.marathon.matcher import (
    Match,
    MatchRules,
    Need,
    NoMatch,
    Offered,
    Reason,
    match,
    needs,
    obstacle,
)
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.ports import PortRange


def at(zone: str | None, host: str = "h") -> Place:
    """A place with an attribute."""
    return Place(host, attributes={} if zone is None else {"zone": zone})


@pytest.mark.parametrize(
    ("constraint", "here", "placed", "expected"),
    [
        (("zone", "UNIQUE"), "a", "b", True),
        (("zone", "UNIQUE"), "a", "ab", False),
        (("zone", "CLUSTER"), "a", "", True),
        (("zone", "CLUSTER"), "a", "a", True),
        (("zone", "CLUSTER"), "b", "a", False),
        (("zone", "CLUSTER", "a"), "a", "b", True),
        (("zone", "CLUSTER", "a"), "b", "b", False),
        (("zone", "LIKE", "a|b+"), "bb", "", True),
        (("zone", "LIKE", "b"), "bb", "", False),
        (("zone", "UNLIKE", "b+"), "bb", "", False),
        (("zone", "UNLIKE", "b"), "bb", "", True),
        (("zone", "MAX_PER", "2"), "a", "ab", True),
        (("zone", "MAX_PER", "2"), "a", "aba", False),
        (("zone", "IS", "a"), "a", "", True),
        (("zone", "IS", "1.0"), "1", "", True),
        (("zone", "IS", "1.0004"), "1", "", True),
        (("zone", "IS", "1.001"), "1", "", False),
        (("zone", "IS", "a"), "A", "", False),
        (("zone", "GROUP_BY"), "a", "", True),
        (("zone", "GROUP_BY"), "a", "a", True),
        (("zone", "GROUP_BY"), "b", "aa", True),
        (("zone", "GROUP_BY"), "a", "aab", False),
        (("zone", "GROUP_BY"), "b", "aab", True),
        (("zone", "GROUP_BY", "3"), "a", "ab", False),
        (("zone", "GROUP_BY", "3"), "c", "ab", True),
        (("zone", "GROUP_BY", "3"), "a", "abc", True),
        (("zone", "GROUP_BY", "3"), "a", "aabc", False),
    ],
)
def test_operators(constraint: tuple[str, ...], here: str, placed: str, expected: bool) -> None:
    assert satisfied(constraint, at(here), [at(zone) for zone in placed]) is expected


@pytest.mark.parametrize(
    "constraint",
    [("zone", "UNIQUE"), ("zone", "CLUSTER"), ("zone", "LIKE", ".*"), ("zone", "GROUP_BY"),
     ("zone", "MAX_PER", "9"), ("zone", "IS", "a")],
)  # fmt: skip
def test_only_unlike_is_met_where_the_attribute_is_missing(constraint: tuple[str, ...]) -> None:
    assert not satisfied(constraint, at(None), [])
    assert satisfied(("zone", "UNLIKE", ".*"), at(None), [])


def test_hostname_and_domain_are_fields() -> None:
    here = Place("host1", region="r", zone="z")
    for name, value in (("hostname", "host1"), ("@hostname", "host1"), ("@region", "r")):
        assert satisfied((name, "IS", value), here, [])
    assert not satisfied(("@zone", "UNIQUE"), here, [here])


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        (Attribute("a", "TEXT", text=Text("x y")), "x y"),
        (Attribute("a", "SCALAR", scalar=Scalar(1.0)), "1"),
        (Attribute("a", "SCALAR", scalar=Scalar(0.1 + 0.2)), "0.3"),
        (Attribute("a", "SCALAR", scalar=Scalar(0.0005)), "0"),
        (Attribute("a", "SCALAR", scalar=Scalar(0.0015)), "0.002"),
        (Attribute("a", "RANGES", ranges=Ranges((Range(5, 9), Range(1, 3)))), "[1-3,5-9]"),
        (Attribute("a", "SET", set=ValueSet(("b", "a"))), "{a,b}"),
    ],
)
def test_attributes_as_text(attribute: Attribute, expected: str) -> None:
    assert attribute_text(attribute) == expected


def test_surplus_is_taken_from_the_largest_groups() -> None:
    zones = ["a", "a", "a", "b", "c"]
    assert surplus([("zone", "GROUP_BY")], list(range(5)), lambda i: at(zones[i]), 3) == [0, 1, 2]
    assert surplus([("zone", "UNIQUE")], list(range(5)), lambda i: at(zones[i]), 3) == []


RANGE = PortRange(Kind("ports"), 31000, 31009)
OTHER = PortRange(Kind("ports"), 40000, 40004)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def numbers(found: Any) -> list[int | None]:
    """Ports without their kinds."""
    assert found is not None
    return [None if f is None else f[1] for f in found]


@CALM
@given(st.integers(0, 15), st.integers(0, 1 << 32))
def test_random_ports_are_distinct_and_offered(count: int, seed: int) -> None:
    found = numbers(ports.choose([0] * count, [RANGE, OTHER], Random(seed)))
    assert len(set(found)) == count
    assert set(found) <= {*range(31000, 31010), *range(40000, 40005)}


def test_random_ports_lie_together_and_differ_between_tasks() -> None:
    wide = PortRange(Kind("ports"), 1, 60000)
    first = {numbers(ports.choose([0, 0], [wide], Random(seed)))[0] for seed in range(20)}
    assert len(first) > 15
    found = numbers(ports.choose([0, 0, 0], [wide], Random(1)))
    assert found[1] == (found[0] or 0) % 60000 + 1


def test_too_few_ports_are_no_match() -> None:
    assert ports.choose([0] * 11, [RANGE], Random(1)) is None
    assert ports.choose([30999], [RANGE], Random(1)) is None
    assert ports.choose([], [], Random(1)) == ()


@CALM
@given(st.integers(0, 1 << 32))
def test_fixed_ports_are_not_given_out_at_random(seed: int) -> None:
    wanted: list[int | None] = [*(0 for _ in range(8)), 31003, None, 31004]
    found = numbers(ports.choose(wanted, [RANGE], Random(seed)))
    assert found[8:] == [31003, None, 31004]
    assert len({p for p in found if p is not None}) == 10


def app(**keys: Any) -> App:
    """A complete app."""
    update = legacy_app.read_app({"id": "a", "cmd": "sleep 9"} | keys)
    return normalize.complete(update, "/a", Defaults())


def offer(resources: str = "cpus:4;mem:4096;disk:1000;ports:[31000-31009]", **keys: Any) -> Offer:
    """An offer of these resources."""
    return Offer(
        id=OfferID("o"),
        framework_id=FrameworkID("f"),
        agent_id=AgentID("S1"),
        hostname="host1",
        resources=tuple(Resources.parse(resources).to_wire()),
        **keys,
    )


def tried(
    wanted: App, given_offer: Offer, rules: MatchRules | None = None, *placed: Place
) -> Match | NoMatch:
    """Try an offer."""
    rules = rules or MatchRules()
    return match(wanted, Offered.of(given_offer), placed, rules, Random(7), wall=100.0)


def test_good_offer_gives_resources_and_ports() -> None:
    found = tried(app(cpus=0.5, mem=64, ports=[0, 0]), offer())
    assert isinstance(found, Match)
    assert len(found.host_ports) == 2
    assert found.resources.scalar("cpus") == 500
    assert found.resources.scalar("mem") == 64_000
    assert found.resources.scalar("disk") == 0
    left = Offered.of(offer()).less(found.resources)
    assert left.resources.scalar("cpus") == 3500


def domain(region: str) -> DomainInfo:
    """A fault domain."""
    return DomainInfo(FaultDomain(NameInfo(region), NameInfo("z")))


@pytest.mark.parametrize(
    ("wanted", "given_offer", "reasons"),
    [
        (app(cpus=5), offer(), (Reason.CPUS,)),
        (app(mem=5000, disk=2000), offer(), (Reason.MEMORY, Reason.DISK)),
        (app(gpus=1), offer(), (Reason.GPUS,)),
        (app(ports=[0] * 11), offer(), (Reason.PORTS,)),
        (app(ports=[80], requirePorts=True), offer(), (Reason.PORTS,)),
        (
            app(),
            offer("cpus(x):4;mem(x):4096;ports(x):[31000-31009]"),
            (Reason.ROLE, Reason.CPUS, Reason.MEMORY, Reason.PORTS),
        ),
        (app(), offer(allocation_info=AllocationInfo("other")), (Reason.ROLE,)),
        (app(constraints=[["rack", "IS", "1"]]), offer(), (Reason.CONSTRAINT,)),
        (app(), offer(domain=domain("far")), (Reason.CONSTRAINT,)),
        (
            app(),
            offer("cpus:4;mem:4096;gpus:1;ports:[31000-31009]"),
            (Reason.SCARCE,),
        ),
        (
            app(),
            offer(unavailability=Unavailability(TimeInfo(99_000_000_000))),
            (Reason.MAINTENANCE,),
        ),
        (app(networks=[{"name": "n"}]), offer(), (Reason.NOT_SUPPORTED,)),
    ],
)
def test_bad_offer_gives_all_reasons_in_order(
    wanted: App, given_offer: Offer, reasons: tuple[Reason, ...]
) -> None:
    assert tried(wanted, given_offer, MatchRules(region="near")) == NoMatch(reasons)


@pytest.mark.parametrize(
    ("wanted", "given_offer"),
    [
        (app(constraints=[["@zone", "UNIQUE"]]), offer(domain=domain("far"))),
        (app(), offer(unavailability=Unavailability(TimeInfo(101_000_000_000)))),
        (
            app(labels={"GPU_SCHEDULING_BEHAVIOR": "unrestricted"}),
            offer("cpus:4;mem:4096;gpus:1;ports:[31000-31009]"),
        ),
        (app(ports=[31005], requirePorts=True), offer()),
    ],
    ids=["speaks of zones", "maintenance is later", "may use GPU agents", "required port"],
)
def test_offers_that_are_good_after_all(wanted: App, given_offer: Offer) -> None:
    assert isinstance(tried(wanted, given_offer, MatchRules(region="near")), Match)


def test_reserved_resources_go_first_where_the_role_is_accepted() -> None:
    both = offer("cpus:4;cpus(r):1;mem:4096;ports:[31000-31009]")
    found = tried(app(cpus=2, role="r", acceptedResourceRoles=["*", "r"]), both)
    assert isinstance(found, Match)
    amounts = {k.role: v for k, v in found.resources.scalar_kinds().items() if k.name == "cpus"}
    assert amounts == {"r": 1000, "*": 1000}
    plain = tried(app(cpus=2), both)
    assert isinstance(plain, Match)
    assert not plain.resources.reserved()


def test_unique_hosts_look_at_what_is_placed() -> None:
    wanted = app(constraints=[["hostname", "UNIQUE"]])
    assert isinstance(tried(wanted, offer(), None, Place("host2")), Match)
    assert tried(wanted, offer(), None, Place("host1")) == NoMatch((Reason.CONSTRAINT,))


def test_what_a_cluster_lacks_is_said_in_words() -> None:
    wanted = app(container={"docker": {"image": "i", "network": "BRIDGE"}})
    assert needs(wanted) == {Need.DOCKER, Need.NETWORKS}
    assert obstacle(wanted, MatchRules()) == (
        "this cluster has no container networks, no docker containers"
    )
    assert obstacle(wanted, MatchRules(supported=frozenset(Need))) is None


def test_place_of_an_offer() -> None:
    rack = Attribute("rack", "SCALAR", scalar=Scalar(3.0))
    assert place_of(offer(domain=domain("r"), attributes=(rack,))) == Place(
        "host1", "r", "z", {"rack": "3"}
    )
