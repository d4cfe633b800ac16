"""Marathon's rules in virtual time behind its real HTTP API on loopback."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest

from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import (
    AgentID,
    AllocationInfo,
    FrameworkID,
    OfferID,
    TaskID,
    TaskInfo,
    TaskState,
    TaskStatus,
)
from cairn_core.resources import Resources
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.context import MakeRoot
from cairn_scheduler.marathon.core import MarathonCore
from cairn_scheduler.marathon.effects import (
    AcceptOffer,
    Deployed,
    Killed,
    Outcome,
    Probed,
    Publish,
    Reply,
    SendKill,
)
from cairn_scheduler.marathon.errors import MarathonError
from cairn_scheduler.marathon.events import Event
from cairn_scheduler.marathon.http_api import MarathonApi
from cairn_scheduler.marathon.io_marathon import core_settings
from cairn_scheduler.marathon.planner import Plan
from cairn_scheduler.marathon.tables import Tables


class Rig:
    """A `MarathonContext` whose log is instant and whose master is the test."""

    def __init__(self, **settings: Any) -> None:
        self._config = MarathonConfig(**settings)
        self.core = MarathonCore(core_settings(self._config), Random(7))
        self.clock, self.time = 1000.0, 1_800_000_000.0
        self.leads = True
        self.abdicated = False
        self.effects: list[Any] = []
        self.launched: dict[str, TaskInfo] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._numbers = itertools.count(1)
        self._reply: Any = None
        self._take(self.core.recover([], now=self.clock, wall=self.time))
        self._take(self.core.registered("fw-1", "master1:5050", now=self.clock, wall=self.time))

    def _take(self, outcome: Outcome) -> None:
        for effect in outcome.effects:
            self.effects.append(effect)
            match effect:
                case Publish(event):
                    self.publish(event)
                case Reply(_, result):
                    self._reply = result
                case AcceptOffer(_, tasks, _):
                    self.launched |= {task.task_id.value: task for task in tasks}

    def _answered(self, outcome: Outcome) -> Any:
        self._reply = None
        self._take(outcome)
        if isinstance(self._reply, MarathonError):
            raise self._reply
        return self._reply

    # What the test does

    def pass_time(self, seconds: float = 0.1) -> None:
        """Let timers ring."""
        end = self.clock + seconds
        while (due := self.core.next_deadline()) <= end:
            self.time += max(0.0, due - self.clock)
            self.clock = max(self.clock, due)
            self._take(self.core.expire(now=self.clock, wall=self.time))
        self.time += end - self.clock
        self.clock = end

    def offer(
        self, agent: str = "a1", resources: str = "cpus:8;mem:8192;ports:[31000-31999]"
    ) -> list[str]:
        """Offer resources; gives the tasks launched on them."""
        before = set(self.launched)
        allocation = AllocationInfo("*")
        offered = tuple(
            msgspec.structs.replace(resource, allocation_info=allocation)
            for resource in Resources.parse(resources).to_wire()
        )
        offer = Offer(
            OfferID(f"o{next(self._numbers)}"), FrameworkID("fw-1"), AgentID(f"{agent}-id"),
            agent, resources=offered, allocation_info=allocation,
        )  # fmt: skip
        self._take(self.core.offers([offer], now=self.clock, wall=self.time))
        return [task_id for task_id in self.launched if task_id not in before]

    def update(self, task_id: str, state: TaskState, **fields: Any) -> None:
        """A status update."""
        number = next(self._numbers)
        status = TaskStatus(
            TaskID(task_id), state, agent_id=self.launched[task_id].agent_id,
            uuid=number.to_bytes(16, "big"), timestamp=self.time, **fields,
        )  # fmt: skip
        self._take(self.core.status_update(status, now=self.clock, wall=self.time))

    def found(self, result: Probed) -> None:
        """A probe of ours has a result."""
        self._take(self.core.probed(result, now=self.clock, wall=self.time))

    def run(self, agent: str = "a1") -> list[str]:
        """Launch what waits and let it run; gives the task ids."""
        self.pass_time()
        tasks = self.offer(agent)
        for task_id in tasks:
            self.update(task_id, TaskState.RUNNING)
        self.pass_time()
        return tasks

    def kills(self) -> list[str]:
        """Tasks whose end was asked for."""
        return [e.task_id for e in self.effects if isinstance(e, SendKill)]

    # MarathonContext

    @property
    def tables(self) -> Tables:
        return self.core.tables

    @property
    def config(self) -> MarathonConfig:
        return self._config

    def elected(self) -> bool:
        return self.leads

    def leader(self) -> str | None:
        return "marathon1:8080" if self.leads else None

    def master_url(self) -> str | None:
        return "http://master1:5050"

    def counters(self) -> Mapping[str, float]:
        return {"marathon.tasks.launched.counter": float(len(self.launched))}

    def now(self) -> float:
        return self.clock

    def wall(self) -> float:
        return self.time

    def listen_events(self, listener: Callable[[Event], None]) -> None:
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def dry_run(self, make_root: MakeRoot) -> Plan:
        return self.core.dry_run(make_root, now=self.clock, wall=self.time)

    async def change_root(
        self,
        make_root: MakeRoot,
        *,
        force: bool = False,
        restarts: Collection[str] = (),
        kill: Mapping[str, Sequence[str]] | None = None,
        group_id: str = "/",
    ) -> Deployed:
        self.time += 0.001
        outcome = self.core.change_root(
            next(self._numbers), make_root, force=force, restarts=restarts, kill=kill,
            group_id=group_id, now=self.clock, wall=self.time,
        )  # fmt: skip
        result: Deployed = self._answered(outcome)
        return result

    async def kill_instances(
        self,
        instance_ids: Sequence[str],
        *,
        scale: bool = False,
        wipe: bool = False,
        force: bool = False,
    ) -> Killed | Deployed:
        outcome = self.core.kill_instances(
            next(self._numbers), instance_ids, scale=scale, wipe=wipe, force=force,
            now=self.clock, wall=self.time,
        )  # fmt: skip
        result: Killed | Deployed = self._answered(outcome)
        return result

    async def rollback(self, plan_id: str) -> Deployed:
        number = next(self._numbers)
        outcome = self.core.rollback(number, plan_id, now=self.clock, wall=self.time)
        result: Deployed = self._answered(outcome)
        return result

    async def cancel(self, plan_id: str) -> None:
        number = next(self._numbers)
        self._answered(self.core.cancel(number, plan_id, now=self.clock, wall=self.time))

    async def reset_delay(self, app_id: str) -> None:
        number = next(self._numbers)
        self._answered(self.core.reset_delay(number, app_id, now=self.clock, wall=self.time))

    def abdicate(self) -> None:
        self.abdicated = True


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body."""
        return msgspec.json.decode(self.body)


