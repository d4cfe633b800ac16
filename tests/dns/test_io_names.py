"""The way of a change from the source to a table: queued, merged, in order."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.clusterview.view import Changes, ClusterView
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, Row, TaskRow
from cairn_dns.cluster_zone import ClusterZone
from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.io_names import MAX_RECENT_OF_BATCH, Names, merge
from cairn_dns.records import Rules
from cairn_dns.table import Table, Update
from cairn_dns.wire import A, wire_name

ROWS: list[Row] = [
    MasterRow("m1", "master1", "10.0.0.1", leads=True),
    AgentRow("c-S0", "agent1", "10.0.0.11"),
    FrameworkRow("F", "marathon", "10.0.0.21"),
    TaskRow("web.1", "web", "F", "c-S0", "TASK_RUNNING"),
]
WEB = ROWS[-1]


class Rig:
    """Names with a source, and a table at the other end."""

    def __init__(self) -> None:
        self.sure = True
        self.view, self.table = ClusterView(), Table()
        self.now = 1000.0
        self.sent: list[Update] = []
        #: Cleared: nothing is taken.
        self.open = asyncio.Event()
        self.open.set()
        zone, encoder = made("mesos")
        self.names = Names(
            zone, encoder, self.send, self.refresh, sure=lambda: self.sure, clock=lambda: self.now
        )

    async def send(self, update: Update) -> None:
        await self.open.wait()
        self.sent.append(update)
        self.table.apply(update)

    def refresh(self) -> None:
        for update in self.names.table():
            self.sent.append(update)
            self.table.apply(update)

    def put(self, *rows: Row) -> None:
        self._tell(self.view.apply({row.key: row for row in rows}))

    def drop(self, *rows: Row) -> None:
        self._tell(self.view.apply({row.key: None for row in rows}))

    def _tell(self, changes: Changes | None) -> None:
        if changes is not None:
            self.names.on_changes(changes)

    def has(self, name: str) -> bool:
        return wire_name(name) + b"\0\1\0\1" in self.table.entries

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        running = asyncio.create_task(self.names.run(stop))
        try:
            yield
        finally:
            stop.set()
            await running

    async def until(self, name: str, there: bool = True) -> None:
        async with asyncio.timeout(10):
            while self.has(name) != there:  # noqa: ASYNC110 - the table is the event
                await asyncio.sleep(0)


def made(domain: str) -> tuple[ClusterZone, Encoder]:
    own = f"ns1.{domain}"
    rules = Rules(domain=domain, own_name=own, own_addresses=(b"\x0a\0\0\1",))
    return ClusterZone(rules), Encoder([ZoneSettings(domain=domain, soa_mname=own)])


async def test_the_first_change_sends_everything_and_later_ones_what_they_touch() -> None:
    rig = Rig()
    async with rig.running():
        assert not rig.names.known
        rig.put(*ROWS)
        await rig.until("web.marathon.mesos")
        assert rig.sent[0].begin
        assert rig.names.serial == 1000
        rig.sent.clear()
        rig.drop(WEB)
        await rig.until("web.marathon.mesos", False)
        assert not any(update.begin for update in rig.sent)
        assert rig.names.serial == 1001  # the clock stood still
        rig.now = 2000.0
        rig.put(WEB)
        await rig.until("web.marathon.mesos")
        assert rig.names.serial == 2000
        newest = [recent for recent in rig.names.recent if recent.name == "web.marathon.mesos"][-2:]
        assert [recent.types for recent in newest] == [(), ("A",)]


async def test_an_empty_cluster_is_known_too() -> None:
    rig = Rig()
    async with rig.running():
        rig.names.on_changes(Changes(rig.view.snapshot, rig.view.snapshot, {}))
        await rig.until("ns1.mesos")
        assert rig.names.known


async def test_what_comes_while_a_change_is_applied_is_applied_together() -> None:
    rig = Rig()
    async with rig.running():
        rig.put(*ROWS)
        await rig.until("web.marathon.mesos")
        await rig.names.apply()
        rig.open.clear()
        before = rig.names.table_changes
        for number in range(50):
            rig.put(TaskRow(f"t.{number}", "many", "F", "c-S0", "TASK_RUNNING"))
            await asyncio.sleep(0)
        rig.drop(WEB)
        rig.put(WEB)
        rig.open.set()
        await rig.until("many.marathon.mesos")
        async with asyncio.timeout(10):
            while len(rig.names.zone.tasks) < 51:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await rig.names.apply()
        assert rig.names.table_changes - before <= 2


async def test_nothing_is_sent_when_nothing_shows() -> None:
    rig = Rig()
    async with rig.running():
        rig.put(*ROWS)
        await rig.until("web.marathon.mesos")
        rig.sent.clear()
        serial = rig.names.serial
        rig.put(TaskRow("x.1", "x", "F", "c-S0", "TASK_STAGING"))
        await rig.names.apply()
        assert rig.sent == []
        assert rig.names.serial == serial


async def test_other_rules_take_the_place_of_the_old_ones() -> None:
    rig = Rig()
    async with rig.running():
        rig.put(*ROWS)
        await rig.until("web.marathon.mesos")
        zone, encoder = made("other")
        await rig.names.rebuild(zone, encoder, lambda: rig.view.snapshot)
        assert rig.has("web.marathon.other")
        assert not rig.has("web.marathon.mesos")
        rig.drop(WEB)
        await rig.until("web.marathon.other", False)
        assert rig.names.records is zone.records


async def test_masters_get_numbers() -> None:
    rig = Rig()
    async with rig.running():
        rig.names.on_masters(["10.0.0.2", "10.0.0.1"])
        rig.put(*ROWS)
        await rig.until("master1.mesos")
        assert rig.names.records.values("master1.mesos", A) == [b"\x0a\0\0\1"]


async def test_the_memory_of_changes_is_bounded() -> None:
    rig = Rig()
    async with rig.running():
        rig.put(*ROWS)
        await rig.until("web.marathon.mesos")
        rig.names.recent.clear()
        tasks = [
            TaskRow(f"t.{number}", f"t{number}", "F", "c-S0", "TASK_RUNNING")
            for number in range(MAX_RECENT_OF_BATCH)
        ]
        rig.put(*tasks)
        await rig.until("t7.marathon.mesos")
        assert len(rig.names.recent) == MAX_RECENT_OF_BATCH


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ((None, "b"), ("b", "c"), (None, "c")),
        ((None, "b"), ("b", None), None),
        (("a", "b"), ("b", "a"), None),
        (("a", None), (None, "c"), ("a", "c")),
    ],
)
def test_changes_of_a_row_are_merged(
    first: tuple[str | None, str | None],
    second: tuple[str | None, str | None],
    merged: tuple[str | None, str | None] | None,
) -> None:
    def change(pair: tuple[str | None, str | None]) -> Mapping[str, tuple[Row | None, Row | None]]:
        before, after = ((None if id is None else AgentRow(id, id)) for id in pair)
        return {"agent/x": (before, after)}

    pending: dict[str, tuple[Row | None, Row | None]] = {}
    merge(pending, change(first))
    merge(pending, change(second))
    assert pending == ({} if merged is None else change(merged))


rows = st.one_of(
    st.builds(AgentRow, st.sampled_from(["S0", "S1"]), st.just("h"), st.sampled_from(["9.0.0.1"])),
    st.builds(FrameworkRow, st.sampled_from(["F", "G"]), st.sampled_from(["m", "n"])),
    st.builds(
        TaskRow,
        st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), st.sampled_from(["F", "G"]),
        st.sampled_from(["S0", "S1"]), st.sampled_from(["TASK_RUNNING", "TASK_STAGING"]),
        ports=st.sampled_from([(), ((1, 2),)]),
    ),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(rows, st.booleans(), st.integers(0, 3)), max_size=12))
def test_the_table_is_that_of_the_last_snapshot(steps: list[tuple[Row, bool, int]]) -> None:
    asyncio.run(_follow(steps))


async def _follow(steps: list[tuple[Row, bool, int]]) -> None:
    rig = Rig()
    async with rig.running():
        rig.put(*ROWS)
        for row, stays, turns in steps:
            rig.put(row) if stays else rig.drop(row)
            for _ in range(turns):
                await asyncio.sleep(0)
        await rig.names.apply()
        fresh = Rig()
        async with fresh.running():
            fresh.put(*(row for _, row in rig.view.snapshot.rows()))
            await fresh.names.apply()
        assert {key: sorted([entry] if isinstance(entry, bytes) else entry)
                for key, entry in rig.table.entries.items() if key[-4:] != b"\0\6\0\1"} == {
            key: sorted([entry] if isinstance(entry, bytes) else entry)
            for key, entry in fresh.table.entries.items() if key[-4:] != b"\0\6\0\1"
        }  # fmt: skip
        assert rig.table.ancestors == fresh.table.ancestors


async def test_what_is_not_there_is_unknown_until_we_are_sure() -> None:
    rig = Rig()
    rig.sure = False
    async with rig.running():
        rig.put(*ROWS)
        await rig.until("web.marathon.mesos")
        (zone,) = rig.table.zones.values()
        assert not zone.loaded
        rig.sure = True
        rig.names.look_again()
        async with asyncio.timeout(5):
            while not all(zone.loaded for zone in rig.table.zones.values()):  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert rig.has("web.marathon.mesos")


def test_a_table_that_was_broken_off_is_filled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_dns.encode.MAX_QUESTIONS", 1)
    zone, encoder = made("mesos")
    view = ClusterView()
    changes = view.apply({row.key: row for row in ROWS})
    assert changes is not None
    list(zone.apply(changes.rows, now=1.0))
    zone.records.take_changed()
    assert not next(encoder.whole(zone.records, 1)).done  # and no more of it is taken
    table = Table()
    for update in encoder.whole(zone.records, 1):
        table.apply(update)
    gone = view.apply({WEB.key: None})
    assert gone is not None
    list(zone.apply(gone.rows, now=2.0))
    for update in encoder.changed(zone.records, zone.records.take_changed(), 2):
        table.apply(update)
    assert wire_name("web.marathon.mesos") + b"\0\1\0\1" not in table.entries
    assert wire_name("marathon.mesos") + b"\0\1\0\1" in table.entries
