"""Doors from 127.0.0.1 into the lab: HTTP relays that no web page can drive.

The relay process lives in the machine's own namespaces and opens its outgoing sockets inside
a host, so that the machine needs no route and no firewall rule for the lab. Every request is
read and judged, not only the first of a connection; see `refusal`.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from cairn_lab import cgroups, starting
from cairn_lab.errors import LabError
from cairn_lab.inside import Namespace
from cairn_lab.topology import RELAYS, Relay, Topology

# RFC 9110 section 7.6.1: fields that concern one connection only
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
     "te", "trailer", "transfer-encoding", "upgrade", "expect")
)  # fmt: skip
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Door:
    """A relay and its listening socket, bound before the lab is made."""

    relay: Relay
    listener: socket.socket


class DoorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One door as the relay process is told."""

    listener: int
    port: int
    namespace_pid: int
    address: str
    target_port: int


class RelaySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the relay process has to know."""

    cgroup: str
    doors: list[DoorSpec]


def listen(relays: tuple[Relay, ...], stack: contextlib.ExitStack) -> list[Door]:
    """Bind every relay's port on 127.0.0.1; `stack` closes our copies of the sockets.

    Raises LabError that names the busy port and the flag that moves it.
    """
    doors = []
    for relay in relays:
        listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", relay.port))
            listener.listen(128)
        except OSError as error:
            raise LabError(
                f"127.0.0.1:{relay.port} cannot be used for the {relay.name} "
                f"({error.strerror}); choose another with --port {relay.name}=PORT, "
                "or do without by --no-relays"
            ) from error
        doors.append(Door(relay, listener))
    return doors


def start(topology: Topology, doors: list[Door], pids: Mapping[str, int]) -> starting.Starting:
    """Start the relay process; it serves after its `go`. pids: PID 1 of each host."""
    spec = RelaySpec(
        cgroup=topology.system_cgroup(RELAYS),
        doors=[
            DoorSpec(
                listener=door.listener.fileno(),
                port=door.relay.port,
                namespace_pid=pids[door.relay.host],
                address=str(topology.host(door.relay.host).ipv4),
                target_port=door.relay.target_port,
            )
            for door in doors
        ],
    )
    descriptors = [door.listener.fileno() for door in doors]
    return starting.Starting("the relays", "cairn_lab.relays", spec, descriptors)


def refusal(method: str, headers: Mapping[str, str], port: int) -> str | None:
    """Why a request must not pass the door on `port`; None when it may.

    headers: case-insensitive. A page of another origin gives itself away by `Origin` or
    `Sec-Fetch-Site` (Fetch standard), and one that had its own name resolve to 127.0.0.1 by
    `Host`. Following a link into the lab is allowed: it is a GET that no script can read.
    """
    host = headers.get("Host", "")
    known = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
    if port == 80:
        known |= {"127.0.0.1", "localhost"}
    if host.lower() not in known:
        return f"host {host[:100]!r} is not a name of this door"
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return f"origin {origin[:100]!r} is another site"
    site = headers.get("Sec-Fetch-Site", "none")
    if site not in ("same-origin", "none"):
        follows_link = method == "GET" and headers.get("Sec-Fetch-Mode") == "navigate"
        if not follows_link:
            return f"request comes from a {site[:20]} page"
    return None


class _Forwarder:
    """Passes the requests of one door on and the answers back, bodies as streams."""

    def __init__(self, door: DoorSpec) -> None:
        self._door = door
        connector = aiohttp.TCPConnector(
            limit=0, socket_factory=Namespace(door.namespace_pid).socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request from outside."""
        door = self._door
        if reason := refusal(request.method, request.headers, door.port):
            return web.Response(status=403, text=f"refused: {reason}\n")
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # curl waits a second
        # the path is passed on as it came, also where it is not in normal form
        target = URL(f"http://{door.address}:{door.target_port}{request.raw_path}", encoded=True)
        try:
            async with self._session.request(
                request.method,
                target,
                headers=_passed_on(request.headers),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                data=request.content if request.body_exists else None,
                allow_redirects=False,
            ) as answer:
                return await _stream(request, answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            return web.Response(status=502, text=f"the lab does not answer: {error}\n")


async def _stream(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(
        status=answer.status, reason=answer.reason, headers=_passed_on(answer.headers)
    )
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except aiohttp.ClientError:
        # The answer broke off; the client must see that and not an ordinary end.
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def _passed_on(headers: Mapping[str, str]) -> "CIMultiDict[str]":
    named = {n.strip().lower() for n in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named
    )


async def _serve(spec: RelaySpec) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    for door in spec.doors:
        listener = socket.socket(fileno=door.listener)
        runner = web.ServerRunner(
            web.Server(_Forwarder(door).handle), access_log=None, handler_cancellation=True
        )
        await runner.setup()
        await web.SockSite(runner, listener).start()
    starting.say({"ready": True})
    await asyncio.to_thread(starting.await_go)
    starting.let_go(None)
    await stop.wait()


def main() -> NoReturn:
    """Read a RelaySpec from standard input and serve it until SIGTERM."""
    try:
        spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=RelaySpec)
        os.setsid()
        cgroups.join(spec.cgroup)
        starting.fork_and_tell()
        asyncio.run(_serve(spec))
    except (OSError, msgspec.DecodeError) as error:
        starting.fail(error)
    os._exit(0)


if __name__ == "__main__":
    main()