class Site:
    """The API of one rig, and a client of it."""

    def __init__(self, rig: Rig, session: aiohttp.ClientSession, url: str) -> None:
        self.rig = rig
        self.session = session
        self.url = url

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        data = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        async with self.session.request(
            method, self.url + path, data=data, allow_redirects=False, **options
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **options: Any) -> Any:
        """The JSON of a successful GET."""
        answer = await self("GET", path, **options)
        assert answer.status == 200, answer.body
        return answer.json

    async def sleeper(self, app_id: str = "/a", **fields: Any) -> Any:
        """Create an app."""
        answer = await self("POST", "/v2/apps", {"id": app_id, "cmd": "sleep 9", **fields})
        assert answer.status == 201, answer.body
        return answer.json


@pytest.fixture
async def make_site() -> AsyncIterator[Callable[..., Any]]:
    """Makes sites with settings of their own."""
    opened: list[tuple[MarathonApi, asyncio.Event, asyncio.Task[Any]]] = []
    async with aiohttp.ClientSession(headers={"User-Agent": "tests"}) as session:

        async def make(**settings: Any) -> Site:
            rig = Rig(**settings)
            api = MarathonApi(rig)
            stop = asyncio.Event()
            await api.http.start(("127.0.0.1", 0))
            beating = asyncio.create_task(api.events.heartbeats(stop))
            opened.append((api, stop, beating))
            return Site(rig, session, f"http://127.0.0.1:{api.http.port}")

        yield make
        for api, stop, beating in opened:
            stop.set()
            await beating
            await api.http.drain(0)


@pytest.fixture
async def site(make_site: Callable[..., Any]) -> Any:
    """A site with default settings."""
    return await make_site()
