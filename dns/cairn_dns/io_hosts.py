"""Addresses that only the system knows: those of hosts called by name, and our own.

Found names are asked again after a minute, and kept while they cannot be resolved.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from .addresses import Address

log = logging.getLogger(__name__)

#: Seconds until a name is resolved again.
AGAIN_S = 60.0
#: Names that are looked up; a cluster names few hosts by name.
MAX_NAMES = 1000
#: Look-ups at a time.  Each is a thread that nobody can end, half a minute where no server answers.
AT_ONCE = 128
#: Of these, look-ups of names that failed last: silent ones leave places for new ones.
AGAIN_AT_ONCE = 32


async def look_up(name: str) -> tuple[Address, ...]:
    """Addresses of a name, as the system finds them.  Raises OSError, UnicodeError.

    In a thread of its own, for which nobody waits at the end: it may be silent for long.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[tuple[Address, ...]] = loop.create_future()

    def settle(addresses: tuple[Address, ...], error: Exception | None) -> None:
        if found.cancelled():
            return
        if error is None:
            found.set_result(addresses)
        else:
            found.set_exception(error)

    def work() -> None:
        addresses: tuple[Address, ...] = ()
        problem = None
        try:
            answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            texts = (str(answer[4][0]).partition("%")[0] for answer in answers)
            addresses = tuple(dict.fromkeys(ip_address(text).packed for text in texts))
        except Exception as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, addresses, problem)

    try:
        threading.Thread(target=work, name="hosts", daemon=True).start()
    except RuntimeError as error:
        raise OSError(str(error)) from None
    return await found


class HostTable:
    """Names that are wanted, and their addresses.  Each name is looked up apart from the others.

    changed: called in the event loop when an address changed. look_up: gives the addresses of a
    name; raises OSError or UnicodeError.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        look_up: Callable[[str], Awaitable[tuple[Address, ...]]] = look_up,
    ) -> None:
        self.addresses: dict[str, tuple[Address, ...]] = {}
        self._wanted: set[str] = set()
        self._changed = changed
        self._look_up = look_up
        #: Who is looking after which name; all that are wanted, once `run` has begun.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: Names whose look-up is under way.
        self._looking: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self._places = asyncio.Semaphore(AT_ONCE)
        self._again = asyncio.Semaphore(AGAIN_AT_ONCE)

    def want(self, names: Iterable[str]) -> None:
        """Have these names resolved, and no others; of too many, those wanted before come first."""
        asked = set(names)
        wanted = self._wanted & asked
        new = sorted(asked - wanted)
        wanted.update(new[: MAX_NAMES - len(wanted)])
        for gone in self._wanted - wanted:
            self.addresses.pop(gone, None)
            # A look-up under way cannot be ended; its task sees then that nobody wants it.
            if gone in self._tasks and gone not in self._looking:
                self._tasks.pop(gone).cancel()
        self._wanted = wanted
        self._begin()

    async def run(self, stop: asyncio.Event) -> None:
        """Resolve until `stop`."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._begin()
            try:
                await stop.wait()
            finally:
                self._group = None
                for task in self._tasks.values():
                    task.cancel()

    def _begin(self) -> None:
        if self._group is not None:
            for name in sorted(self._wanted - self._tasks.keys()):
                self._tasks[name] = self._group.create_task(self._follow(name), name=f"host {name}")

    async def _follow(self, name: str) -> None:
        """Look a name up now and then, until nobody wants it."""
        failed = False
        try:
            while name in self._wanted:
                async with self._again if failed else contextlib.nullcontext(), self._places:
                    failed = not await self._resolve(name)
                if name in self._wanted:
                    await asyncio.sleep(AGAIN_S)
        finally:
            # `want` may have begun anew meanwhile
            if self._tasks.get(name) is asyncio.current_task():
                del self._tasks[name]

    async def _resolve(self, name: str) -> bool:
        """Look a name up once; False when that failed."""
        self._looking.add(name)
        try:
            addresses = await self._look_up(name)
        except (OSError, UnicodeError) as error:
            if name in self._wanted and name not in self.addresses:
                self.addresses[name] = ()
                log.warning("host not resolved name=%s reason=%s", name, error)
            return False
        finally:
            self._looking.discard(name)
        if name in self._wanted and self.addresses.get(name) != addresses:
            self.addresses[name] = addresses
            self._changed()
        return True


def own_addresses(listeners: Sequence[str], proc: Path = Path("/proc/net")) -> tuple[Address, ...]:
    """Addresses for our own name: those we listen on, for 0.0.0.0 and :: those of all interfaces.

    Compat: neither loopback nor (Differs) link-local ones, which nobody else can use.
    """
    found: dict[Address, None] = {}
    for listener in listeners:
        address = ip_address(listener)
        if not address.is_unspecified:
            found[address.packed] = None
            continue
        for text in _local_addresses(proc):
            local = ip_address(text)
            if not local.is_loopback and not local.is_link_local:
                found[local.packed] = None
    return tuple(found)


def resolv_conf_servers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """Name servers of this host that are others than ourselves."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        log.warning("no resolvers known file=%s reason=%s", path, error)
        return []
    local = set(_local_addresses(Path("/proc/net")))
    words = [line.split() for line in lines]
    servers = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    # a configuration that names one twice is refused
    return [one for one in dict.fromkeys(servers) if _is_address(one) and one not in local]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _local_addresses(proc: Path) -> list[str]:
    """Every address of every interface, as the kernel's tables show them."""
    found: dict[str, None] = {}
    last = ""
    for line in _lines(proc / "fib_trie"):
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found[last] = None
    for line in _lines(proc / "if_inet6"):
        found[str(ip_address(bytes.fromhex(line.split()[0])))] = None
    return list(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # no such family in this kernel
