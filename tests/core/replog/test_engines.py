"""What both engines promise: order, atomicity, fencing, limits."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cairn_core.replog.election import Candidate, Leadership
from cairn_core.replog.interface import (
    MAX_RECORD_BYTES,
    Bounds,
    Entry,
    Fenced,
    Log,
    Moved,
    Record,
    TooLarge,
    Truncated,
)
from cairn_core.replog.io_memory import MemoryLog
from cairn_core.replog.io_sqlite import SqliteLog
from cairn_core.replog.io_standalone import StandaloneElector


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    made: Log = MemoryLog() if request.param == "memory" else await SqliteLog.start(tmp_path)
    yield made
    await made.close()


async def entries(log: Log, start: int | None = None, name: str = "x") -> list[Entry]:
    return [entry async for entry in log.read(name, start)]


async def test_what_was_appended_is_read_in_order(log: Log) -> None:
    assert await log.bounds("x") == Bounds(0, 0, 0)
    assert await entries(log) == []
    writer = await log.open("x")
    assert (writer.epoch, writer.end) == (1, 0)
    assert await writer.append([Record("a", b"1"), Record("b", b"2", 3)], write_id="w") == 2
    assert await writer.append([Record("a", None)], write_id="v") == 3
    assert await entries(log) == [
        Entry(0, 1, "w", Record("a", b"1")),
        Entry(1, 1, "w", Record("b", b"2", 3)),
        Entry(2, 1, "v", Record("a", None)),
    ]
    assert await entries(log, 2) == [Entry(2, 1, "v", Record("a", None))]
    assert await log.bounds("x") == Bounds(0, 3, 1)


async def test_logs_of_different_names_are_apart(log: Log) -> None:
    one, two = await log.open("x"), await log.open("y")
    await one.append([Record("a", b"1")])
    await two.append([Record("a", b"2")])
    assert [e.record.value for e in await entries(log, name="y")] == [b"2"]


async def test_a_newer_epoch_fences_the_older_writer(log: Log) -> None:
    old = await log.open("x")
    await old.append([Record("a", b"1")])
    new = await log.open("x")
    assert (new.epoch, new.end) == (2, 1)
    with pytest.raises(Fenced) as caught:
        await old.append([Record("a", b"2")])
    assert (caught.value.epoch, caught.value.newer) == (1, 2)
    await new.append([Record("a", b"3")])
    assert [e.record.value for e in await entries(log)] == [b"1", b"3"]


async def test_an_append_may_demand_its_position(log: Log) -> None:
    writer = await log.open("x")
    end = await writer.append([Record("a", b"1")], after=0)
    with pytest.raises(Moved):
        await writer.append([Record("a", b"2")], after=0)
    assert await writer.append([Record("a", b"2")], after=end) == 2


async def test_concurrent_appends_keep_their_order(log: Log) -> None:
    writer = await log.open("x")
    ends = await asyncio.gather(*(writer.append([Record("k", b"%d" % i)]) for i in range(200)))
    assert ends == list(range(1, 201))
    assert [e.record.value for e in await entries(log)] == [b"%d" % i for i in range(200)]


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([], id="nothing"),
        pytest.param([Record("", b"")], id="an empty key"),
        pytest.param([Record("k" * 1025, b"")], id="a long key"),
        pytest.param([Record("k", b"x" * (MAX_RECORD_BYTES + 1))], id="a large value"),
        pytest.param([Record(k, b"x" * 400_000) for k in "abc"], id="a large append"),
    ],
)
async def test_what_exceeds_a_limit_is_refused(log: Log, records: list[Record]) -> None:
    writer = await log.open("x")
    with pytest.raises(TooLarge):
        await writer.append(records)
    assert await writer.append([Record("k", b"x" * MAX_RECORD_BYTES)]) == 1


async def test_compaction_moves_begin_and_keeps_the_state(log: Log) -> None:
    writer = await log.open("x")
    await writer.append([Record("rest", b"r")])
    await asyncio.gather(*(writer.append([Record("busy", b"%d" % i)]) for i in range(900)))
    bounds = await log.bounds("x")
    assert bounds.begin > 0
    assert bounds.end - bounds.begin < 600
    got = {e.record.key: e.record.value for e in await entries(log)}
    assert got == {"rest": b"r", "busy": b"899"}
    assert bounds.begin <= bounds.end - 256
    with pytest.raises(Truncated):
        await entries(log, 0)


async def test_a_watcher_sees_the_newest_end(log: Log) -> None:
    writer = await log.open("x")
    watching = log.watch("x", 0)
    first = asyncio.ensure_future(anext(watching))
    await writer.append([Record("a", b"1")])
    assert await asyncio.wait_for(first, 10) == 1
    await writer.append([Record("a", b"2")])
    await writer.append([Record("a", b"3")])
    assert await asyncio.wait_for(anext(watching), 10) == 3


async def test_the_standalone_elector_wins_until_it_leaves() -> None:
    elector = StandaloneElector()
    seen = elector.changes()
    assert await anext(seen) == Leadership(None, (), False)
    me = Candidate("id", "127.0.0.1:5050", b"{}")
    await elector.join(me)
    assert await anext(seen) == Leadership(me, (me,), True)
    await elector.leave()
    assert (await anext(seen)).mine is False
