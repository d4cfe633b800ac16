"""Addresses of names: those of the original, and never two names with one."""

from ipaddress import IPv4Address, ip_address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cairn_core.vips.addresses import (
    DEFAULT_IPV4,
    DEFAULT_IPV6,
    Addresses,
    AddressRange,
    Allocator,
    BadRange,
    Given,
    OutOfAddresses,
    assign,
    candidates,
)

IPVS = AddressRange("11.0.0.0", "11.255.255.255", "ipvs")
SMALL = AddressRange("11.0.0.0", "11.0.0.254", "nfq")
SMALL_IPVS = AddressRange("11.0.0.0", "11.0.0.254", "ipvs")


@pytest.mark.parametrize(
    ("span", "name", "address"),
    [
        (DEFAULT_IPV4, "nginxdocker.marathon", "11.112.175.214"),
        (DEFAULT_IPV4, "app-1.marathon", "11.100.145.169"),
        (DEFAULT_IPV4, "l4lbtest.marathon", "11.128.73.176"),
        (DEFAULT_IPV4, "broker.kafka", "11.175.100.166"),
        (DEFAULT_IPV4, "foo.marathon", "11.64.239.62"),
        (IPVS, "nginxdocker.marathon", "11.112.174.231"),
        (IPVS, "app-1.marathon", "11.100.145.168"),
        (IPVS, "l4lbtest.marathon", "11.128.73.162"),
        (IPVS, "broker.kafka", "11.175.100.139"),
        (IPVS, "foo.marathon", "11.64.238.105"),
        (SMALL, "foo.marathon", "11.0.0.36"),
        (SMALL_IPVS, "foo.bar", "11.0.0.37"),
        (SMALL_IPVS, "baz.qux", "11.0.0.39"),
        (DEFAULT_IPV6, "qux.ipv6", "fd01:c::6d6d:9c64:fd19:f251"),
    ],
)
def test_addresses_are_those_of_the_original(span: AddressRange, name: str, address: str) -> None:
    assert span.text(assign((), name, span)) == address


@given(st.integers(2, 40), st.sampled_from(["nfq", "ipvs"]), st.text("abc", max_size=5))
def test_each_candidate_is_tried_once(size: int, allocator: Allocator, name: str) -> None:
    low = int(IPv4Address("11.0.0.0"))
    span = AddressRange("11.0.0.0", str(IPv4Address(low + size)), allocator)
    tried = list(candidates(span, name))
    assert len(set(tried)) == len(tried) == (size - 1 if allocator == "nfq" else size)
    assert all(low <= number <= low + size for number in tried)
    for one, other in pairwise(tried):
        assert other == one + 1 or other == low


def test_a_collision_takes_the_next_one_and_first_come_stays() -> None:
    addresses = Addresses(SMALL, None)
    first = addresses.give("foo.marathon")
    other = next(
        n
        for n in map(str, range(10_000))
        if assign((), n, SMALL) == assign((), "foo.marathon", SMALL)
    )
    second = addresses.give(other)
    assert (first.ipv4, second.ipv4) == ("11.0.0.36", "11.0.0.37")
    assert addresses.release("foo.marathon") == first
    assert addresses.give(other) == second
    assert addresses.give("foo.marathon") == first


def test_out_of_addresses() -> None:
    span = AddressRange("11.0.0.0", "11.0.0.5", "nfq")
    addresses = Addresses(span, DEFAULT_IPV6)
    for number in range(5):
        assert addresses.adopt(f"n{number}.marathon", f"11.0.0.{number}")
    with pytest.raises(OutOfAddresses, match=r"of 11\.0\.0\.0 to 11\.0\.0\.5 is free .*late"):
        addresses.give("late.marathon")
    assert addresses.of("late.marathon") is None, "nor one of the other family"
    free = span.text(next(iter(candidates(span, "late.marathon"))))
    addresses.release(addresses.name_of(free) or "")
    assert addresses.give("late.marathon").ipv4 == free


