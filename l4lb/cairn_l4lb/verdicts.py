"""What becomes of a packet in a queue: the rules between NFQUEUE, conntrack and `steering`.

    SYN, first datagram   go on with the slot of their backend as mark
    RST to a SYN          vanishes while another backend has not been tried; the SYN is sent again
    our own SYN again     goes on with the mark that it has
    anything else         goes on as it is

Whatever cannot be read, or has no backend, goes on as it is: what becomes of it is up to the rules
of the kernel.
"""

from collections import Counter
from typing import Protocol

from . import conntrack, nfqueue, packets
from .channel import SteerSettings
from .conntrack import REPLACEABLE, SEEN_REPLY, Entry
from .netlink import Malformed
from .nfqueue import Waiting
from .packets import RST, SYN, TCP, Packet
from .steering import Decision, Steering

#: How many SYNs are kept to be sent again, and for how long at least, seconds.
MAX_KEPT, KEEP_S = 100_000, 4.0


class Kernel(Protocol):
    """What a verdict may need of the kernel, at once.  Nothing of it raises OSError."""

    def look(self, protocol: int, flow: bytes) -> Entry | None:
        """The conntrack entry of a flow."""

    def delete(self, protocol: int, flow: bytes) -> None:
        """Delete it, if it is there."""

    def create(self, flow: bytes, backend: bytes, port: int, mark: int) -> bool:
        """Make it; False when a connection has it that still lives, or there is no source."""

    def resend(self, packet: bytes, mark: int) -> bool:
        """Send a packet again, with this mark."""


