"""What becomes of a packet in a queue, without a kernel."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_l4lb import conntrack, netlink, nfqueue, packets
from cairn_l4lb.channel import SteerSettings, Update
from cairn_l4lb.conntrack import Entry
from cairn_l4lb.model import Backend, Mode, Options, Service, Vip
from cairn_l4lb.steering import Steering
from cairn_l4lb.verdicts import MAX_KEPT, Verdicts, unanswered

VIP = Vip("tcp", "11.0.0.1", 80)
CLIENT, ADDRESS = bytes((10, 0, 0, 1)), bytes((11, 0, 0, 1))
SHIFT, FOREIGN = 16, 0x0000_0040
#: Later than that a SYN of the client's is one more try, not a copy.
AGAIN_S = 1.0
REFUSED = packets.RST | packets.ACK


class FakeKernel:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.told: list[tuple[object, ...]] = []
        self.works = True

    def look(self, protocol: int, flow: bytes) -> Entry | None:
        return self.entries.get(flow)

    def delete(self, protocol: int, flow: bytes) -> None:
        self.told.append(("delete", flow))

    def create(self, flow: bytes, backend: bytes, port: int, mark: int) -> bool:
        self.told.append(("create", flow, backend, port, mark))
        return self.works

    def resend(self, packet: bytes, mark: int) -> bool:
        self.told.append(("resend", packet, mark))
        return self.works


class Rig:
    """Verdicts with the real rules behind them."""

    def __init__(self, backends: int = 2, options: Options | None = None) -> None:
        self.kernel = FakeKernel()
        settings = SteerSettings(seed=1)
        self.steering = Steering(settings, Random(1), 0.0)
        self.verdicts = Verdicts(self.steering, settings, self.kernel)
        self.backends = {n: Backend(f"10.0.1.{n}", 8080, slot=n) for n in range(1, backends + 1)}
        service = Service(VIP, "", tuple(self.backends.values()), options or Options())
        self.steering.update(Update([service]), 0.0)

    def take(self, packet: bytes, now: float = 0.0, **more: int) -> tuple[int, int | None, bool]:
        """Verdict, slot of the mark, and whether an entry is deleted before it."""
        out = list(netlink.messages(self.verdicts.verdict(queued(packet, **more), now)))
        attributes = out[-1].attributes()
        assert bytes(attributes[2][4:]) == b"\0\0\0\7"
        deleted = [one.kind for one in out[:-1]]
        assert deleted in ([], [netlink.CTNETLINK << 8 | 2])
        slot = None
        if 3 in attributes:
            mark = netlink.number(attributes[3])
            assert mark & ~0x0FFF0000 == more.get("mark", 0) & ~0x0FFF0000
            slot = mark >> SHIFT
        return netlink.number(attributes[2][:4]), slot, bool(deleted)


def tcp(source_port: int, flags: int = packets.SYN, *, seq: int = 5) -> bytes:
    """A packet from the client to the VIP."""
    return ipv4(CLIENT, ADDRESS, source_port, 80, flags, seq)


def answer(backend: int, port: int, flags: int) -> bytes:
    """One from a backend to the client."""
    return ipv4(bytes((10, 0, 1, backend)), CLIENT, 8080, port, flags, 0)


def ipv4(source: bytes, destination: bytes, sport: int, dport: int, flags: int, seq: int) -> bytes:
    head = bytes((0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0)) + source + destination
    ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    return head + ports + seq.to_bytes(4, "big") + bytes(4) + bytes((0x50, flags)) + bytes(6)


def queued(packet: bytes, *, hook: int = nfqueue.OUTPUT, mark: int = 0) -> bytes:
    parts = [netlink.attribute(1, b"\0\0\0\7\x08\0" + bytes((hook,)))]
    if mark:
        parts.append(netlink.u32(3, mark))
    parts.append(netlink.attribute(10, packet))
    return netlink.netfilter(netlink.QUEUE, 0, 0, *parts, family=2, resource=52)


def flow_of(packet: bytes) -> bytes:
    found = packets.parse(packet)
    assert found is not None
    return found.flow


def entry(flow: bytes, backend: int, status: int, state: int) -> Entry:
    return Entry(6, flow, bytes((10, 0, 1, backend)) + b"\x1f\x90", status, 0, state)


def test_a_syn_gets_its_backends_slot_and_keeps_foreign_marks() -> None:
    rig = Rig()
    verdict, slot, deleted = rig.take(tcp(1000), mark=FOREIGN)
    assert (verdict, deleted) == (nfqueue.ACCEPT, False)
    assert slot in rig.backends


def test_what_is_not_for_us_goes_on_as_it_is() -> None:
    rig = Rig()
    for packet in (
        ipv4(CLIENT, bytes(4), 1, 80, packets.SYN, 1), b"", b"\x45", bytes(60),
        answer(1, 1000, REFUSED), tcp(1000)[:30],
    ):  # fmt: skip
        assert rig.take(packet) == (nfqueue.ACCEPT, None, False)
    assert rig.verdicts.counters["unparsable"] == 4


def test_a_repeated_syn_goes_elsewhere_once_its_entry_is_deleted() -> None:
    rig = Rig()
    _, first, _ = rig.take(tcp(1000))
    _, second, deleted = rig.take(tcp(1000), AGAIN_S)
    assert {first, second} == {1, 2}
    assert deleted


@pytest.mark.parametrize("mode", ["mark", "ctnetlink"])
def test_who_cannot_be_served_goes_on_without_entry_and_mark(mode: Mode) -> None:
    rig = Rig(backends=1, options=Options(mode=mode))
    for port in range(1000, 1006):
        rig.take(tcp(port))
    rig.steering.tick(AGAIN_S)
    rig.kernel.told.clear()
    assert rig.take(tcp(1000), AGAIN_S, mark=FOREIGN) == (nfqueue.ACCEPT, 0, True)
    assert rig.kernel.told == []
    # what refuses it is the kernel, and that is the client's to hear
    refusal = ipv4(ADDRESS, CLIENT, 80, 1000, REFUSED, 0)
    assert rig.take(refusal, AGAIN_S) == (nfqueue.ACCEPT, None, False)
    assert rig.kernel.told == []


def test_a_connection_that_was_answered_meanwhile_stays() -> None:
    rig = Rig()
    flow = flow_of(tcp(1000))
    _, slot, _ = rig.take(tcp(1000))
    assert slot is not None
    rig.kernel.entries[flow] = entry(flow, slot, conntrack.SEEN_REPLY, 3)
    assert rig.take(tcp(1000), AGAIN_S) == (nfqueue.ACCEPT, None, False)
    assert rig.verdicts.counters["answered_late"] == 1
    assert rig.steering.report(AGAIN_S).counters["successes"] == 1


def test_an_entry_of_an_earlier_connection_is_no_answer() -> None:
    rig = Rig()
    flow = flow_of(tcp(1000))
    rig.take(tcp(1000))
    rig.kernel.entries[flow] = entry(flow, 1, conntrack.SEEN_REPLY, conntrack.TIME_WAIT)
    _, slot, deleted = rig.take(tcp(1000), AGAIN_S)
    assert slot is not None
    assert deleted


def test_which_entry_says_that_a_backend_is_silent() -> None:
    flow, backend = flow_of(tcp(1000)), bytes((10, 0, 1, 2)) + b"\x1f\x90"
    assert unanswered(entry(flow, 2, conntrack.CONFIRMED, conntrack.SYN_SENT), backend)
    # none: the packet did not pass; the others: it was for somebody else, or is no new connection
    assert not unanswered(None, backend)
    assert not unanswered(entry(flow, 1, conntrack.CONFIRMED, conntrack.SYN_SENT), backend)
    assert not unanswered(entry(flow, 2, conntrack.SEEN_REPLY, 3), backend)


def test_a_refused_syn_is_sent_to_another_backend() -> None:
    rig = Rig()
    syn = tcp(1000)
    _, first, _ = rig.take(syn, mark=FOREIGN)
    assert first is not None
    reset = answer(first, 1000, REFUSED)
    assert rig.take(reset, 0.01) == (nfqueue.DROP, None, False)
    second = 3 - first
    mark = second << SHIFT | FOREIGN
    assert rig.kernel.told == [("delete", flow_of(syn)), ("resend", syn, mark)]
    # it comes by, and is not taken for another try of the client's
    again = rig.take(syn, 0.02, mark=mark)
    assert again == (nfqueue.ACCEPT, None, False)
    # all have been tried: the client hears of it
    reset = answer(second, 1000, REFUSED)
    assert rig.take(reset, 0.03) == (nfqueue.ACCEPT, None, False)
    assert rig.verdicts.counters["resent"] == 1


def test_a_syn_from_elsewhere_is_not_sent_again_for_its_client_does_that() -> None:
    rig = Rig(options=Options(hedge_ms=50.0))
    syn = tcp(1000)
    _, first, _ = rig.take(syn, hook=nfqueue.PREROUTING)
    assert first is not None
    assert rig.steering.tick(0.1) == []
    assert rig.take(answer(first, 1000, REFUSED), 0.2) == (nfqueue.DROP, None, False)
    assert rig.kernel.told == []
    assert rig.take(syn, AGAIN_S, hook=nfqueue.PREROUTING) == (nfqueue.ACCEPT, 3 - first, True)
    # all have been tried: the client hears of it
    assert rig.take(answer(3 - first, 1000, REFUSED), 1.1) == (nfqueue.ACCEPT, None, False)
    found = rig.steering.report(AGAIN_S)
    assert [one.failures for one in found.backends] == [1, 1]
    assert found.counters["timeouts"] == 0
    assert rig.verdicts.counters["resent"] == 0


def test_a_reset_that_answers_no_syn_is_no_refusal() -> None:
    rig = Rig()
    _, first, _ = rig.take(tcp(1000))
    assert first is not None
    for port in range(1000, 1010):
        assert rig.take(answer(first, port, packets.RST), 0.01) == (nfqueue.ACCEPT, None, False)
    assert all(one.open and not one.failures for one in rig.steering.report(0.1).backends)


def test_a_refusal_of_what_the_kernel_gave_away_is_one_at_once() -> None:
    rig = Rig()
    for port in range(1000, 1005):
        assert rig.take(answer(1, port, REFUSED)) == (nfqueue.ACCEPT, None, False)
    rig.take(answer(3, 1000, REFUSED))  # no backend
    [one] = rig.steering.report(0.1).backends
    assert (one.backend[1], one.failures, one.open) == ("10.0.1.1", 5, False)


def test_the_reset_of_a_backend_on_the_own_host_comes_from_the_vip_already() -> None:
    rig = Rig()
    syn = tcp(1000)
    _, first, _ = rig.take(syn)
    assert first is not None
    flow = flow_of(syn)
    reset = ipv4(flow[4:8], flow[:4], 80, 1000, REFUSED, 0)
    assert rig.take(reset, 0.01) == (nfqueue.DROP, None, False)
    assert rig.kernel.told == [("delete", flow), ("resend", syn, 3 - first << SHIFT)]


def test_a_late_reset_of_a_backend_that_has_it_no_longer_moves_nothing() -> None:
    rig = Rig(3)
    _, first, _ = rig.take(tcp(1000))
    assert first is not None
    reset = answer(first, 1000, REFUSED)
    assert rig.take(reset, 0.01)[0] == nfqueue.DROP
    assert rig.take(reset, 0.02) == (nfqueue.ACCEPT, None, False)
    assert rig.verdicts.counters["resent"] == 1


def test_a_refusal_is_not_held_back_for_nothing() -> None:
    rig = Rig()
    _, first, _ = rig.take(tcp(1000))
    assert first is not None
    rig.kernel.works = False
    reset = answer(first, 1000, REFUSED)
    assert rig.take(reset, 0.01) == (nfqueue.ACCEPT, None, False)
    assert rig.verdicts.counters["resend_failed"] == 1
    second = {one.backend[1]: one for one in rig.steering.report(5.0).backends}[
        f"10.0.1.{3 - first}"
    ]
    assert (second.pending, second.failures) == (0, 0)


def test_the_reset_of_an_answered_connection_goes_on() -> None:
    rig = Rig()
    flow = flow_of(tcp(1000))
    _, slot, _ = rig.take(tcp(1000))
    assert slot is not None
    source = bytes((10, 0, 1, slot)) + b"\x1f\x90"
    rig.steering.event(conntrack.UPDATE, 6, flow, source, conntrack.SEEN_REPLY, 0.001)
    reset = answer(slot, 1000, REFUSED)
    assert rig.take(reset, 0.01) == (nfqueue.ACCEPT, None, False)
    rig.verdicts.answered(flow)
    assert rig.take(reset, 0.02) == (nfqueue.ACCEPT, None, False)


def test_a_hedge_sends_the_syn_again() -> None:
    rig = Rig(options=Options(hedge_ms=50.0))
    syn = tcp(1000)
    _, first, _ = rig.take(syn)
    assert first is not None
    ((flow, decision),) = rig.steering.tick(0.1)
    assert rig.verdicts.hedge(flow, decision, 0.1)
    assert rig.kernel.told[-1] == ("resend", syn, (3 - first) << SHIFT)
    rig.kernel.entries[flow] = entry(flow, first, conntrack.SEEN_REPLY, 3)
    assert not rig.verdicts.hedge(flow, decision, 0.1)


def test_a_hedge_whose_syn_is_not_kept_is_nobodys_fault() -> None:
    rig = Rig(options=Options(hedge_ms=50.0))
    rig.take(tcp(1000)[:34] + bytes(6))
    rig.verdicts.answered(flow_of(tcp(1000)))
    ((flow, decision),) = rig.steering.tick(0.1)
    assert not rig.verdicts.hedge(flow, decision, 0.1)
    rig.steering.tick(5.0)
    assert [one.failures for one in rig.steering.report(5.0).backends] == [0, 0]


def test_a_syn_that_is_not_whole_is_not_sent_again() -> None:
    rig = Rig()
    syn = bytearray(tcp(1000))
    syn[3] = 60
    _, first, _ = rig.take(bytes(syn))
    assert first is not None
    assert rig.take(answer(first, 1000, REFUSED), 0.01)[0] == nfqueue.ACCEPT


def test_the_original_way_makes_an_entry_and_no_mark() -> None:
    rig = Rig(1, Options(mode="ctnetlink"))
    assert rig.take(tcp(1000)) == (nfqueue.ACCEPT, None, False)
    made = ("create", flow_of(tcp(1000)), bytes((10, 0, 1, 1)), 8080, 1 << SHIFT)
    assert rig.kernel.told == [made]
    rig.kernel.works = False
    assert rig.take(tcp(1001)) == (nfqueue.ACCEPT, 1, False)
    counters = rig.verdicts.counters
    assert (counters["entries"], counters["entries_failed"]) == (1, 1)


def test_syns_are_not_kept_for_ever() -> None:
    rig = Rig()
    rig.take(tcp(1000))
    for now in (5.0, 10.0):
        rig.take(tcp(2000 + int(now)), now)
    reset = answer(1, 1000, REFUSED)
    assert rig.take(reset, 10.0)[0] == nfqueue.ACCEPT
    assert rig.take(answer(2, 1000, REFUSED), 10.0)[0] == nfqueue.ACCEPT
    assert MAX_KEPT >= 10_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["syn", "resent", "reset", "answer", "tick", "garbage"]),
            st.integers(0, 5),
            st.integers(1, 3),
            st.floats(0.0, 2.0),
        ),
        max_size=40,
    )
)
def test_any_series_of_packets_gets_verdicts(steps: list[tuple[str, int, int, float]]) -> None:
    rig, now = Rig(3, Options(hedge_ms=50.0)), 0.0
    for kind, port, backend, later in steps:
        now += later
        flow = flow_of(tcp(port))
        if kind == "syn":
            hook = nfqueue.OUTPUT if port % 2 else nfqueue.PREROUTING
            rig.take(tcp(port, seq=backend), now, hook=hook)
        elif kind == "resent":
            rig.take(tcp(port), now, mark=backend << SHIFT)
        elif kind == "reset":
            rig.take(answer(backend, port, REFUSED), now)
        elif kind == "garbage":
            rig.take(tcp(port)[: backend * 10], now)
        elif kind == "answer":
            source = bytes((10, 0, 1, backend)) + b"\x1f\x90"
            rig.steering.event(conntrack.UPDATE, 6, flow, source, conntrack.SEEN_REPLY, now)
            rig.verdicts.answered(flow)
        for hedged, decision in rig.steering.tick(now):
            rig.verdicts.hedge(hedged, decision, now)


@pytest.mark.parametrize(
    "data", [b"", netlink.message(netlink.ERROR, 0, bytes(20)), bytes(100), queued(tcp(1))[:40]]
)
def test_what_is_no_packet_gets_no_verdict_it_cannot_have(data: bytes) -> None:
    out = Rig().verdicts.verdict(data, 0.0)
    assert len(list(netlink.messages(out))) == (data[20:24] == b"\x0b\0\1\0")
