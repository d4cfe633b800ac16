"""The one door: which master is asked for what, and what is shown meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cairn_core.clusterview import io_follow
from cairn_core.clusterview.io_decode import IN_PLACE_BYTES, decode_told, pieces_of
from cairn_core.clusterview.io_detect import KnownMasters, Masters
from cairn_core.clusterview.io_source import ClusterSource, Wanted
from cairn_core.clusterview.state_json import BadState, Told, read_state
from cairn_core.clusterview.view import Changes
from cairn_core.kit.feed import FeedPublisher
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Request,
    Response,
    Router,
)
from cairn_core.kit.io_feed import FEED_PATH, FeedServer
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, encode_row


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_follow, "RETRY_MAX_S", 0.3)


def state(name: str, *, leader: str = "127.0.0.1", agents: int = 1, **other: Any) -> bytes:
    """The state of a master called `name`; it leads when the leader is at 127.0.0.1."""
    pid = f"master@{leader}:9999"
    return msgspec.json.encode({
        "id": name, "hostname": name, "leader": pid, "frameworks": [],
        "pid": pid if leader == "127.0.0.1" else "master@127.0.0.1:9999",
        "leader_info": {"id": name, "hostname": name, "pid": pid},
        "slaves": [{"id": f"{name}-S{i}", "hostname": "x" * 100, "pid": f"s@10.0.0.{i % 250}:1"}
                   for i in range(agents)],
        **other,
    })  # fmt: skip


class Master:
    """Answers `/master/state`, and serves a feed when it has one; a master of Mesos otherwise."""

    def __init__(self, name: str, *rows: Row) -> None:
        self.answer: Callable[[], Answer] = lambda: Response.json(msgspec.Raw(state(name)))
        self.asked = 0
        self._stop = asyncio.Event()
        #: What answers all other paths, instead of what is there.
        self.door: Callable[[str], Answer] | None = None
        router: Router[Handler] = Router()
        router.add("/master/state", self._state)
        self.feed: FeedServer | None = None
        if rows:
            self.feed = FeedServer(FeedPublisher(1))
            router.add(FEED_PATH, self.feed.answer)
            for row in rows:
                self.feed.put(row.key, encode_row(row))
        self._http = HttpServer(router, filters=[self._filter])
        self.place = ""

    async def _filter(self, request: Request, handler: Handler) -> Answer:
        if self.door is not None and request.path != "/master/state":
            return self.door(request.path)
        return await handler(request)

    async def _state(self, request: Request) -> Answer:
        self.asked += 1
        return self.answer()

    @asynccontextmanager
    async def up(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["Master"]:
        await self._http.start((host, port))
        self.place = f"{host}:{self._http.port}"
        sending = asyncio.create_task(self.feed.run(self._stop)) if self.feed else None
        try:
            yield self
        finally:
            self._stop.set()
            if sending is not None:
                await sending
            await self._http.drain(0)


class Client:
    """A source and what it shows."""

    def __init__(
        self,
        masters: Masters | list[str],
        *,
        wanted: Wanted = "auto",
        period_s: float = 0.02,
        keep: Path | None = None,
    ) -> None:
        self._event = asyncio.Event()
        self._stop = asyncio.Event()
        self.source = ClusterSource(
            masters, self._changed, wanted=wanted, period_s=period_s, timeout_s=20.0, keep=keep
        )

    def _changed(self, changes: Changes) -> None:
        self._event.set()

    @property
    def agents(self) -> set[str]:
        return {agent.id for agent in self.source.view.snapshot.agents.values()}

    @property
    def kind(self) -> str:
        return self.source.kind

    async def shows(self, *agents: str) -> None:
        async with asyncio.timeout(20):
            while self.agents != set(agents):
                self._event.clear()
                await self._event.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Client"]:
        task = asyncio.create_task(self.source.run(self._stop))
        try:
            yield self
        finally:
            self._stop.set()
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what we wait for has no event of its own
            await asyncio.sleep(0.005)


def unused_place() -> str:
    return "127.0.0.1:1"


async def test_each_master_is_tried_in_turn_until_one_answers() -> None:
    broken = Master("broken")
    broken.answer = lambda: Response.text("busy", status=503)
    async with (
        broken.up(),
        Master("m").up() as good,
        Client([unused_place(), broken.place, good.place]).running() as client,
    ):
        await client.shows("m-S0")
        assert client.kind == "poll"
        assert client.source.heard_at is not None
        assert client.source.age_s() < 20
        assert client.source.masters.current[2] == good.place


async def test_a_leader_at_another_address_is_asked_at_the_same_port() -> None:
    async with Master("old").up() as old:
        port = int(old.place.rpartition(":")[2])
        async with (
            Master("new").up("127.0.0.2", port),
            Client([old.place]).running() as client,
        ):
            old.answer = lambda: Response.json(msgspec.Raw(state("old", leader="127.0.0.2")))
            await client.shows("new-S0")
            asked = old.asked
            reloads = client.source.heard_at
            await until(lambda: client.source.heard_at != reloads)
            # From now on the leader is asked at once.
            assert old.asked <= asked + 1


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(lambda: Response.text("<html>", status=200), id="no JSON"),
        pytest.param(lambda: Response.text("{}", status=503), id="503 with JSON"),
        pytest.param(lambda: Response.json({"id": "m"}), id="no leader"),
        pytest.param(lambda: Response.json(msgspec.Raw(state("m", leader=""))), id="empty leader"),
        pytest.param(lambda: Response.text("", status=307), id="redirect to nowhere"),
    ],
)
async def test_an_odd_answer_empties_nothing(odd: Callable[[], Answer]) -> None:
    async with Master("m").up() as master, Client([master.place]).running() as client:
        await client.shows("m-S0")
        before, asked = client.source.view.snapshot, master.asked
        master.answer = odd
        await until(lambda: master.asked > asked + 2)
        assert client.source.view.snapshot is before
        master.answer = lambda: Response.json(msgspec.Raw(state("m", agents=2)))
        await client.shows("m-S0", "m-S1")


async def test_what_is_left_out_of_a_state_is_told_until_it_is_gone() -> None:
    async with Master("m").up() as master, Client([master.place]).running() as client:
        odd = [{"id": "F"}, {"id": "G", "name": "g", "tasks": [1, 2]}]
        master.answer = lambda: Response.json(msgspec.Raw(state("m", frameworks=odd)))
        await until(lambda: client.source.skipped == {"framework": 1, "task": 2})
        assert client.source.view.snapshot.framework("G") == FrameworkRow("G", "g")
        master.answer = lambda: Response.json(msgspec.Raw(state("m")))
        await until(lambda: not client.source.skipped)


async def test_a_new_leader_is_turned_to_at_once() -> None:
    async with Master("a").up() as a, Master("b").up() as b:
        masters = KnownMasters()
        # Nobody is known yet, and the period is longer than any test.
        async with Client(masters, period_s=1000.0).running() as client:
            masters.became([a.place, b.place], a.place)
            await client.shows("a-S0")
            masters.became([b.place, a.place], b.place)
            await client.shows("b-S0")
            # Nobody leads for a while, and other masters come: no reason to leave.
            masters.became([b.place, a.place], None)
            masters.became([b.place, a.place, unused_place()], b.place)
            await asyncio.sleep(0)
            masters.became([a.place], a.place)
            await client.shows("a-S0")
            assert (a.asked, b.asked) == (2, 1)


def feed_rows(name: str) -> list[Row]:
    return [MasterRow(name, name, "127.0.0.1", leads=True), AgentRow(f"{name}-S0", "h")]


async def test_masters_of_another_kind_are_followed_in_their_way(tmp_path: Path) -> None:
    async with Master("mesos").up() as mesos, Master("c", *feed_rows("c")).up() as cairn:
        masters = KnownMasters([mesos.place], mesos.place)
        async with Client(masters, keep=tmp_path / "kept").running() as client:
            await client.shows("mesos-S0")
            assert client.kind == "poll"
            for _ in range(2):
                masters.became([cairn.place], cairn.place)
                await client.shows("c-S0")
                assert client.kind == "feed"
                assert set(client.source.view.snapshot.masters) == {"master/c"}
                masters.became([mesos.place], mesos.place)
                await client.shows("mesos-S0")
                assert client.kind == "poll"
    again = Client([mesos.place], keep=tmp_path / "kept")
    assert again.source.restore()
    assert again.agents == {"mesos-S0"}
    assert again.kind == "disk"
    assert again.source.age_s() < 60


ODD_BODIES = [b"", b"ok", b"<html><body>welcome</body></html>", b"2\n{}", b"7\nnothing", b"\n" * 99]


@pytest.mark.parametrize("body", ODD_BODIES)
async def test_a_master_that_says_yes_to_everything_is_polled_until_it_has_a_feed(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_follow, "BETTER_S", 0.05)
    master = Master("c", *feed_rows("feed"))
    assert master.feed is not None
    paths: list[str] = []

    def door(path: str) -> Answer:
        paths.append(path)
        return Response(body=body)

    master.door = door
    async with master.up(), Client([master.place], period_s=1000.0).running() as client:
        await client.shows("c-S0")
        assert client.kind == "poll"
        assert paths[:2] == [FEED_PATH, "/api/v1"]
        await until(lambda: paths.count(FEED_PATH) > 2)
        assert client.kind == "poll"
        master.door = None
        await client.shows("feed-S0")
        assert client.kind == "feed"
        # and it stays there
        await until(lambda: master.feed is not None and master.feed.subscribers == 1)


async def test_a_kind_can_be_forced() -> None:
    async with Master("c", *feed_rows("feed")).up() as cairn:
        async with Client([cairn.place], wanted="poll").running() as client:
            await client.shows("c-S0")
            assert client.kind == "poll"
        cairn.asked = 0
        async with Client([cairn.place], wanted="feed").running() as client:
            await client.shows("feed-S0")
            assert cairn.asked == 0
        # What it does not serve is asked for again and again, but nothing else is.
        async with Client([cairn.place], wanted="stream").running() as client:
            await asyncio.sleep(0)
            assert client.kind == "none"
        assert cairn.asked == 0


async def test_a_kept_state_is_shown_until_a_master_speaks(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    async with Master("m").up() as master, Client([master.place], keep=keep).running() as client:
        await client.shows("m-S0")
    offline = Client([unused_place()], keep=keep)
    assert offline.source.restore()
    async with offline.running():
        assert offline.agents == {"m-S0"}
        assert not offline.source.in_step
        assert offline.source.heard_at is None
    # It was not written again: nobody confirmed it.
    assert Client([], keep=keep).source.restore()


LARGE = state("m", agents=8000, frameworks=[{"id": "F"}])


async def test_a_large_state_is_decoded_elsewhere() -> None:
    assert len(LARGE) > 2 * IN_PLACE_BYTES
    told = await decode_told("state", pieces_of(LARGE, 100_000))
    assert told == read_state(LARGE)
    assert told.skipped == {"framework": 1}


async def test_a_large_answer_that_is_no_state_is_refused() -> None:
    with pytest.raises(BadState, match="state of a master"):
        await decode_told("state", pieces_of(LARGE[:-1]))
    with pytest.raises(BadState, match="event"):
        await decode_told("subscribed", pieces_of(LARGE))


async def test_reading_a_large_answer_can_be_given_up() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield LARGE
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await decode_told("state", endless())


async def test_a_whole_table_with_nothing_new_changes_nothing() -> None:
    client = Client([])
    told = read_state(state("m"))
    await client.source._on_told("poll", Told(told.master_id, list(told.rows)))
    before = client.source.view.snapshot
    await client.source._on_told("poll", Told(told.master_id, list(told.rows)))
    assert client.source.view.snapshot is before
