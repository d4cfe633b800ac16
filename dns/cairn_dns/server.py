"""A serving process: answers queries on the sockets that it was given, and does nothing else.

    python -m cairn_dns.server FD

FD is its end of a Unix socket pair to its parent (`control`, `io_workers`), which tells it the
settings and all that it knows; when the parent is gone it ends.  It reads no query before it has a
whole table, or was told that nothing is known yet.
"""

import asyncio
import gc
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import perf_counter

import uvloop

from cairn_core.kit.messages import Messages, message

from .answer import Answerer, Foreign
from .compat import CompatAnswerer
from .control import (
    ASK,
    SETTINGS,
    STATS,
    UPDATE,
    ServerSettings,
    decode_settings,
    encode_stats,
)  # fmt: skip
from .io_forward import Forwarder
from .io_mmsg import Client
from .io_tcp import TcpLimits, TcpServer
from .io_udp import UdpServer
from .rate import Limiter
from .stats import Histogram, Stats
from .table import Table, decode_update
from .transfer import Transfers

STATS_S = 1.0
#: Bytes taken from the parent at once.
READ_BYTES = 256 * 1024
#: Entries of an earlier table that are freed at once.
FREE_ENTRIES = 2000
#: Queries that a TCP connection may carry, as Mesos-DNS has it.
COMPAT_QUERIES = 128


