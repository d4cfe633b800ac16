"""The operator event stream as a source: a snapshot, events, and a change of masters."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cairn_core.clusterview.io_access import MasterAccess
from cairn_core.clusterview.io_follow import Lacks
from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.clusterview.io_stream import OperatorStream
from cairn_core.clusterview.operator_events import OperatorTables, master_row, snapshot_rows
from cairn_core.clusterview.state_json import Told
from cairn_core.clusterview.view import Changes, Snapshot
from cairn_core.kit.http_client import HttpClient
from cairn_core.kit.http_server import (
    Answer,
    Handler,
    HttpServer,
    Request,
    Response,
    Router,
    Stream,
)
from cairn_core.mesos import recordio
from cairn_core.mesos.codec import JSON, decode
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, NetworkRow, TaskRow
from cairn_core.mesos.operator_api import Event
from cairn_core.mesos.types import Address, MasterInfo

MASTER = MasterInfo("m1", 0, 5050, hostname="master1", address=Address(5050, ip="10.0.0.1"))


def status(state: str, **fields: Any) -> dict[str, Any]:
    return {"task_id": {"value": "web.1"}, "state": state, "timestamp": 1.0, **fields}


def task(state: str, *statuses: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "web", "task_id": {"value": "web.1"}, "framework_id": {"value": "F"},
        "agent_id": {"value": "S0"}, "state": state, "statuses": list(statuses),
    }  # fmt: skip


def updated(state: str, **fields: Any) -> Event:
    return event(
        "TASK_UPDATED", framework_id={"value": "F"}, state=state, status=status(state, **fields)
    )


def event(kind: str, **body: Any) -> Event:
    return decode(Event, msgspec.json.encode({"type": kind, kind.lower(): body}))


def agent(agent_id: str, ip: str) -> dict[str, Any]:
    info = {"id": {"value": agent_id}, "hostname": f"host-{agent_id}", "port": 5051}
    pid = f"slave(1)@{ip}:5051"
    return {"agent_info": info, "active": True, "version": "1.12", "pid": pid}


FRAMEWORK = {
    "framework_info": {"id": {"value": "F"}, "user": "u", "name": "marathon", "hostname": "h"},
    "active": True, "connected": True, "recovered": False,
}  # fmt: skip
STATE = {
    "get_agents": {
        "agents": [agent("S0", "10.0.0.2")],
        "recovered_agents": [{"id": {"value": "S1"}, "hostname": "host-S1"}],
    },
    "get_frameworks": {"frameworks": [FRAMEWORK]},
    "get_tasks": {"tasks": [task("TASK_STAGING"), task("TASK_FINISHED") | {
        "task_id": {"value": "done"}}]},
}  # fmt: skip
NETWORK = {"network_infos": [{"ip_addresses": [{"ip_address": "9.0.0.1"}]}]}
TASK = TaskRow("web.1", "web", "F", "S0", "TASK_STAGING")


def subscribed() -> Event:
    return event("SUBSCRIBED", get_state=STATE, heartbeat_interval_seconds=15.0)


@pytest.fixture
def tables() -> OperatorTables:
    made = OperatorTables()
    first = subscribed().subscribed
    assert first is not None
    assert first.get_state is not None
    skipped: Counter[str] = Counter()
    made.begin([master_row(MASTER), *snapshot_rows(first.get_state, skipped)], skipped)
    assert not skipped
    return made


def test_the_snapshot_gives_all_rows(tables: OperatorTables) -> None:
    assert set(tables.rows.values()) == {
        MasterRow("m1", "master1", "10.0.0.1", 5050, leads=True),
        AgentRow("S0", "host-S0", "10.0.0.2", 5051),
        AgentRow("S1", "host-S1", "", 5051, active=False, recovering=True),
        FrameworkRow("F", "marathon", "h"),
        TASK,
    }


def test_updates_change_the_row_until_the_task_ends(tables: OperatorTables) -> None:
    running = updated("TASK_RUNNING", container_status=NETWORK, healthy=False)
    row = msgspec.structs.replace(
        TASK, state="TASK_RUNNING", networks=(NetworkRow("", ("9.0.0.1",)),), healthy=False
    )
    assert tables.event(running) == {TASK.key: row}
    healthy = msgspec.structs.replace(row, healthy=True)
    assert tables.event(updated("TASK_RUNNING", healthy=True)) == {TASK.key: healthy}
    unreachable = msgspec.structs.replace(healthy, state="TASK_UNREACHABLE")
    assert tables.event(updated("TASK_UNREACHABLE")) == {TASK.key: unreachable}
    assert tables.event(updated("TASK_FAILED")) == {TASK.key: None}
    assert tables.event(updated("TASK_RUNNING")) == {}


def test_agents_and_frameworks_come_and_go(tables: OperatorTables) -> None:
    back = tables.event(event("AGENT_ADDED", agent=agent("S1", "10.0.0.3")))
    assert back == {"agent/S1": AgentRow("S1", "host-S1", "10.0.0.3", 5051)}
    assert tables.event(event("AGENT_REMOVED", agent_id={"value": "S0"})) == {"agent/S0": None}
    assert TASK.key in tables.rows
    other = FRAMEWORK | {"active": False}
    changed = tables.event(event("FRAMEWORK_UPDATED", framework=other))
    assert changed == {"framework/F": FrameworkRow("F", "marathon", "h", active=False)}
    gone = tables.event(event("FRAMEWORK_REMOVED", framework_info=FRAMEWORK["framework_info"]))
    assert gone == {"framework/F": None, TASK.key: None}
    assert tables.event(Event(type="HEARTBEAT")) == tables.event(Event(type="NEWS")) == {}


class MesosMaster:
    """Speaks the operator stream and has no feed."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.stream: Stream | None = None
        self._refuses = refuses
        router: Router[Handler] = Router()
        router.add("/api/v1", self._answer, ("POST",))
        self._http = HttpServer(router)

    async def _answer(self, request: Request) -> Answer:
        if self._refuses:
            return Response.empty(403)
        if b"GET_MASTER" in request.body:
            return Response.json({"type": "GET_MASTER", "get_master": {"master_info": MASTER}})
        self.stream = Stream(JSON)
        self.send(subscribed())
        return self.stream

    def send(self, one: Event) -> None:
        assert self.stream is not None
        self.stream.send(recordio.encode(msgspec.json.encode(one)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        await self._http.start(("127.0.0.1", 0))
        try:
            yield f"http://127.0.0.1:{self._http.port}"
        finally:
            await self._http.drain(0)


class Watcher:
    """Waits until the view shows something."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._event = asyncio.Event()

    def changed(self, changes: Changes) -> None:
        self.snapshot = changes.after
        self._event.set()

    async def told(self, told: Told) -> None:
        pass

    async def until(self, condition: Callable[[Snapshot], object]) -> None:
        async with asyncio.timeout(20):
            while not condition(self.snapshot):
                self._event.clear()
                await self._event.wait()


async def test_a_source_follows_the_stream_of_a_master_without_a_feed(tmp_path: Path) -> None:
    master, watcher = MesosMaster(), Watcher()
    stop = asyncio.Event()
    async with master.running() as url:
        source = ClusterSource([url], watcher.changed, keep=tmp_path / "kept")
        assert not source.restore()
        assert source.age_s() == float("inf")
        running = asyncio.create_task(source.run(stop))
        await watcher.until(lambda s: s.tasks)
        assert source.in_step
        assert source.age_s() < 20
        master.send(updated("TASK_RUNNING", container_status=NETWORK))
        await watcher.until(lambda s: s.tasks[TASK.key].networks)
        # The stream breaks; the next snapshot says what is true.
        assert master.stream is not None
        master.stream.abort("cut by the test")
        await watcher.until(lambda s: not s.tasks[TASK.key].networks)
        stop.set()
        await running
    again = ClusterSource([url], watcher.changed, keep=tmp_path / "kept")
    assert again.restore()
    assert dict(again.view.snapshot.tasks) == {TASK.key: TASK}
    assert not again.in_step
    assert again.age_s() < 20


async def test_a_refused_subscription_is_told() -> None:
    async with MesosMaster(refuses=True).running() as url:
        stream = OperatorStream(MasterAccess(), Watcher().told, lambda rows: None)
        async with HttpClient() as http:
            with pytest.raises(Lacks, match="403"):
                await stream.visit(http, url)
