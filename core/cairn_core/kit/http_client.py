"""The HTTP client of every daemon: leader redirects, RecordIO streams, bounded answers.

Redirects are those of a Mesos master: 307 with `Location: //host:port/path`, keeping method, body
and headers. Retrying is the caller's decision (`backoff.Backoff`); nothing is retried here, since
only the caller knows what is idempotent.
"""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import TypeVar

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cairn_core.errors import RemoteError, Unavailable, cause, shorten
from cairn_core.mesos.recordio import MAX_RECORD_BYTES, Decoder

T = TypeVar("T")

MAX_REPLY_BYTES = 256 * 1024 * 1024
MAX_REDIRECTS = 5
#: Bodies of so many bytes are sent in pieces.
PIECES_FROM_BYTES = 512 * 1024
_KEEPING = (307, 308)
_SEE_OTHER = (301, 302, 303)
_CREDENTIALS = ("Authorization", "Cookie")


class CannotConnect(Unavailable):
    """No answer came: refused, unreachable, timed out or cut off."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason


class BadReply(RemoteError):
    """An answer came that we do not accept: too large, redirected in circles, not as declared."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"bad reply from {url}: {reason}")
        self.url = url
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; `url` is the address that gave it after redirects."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: str

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self, type_: type[T]) -> T:
        """The body as `type_`; raises BadReply."""
        try:
            return msgspec.json.decode(self.body, type=type_)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadReply(self.url, shorten(str(error))) from None

    def expect(self, *statuses: int) -> "Reply":
        """This reply if its status is one of `statuses` (none given: any 2xx).

        Otherwise raises Unavailable for 503 and 504, BadReply for the others.
        """
        if self.status in statuses or (not statuses and self.ok):
            return self
        text = f"status {self.status} {shorten(self.body.decode(errors='replace'))}".rstrip()
        if self.status in (503, 504):
            after = self.headers.get("Retry-After", "")
            seconds = float(after) if after.isascii() and after.isdigit() else None
            raise Unavailable(f"{self.url}: {text}", retry_after_s=seconds)
        raise BadReply(self.url, text)


