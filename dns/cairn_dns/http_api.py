"""The HTTP API on port 8123: that of Mesos-DNS, and what only we have.

    /v1/version /v1/config /v1/hosts/{host} /v1/hosts/{host}/ports /v1/services/{service}
    /v1/enumerate /v1/axfr          as the original, down to the blanks
    /v1/records /v1/nodes           as dcos-net
    /v1/explain/{name}              why a name is answered as it is

Shapes are in `http_records`; what is shown comes from `Known`.  Read-only, and open to everybody
who reaches the port, as the original is.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from cairn_core.clusterview.view import Snapshot
from cairn_core.errors import Unavailable
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    Refused,
    Request,
    Response,
    Router,
)
from cairn_core.kit.routes import Options
from cairn_core.mesos.feed_rows import TaskRow

from . import http_records as shapes
from .config import DCOS_DOMAIN, DnsConfig
from .zone import RecordSet

#: Large answers made at the same time; others are told to come again.
MAX_LARGE = 4
#: Seconds for one large answer; who takes longer is cut off, at the latest when a write gets stuck.
LARGE_S = 120.0
#: Explanations made at the same time: each looks at all tasks.
MAX_EXPLAINED = 2
#: Text that is collected before it is sent.
PIECE_CHARS = 32 * 1024
#: Tasks that are looked at before others have their turn.
SLICE = 2000
_JSON = "application/json"
#: What the original answers where there is nothing to find.
PLAIN = {
    404: "404: Page Not Found",
    405: "405: Method Not Allowed",
    406: "406: Not Acceptable",
    501: "To be implemented...",
}


class Known(Protocol):
    """What the API shows."""

    @property
    def records(self) -> RecordSet: ...

    @property
    def serial(self) -> int: ...

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def heard(self) -> float | None:
        """When the cluster was last known to be so, seconds since the epoch."""
        ...

    def enumerate_task(self, task: TaskRow) -> Sequence[shapes.Enumerated]:
        """Records of one task in the order in which the original makes them."""
        ...

    def explain(self, name: str) -> dict[str, Any]:
        """Why a name (lower case, without the last dot) is answered as it is."""
        ...


class HttpApi:
    """Handlers of `/v1/...`.

    config: as it is now, after reloads too. version: of this program. file: the configuration's.
    """

    def __init__(
        self, known: Known, config: Callable[[], DnsConfig], *, version: str, file: str = ""
    ) -> None:
        self._known, self._config = known, config
        self._version, self._file = version, file
        self._large, self._explained = Places(MAX_LARGE), Places(MAX_EXPLAINED)

    def add_routes(self, router: Router[Handler]) -> None:
        """Put the handlers on a router."""
        for path, handler in (
            ("/v1/version", self.version),
            ("/v1/config", self.config),
            ("/v1/hosts/{host}", self.hosts),
            ("/v1/hosts/{host}/ports", self.ports),
            ("/v1/services/{service}", self.services),
            ("/v1/enumerate", self.all_tasks),
            ("/v1/axfr", self.axfr),
            ("/v1/records", self.all_records),
            ("/v1/nodes", self.nodes),
            ("/v1/explain/{name}", self.explain),
        ):
            router.add(path, _json_only(handler), options=Options(exact=True))

    async def version(self, request: Request) -> Answer:
        return _pretty(shapes.version_document(self._version))

    async def config(self, request: Request) -> Answer:
        return _pretty(shapes.config_document(self._config(), self._known.serial, self._file))

    async def hosts(self, request: Request) -> Answer:
        asked, records = request.params["host"], self._known.records
        if self._config().api == "dcos-net":
            return Response.json(shapes.dcos_hosts(records, asked))
        return _pretty(shapes.hosts(records, asked))

    async def ports(self, request: Request) -> Answer:
        return _plain(501)

    async def services(self, request: Request) -> Answer:
        asked, records = request.params["service"], self._known.records
        if self._config().api == "dcos-net":
            return Response.json(shapes.dcos_services(records, asked))
        return _pretty(shapes.services(records, asked))

    async def all_tasks(self, request: Request) -> Answer:
        self._listing()
        place = self._large.take(request.peer.address)
        tasks: dict[str, list[TaskRow]] = {}
        snapshot = self._known.snapshot
        for number, row in enumerate(snapshot.tasks.values()):
            tasks.setdefault(row.framework_id, []).append(row)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return Response(body=_Pieces(shapes.enumerated(self._frameworks(snapshot, tasks)), place))

    async def axfr(self, request: Request) -> Answer:
        config, known = self._listing(), self._known
        without = None if config.zone.endswith(DCOS_DOMAIN) else DCOS_DOMAIN
        pieces = shapes.axfr(known.records, config, known.serial, without)
        return Response(body=_Pieces(pieces, self._large.take(request.peer.address)))

    async def all_records(self, request: Request) -> Answer:
        self._listing()
        pieces = shapes.all_records(self._known.records)
        return Response(body=_Pieces(pieces, self._large.take(request.peer.address)))

    async def nodes(self, request: Request) -> Answer:
        """Agents and masters; `?force` changes nothing here, for all are always asked."""
        return Response.json(shapes.nodes(self._known.snapshot, self._known.heard))

    async def explain(self, request: Request) -> Answer:
        with self._explained.take():
            await asyncio.sleep(0)
            return Response.json(self._known.explain(shapes.asked_name(request.params["name"])))

    def _listing(self) -> DnsConfig:
        """The settings, if they allow to list everything."""
        config = self._config()
        if not config.enumeration_on:
            raise Refused(404, PLAIN[404], text=True)
        return config

    def _frameworks(
        self, snapshot: Snapshot, tasks: Mapping[str, list[TaskRow]]
    ) -> Iterator[tuple[str, Iterator[tuple[str, str, Any]]]]:
        """Frameworks with their published tasks, in the order of names and ids."""
        for framework in sorted(snapshot.frameworks.values(), key=lambda row: (row.name, row.id)):
            yield framework.name, self._tasks(tasks.get(framework.id, []))

    def _tasks(self, rows: list[TaskRow]) -> Iterator[tuple[str, str, Any]]:
        for row in sorted(rows, key=lambda row: row.id):
            records = self._known.enumerate_task(row)
            if records:
                yield row.name, row.id, records


class Places:
    """So many at once, and no more; one for each client that is named."""

    def __init__(self, count: int) -> None:
        self.free = count
        self.clients: set[str] = set()

    def take(self, client: str | None = None) -> "Place":
        """A place, which goes back when it is left or forgotten.  Raises Unavailable."""
        if client in self.clients:
            raise Unavailable("a large answer to this client is under way", retry_after_s=1.0)
        if self.free <= 0:
            raise Unavailable("too many large answers under way", retry_after_s=1.0)
        return Place(self, client)


class Place:
    """One of them."""

    def __init__(self, places: Places, client: str | None) -> None:
        self._places: Places | None = places
        self._client = client
        places.free -= 1
        if client is not None:
            places.clients.add(client)

    def leave(self) -> None:
        """Give it back; again does nothing."""
        places, self._places = self._places, None
        if places is not None:
            places.free += 1
            if self._client is not None:
                places.clients.discard(self._client)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.leave()

    def __del__(self) -> None:
        self.leave()  # the client went away before the first piece was asked for


class _Pieces(AsyncIterator[bytes]):
    """Pieces of text as a body; between two of them the event loop has its turn.

    Raises TimeoutError, at which the server cuts the connection, when LARGE_S are over.
    """

    def __init__(self, pieces: Iterator[str], place: Place) -> None:
        self._pieces, self._place = pieces, place
        self._until = asyncio.get_running_loop().time() + LARGE_S

    async def __anext__(self) -> bytes:
        if asyncio.get_running_loop().time() >= self._until:
            self._place.leave()
            raise TimeoutError(f"not taken within {LARGE_S:g} s")
        collected: list[str] = []
        size = 0
        while size < PIECE_CHARS:
            await asyncio.sleep(0)
            piece = next(self._pieces, None)
            if piece is None:
                break
            collected.append(piece)
            size += len(piece)
        if not collected:
            self._place.leave()
            raise StopAsyncIteration
        return "".join(collected).encode()


async def as_the_original(request: Request, handler: Handler) -> Answer:
    """Filter: what is not there, or not allowed, is told in the original's plain words."""
    answer = await handler(request)
    if isinstance(answer, Response) and answer.status in (404, 405):
        return _plain(answer.status, answer)
    return answer


def _json_only(handler: Callable[[Request], Awaitable[Answer]]) -> Handler:
    """Refuse whoever accepts no JSON."""

    async def checked(request: Request) -> Answer:
        accepted = request.headers.get("Accept", "*/*") or "*/*"
        kinds = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
        # Compat: `application/*` is not understood
        return await handler(request) if kinds & {"*/*", _JSON} else _plain(406)

    return checked


def _plain(status: int, answer: Response | None = None) -> Response:
    headers = answer.headers if answer is not None else {}
    return Response(status, PLAIN[status].encode(), "text/plain; charset=utf-8", headers)


def _pretty(value: Any) -> Response:
    return Response(body=shapes.pretty(value))
