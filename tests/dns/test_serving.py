"""Serving processes and TCP connections over real sockets."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

import dns.message
import pytest
from msgspec.structs import replace

from cairn_core.errors import Unavailable
from cairn_core.kit.messages import Messages, message
from cairn_dns import io_tcp, io_worker
from cairn_dns.answer import Answerer, Foreign
from cairn_dns.control import ServerSettings
from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.io_mmsg import Client
from cairn_dns.io_tcp import TcpLimits, TcpServer, bind_tcp
from cairn_dns.io_udp import UdpServer, bind_udp
from cairn_dns.io_workers import Workers, bind_listeners, share
from cairn_dns.rate import Limiter
from cairn_dns.stats import Histogram, Stats, total
from cairn_dns.table import Table, Update
from cairn_dns.wire import SRV, A
from cairn_dns.zone import Record, RecordSet

PATIENCE_S = 15.0
LOOPBACK = ["127.0.0.0/8", "::1/128"]


class Zone:
    """Records and what encodes them."""

    def __init__(self, many: int = 200) -> None:
        self.records = RecordSet()
        self.encoder = Encoder([ZoneSettings(domain="mesos")])
        self.serial = 1
        self.known = True
        added: list[Record] = [
            ("web.mesos", A, b"\x0a\0\0\1"),
            ("_w._tcp.mesos", SRV, ("web.mesos", 80)),
        ]
        added += [("many.mesos", A, (0x0A000000 + i).to_bytes(4)) for i in range(many)]
        self.records.change([], added, now=0)
        self.records.take_changed()

    def whole(self) -> Iterator[Update]:
        if self.known:
            yield from self.encoder.whole(self.records, self.serial)

    def add(self, *records: Record) -> Iterator[Update]:
        self.serial += 1
        self.records.change([], records, now=0)
        return self.encoder.changed(self.records, self.records.take_changed(), self.serial)

    def table(self) -> Table:
        made = Table()
        for update in self.whole():
            made.apply(update)
        return made


def query(name: str, kind: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, kind, **options).to_wire()  # type: ignore[arg-type]  # options


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


async def ask_udp(place: tuple[str, int], data: bytes, timeout_s: float = 2.0) -> bytes | None:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(place)
        sock.send(data)
        try:
            async with asyncio.timeout(timeout_s):
                return await loop.sock_recv(sock, 65535)
        except (TimeoutError, ConnectionRefusedError):
            return None


async def addresses(place: tuple[str, int], name: str) -> list[str]:
    """What a name resolves to; nothing while nobody answers."""
    reply = await ask_udp(place, query(name), 0.3)
    if reply is None:
        return []
    return [data.to_text() for rrset in dns.message.from_wire(reply).answer for data in rrset]


# -- TCP -----------------------------------------------------------------------------------------


def refuse(query: bytes, reply: Foreign, client: Client, send: Callable[[bytes], None]) -> None:
    send(reply.refused)


@contextlib.asynccontextmanager
async def tcp_server(
    limits: TcpLimits | None = None,
    foreign: Callable[..., object] = refuse,
    transfer: io_tcp.TransferHandler | None = None,
    zone: Zone | None = None,
) -> AsyncIterator[tuple[TcpServer, tuple[str, int]]]:
    sock = bind_tcp("127.0.0.1", 0)
    place = sock.getsockname()
    server = TcpServer(sock, Answerer((zone or Zone()).table()), foreign, limits, transfer)
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    try:
        yield server, place
    finally:
        stop.set()
        await running


@contextlib.asynccontextmanager
async def connected(
    place: tuple[str, int],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*place)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def framed(*queries: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(one)) + one for one in queries)


async def next_reply(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        return await reader.readexactly(size)


async def closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read(1) == b""
        except ConnectionResetError:
            return True


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
async def test_queries_are_found_however_they_are_cut(step: int) -> None:
    queries = [query("web.mesos", id=number) for number in range(5)]
    data = framed(*queries)
    async with tcp_server() as (server, place), connected(place) as (reader, writer):
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            await writer.drain()
            await asyncio.sleep(0)
        found = [await next_reply(reader) for _ in queries]
        assert [reply[:2] for reply in found] == [one[:2] for one in queries]
        assert server.queries == 5
        assert server.accepted == 1


async def test_many_queries_may_be_on_their_way() -> None:
    async with tcp_server() as (_, place), connected(place) as (reader, writer):
        writer.write(framed(*(query("many.mesos", id=number) for number in range(2000))))
        for number in range(2000):
            reply = await next_reply(reader)
            assert reply[:2] == struct.pack("!H", number)
            assert len(reply) > 3000


async def test_who_has_said_everything_still_gets_its_answers() -> None:
    async with tcp_server() as (_, place), connected(place) as (reader, writer):
        writer.write(framed(query("web.mesos"), query("many.mesos")))
        writer.write_eof()
        await next_reply(reader)
        await next_reply(reader)
        assert await closed(reader)


async def test_what_is_no_query_ends_the_connection() -> None:
    async with tcp_server() as (_, place), connected(place) as (reader, writer):
        writer.write(framed(b"", query("web.mesos")))
        assert await closed(reader)


async def test_a_connection_has_so_many_queries() -> None:
    async with tcp_server(TcpLimits(queries=3)) as (_, place), connected(place) as (reader, writer):
        writer.write(framed(*[query("web.mesos")] * 5))
        for _ in range(3):
            await next_reply(reader)
        assert await closed(reader)


@pytest.mark.parametrize(
    "sent",
    [b"", b"\0", framed(query("web.mesos"))[:-1], framed(query("web.mesos")) + b"\0\x30abc"],
    ids=["silent", "half a length", "half a query", "half a second query"],
)
async def test_slow_clients_are_cut(sent: bytes) -> None:
    limits = TcpLimits(first_s=0.2, idle_s=0.2)
    async with tcp_server(limits) as (server, place), connected(place) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
        await until(lambda: server.cut == 1 and not server.open)


async def test_who_takes_no_answers_is_read_no_further_and_cut() -> None:
    async with tcp_server(TcpLimits(idle_s=0.5), zone=Zone(3000)) as (server, place):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(place)
            sock.setblocking(False)
            data = framed(*[query("many.mesos")] * 20_000)
            with contextlib.suppress(OSError):
                while data:
                    data = data[await asyncio.to_thread(_send_some, sock, data) :]
            await until(lambda: server.cut == 1)
        # what is answered at once is far from all: 48 KB each
        assert server.queries < 500


def _send_some(sock: socket.socket, data: bytes) -> int:
    sock.settimeout(1.0)
    return sock.send(data[:65536])


async def test_connections_are_counted_in_all_and_for_each_client() -> None:
    async with tcp_server(TcpLimits(connections=3, per_client=2)) as (server, place):
        async with connected(place) as (one, _), connected(place) as (two, writer):
            await until(lambda: len(server.open) == 2)
            async with connected(place) as (three, _):
                assert await closed(three)
            assert server.refused == 1
            writer.write(framed(query("web.mesos")))
            assert await next_reply(two)
            del one
        await until(lambda: not server.open)
        assert not server.by_client


async def test_answers_of_others_come_when_they_come() -> None:
    later: list[Callable[[], None]] = []

    def hold(query: bytes, reply: Foreign, client: Client, send: Callable[[bytes], None]) -> None:
        assert client.host == "127.0.0.1"
        later.append(lambda: send(reply.failed))

    limits = TcpLimits(first_s=0.2, idle_s=0.2)
    async with tcp_server(limits, hold) as (server, place), connected(place) as (reader, writer):
        writer.write(framed(query("example.com", id=1), query("web.mesos", id=2)))
        assert (await next_reply(reader))[:2] == b"\0\2"
        async with connected(place):  # one who is silent is cut, who waits for others is not
            await until(lambda: server.cut == 1)
        assert len(server.open) == 1
        for send in later * 2:  # the second time is too much, and does nothing
            send()
        assert (await next_reply(reader))[:2] == b"\0\1"
        assert await closed(reader)


async def test_too_many_that_wait_are_read_no_further() -> None:
    later: list[Callable[[], None]] = []

    def hold(query: bytes, reply: Foreign, client: Client, send: Callable[[bytes], None]) -> None:
        later.append(lambda: send(reply.failed))

    async with tcp_server(None, hold) as (_, place), connected(place) as (reader, writer):
        writer.write(framed(*(query("example.com", id=number) for number in range(200))))
        await until(lambda: len(later) == io_tcp.MAX_PENDING)
        seen = 0
        while seen < 200:
            await until(lambda: bool(later))
            later.pop(0)()
            await next_reply(reader)
            seen += 1


async def test_zones_are_sent_in_pieces_between_which_others_have_their_turn() -> None:
    def transfer(asked: bytes, client: Client) -> Iterator[bytes] | None:
        if asked[:2] != b"\0\1":
            return None
        return iter([b"x" * 16_000 if number % 2 else b"" for number in range(400)])

    async with (
        tcp_server(None, transfer=transfer) as (_, place),
        connected(place) as (reader, writer),
        connected(place) as (other, asking),
    ):
        writer.write(framed(query("mesos", id=1), query("web.mesos", id=2)))
        asking.write(framed(query("web.mesos", id=3)))
        assert (await next_reply(other))[:2] == b"\0\3"
        for _ in range(200):
            assert await next_reply(reader) == b"x" * 16_000
        assert (await next_reply(reader))[:2] == b"\0\2"


# -- UDP -----------------------------------------------------------------------------------------


async def test_datagrams_that_are_not_for_us_do_not_hold_up_others() -> None:
    later: list[Callable[[], None]] = []

    def hold(query: bytes, reply: Foreign, client: Client, send: Callable[[bytes], None]) -> None:
        later.append(lambda: send(reply.refused))

    sock = bind_udp("127.0.0.1", 0)
    place = sock.getsockname()
    server, stop = UdpServer(sock, Answerer(Zone().table()), hold), asyncio.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        client.connect(place)
        for number in range(60):
            name = ("web.mesos", "example.com", "")[number % 3]
            client.send(query(name, id=number) if name else b"nonsense")
        running = asyncio.create_task(server.run(stop))
        await until(lambda: server.queries == 60)
        for send in later:
            send()
        loop, ids = asyncio.get_running_loop(), set[int]()
        async with asyncio.timeout(PATIENCE_S):
            while len(ids) < 40:
                ids.add(struct.unpack_from("!H", await loop.sock_recv(client, 512))[0])
    assert ids == {number for number in range(60) if number % 3 < 2}
    assert server.foreign == 20
    assert sum(server.latency.counts) == 60
    stop.set()
    await running


async def test_strangers_are_limited() -> None:
    sock = bind_udp("127.0.0.1", 0)
    place = sock.getsockname()

    class Stranger(Limiter):
        def verdict(self, source: bytes, now: float) -> int:
            assert source == bytes([127, 0, 0, 1])
            return super().verdict(bytes([8, 8, 8, 8]), 1.0)

    server = UdpServer(sock, Answerer(Zone().table()), refuse, Stranger(2, []))
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    asked = query("web.mesos")
    replies = [await ask_udp(place, asked, 0.2) for _ in range(4)]
    assert [reply and bool(reply[2] & 0x02) for reply in replies] == [False, False, None, True]
    assert server.limited == 2
    stop.set()
    await running


# -- sockets -------------------------------------------------------------------------------------


def test_each_process_has_sockets_of_its_own() -> None:
    sockets = bind_listeners(["127.0.0.1", "::1"], 0, 2)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        shares = share(sockets, 2)
        assert [len(mine) for mine in shares] == [4, 4]
        assert not set(shares[0]) & set(shares[1])
        for mine in shares:
            assert {(sock.family, sock.type) for sock in mine} == {
                (family, kind)
                for family in (socket.AF_INET, socket.AF_INET6)
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
            }
        # fewer sockets than processes: all have some
        assert all(len(mine) == 4 for mine in share(sockets, 3))
        assert set().union(*share(sockets, 3)) == set(sockets)
        assert [len(mine) for mine in share(sockets, 1)] == [8]
    finally:
        for sock in sockets:
            sock.close()


def test_an_address_in_use_is_named() -> None:
    [udp, tcp] = bind_listeners(["127.0.0.1"], 0, 1)
    port = udp.getsockname()[1]
    with udp, tcp, pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1 port {port}"):
        bind_listeners(["127.0.0.1"], port, 1)


# -- serving processes ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def workers(
    zone: Zone, count: int = 1, settings: ServerSettings | None = None, *, wait: bool = True
) -> AsyncIterator[tuple[Workers, tuple[str, int]]]:
    sockets = bind_listeners(["127.0.0.1"], 0, count)
    place = sockets[0].getsockname()
    settings = settings or ServerSettings(forward_clients=LOOPBACK, allow_transfer=LOOPBACK)
    made, stop = Workers(count, settings, sockets, zone.whole), asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    try:
        if wait:
            async with asyncio.timeout(PATIENCE_S):
                await made.serving()
            await until(lambda: made.alive == count)
        yield made, place
    finally:
        pids = made.pids
        stop.set()
        await running
        for pid in pids:
            assert not os.path.exists(f"/proc/{pid}")


async def send_all(made: Workers, updates: Iterable[Update]) -> None:
    for update in updates:
        await made.send(update)


async def test_processes_answer_and_follow_changes() -> None:
    zone = Zone()
    async with workers(zone, 2) as (made, place):
        for _ in range(10):  # sockets of both
            assert await addresses(place, "web.mesos") == ["10.0.0.1"]
        await send_all(made, zone.add(("new.mesos", A, b"\x0a\0\0\2")))
        for _ in range(10):

            async def there() -> bool:
                return await addresses(place, "new.mesos") == ["10.0.0.2"]

            await until(there)
        async with connected(place) as (reader, writer):
            writer.write(framed(query("many.mesos"), query("mesos", "AXFR")))
            assert len(dns.message.from_wire(await next_reply(reader)).answer[0]) == 200
            assert len(await next_reply(reader)) > 3000

        def counted() -> bool:
            stats = made.stats()
            return stats.counts["tcp"] == 2 and stats.counts["udp"] >= 20

        await until(counted)
        stats = made.stats()
        answers = {tuple(label): count for *label, count in stats.answers}
        assert answers["mesos", "A", "NOERROR"] >= 21
        assert stats.counts["transfers"] == 1
        assert sum(stats.latency.counts) == stats.counts["udp"] >= 20
        assert stats.gauges["entries"] > 3
        assert made.deaths == 0


async def test_nobody_answers_before_anything_is_known() -> None:
    zone = Zone()
    zone.known = False
    async with workers(zone, wait=False) as (made, place):
        early = asyncio.create_task(ask_udp(place, query("web.mesos"), PATIENCE_S))
        await until(lambda: made.stats().counts.get("updates") == 0)  # it runs
        assert not early.done()
        await made.send(zone.encoder.unloaded())
        # the query waited in its socket
        reply = await early
        assert reply is not None
        assert reply[3] & 0x0F == 2
        zone.known = True
        await send_all(made, zone.whole())

        async def there() -> bool:
            return await addresses(place, "web.mesos") == ["10.0.0.1"]

        await until(there)


async def test_a_process_that_dies_is_replaced_and_its_counts_stay() -> None:
    zone = Zone()
    async with workers(zone) as (made, place):
        assert await addresses(place, "web.mesos")
        await until(lambda: made.stats().counts["udp"] == 1)
        [old] = made.pids
        os.kill(old, signal.SIGKILL)
        # its socket stays open and keeps the query
        reply = await ask_udp(place, query("web.mesos"), PATIENCE_S)
        assert reply is not None
        assert made.pids != [old]
        assert made.deaths == 1
        await until(lambda: made.stats().counts["udp"] == 2)


async def test_signals_for_all_do_not_stop_answers() -> None:
    async with workers(Zone()) as (made, place):
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(made.pids[0], number)
            assert await addresses(place, "web.mesos") == ["10.0.0.1"]
        assert made.deaths == 0


async def test_settings_change_without_a_restart() -> None:
    settings = ServerSettings(forward_clients=LOOPBACK)
    async with workers(Zone(), 1, settings) as (made, place):
        pids = made.pids
        reply = await ask_udp(place, query("web.mesos", "TXT", use_edns=0))
        assert reply is not None
        assert reply[3] & 0x80
        assert reply[11] == 1
        made.reconfigure(replace(settings, compat=True, recursion_available=False))

        async def other() -> bool:
            found = await ask_udp(place, query("web.mesos", "TXT", use_edns=0))
            return found is not None and not found[3] & 0x80 and found[11] == 0

        await until(other)
        assert made.pids == pids


async def test_a_process_that_takes_nothing_gets_a_whole_table_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(io_worker, "TOO_MANY_BYTES", 200_000)
    zone = Zone()
    async with workers(zone) as (made, place):
        [pid] = made.pids
        os.kill(pid, signal.SIGSTOP)
        try:
            number = 0
            while not made.given_up:
                number += 1
                assert number < 20_000
                added = (f"n{number}-{i}.mesos" for i in range(50))
                await send_all(made, zone.add(*((name, A, b"\x0a\0\0\3") for name in added)))
        finally:
            os.kill(pid, signal.SIGCONT)

        async def there() -> bool:
            return await addresses(place, f"n{number}-7.mesos") == ["10.0.0.3"]

        await until(there)
        assert await addresses(place, "n1-7.mesos") == ["10.0.0.3"]
        assert made.pids == [pid]
        assert made.deaths == 0


async def test_a_process_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_worker, "HUNG_S", 2.0)
    monkeypatch.setattr(io_worker, "LATE_S", 0.1)
    zone = Zone()
    async with workers(zone) as (made, place):
        # the first word of it starts the shorter time
        await until(lambda: made.stats().counts.get("updates", 0) > 0)
        [old] = made.pids
        os.kill(old, signal.SIGSTOP)
        # while it hangs, others are not held up more than once
        await send_all(made, zone.add(("new.mesos", A, b"\x0a\0\0\2")))
        reply = await ask_udp(place, query("new.mesos"), PATIENCE_S)
        assert reply is not None
        assert made.pids != [old]
        assert made.deaths == 1


async def test_everything_can_be_sent_again() -> None:
    zone = Zone()
    async with workers(zone, 2) as (made, place):
        zone.records.change([], [("quiet.mesos", A, b"\x0a\0\0\4")], now=0)
        zone.encoder = Encoder([ZoneSettings(domain="mesos")])
        made.refresh()

        async def there() -> bool:
            found = [await addresses(place, "quiet.mesos") for _ in range(8)]
            return all(one == ["10.0.0.4"] for one in found)

        await until(there)


# -- messages and counts -------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_messages_are_found_however_they_are_cut(step: int) -> None:
    data = message(b"U", b"abc") + message(b"?") + message(b"S", b"x" * 500)
    messages, found = Messages(), []
    for at in range(0, len(data), step):
        messages.feed(data[at : at + step])
        while one := messages.next():
            found.append(one)
    assert found == [(b"U", b"abc"), (b"?", b""), (b"S", b"x" * 500)]


def test_a_message_that_is_too_long_is_a_bug() -> None:
    messages = Messages()
    messages.feed(b"\xff" * 20)
    with pytest.raises(ValueError, match="too long"):
        messages.next()


def test_counts_of_the_dead_and_the_living_are_added() -> None:
    one = Stats([("mesos", "A", "NOERROR", 3)], {"udp": 3}, {"tcp_open": 1.0, "entries": 5.0})
    two = Stats([("mesos", "A", "NOERROR", 4)], {"udp": 5}, {"tcp_open": 2.0, "entries": 4.0})
    two.latency.add(0.00003, 5)
    found = total(one, [two, two])
    assert found.answers == [("mesos", "A", "NOERROR", 11)]
    assert found.counts == {"udp": 13}
    assert found.gauges["tcp_open"] == 4.0
    assert found.gauges["entries"] == 4.0
    assert found.latency.counts[2] == 10
    assert found.latency.sum_s == pytest.approx(0.0003)


def test_latencies_beyond_all_buckets_are_counted() -> None:
    histogram = Histogram()
    histogram.add(100.0, 1)
    histogram.add(0.000001, 2)
    assert histogram.counts[-1] == 1
    assert histogram.counts[0] == 2
