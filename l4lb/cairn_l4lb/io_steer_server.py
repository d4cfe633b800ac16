"""The steering process: reads the queues and conntrack's events, and does nothing else.

    python -m cairn_l4lb.io_steer_server FD

FD is its end of a Unix socket pair to the controlling process (`channel`, `io_steer`).  One thread,
no event loop but epoll: what waits in the queues always goes first, and of all else only so much is
done at once that a SYN does not wait for it.
"""

import contextlib
import ctypes
import gc
import os
import random
import select
import signal
import socket
import sys
from time import monotonic

from msgspec.structs import replace

from cairn_core.errors import cause
from cairn_core.kit.messages import Messages, message

from . import channel, conntrack
from .channel import SteerSettings
from .conntrack import SEEN_REPLY, Entry
from .io_conntrack import Entries, Events
from .io_queue import Queues
from .io_resend import Resender
from .io_sources import Sources
from .netlink import Malformed
from .steering import Steering
from .verdicts import Verdicts, unanswered

#: Packets decided on before their verdicts are sent, and events read at once.
MAX_PACKETS, MAX_EVENTS = 32, 128
#: To look for more than there is costs as much as a packet does, so nobody looks for more than
#: there was last time, until so many times in turn there was all of that.
FULL_TIMES = 8
#: The clock of connections without answer ticks not more often, seconds.
TICK_S = 0.02
#: A report comes at least so often, to show that we live; one about a backend that opened or
#: closed comes at once, but not more often than this.
IDLE_REPORT_S, URGENT_REPORT_S = 0.5, 0.02
#: The queues are empty when nothing came for so long; they are given up after so long, seconds.
DRAINED_S, MAX_DRAIN_S = 0.05, 2.0
_READ_BYTES = 256 * 1024
_NICE = -10
_PR_SET_PDEATHSIG = 1


class Burst:
    """How many messages are looked for at a time: as many as there were, and more when they wait.

    Invariant: 1 <= size <= most.
    """

    def __init__(self, most: int) -> None:
        self.size = 1
        self._most = most
        self._full = 0

    def note(self, found: int) -> None:
        """So many were there."""
        if found < self.size:
            self.size, self._full = max(1, found), 0
        elif self._full < FULL_TIMES:
            self._full += 1
        else:
            self.size, self._full = min(2 * self.size, self._most), 0


