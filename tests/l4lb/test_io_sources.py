"""Sources of connections as the kernel knows them."""

import socket
from random import Random

import pytest

from cairn_core.testing.requires import requires
from cairn_l4lb.io_sources import Sources
from cairn_l4lb.testing import Namespace


def wire(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@pytest.mark.netns
def test_addresses_and_preferred_sources_are_the_kernels() -> None:
    requires("root", "ip")
    namespace = Namespace()
    namespace.ip("""
        link set lo up
        link add one type veth peer name two
        link set two up
        link set one up
        address add 10.7.0.1/24 dev one
        address add fd07::1/64 dev one nodad
        route add 10.8.0.0/24 via 10.7.0.2 src 10.7.0.1
        address add 10.7.0.9/32 dev lo
        route add 10.9.0.0/24 via 10.7.0.2 src 10.7.0.9
    """)
    with namespace.inside():
        sources = Sources(Random(1))
        known = {
            ("10.7.0.1", "10.7.0.9"): "127.0.0.1",
            ("10.5.5.5", "10.7.0.9"): "10.5.5.5",
            ("10.5.5.5", "10.8.0.5"): "10.7.0.1",
            ("10.5.5.5", "10.9.0.5"): "10.7.0.9",
            ("fd05::5", "fd07::7"): "fd07::1",
            ("fd07::1", "fd07::1"): "::1",
        }
        for (client, backend), source in known.items():
            assert sources.choose(wire(client), wire(backend), 0.0) == wire(source)
        assert sources.choose(wire("10.7.0.1"), wire("172.16.0.1"), 0.0) is None
        # what is known holds for a while, and is asked for again
        namespace.ip("address del 10.7.0.9/32 dev lo")
        assert sources.choose(wire("10.5.5.5"), wire("10.9.0.5"), 1.0) == wire("10.7.0.9")
        assert sources.choose(wire("10.5.5.5"), wire("10.7.0.9"), 60.0) == wire("10.7.0.1")
        sources.close()
    namespace.close()
