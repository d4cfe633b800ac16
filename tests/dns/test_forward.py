"""Other servers, good and bad ones, and what is believed of their answers."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable

import dns.message
import pytest

from cairn_dns.answer import Foreign
from cairn_dns.io_exchange import Server, answers, exchange
from cairn_dns.io_forward import MAX_UNDER_WAY, Forwarder
from cairn_dns.io_mmsg import Client
from cairn_dns.wire import question_end

PATIENCE_S = 10.0
LOCAL = Client("127.0.0.1", 4711)
FALLBACK = Foreign(b"refused", b"failed")


def query(name: str = "Example.com", kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind, use_edns=False, id=0x1234).to_wire()


def reply_to(asked: bytes, *, flags: int = 0x8180, extra: bytes = b"") -> bytes:
    return asked[:2] + struct.pack("!H", flags) + asked[4:] + extra


class FakeServer(asyncio.DatagramProtocol):
    """Gives the datagrams that `answer` makes of each query, over UDP and TCP.

    Over TCP the first one only; none of them: the connection is closed.
    """

    def __init__(self, answer: Callable[[bytes], Iterable[bytes]]) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.was_asked = asyncio.Event()
        self.ports: set[int] = set()
        self.place: Server = ("127.0.0.1", 0)
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.append(data)
        self.was_asked.set()
        self.ports.add(addr[1])
        for reply in self.answer(data):
            self._transport.sendto(reply, addr)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            data = await reader.readexactly(size)
            self.asked.append(data)
            for reply in self.answer(data):
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
                break
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def fake(
    answer: Callable[[bytes], Iterable[bytes]], host: str = "127.0.0.1"
) -> AsyncIterator[FakeServer]:
    loop, made = asyncio.get_running_loop(), FakeServer(answer)
    server = await asyncio.start_server(made.connected, host, 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(lambda: made, local_addr=(host, port))
    made.place = (host, port)
    try:
        yield made
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


def silent(asked: bytes) -> Iterable[bytes]:
    return []


def good(asked: bytes) -> Iterable[bytes]:
    return [reply_to(asked)]


def free_place() -> Server:
    """Where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        place: Server = sock.getsockname()
        return place


# -- one exchange --------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_answer_has_the_id_of_the_query(tcp: bool, host: str) -> None:
    async with fake(good, host) as server:
        asked = query()
        assert await exchange(asked, server.place, tcp, PATIENCE_S) == reply_to(asked)
        [sent] = server.asked
        assert sent[2:] == asked[2:]


async def test_ids_cannot_be_guessed() -> None:
    async with fake(good) as server:
        for _ in range(50):
            await exchange(query(), server.place, False, PATIENCE_S)
        assert len({asked[:2] for asked in server.asked}) > 40