class Verdicts:
    """Decides on packets.

    Invariant: of a flow at most one SYN is kept, the last that came.
    """

    def __init__(self, steering: Steering, settings: SteerSettings, kernel: Kernel) -> None:
        self.counters: Counter[str] = Counter()
        self._steering, self._kernel = steering, kernel
        self._mask = self._shift = 0
        self._keep = False
        #: SYNs and the marks that they came with, by flow: the latest, and those before them.
        self._kept: dict[bytes, tuple[bytes, int]] = {}
        self._older: dict[bytes, tuple[bytes, int]] = {}
        #: Whose SYN a packet from the backend answers, by its flow as it reaches the client.
        self._flows: dict[bytes, bytes] = {}
        self._older_flows: dict[bytes, bytes] = {}
        self._turn_at = 0.0
        self.configure(settings)

    def configure(self, settings: SteerSettings) -> None:
        """Go on with other settings."""
        mask = settings.mark_mask
        self._mask, self._shift = mask, (mask & -mask).bit_length() - 1
        self._keep = settings.retry_refused

    def verdict(self, data: bytes, now: float) -> bytes:
        """The messages that answer one from a queue; empty for what waits for no answer."""
        try:
            waiting = nfqueue.parse(data)
        except Malformed:
            self.counters["malformed"] += 1
            known = nfqueue.number_of(data)
            return nfqueue.accept(*known) if known else b""
        if waiting is None:
            self.counters["netlink_errors"] += 1
            return b""
        packet = packets.parse(waiting.payload)
        if packet is None:
            self.counters["unparsable"] += 1
        elif packet.protocol != TCP or packet.flags & (SYN | RST) == SYN:
            return self._syn(waiting, packet, now)
        elif packet.flags & RST and self._refused(packet, now):
            return nfqueue.drop(waiting.queue, waiting.number)
        return nfqueue.accept(waiting.queue, waiting.number)

    def _syn(self, waiting: Waiting, packet: Packet, now: float) -> bytes:
        queue, number, hook, mark, payload = waiting
        if mark & self._mask and hook == nfqueue.OUTPUT:
            # ours, sent again; the mark is what was decided
            return nfqueue.accept(queue, number)
        protocol, flow, sequence, _ = packet
        decision = self._steering.packet(protocol, flow, sequence, now)
        if decision is None:
            return nfqueue.accept(queue, number)
        slot, address, port, again, mode, hedge_s = decision
        before = b""
        if again:
            if self._answered(protocol, flow, now):
                return nfqueue.accept(queue, number)
            if mode == "ctnetlink":
                self._kernel.delete(protocol, flow)
            else:
                before = conntrack.delete(protocol, flow)
        if protocol == TCP:
            if self._keep or hedge_s:
                self._remember(flow, payload, mark, _answer(flow, address, port), now)
            if mode == "ctnetlink" and self._create(flow, decision):
                return nfqueue.accept(queue, number)
        marked = nfqueue.accept_marked(queue, number, mark & ~self._mask | slot << self._shift)
        return before + marked if before else marked

    def _create(self, flow: bytes, decision: Decision) -> bool:
        """Make the entry, as the original does.  Without one the mark says where it goes."""
        mark = decision.slot << self._shift
        made = self._kernel.create(flow, decision.address, decision.port, mark)
        self.counters["entries" if made else "entries_failed"] += 1
        return made

    # -- once more ---------------------------------------------------------------------------------

    def _answered(self, protocol: int, flow: bytes, now: float) -> bool:
        """Whether the backend has answered after all and its event is still on its way: then the
        connection stays where it is."""
        entry = self._kernel.look(protocol, flow)
        if entry is None or not entry.status & SEEN_REPLY or entry.tcp_state in REPLACEABLE:
            return False  # the last ones: of an earlier connection with the same ports
        self.counters["answered_late"] += 1
        self._steering.event(
            conntrack.UPDATE, protocol, flow, entry.reply_source, entry.status, now
        )
        return True

    def _refused(self, packet: Packet, now: float) -> bool:
        """Whether another backend gets the SYN that an RST came for."""
        answer = packet.flow
        flow = self._flows.get(answer) or self._older_flows.get(answer) or _reversed(answer)
        kept = self._recall(flow)
        if kept is None:
            return False
        decision = self._steering.refused(flow, now)
        return decision is not None and self._again(flow, kept, decision)

    def hedge(self, flow: bytes, decision: Decision, now: float) -> bool:
        """Send a SYN that has no answer yet to another backend; False when it is not kept, or has
        its answer."""
        kept = self._recall(flow)
        if kept is None:
            self._steering.unsent(flow)
            return False
        if self._answered(TCP, flow, now):
            return False
        return self._again(flow, kept, decision)

    def _again(self, flow: bytes, kept: tuple[bytes, int], decision: Decision) -> bool:
        packet, mark = kept
        self._kernel.delete(TCP, flow)
        self._flows[_answer(flow, decision.address, decision.port)] = flow
        sent = self._kernel.resend(packet, mark & ~self._mask | decision.slot << self._shift)
        self.counters["resent" if sent else "resend_failed"] += 1
        if not sent:
            self._steering.unsent(flow)
        return sent

    def answered(self, flow: bytes, source: bytes) -> None:
        """There was an answer from this address and port: its SYN will not be needed."""
        size = (len(flow) - 4) // 2
        answer = b"".join((source[:size], flow[:size], source[size:], flow[-4:-2]))
        if self._kept.pop(flow, None) is None:
            self._older.pop(flow, None)
        if self._flows.pop(answer, None) is None:
            self._older_flows.pop(answer, None)

    def _remember(self, flow: bytes, payload: bytes, mark: int, answer: bytes, now: float) -> None:
        packet = packets.whole(payload)
        if packet is None:
            return
        if now >= self._turn_at or len(self._kept) >= MAX_KEPT:
            self._older, self._kept = self._kept, {}
            self._older_flows, self._flows = self._flows, {}
            self._turn_at = now + KEEP_S
        self._kept[flow] = packet, mark
        self._flows[answer] = flow

    def _recall(self, flow: bytes) -> tuple[bytes, int] | None:
        return self._kept.get(flow) or self._older.get(flow)


def _answer(flow: bytes, backend: bytes, port: int) -> bytes:
    """The flow of an answer, when its destination is the client again and its source not yet the
    VIP: so it is seen in the chains INPUT and FORWARD of mangle.

    The answer of a backend on the client's own host is translated as it leaves, before INPUT: there
    its source is the VIP already (`_reversed`).
    """
    size = (len(flow) - 4) // 2
    return b"".join((backend, flow[:size], port.to_bytes(2, "big"), flow[-4:-2]))


def _reversed(flow: bytes) -> bytes:
    """The same flow in its other direction."""
    size = (len(flow) - 4) // 2
    return b"".join((flow[size:-4], flow[:size], flow[-2:], flow[-4:-2]))
