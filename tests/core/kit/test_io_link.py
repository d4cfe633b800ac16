"""Links over sockets: handshake, redirects, cuts and resuming."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import pytest
import uvloop

from cairn_core.errors import RemoteError
from cairn_core.kit.http_server import Answer, Handler, HttpServer, Request, Response, Router
from cairn_core.kit.http_types import Peer
from cairn_core.kit.io_link import Channel, LinkClient, LinkServer
from cairn_core.kit.link import Hello, encode_message


class Say(msgspec.Struct, frozen=True, tag=True):
    """The only message."""

    n: int
    pad: bytes = b""


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until `condition()` holds, giving the loop its turns."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of any kind are waited for
            await asyncio.sleep(0.001)


@dataclass
class Notes:
    """A handler that writes down what happens."""

    opened_: list[tuple[bytes, bool]] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    closed_: list[str] = field(default_factory=list)
    channels: list[Channel[Say, Say]] = field(default_factory=list)

    def opened(self, channel: Channel[Say, Say], hello: Hello, resumed: bool) -> None:
        self.opened_.append((hello.body, resumed))
        self.channels.append(channel)

    def received(self, channel: Channel[Say, Say], messages: list[Say]) -> None:
        self.got += [message.n for message in messages]

    def closed(self, channel: Channel[Say, Say], reason: str) -> None:
        self.closed_.append(reason)


@dataclass
class World:
    """A server and one client, connected."""

    http: HttpServer
    links: LinkServer[Say, Say]
    server: Notes
    client: LinkClient[Say, Say]
    notes: Notes


@contextlib.asynccontextmanager
async def world(
    path: str = "/link", accept: Callable[[Hello, Peer], bytes] | None = None, **options: Any
) -> AsyncIterator[World]:
    server, notes = Notes(), Notes()
    links: LinkServer[Say, Say] = LinkServer(
        Say, server, accept=accept or (lambda hello, peer: b"welcome"), **options
    )
    router: Router[Handler] = Router()
    router.add("/link", links.upgrade)
    http = HttpServer(router)

    async def moved(request: Request) -> Answer:
        return Response.empty(307, {"Location": f"//127.0.0.1:{http.port}/link"})

    router.add("/moved", moved)
    await http.start(("127.0.0.1", 0))
    stop = asyncio.Event()
    client: LinkClient[Say, Say] = LinkClient(
        Say, notes, url=lambda: f"http://127.0.0.1:{http.port}{path}", session="s1",
        rng=Random(1), body=lambda: b"agent", min_backoff_s=0.005, max_backoff_s=0.01,
    )  # fmt: skip
    running = asyncio.ensure_future(client.run(stop))
    try:
        yield World(http, links, server, client, notes)
    finally:
        stop.set()
        await running
        links.close()
        await http.drain(0.1)


async def test_messages_go_both_ways_through_a_redirect() -> None:
    async with world("/moved") as w:
        await until(lambda: w.notes.opened_ and w.server.opened_)
        assert w.notes.opened_ == [(b"welcome", False)]
        assert w.server.opened_ == [(b"agent", False)]
        for n in range(1000):
            w.client.channel.send(Say(n))
        w.server.channels[0].send_encoded(encode_message(Say(7)))
        await until(lambda: len(w.server.got) == 1000 and w.notes.got)
        assert w.server.got == list(range(1000))
        assert w.notes.got == [7]
        await until(lambda: w.client.channel.link.outstanding_bytes == 0)


async def test_a_cut_connection_resumes_without_loss() -> None:
    async with world() as w:
        await until(lambda: w.client.channel.is_open)
        for n in range(300):
            w.client.channel.send(Say(n, b"x" * 1000))
            if n % 50 == 10:
                await until(lambda: w.client.channel.is_open)
                w.server.channels[-1].send(Say(n))
                w.client.channel.close()
            if n % 50 == 30:
                await until(lambda: w.client.channel.is_open)
                w.server.channels[-1].close("cut by the test")
        await until(lambda: len(w.server.got) == 300)
        await until(lambda: len(w.notes.got) == 6)
        assert w.server.got == list(range(300))
        assert w.notes.got == [10, 60, 110, 160, 210, 260]
        assert len(w.notes.opened_) > 6
        assert [resumed for _, resumed in w.notes.opened_].count(False) == 1
        assert len(w.links.channels) == 1


async def test_a_server_that_forgot_starts_over() -> None:
    async with world() as w:
        await until(lambda: w.client.channel.is_open)
        w.client.channel.send(Say(1))
        await until(lambda: w.server.got == [1])
        w.links.forget(w.server.channels[0])
        await until(lambda: len(w.notes.opened_) == 2)
        assert w.notes.opened_[1] == (b"welcome", False)
        w.client.channel.send(Say(2))
        await until(lambda: w.server.got == [1, 2])


async def test_a_refused_hello_is_tried_again_later() -> None:
    hellos: list[Hello] = []

    def accept(hello: Hello, peer: Peer) -> bytes:
        hellos.append(hello)
        if len(hellos) < 3:
            raise RemoteError("agent was removed")
        return b"now"

    async with world(accept=accept) as w:
        await until(lambda: w.notes.opened_)
        assert w.notes.opened_ == [(b"now", False)]
        assert len(hellos) == 3


async def test_garbage_closes_the_connection_and_nothing_else() -> None:
    async with world() as w:
        await until(lambda: w.client.channel.is_open)
        for garbage in [b"\xff" * 100, b"\x00\x00\x00\x11\x02" + b"\x00" * 16]:
            reader, writer = await asyncio.open_connection("127.0.0.1", w.http.port)
            writer.write(
                b"GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                b"Upgrade: cairn-link/1\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(garbage)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read(-1) == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        w.client.channel.send(Say(1))
        await until(lambda: w.server.got == [1])
        assert len(w.links.connections) == 1


@pytest.mark.slow
async def test_silence_closes_and_pings_break_it() -> None:
    async with world(idle_s=0.5) as w:
        await until(lambda: w.server.closed_)  # the client's first ping comes after a second
        assert w.server.closed_[0] == "silent for 0.5 s"
        await until(lambda: len(w.notes.opened_) == 2)
        assert w.notes.opened_[1][1]


@pytest.mark.parametrize(
    "scenario",
    [
        test_messages_go_both_ways_through_a_redirect,
        test_a_cut_connection_resumes_without_loss,
        test_garbage_closes_the_connection_and_nothing_else,
    ],
)
def test_it_holds_on_the_loop_of_the_daemons(scenario: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
