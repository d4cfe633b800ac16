"""The HTTP server of every daemon: aiohttp's parser below, our routes and limits above.

Start reading at `HttpServer._answer`: find the route, read the body within its limits, run the
filters and the handler, translate what it returns. Handlers know nothing of aiohttp; their types
are in `http_types` and are exported from here as well.

Bounds: body size (413, also when chunked), JSON nesting (400), time (408 and 503; to take a piece
of an answer), connections, bytes queued per stream. Not here: `/health` and its like
(`http_standard`), files (`http_files`).
"""

import asyncio
import contextlib
import logging
import socket
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict

from cairn_core.errors import Unavailable, shorten
from cairn_core.kit.http_types import (
    JSON,
    Answer,
    Filter,
    Handler,
    Peer,
    Refused,
    Request,
    Response,
    Stream,
    Upgrade,
    sse,
    wrap_jsonp,
)
from cairn_core.kit.json_depth import MAX_DEPTH, too_deep
from cairn_core.kit.listeners import Listener, bind, name_of, peer_of
from cairn_core.kit.routes import Match, NoRoute, Options, Router, WrongMethod

__all__ = [
    "Answer", "Filter", "Handler", "HttpServer", "Limits", "Listener", "Options", "Peer",
    "Refused", "Request", "Response", "Router", "Stats", "Stream", "Upgrade", "sse",
]  # fmt: skip

log = logging.getLogger(__name__)

#: A client that takes nothing of a large answer for so long is cut off, seconds.
STUCK_S = 60.0

