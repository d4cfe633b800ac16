"""Serving processes from outside: starts them, tells them everything, replaces those that die.

send(update) --> queue of each --> socket pair --> `server`
whole()      --> those that know nothing yet, or were too slow; all at once
             <-- Stats
"""

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from cairn_core.errors import Unavailable, cause
from cairn_core.kit.messages import message

from .control import SETTINGS, UPDATE, ServerSettings, encode_settings
from .io_tcp import bind_tcp
from .io_udp import bind_udp
from .io_worker import ENOUGH_BYTES, Worker
from .stats import Stats, total
from .table import Update, encode_update

#: How long a sender waits for the slowest one, seconds.
PATIENCE_S = 2.0
#: Ports that are tried where any will do.
FREE_PORT_TRIES = 10


def bind_listeners(addresses: Sequence[str], port: int, count: int) -> list[socket.socket]:
    """Sockets for `count` serving processes: for each address as many for UDP, and for TCP.

    port: 0 takes a free one, the same for all.  Raises Unavailable with address and port.
    """
    for tries_left in reversed(range(FREE_PORT_TRIES if not port else 1)):
        with contextlib.ExitStack() as opened:
            used, found = port, list[socket.socket]()
            wanted = [(address, bind) for address in addresses for bind in (bind_udp, bind_tcp)]
            try:
                for address, bind in wanted * count:
                    found.append(bind(address, used, reuse_port=count > 1))
                    opened.enter_context(found[-1])
                    used = used or found[0].getsockname()[1]
            except OSError as error:
                if tries_left:  # free for the first socket was not free for all
                    continue
                raise Unavailable(
                    f"cannot listen on {address} port {used}: {cause(error)}"
                ) from None
            opened.pop_all()
            return found
    raise AssertionError("not reached")


def share(sockets: Iterable[socket.socket], count: int) -> list[list[socket.socket]]:
    """The sockets of each of `count` serving processes.

    Of those of one kind and address each gets every count-th; where there are fewer than
    processes, several share one.
    """
    groups: dict[tuple[object, ...], list[socket.socket]] = defaultdict(list)
    for sock in sockets:
        groups[sock.family, sock.type, sock.getsockname()].append(sock)
    shares: list[list[socket.socket]] = [[] for _ in range(count)]
    for group in groups.values():
        for number, mine in enumerate(shares):
            mine += group[number::count] or [group[number % len(group)]]
    return shares


class Workers:
    """The serving processes.

    whole: gives a whole table as it is now; asked once for all that need it at that time.
    The sockets stay open, and keep queries, while a process is replaced; they are closed when
    `run` ends.

    Invariant: a serving process has got, or will get, a whole table and every update sent since
    that was begun.
    """

    def __init__(
        self,
        count: int,
        settings: ServerSettings,
        sockets: Sequence[socket.socket],
        whole: Callable[[], Iterable[Update]],
    ) -> None:
        #: Serving processes that died, and how often one was too slow for what was sent.
        self.deaths = self.given_up = 0
        self._settings, self._sockets, self._whole = settings, sockets, whole
        self._need, self._serving = asyncio.Event(), asyncio.Event()
        self._dead = Stats()
        self._workers = [Worker(mine, self) for mine in share(sockets, count)]

    async def run(self, stop: asyncio.Event) -> None:
        """Keep them running until `stop`."""
        tasks = [asyncio.create_task(worker.run()) for worker in self._workers]
        tasks += [asyncio.create_task(self._feed()), asyncio.create_task(_wait(stop))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(worker.end() for worker in self._workers))
            for sock in self._sockets:
                sock.close()

    async def send(self, update: Update) -> None:
        """Tell all; waits a little for those that are slow."""
        data = message(UPDATE, encode_update(update))
        for worker in self._workers:
            worker.put(data)
        await _drained(self._workers)

    def reconfigure(self, settings: ServerSettings) -> None:
        """Take other settings, without a restart."""
        self._settings = settings
        for worker in self._workers:
            worker.configure()

    def refresh(self) -> None:
        """Let all have a whole table again."""
        for worker in self._workers:
            worker.forget()

    async def serving(self) -> None:
        """Wait until one answers."""
        await self._serving.wait()

    @property
    def alive(self) -> int:
        """Serving processes that answer."""
        return sum(worker.serves for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of those that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def stats(self) -> Stats:
        """Counts of all, those that died included; at most a second old."""
        return total(self._dead, [worker.stats for worker in self._workers])

    async def _feed(self) -> None:
        """Give a whole table to those that need one."""
        while True:
            await self._need.wait()
            self._need.clear()
            needy = [worker for worker in self._workers if worker.begin()]
            for update in self._whole() if needy else ():
                data = message(UPDATE, encode_update(update))
                needy = [worker for worker in needy if worker.put_whole(data)]
                await _drained(needy)
                await asyncio.sleep(0)
                if not needy:
                    break
            for worker in needy:
                worker.finish()

    # -- called by a worker ------------------------------------------------------------------------

    def settings_for(self, sockets: Sequence[socket.socket]) -> bytes:
        """The message with the settings of one that has these sockets."""
        numbers: dict[str, list[int]] = {
            name: [sock.fileno() for sock in sockets if sock.type == kind]
            for name, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM))
        }
        return message(SETTINGS, encode_settings(replace(self._settings, **numbers)))

    def hungry(self) -> None:
        """One needs a whole table."""
        self._need.set()

    def serves(self) -> None:
        """One answers."""
        self._serving.set()

    def gave_up(self) -> None:
        """One was too slow."""
        self.given_up += 1

    def died(self, stats: Stats) -> None:
        """One has died; what it had counted stays."""
        self.deaths += 1
        self._dead = total(self._dead, [stats])


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _drained(workers: Iterable[Worker]) -> None:
    """Wait until none of them has much left to take, but for each only once for long."""
    full = [worker for worker in workers if worker.waiting > ENOUGH_BYTES and not worker.slow]
    if full:
        try:
            async with asyncio.timeout(PATIENCE_S):
                for worker in full:
                    await worker.taken.wait()
        except TimeoutError:
            for worker in full:
                worker.slow = not worker.taken.is_set()