def test_recorded_addresses_hold_whatever_the_range_is_now() -> None:
    addresses = Addresses(SMALL, None)
    assert addresses.adopt("a.b", "10.9.9.9", "fd00::1")
    assert addresses.give("a.b") == Given("10.9.9.9", "fd00::1")
    assert addresses.adopt("a.b", "10.9.9.9", "fd00::1")
    assert not addresses.adopt("a.b", "10.9.9.8")
    assert not addresses.adopt("c.d", "10.9.9.9"), "taken"
    assert not addresses.adopt("c.d", "", "fd00::1"), "taken"
    assert not addresses.adopt("c.d", ""), "none at all"
    assert not addresses.adopt("c.d", "fd00::2"), "of the other family"
    assert not addresses.adopt("c.d", "nonsense")
    assert not addresses.adopt("c.d", "", "fe80::1%eth0")
    assert addresses.name_of("nonsense") is None
    assert addresses.name_of("10.9.9.9") == "a.b"
    assert addresses.release("a.b") == Given("10.9.9.9", "fd00::1")
    assert addresses.name_of("10.9.9.9") is None
    assert addresses.release("a.b") is None
    assert addresses.of("a.b") is None


def test_no_range_no_address() -> None:
    assert Addresses(None, DEFAULT_IPV6).give("qux.ipv6") == Given(
        "", "fd01:c::6d6d:9c64:fd19:f251"
    )
    assert Addresses(DEFAULT_IPV4, None).give("foo.marathon").ipv6 == ""


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("11.0.0.0", "11.0.0.1"),
        ("11.0.0.9", "11.0.0.1"),
        ("11.0.0.0", "fd00::"),
        ("x", "11.0.0.1"),
        ("", ""),
        ("fe80::1%a", "fe80::9%a"),
    ],
)
def test_what_is_no_range(first: str, last: str) -> None:
    with pytest.raises(BadRange):
        AddressRange.parse(first, last)


def test_ranges_are_written_canonically() -> None:
    assert (
        AddressRange.parse("fd01:C:0::", "fd01:c:0:0:ffff:ffff:ffff:ffff", "ipvs") == DEFAULT_IPV6
    )


@settings(max_examples=60, stateful_step_count=40, deadline=None)
class AnySeries(RuleBasedStateMachine):
    """Names come and go; addresses are unique and stay."""

    def __init__(self) -> None:
        super().__init__()
        self.span = AddressRange("11.0.0.0", "11.0.0.12", "nfq")
        self.span6 = AddressRange("fd01::", "fd01::9", "ipvs")
        self.addresses = Addresses(self.span, self.span6)
        self.known: dict[str, Given] = {}

    @rule(name=st.sampled_from([f"n{i}.f" for i in range(16)]))
    def give(self, name: str) -> None:
        try:
            given = self.addresses.give(name)
        except OutOfAddresses:
            assert name not in self.known
            assert len(self.known) >= 9
            return
        assert self.known.setdefault(name, given) == given

    @rule(name=st.sampled_from([f"n{i}.f" for i in range(16)]))
    def release(self, name: str) -> None:
        assert self.addresses.release(name) == self.known.pop(name, None)

    @rule()
    def restart(self) -> None:
        fresh = Addresses(self.span, self.span6)
        assert all(fresh.adopt(name, *given) for name, given in self.known.items())
        self.addresses = fresh

    @invariant()
    def unique_and_within(self) -> None:
        every = [address for given in self.known.values() for address in given]
        assert len(set(every)) == len(every)
        for address in every:
            span = self.span6 if ":" in address else self.span
            low, high = span.bounds()
            assert low <= int(ip_address(address)) <= high
            name = self.addresses.name_of(address)
            assert name is not None
            assert address in self.known[name]
        assert set(self.addresses) == set(self.known)


TestAnySeries = AnySeries.TestCase