@dataclass(slots=True)
class StreamReply:
    """An answer whose body is read as it comes."""

    status: int
    headers: CIMultiDictProxy[str]
    url: str
    _raw: aiohttp.ClientResponse
    _idle_s: float | None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Pieces of the body; raises CannotConnect when cut off or silent for `idle_s`."""
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    piece = await self._raw.content.readany()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise CannotConnect(self.url, _reason(error, self._idle_s)) from None
            if not piece:
                return
            yield piece

    async def records(self, limit: int = MAX_RECORD_BYTES) -> AsyncIterator[bytes]:
        """RecordIO records; raises RecordError, and CannotConnect for one that is cut off."""
        decoder = Decoder(limit)
        async for piece in self.chunks():
            for record in decoder.feed(piece):
                yield record
        if decoder.pending:
            raise CannotConnect(self.url, "stream ended inside a record")

    async def read(self, limit: int = 1024 * 1024) -> bytes:
        """All of it, as for an error answer; raises BadReply above `limit` bytes."""
        body = bytearray()
        async for piece in self.chunks():
            body += piece
            if len(body) > limit:
                raise BadReply(self.url, f"body is above {limit} bytes")
        return bytes(body)


@dataclass(slots=True, kw_only=True)
class HttpClient:
    """A pool of connections; use it as `async with HttpClient() as http`.

    total_s: for a whole request without streams. connect_s: for one connection.
    pool: open connections in all; per_host: to one address; more requests wait their turn.
    unix_socket: talk to this socket whatever the host of the URL.
    headers: sent with every request.
    ssl: how https is spoken; None verifies with the system's authorities.
    """

    total_s: float = 30.0
    connect_s: float = 5.0
    pool: int = 256
    per_host: int = 32
    unix_socket: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ssl: SSLContext | None = None
    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "HttpClient":
        connector: aiohttp.BaseConnector
        if self.unix_socket is not None:
            connector = aiohttp.UnixConnector(
                str(self.unix_socket), limit=self.pool, limit_per_host=self.per_host
            )
        else:
            connector = aiohttp.TCPConnector(
                limit=self.pool,
                limit_per_host=self.per_host,
                ttl_dns_cache=10,
                ssl=True if self.ssl is None else self.ssl,
            )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": "cairn", **self.headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        redirects: int = MAX_REDIRECTS,
        total_s: float | None = None,
        limit: int = MAX_REPLY_BYTES,
    ) -> Reply:
        """The whole answer, whatever its status.

        body: bytes to send; or json: a value to encode. limit: bytes of the answer.
        Raises CannotConnect, BadReply.
        """
        seconds = self.total_s if total_s is None else total_s
        sent = dict(headers or {})
        if json is not None:
            body = msgspec.json.encode(json)
            sent.setdefault("Content-Type", "application/json")
        try:
            async with (
                asyncio.timeout(seconds),
                self.stream(
                    method, url, body=body, headers=sent, redirects=redirects, idle_s=None
                ) as reply,
            ):
                content = await reply.read(limit)
                return Reply(reply.status, reply.headers, content, reply.url)
        except TimeoutError:
            raise CannotConnect(url, f"timed out after {seconds:g} s") from None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        redirects: int = MAX_REDIRECTS,
        idle_s: float | None = 60.0,
    ) -> AsyncIterator[StreamReply]:
        """An answer to be read while it comes; leaving the block closes the connection.

        idle_s: longest silence before the headers and between two pieces. A body that is an
        iterator cannot be sent twice, so a redirect of it is returned as it is.
        Raises CannotConnect, BadReply.
        """
        raw = await self._follow(method, url, body, headers, redirects, idle_s)
        try:
            yield StreamReply(raw.status, raw.headers, str(raw.url), raw, idle_s)
        finally:
            # a body read to its end has given its connection back already
            raw.close()

    async def _follow(
        self,
        method: str,
        url: str,
        body: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str] | None,
        redirects: int,
        idle_s: float | None,
    ) -> aiohttp.ClientResponse:
        sent = CIMultiDict(headers or {})
        for _ in range(redirects + 1):
            raw = await self._once(method, url, body, sent, idle_s)
            location = raw.headers.get("Location")
            keeping = raw.status in _KEEPING and (body is None or isinstance(body, bytes))
            if location is None or not redirects:
                return raw
            if not keeping and not (raw.status in _SEE_OTHER and method in ("GET", "HEAD")):
                return raw
            raw.close()
            target = _target(raw.url, location)
            # Differs: the original's clients send credentials wherever a redirect points; we
            # keep them for the same scheme and port on another host (the next leader) only
            if (target.scheme, target.port) != (raw.url.scheme, raw.url.port):
                for name in _CREDENTIALS:
                    sent.popall(name, None)
            url = str(target)
        raise BadReply(url, f"more than {redirects} redirects")

    async def _once(
        self,
        method: str,
        url: str,
        body: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        idle_s: float | None,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("HttpClient is used outside its async with block")
        try:
            async with asyncio.timeout(idle_s):
                return await self._session.request(
                    method,
                    URL(url, encoded=True),
                    data=_as_sent(body),
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_s),
                )
        except aiohttp.ClientConnectorCertificateError as error:  # a ValueError too
            raise CannotConnect(url, _reason(error, idle_s)) from None
        except (aiohttp.InvalidURL, ValueError) as error:
            raise BadReply(url, shorten(str(error))) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise CannotConnect(url, _reason(error, idle_s)) from None


def _as_sent(body: bytes | AsyncIterator[bytes] | None) -> object:
    """A large body as a stream, which aiohttp sends in pieces instead of warning about it."""
    return io.BytesIO(body) if isinstance(body, bytes) and len(body) >= PIECES_FROM_BYTES else body


def _target(base: URL, location: str) -> URL:
    """Where a redirect leads; `//host:port/path` keeps the scheme."""
    try:
        target = base.join(URL(location, encoded=True))
    except ValueError as error:
        raise BadReply(str(base), f"location {shorten(location)!r}: {error}") from None
    if target.scheme not in ("http", "https") or not target.host:
        raise BadReply(str(base), f"location not followed: {shorten(location)!r}")
    return target


def _reason(error: BaseException, idle_s: float | None) -> str:
    if isinstance(error, TimeoutError):
        return str(error) or (f"silent for {idle_s:g} s" if idle_s is not None else "timed out")
    if isinstance(error, aiohttp.ClientPayloadError):
        return "cut off in the middle"  # the library's text speaks of encodings and a status 400
    # Errors of TLS carry numbers that are not those of the system.
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return shorten(str(error.certificate_error))
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return shorten(str(error.os_error))
    return cause(error)
