"""Who changes rules is told apart, by the kernel."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from cairn_core.testing.requires import requires
from cairn_l4lb import nft_messages
from cairn_l4lb.io_netlink import Netlink
from cairn_l4lb.io_nft_watch import NftWatch
from cairn_l4lb.testing import Namespace

pytestmark = pytest.mark.netns


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host; the test is inside."""
    requires("root", "nft")
    place = Namespace()
    try:
        with place.inside():
            yield place
    finally:
        place.close()


async def told(watch: NftWatch, within_s: float) -> bool:
    try:
        await asyncio.wait_for(watch.wait(), within_s)
    except TimeoutError:
        return False
    return True


async def test_changes_of_others_are_told_and_ours_are_not(host: Namespace) -> None:
    host.run("nft", "add table inet cairn_l4lb; add set inet cairn_l4lb s { type ipv4_addr; }")
    ours = Netlink()
    watch = NftWatch(ours.port)
    assert not await told(watch, 0.05)
    sequence = ours.next_sequence()
    element = nft_messages.element(bytes((10, 0, 0, 1)))
    batch = nft_messages.add("cairn_l4lb", "s", [element], sequence)
    ours.exchange(nft_messages.batch(batch, sequence), sequence)
    assert "10.0.0.1" in host.run("nft", "list", "ruleset")
    assert not await told(watch, 0.05)
    host.run("nft", "flush", "ruleset")
    assert await told(watch, 10.0)
    for _ in range(3):
        host.run("nft", "add", "table", "inet", "other")
    watch.clear()
    assert not await told(watch, 0.05)
    watch.close()
    ours.close()


async def test_a_flood_that_was_lost_is_told(host: Namespace) -> None:
    watch = NftWatch(0)
    watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least buffer there is
    for _ in range(12):
        host.run("nft", "add table inet x; delete table inet x")
    assert await told(watch, 10.0)
    watch.clear()
    assert not await told(watch, 0.05)
    watch.close()
