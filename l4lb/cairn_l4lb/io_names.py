"""Telling the DNS proxy of this host the names of VIPs, and where `/v1/vips` is answered.

The proxy keeps on disk what it was told and goes on answering it while we are away.  It may also
come later than we, or lose its disk: it is asked now and then what it has.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from msgspec import Struct

from cairn_core.errors import CairnError, RemoteError, cause
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.http_client import HttpClient
from cairn_core.vips.names import ZONE

from .zones import PushedZone, Record, records, with_name_server

log = logging.getLogger(__name__)

BASE = "http://dns-proxy"
#: A push that failed is tried again so soon, as in dcos/minuteman `src/minuteman_dns.erl`.
MAX_RETRY_S = 15.0
MIN_RETRY_S = 0.1
#: How often the proxy is asked whether it still has what it was told.
CHECK_S = 10.0
TIMEOUT_S = 20.0
#: What the proxy has our socket answer.
PREFIXES = ("/v1/vips", "/v1/metrics/l4lb")
#: `ns.l4lb.thisdcos.directory` leads to the proxy.
PROXY_ADDRESSES = ("198.51.100.1",)


class _Known(Struct, frozen=True):
    """What the proxy says of a zone."""

    generation: int
    records: int


class _Mount(Struct, frozen=True):
    prefix: str
    socket: str


class Names:
    """Pushes names.

    socket: control socket of the proxy. mount: our socket that answers `/v1/vips`; None: nothing
    is mounted. file: where the generation is kept.
    """

    def __init__(self, socket: Path, mount: Path | None, file: Path | None, rng: Random) -> None:
        self._socket, self._mount, self._file = socket, mount, file
        self._backoff = Backoff(MIN_RETRY_S, MAX_RETRY_S, rng)
        self._records: list[Record] | None = None
        self._pushed: list[Record] | None = None
        self._generation = _read(file)
        self._changed = asyncio.Event()
        self._resting = False
        #: Whether the proxy had the newest names when it last answered, and what went wrong.
        self.in_step = False
        self.problem: str | None = None
        #: Why the proxy does not mount our socket, by prefix; it is asked again now and then.
        self.refused: dict[str, str] = {}
        #: Names that found no room in the zone.
        self.left_out = 0
        self.pushes = 0

    @property
    def generation(self) -> int:
        """Of the zone as it was last pushed."""
        return self._generation

    @property
    def count(self) -> int:
        """Records in the zone."""
        return len(self._records or ())

    @property
    def known(self) -> bool:
        """Whether names were set since the start."""
        return self._records is not None

    def rest(self) -> None:
        """Push nothing any more."""
        self._resting = True

    def set(self, names: Mapping[str, tuple[str, str]]) -> None:
        """These are the names; they are pushed soon when they are others than before."""
        found, left_out = records(names)
        if left_out and not self.left_out:
            log.error("names left out of the zone, it is full names=%d", left_out)
        self.left_out = left_out
        found = with_name_server(found, PROXY_ADDRESSES)
        if found != self._records:
            self._records = found
            self.in_step = False
            self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Push until `stop`."""
        stopping = asyncio.create_task(stop.wait(), name="names-stop")
        try:
            async with HttpClient(total_s=TIMEOUT_S, unix_socket=self._socket) as http:
                while not stop.is_set():
                    self._changed.clear()
                    wait_s = await self._once(http)
                    changed = asyncio.create_task(self._changed.wait(), name="names-changed")
                    await asyncio.wait(
                        {stopping, changed}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                    )
                    changed.cancel()
        finally:
            stopping.cancel()

    async def _once(self, http: HttpClient) -> float:
        """Bring the proxy up to date; returns the seconds until it is asked again."""
        if self._resting:
            return CHECK_S
        try:
            if self._records is not None:
                await self._zone(http, self._records)
            if self._mount is not None:
                await self._mounted(http, self._mount)
        except CairnError as error:
            self.in_step = False
            if str(error) != self.problem:
                log.warning("names not pushed, trying again reason=%s", error)
            self.problem = str(error)
            return self._backoff.next()
        self._backoff.reset()
        if self.problem is not None:
            log.info("names pushed again generation=%d", self._generation)
        self.problem = None
        self.in_step = self._records is not None and self._records == self._pushed
        return CHECK_S

    async def _zone(self, http: HttpClient, wanted: list[Record]) -> None:
        reply = await http.request("GET", f"{BASE}/v1/zones")
        known = reply.expect(200).json(dict[str, _Known]).get(ZONE)
        if (
            wanted is self._pushed
            and known is not None
            and known.generation == self._generation
            and known.records == len(wanted)
        ):
            return
        # above both what we gave and what it has, whichever of us lost its disk
        generation = max(self._generation, known.generation if known is not None else 0) + 1
        self._keep(generation)
        reply = await http.request(
            "PUT", f"{BASE}/v1/zones/{ZONE}", json=PushedZone(generation, wanted)
        )
        reply.expect(200)
        self._pushed = wanted
        self.pushes += 1

    async def _mounted(self, http: HttpClient, socket: Path) -> None:
        reply = await http.request("GET", f"{BASE}/v1/mounts")
        there = reply.expect(200).json(list[_Mount])
        for wanted in (_Mount(prefix, str(socket)) for prefix in PREFIXES):
            if wanted in there:
                self.refused.pop(wanted.prefix, None)
                continue
            reply = await http.request("PUT", f"{BASE}/v1/mounts", json=wanted)
            try:
                reply.expect(200)
            except RemoteError as error:
                # an older proxy knows fewer prefixes; names and the other mount are well
                if self.refused.get(wanted.prefix) != str(error):
                    log.warning("mount refused prefix=%s reason=%s", wanted.prefix, error)
                self.refused[wanted.prefix] = str(error)
            else:
                self.refused.pop(wanted.prefix, None)

    def _keep(self, generation: int) -> None:
        self._generation = generation
        if self._file is None:
            return
        new = self._file.with_name(self._file.name + ".new")
        try:
            new.write_text(f"{generation}\n", encoding="ascii")
            new.replace(self._file)
        except OSError as error:
            # the proxy knows it too, and is asked before the next push
            log.warning("generation not kept file=%s reason=%s", self._file, cause(error))


def _read(file: Path | None) -> int:
    if file is None:
        return 0
    with suppress(OSError, ValueError):
        text = file.read_text(encoding="ascii").strip()
        return int(text) if text.isdigit() and len(text) <= 18 else 0
    return 0


async def forget(socket: Path) -> None:
    """Take the zone and the mount away from the proxy.  Raises Unavailable and RemoteError."""
    async with HttpClient(total_s=TIMEOUT_S, unix_socket=socket) as http:
        mounts = [("/v1/mounts", {"prefix": prefix}) for prefix in PREFIXES]
        for path, body in ((f"/v1/zones/{ZONE}", None), *mounts):
            reply = await http.request("DELETE", BASE + path, json=body)
            if reply.status not in (200, 404):
                raise RemoteError(f"{path}: status {reply.status}")


def is_there(socket: Path) -> bool:
    """Whether a DNS proxy has its control socket there."""
    return os.path.exists(socket)
