"""Snapshots that are made while the cluster changes, and the reads that are made in slices."""

import asyncio
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from cairn_core.kit.http_server import Refused, Stream
from cairn_core.master import http_events
from cairn_core.master.http_events import OperatorStreams
from cairn_core.master.http_slices import SLICE_S, in_blocks, in_slices
from cairn_core.master.operator_snapshot import Snapshot
from cairn_core.master.state.effects import Changed, Effect
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.types import TaskState
from cairn_core.testing.master_rig import MasterRig
from cairn_core.testing.sim_agents import agent_hello, framework_info, inventory, typical_task
from cairn_scheduler.allocator import HierarchicalDrf

OLD = "00000000-0000-4000-8000-000000000000"


class Cluster:
    """A master's rules with agents that come with tasks."""

    def __init__(self) -> None:
        self.core = MasterRig(HierarchicalDrf(Random(1))).core
        self.frameworks = [framework_info(n, OLD) for n in range(3)]
        self.listeners: list[Any] = []
        self.updates = 0

    @property
    def cluster(self) -> Any:
        return self.core.cluster

    def listen_changes(self, listener: Any) -> None:
        self.listeners.append(listener)

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            for listener in self.listeners:
                if isinstance(effect, Changed):
                    listener(effect)
            if type(effect).__name__ == "StoreRegistry":
                self.do(self.core.stored(effect.operation, now=1.0, wall=1.0))  # type: ignore[union-attr]

    def say(self, link: int, message: agent_api.AgentMessage) -> None:
        self.do(self.core.agent_message(link, message, now=1.0, wall=1.0))

    def join(self, number: int, tasks: int) -> None:
        agent_id = f"{OLD}-S{number}"
        listed = [self.task(number, index) for index in range(tasks)]
        self.say(number, agent_hello(number, agent_id))
        for part in inventory(self.frameworks, listed):
            self.say(number, part)

    def task(self, number: int, index: int) -> types.Task:
        framework_id = self.frameworks[(number + index) % 3].id
        assert framework_id is not None
        return typical_task(f"t{number}-{index}", f"{OLD}-S{number}", framework_id, index)

    def update(self, number: int, index: int, state: TaskState) -> None:
        task = self.task(number, index)
        self.updates += 1
        status = types.TaskStatus(
            task.task_id, state, source="SOURCE_EXECUTOR", agent_id=task.agent_id,
            timestamp=2.0, healthy=True, uuid=b"%016d" % self.updates,
        )  # fmt: skip
        self.say(number, agent_api.Update(task.framework_id, status, state))

    def goodbye(self, number: int) -> None:
        self.say(number, agent_api.Goodbye())


def told(stream: Stream) -> list[dict[str, Any]]:
    data = b"".join(stream._queue)
    events = []
    while data:
        length, _, rest = data.partition(b"\n")
        events.append(json.loads(rest[: int(length)]))
        data = rest[int(length) :]
    return events


