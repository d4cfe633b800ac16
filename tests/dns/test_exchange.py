"""Questions to other servers over shared sockets: nothing is mixed up, little is believed."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cairn_dns.io_exchange import AT_A_TIME, IN_ALL, Server, exchange
from cairn_dns.wire import wire_name

#: What a server sends for a query: any number of datagrams.
Behaviour = Callable[[bytes], list[bytes]]


class FakeServer(asyncio.DatagramProtocol):
    """Answers as `behaviour` says; notes where questions come from."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.queries: list[bytes] = []
        self.ports: list[int] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.queries.append(data)
        self.ports.append(addr[1])
        for reply in self.behaviour(data):
            assert self.transport is not None
            self.transport.sendto(reply, addr)


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[FakeServer, Server]]:
    transport, fake = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: FakeServer(behaviour), local_addr=("127.0.0.1", 0)
    )
    try:
        yield fake, transport.get_extra_info("sockname")[:2]
    finally:
        transport.close()


def question(name: str, number: int = 7) -> bytes:
    return number.to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + wire_name(name) + b"\0\1\0\1"


def reply_to(query: bytes) -> bytes:
    return query[:2] + b"\x81\x80" + query[4:]


async def test_many_questions_at_once_get_their_own_answers() -> None:
    async with serving(lambda query: [reply_to(query)]) as (fake, server):
        queries = [question(f"n{i}.example", i) for i in range(150)]
        found = await asyncio.gather(*(exchange(q, server, False, 5) for q in queries))
        assert found == [reply_to(query) for query in queries]
    assert len(set(fake.ports)) >= 150 / AT_A_TIME
    # the ids are ours, not those of whoever asked
    assert [query[:2] for query in fake.queries] != [query[:2] for query in queries]


async def test_a_socket_is_used_again_but_not_for_ever() -> None:
    async with serving(lambda query: [reply_to(query)]) as (fake, server):
        for i in range(IN_ALL + 1):
            await exchange(question(f"n{i}.example"), server, False, 5)
    assert len(set(fake.ports[:IN_ALL])) == 1
    assert fake.ports[IN_ALL] != fake.ports[0]


async def test_a_socket_carries_few_questions_at_a_time() -> None:
    async with serving(lambda query: []) as (fake, server):
        asked = [
            asyncio.ensure_future(exchange(question(f"n{i}.example"), server, False, 0.2))
            for i in range(3 * AT_A_TIME)
        ]
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, TimeoutError) for result in results)
    assert max(fake.ports.count(port) for port in fake.ports) <= AT_A_TIME


@pytest.mark.parametrize(
    "lie",
    [
        lambda query: bytes([query[0] ^ 1]) + reply_to(query)[1:],  # another id
        lambda query: reply_to(query).replace(b"\3www", b"\3WWW"),  # another spelling
        lambda query: reply_to(query).replace(b"\3www", b"\3xxx"),  # another question
        lambda query: query,  # no response
        lambda query: query[:2],
        lambda query: b"",
        lambda query: query[:2] + b"\x81\x80" + bytes(8),  # success without a question
    ],
)
async def test_what_does_not_fit_the_question_is_not_believed(
    lie: Callable[[bytes], bytes],
) -> None:
    async with serving(lambda query: [lie(query), reply_to(query)]) as (_, server):
        query = question("www.example")
        assert await exchange(query, server, False, 5) == reply_to(query)


async def test_another_sender_is_not_heard() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        fake: FakeServer

        def betrayed(query: bytes) -> list[bytes]:
            stranger.sendto(reply_to(query)[:-1] + b"\7", ("127.0.0.1", fake.ports[-1]))
            stranger.sendto(reply_to(query), ("127.0.0.1", fake.ports[-1]))
            return []

        async with serving(betrayed) as (fake, server):
            with pytest.raises(TimeoutError):
                await exchange(question("www.example"), server, False, 0.2)


async def test_a_late_answer_reaches_nobody_else() -> None:
    late: list[bytes] = []

    def slow(query: bytes) -> list[bytes]:
        answers = [reply_to(one) for one in late]
        late.append(query)
        return [*answers, reply_to(query)] if answers else []

    async with serving(slow) as (_, server):
        with pytest.raises(TimeoutError):
            await exchange(question("first.example"), server, False, 0.1)
        second = question("second.example")
        assert await exchange(second, server, False, 5) == reply_to(second)


async def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        server = free.getsockname()
    loop = asyncio.get_running_loop()
    started = loop.time()
    asked = [exchange(question(f"n{i}.example"), server, False, 5) for i in range(3)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, OSError) for result in results)
    assert loop.time() - started < 4


async def test_who_gives_up_leaves_nothing_behind() -> None:
    async with serving(lambda query: []) as (_, server):
        task = asyncio.ensure_future(exchange(question("www.example"), server, False, 5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
