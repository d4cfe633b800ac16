"""Addresses that no VIP may have."""

import pytest

from cairn_l4lb.literals import Guard

NAMED = [("11.0.0.0", "11.0.255.255"), ("fd01:c::", "fd01:c::ffff")]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("127.255.0.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("224.0.0.251", "multicast"),
        ("255.255.255.255", "reserved or broadcast"),
        ("9.0.1.2", "of the overlay"),
        ("203.0.113.7", "in a network of this host"),
        ("203.0.113.255", "in a network of this host"),
        ("10.1.1.1", "that of this host"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "IPv4 inside of IPv6"),
        ("198.51.100.1", "the DNS proxy's"),
        ("::ffff:7f00:1", "IPv4 inside of IPv6"),
        ("fe80::1", "link-local"),
        ("ff02::1", "multicast"),
        ("fd01:b::7", "of the overlay"),
        ("2001:db8::7", "in a network of this host"),
    ],
)
def test_what_is_something_else_is_refused(address: str, reason: str) -> None:
    guard = Guard(["10.1.1.1"], ["203.0.113.5/24", "2001:db8::1/64"])
    assert reason in guard.reason(address)
    assert address in guard.reason(address)


@pytest.mark.parametrize(
    "address", ["1.2.3.4", "11.1.2.3", "198.51.100.7", "fd01:c::1", "10.1.1.2"]
)
def test_others_are_not(address: str) -> None:
    assert Guard(["10.1.1.1"]).reason(address) == ""


def test_hosts_come_and_go() -> None:
    guard = Guard()
    assert guard.add_host("10.0.0.1")
    assert not guard.add_host("10.0.0.1")
    assert guard.reason("10.0.0.1") == "address 10.0.0.1 is that of a host of the cluster"
    assert not guard.remove_host("10.0.0.1")
    assert guard.reason("10.0.0.1")
    assert guard.remove_host("10.0.0.1")
    assert guard.reason("10.0.0.1") == ""


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "x", "10.0.0.0/33"])
def test_what_is_no_network_of_a_link_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"network|IPv4"):
        Guard(links=[network])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.1.1", "that of this host"),
        ("10.0.0.2", "that of a host of the cluster"),
        ("11.0.0.1", "one of named VIPs"),
        ("11.0.255.255", "one of named VIPs"),
        ("fd01:c::7", "one of named VIPs"),
        ("198.51.100.1", "the DNS proxy's"),
        ("0.1.2.3", "unspecified"),
        ("240.0.0.1", "reserved"),
        ("::7f00:1", "IPv4 inside of IPv6"),
        ("127.0.0.1", "loopback"),
    ],
)
def test_what_a_container_says_leads_to_no_host_and_no_vip(address: str, reason: str) -> None:
    guard = Guard(["10.1.1.1"], ["172.17.0.0/16"], named=NAMED)
    guard.add_host("10.0.0.2")
    assert reason in guard.container_reason(address)
    assert address in guard.container_reason(address)


@pytest.mark.parametrize("address", ["9.0.1.2", "172.17.0.2", "fd01:b::7", "11.1.0.0", "10.0.0.3"])
def test_what_containers_have_is_theirs(address: str) -> None:
    guard = Guard(["172.17.0.1"], ["172.17.0.0/16"], named=NAMED)
    assert guard.container_reason(address) == ""


def test_links_of_this_host_come_and_go() -> None:
    guard = Guard(["10.1.1.1"], ["10.1.1.0/24"])
    assert guard.reason("10.77.0.1") == guard.reason("10.77.0.2") == ""
    assert guard.set_own(["10.1.1.1", "10.77.0.1"], ["10.1.1.0/24", "10.77.0.1/24"]) == {
        "10.77.0.1"
    }
    assert guard.reason("10.77.0.1") == "address 10.77.0.1 is that of this host"
    assert guard.reason("10.77.0.2") == (
        "address 10.77.0.2 is in a network of this host (10.77.0.0/24)"
    )
    assert guard.reason("10.1.1.7")
    assert guard.set_own(["10.1.1.1"], ["10.1.1.0/24"]) == {"10.77.0.1"}
    assert guard.reason("10.77.0.1") == guard.reason("10.77.0.2") == ""
