"""What becomes of a packet in a queue: the rules between NFQUEUE, conntrack and `steering`.

    SYN, first datagram   go on with the slot of their backend as mark
    SYN again             the same with another backend's, or without when all are closed: it had
                          none that answered, so its entry is deleted
    RST to a SYN          vanishes while another backend has not been tried. A SYN of this host is
                          sent again; one from elsewhere, a container's, is not, for it would go
                          round what the host does not let through: its client repeats it
    our own SYN again     goes on with the mark that it has
    anything else         goes on as it is

Whatever cannot be read, or has no backend, goes on as it is: what becomes of it is up to the rules
of the kernel.
"""

from collections import Counter
from typing import Protocol, TypeAlias

from . import conntrack, nfqueue, packets
from .channel import SteerSettings
from .conntrack import REPLACEABLE, SEEN_REPLY, Entry
from .netlink import Malformed
from .nfqueue import Waiting
from .packets import ACK, RST, SYN, TCP
from .steering import Decision, Steering

#: How many SYNs are kept to be sent again, and for how long at least, seconds.
MAX_KEPT, KEEP_S = 100_000, 4.0


#: A SYN that has no answer yet: its flow, the packet as far as it was copied, the mark that it came
#: with, and where it was sent last.  The packet is empty if it did not come from this host.
Kept: TypeAlias = tuple[bytes, bytes, int, Decision]


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

    Invariant: of a client's address and port at most one SYN is kept, the last that came.
    """

    def __init__(self, steering: Steering, settings: SteerSettings, kernel: Kernel) -> None:
        self.counters: Counter[str] = Counter()
        self._steering, self._kernel = steering, kernel
        self._mask = self._shift = 0
        self._keep = False
        #: By the client's address and port: the latest SYNs, and those before them.
        self._kept: dict[bytes, Kept] = {}
        self._older: dict[bytes, Kept] = {}
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
        queue, number, hook, mark, payload = waiting
        packet = packets.parse(payload)
        if packet is None:
            self.counters["unparsable"] += 1
            return nfqueue.accept(queue, number)
        protocol, flow, sequence, flags = packet
        if protocol != TCP or flags & (SYN | RST) == SYN:
            own = hook == nfqueue.OUTPUT
            if not (mark & self._mask and own):
                decision = self._steering.packet(protocol, flow, sequence, now, own)
                if decision is not None:
                    return self._decided(waiting, protocol, flow, decision, now)
            # else it is ours, sent again; the mark is what was decided
        elif flags & (RST | ACK) == RST | ACK and self._refused(flow, now):
            # without ACK it does not answer a SYN
            return nfqueue.drop(queue, number)
        return nfqueue.accept(queue, number)

    def _decided(
        self, waiting: Waiting, protocol: int, flow: bytes, decision: Decision, now: float
    ) -> bytes:
        queue, number, hook, mark, payload = waiting
        slot, _, _, again, mode, hedge_s = decision
        before = b""
        if again:
            if self._answered(protocol, flow, now):
                return nfqueue.accept(queue, number)
            if mode == "ctnetlink":
                self._kernel.delete(protocol, flow)
            else:
                before = conntrack.delete(protocol, flow)
        if mode == "refuse":
            self.answered(flow)
        elif protocol == TCP:
            if self._keep or hedge_s:
                payload = payload if hook == nfqueue.OUTPUT else b""
                self._remember(flow, payload, mark, decision, now)
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

    def _refused(self, answer: bytes, now: float) -> bool:
        """Whether another backend gets the SYN that an RST came for, now or when it comes again.

        answer: flow of the RST. Its destination is the client again. Its source is the backend, but
        in INPUT the VIP when the backend is on this host: that was translated as it left.
        """
        size = (len(answer) - 4) // 2
        kept = self._recall(answer[size:-4] + answer[-2:])
        source, port = answer[:size], answer[-4:-2]
        if kept is None:
            self._steering.refusal(source + port, answer[size:-4], now)
            return False
        flow, payload, _, backend = kept
        if (source, int.from_bytes(port, "big")) != (backend.address, backend.port) and (
            source + port != flow[size:-4] + flow[-2:]
        ):
            return False  # from one that had it before, and no longer has
        decision = self._steering.refused(flow, now, bool(payload))
        return decision is not None and (not payload or self._again(kept, decision))

    def hedge(self, flow: bytes, decision: Decision, now: float) -> bool:
        """Send a SYN that has no answer yet to another backend; False when it is not kept, or has
        its answer."""
        kept = self._recall(_client(flow))
        if kept is None or kept[0] != flow:
            self._steering.unsent(flow)
            return False
        if self._answered(TCP, flow, now):
            return False
        return self._again(kept, decision)

    def _again(self, kept: Kept, decision: Decision) -> bool:
        flow, payload, mark, _ = kept
        packet = packets.whole(payload)
        sent = False
        if packet is not None:
            self._kernel.delete(TCP, flow)
            self._kept[_client(flow)] = flow, packet, mark, decision
            sent = self._kernel.resend(packet, mark & ~self._mask | decision.slot << self._shift)
        self.counters["resent" if sent else "resend_failed"] += 1
        if not sent:
            self._steering.unsent(flow)
        return sent

    def answered(self, flow: bytes) -> None:
        """There was an answer: its SYN will not be needed."""
        client = _client(flow)
        kept = self._kept
        found = kept.get(client)
        if found is None:
            kept = self._older
            found = kept.get(client)
        if found is not None and found[0] == flow:
            del kept[client]

    def _remember(
        self, flow: bytes, payload: bytes, mark: int, decision: Decision, now: float
    ) -> None:
        if now >= self._turn_at or len(self._kept) >= MAX_KEPT:
            self._older, self._kept = self._kept, {}
            self._turn_at = now + KEEP_S
        self._kept[_client(flow)] = flow, payload, mark, decision

    def _recall(self, client: bytes) -> Kept | None:
        return self._kept.get(client) or self._older.get(client)


def unanswered(entry: Entry | None, backend: bytes) -> bool:
    """Whether an entry says that a SYN left this host for the backend, and no answer came.

    Conntrack has an entry only when the packet was through all of the host's rules. One that was
    answered may be of an established connection, whose ports somebody else claims to have.
    """
    return entry is not None and entry.reply_source == backend and not entry.status & SEEN_REPLY


def _client(flow: bytes) -> bytes:
    """Source address and port."""
    if len(flow) == 12:
        return flow[:4] + flow[8:10]
    return flow[:16] + flow[32:34]
