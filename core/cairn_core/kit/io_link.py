"""Links over sockets: `LinkServer` accepts, `LinkClient` connects.

The connection begins as an HTTP request with `Upgrade: cairn-link/1`, so that it shares the
master's port and follows its redirects to the leader. A `Channel` is one session; it stays when its
connection goes, and takes messages meanwhile. All messages of one turn of the loop go out as one
batch per channel. There are no tasks per connection: a master has 20,000 of them.

Bounds: handshakes 10 s, silence `idle_s`, sessions kept without a connection `resume_s`.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Generic, Protocol, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from cairn_core.errors import CairnError, RemoteError, Unavailable, cause, shorten
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.http_types import Answer, Peer, Request, Upgrade
from cairn_core.kit.link import Frame, FrameReader, Hello, Link, LinkError, decode_hello

log = logging.getLogger(__name__)

S = TypeVar("S")
R = TypeVar("R")

PROTOCOL = "cairn-link/1"
HANDSHAKE_S = 10.0
#: A bare acknowledgement waits this long for a frame that carries it for nothing.
ACKNOWLEDGE_S = 0.1
SWEEP_S = 1.0
MAX_HEAD_BYTES = 16 * 1024
MAX_HOPS = 5
HIGH_WATER_BYTES = 1024 * 1024


class LinkHandler(Protocol[S, R]):
    """What the upper layer does. All methods are called in the loop and must not block."""

    def opened(self, channel: "Channel[S, R]", hello: Hello, resumed: bool) -> None:
        """A connection is up; when not `resumed`, everything said before is void."""

    def received(self, channel: "Channel[S, R]", messages: list[R]) -> None:
        """Messages of one batch, in order."""

    def closed(self, channel: "Channel[S, R]", reason: str) -> None:
        """The connection is gone; the session may come back."""


class Channel(Generic[S, R]):
    """One session. `owner` is for the upper layer (its agent, say)."""

    __slots__ = ("_hub", "connection", "link", "lost_at", "owner")

    def __init__(self, hub: "_Hub[S, R]", link: Link[S, R]) -> None:
        self._hub = hub
        self.link = link
        self.connection: _Connection[S, R] | None = None
        #: Loop time when the connection went away; None while there is one.
        self.lost_at: float | None = None
        self.owner: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection with its handshake done."""
        return self.link.is_open

    @property
    def is_full(self) -> bool:
        """Whether `send` would raise LinkFull."""
        return self.link.is_full

    def send(self, message: S) -> None:
        """Queue a message; raises LinkFull, MessageTooLarge.

        What is queued before `opened(..., resumed=False)` is dropped by it.
        """
        self.link.send(message)
        self._hub.mark(self)

    def send_encoded(self, data: bytes) -> None:
        """Queue a message that `link.encode_message` made once for many channels."""
        self.link.send_encoded(data)
        self._hub.mark(self)

    def acknowledge(self) -> None:
        """Everything received was taken care of (for links without auto_acknowledge)."""
        self.link.acknowledge()
        self._hub.owe(self)

    def close(self, reason: str = "closed by us") -> None:
        """Cut the present connection; the session stays."""
        if self.connection is not None:
            self.connection.abort(reason)


