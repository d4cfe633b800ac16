"""The node feed: whatever happens on the way, a reader ends with the publisher's table."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.clusterview import io_follow
from cairn_core.clusterview.feed import Delta, FeedBroken, FeedReader
from cairn_core.clusterview.io_access import MasterAccess
from cairn_core.clusterview.io_detect import KnownMasters
from cairn_core.clusterview.io_feed import FeedSource
from cairn_core.kit import feed as feed_module
from cairn_core.kit.feed import (
    BadMessage,
    Digest,
    FeedPublisher,
    Frame,
    Hello,
    Rows,
    decode,
    encode,
)
from cairn_core.kit.http_client import HttpClient
from cairn_core.kit.http_server import Handler, HttpServer, Refused, Request, Router, Stream
from cairn_core.kit.io_feed import FEED_PATH, QUEUE_BYTES, FeedServer
from cairn_core.mesos import recordio

KEYS = st.sampled_from([f"task/f/{i}" for i in range(8)])
CHANGES = st.tuples(st.just("change"), KEYS, st.one_of(st.none(), st.binary(max_size=2)))
STEPS = st.lists(
    st.one_of(
        CHANGES,
        CHANGES,
        CHANGES,
        st.tuples(st.sampled_from(["read", "cut", "new leader"])),
        st.tuples(st.just("read some"), st.integers(0, 3)),
    ),
    max_size=60,
)


def read(publisher: FeedPublisher, reader: FeedReader, at_most: int = 1 << 30) -> list[Delta]:
    """One stream, cut after `at_most` messages."""
    backlog = publisher.frames_since(*reader.subscribe())
    deltas = []
    for count, data in enumerate([encode(backlog.hello), *backlog.messages()]):
        if count < at_most and (delta := reader.received(decode(data))) is not None:
            deltas.append(delta)
    return deltas


def table(publisher: FeedPublisher) -> dict[str, bytes]:
    reader = FeedReader()
    read(publisher, reader)
    return dict(reader.values)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_a_reader_ends_with_the_table_of_the_publisher(steps: list[tuple[object, ...]]) -> None:
    publisher, reader = FeedPublisher(1), FeedReader()
    model: dict[str, bytes] = {}
    shown: dict[str, bytes] = {}

    def take(deltas: list[Delta]) -> None:
        for delta in deltas:
            for key, value in delta.values.items():
                if value is None:
                    shown.pop(key, None)
                else:
                    shown[key] = value

    for step in steps:
        match step:
            case ("change", str(key), None):
                publisher.delete(key)
                model.pop(key, None)
            case ("change", str(key), bytes(value)):
                publisher.put(key, value)
                model[key] = value
            case ("read some", int(count)):
                take(read(publisher, reader, count))
            case ("new leader",):
                publisher = FeedPublisher(publisher.epoch + 1)
                for key, value in model.items():
                    publisher.put(key, value)
            case _:
                take(read(publisher, reader))
                assert shown == model
    take(read(publisher, reader))
    assert shown == model == dict(reader.values)
    assert (reader.epoch, reader.seq) == (publisher.epoch, publisher.seq)


def test_a_reader_that_comes_back_gets_only_what_changed() -> None:
    publisher, reader = FeedPublisher(3), FeedReader()
    for i in range(100):
        publisher.put(f"agent/{i}", b"x")
    read(publisher, reader)
    publisher.put("agent/7", b"y")
    publisher.put("agent/7", b"z")
    publisher.delete("agent/8")
    backlog = publisher.frames_since(reader.epoch, reader.seq)
    assert backlog.hello == Hello(3, 103, False)
    frames = next(decode(data) for data in backlog.messages())
    assert frames == Rows([Frame(102, "agent/7", b"z"), Frame(103, "agent/8")])


def test_putting_what_is_there_changes_nothing() -> None:
    publisher = FeedPublisher(1)
    assert publisher.put("a/1", b"x")
    assert not publisher.put("a/1", b"x")
    assert not publisher.delete("a/2")
    assert publisher.seq == 1
    with pytest.raises(ValueError, match="exceeds the limits"):
        publisher.put("a/" + "k" * 2000, b"")


def test_forgotten_deletions_lead_to_a_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_TOMBSTONES", 2)
    publisher, reader = FeedPublisher(1), FeedReader()
    for i in range(5):
        publisher.put(f"a/{i}", b"x")
    read(publisher, reader)
    for i in range(4):
        publisher.delete(f"a/{i}")
    assert publisher.frames_since(reader.epoch, reader.seq).hello.whole
    [delta] = read(publisher, reader)
    assert delta.values == {f"a/{i}": None for i in range(4)}
    assert not delta.new_epoch


def test_a_new_epoch_is_told_with_the_difference_only() -> None:
    publisher, reader = FeedPublisher(1), FeedReader()
    publisher.put("a/1", b"x")
    publisher.put("a/2", b"x")
    assert read(publisher, reader) == [Delta(1, {"a/1": b"x", "a/2": b"x"}, False)]
    successor = FeedPublisher(2)
    successor.put("a/1", b"x")
    assert read(successor, reader) == [Delta(2, {"a/2": None}, True)]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([Rows([])], id="rows before the hello"),
        pytest.param([Digest(1, 0, [0] * 64)], id="digest before the hello"),
        pytest.param([Hello(9, 0, False)], id="another epoch goes on"),
        pytest.param([Hello(1, 0, True), Digest(1, 0, [1] + [0] * 63)], id="a wrong digest"),
        pytest.param([Hello(1, 0, True), Digest(1, 0, [])], id="no shards"),
    ],
)
def test_a_stream_that_contradicts_itself_is_broken(messages: list[feed_module.Message]) -> None:
    reader = FeedReader()
    reader.subscribe()
    for message in messages[:-1]:
        reader.received(message)
    with pytest.raises(FeedBroken):
        reader.received(messages[-1])
    assert reader.values == {}


def test_a_wrong_increment_leaves_the_table_as_it_was() -> None:
    publisher, reader = FeedPublisher(1), FeedReader()
    publisher.put("a/1", b"x")
    read(publisher, reader)
    reader.received(Hello(1, 2, False))
    reader.received(Rows([Frame(2, "a/1", b"y"), Frame(3, "a/2", b"z")]))
    with pytest.raises(FeedBroken):
        reader.received(Digest(1, 3, [0] * 64))
    assert reader.values == {"a/1": b"x"}


@given(st.binary(max_size=64))
def test_random_bytes_are_no_message(data: bytes) -> None:
    try:
        decode(data)
    except BadMessage:
        return
    assert decode(data) is not None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what we wait for has no event of its own
            await asyncio.sleep(0)


class Served:
    """A feed server on a free port."""

    def __init__(self, publisher: FeedPublisher, path: str = FEED_PATH) -> None:
        self.feed = FeedServer(publisher)
        router: Router[Handler] = Router()
        router.add(path, self.feed.answer)
        self.http = HttpServer(router)
        self.stop = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        await self.http.start(("127.0.0.1", 0))
        sending = asyncio.create_task(self.feed.run(self.stop))
        try:
            yield f"http://127.0.0.1:{self.http.port}"
        finally:
            self.stop.set()
            await sending
            await self.http.drain(0)


class Follower:
    """A client with the table that it shows."""

    def __init__(self, *masters: str) -> None:
        self.source = FeedSource(MasterAccess(), self.changed)
        self.follower = io_follow.Follower(
            KnownMasters(masters), MasterAccess(), [("feed", self.source)], rng=Random(1)
        )
        self.shown: dict[str, bytes | None] = {}
        self.deltas = 0
        self._event = asyncio.Event()
        self._stop = asyncio.Event()

    def changed(self, delta: Delta) -> None:
        self.shown |= delta.values
        self.deltas += 1
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._event.clear()
                await self._event.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follower.run(self._stop))
        try:
            yield
        finally:
            self._stop.set()
            await task


async def test_many_readers_follow_over_http() -> None:
    served = Served(FeedPublisher(1))
    for i in range(5000):
        served.feed.put(f"task/f/{i}", b"%d" % i * 20)
    async with served.running() as url:
        followers = [Follower(url) for _ in range(5)]
        async with followers[0].running(), followers[1].running(), followers[2].running():
            for follower in followers[:3]:
                await follower.until(lambda f=follower: len(f.shown) == 5000)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            served.feed.put("task/f/1", b"new")
            served.feed.delete("task/f/2")
            for follower in followers[:3]:
                await follower.until(lambda f=follower: f.shown["task/f/2"] is None)  # type: ignore[misc]  # as above
                assert follower.shown["task/f/1"] == b"new"
                assert follower.deltas == 2
            assert served.feed.subscribers == 3


async def test_a_reader_goes_on_after_a_change_of_masters() -> None:
    first, second = Served(FeedPublisher(1)), Served(FeedPublisher(2))
    first.feed.put("a/1", b"x")
    second.feed.put("a/2", b"y")
    async with second.running() as successor:
        async with first.running() as leader:
            follower = Follower(leader, successor)
            running = follower.running()
            await running.__aenter__()
            await follower.until(lambda: "a/1" in follower.shown)
        await follower.until(lambda: follower.shown == {"a/1": None, "a/2": b"y"})
        await running.__aexit__(None, None, None)


async def test_a_slow_subscriber_fills_no_memory() -> None:
    server = FeedServer(FeedPublisher(1))
    for i in range(3000):
        server.put(f"a/{i}", b"x" * 1000)
    stream = await server.answer(Request.make("GET", FEED_PATH))
    assert isinstance(stream, Stream)
    stop = asyncio.Event()
    sending = asyncio.create_task(server.run(stop))
    await until(lambda: stream.queued_bytes >= QUEUE_BYTES)
    for i in range(3000):
        server.put(f"a/{i}", b"y" * 1000)
    assert stream.queued_bytes < QUEUE_BYTES + 2 * feed_module.MESSAGE_BYTES
    # It reads at last, and gets to where the publisher is.
    reader, decoder = FeedReader(), recordio.Decoder()
    reader.subscribe()

    async def write(data: bytes) -> None:
        for record in decoder.feed(data):
            reader.received(decode(record))

    pumping = asyncio.create_task(stream.pump(write, lambda: None))
    await until(lambda: reader.seq == server.publisher.seq)
    assert set(reader.values.values()) == {b"y" * 1000}
    stop.set()
    await sending
    await pumping


async def test_a_master_without_a_feed_is_told() -> None:
    served = Served(FeedPublisher(1), path="/other")
    async with served.running() as url, HttpClient() as http:
        with pytest.raises(io_follow.Lacks, match="404"):
            await Follower(url).source.visit(http, url)


@pytest.mark.parametrize(("query", "status"), [("epoch=x", 400), ("seq=-1", 400)])
async def test_senseless_positions_are_refused(query: str, status: int) -> None:
    server = FeedServer(FeedPublisher(1))
    with pytest.raises(Refused) as caught:
        await server.answer(Request.make("GET", f"{FEED_PATH}?{query}"))
    assert caught.value.status == status