class Mirror:
    """What a subscriber knows: states of live tasks, and agents. Any event that makes no sense
    for what it knows fails."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        first, beat, *others = events
        assert (first["type"], beat["type"]) == ("SUBSCRIBED", "HEARTBEAT")
        state = first["subscribed"]["get_state"]
        tasks = state["get_tasks"]["tasks"]
        self.tasks = {task["task_id"]["value"]: task["state"] for task in tasks}
        agents = state["get_agents"]["agents"]
        self.agents = {agent["agent_info"]["id"]["value"] for agent in agents}
        assert (len(self.tasks), len(self.agents)) == (len(tasks), len(agents))
        for event in others:
            getattr(self, event["type"].lower())(event[event["type"].lower()])

    def task_added(self, body: dict[str, Any]) -> None:
        task = body["task"]
        assert task["task_id"]["value"] not in self.tasks
        self.tasks[task["task_id"]["value"]] = task["state"]

    def task_updated(self, body: dict[str, Any]) -> None:
        task_id = body["status"]["task_id"]["value"]
        assert task_id in self.tasks
        assert self.tasks[task_id] != body["state"]
        self.tasks[task_id] = body["state"]

    def agent_added(self, body: dict[str, Any]) -> None:
        agent_id = body["agent"]["agent_info"]["id"]["value"]
        assert agent_id not in self.agents
        self.agents.add(agent_id)

    def agent_removed(self, body: dict[str, Any]) -> None:
        self.agents.remove(body["agent_id"]["value"])

    def framework_added(self, body: dict[str, Any]) -> None:
        assert body["framework"]["framework_info"]["name"]


@pytest.mark.parametrize("seed", range(8))
async def test_snapshot_and_events_tell_each_change_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Random(seed)
    cluster = Cluster()
    for number in range(6):
        cluster.join(number, 6)
    joined, left = set(range(6)), set[int]()

    def meddle() -> None:
        what, number = rng.randrange(3), rng.randrange(6)
        if what == 0 and number in joined - left:
            states = [TaskState.RUNNING, TaskState.KILLING]
            cluster.update(number, rng.randrange(6), rng.choice(states))
        elif what == 1:
            number = max(joined) + 1
            joined.add(number)
            cluster.join(number, 3)
        elif len(joined - left) > 2 and number not in left:
            left.add(number)
            cluster.goodbye(number)

    async def meddled(pieces: Iterator[bytes]) -> list[bytes]:
        out = []
        for piece in pieces:
            out.append(piece)
            if rng.random() < 0.3:
                meddle()
        return out

    monkeypatch.setattr(http_events, "in_blocks", meddled)
    streams = OperatorStreams(cluster)  # type: ignore[arg-type]
    stream = await streams.subscribe()
    for _ in range(10):
        meddle()
    mirror = Mirror(told(stream))
    tables = cluster.core.cluster
    assert mirror.agents == set(tables.agents)
    live = {
        task_id: task.state for f in tables.frameworks.values() for task_id, task in f.tasks.items()
    }
    # the end of an agent ends its tasks, of which a subscriber hears by AGENT_REMOVED
    known = {key: state for key, state in mirror.tasks.items() if key in live}
    assert known == live


async def test_who_subscribes_meanwhile_shares_the_next_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    cluster.join(0, 4)
    made = 0
    go_on = asyncio.Event()

    async def slow(pieces: Iterator[bytes]) -> list[bytes]:
        nonlocal made
        made += 1
        await go_on.wait()
        return list(pieces)

    monkeypatch.setattr(http_events, "in_blocks", slow)
    streams = OperatorStreams(cluster)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(streams.subscribe()) for _ in range(5)]
        while not made:  # noqa: ASYNC110 - the first one starts in a turn of the loop
            await asyncio.sleep(0)
        go_on.set()
    assert made == 2
    assert len(streams) == 5
    assert {len(told(task.result())) for task in asked} == {2}


async def test_a_subscriber_that_takes_nothing_for_a_minute_is_cut_off() -> None:
    cluster = Cluster()
    streams = OperatorStreams(cluster)  # type: ignore[arg-type]
    stuck, reading = await streams.subscribe(), await streams.subscribe()
    for _ in range(http_events.STUCK_BEATS):
        assert stuck.close_reason is None
        reading.sent_bytes += 1
        streams._drop_stuck()
    assert stuck.close_reason == "slow subscriber"
    assert reading.close_reason is None
    assert len(streams) == 1


async def test_events_that_outgrow_the_limit_while_a_snapshot_is_made_refuse_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    cluster.join(0, 1)

    async def busy(pieces: Iterator[bytes]) -> list[bytes]:
        out = list(pieces)
        for _ in range(4):
            cluster.update(0, 0, TaskState.KILLING)
            cluster.update(0, 0, TaskState.RUNNING)
        return out

    monkeypatch.setattr(http_events, "in_blocks", busy)
    monkeypatch.setattr(http_events, "MAX_QUEUED_BYTES", 500)
    streams = OperatorStreams(cluster)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="too much changed"):
        await streams.subscribe()
    assert len(streams) == 0
    cluster.update(0, 0, TaskState.KILLING)  # nobody listens, nothing is kept
    assert streams._snapshot is None


def test_a_snapshot_is_the_whole_state() -> None:
    cluster = Cluster()
    cluster.join(0, 5)
    state = json.loads(b"".join(Snapshot(cluster.core.cluster).steps()))
    assert len(state["get_tasks"]["tasks"]) == 5
    assert len(state["get_frameworks"]["frameworks"]) == 3
    assert len(state["get_agents"]["agents"]) == 1
    assert state["get_executors"] == {"executors": []}


async def test_slices_give_others_a_turn() -> None:
    loop = asyncio.get_running_loop()

    def busy() -> Iterator[bytes]:
        for _ in range(6):
            ends = loop.time() + SLICE_S
            while loop.time() < ends:
                pass
            yield b"x"

    for work in (in_slices, in_blocks):
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        out: list[bytes] = await work(busy())
        task.cancel()
        assert b"".join(out) == b"xxxxxx"
        assert turns >= 6
