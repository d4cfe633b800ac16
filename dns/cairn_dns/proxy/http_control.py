"""The control interface for other daemons of this host: a Unix socket, for root only.

    PUT    /v1/zones/<zone>   {"generation": 7, "ttl": 5, "records": [{"name", "type", "value"}]}
    GET    /v1/zones          generations and sizes        GET /v1/zones/<zone>  the whole zone
    DELETE /v1/zones/<zone>
    PUT    /v1/mounts         {"prefix": "/v1/vips", "socket": "/run/cairn/l4lb.sock"}; a prefix is
                              /v1/<name>, or /v1/metrics/<name> for a registry of metrics
    GET    /v1/mounts         DELETE /v1/mounts  {"prefix": ...}

What was answered with 200 is on disk and served.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

from cairn_core.errors import cause, shorten
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Options,
    Refused,
    Request,
    Response,
    Router,
)

from .io_store import Mount, Store
from .io_zones import NoRoom, Zones
from .zones import BadZone, ZoneSpec, zone_name

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_MOUNTS = 32
#: Paths of our own; nobody else may answer there.
OWN = frozenset(
    {
        "version", "config", "enumerate", "hosts", "services", "records", "nodes", "explain",
        "metrics", "zones", "mounts",
    }
)  # fmt: skip
#: And registries of metrics that are the proxy's.
OWN_REGISTRIES = frozenset({"dns", "default"})
_PREFIX = re.compile(r"/v1/(metrics/)?([a-z0-9_-]{1,40})", re.ASCII)


class Control:
    """Handlers; changes are made one at a time.

    taken: domains that belong to others. sockets: folder of those that may be mounted. own: ours,
    which may not: anybody could push by it. mounts: socket by prefix, shared with the HTTP
    interface.
    """

    def __init__(
        self,
        zones: Zones,
        store: Store,
        taken: Callable[[], list[str]],
        sockets: str = "/run/cairn/",
        own: str = "",
    ) -> None:
        self._own = Path(own).resolve() if own else None
        self.mounts = {
            mount.prefix: mount.socket
            for mount in store.mounts()
            if Path(mount.socket).resolve() != self._own
        }
        self._zones, self._store, self._taken = zones, store, taken
        self._sockets = sockets
        self._turn = asyncio.Lock()

    def server(self) -> HttpServer:
        """The server of the socket."""
        router: Router[Handler] = Router()
        big = Options(exact=True, max_body_bytes=MAX_BODY_BYTES)
        exact = Options(exact=True)
        router.add("/v1/zones", self.get_zones, options=exact)
        router.add("/v1/zones/{zone}", self.get_zone, options=exact)
        router.add("/v1/zones/{zone}", self.put_zone, ["PUT"], options=big)
        router.add("/v1/zones/{zone}", self.delete_zone, ["DELETE"], options=exact)
        router.add("/v1/mounts", self.get_mounts, options=exact)
        router.add("/v1/mounts", self.put_mount, ["PUT"], options=exact)
        router.add("/v1/mounts", self.delete_mount, ["DELETE"], options=exact)
        return HttpServer(router, filters=[only_root])

    async def get_zones(self, request: Request) -> Answer:
        return Response.json(
            {
                name: {"generation": spec.generation, "records": len(spec.records)}
                for name, spec in sorted(self._zones.pushed.items())
            }
        )

    async def get_zone(self, request: Request) -> Answer:
        spec = self._zones.pushed.get(request.params["zone"].lower().strip("."))
        if spec is None:
            raise Refused(404, f"zone: not known: {shorten(request.params['zone'], 80)!r}")
        return Response.json(spec)

    async def put_zone(self, request: Request) -> Answer:
        try:
            name = zone_name(
                request.params["zone"],
                pushed=True,
                taken=[*self._taken(), *self._zones.configured_names],
            )
        except BadZone as error:
            raise Refused(400, str(error)) from None
        spec = request.json(ZoneSpec)
        async with self._turn:
            old = self._zones.pushed.get(name)
            if old is not None and spec.generation < old.generation:
                raise Refused(409, f"generation: {spec.generation} is older than {old.generation}")
            if old is not None and spec.generation == old.generation:
                if spec != old:
                    raise Refused(409, f"generation: {spec.generation} is known with other records")
                return _state(name, spec)
            try:
                await self._zones.push(name, spec)
            except BadZone as error:
                raise Refused(400, str(error)) from None
            except NoRoom as error:
                raise Refused(409, str(error)) from None
            except OSError as error:
                raise Refused(503, f"zone not kept: {cause(error)}") from None
        log.info("zone pushed name=%s generation=%d", name, spec.generation)
        return _state(name, spec)

    async def delete_zone(self, request: Request) -> Answer:
        name = request.params["zone"].lower().strip(".")
        async with self._turn:
            if name not in self._zones.pushed:
                raise Refused(404, f"zone: not known: {shorten(name, 80)!r}")
            try:
                await self._zones.drop(name)
            except OSError as error:
                raise Refused(503, f"zone not dropped: {cause(error)}") from None
        log.info("zone dropped name=%s", name)
        return Response.json({})

    async def get_mounts(self, request: Request) -> Answer:
        return Response.json([Mount(*pair) for pair in sorted(self.mounts.items())])

    async def put_mount(self, request: Request) -> Answer:
        mount = request.json(Mount)
        found = _PREFIX.fullmatch(mount.prefix)
        if found is None or found[2] in (OWN_REGISTRIES if found[1] else OWN):
            raise Refused(
                400,
                "prefix: not /v1/<name> or /v1/metrics/<name> of another daemon: "
                f"{shorten(mount.prefix, 80)!r}",
            )
        path = PurePosixPath(mount.socket)
        if str(path.parent) != self._sockets.rstrip("/") or path.name in ("", ".", ".."):
            raise Refused(
                400, f"socket: not a socket in {self._sockets}: {shorten(mount.socket, 80)!r}"
            )
        if Path(mount.socket).resolve() == self._own:
            raise Refused(400, f"socket: the proxy's own: {shorten(mount.socket, 80)!r}")
        async with self._turn:
            if mount.prefix not in self.mounts and len(self.mounts) >= MAX_MOUNTS:
                raise Refused(409, f"prefix: there are {MAX_MOUNTS} mounts already")
            await self._keep(self.mounts | {mount.prefix: mount.socket})
        return Response.json(mount)

    async def delete_mount(self, request: Request) -> Answer:
        prefix = request.json(dict[str, str]).get("prefix", "")
        async with self._turn:
            if prefix not in self.mounts:
                raise Refused(404, f"prefix: not known: {shorten(prefix, 80)!r}")
            await self._keep({p: s for p, s in self.mounts.items() if p != prefix})
        return Response.json({})

    async def _keep(self, mounts: dict[str, str]) -> None:
        if mounts == self.mounts:
            return
        kept = [Mount(*pair) for pair in sorted(mounts.items())]
        try:
            await asyncio.to_thread(self._store.keep_mounts, kept)
        except OSError as error:
            raise Refused(503, f"mounts not kept: {cause(error)}") from None
        # The same object, for the HTTP interface looks at it.
        self.mounts.clear()
        self.mounts.update(mounts)


async def only_root(request: Request, handler: Callable[[Request], Awaitable[Answer]]) -> Answer:
    """A filter: others than root are refused, whatever the mode of the socket says."""
    if not request.peer.is_root:
        raise Refused(403, f"root only, not user {request.peer.uid}")
    return await handler(request)


def _state(name: str, spec: ZoneSpec) -> Response:
    return Response.json(
        {"zone": name, "generation": spec.generation, "records": len(spec.records)}
    )
