"""Forwards queries of `cairn-dns` for names that are not ours, for the clients that may ask."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from .answer import Foreign
from .io_exchange import Server, exchange
from .io_mmsg import Client
from .networks import Networks
from .wire import HEADER_BYTES, question_end, wire_name

#: Exchanges of a forwarder under way at once; further queries fail at once.
MAX_UNDER_WAY = 1024


class Forwarder:
    """Forwards queries for names that are not ours: one server after the other, unchanged.

    The next one is asked when a server cannot be reached or does not answer; what one answers is
    final, whatever it says.  Of `zones` the most specific one that a name is in counts.

    clients: networks whose queries are forwarded. timeout_s: for one server, seconds.
    """

    def __init__(self) -> None:
        #: Queries forwarded; of these those that nobody answered; queries that were refused, and
        #: queries that were too many.
        self.forwarded = self.failed = self.refused = self.overload = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.set((), {}, (), 5.0)

    def set(
        self,
        servers: Sequence[Server],
        zones: Mapping[str, Sequence[Server]],
        clients: Sequence[str],
        timeout_s: float,
    ) -> None:
        """Take other settings, for queries that come from now on."""
        self._servers = tuple(servers)
        self._zones = {wire_name(zone): tuple(found) for zone, found in zones.items()}
        self._clients = Networks(clients)
        self._timeout_s = timeout_s

    def handle(
        self,
        query: bytes,
        reply: Foreign,
        client: Client,
        send: Callable[[bytes], None],
        *,
        tcp: bool = False,
    ) -> None:
        """Answer a query later, or refuse it now."""
        servers = self.servers_of(query)
        if not servers or client.host not in self._clients:
            self.refused += 1
            send(reply.refused)
            return
        if len(self._tasks) >= MAX_UNDER_WAY:
            self.overload += 1
            send(reply.failed)
            return
        self.forwarded += 1
        task = asyncio.get_running_loop().create_task(
            self._forward(query, reply, servers, send, tcp)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def servers_of(self, query: bytes) -> tuple[Server, ...]:
        """Who is asked.  `query`: well-formed."""
        if self._zones:
            end = question_end(query) or HEADER_BYTES + 5
            name = query[HEADER_BYTES : end - 4].lower()
            while name:
                if name in self._zones:
                    return self._zones[name]
                name = name[1 + name[0] :]
        return self._servers

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(
        self,
        query: bytes,
        reply: Foreign,
        servers: Sequence[Server],
        send: Callable[[bytes], None],
        tcp: bool,
    ) -> None:
        for server in servers:
            try:
                send(await exchange(query, server, tcp, self._timeout_s))
                return
            except (OSError, EOFError):  # TimeoutError is an OSError
                continue
        self.failed += 1
        send(reply.failed)