class _Hub(Generic[S, R]):
    """What both sides share: batching per turn of the loop, acknowledgements, sweeping."""

    def __init__(
        self, handler: LinkHandler[S, R], idle_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.handler = handler
        self.idle_s = idle_s
        self.loop = loop
        self.connections: set[_Connection[S, R]] = set()
        self._dirty: dict[Channel[S, R], None] = {}
        self._owing: dict[Channel[S, R], None] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._owe_handle: asyncio.TimerHandle | None = None
        self._sweep_handle: asyncio.TimerHandle | None = loop.call_later(SWEEP_S, self._sweep)

    def mark(self, channel: Channel[S, R]) -> None:
        """Send what the channel has at the end of this turn."""
        self._dirty[channel] = None
        if self._flush_handle is None:
            self._flush_handle = self.loop.call_soon(self._flush)

    def owe(self, channel: Channel[S, R]) -> None:
        """Acknowledge soon, unless a frame goes out before."""
        self._owing[channel] = None
        if self._owe_handle is None:
            self._owe_handle = self.loop.call_later(ACKNOWLEDGE_S, self._pay)

    def _flush(self) -> None:
        self._flush_handle = None
        dirty, self._dirty = self._dirty, {}
        for channel in dirty:
            if channel.connection is not None:
                channel.connection.flush()

    def _pay(self) -> None:
        self._owe_handle = None
        owing, self._owing = self._owing, {}
        for channel in owing:
            if channel.connection is not None and channel.link.owes_acknowledgement:
                channel.connection.flush(acknowledge_now=True)

    def _sweep(self) -> None:
        now = self.loop.time()
        self._sweep_handle = self.loop.call_later(SWEEP_S, self._sweep)
        for connection in list(self.connections):
            connection.sweep(now)
        self.swept(now)

    def swept(self, now: float) -> None:
        """More to do once per sweep."""

    def hello(self, connection: "_Connection[S, R]", frame: Frame) -> None:
        """First frame of a connection; must set its channel or raise."""
        raise NotImplementedError

    def lost(self, channel: Channel[S, R], reason: str) -> None:
        """A connection with a channel is gone."""
        self.handler.closed(channel, reason)

    def close(self) -> None:
        """Cut all connections and stop the timers."""
        for handle in (self._flush_handle, self._owe_handle, self._sweep_handle):
            if handle is not None:
                handle.cancel()
        self._flush_handle = self._owe_handle = self._sweep_handle = None
        for connection in list(self.connections):
            connection.abort("closed by us")


class _Connection(asyncio.Protocol, Generic[S, R]):
    """One socket. Errors of the other side close it, with one line in the log."""

    __slots__ = (
        "_hub",
        "_paused",
        "_reader",
        "_reason",
        "_transport",
        "_writable",
        "began",
        "channel",
        "gone",
        "last",
        "peer",
        "pinged",
    )  # fmt: skip

    def __init__(self, hub: _Hub[S, R], peer: Peer) -> None:
        self._hub = hub
        self.peer = peer
        self.channel: Channel[S, R] | None = None
        self.gone: Callable[[], object] | None = None
        self._reader = FrameReader()
        self._reason = ""
        self._writable = True
        self._transport: asyncio.Transport | None = None
        self.began = self.last = hub.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._hub.connections.add(self)

    def write(self, data: bytes) -> None:
        """Write a frame of the handshake."""
        if self._transport is not None:
            self._transport.write(data)

    def flush(self, *, acknowledge_now: bool = False) -> None:
        """Write what the link allows, unless the socket is behind."""
        if self._transport is None or self.channel is None or not self._writable:
            return
        data = self.channel.link.bytes_to_send(acknowledge_now=acknowledge_now)
        if data:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.last = self._hub.loop.time()
        try:
            for frame in self._reader.feed(data):
                if self._transport is None:
                    return  # the handler closed us: what follows was not acknowledged
                if self.channel is None:
                    self._hub.hello(self, frame)
                    continue
                link = self.channel.link
                messages = link.receive(frame)
                if messages:
                    self._hub.handler.received(self.channel, messages)
                if link.owes_acknowledgement:
                    self._hub.owe(self.channel)
            if self.channel is not None:
                # acknowledgements may have given us credit
                self._hub.mark(self.channel)
        except CairnError as error:
            log.warning("link closed peer=%s reason=%s", self.peer.address, error)
            self.abort(str(error))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self.channel is not None:
            self._hub.mark(self.channel)

    def sweep(self, now: float) -> None:
        """Close a connection that is late with its HELLO or silent."""
        if self.channel is None:
            if now - self.began > HANDSHAKE_S:
                self.abort("no hello in time")
        elif now - self.last > self._hub.idle_s:
            self.abort(f"silent for {self._hub.idle_s:g} s")

    def abort(self, reason: str) -> None:
        """Cut the connection now."""
        self._reason = self._reason or reason
        transport = self._transport
        if transport is not None:
            transport.abort()
            self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return  # abort has told already
        self._transport = None
        self._hub.connections.discard(self)
        channel = self.channel
        if channel is not None and channel.connection is self:
            channel.connection = None
            channel.lost_at = self._hub.loop.time()
            channel.link.detach()
            self._hub.lost(channel, self._reason or (str(exc) if exc else "closed by peer"))
        if self.gone is not None:
            self.gone()


class LinkServer(_Hub[S, R]):
    """The side that accepts: mount `upgrade` as a route of `HttpServer`.

    accept: looks at the HELLO of a new session and gives the body of our answer; raises
        CairnError to refuse. Called for resumed sessions too.
    """

    def __init__(
        self,
        receive_type: Any,
        handler: LinkHandler[S, R],
        *,
        accept: Callable[[Hello, Peer], bytes] = lambda hello, peer: b"",
        idle_s: float = 60.0,
        resume_s: float = 60.0,
        max_sessions: int = 32768,
        link_options: dict[str, Any] | None = None,
    ) -> None:
        """idle_s must be above the keepalive of the clients. Must be made inside the loop."""
        super().__init__(handler, idle_s, asyncio.get_running_loop())
        self._receive_type = receive_type
        self._accept = accept
        self._resume_s = resume_s
        self._max_sessions = max_sessions
        self._link_options = link_options or {}
        self.channels: dict[str, Channel[S, R]] = {}

    async def upgrade(self, request: Request) -> Answer:
        """The handler for the route."""

        def connected(transport: asyncio.Transport) -> None:
            connection = _Connection(self, request.peer)
            transport.set_protocol(connection)
            connection.connection_made(transport)

        return Upgrade(PROTOCOL, connected)

    def hello(self, connection: _Connection[S, R], frame: Frame) -> None:
        hello = decode_hello(frame)
        body = self._accept(hello, connection.peer)
        channel = self.channels.get(hello.session)
        resume = channel is not None and channel.link.can_resume(hello)
        if channel is not None and channel.connection is not None:
            channel.connection.abort("replaced by a new connection")
        if channel is None:
            if len(self.channels) >= self._max_sessions:
                raise Unavailable(f"{len(self.channels)} sessions, which is the limit")
            link = Link[S, R](self._receive_type, session=hello.session, **self._link_options)
            channel = self.channels[hello.session] = Channel(self, link)
        channel.link.attach(hello, fresh=not resume)
        channel.connection, channel.lost_at = connection, None
        connection.channel = channel
        connection.write(channel.link.hello(body, fresh=not resume))
        self.mark(channel)
        self.handler.opened(channel, hello, resume)

    def forget(self, channel: Channel[S, R]) -> None:
        """End a session; its connection is cut and what it had queued is dropped."""
        self.channels.pop(channel.link.session, None)
        channel.close()

    def swept(self, now: float) -> None:
        for session, channel in list(self.channels.items()):
            if channel.lost_at is not None and now - channel.lost_at > self._resume_s:
                del self.channels[session]


class LinkClient(_Hub[S, R]):
    """The side that connects, again and again, until it is told to stop.

    url: called before every attempt; `http://host:port/path` of the route of a LinkServer, or
        None while nobody is known. Redirects are followed.
    body: of our HELLO, asked before every connection.
    session: unguessable; a new one per process.
    """

    def __init__(
        self,
        receive_type: Any,
        handler: LinkHandler[S, R],
        *,
        url: Callable[[], str | None],
        session: str,
        rng: Random,
        body: Callable[[], bytes] = lambda: b"",
        headers: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        idle_s: float = 45.0,
        keepalive_s: float = 15.0,
        min_backoff_s: float = 0.1,
        max_backoff_s: float = 30.0,
        link_options: dict[str, Any] | None = None,
    ) -> None:
        """idle_s: silence after which the connection counts as lost. Made inside the loop."""
        super().__init__(handler, idle_s, asyncio.get_running_loop())
        link = Link[S, R](receive_type, session=session, **(link_options or {}))
        self.channel: Channel[S, R] = Channel(self, link)
        self._url, self._body, self._headers, self._tls = url, body, headers or {}, tls
        self._keepalive_s = keepalive_s
        self._pinged_at = 0.0
        self._backoff = Backoff(min_backoff_s, max_backoff_s, rng)

    async def run(self, stop: asyncio.Event) -> None:
        """A service for `daemon.run`."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                lost: asyncio.Future[None] = self.loop.create_future()
                try:
                    await self._connect(partial(_settle, lost))
                    waiting: set[asyncio.Future[Any]] = {lost, stopping}
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                except (CairnError, OSError, TimeoutError) as error:
                    log.info("link not connected reason=%s", cause(error))
                delay = self._backoff.next()
                await asyncio.wait({stopping}, timeout=delay)
        finally:
            stopping.cancel()
            self.close()

    async def _connect(self, lost: Callable[[], object]) -> None:
        """One attempt, through redirects, until the 101 or an error."""
        url = self._url()
        for _ in range(MAX_HOPS + 1):
            if url is None:
                raise Unavailable("no address known")
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise RemoteError(f"not an address to connect to: {shorten(url)!r}")
            secure = parts.scheme == "https"
            port = parts.port or (443 if secure else 80)
            connection = _Connection(self, Peer(parts.hostname, port))
            connection.gone = lost
            async with asyncio.timeout(HANDSHAKE_S):
                transport, handshake = await self.loop.create_connection(
                    lambda: _Handshake(self.loop, connection, self._greet),  # noqa: B023
                    parts.hostname,
                    port,
                    ssl=(self._tls or True) if secure else None,
                )
                try:
                    transport.write(_request(parts.netloc, parts.path or "/", self._headers))
                    location = await handshake.done
                except BaseException:
                    transport.abort()
                    raise
            if location is None:
                return
            transport.abort()
            url = urljoin(url, location)
        raise RemoteError(f"more than {MAX_HOPS} redirects, last to {shorten(str(url))}")

    def _greet(self, connection: _Connection[S, R]) -> None:
        connection.write(self.channel.link.hello(self._body()))

    def hello(self, connection: _Connection[S, R], frame: Frame) -> None:
        hello = decode_hello(frame)
        resumed = self.channel.link.attach(hello)
        self.channel.connection, self.channel.lost_at = connection, None
        connection.channel = self.channel
        self._backoff.reset()
        self.mark(self.channel)
        self.handler.opened(self.channel, hello, resumed)

    def swept(self, now: float) -> None:
        if self.channel.is_open and now - self._pinged_at >= self._keepalive_s:
            self._pinged_at = now
            self.channel.link.ping()
            self.mark(self.channel)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Handshake(asyncio.Protocol):
    """Reads the answer to the upgrade request, then gives way to the connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: _Connection[Any, Any],
        greet: Callable[[Any], None],
    ) -> None:
        #: None after 101; the Location of a redirect.
        self.done: asyncio.Future[str | None] = loop.create_future()
        self._connection = connection
        self._greet = greet
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, tail = self._buffer.partition(b"\r\n\r\n")
        if self.done.done() or self._transport is None:
            return
        if not blank:
            if len(self._buffer) > MAX_HEAD_BYTES:
                self.done.set_exception(LinkError("answer to the upgrade is too long"))
            return
        status, *lines = head.decode("latin-1").split("\r\n")
        code = status.split(" ")[1:2]
        fields = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        if code == ["101"]:
            self._transport.set_protocol(self._connection)
            self._connection.connection_made(self._transport)
            self._greet(self._connection)
            self.done.set_result(None)
            if tail:
                self._connection.data_received(tail)
        elif code in (["307"], ["308"], ["302"]) and "location" in fields:
            self.done.set_result(fields["location"])
        else:
            self.done.set_exception(Unavailable(f"upgrade refused: {shorten(status)}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(Unavailable(f"connection lost in the handshake: {exc}"))


def _request(host: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", f"Upgrade: {PROTOCOL}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
