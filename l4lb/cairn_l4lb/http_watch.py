"""`/v1/watch`: rates each second and changes of the table, as server-sent events.

    event: rates   {"at": ..., "vips": [{"vip", "name", "rate", "backends": [...]}]}
    event: table   {"index": 7, "changed": ["11.0.0.1:80"], "gone": []}

What all see alike is encoded once; nothing is made while nobody watches.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from cairn_core.errors import Unavailable
from cairn_core.kit.http_server import Answer, Refused, Request, Stream, sse

from . import targets
from .model import Service, Vip
from .shapes import Rates
from .stats import Stats

EVERY_S = 1.0
MAX_WATCHERS = 64
#: Backends in one event.
MAX_ROWS = 2000
#: VIPs that one event names; who is told of more reads the table again.
MAX_NAMED = 500
_EVENTS = "text/event-stream"


class Watchers:
    """Everybody who watches.  services, stats: as they are now; clock: of `stats`."""

    def __init__(
        self,
        services: Callable[[], Mapping[Vip, Service]],
        stats: Stats,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services, self._stats, self._clock = services, stats, clock
        #: By stream: which VIPs it wants to see ("": all), and how they are counted.
        self._streams: dict[Stream, tuple[str, Rates]] = {}
        self._all = Rates()
        self._came = asyncio.Event()

    def __len__(self) -> int:
        """How many watch."""
        return len(self._streams)

    async def watch(self, request: Request) -> Answer:
        """Handler of the path."""
        wanted = request.query.get("vip", "")
        if wanted:
            try:
                targets.find(wanted, ())
            except targets.BadTarget as error:
                raise Refused(400, f"query parameter vip: {error}") from None
        if len(self._streams) >= MAX_WATCHERS:
            raise Unavailable(f"{MAX_WATCHERS} are watching already", retry_after_s=5.0)
        stream = Stream(_EVENTS, headers={"Cache-Control": "no-store"}, limit_bytes=4 * 1024 * 1024)
        self._streams[stream] = wanted, Rates() if wanted else self._all
        self._came.set()
        stream.send(b": watching\n\n")
        return stream

    def table_changed(self, index: int, changed: Iterable[Vip], gone: Iterable[Vip]) -> None:
        """Tell everybody of a change."""
        if not self._streams:
            return
        data = {
            "index": index,
            "changed": [vip.text for vip, _ in zip(changed, range(MAX_NAMED), strict=False)],
            "gone": [vip.text for vip, _ in zip(gone, range(MAX_NAMED), strict=False)],
        }
        self._send(sse(msgspec.json.encode(data), event="table"), list(self._streams))

    async def run(self, stop: asyncio.Event) -> None:
        """Send rates until `stop`; sleeps while nobody watches."""
        stopping = asyncio.create_task(stop.wait(), name="watch-stop")
        try:
            while not stop.is_set():
                if not self._streams:
                    self._came.clear()
                    came = asyncio.create_task(self._came.wait(), name="watch-came")
                    await asyncio.wait({stopping, came}, return_when=asyncio.FIRST_COMPLETED)
                    came.cancel()
                    self._all = Rates()
                self.tick()
                with suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_S):
                        await asyncio.shield(stopping)
        finally:
            stopping.cancel()
            for stream in list(self._streams):
                stream.close()

    def tick(self) -> None:
        """Send the rates since the last tick."""
        for stream in [one for one in self._streams if one.closed]:
            del self._streams[stream]
        if not self._streams:
            return
        now, services = self._clock(), list(self._services().values())
        everybody = [stream for stream, (wanted, _) in self._streams.items() if not wanted]
        if everybody:
            self._send(self._event(self._all, services, now), everybody)
        for stream, (wanted, rates) in list(self._streams.items()):
            if wanted:
                found = targets.find(wanted, services)
                self._send(self._event(rates, found, now), [stream])

    def _event(self, rates: Rates, services: Sequence[Service], now: float) -> bytes:
        data: dict[str, Any] = {
            "at": time.time(),
            "vips": rates.look(services, self._stats, now, MAX_ROWS),
        }
        return sse(msgspec.json.encode(data), event="rates")

    @staticmethod
    def _send(data: bytes, streams: Iterable[Stream]) -> None:
        for stream in streams:
            stream.send(data)
