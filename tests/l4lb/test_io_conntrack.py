"""Entries and events of conntrack, in a namespace of their own."""

import errno
from collections.abc import Iterator
from contextlib import closing

import pytest

from cairn_core.testing.requires import requires
from cairn_l4lb import conntrack, netlink
from cairn_l4lb.conntrack import DESTROY, NEW, SYN_SENT, Event
from cairn_l4lb.io_conntrack import Entries, Events
from cairn_l4lb.io_netlink import Netlink
from cairn_l4lb.packets import TCP
from cairn_l4lb.testing import Namespace

pytestmark = pytest.mark.netns

CLIENT, VIP, BACKEND = bytes((10, 0, 0, 1)), bytes((11, 0, 0, 1)), bytes((10, 0, 0, 9))
MASK, MARK = 0x0FFF0000, 3 << 16
ESTABLISHED = 3


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    requires("root")
    namespace = Namespace()
    with namespace.inside():
        yield
    namespace.close()


@pytest.fixture
def entries() -> Iterator[Entries]:
    made = Entries()
    yield made
    made.close()


def flow(port: int) -> bytes:
    return CLIENT + VIP + port.to_bytes(2, "big") + b"\0\x50"


def read(events: Events) -> list[Event]:
    found = (conntrack.parse_event(data) for data in events.receive(1000))
    return [event for event in found if event is not None]


def test_an_entry_is_made_found_and_deleted(entries: Entries) -> None:
    assert entries.look(TCP, flow(1)) is None
    assert entries.create(flow(1), CLIENT, BACKEND, 8080, MARK)
    found = entries.look(TCP, flow(1))
    assert found is not None
    assert (found.flow, found.reply_source) == (flow(1), BACKEND + b"\x1f\x90")
    assert (found.mark, found.tcp_state) == (MARK, SYN_SENT)
    assert entries.delete(TCP, flow(1))
    assert not entries.delete(TCP, flow(1))


def test_only_an_entry_that_lives_keeps_another_out(entries: Entries) -> None:
    other = bytes((10, 0, 0, 8))
    assert entries.create(flow(1), CLIENT, BACKEND, 8080, MARK)
    assert entries.create(flow(1), CLIENT, other, 8081, MARK)
    found = entries.look(TCP, flow(1))
    assert found is not None
    assert found.reply_source == other + b"\x1f\x91"
    sent, living = (
        netlink.nested(4, netlink.nested(1, netlink.u8(1, state)))
        for state in (SYN_SENT, ESTABLISHED)
    )
    message = conntrack.create(flow(2), CLIENT, BACKEND, 8080, MARK).replace(sent, living)
    with closing(Netlink()) as raw:
        raw.request(message)
    assert not entries.create(flow(2), CLIENT, other, 8081, MARK)
    found = entries.look(TCP, flow(2))
    assert found is not None
    assert found.reply_source == BACKEND + b"\x1f\x90"


def test_only_events_with_our_mark_come(entries: Entries) -> None:
    events = Events(MASK)
    entries.create(flow(1), CLIENT, BACKEND, 8080, 0)
    entries.create(flow(2), CLIENT, BACKEND, 8080, MARK | 5)
    entries.create(flow(3), CLIENT, BACKEND, 8080, 5)
    entries.delete(TCP, flow(1))
    entries.delete(TCP, flow(2))
    answerer = BACKEND + b"\x1f\x90"
    found = [(one.kind, one.flow, one.reply_source) for one in read(events)]
    assert found == [(NEW, flow(2), answerer), (DESTROY, flow(2), answerer)]
    events.filter(0xF)
    entries.delete(TCP, flow(3))
    assert [one.flow for one in read(events)] == [flow(3)]
    events.close()


def test_lost_events_are_told_and_later_ones_come(entries: Entries) -> None:
    events = Events(MASK, 4096)
    for port in range(100):
        entries.create(flow(port), CLIENT, BACKEND, 8080, MARK)
    with pytest.raises(OSError, match="No buffer space") as raised:
        read(events)
    assert raised.value.errno == errno.ENOBUFS
    assert len(read(events)) < 100
    entries.delete(TCP, flow(5))
    assert [one.flow for one in read(events)] == [flow(5)]
    events.close()
