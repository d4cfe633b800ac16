"""What an HTTP handler takes and gives: Request, Response, Stream, Upgrade, Refused.

Our own small types instead of aiohttp's, so that handlers are tested without a server:
`await handler(Request.make("GET", "/state"))`. `http_server` translates.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict, MultiDictProxy, MultiMapping

from cairn_core.errors import RemoteError, shorten

T = TypeVar("T")

JSON = "application/json"
#: A subscriber that lets this much pile up is closed.
MAX_QUEUED_BYTES = 8 * 1024 * 1024
#: Aimed-at size of what a stream gives to the socket at a time.
WRITE_BYTES = 256 * 1024

_CALLBACK = re.compile(r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*|\[[0-9]{1,9}\])*", re.ASCII)


class Refused(RemoteError):
    """Raised by a handler to answer with an error status.

    status: 400-599. The body is `{"message": message}` unless `text` is true.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.text = text

    def response(self) -> "Response":
        """The answer that stands for this error."""
        if self.text:
            return Response.text(self.message, status=self.status, headers=self.headers)
        return Response.error(self.status, self.message, headers=self.headers)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other end of the connection.

    address, port: of TCP; empty and 0 on a Unix socket.
    uid, gid, pid: of the process that connected to a Unix socket (SO_PEERCRED), as this
    process's user namespace sees them; None on TCP.
    """

    address: str = ""
    port: int = 0
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None

    @property
    def is_root(self) -> bool:
        """Whether a local process of root asks: the condition of the control APIs."""
        return self.uid == 0


@dataclass(slots=True, kw_only=True)
class Request:
    """One request with its body read.

    path: percent-encoded, without query. query: decoded pairs, names may repeat.
    params: what `{name}` components matched. rest: decoded path behind the route.
    principal: set by an authenticating filter. chunks: the body in pieces, only for routes
    with `stream_body`.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    query: MultiMapping[str]
    body: bytes = b""
    params: dict[str, str] = field(default_factory=dict)
    rest: str = ""
    peer: Peer = Peer()
    principal: str | None = None
    chunks: AsyncIterator[bytes] | None = None

    @classmethod
    def make(
        cls,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        params: dict[str, str] | None = None,
        rest: str = "",
        peer: Peer | None = None,
        principal: str | None = None,
    ) -> "Request":
        """A request as a test writes it; `target` may have a query."""
        path, _, query = target.partition("?")
        return cls(
            method=method,
            path=path,
            headers=CIMultiDictProxy(CIMultiDict(headers or {})),
            query=MultiDictProxy(MultiDict(parse_qsl(query, keep_blank_values=True))),
            body=body,
            params=params or {},
            rest=rest,
            peer=peer or Peer("127.0.0.1", 1),
            principal=principal,
        )

    @property
    def content_type(self) -> str:
        """Media type of the body, lower-case, without parameters; empty when not given."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def json(self, type_: type[T]) -> T:
        """The body as `type_`; raises Refused 400 that names the path of what is wrong."""
        try:
            return msgspec.json.decode(self.body, type=type_)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Refused(400, f"malformed body: {shorten(str(error))}") from None

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query; case does not matter, and a bare `?force` is true."""
        value = self.query.get(name)
        if value is None:
            return default
        if value.lower() in ("", "true", "1"):
            return True
        if value.lower() in ("false", "0"):
            return False
        raise Refused(400, f"query parameter {name}: not a boolean: {shorten(value, 40)!r}")

    def integer(self, name: str, default: int | None = None) -> int | None:
        """An integer of at most 64 bits of the query, or `default`; raises Refused 400."""
        value = self.query.get(name)
        if value is None or value == "":
            return default
        # 19 digits hold a time in nanoseconds, which the feed's epochs are
        fits = re.fullmatch(r"[+-]?[0-9]{1,19}", value, re.ASCII) and abs(int(value)) < 1 << 63
        if not fits:
            raise Refused(400, f"query parameter {name}: not an integer: {shorten(value, 40)!r}")
        return int(value)


