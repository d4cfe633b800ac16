"""Addresses of hosts that the cluster names by host name, as this system resolves them.

Found names are asked again after a minute, and kept while they cannot be resolved.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from .records import Address

log = logging.getLogger(__name__)

#: Seconds until a name is resolved again.
AGAIN_S = 60.0
#: Seconds for one look-up.
TIMEOUT_S = 10.0
#: Names that are looked up; a cluster names few hosts by name.
MAX_NAMES = 1000


class HostTable:
    """Names that are wanted, and their addresses.

    changed: called in the event loop when an address changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.addresses: dict[str, tuple[Address, ...]] = {}
        self._wanted: set[str] = set()
        self._new = asyncio.Event()
        self._changed = changed

    def want(self, names: Iterable[str]) -> None:
        """Have these names resolved, and no others."""
        wanted = set(sorted(names)[:MAX_NAMES])
        if wanted - self._wanted:
            self._new.set()
        self._wanted = wanted

    async def run(self, stop: asyncio.Event) -> None:
        """Resolve until `stop`."""
        stopping = asyncio.create_task(stop.wait(), name="hosts-stop")
        try:
            while not stop.is_set():
                self._new.clear()
                for name in sorted(self._wanted):
                    await self._resolve(name)
                    if stop.is_set():
                        return
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
            async with asyncio.timeout(TIMEOUT_S):
                found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if name not in self.addresses:
                self.addresses[name] = ()
                log.warning("host not resolved name=%s reason=%s", name, error)
            return
        texts = (str(info[4][0]).partition("%")[0] for info in found)
        addresses = tuple(dict.fromkeys(ip_address(text).packed for text in texts))
        if self.addresses.get(name) != addresses:
            self.addresses[name] = addresses
            self._changed()
