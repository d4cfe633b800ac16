"""Datagrams by the batch over real sockets."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cairn_dns.io_mmsg import QUERY_BYTES, SLOTS, Batch
from cairn_dns.io_udp import bind_udp
from cairn_dns.networks import Networks


@contextmanager
def pair(listen: str, connect: str) -> Iterator[tuple[Batch, socket.socket, socket.socket]]:
    """A batch on a server's socket, and a client that is connected to it."""
    server = bind_udp(listen, 0)
    client = socket.socket(server.family, socket.SOCK_DGRAM)
    client.settimeout(5)
    with server, client:
        client.connect((connect, server.getsockname()[1]))
        yield Batch(server), server, client


def take(batch: Batch, count: int) -> list[bytes]:
    """Loopback delivers at once, so what was sent is there."""
    assert batch.receive() == count
    return [
        batch.queries[slot * QUERY_BYTES : slot * QUERY_BYTES + batch.lengths[slot]]
        for slot in range(count)
    ]


def put(batch: Batch, slot: int, reply: bytes) -> None:
    start = slot * QUERY_BYTES
    batch.replies[start : start + len(reply)] = reply
    batch.sizes[slot] = len(reply)


PLACES = [
    ("127.0.0.1", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.9"),
    ("::1", "::1"),
    ("::", "::1"),
]


@pytest.mark.parametrize(("listen", "connect"), PLACES)
def test_a_reply_comes_from_the_address_that_was_asked(listen: str, connect: str) -> None:
    # a connected socket takes nothing that comes from elsewhere
    with pair(listen, connect) as (batch, _, client):
        for round_ in range(3):
            for number in range(5):
                client.send(b"query %d %d" % (round_, number))
            queries = take(batch, 5)
            assert queries == [b"query %d %d" % (round_, number) for number in range(5)]
            for slot in range(5):
                put(batch, slot, b"reply %d" % slot)
            assert batch.send(0, 5) == 5
            assert [client.recv(100) for _ in range(5)] == [b"reply %d" % i for i in range(5)]


@pytest.mark.parametrize(("listen", "connect"), PLACES)
def test_a_reply_can_be_sent_when_its_slot_is_taken(listen: str, connect: str) -> None:
    with pair(listen, connect) as (batch, server, client):
        client.send(b"first")
        take(batch, 1)
        who = batch.client(0)
        assert (who.host, who.port) == client.getsockname()[:2]
        assert batch.source(0) == socket.inet_pton(server.family, who.host)
        later = batch.later(0, who)
        client.send(b"second")
        assert take(batch, 1) == [b"second"]
        later(b"reply to the first")
        assert client.recv(100) == b"reply to the first"
        server.close()
        later(b"nobody hears this")


def test_a_batch_takes_what_fits_and_leaves_the_rest() -> None:
    with pair("127.0.0.1", "127.0.0.1") as (batch, _, client):
        for number in range(SLOTS + 3):
            client.send(b"%d" % number)
        assert len(take(batch, SLOTS)) == SLOTS
        assert take(batch, 3) == [b"%d" % (SLOTS + number) for number in range(3)]
        assert batch.receive() == 0


def test_sizes_of_queries_do_not_leak_into_the_next_batch() -> None:
    with pair("127.0.0.1", "127.0.0.1") as (batch, _, client):
        for query in (b"a" * 5000, b"", b"b" * QUERY_BYTES, b"c"):
            client.send(query)
            assert take(batch, 1) == [query[:QUERY_BYTES]]


def test_what_cannot_be_sent_is_left_out() -> None:
    with pair("127.0.0.1", "127.0.0.1") as (batch, _, client):
        for _ in range(3):
            client.send(b"query")
        take(batch, 3)
        for slot in range(3):
            put(batch, slot, b"reply %d" % slot)
        batch.sizes[1] = 70_000  # more than a datagram takes: EMSGSIZE
        assert batch.send(0, 3) == 2
        assert [client.recv(100) for _ in range(2)] == [b"reply 0", b"reply 2"]


def test_a_client_that_is_gone_does_not_stop_the_others() -> None:
    with pair("127.0.0.1", "127.0.0.1") as (batch, server, client):
        gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        gone.connect(server.getsockname())
        gone.send(b"query")
        client.send(b"query")
        take(batch, 2)
        gone.close()
        put(batch, 0, b"reply")
        put(batch, 1, b"reply")
        assert batch.send(0, 2) == 2
        assert client.recv(100) == b"reply"
        client.send(b"again")
        # an error of the first reply, should the kernel tell it, hides no query
        assert take(batch, 1) == [b"again"]


async def test_nothing_is_lost_when_many_ask_at_once() -> None:
    with pair("127.0.0.1", "127.0.0.1") as (batch, server, client):
        client.setblocking(False)
        loop, seen = asyncio.get_running_loop(), set[bytes]()

        def readable() -> None:
            count = batch.receive()
            for slot in range(count):
                start = slot * QUERY_BYTES
                put(batch, slot, batch.queries[start : start + batch.lengths[slot]])
            assert batch.send(0, count) == count

        loop.add_reader(server, readable)
        try:
            for number in range(500):
                client.send(b"%d" % number)
            async with asyncio.timeout(10):
                while len(seen) < 500:
                    seen.add(await loop.sock_recv(client, 100))
        finally:
            loop.remove_reader(server)


def test_one_socket_for_both_families_answers_both() -> None:
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(5)
    with server, client:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 0))
        batch = Batch(server)
        client.connect(("127.0.0.9", server.getsockname()[1]))
        client.send(b"query")
        assert take(batch, 1) == [b"query"]
        assert batch.client(0).host in Networks(["127.0.0.0/8"])
        assert batch.source(0) in Networks(["127.0.0.0/8"])
        put(batch, 0, b"reply")
        assert batch.send(0, 1) == 1
        assert client.recv(100) == b"reply"
        batch.later(0, batch.client(0))(b"later")
        assert client.recv(100) == b"later"