@dataclass(slots=True)
class Response:
    """One whole answer.

    body: bytes, or several pieces sent in order as one body (shared chunks of a read model),
    or an iterator that is pulled as fast as the client reads (files).
    A body with a Content-Encoding header is taken as encoded already; others are compressed
    when that pays and the client accepts it.
    """

    status: int = 200
    body: bytes | Sequence[bytes] | AsyncIterator[bytes] = b""
    content_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(
        cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> "Response":
        """`value` (structs, dicts, lists...) as JSON."""
        return cls(status, msgspec.json.encode(value), JSON, headers or {})

    @classmethod
    def text(
        cls, text: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> "Response":
        """Plain text in UTF-8."""
        return cls(status, text.encode(), "text/plain; charset=utf-8", headers or {})

    @classmethod
    def error(
        cls, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> "Response":
        """`{"message": ...}`, the form of an error where no original prescribes another."""
        return cls.json({"message": message}, status, headers)

    @classmethod
    def empty(cls, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        """No body and no Content-Type."""
        return cls(status, b"", None, headers or {})


class Stream:
    """An answer that never ends by itself: RecordIO or Server-Sent Events, sent chunked.

    The handler returns it and keeps a reference; `send` may be called before the headers are
    out. Invariant: `queued_bytes` counts what was sent and not yet taken by the socket; a
    stream over `limit_bytes` is closed, never waited for.

    on_close: called once, with the reason, when nothing can be sent any more.
    """

    __slots__ = (
        "_abort", "_ending", "_on_close", "_queue", "_wake", "close_reason", "content_type",
        "headers", "limit_bytes", "queued_bytes", "sent_bytes", "status",
    )  # fmt: skip

    def __init__(
        self,
        content_type: str = JSON,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        limit_bytes: int = MAX_QUEUED_BYTES,
        on_close: Callable[[str], None] | None = None,
    ) -> None:
        self.status = status
        self.content_type = content_type
        self.headers = dict(headers or {})
        self.limit_bytes = limit_bytes
        self.queued_bytes = 0
        #: What the socket has taken so far.
        self.sent_bytes = 0
        #: Why the stream is closed; None while it is open.
        self.close_reason: str | None = None
        self._on_close = on_close
        self._queue: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._ending = False
        self._abort: Callable[[], None] | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.close_reason is not None or self._ending

    def send(self, data: bytes) -> bool:
        """Queue `data`; never blocks. False when the stream is closed, or was closed by this."""
        if self.closed:
            return False
        if self.queued_bytes + len(data) > self.limit_bytes:
            self.abort("slow subscriber")
            return False
        self._queue.append(data)
        self.queued_bytes += len(data)
        self._notify()
        return True

    def close(self) -> None:
        """End the answer properly after what is queued."""
        self._ending = True
        self._notify()

    def abort(self, reason: str) -> None:
        """Drop what is queued and cut the connection."""
        if self.close_reason is not None:
            return
        self.close_reason = reason
        self._queue.clear()
        self.queued_bytes = 0
        if self._abort is not None:
            self._abort()
        self._notify()
        if self._on_close is not None:
            self._on_close(reason)

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _take(self) -> bytes:
        """The next bytes for the socket: joined, but never so many that joining takes long."""
        taken: list[bytes] = []
        size = 0
        while self._queue and size < WRITE_BYTES:
            size += len(self._queue[0])
            taken.append(self._queue.popleft())
        return b"".join(taken)

    async def pump(
        self, write: Callable[[bytes], Awaitable[None]], abort: Callable[[], None]
    ) -> None:
        """Move the queue into `write` until the end; the server calls this once.

        write: returns when the socket took the bytes. abort: cuts the connection.
        """
        self._abort = abort
        loop = asyncio.get_running_loop()
        while self.close_reason is None:
            if self._queue:
                data = self._take()
                await write(data)
                self.sent_bytes += len(data)
                if self.close_reason is None:
                    self.queued_bytes -= len(data)
            elif self._ending:
                return
            else:
                self._wake = loop.create_future()
                await self._wake
                self._wake = None


@dataclass(slots=True)
class Upgrade:
    """Answer 101 and give the connection to another protocol (the agent link).

    protocol: the token of the Upgrade header. connected: gets the transport, whose protocol it
    must set to its own before it returns; 101 has been written by then. The client must not
    send before it has seen the 101.
    """

    protocol: str
    connected: Callable[[asyncio.Transport], None]
    headers: Mapping[str, str] = field(default_factory=dict)


Answer: TypeAlias = Response | Stream | Upgrade
Handler: TypeAlias = Callable[[Request], Awaitable[Answer]]
#: Sees every request before its handler, found or not (leader proxy, authentication).
Filter: TypeAlias = Callable[[Request, Handler], Awaitable[Answer]]


def sse(data: bytes, *, event: str | None = None, id: str | None = None) -> bytes:
    """One Server-Sent Event; `data` may have several lines. Source: WHATWG HTML, 9.2."""
    head = b""
    if id is not None:
        head += b"id: " + id.encode() + b"\n"
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    lines = b"".join(b"data: " + line + b"\n" for line in data.split(b"\n"))
    return head + lines + b"\n"


def wrap_jsonp(body: bytes, callback: str) -> bytes:
    """`callback(body);`, refused with 400 unless `callback` is a plain JavaScript name."""
    if len(callback) > 128 or not _CALLBACK.fullmatch(callback):
        raise Refused(400, f"jsonp callback not allowed: {shorten(callback, 40)!r}")
    return callback.encode() + b"(" + body + b");"
