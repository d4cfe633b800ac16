"""This host's agent speaks for itself while the view of the cluster is stale."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest

from cairn_core.agent import legacy_json
from cairn_core.agent.records import TaskRecord
from cairn_core.clusterview.state_json import BadState
from cairn_core.kit.http_server import Answer, Handler, HttpServer, Request, Response, Router
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, Row, TaskRow, VipRow, task_row
from cairn_core.mesos.types import TaskInfo, TaskStatus
from cairn_l4lb.io_local_agent import LocalAgent, read_agent_state
from cairn_l4lb.model import Vip
from cairn_l4lb.table import Table


def task(one: str, port: int, state: str = "TASK_RUNNING", **other: Any) -> dict[str, Any]:
    labels = {"labels": [{"key": "VIP_0", "value": "/web:80"}]}
    return {
        "id": one, "name": "web", "framework_id": "f", "executor_id": "", "slave_id": "a1",
        "state": state, "resources": {"cpus": 0.1, "ports": f"[{port}-{port}]"}, "role": "*",
        "statuses": [{"state": "TASK_RUNNING", "timestamp": 1.5, "healthy": True}],
        "discovery": {
            "visibility": "FRAMEWORK", "name": "web",
            "ports": {"ports": [{"number": port, "protocol": "tcp", "labels": labels}]},
        },
    } | other  # fmt: skip


def state(*tasks: dict[str, Any], **other: Any) -> dict[str, Any]:
    executor = {"id": "e", "tasks": tasks, "queued_tasks": [task("q", 1)], "completed_tasks": []}
    return {
        "version": "1.9.0", "id": "a1", "pid": "slave(1)@10.0.0.1:5051", "hostname": "h1",
        "domain": {"fault_domain": {"region": {"name": "r"}, "zone": {"name": "z"}}},
        "frameworks": [{"id": "f", "name": "marathon", "executors": [executor]}],
        "completed_frameworks": [{"id": "old", "name": "old", "executors": [executor]}],
    } | other  # fmt: skip


def test_rows_are_those_of_a_master() -> None:
    agent_id, rows = read_agent_state(msgspec.json.encode(state(task("t1", 31000))))
    assert agent_id == "a1"
    agent, framework, one = rows
    assert agent == AgentRow("a1", "h1", "10.0.0.1", 5051, region="r", zone="z")
    assert framework == FrameworkRow("f", "marathon")
    assert isinstance(one, TaskRow)
    assert (one.key, one.agent_id, one.healthy) == ("task/f/t1", "a1", True)
    assert one.ports == ((31000, 31000),)
    assert one.discovery_ports[0].labels == (("VIP_0", "/web:80"),)


def test_a_task_that_makes_no_sense_is_left_out() -> None:
    body = state(task("t1", 31000), {"id": 7, "name": None}, task("t2", 31001))
    _, rows = read_agent_state(msgspec.json.encode(body))
    assert [one.id for one in rows if isinstance(one, TaskRow)] == ["t1", "t2"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", msgspec.json.encode(state(id="")), b'{"id":"a"}']
)
def test_what_is_no_state_is_refused(body: bytes) -> None:
    with pytest.raises(BadState, match="state of an agent"):
        read_agent_state(body)


class Agent:
    """Answers `/state`, counted, with what is in `answer`."""

    def __init__(self) -> None:
        self.tasks = [task("t1", 31000)]
        self.answer: Callable[[], Answer] = lambda: Response.json(state(*self.tasks))
        self.asked = 0
        router: Router[Handler] = Router()
        router.add("/state", self._state)
        self.http = HttpServer(router)

    async def _state(self, request: Request) -> Answer:
        self.asked += 1
        return self.answer()


class Host:
    """What the daemon does: a table that is told."""

    def __init__(self) -> None:
        self.table = Table()
        self.age_s = float("inf")
        self.told: list[tuple[str, Sequence[Row] | None]] = []
        self.table.choose({"web.marathon": ("11.0.0.1", "")}, 0.0)

    def tell(self, agent_id: str, rows: Sequence[Row] | None) -> None:
        self.told.append((agent_id, rows))
        self.table.override(agent_id, rows, 0.0)

    def backends(self) -> list[str]:
        service = self.table.services.get(Vip("tcp", "11.0.0.1", 80))
        return [one.text for one in service.backends] if service is not None else []


@asynccontextmanager
async def following(agent: Agent, host: Host, **settings: Any) -> AsyncIterator[LocalAgent]:
    await agent.http.start(("127.0.0.1", 0))
    local = LocalAgent(
        f"http://127.0.0.1:{agent.http.port}/",
        lambda: host.age_s,
        host.tell,
        Random(1),
        **{"stale_s": 0.1, "period_s": 0.02, "max_period_s": 0.05} | settings,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(local.run(stop))
    try:
        yield local
    finally:
        stop.set()
        await running
        await agent.http.drain(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - any condition will do
            await asyncio.sleep(0.005)


async def test_an_agent_is_followed_while_the_view_is_stale() -> None:
    agent, host = Agent(), Host()
    async with following(agent, host) as local:
        await until(lambda: host.backends() == ["10.0.0.1:31000"])
        agent.tasks = [task("t1", 31000, "TASK_KILLED"), task("t2", 31002)]
        await until(lambda: host.backends() == ["10.0.0.1:31002"])
        assert local.agent_id == "a1"
        # what is not new is not told
        asked = agent.asked
        await until(lambda: agent.asked > asked + 3)
        assert len(host.told) == 2
        host.age_s = 0.0
        await until(lambda: host.told[-1] == ("a1", None))
        assert host.backends() == []
        assert (local.agent_id, local.problem) == ("", "")


async def test_an_agent_is_not_asked_while_the_view_is_fresh() -> None:
    agent, host = Agent(), Host()
    looked = 0

    def age_s() -> float:
        nonlocal looked
        looked += 1
        return 0.05

    async with following(agent, host) as local:
        local._age_s = age_s
        asked = agent.asked
        await until(lambda: looked > 1)
        told, looked = len(host.told), 0
        await until(lambda: looked > 5)
        assert agent.asked <= asked + 1
        assert len(host.told) == told


@pytest.mark.parametrize(
    "odd",
    [
        lambda: Response(status=503, body=b"not yet"),
        lambda: Response(status=401),
        lambda: Response.json({}),
        lambda: Response.json(state(id="")),
    ],
)
async def test_what_is_known_holds_while_the_agent_does_not_answer(
    odd: Callable[[], Answer],
) -> None:
    agent, host = Agent(), Host()
    async with following(agent, host) as local:
        await until(lambda: host.backends() == ["10.0.0.1:31000"])
        good, agent.answer = agent.answer, odd
        await until(lambda: local.problem != "")
        asked = agent.asked
        await until(lambda: agent.asked > asked + 2)
        assert host.backends() == ["10.0.0.1:31000"]
        agent.tasks, agent.answer = [task("t3", 31003)], good
        await until(lambda: host.backends() == ["10.0.0.1:31003"])
        assert local.problem == ""


async def test_an_agent_that_is_not_there_is_asked_less_and_less_often() -> None:
    host = Host()
    agent = Agent()
    await agent.http.start(("127.0.0.1", 0))
    port = agent.http.port
    await agent.http.drain(0)
    local = LocalAgent(
        f"http://127.0.0.1:{port}", lambda: host.age_s, host.tell, Random(1),
        period_s=0.001, max_period_s=0.004,
    )  # fmt: skip
    stop = asyncio.Event()
    running = asyncio.create_task(local.run(stop))
    await until(lambda: local.questions > 5)
    assert "no answer from" in local.problem
    assert host.told == []
    stop.set()
    await running


async def test_another_agent_at_the_same_place_takes_over() -> None:
    agent, host = Agent(), Host()
    async with following(agent, host):
        await until(lambda: host.backends() == ["10.0.0.1:31000"])
        again = state(task("t9", 31009, slave_id="a2"), id="a2")
        agent.answer = lambda: Response.json(again)
        await until(lambda: host.backends() == ["10.0.0.1:31009"])
        assert [(one, rows is None) for one, rows in host.told] == [
            ("a1", False),
            ("a1", True),
            ("a2", False),
        ]
        assert host.table.overridden == ["a2"]


def test_an_override_and_the_view_say_the_same() -> None:
    _, rows = read_agent_state(msgspec.json.encode(state(task("t1", 31000))))
    table = Table()
    table.choose({VipRow("web.marathon", "11.0.0.1").name: ("11.0.0.1", "")}, 0.0)
    table.override("a1", rows, 0.0)
    [service] = table.services.values()
    assert (service.backends[0].zone, service.backends[0].weight) == ("z", 1)


def test_a_task_is_the_same_whether_its_agent_tells_it_or_a_master() -> None:
    info = msgspec.convert(
        {
            "name": "web", "task_id": {"value": "t1"}, "agent_id": {"value": "a1"},
            "resources": [{
                "name": "ports", "type": "RANGES",
                "ranges": {"range": [{"begin": 31000, "end": 31001}]},
            }],
            "labels": {"labels": [
                {"key": "VIP_PORT1", "value": "tcp://1.2.3.4:80"}, {"key": "OTHER", "value": "x"},
            ]},
            "discovery": {"visibility": "FRAMEWORK", "name": "web", "ports": {"ports": [{
                "number": 80, "name": "http", "protocol": "tcp",
                "labels": {"labels": [{"key": "VIP_0", "value": "web:80"}]},
            }]}},
            "container": {"type": "DOCKER", "docker": {
                "image": "nginx", "network": "BRIDGE",
                "port_mappings": [{"host_port": 31000, "container_port": 80, "protocol": "tcp"}],
            }},
            "health_check": {"type": "TCP", "tcp": {"port": 80}},
        },
        TaskInfo,
    )  # fmt: skip
    record = TaskRecord(info, "f", "", "o")
    network = {"ip_addresses": [{"ip_address": "172.17.0.2"}], "name": "bridge"}
    record.note(
        msgspec.convert(
            {
                "task_id": {"value": "t1"}, "state": "TASK_RUNNING", "healthy": False,
                "timestamp": 1.0, "container_status": {"network_infos": [network]},
            },
            TaskStatus,
        )
    )  # fmt: skip
    told = msgspec.json.decode(msgspec.json.encode(legacy_json.task(record, "a1")))
    _, rows = read_agent_state(msgspec.json.encode(state(told)))
    assert rows[-1] == task_row(record.as_task("a1"))
    [row] = [one for one in rows if isinstance(one, TaskRow)]
    assert (row.docker_ports, row.health_checked) == (((31000, 80, "tcp"),), True)