#: Compressing less than this costs more than the bytes saved.
GZIP_FROM_BYTES = 1024
#: Compressing more than this would hold the loop for milliseconds, so a thread does it.
GZIP_IN_THREAD_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a whole server; those of a route are its `Options`.

    max_connections: further ones are closed at once. idle_s: keep-alive connections without a
    request are closed after this; Marathon's clients expect 30 s or more.
    """

    max_connections: int = 16384
    idle_s: float = 75.0
    unrouted: Options = field(default_factory=Options)


@dataclass(slots=True)
class Stats:
    """Counters of one server since its start; `metrics` exports them."""

    requests: int = 0
    errors: int = 0  # answers 500 and above that a handler did not choose
    refused_connections: int = 0
    slow_streams: int = 0
    open_streams: int = 0
    connections: int = 0


class _Connection(RequestHandler):
    """aiohttp's connection, which also tells when it is gone."""

    __slots__ = ("peer", "server", "streams")

    def __init__(self, server: "HttpServer", manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.server = server
        self.peer: Peer | None = None
        self.streams: set[Stream] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stats = self.server.stats
        stats.connections += 1
        super().connection_made(transport)
        if stats.connections > self.server.limits.max_connections:
            stats.refused_connections += 1
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.server.stats.connections -= 1
        super().connection_lost(exc)
        for stream in list(self.streams):
            stream.abort("connection lost")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refused; no traceback, for anyone can send garbage."""
        log.debug("request refused peer=%s reason=%s", self.peername, exc)
        response = web.Response(
            status=status,
            body=msgspec.json.encode({"message": shorten(message or "malformed request")}),
            content_type=JSON,
            headers=self.server.headers,
        )
        response.force_close()
        return response

    def hand_over(self) -> asyncio.Transport:
        """Let go of the transport for another protocol.

        aiohttp's parser eats bytes behind the upgrade request, so a client has to wait for our
        101, as it must anyway; what it sent earlier is lost, and its protocol will time out.
        """
        transport, manager = self.transport, self._manager
        if transport is None or manager is None or self._messages:
            raise ConnectionResetError("connection lost, or bytes before the upgrade")
        self.server.stats.connections -= 1
        self.keep_alive(False)
        self.transport = None
        manager.connection_lost(self, None)
        return transport


class _Server(web.Server):
    """aiohttp's factory of connections, making ours."""

    def __init__(self, owner: "HttpServer", handler: Any, **options: Any) -> None:
        super().__init__(handler)
        self._owner = owner
        self._options = options

    def __call__(self) -> RequestHandler:
        return _Connection(self._owner, self, loop=asyncio.get_running_loop(), **self._options)


class _Handed(web.StreamResponse):
    """Stands for an answer that was given by hand, after which the connection is not ours."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None

    @property
    def keep_alive(self) -> bool | None:
        return False


class HttpServer:
    """Serves one router on any number of listeners.

    filters: outermost first; each sees every request, also those without a route.
    headers: added to every answer that does not set them.
    """

    def __init__(
        self,
        router: Router[Handler],
        *,
        filters: Sequence[Filter] = (),
        headers: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.router = router
        self.limits = limits or Limits()
        self.stats = Stats()
        #: What we listen on, as text for the log: "127.0.0.1:5050", "[::1]:5050", "unix:/run/x".
        self.addresses: list[str] = []
        self.headers = {"Server": "cairn", **(headers or {})}
        self._filters = tuple(filters)
        self._servers: list[asyncio.AbstractServer] = []
        self._sockets: list[socket.socket] = []
        self._unix_paths: list[tuple[Path, int]] = []
        self._web: _Server | None = None
        self._streams: set[Stream] = set()

    @property
    def port(self) -> int:
        """Port of the first TCP listener; raises LookupError when there is none."""
        for sock in self._sockets:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                return int(sock.getsockname()[1])
        raise LookupError("no TCP listener")

    async def start(self, *listeners: Listener) -> None:
        """Bind and accept. Raises Unavailable, with the address, when one cannot be bound."""
        loop = asyncio.get_running_loop()
        self._web = _Server(
            self,
            self._answer,
            access_log=None,
            keepalive_timeout=self.limits.idle_s,
            lingering_time=2.0,
        )
        try:
            for listener in listeners:
                for sock in bind(listener):
                    if isinstance(listener, Path):
                        self._unix_paths.append((listener, listener.stat().st_ino))
                    self._sockets.append(sock)
                    self.addresses.append(name_of(sock))
                    if sock.family == socket.AF_UNIX:
                        server = await loop.create_unix_server(self._web, sock=sock)
                    else:
                        server = await loop.create_server(self._web, sock=sock, backlog=1024)
                    self._servers.append(server)
        except BaseException:
            await self.drain(0)
            raise

    async def drain(self, grace_s: float = 5.0) -> None:
        """Accept nothing more, end streams, let running requests finish within `grace_s`."""
        for server in self._servers:
            server.close()
        for path, inode in self._unix_paths:
            # a successor may have bound the same path meanwhile
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
        self._unix_paths.clear()
        for stream in list(self._streams):
            stream.close()
        if self._web is not None:
            self._web.pre_shutdown()
            await self._web.shutdown(grace_s)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def service(
        self, *listeners: Listener, grace_s: float = 5.0
    ) -> "Callable[[asyncio.Event], Any]":
        """A service for `daemon.run`: starts, serves until `stop`, drains."""

        async def http(stop: asyncio.Event) -> None:
            await self.start(*listeners)
            log.info("http server listening addresses=%s", ",".join(self.addresses))
            try:
                await stop.wait()
            finally:
                await self.drain(grace_s)

        return http

    # -- one request ---------------------------------------------------------------------------

    async def _answer(self, raw: web.BaseRequest) -> web.StreamResponse:
        """From aiohttp's request to aiohttp's response."""
        self.stats.requests += 1
        connection = cast(_Connection, raw.protocol)
        found = self.router.find(raw.method, raw.rel_url.raw_path)
        options = found.options if isinstance(found, Match) else self.limits.unrouted
        request: Request | None = None
        answer: Answer
        try:
            request = await self._read(raw, connection, options)
            if isinstance(found, Match):
                request.params, request.rest = found.params, found.rest
            handler = _chain(self._filters, _dispatch(found))
            async with asyncio.timeout(options.timeout_s):
                answer = await handler(request)
            if options.jsonp and isinstance(answer, Response):
                answer = _with_jsonp(request, answer)
        except Refused as refused:
            answer = refused.response()
        except Unavailable as unavailable:
            answer = _unavailable(unavailable)
        except TimeoutError:
            self.stats.errors += 1
            log.warning("request timed out method=%s path=%s", raw.method, raw.rel_url.raw_path)
            answer = Response.error(503, f"not answered within {options.timeout_s} s")
        except ConnectionError:
            raise  # the client went away while its body was read: nobody to answer
        except Exception:
            # the loop of a service: one broken handler must not end the daemon
            self.stats.errors += 1
            log.exception("handler failed method=%s path=%s", raw.method, raw.rel_url.raw_path)
            answer = Response.error(500, "internal error")
        match answer:
            case Response():
                return await self._send(raw, answer)
            case Stream():
                return await self._stream(raw, connection, answer)
            case Upgrade():
                return self._upgrade(raw, connection, answer)

    async def _read(
        self, raw: web.BaseRequest, connection: _Connection, options: Options
    ) -> Request:
        if connection.peer is None:
            connection.peer = peer_of(connection.transport)
        request = Request(
            method=raw.method,
            path=raw.rel_url.raw_path,
            headers=raw.headers,
            query=raw.query,
            peer=connection.peer,
        )
        if not raw.can_read_body:
            return request
        limit = options.max_body_bytes
        if not options.stream_body and (raw.content_length or 0) > limit:
            raise Refused(413, f"body of {raw.content_length} bytes is above {limit}")
        if raw.headers.get("Expect", "").lower() == "100-continue" and connection.transport:
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if options.stream_body:
            request.chunks = _chunks(raw)
            return request
        try:
            async with asyncio.timeout(options.timeout_s):
                request.body = await _whole(raw, limit)
        except TimeoutError:
            raise Refused(408, f"body not received within {options.timeout_s} s") from None
        kind = request.content_type
        if (not kind or "json" in kind) and too_deep(request.body):
            raise Refused(400, f"malformed body: nested deeper than {MAX_DEPTH}, or unbalanced")
        return request

    def _merged(self, answer: Response | Stream | Upgrade) -> CIMultiDict[str]:
        headers = CIMultiDict(self.headers)
        headers.update(answer.headers)
        return headers

    async def _send(self, raw: web.BaseRequest, answer: Response) -> web.StreamResponse:
        headers = self._merged(answer)
        if answer.content_type is not None:
            headers["Content-Type"] = answer.content_type
        body = answer.body
        if isinstance(body, AsyncIterator):
            return await self._send_pieces(raw, answer.status, headers, body)
        pieces = [body] if isinstance(body, bytes) else list(body)
        size = sum(map(len, pieces))
        if size >= GZIP_FROM_BYTES and "Content-Encoding" not in headers and _takes_gzip(raw):
            if size >= GZIP_IN_THREAD_BYTES:
                pieces = await asyncio.to_thread(_gzip, pieces)
            else:
                pieces = _gzip(pieces)
            size = sum(map(len, pieces))
            headers["Content-Encoding"] = "gzip"
            headers["Vary"] = "Accept-Encoding"
        if len(pieces) <= 1:
            return web.Response(
                status=answer.status, headers=headers, body=pieces[0] if pieces else None
            )
        headers["Content-Length"] = str(size)
        return await self._send_pieces(raw, answer.status, headers, _iterate(pieces))

    async def _send_pieces(
        self,
        raw: web.BaseRequest,
        status: int,
        headers: CIMultiDict[str],
        pieces: AsyncIterator[bytes],
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(raw)
        if raw.method != "HEAD":
            try:
                async for piece in pieces:
                    async with asyncio.timeout(STUCK_S):
                        await response.write(piece)
                async with asyncio.timeout(STUCK_S):
                    await response.write_eof()
            except TimeoutError:
                # what we hold for it - a large read, a place among few - is for others
                log.info("client takes nothing, cut off path=%s", raw.rel_url.raw_path)
                if raw.transport is not None:
                    raw.transport.abort()
                raise ConnectionResetError("the client takes nothing") from None
            finally:
                if isinstance(pieces, AsyncGenerator):
                    await pieces.aclose()
        return response

    async def _stream(
        self, raw: web.BaseRequest, connection: _Connection, stream: Stream
    ) -> web.StreamResponse:
        headers = self._merged(stream)
        headers["Content-Type"] = stream.content_type
        response = web.StreamResponse(status=stream.status, headers=headers)
        if raw.version >= (1, 1):
            response.enable_chunked_encoding()
        self._streams.add(stream)
        connection.streams.add(stream)
        self.stats.open_streams += 1
        transport = connection.transport
        try:
            if transport is None:
                raise ConnectionResetError("connection lost before the stream began")
            await response.prepare(raw)
            await stream.pump(response.write, transport.abort)
            if stream.close_reason is None:
                await response.write_eof()
            elif stream.close_reason == "slow subscriber":
                self.stats.slow_streams += 1
        finally:
            self.stats.open_streams -= 1
            self._streams.discard(stream)
            connection.streams.discard(stream)
            stream.abort("ended")
        return response

    def _upgrade(
        self, raw: web.BaseRequest, connection: _Connection, upgrade: Upgrade
    ) -> web.StreamResponse:
        asked = [token.strip().lower() for token in raw.headers.get("Upgrade", "").split(",")]
        if upgrade.protocol.lower() not in asked:
            return web.Response(
                status=426,
                headers={"Upgrade": upgrade.protocol, "Connection": "Upgrade"},
                text=f"this path speaks {upgrade.protocol}",
            )
        transport = connection.hand_over()
        lines = [f"Upgrade: {upgrade.protocol}", "Connection: Upgrade"]
        lines += [f"{name}: {value}" for name, value in upgrade.headers.items()]
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n"
        )
        upgrade.connected(transport)
        transport.resume_reading()
        return _Handed()


def _chain(filters: Iterable[Filter], handler: Handler) -> Handler:
    for outer in reversed(list(filters)):
        handler = _bound(outer, handler)
    return handler


def _bound(outer: Filter, inner: Handler) -> Handler:
    async def filtered(request: Request) -> Answer:
        return await outer(request, inner)

    return filtered


def _dispatch(found: Match[Handler] | WrongMethod | NoRoute) -> Handler:
    if isinstance(found, Match):
        return found.handler

    async def refuse(request: Request) -> Answer:
        if isinstance(found, WrongMethod):
            message = f"method {request.method} not allowed, expecting {found.allow}"
            return Response.error(405, message, {"Allow": found.allow})
        return Response.error(404, f"no such path: {request.path[:200]}")

    return refuse


def _unavailable(error: Unavailable) -> Response:
    after = error.retry_after_s
    headers = {} if after is None else {"Retry-After": str(max(1, round(after)))}
    return Response.error(503, str(error), headers)


def _with_jsonp(request: Request, answer: Response) -> Response:
    callback = request.query.get("jsonp")
    if callback is None or answer.content_type != JSON or isinstance(answer.body, AsyncIterator):
        return answer
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    return Response(answer.status, wrap_jsonp(body, callback), "text/javascript", answer.headers)


async def _whole(raw: web.BaseRequest, limit: int) -> bytes:
    body = bytearray()
    try:
        while chunk := await raw.content.readany():
            body += chunk
            if len(body) > limit:
                raise Refused(413, f"body is above {limit} bytes")
    except (web.RequestPayloadError, zlib.error) as error:
        raise Refused(400, f"malformed body: {error}") from None
    return bytes(body)


async def _chunks(raw: web.BaseRequest) -> AsyncIterator[bytes]:
    while chunk := await raw.content.readany():
        yield chunk


async def _iterate(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _takes_gzip(raw: web.BaseRequest) -> bool:
    for offer in raw.headers.get("Accept-Encoding", "").split(","):
        coding, _, quality = offer.replace(" ", "").lower().partition(";q=")
        if coding in ("gzip", "*"):
            return quality.strip("0.") != "" or quality == ""
    return False


def _gzip(pieces: Sequence[bytes]) -> list[bytes]:
    # level 1: on JSON it is four times as fast as the default and a fifth larger
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = [compressor.compress(piece) for piece in pieces]
    return [b"".join([*packed, compressor.flush()])]
