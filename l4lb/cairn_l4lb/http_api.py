"""The HTTP API on port 61421, read-only: the original's paths, and ours that tell more.

    /vips /vip/<ip:port> /backend/<ip:port> /metrics /lashup/... /     as dcos/minuteman
    /v1/vips /v1/metrics/l4lb                                         as dcos-net
    /v1/table[?vip=][&index=&wait_s=]   everything about VIPs; waits until it is another one
    /v1/watch[?vip=]                    rates each second, as server-sent events
    /v1/problems                        wrong labels, and VIPs that cannot be served
    /explain?vip=[&client=][&port=]     which backend a client would get, and why
    /metrics/prometheus                 also at /metrics for who accepts no JSON but text

Shapes are in `shapes`, `exometer` and `page`.
"""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from cairn_core.clusterview.view import Snapshot
from cairn_core.kit.http_server import Answer, Handler, Refused, Request, Response, Router
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.metrics import CONTENT_TYPE
from cairn_core.kit.routes import Options

from . import exometer, page, shapes, targets
from .http_watch import Watchers
from .metrics import L4lbMetrics
from .model import Service, Vip
from .stats import Stats

#: Longest time that one question for a changed table waits, seconds.
MAX_WAIT_S = 60.0
#: VIPs that are looked at before others have their turn: a millisecond or two.
SLICE = 100
#: Header with the version of a table, which `?index=` waits for the next of.
INDEX = "X-Cairn-Index"
_EXACT = Options(exact=True, timeout_s=MAX_WAIT_S + 30)


class Known(Protocol):
    """What the API shows."""

    @property
    def services(self) -> Mapping[Vip, Service]: ...

    @property
    def stats(self) -> Stats: ...

    @property
    def index(self) -> int:
        """Grows with every change of the table, within one process."""
        ...

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def minute(self) -> exometer.LastMinute: ...

    def now(self) -> float:
        """Seconds on the clock of `stats`."""
        ...

    def uptime_s(self) -> float: ...

    def served(self) -> dict[str, Any]:
        """Options of a VIP that has none of its own."""
        ...

    def source(self) -> dict[str, Any]:
        """Where what we know comes from, and how old it is."""
        ...

    def problems(self) -> tuple[int, list[dict[str, str]]]:
        """What is not served as somebody wanted: how many tasks and VIPs, and the first of them
        with `task` or `vip` and `reason`."""
        ...

    async def explain(self, service: Service, client: str, port: int) -> dict[str, Any]:
        """What the steering process would do.  Raises Unavailable."""
        ...

    async def changed(self, index: int) -> None:
        """Wait until the table is another one than `index` was."""
        ...


