"""The control interface for operators of this host: a Unix socket, for root only.

    GET    /v1/drains                       {"drained": [...]}
    PUT    /v1/drains   {"target": "10.0.0.1:31000"}    a backend, a host's address, or a task's id;
                        answers {"drained": [...], "matches": 2}: backends that it means now
    DELETE /v1/drains   {"target": ...}
    POST   /v1/uninstall                    everything of ours leaves the kernel until a restart

What was answered with 200 is on disk and holds.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from cairn_core.errors import cause
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

from .drains import BadDrain, Drains, target_of

log = logging.getLogger(__name__)


class _Target(msgspec.Struct, forbid_unknown_fields=True):
    target: str


class Control:
    """Handlers; changes are made one at a time.

    file: where drains are kept; None keeps none. changed: is told of other drains; returns when
    they hold in the kernel. uninstall: removes everything; returns what was removed, one line each.
    matches: how many backends a target means now.
    """

    def __init__(
        self,
        file: Path | None,
        changed: Callable[[Drains], Awaitable[None]],
        uninstall: Callable[[], Awaitable[list[str]]],
        matches: Callable[[str], int],
    ) -> None:
        self._file, self._changed, self._uninstall = file, changed, uninstall
        self._matches = matches
        self._turn = asyncio.Lock()
        self.drains = read(file)

    def server(self) -> HttpServer:
        """The server of the socket."""
        router: Router[Handler] = Router()
        exact = Options(exact=True, max_body_bytes=64 * 1024)
        router.add("/v1/drains", self.get_drains, options=exact)
        router.add("/v1/drains", self.put_drain, ["PUT"], options=exact)
        router.add("/v1/drains", self.delete_drain, ["DELETE"], options=exact)
        router.add("/v1/uninstall", self.post_uninstall, ["POST"], options=exact)
        return HttpServer(router, filters=[only_root])

    async def get_drains(self, request: Request) -> Answer:
        return Response.json(self.drains)

    async def put_drain(self, request: Request) -> Answer:
        target = request.json(_Target).target
        async with self._turn:
            try:
                meant = target_of(target)
                await self._take(self.drains.add(target))
            except BadDrain as error:
                raise Refused(400, str(error)) from None
        matches = self._matches(meant)
        log.info("drained target=%s matches=%d", meant, matches)
        return Response.json({"drained": self.drains.drained, "matches": matches})

    async def delete_drain(self, request: Request) -> Answer:
        target = request.json(_Target).target
        async with self._turn:
            try:
                await self._take(self.drains.remove(target))
            except BadDrain as error:
                raise Refused(404, str(error)) from None
        log.info("undrained target=%s", target)
        return Response.json(self.drains)

    async def post_uninstall(self, request: Request) -> Answer:
        async with self._turn:
            removed = await self._uninstall()
        log.warning("uninstalled because an operator asked removed=%d", len(removed))
        return Response.json({"removed": removed})

    async def _take(self, drains: Drains) -> None:
        if drains == self.drains:
            return
        if self._file is not None:
            try:
                await asyncio.to_thread(_write, self._file, drains)
            except OSError as error:
                raise Refused(503, f"drains not kept: {cause(error)}") from None
        self.drains = drains
        await self._changed(drains)


async def only_root(request: Request, handler: Handler) -> Answer:
    """A filter: others than root are refused, whatever the mode of the socket says."""
    if not request.peer.is_root:
        raise Refused(403, f"root only, not user {request.peer.uid}")
    return await handler(request)


def read(file: Path | None) -> Drains:
    """Drains from the disk; none when there is no file, or no good one, which is logged."""
    if file is None:
        return Drains()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Drains)
    except FileNotFoundError:
        return Drains()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.error("drains not read, nothing is drained file=%s reason=%s", file, cause(error))
        return Drains()


def _write(file: Path, drains: Drains) -> None:
    new = file.with_name(file.name + ".new")
    with new.open("wb") as stream:
        stream.write(msgspec.json.encode(drains))
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
