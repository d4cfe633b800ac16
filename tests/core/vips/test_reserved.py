"""Addresses that nothing of the cluster has, and ranges for named VIPs."""

import pytest

from cairn_core.vips.addresses import DEFAULT_IPV4, DEFAULT_IPV6
from cairn_core.vips.reserved import network, why_not_range, why_special


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("0.1.2.3", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("198.51.100.1", "the DNS proxy's"),
        ("240.0.0.1", "reserved or broadcast"),
        ("::7f00:1", "IPv4 inside of IPv6"),
        ("fe80::1", "link-local"),
    ],
)
def test_special_addresses_are_named(address: str, what: str) -> None:
    assert why_special(address).startswith(f"address {address} is {what} (")


@pytest.mark.parametrize("address", ["9.0.0.1", "198.51.100.7", "11.0.0.1", "fd01:c::1"])
def test_others_are_not_special(address: str) -> None:
    assert why_special(address) == ""


@pytest.mark.parametrize(
    ("first", "last", "what"),
    [
        ("0.0.0.0", "255.255.255.255", "unspecified (0.0.0.0/8)"),
        ("127.0.0.0", "127.0.0.255", "loopback"),
        ("126.0.0.0", "127.0.0.0", "loopback"),
        ("8.0.0.0", "9.0.0.0", "of the overlay (9.0.0.0/8)"),
        ("198.51.100.2", "198.51.100.9", "the DNS proxy's"),
        ("203.0.113.0", "203.0.113.255", "mine (203.0.113.5/32)"),
        ("fe00::", "ff00::", "link-local"),
        ("fd01:a::", "fd01:c::", "of the overlay"),
    ],
)
def test_a_range_that_takes_what_others_need_is_refused(first: str, last: str, what: str) -> None:
    reason = why_not_range(first, last, [("203.0.113.5", "mine")])
    assert reason.startswith(f"{first} to {last} has addresses that are ")
    assert what in reason


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (DEFAULT_IPV4.min, DEFAULT_IPV4.max),
        (DEFAULT_IPV6.min, DEFAULT_IPV6.max),
        ("203.0.113.6", "203.0.113.255"),
    ],
)
def test_other_ranges_are_not(first: str, last: str) -> None:
    assert why_not_range(first, last, [("203.0.113.5", "mine"), ("10.0.0.0/8", "mine")]) == ""


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "x", "10.0.0.0/33"])
def test_what_is_no_network_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}"):
        network(text)