@pytest.mark.parametrize(
    "lie",
    [
        lambda asked: bytes([asked[0] ^ 1]) + reply_to(asked)[1:],
        lambda asked: asked,
        lambda asked: reply_to(asked).replace(b"Example", b"example"),
        lambda asked: reply_to(asked).replace(b"com", b"org"),
        lambda asked: reply_to(asked)[:-3] + b"\x1c\0\1",
        lambda asked: reply_to(asked)[:11],
        lambda asked: reply_to(asked, flags=0xA180),
        lambda asked: reply_to(asked)[:4] + bytes(8),
        lambda asked: reply_to(asked)[:4] + b"\0\2" + reply_to(asked)[6:],
        lambda asked: b"",
    ],
    ids=[
        "id", "query", "case", "name", "type", "short", "opcode", "empty", "two questions",
        "nothing",
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_passed_over(lie: Callable[[bytes], bytes]) -> None:
    async with fake(lambda asked: [lie(asked), reply_to(asked, extra=b"true")]) as server:
        found = await exchange(query(), server.place, False, PATIENCE_S)
        assert found == reply_to(query(), extra=b"true")


async def test_only_the_server_that_was_asked_is_heard() -> None:
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with other:
        other.bind(("127.0.0.1", 0))

        def answer(asked: bytes) -> Iterable[bytes]:
            other.sendto(reply_to(asked, extra=b"false"), ("127.0.0.1", max(server.ports)))
            return [reply_to(asked, extra=b"true")]

        async with fake(answer) as server:
            found = await exchange(query(), server.place, False, PATIENCE_S)
            assert found.endswith(b"true")


async def test_a_refusal_without_question_is_an_answer() -> None:
    async with fake(lambda asked: [asked[:2] + b"\x81\x85" + bytes(8)]) as server:
        found = await exchange(query(), server.place, False, PATIENCE_S)
        assert found == b"\x12\x34\x81\x85" + bytes(8)


async def test_a_cut_answer_is_given_as_it_is() -> None:
    async with fake(lambda asked: [reply_to(asked, flags=0x8380)]) as server:
        assert (await exchange(query(), server.place, False, PATIENCE_S))[2] & 0x02


@pytest.mark.parametrize("tcp", [False, True])
async def test_where_nobody_listens_is_told_at_once(tcp: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ConnectionRefusedError):
            await exchange(query(), free_place(), tcp, 100.0)


async def test_all_who_ask_where_nobody_listens_are_told_at_once() -> None:
    place = free_place()

    async def one(number: int) -> None:
        for _ in range(number % 7):
            await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await exchange(query(), place, False, 100.0)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*map(one, range(200)))


async def test_silence_is_a_time_out() -> None:
    async with fake(silent) as server:
        with pytest.raises(TimeoutError):
            await exchange(query(), server.place, False, 0.05)


async def test_a_connection_that_closes_is_told() -> None:
    async with fake(silent) as server:
        with pytest.raises(EOFError):
            await exchange(query(), server.place, True, PATIENCE_S)


async def test_another_answer_over_tcp_is_an_error() -> None:
    async with fake(lambda asked: [reply_to(asked).replace(b"com", b"org")]) as server:
        with pytest.raises(OSError, match="another question"):
            await exchange(query(), server.place, True, PATIENCE_S)


async def test_what_is_no_address_is_an_error() -> None:
    with pytest.raises(OSError, match=r"."):
        await exchange(query(), ("127.0.0.1.5", 53), False, PATIENCE_S)


async def test_an_exchange_that_is_given_up_leaves_nothing() -> None:
    async with fake(silent) as server:
        task = asyncio.create_task(exchange(query(), server.place, False, PATIENCE_S))
        await asyncio.wait_for(server.was_asked.wait(), PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_answers_are_compared_with_the_case_of_the_question() -> None:
    asked = query()
    assert question_end(asked) == len(asked)
    assert answers(asked, reply_to(asked))
    assert not answers(asked, reply_to(asked).replace(b"E", b"e"))


# -- forwarding ----------------------------------------------------------------------------------


class Asking:
    """A client of a forwarder."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.forwarder = forwarder

    async def ask(
        self, asked: bytes | None = None, client: Client = LOCAL, *, tcp: bool = False
    ) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.forwarder.handle(asked or query(), FALLBACK, client, answer.set_result, tcp=tcp)
        async with asyncio.timeout(PATIENCE_S):
            return await answer


def forwarder(*servers: Server, timeout_s: float = 5.0, **zones: list[Server]) -> Asking:
    made = Forwarder()
    made.set(servers, zones, ["127.0.0.0/8", "fd00::/8"], timeout_s)
    return Asking(made)


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_query_is_forwarded_over_the_transport_it_came_by(tcp: bool) -> None:
    async with fake(good) as server:
        mine = forwarder(server.place)
        assert await mine.ask(tcp=tcp) == reply_to(query())
        assert bool(server.ports) != tcp
        assert mine.forwarder.forwarded == 1


async def test_the_next_server_is_asked_when_one_cannot_answer() -> None:
    async with fake(silent) as mute, fake(good) as server:
        mine = forwarder(free_place(), mute.place, server.place, timeout_s=0.05)
        assert await mine.ask() == reply_to(query())
        assert len(mute.asked) == 1
        # over TCP the mute one closes the connection
        assert await mine.ask(tcp=True) == reply_to(query())


async def test_what_a_server_says_is_final() -> None:
    async with fake(lambda asked: [reply_to(asked, flags=0x8182)]) as failing, fake(good) as other:
        mine = forwarder(failing.place, other.place)
        assert await mine.ask() == reply_to(query(), flags=0x8182)
        assert not other.asked


async def test_nobody_answers() -> None:
    mine = forwarder(free_place(), free_place())
    assert await mine.ask() == FALLBACK.failed
    assert mine.forwarder.failed == 1


async def test_others_and_no_servers_are_refused() -> None:
    async with fake(good) as server:
        mine = forwarder(server.place)
        assert await mine.ask(client=Client("8.8.8.8", 1)) == FALLBACK.refused
        assert await mine.ask(client=Client("fe80::1", 1, 2)) == FALLBACK.refused
        assert await forwarder().ask() == FALLBACK.refused
        assert not server.asked
        assert mine.forwarder.refused == 2


async def test_the_most_specific_zone_counts() -> None:
    async with fake(good) as one, fake(good) as two, fake(good) as rest:
        mine = forwarder(rest.place)
        mine.forwarder.set(
            [rest.place],
            {"Example.com.": [one.place], "b.example.com": [two.place]},
            ["127.0.0.0/8"],
            5.0,
        )
        for name in ("example.com", "a.EXAMPLE.com", "b.example.com", "x.b.example.com", "com"):
            assert await mine.ask(query(name)) == reply_to(query(name))
        assert await mine.ask(query("xexample.com"))
        assert [len(server.asked) for server in (one, two, rest)] == [2, 2, 2]


async def test_so_many_are_under_way_at_once() -> None:
    async with fake(silent) as server:
        mine = forwarder(server.place)
        replies: list[bytes] = []
        for _ in range(MAX_UNDER_WAY + 5):
            mine.forwarder.handle(query(), FALLBACK, LOCAL, replies.append)
        assert replies == [FALLBACK.failed] * 5
        assert mine.forwarder.overload == 5
        await mine.forwarder.close()
