"""What others made, with names like ours, in namespaces of their own: it stays."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn_core.testing.requires import requires
from cairn_l4lb.io_kernel import Kernel, uninstall
from cairn_l4lb.model import Backend, Service, Vip
from cairn_l4lb.rules import KernelSettings
from cairn_l4lb.testing import Namespace

pytestmark = pytest.mark.netns

SETTINGS = KernelSettings(named6=("fd01:c::", "fd01:c::ffff:ffff:ffff:ffff"), source="10.0.0.9")
WEB, WEB6 = Vip("tcp", "11.0.0.1", 80), Vip("tcp", "fd01:c::1", 80)


def service(vip: Vip, *numbers: int) -> Service:
    return Service(
        vip,
        backends=tuple(
            Backend(f"fd99::{n}" if vip.ipv6 else f"10.0.0.{n}", 8080, slot=n) for n in numbers
        ),
    )


ALL = [service(WEB, 1, 2), service(WEB6, 4, 5, 6)]


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host; the test is inside."""
    requires("root", "nft", "iptables", "ip6tables", "ipset", "ip")
    place = Namespace()
    try:
        with place.inside():
            place.ip("link set lo up\naddress add 10.0.0.9/24 dev lo")
            yield place
    finally:
        place.close()


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "host.json"


@pytest.fixture
def kernel(host: Namespace, memory: Path) -> Iterator[Kernel]:
    one = Kernel(SETTINGS, memory)
    yield one
    one.close()


# -- rules -----------------------------------------------------------------------------------------


def test_rules_that_speak_of_us_stay(host: Namespace, kernel: Kernel, memory: Path) -> None:
    kernel.start()
    kernel.grow(ALL, whole=True)
    host.run("iptables", "-N", "MYCHAIN")
    comments = [
        "cairn-l4lb exception for ssh",
        "see --comment cairn-l4lb in the wiki",
        "was --match-set minuteman dst,dst, now -j REJECT by me",
        "a\n-A OUTPUT -m comment --comment cairn-l4lb -j DROP",
        '"cairn-l4lb"',
        "it's --comment 'cairn-l4lb' -j REJECT",
    ]
    for chain in ("INPUT", "OUTPUT", "MYCHAIN"):
        for one in comments:
            host.run("iptables", "-A", chain, "-m", "comment", "--comment", one, "-j", "ACCEPT")
    named = ("-m", "set", "--match-set", "minuteman")
    host.run("iptables", "-A", "MYCHAIN", *named, "src,dst", "-j", "REJECT")
    host.run("iptables", "-A", "MYCHAIN", *named, "dst,dst", "-j", "REJECT")
    host.run("iptables", "-A", "OUTPUT", "-s", "10.1.0.0/16", *named, "dst,dst", "-j", "REJECT")
    host.run("iptables", "-A", "MYCHAIN", "-m", "comment", "--comment", "cairn-l4lb", "-j", "DROP")
    before = host.run("iptables", "-S")
    assert kernel.resync() == []
    assert host.run("iptables", "-S") == before
    uninstall(memory)
    left = host.run("iptables", "-S")
    assert [line for line in before.split("\n-A") if line not in left] == [
        line for line in before.split("\n-A") if "tcp-reset" in line or "-p udp" in line
    ]