class HostKernel:
    """What verdicts need of the kernel (`verdicts.Kernel`)."""

    def __init__(self, rng: random.Random) -> None:
        self._entries, self._resender = Entries(), Resender()
        self._rng = rng
        self._sources: Sources | None = None

    def look(self, protocol: int, flow: bytes) -> Entry | None:
        """The conntrack entry of a flow."""
        return self._entries.look(protocol, flow)

    def sent(self, protocol: int, flow: bytes, backend: bytes) -> bool:
        """Whether a SYN left for this backend and is not answered (`Steering`)."""
        return unanswered(self.look(protocol, flow), backend)

    def delete(self, protocol: int, flow: bytes) -> None:
        """Delete it, if it is there."""
        self._entries.delete(protocol, flow)

    def create(self, flow: bytes, backend: bytes, port: int, mark: int) -> bool:
        """Make it, with the source that the backend is to see."""
        if self._sources is None:
            self._sources = Sources(self._rng)
        client = flow[: (len(flow) - 4) // 2]
        source = self._sources.choose(client, backend, monotonic())
        if source is None:
            return False
        return self._entries.create(flow, source, backend, port, mark)

    def resend(self, packet: bytes, mark: int) -> bool:
        """Send a packet again, with this mark."""
        return self._resender.send(packet, mark)


class Server:
    """All parts of the steering process."""

    def __init__(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control, self._messages = control, Messages()
        self._more = False
        self._unsent = b""
        self._poll = select.epoll()
        self._settings: SteerSettings | None = None
        self._steering: Steering | None = None
        self._verdicts: Verdicts | None = None
        self._queues: Queues | None = None
        self._events: Events | None = None
        self._lost_packets = self._lost_events = self._bad_events = 0
        self._packet_burst, self._event_burst = Burst(MAX_PACKETS), Burst(MAX_EVENTS)
        self._active = self._ended = False
        #: Ticks and reports are due not before; whatever comes from outside brings it near.
        self._check_at = float("inf")
        self._last_tick = self._last_report = 0.0
        self._busy_poll_s = self._awake_until = 0.0
        self._poll.register(control.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until the controlling process is gone, or lets us end.  Raises OSError, Unavailable for
        queues that cannot be had."""
        control = self._control.fileno()
        while not self._ended:
            # no code of signals, threads or loops between a packet and its verdict
            ready = {number for number, _ in self._poll.poll(self._wait())}
            now = monotonic()
            if self._queues is not None and self._queues.fileno() in ready:
                self._packets(now)
            if self._events is not None and self._events.fileno() in ready:
                self._take_events(now)
            if control in ready:
                self._heard()
            elif self._more:
                self._next_message()
            if now >= self._check_at:
                self._on_time(now)
            elif ready:
                self._check_at = min(self._check_at, now + TICK_S)

    def _wait(self) -> float | None:
        """How long to wait for something to come, seconds; None: until it comes."""
        if self._more:
            return 0.0
        if self._steering is None:
            return None
        now = monotonic()
        return 0.0 if now < self._awake_until else max(0.0, self._check_at - now)

    # -- packets and events ------------------------------------------------------------------------

    def _packets(self, now: float) -> int:
        """Decide on what waits; how many there were."""
        queues, verdicts = self._queues, self._verdicts
        if queues is None or verdicts is None:
            return 0
        decide = verdicts.verdict
        out: list[bytes] = []
        try:
            for data in queues.receive(self._packet_burst.size):
                out.append(decide(data, now))
        except OSError:
            self._lost_packets += 1  # ENOBUFS: they passed, or vanished, without us
        if out:
            self._send_verdicts(queues, out)
            self._active = True
            self._awake_until = now + self._busy_poll_s
        self._packet_burst.note(len(out))
        return len(out)

    def _send_verdicts(self, queues: Queues, out: list[bytes]) -> None:
        data = b"".join(out)
        if not data:  # what came were answers of the kernel's, which wait for nothing
            return
        try:
            queues.send(data)
        except OSError as error:
            _say(f"verdicts cannot be sent: {cause(error)}")

    def _take_events(self, now: float) -> None:
        events, steering, verdicts = self._events, self._steering, self._verdicts
        if events is None or steering is None or verdicts is None:
            return
        self._active = True
        parse, tell = conntrack.parse_event, steering.event
        found = 0
        try:
            for data in events.receive(self._event_burst.size):
                found += 1
                try:
                    event = parse(data)
                except Malformed:
                    self._bad_events += 1
                    continue
                if event is None:
                    continue
                kind, protocol, flow, reply_source, status = event
                if status & SEEN_REPLY and kind == conntrack.UPDATE:
                    verdicts.answered(flow)
                tell(kind, protocol, flow, reply_source, status, now)
        except OSError:
            self._lost_events += 1  # ENOBUFS: time will tell of them
        self._event_burst.note(found)

    # -- what the controlling process says ---------------------------------------------------------

    def _heard(self) -> None:
        self._send_unsent()
        try:
            data = self._control.recv(_READ_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._ended = True
        elif data:
            self._messages.feed(data)
            self._next_message()

    def _next_message(self) -> None:
        """One message; the next one after packets have had their turn."""
        found = self._messages.next()
        self._more = found is not None
        if found is None:
            return
        kind, data = found
        now = monotonic()
        if kind == channel.SETTINGS:
            self._configure(channel.decode_settings(data), now)
        elif self._steering is None:
            return
        elif kind == channel.UPDATE:
            self._steering.update(channel.decode_update(data), now)
            self._active = True
        elif kind == channel.READY:
            self._tell(channel.READY)
        elif kind == channel.ASK:
            answer = self._steering.explain(channel.decode_question(data), now)
            self._tell(channel.ANSWER, channel.encode(answer))
        elif kind == channel.DRAIN:
            self._drain()

    def _configure(self, settings: SteerSettings, now: float) -> None:
        old, self._settings = self._settings, settings
        self._busy_poll_s = settings.busy_poll_s
        if self._steering is None or self._verdicts is None:
            self._start(settings, now)
            return
        self._steering.configure(settings, now)
        self._verdicts.configure(settings)
        if old is None or self._queues is None or self._events is None:
            return
        if old.mark_mask != settings.mark_mask:
            self._events.filter(settings.mark_mask)
        if old.queues != settings.queues:
            self._poll.unregister(self._queues.fileno())
            self._queues.close()
            self._bind(settings)
        elif (old.queue_length, old.fail_open) != (settings.queue_length, settings.fail_open):
            self._queues.configure(settings.queue_length, settings.fail_open)

    def _start(self, settings: SteerSettings, now: float) -> None:
        rng = random.Random(settings.seed)
        kernel = HostKernel(rng)
        self._steering = Steering(settings, rng, now, kernel.sent)
        self._verdicts = Verdicts(self._steering, settings, kernel)
        self._events = Events(settings.mark_mask)
        self._poll.register(self._events.fileno(), select.EPOLLIN)
        self._bind(settings)
        # what is here now stays; with the collector off nothing that grows is looked through
        gc.collect()
        gc.freeze()
        self._check_at = now

    def _bind(self, settings: SteerSettings) -> None:
        first, last = settings.queues
        self._queues = Queues(first, last, settings.queue_length, settings.fail_open)
        self._poll.register(self._queues.fileno(), select.EPOLLIN)

    def _drain(self) -> None:
        """Decide on what still waits, then end."""
        until = monotonic() + MAX_DRAIN_S
        with select.epoll() as poll:
            if self._queues is not None:
                poll.register(self._queues.fileno(), select.EPOLLIN)
            while (now := monotonic()) < until and poll.poll(DRAINED_S):
                self._packets(now)
        self._ended = True

    # -- time, and what the controlling process is told --------------------------------------------

    def _tick_at(self) -> float:
        due = self._steering.due() if self._steering is not None else None
        return float("inf") if due is None else max(due, self._last_tick + TICK_S)

    def _report_at(self) -> float:
        if self._unsent or self._steering is None or self._settings is None:
            return self._last_report + IDLE_REPORT_S
        if self._steering.urgent:
            return self._last_report + URGENT_REPORT_S
        return self._last_report + (self._settings.report_s if self._active else IDLE_REPORT_S)

    def _on_time(self, now: float) -> None:
        steering, verdicts = self._steering, self._verdicts
        if steering is None or verdicts is None:
            return
        if now >= self._tick_at():
            self._last_tick = now
            for flow, decision in steering.tick(now):
                verdicts.hedge(flow, decision, now)
        if now >= self._report_at():
            self._report(now)
        self._check_at = min(self._tick_at(), self._report_at())

    def _report(self, now: float) -> None:
        steering, verdicts = self._steering, self._verdicts
        self._last_report = now
        self._send_unsent()
        if self._unsent or steering is None or verdicts is None:
            return  # what changed is told when the controlling process listens again
        found = steering.report(now)
        own = {
            **verdicts.counters,
            "lost_packets": self._lost_packets,
            "lost_events": self._lost_events,
            "bad_events": self._bad_events,
        }
        found = replace(found, counters={**found.counters, **own})
        self._tell(channel.REPORT, channel.encode(found))
        if not self._active:
            gc.collect(1)
        self._active = False

    def _tell(self, kind: bytes, data: bytes = b"") -> None:
        self._unsent += message(kind, data)
        self._send_unsent()

    def _send_unsent(self) -> None:
        while self._unsent:
            try:
                sent = self._control.send(self._unsent)
            except BlockingIOError:
                return
            except OSError:
                self._ended = True
                return
            self._unsent = self._unsent[sent:]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Steer until the controlling process is gone; only that ends it, lest a signal to all stops
    verdicts before their controller does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        os.nice(_NICE)  # a SYN waits for us, and work that is not urgent does not
    gc.disable()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        try:
            Server(control).run()
        except Exception as error:
            _say(f"steering process ends: {cause(error)}")
            raise SystemExit(1) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
