"""The keyed store settles unknown outcomes and shows only what is durable."""

import asyncio

import pytest

from cairn_core.errors import Unavailable
from cairn_core.replog.interface import Fenced, Record, Unknown
from cairn_core.replog.io_memory import Fault, MemoryLog
from cairn_core.replog.state import KeyedStore, contents


async def test_a_store_reopened_has_what_was_written() -> None:
    log = MemoryLog()
    store = await KeyedStore.open(log, "x")
    await store.put("a", b"1", 7)
    await store.write([Record("b", b"2"), Record("a/c", b"3")])
    await store.delete(["b", "never"])
    again = await KeyedStore.open(log, "x")
    assert contents(again) == contents(store) == {"a": b"1", "a/c": b"3"}
    assert again.epoch == 2
    held = again.get("a")
    assert held is not None
    assert (held.value, held.schema) == (b"1", 7)
    assert [key for key, _ in again.items("a/")] == ["a/c"]
    with pytest.raises(Fenced):
        await store.put("a", b"4")
    assert contents(store) == {"a": b"1", "a/c": b"3"}


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([Fault.LOST], id="lost"),
        pytest.param([Fault.UNANSWERED], id="unanswered"),
        pytest.param([Fault.LOST, Fault.UNANSWERED], id="lost, then unanswered"),
    ],
)
async def test_an_unknown_outcome_is_settled_to_exactly_one_write(faults: list[Fault]) -> None:
    log = MemoryLog()
    store = await KeyedStore.open(log, "x")
    log.faults.extend(faults)
    assert await store.write([Record("a", b"1")]) == 1
    assert log.images["x"].bounds.end == 1
    assert contents(store) == {"a": b"1"}


async def test_a_write_that_is_lost_again_and_again_stays_unknown() -> None:
    log = MemoryLog()
    store = await KeyedStore.open(log, "x")
    log.faults.extend([Fault.LOST] * 3)
    with pytest.raises(Unknown):
        await store.put("a", b"1")
    assert contents(store) == {}


async def test_a_refused_write_shows_nothing() -> None:
    log = MemoryLog()
    store = await KeyedStore.open(log, "x")
    log.faults.append(Fault.REFUSED)
    with pytest.raises(Unavailable):
        await store.put("a", b"1")
    assert contents(store) == {}
    await store.put("a", b"2")
    assert contents(store) == {"a": b"2"}


async def test_nothing_is_shown_before_it_is_durable() -> None:
    log = MemoryLog()
    store = await KeyedStore.open(log, "x")
    log.hold()
    writing = asyncio.ensure_future(store.put("a", b"1"))
    await asyncio.sleep(0)
    assert store.get("a") is None
    log.release()
    await writing
    assert contents(store) == {"a": b"1"}


async def test_writes_of_one_key_in_flight_together_end_as_the_log_says() -> None:
    log = MemoryLog()
    store = await KeyedStore.open(log, "x")
    # The first needs a second attempt and so lands behind the other.
    log.faults.append(Fault.LOST)
    await asyncio.gather(store.put("a", b"1"), store.write([Record("a", None)]))
    again = await KeyedStore.open(log, "x")
    assert contents(again) == contents(store)
