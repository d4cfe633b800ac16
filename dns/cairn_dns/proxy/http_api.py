"""The HTTP interface on 127.0.0.1:62080, read-only: compact JSON as dcos-net's `dcos_dns_api` has.

    /v1/version /v1/hosts/{name} /v1/services/{name} /v1/records /v1/nodes /v1/explain/{name}
    /v1/metrics/{registry}; 501: /v1/config /v1/enumerate /lashup/...
    any other /v1/{word} and /v1/metrics/{registry}: the daemon that has mounted it

What the masters know (nodes, records of their zones, explanations) is relayed from them.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import msgspec

from cairn_core.errors import CairnError, shorten
from cairn_core.kit.http_client import HttpClient
from cairn_core.kit.http_server import Answer, Handler, Refused, Request, Response, Router
from cairn_core.kit.routes import Options
from cairn_dns.wire import AAAA, IN, SRV, A, BadName, text_name, wire_name

from .ask import Ask
from .io_resolver import Resolver
from .message import RD, TC, Malformed, Message, Question, parse
from .zones import LocalZone

log = logging.getLogger(__name__)

RELAY_S = 5.0
#: Rows of a streamed answer that are encoded in one go.
ROWS = 500
NO_LASHUP = "there is no gossip here: masters feed the hosts, and zones are pushed locally"
Explain = Callable[[bytes], dict[str, Any]]


class Api:
    """Handlers of the interface.

    masters: their HTTP addresses, best first. mounts: socket by prefix, as `http_control` keeps it.
    registries: name to text of metrics.
    """

    def __init__(
        self,
        resolver: Resolver,
        explain: Explain,
        zones: Callable[[], Mapping[str, LocalZone]],
        masters: Callable[[], list[str]],
        mounts: Mapping[str, str],
        registries: Mapping[str, Callable[[], bytes]],
    ) -> None:
        self._resolver, self._explain = resolver, explain
        self._zones, self._masters = zones, masters
        self._mounts, self._registries = mounts, registries

    def add_routes(self, router: Router[Handler]) -> None:
        """Put the handlers on a router."""
        exact = Options(exact=True)
        router.add("/v1/version", self.version, options=exact)
        router.add("/v1/config", self.nothing, options=exact)
        router.add("/v1/enumerate", self.nothing, options=exact)
        router.add("/v1/hosts/{name}", self.hosts, options=exact)
        router.add("/v1/services/{name}", self.services, options=exact)
        router.add("/v1/records", self.records, options=Options(exact=True, timeout_s=None))
        router.add("/v1/nodes", self.nodes, options=exact)
        router.add("/v1/explain/{name}", self.explain, options=exact)
        router.add("/v1/metrics/{name}", self.metrics, options=exact)
        router.add("/lashup", self.lashup)
        router.add("/v1/{name}", self.mounted)

    async def version(self, request: Request) -> Answer:
        return Response.json({"Service": "dcos-dns", "Version": "0.0.1"})

    async def nothing(self, request: Request) -> Answer:
        # Compat: dcos-net answers 501 here too.
        return Response.error(501, f"not implemented: {request.path}")

    async def lashup(self, request: Request) -> Answer:
        return Response.error(501, NO_LASHUP)

    async def hosts(self, request: Request) -> Answer:
        """Compat: addresses are those of A alone; nothing found is an empty array."""
        name = _name(request)
        message = await self._ask(name, A)
        shown = text_name(name)
        return Response.json([{"host": shown, "ip": ip} for ip in _addresses(message, A)])

    async def services(self, request: Request) -> Answer:
        """Compat: the port is a number; `ip` is left out when the target has no address."""
        name = _name(request)
        message = await self._ask(name, SRV)
        rows: list[dict[str, Any]] = []
        for record in message.answers if message is not None else ():
            if record.kind != SRV or len(record.data) < 8:
                continue
            row = {
                "service": text_name(name),
                "host": text_name(record.data[6:]),
                "port": record.data[4] << 8 | record.data[5],
            }
            ips = _addresses(await self._ask(record.data[6:], A), A)
            rows += [row | {"ip": ip} for ip in ips] or [row]
        return Response.json(rows)

    async def explain(self, request: Request) -> Answer:
        """Ours, and what a master says about the same name."""
        name = _name(request)
        told = self._explain(name)
        if told["route"]["kind"] == "masters":
            told["master"] = await self._of_master(f"/v1/explain/{told['route']['asked_as']}")
        return Response.json(told)

    async def metrics(self, request: Request) -> Answer:
        text = self._registries.get(request.params["name"])
        if text is None:
            prefix = f"/v1/metrics/{request.params['name']}"
            if prefix not in self._mounts:
                raise Refused(404, f"no registry {shorten(request.params['name'], 40)!r}")
            return await self._from(prefix, request)
        return Response(body=text(), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def nodes(self, request: Request) -> Answer:
        """The nodes of the cluster, from a master."""
        force = "?force=true" if request.flag("force") else ""
        found = await self._of_master(f"/v1/nodes{force}")
        if found is None:
            raise Refused(503, "no master answers; nodes are known to masters only")
        return Response(body=msgspec.json.encode(found))

    async def _of_master(self, path: str) -> Any:
        for master in self._masters():
            with suppress(CairnError):
                async with HttpClient(total_s=RELAY_S, connect_s=1.0) as http:
                    reply = await http.request("GET", f"http://{master}{path}")
                    if reply.ok:
                        return reply.json(object)
        return None

    async def records(self, request: Request) -> Answer:
        """Every address and service record: of the local zones, then of the masters."""
        return Response(body=self._records())

    async def _records(self) -> AsyncIterator[bytes]:
        yield b"["
        first = True
        for zone in list(self._zones().values()):
            rows: list[bytes] = []
            for record in sorted(zone.records, key=lambda one: (one[0], one[1], str(one[2]))):
                shown = _row(*record)
                if shown is not None:
                    rows.append(msgspec.json.encode(shown))
                if len(rows) >= ROWS:
                    yield (b"" if first else b",\n") + b",\n".join(rows)
                    first, rows = False, []
            if rows:
                yield (b"" if first else b",\n") + b",\n".join(rows)
                first = False
        async for piece in self._records_of_master(first):
            yield piece
        yield b"]"

    async def _records_of_master(self, first: bool) -> AsyncIterator[bytes]:
        """The inside of a master's array, with a comma before it when one is needed.

        The last bytes are held back until the end, for the bracket among them is ours to write.
        """
        for master in self._masters():
            with suppress(CairnError):
                async with HttpClient(total_s=60.0, connect_s=1.0) as http:
                    url = f"http://{master}/v1/records"
                    async with http.stream("GET", url, idle_s=RELAY_S) as reply:
                        if reply.status != 200:
                            continue
                        held = b""
                        begun = False
                        async for piece in reply.chunks():
                            held += piece
                            if not begun:
                                inside = held.lstrip()
                                if len(inside) < 3:
                                    continue
                                held = inside.removeprefix(b"[").lstrip()
                                begun = True
                                if not held.startswith(b"]") and not first:
                                    yield b",\n"
                            if len(held) > 16:
                                yield held[:-16]
                                held = held[-16:]
                        yield held.rstrip().removesuffix(b"]") if begun else b""
                        return

    async def mounted(self, request: Request) -> Answer:
        """What another daemon answers on its own socket.

        It sees us as its peer, so that nobody may leave the mounted path.
        """
        if _leads_up(request.path):
            raise Refused(400, f"path: leads up: {shorten(request.path, 80)!r}")
        return await self._from(f"/v1/{request.params['name']}", request)

    async def _from(self, prefix: str, request: Request) -> Answer:
        socket = self._mounts.get(prefix)
        if socket is None:
            raise Refused(404, f"nobody answers {shorten(request.path, 80)!r}")
        headers = {
            name: value
            for name in ("Accept", "If-None-Match")
            if (value := request.headers.get(name)) is not None
        }
        query = urlencode(list(request.query.items()))
        try:
            async with HttpClient(total_s=30.0, connect_s=2.0, unix_socket=Path(socket)) as http:
                reply = await http.request(
                    "GET",
                    f"http://localhost{request.path}" + (f"?{query}" if query else ""),
                    headers=headers,
                )
        except CairnError as error:
            raise Refused(502, f"the daemon behind {prefix} does not answer: {error}") from None
        kept = {
            name: value
            for name in ("ETag", "Cache-Control", "Last-Modified")
            if (value := reply.headers.get(name)) is not None
        }
        return Response(reply.status, reply.body, reply.headers.get("Content-Type"), kept)

    async def _ask(self, name: bytes, kind: int) -> Message | None:
        """An answer, over TCP only where it does not fit a datagram."""
        ask = Ask(Question(name, kind, IN), RD, edns=True)
        found = await self._ask_once(ask)
        if found is None or found.bits & TC:
            return await self._ask_once(replace(ask, tcp=True)) or found
        return found

    async def _ask_once(self, ask: Ask) -> Message | None:
        reply = await self._resolver.resolve(ask)
        try:
            return parse(reply) if reply is not None else None
        except Malformed:
            return None


def _leads_up(path: str) -> bool:
    """Whether a path has a component `.` or `..`, however often it is encoded."""
    while (plain := unquote(path)) != path:
        path = plain
    return not {".", ".."}.isdisjoint(path.replace("\\", "/").split("/"))


def _name(request: Request) -> bytes:
    try:
        return wire_name(request.params["name"].removesuffix("."))
    except BadName as error:
        raise Refused(400, str(error)) from None


def _addresses(message: Message | None, kind: int) -> list[str]:
    if message is None:
        return []
    size = 4 if kind == A else 16
    return [
        str(ip_address(record.data))
        for record in message.answers
        if record.kind == kind and len(record.data) == size
    ]


def _row(name: str, kind: int, value: Any) -> dict[str, str] | None:
    if kind in (A, AAAA):
        rtype = "A" if kind == A else "AAAA"
        return {"name": name, "host": str(ip_address(value)), "rtype": rtype}
    if kind == SRV:
        return {"name": name, "host": f"{value[0]}:{value[1]}", "rtype": "SRV"}
    return None