class Server:
    """All parts of a serving process.

    Invariant: between two updates the loop has its turn, so no query waits for more than one.
    """

    def __init__(self, control: socket.socket) -> None:
        self.table = Table()
        self._loop = asyncio.get_running_loop()
        self._control, self._messages = control, Messages()
        self._stop, self._asked = asyncio.Event(), asyncio.Event()
        self._serving: list[asyncio.Task[None]] = []
        self._udp: list[UdpServer] = []
        self._tcp: list[TcpServer] = []
        self._others: Counter[tuple[str, str, str]] = Counter()
        self._forwarder = Forwarder()
        self._transfers = Transfers(self.table, ())
        self._settings: ServerSettings | None = None
        self._updates, self._update_max_s = 0, 0.0

    async def run(self) -> None:
        """Serve until the parent is gone."""
        self._loop.add_reader(self._control.fileno(), self._readable)
        reporting = self._loop.create_task(self._report())
        try:
            await self._stop.wait()
        finally:
            self._loop.remove_reader(self._control.fileno())
            reporting.cancel()
            await asyncio.gather(reporting, *self._serving, return_exceptions=True)
            await self._forwarder.close()

    # -- what the parent says ----------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = self._control.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop.set()
            return
        self._messages.feed(data)
        self._loop.remove_reader(self._control.fileno())
        self._next()

    def _next(self) -> None:
        """Handle one message, and the next one when queries have had their turn."""
        found = self._messages.next()
        if found is None:
            if not self._stop.is_set():
                self._loop.add_reader(self._control.fileno(), self._readable)
            return
        kind, data = found
        if kind == UPDATE:
            started = perf_counter()
            update = decode_update(data)
            self.table.apply(update)
            self._updates += 1
            self._update_max_s = max(self._update_max_s, perf_counter() - started)
            if update.done:
                self._start()
                self._free()
        elif kind == SETTINGS:
            self._take(decode_settings(data))
        elif kind == ASK:
            self._asked.set()
        self._loop.call_soon(self._next)

    def _free(self) -> None:
        """Free an earlier table, between queries."""
        if self.table.free(FREE_ENTRIES):
            self._loop.call_soon(self._free)

    def _take(self, settings: ServerSettings) -> None:
        """Take settings; sockets only once."""
        first, self._settings = self._settings is None, settings
        self._forwarder.set(
            settings.resolvers, settings.zone_resolvers, settings.forward_clients,
            settings.timeout_s,
        )  # fmt: skip
        self._transfers.allow(() if settings.compat else settings.allow_transfer)
        answerer: Answerer
        if settings.compat:
            answerer = CompatAnswerer(
                self.table,
                random.Random(),
                recursion_available=settings.recursion_available,
                truncate=settings.truncate,
            )
        else:
            answerer = Answerer(
                self.table,
                recursion_available=settings.recursion_available,
                truncate=settings.truncate,
            )
        answerer.others = self._others
        limits = TcpLimits(
            settings.tcp_connections,
            settings.tcp_connections_per_client,
            settings.tcp_queries or (COMPAT_QUERIES if settings.compat else 0),
        )
        if first:
            for number in settings.udp:
                self._udp.append(UdpServer(_socket(number), answerer, self._foreign_udp))
            for number in settings.tcp:
                self._tcp.append(
                    TcpServer(_socket(number), answerer, self._foreign_tcp, transfer=self._transfer)
                )
        limiter = Limiter(settings.rate_limit, settings.forward_clients)
        for udp in self._udp:
            udp.answerer, udp.limiter = answerer, limiter if settings.rate_limit else None
        for tcp in self._tcp:
            tcp.answerer, tcp.limits = answerer, limits

    def _start(self) -> None:
        """Read queries."""
        if not self._serving:
            runs = [one.run for one in self._udp] + [one.run for one in self._tcp]
            self._serving = [self._loop.create_task(run(self._stop)) for run in runs]

    # -- what is not answered from the table -------------------------------------------------------

    def _foreign_udp(
        self, query: bytes, reply: Foreign, client: Client, send: Callable[[bytes], None]
    ) -> None:
        self._forwarder.handle(query, reply, client, send)

    def _foreign_tcp(
        self, query: bytes, reply: Foreign, client: Client, send: Callable[[bytes], None]
    ) -> None:
        self._forwarder.handle(query, reply, client, send, tcp=True)

    def _transfer(self, query: bytes, client: Client) -> Iterator[bytes] | None:
        if self._settings is None or self._settings.compat:
            return None
        return self._transfers.begin(query, client.host)

    # -- what the parent is told -------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), STATS_S)
            self._asked.clear()
            # what is young only: the table has no cycles, and to look through it takes long
            gc.collect(1)
            try:
                await self._loop.sock_sendall(
                    self._control, message(STATS, encode_stats(self.stats()))
                )
            except OSError:
                self._stop.set()
                return

    def stats(self) -> Stats:
        """Counts since the start."""
        forwarder, transfers = self._forwarder, self._transfers
        answers = [(*label, "NOERROR", count) for label, count in self.table.counted().items()]
        answers += [(*label, count) for label, count in self._others.items()]
        counts = {
            "udp": sum(one.queries for one in self._udp),
            "tcp": sum(one.queries for one in self._tcp),
            "rate_limited": sum(one.limited for one in self._udp),
            "unsent": sum(one.unsent for one in self._udp),
            "forwarded": forwarder.forwarded,
            "forward_failed": forwarder.failed,
            "forward_refused": forwarder.refused,
            "forward_overload": forwarder.overload,
            "tcp_accepted": sum(one.accepted for one in self._tcp),
            "tcp_refused": sum(one.refused for one in self._tcp),
            "tcp_cut": sum(one.cut for one in self._tcp),
            "transfers": transfers.begun,
            "transfers_refused": transfers.refused,
            "updates": self._updates,
        }
        gauges = {
            "entries": float(len(self.table.entries)),
            "tcp_open": float(sum(len(one.open) for one in self._tcp)),
            "update_max_s": self._update_max_s,
        }
        latency = sum((one.latency for one in self._udp), Histogram())
        return Stats(answers, counts, gauges, latency)


def _socket(number: int) -> socket.socket:
    sock = socket.socket(fileno=number)
    sock.setblocking(False)
    return sock


async def _main(number: int) -> None:
    control = _socket(number)
    with control:
        await Server(control).run()


def main() -> None:
    """Serve until the parent is gone; only that ends it, lest a signal to all stops answers
    before their parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.disable()
    uvloop.run(_main(int(sys.argv[1])))


if __name__ == "__main__":
    main()
