"""The shell around the rules: what waits for the log, and what does not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cairn_core.errors import Unavailable
from cairn_core.framework.io_client import FrameworkEnded
from cairn_core.replog.interface import MAX_APPEND_BYTES, Fenced, Record
from cairn_core.replog.io_memory import Fault, MemoryLog
from cairn_core.replog.io_writer import QueuedWriter, parts
from cairn_core.replog.state import KeyedStore, contents
from cairn_core.testing.fake_master import FakeMaster
from cairn_scheduler.marathon import events
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.effects import Outcome, Publish
from cairn_scheduler.marathon.errors import Busy, Locked
from cairn_scheduler.marathon.groups import put_app
from cairn_scheduler.marathon.io_marathon import Marathon
from cairn_scheduler.marathon.store import LOG

MakeApp = Callable[..., App]
DEADLINE_S = 20.0


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # the rules tell nobody
            await asyncio.sleep(0.005)


class Running:
    """A Marathon that leads, on a log in memory."""

    def __init__(self, master: FakeMaster, log: MemoryLog, store: KeyedStore) -> None:
        config = MarathonConfig(master=master.address, min_revive_offers_interval=1)
        self.marathon = Marathon(config, address="127.0.0.1:8080", user="nobody")
        self.log, self.store, self.stop = log, store, asyncio.Event()
        self.task = asyncio.create_task(self.marathon.lead(store, self.stop))

    @property
    def kept(self) -> dict[str, bytes]:
        return dict(contents(self.store))


@asynccontextmanager
async def running(master: FakeMaster, log: MemoryLog | None = None) -> AsyncIterator[Running]:
    log = log or MemoryLog()
    made = Running(master, log, await KeyedStore.open(log, LOG))
    try:
        await until(made.marathon.elected)
        yield made
    finally:
        log.release()
        made.stop.set()
        await asyncio.gather(made.task, return_exceptions=True)


async def test_framework_id_is_kept_and_used_again() -> None:
    log = MemoryLog()
    async with FakeMaster() as master:
        async with running(master, log) as made:
            await until(lambda: "framework-id" in made.kept)
            assert not made.task.done()
        first = made.marathon.tables.framework_id
        assert master.calls[0].framework_id is None
        async with running(master, log) as made:
            await until(lambda: made.marathon.master_url() is not None)
            call = [c for c in master.calls if c.type == "SUBSCRIBE"][-1]
            assert call.framework_id is not None
            assert call.framework_id.value == first


async def test_nothing_leaves_before_the_log_has_it(make_app: MakeApp) -> None:
    log = MemoryLog()
    async with FakeMaster() as master, running(master, log) as made:
        await until(lambda: made.marathon.tables.framework_id is not None)
        await until(lambda: "framework-id" in made.kept)
        log.hold()
        quiet = make_app(portDefinitions=[])
        asking = asyncio.create_task(made.marathon.change_root(lambda root: put_app(root, quiet)))
        await until(lambda: made.marathon.tables.instances)
        assert not asking.done()
        log.release()
        await asking
        await master.call("REVIVE")
        log.hold()
        master.offer("agent-1", cpus=4, mem=4096)
        await until(lambda: made.marathon.core.launcher.tasks_launched)
        assert not [c for c in master.calls if c.type == "ACCEPT"]
        log.release()
        accept = (await master.call("ACCEPT")).accept
        assert accept is not None
        launch = accept.operations[0].launch
        assert launch is not None
        task_id = launch.task_infos[0].task_id.value
        log.hold()
        master.update(task_id, "TASK_RUNNING")
        await until(lambda: made.marathon.core.tracker.updates)
        assert not [c for c in master.calls if c.type == "ACKNOWLEDGE"]
        log.release()
        await master.call("ACKNOWLEDGE")
        await until(lambda: not made.marathon.tables.deployments)


async def test_events_come_in_order_and_only_when_true(make_app: MakeApp) -> None:
    seen: list[events.Event] = []
    async with FakeMaster() as master, running(master) as made:
        made.marathon.listen_events(seen.append)
        await made.marathon.change_root(lambda root: put_app(root, make_app()))
        kinds = [type(e) for e in seen if not isinstance(e, events.SchedulerRegistered)]
        assert kinds[0] is events.GroupChanged
        assert events.DeploymentInfo in kinds


async def test_refusals_are_raised(make_app: MakeApp) -> None:
    async with FakeMaster() as master, running(master) as made:
        await made.marathon.change_root(lambda root: put_app(root, make_app()))
        with pytest.raises(Locked):
            await made.marathon.change_root(lambda root: put_app(root, make_app(instances=3)))
        assert made.marathon.dry_run(lambda root: put_app(root, make_app("/b"))).steps
        assert "/b" not in made.marathon.tables.root.apps
    with pytest.raises(Busy):
        await made.marathon.cancel("x")


async def test_fenced_log_ends_it(make_app: MakeApp) -> None:
    log = MemoryLog()
    async with FakeMaster() as master, running(master, log) as made:
        await until(lambda: "framework-id" in made.kept)
        await KeyedStore.open(log, LOG)
        asking = asyncio.create_task(
            made.marathon.change_root(lambda root: put_app(root, make_app()))
        )
        with pytest.raises(Fenced):
            await made.task
        with pytest.raises(Busy):
            await asking


async def test_removed_framework_ends_it() -> None:
    async with FakeMaster() as master, running(master) as made:
        await until(lambda: "framework-id" in made.kept)
        master.end("Framework has been removed")
        with pytest.raises(FrameworkEnded, match="removed"):
            await made.task


async def test_abdication_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_scheduler.marathon.io_marathon.ABDICATE_S", 0.0)
    async with FakeMaster() as master, running(master) as made:
        await until(lambda: "framework-id" in made.kept)
        made.marathon.abdicate()
        with pytest.raises(Unavailable, match="given up"):
            await made.task


def outcome(key: str, told: list[str]) -> Outcome:
    """A record, and an event by which it is told."""
    stamp = events.AppTerminated(timestamp="", app_id=key)
    return Outcome([Record(key, b"x")], [Publish(stamp)])


async def test_writer_keeps_the_order_and_writes_together() -> None:
    log = MemoryLog()
    store = await KeyedStore.open(log, "test")
    done: list[Outcome] = []
    writer: QueuedWriter[Outcome] = QueuedWriter(lambda made: made.records, done.append)
    made = [outcome(f"k{n}", []) for n in range(50)]
    silent = Outcome([], made[0].effects)
    writer.add(silent)
    assert done == [silent], "what has nothing to write and nothing before it goes at once"
    for one in made:
        writer.add(one)
    writer.add(silent)
    assert len(done) == 1
    task = asyncio.create_task(writer.run(store))
    await until(lambda: len(done) == 52)
    assert done == [silent, *made, silent]
    assert len(contents(store)) == 50
    assert (await log.bounds("test")).end == 50
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_writer_survives_faults_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_core.replog.io_writer.RETRY_S", 0.0)
    log = MemoryLog()
    store = await KeyedStore.open(log, "test")
    done: list[Outcome] = []
    writer: QueuedWriter[Outcome] = QueuedWriter(lambda made: made.records, done.append)
    task = asyncio.create_task(writer.run(store))
    log.faults.extend([Fault.REFUSED, Fault.LOST, Fault.UNANSWERED, Fault.REFUSED])
    for n in range(3):
        writer.add(outcome(f"k{n}", []))
        await until(lambda: len(done) == len(contents(store)) == n + 1)  # noqa: B023
    assert set(contents(store)) == {"k0", "k1", "k2"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_appends_stay_within_the_limits() -> None:
    records = [Record(f"k{n}", b"x" * 300_000) for n in range(7)]
    found = list(parts(records))
    assert [record for part in found for record in part] == records
    assert all(sum(r.size_bytes for r in part) <= MAX_APPEND_BYTES for part in found)
    assert len(list(parts(Record(f"k{n}", b"") for n in range(5000)))) == 2
    assert list(parts([])) == []
