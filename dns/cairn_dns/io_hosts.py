"""Addresses that only the system knows: those of hosts called by name, and our own.

Found names are asked again after a minute, and kept while they cannot be resolved.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from .addresses import Address

log = logging.getLogger(__name__)

#: Seconds until a name is resolved again.
AGAIN_S = 60.0
#: Seconds for one look-up.
TIMEOUT_S = 10.0
#: Names that are looked up; a cluster names few hosts by name.
MAX_NAMES = 1000
#: Look-ups at a time: a silent server of one domain must not hold up the others.
AT_ONCE = 8


class HostTable:
    """Names that are wanted, and their addresses.

    changed: called in the event loop when an address changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.addresses: dict[str, tuple[Address, ...]] = {}
        self._wanted: set[str] = set()
        self._new = asyncio.Event()
        self._changed = changed
        self._places = asyncio.Semaphore(AT_ONCE)

    def want(self, names: Iterable[str]) -> None:
        """Have these names resolved, and no others."""
        wanted = set(sorted(names)[:MAX_NAMES])
        if wanted - self._wanted:
            self._new.set()
        for gone in self._wanted - wanted:
            self.addresses.pop(gone, None)
        self._wanted = wanted

    async def run(self, stop: asyncio.Event) -> None:
        """Resolve until `stop`."""
        stopping = asyncio.create_task(stop.wait(), name="hosts-stop")
        try:
            while not stop.is_set():
                self._new.clear()
                looking = asyncio.gather(*map(self._resolve, sorted(self._wanted)))
                waiting: set[asyncio.Future[Any]] = {stopping, looking}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if not looking.done():
                    looking.cancel()
                    await asyncio.gather(looking, return_exceptions=True)
                    return
                looking.result()
                new = asyncio.create_task(self._new.wait(), name="hosts-new")
                await asyncio.wait(
                    {stopping, new}, timeout=AGAIN_S, return_when=asyncio.FIRST_COMPLETED
                )
                new.cancel()
        finally:
            stopping.cancel()

    async def _resolve(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._places, asyncio.timeout(TIMEOUT_S):
                found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if name not in self.addresses:
                self.addresses[name] = ()
                log.warning("host not resolved name=%s reason=%s", name, error)
            return
        texts = (str(info[4][0]).partition("%")[0] for info in found)
        addresses = tuple(dict.fromkeys(ip_address(text).packed for text in texts))
        if name in self._wanted and self.addresses.get(name) != addresses:
            self.addresses[name] = addresses
            self._changed()


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
    return [server for server in servers if _is_address(server) and server not in local]


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