class HttpApi:
    """Handlers.  host: name of this host, for people."""

    def __init__(self, known: Known, watchers: Watchers, metrics: L4lbMetrics, host: str) -> None:
        self._known, self._watchers, self._host = known, watchers, host
        self._metrics, self._registry = metrics.metrics, metrics.registry_of_dcos
        self._tag: tuple[int, bytes, str] = (-1, b"", "")
        #: Services in order, and of which index they are.
        self._ordered: tuple[int, list[Service]] = (-1, [])

    def add_routes(
        self,
        router: Router[Handler],
        ready: Callable[[], str | None],
        state: Callable[[], Any],
    ) -> None:
        """Put the handlers on a router; ready, state: as for the standard routes."""
        for path, handler in (
            ("/", self.home),
            ("/vips", self.vips),
            ("/vip/{vip}", self.vip),
            ("/backend/{backend}", self.backend),
            ("/metrics", self.metrics),
            ("/lashup/gm", self.members),
            ("/lashup/active_view", self.active_view),
            ("/lashup/passive_view", self.passive_view),
            ("/lashup/add_node", self.add_node),
            ("/v1/table", self.table),
            ("/v1/watch", self._watchers.watch),
            ("/v1/problems", self.problems),
            ("/explain", self.explain),
        ):
            router.add(path, handler, options=_EXACT)
        self.add_mounted_routes(router)
        add_standard_routes(
            router,
            metrics=self._metrics,
            ready=ready,
            state=state,
            metrics_path="/metrics/prometheus",
        )

    def add_mounted_routes(self, router: Router[Handler]) -> None:
        """Those that the DNS proxy of this host answers on its port through us."""
        router.add("/v1/vips", self.dcos_vips, options=_EXACT)
        router.add("/v1/metrics/l4lb", self.dcos_metrics, options=_EXACT)

    # -- the originals' ------------------------------------------------------------------------

    async def home(self, request: Request) -> Answer:
        if "html" not in request.headers.get("Accept", ""):
            return Response.text(page.TEXT)
        rows = await self._rows(self._services()[: page.MAX_ROWS])
        text = page.render(
            rows, self._host, _sentence(self._known.source()), self._known.problems()
        )
        return Response(body=text.encode(), content_type="text/html; charset=utf-8")

    async def vips(self, request: Request) -> Answer:
        await self._wait(request)
        known = self._known
        headers, now, found = self._index(), known.now(), dict[str, Any]()
        async for part in _in_slices(self._services()):
            shapes.add_vips(found, part, known.stats, now)
        return Response.json({"vips": found}, headers=headers)

    async def vip(self, request: Request) -> Answer:
        vip = targets.vip_of(request.params["vip"])
        if vip is None:
            return Response.json(shapes.BAD_VIP)
        known = self._known
        for one in (vip, Vip("udp", vip.address, vip.port)):
            service = known.services.get(one)
            if service is not None and service.backends:
                return Response.json(shapes.one_vip(service, known.stats, known.now()))
        return Response.json(shapes.NO_BACKENDS)

    async def backend(self, request: Request) -> Answer:
        place = targets.vip_of(request.params["backend"])
        if place is None:
            return Response.json(shapes.BAD_BACKEND)
        stats = self._known.stats
        tcp, udp = (("tcp", place.address, place.port), ("udp", place.address, place.port))
        key: Any = udp if udp in stats.backends and tcp not in stats.backends else tcp
        return Response.json(shapes.backend_object(stats.backend(key), self._known.now()))

    async def metrics(self, request: Request) -> Answer:
        accept = request.headers.get("Accept", "")
        if "openmetrics" in accept or ("text/plain" in accept and "json" not in accept):
            return Response(body=self._metrics.text(), content_type=CONTENT_TYPE)
        known = self._known
        return Response.json(
            exometer.document(
                known.stats, known.minute, known.now(), round(known.uptime_s() * 1000)
            )
        )

    async def members(self, request: Request) -> Answer:
        return Response.json(shapes.members(self._known.snapshot))

    async def active_view(self, request: Request) -> Answer:
        return Response.json(shapes.views(self._known.snapshot)[0])

    async def passive_view(self, request: Request) -> Answer:
        return Response.json(shapes.views(self._known.snapshot)[1])

    async def add_node(self, request: Request) -> Answer:
        if not request.query.get("node"):
            raise Refused(503, "query parameter node: missing")
        raise Refused(501, "hosts are not added here: they are those that the master knows")

    async def dcos_vips(self, request: Request) -> Answer:
        """`/v1/vips`; who has the newest already gets 304."""
        known = self._known
        if self._tag[0] != known.index:
            body = msgspec.json.encode(shapes.dcos_net_vips(known.services.values()))
            # Compat: base64 of SHA-1, there of a version vector, here of what is told
            tag = b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()
            self._tag = known.index, body, f'"{tag}"'
        _, body, tag = self._tag
        if tag in request.headers.get("If-None-Match", ""):
            return Response.empty(304, {"ETag": tag})
        return Response(body=body, headers={"ETag": tag})

    async def dcos_metrics(self, request: Request) -> Answer:
        return Response(body=self._registry(), content_type=CONTENT_TYPE)

    # -- ours ----------------------------------------------------------------------------------

    async def table(self, request: Request) -> Answer:
        await self._wait(request)
        known, asked = self._known, request.query.get("vip", "")
        services = self._asked(asked) if asked else self._services()
        body = {
            "index": known.index, "source": known.source(), "problems": known.problems()[0],
        }  # fmt: skip
        return Response.json(
            {**body, "vips": await self._rows(services)},
            headers={INDEX: str(body["index"])},
        )

    async def problems(self, request: Request) -> Answer:
        count, problems = self._known.problems()
        return Response.json({"count": count, "problems": problems})

    async def explain(self, request: Request) -> Answer:
        client, port = request.query.get("client", ""), request.integer("port", 0)
        if client and not targets.canonical(client):
            raise Refused(400, f"query parameter client: not an address: {client[:60]!r}")
        if not 0 <= (port or 0) <= 65535:
            raise Refused(400, f"query parameter port: not a port: {port}")
        told = [
            await self._known.explain(one, targets.canonical(client), port or 0)
            for one in self._asked(request.query.get("vip", ""))[:16]
        ]
        return Response.json({"explained": told, "source": self._known.source()})

    def _asked(self, text: str) -> list[Service]:
        """Services that the query names.  Raises Refused."""
        if not text:
            raise Refused(400, "query parameter vip: missing, such as vip=web.marathon:80")
        try:
            found = targets.find(text, self._services())
        except targets.BadTarget as error:
            raise Refused(400, f"query parameter vip: {error}") from None
        if not found:
            names = targets.near(text, self._services())
            meant = f"; did you mean {' or '.join(names)}?" if names else ""
            raise Refused(404, f"no such VIP: {text[:80]!r}{meant}")
        return found

    def _services(self) -> list[Service]:
        """All of them in order, which is made once for each table."""
        index = self._known.index
        if self._ordered[0] != index:
            self._ordered = index, shapes.in_order(self._known.services.values())
        return self._ordered[1]

    async def _rows(self, services: Sequence[Service]) -> list[dict[str, Any]]:
        known, now, served = self._known, self._known.now(), self._known.served()
        return [
            shapes.service_object(one, known.stats, now, served)
            async for part in _in_slices(services)
            for one in part
        ]

    async def _wait(self, request: Request) -> None:
        """With `index` in the query, until the table is another one or the time is over."""
        index = request.integer("index")
        if index is None:
            return
        wait_s = request.integer("wait_s", 30) or 0
        try:
            async with asyncio.timeout(max(0.0, min(float(wait_s), MAX_WAIT_S))):
                await self._known.changed(index)
        except TimeoutError:
            pass  # the same table is an answer too

    def _index(self) -> dict[str, str]:
        return {INDEX: str(self._known.index)}


async def _in_slices(services: Sequence[Service]) -> AsyncIterator[Sequence[Service]]:
    for start in range(0, len(services), SLICE):
        yield services[start : start + SLICE]
        await asyncio.sleep(0)


def _sentence(source: Mapping[str, Any]) -> str:
    age = source.get("age_s")
    told = "never heard of a master" if age is None else f"{age:.1f} s old"
    return f"Known by {source.get('kind')} of {source.get('master') or 'no master'}, {told}."
