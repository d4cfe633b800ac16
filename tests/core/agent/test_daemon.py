"""Whole agents against a fake master, fake containers and hand-made executors."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cairn_core.agent.daemon import Agent
from cairn_core.extensions import Limitation
from cairn_core.mesos import recordio
from cairn_core.mesos.types import (
    AgentID,
    CommandInfo,
    FrameworkID,
    FrameworkInfo,
    TaskID,
    TaskInfo,
)
from cairn_core.testing.agents import (
    AGENT_ID,
    FakeAgentMaster,
    FakeContainers,
    scalars,
    until,
)

FRAMEWORK = FrameworkInfo(user="root", name="test", id=FrameworkID("fw-1"), checkpoint=True)


def task(task_id: str = "task-1", **more: Any) -> TaskInfo:
    return TaskInfo(
        name=f"name of {task_id}",
        task_id=TaskID(task_id),
        agent_id=AgentID(AGENT_ID),
        resources=scalars(cpus=0.5, mem=64),
        command=CommandInfo(value="sleep 1000"),
        **more,
    )


class Executor:
    """An executor as the wire sees it."""

    def __init__(self, agent: Agent, containers: FakeContainers, container_id: str) -> None:
        env = containers.configs[container_id].environment
        self.env = env
        self.url = f"http://127.0.0.1:{agent.port}/api/v1/executor"
        self.headers = {"Authorization": f"Bearer {env['MESOS_EXECUTOR_AUTHENTICATION_TOKEN']}"}
        self.events: list[dict[str, Any]] = []
        self.session = aiohttp.ClientSession()
        self._reader: asyncio.Task[None] | None = None

    def call(self, kind: str, **body: Any) -> dict[str, Any]:
        return {
            "type": kind,
            "framework_id": {"value": self.env["MESOS_FRAMEWORK_ID"]},
            "executor_id": {"value": self.env["MESOS_EXECUTOR_ID"]},
            **body,
        }

    async def post(self, call: dict[str, Any], **more: Any) -> int:
        async with self.session.post(
            self.url, json=call, headers=more.get("headers", self.headers)
        ) as answer:
            return answer.status

    async def subscribe(self, **body: Any) -> "Executor":
        call = self.call("SUBSCRIBE", subscribe=body)
        answer = await self.session.post(self.url, json=call, headers=self.headers)
        assert answer.status == 200, await answer.text()

        async def read() -> None:
            decoder = recordio.Decoder()
            async for chunk in answer.content.iter_any():
                self.events += [json.loads(record) for record in decoder.feed(chunk)]

        self._reader = asyncio.ensure_future(read())
        await self.event("SUBSCRIBED")
        return self

    async def event(self, kind: str) -> dict[str, Any]:
        found = await until(
            lambda: next((e for e in self.events if e["type"] == kind), None), f"event {kind}"
        )
        assert isinstance(found, dict)
        return found

    async def update(self, task_id: str, state: str, uuid: str, **more: Any) -> None:
        status = {
            "task_id": {"value": task_id}, "state": state, "source": "SOURCE_EXECUTOR",
            "uuid": uuid, "timestamp": 1.5, **more,
        }  # fmt: skip
        assert await self.post(self.call("UPDATE", update={"status": status})) == 202

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self.session.close()


UUID_1 = "AAECAwQFRgeICQoLDA0ODw=="
UUID_2 = "AQECAwQFRgeICQoLDA0ODw=="
UUID_3 = "AgECAwQFRgeICQoLDA0ODw=="


@pytest.fixture
async def executors() -> Any:
    made: list[Executor] = []
    yield made
    for executor in made:
        await executor.close()


async def launched(
    agent: Agent, master: FakeAgentMaster, containers: FakeContainers, made: list[Executor]
) -> Executor:
    """A command task whose executor has subscribed and got it."""
    master.run_task(FRAMEWORK, task())
    (container_id,) = await until(containers.running, "a container")
    executor = Executor(agent, containers, container_id)
    made.append(executor)
    await executor.subscribe()
    await executor.event("LAUNCH")
    return executor


async def test_an_agent_registers_and_keeps_its_id(
    start_agent: Any, master: FakeAgentMaster, tmp_path: Path
) -> None:
    async with start_agent() as agent:
        assert agent.state.agent_id == AGENT_ID
        assert (tmp_path / "work/meta/slaves/latest").readlink() == Path(AGENT_ID)
    master.agent_id = "another-S9"
    async with start_agent() as agent:
        assert agent.state.agent_id == AGENT_ID


async def test_a_command_task_runs_and_every_update_arrives_in_order(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers, executors: Any
) -> None:
    async with start_agent() as agent:
        executor = await launched(agent, master, containers, executors)
        assert executor.env["MESOS_AGENT_ENDPOINT"] == f"127.0.0.1:{agent.port}"
        await executor.update("task-1", "TASK_STARTING", UUID_1)
        await executor.update("task-1", "TASK_RUNNING", UUID_2)
        await until(lambda: sum(e["type"] == "ACKNOWLEDGED" for e in executor.events) == 2)
        starting = await master.acknowledged("TASK_STARTING")
        assert starting.executor_id is not None
        assert starting.container_status is not None
        assert starting.container_status.network_infos[0].ip_addresses[0].ip_address == "127.0.0.1"
        running = await master.update("TASK_RUNNING")
        assert running.latest_state == "TASK_RUNNING"
        master.acknowledge(running)
        await executor.update("task-1", "TASK_FINISHED", UUID_3, message="done")
        await master.acknowledged("TASK_FINISHED")
        (container_id,) = containers.running()
        containers.end(container_id, type(containers.on_destroy)(0))
        await until(lambda: not agent.state.frameworks, "the executor's end")
        await until(lambda: containers.forgotten == [container_id])
        agent.state.check()


async def test_a_task_killed_for_its_memory_says_so_though_its_executor_spoke_first(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers, executors: Any
) -> None:
    async with start_agent() as agent:
        executor = await launched(agent, master, containers, executors)
        (container_id,) = containers.running()
        containers.limitations[container_id] = Limitation(
            "REASON_CONTAINER_LIMITATION_MEMORY", "Memory limit exceeded", {"mem": 64_000}
        )
        await executor.update(
            "task-1", "TASK_FAILED", UUID_1, message="Command exited with status 137"
        )
        failed = await master.update("TASK_FAILED")
        assert failed.status.reason == "REASON_CONTAINER_LIMITATION_MEMORY"
        assert failed.status.message == "Memory limit exceeded"
        assert failed.status.limitation is not None
        assert failed.status.limitation.resources[0].name == "mem"


async def test_updates_flow_on_after_a_sudden_restart(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers, executors: Any
) -> None:
    async with start_agent() as agent:
        executor = await launched(agent, master, containers, executors)
        await executor.update("task-1", "TASK_RUNNING", UUID_1)
        await executor.event("ACKNOWLEDGED")
        await master.update("TASK_RUNNING")
    master.said.clear()
    async with start_agent() as agent:
        assert len(containers.running()) == 1
        assert [t.state for part in master.inventory() for t in part.tasks] == ["TASK_RUNNING"]
        again = await master.update("TASK_RUNNING")
        master.acknowledge(again)
        second = Executor(agent, containers, containers.running()[0])
        executors.append(second)
        status = {
            "task_id": {"value": "task-1"}, "state": "TASK_FINISHED", "uuid": UUID_2,
            "source": "SOURCE_EXECUTOR", "timestamp": 2.5,
        }  # fmt: skip
        await second.subscribe(unacknowledged_updates=[{"status": status}])
        await second.event("ACKNOWLEDGED")
        await master.acknowledged("TASK_FINISHED")
        await until(lambda: not next(iter(agent.state.containers.values())).tasks)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Bearer wrong"}, 403), ({"Authorization": "Basic x"}, 403)],
    ids=["no token", "wrong token", "another scheme"],
)
async def test_a_command_executor_needs_the_token_of_its_container(
    headers: dict[str, str],
    status: int,
    start_agent: Any,
    master: FakeAgentMaster,
    containers: FakeContainers,
    executors: Any,
) -> None:
    async with start_agent() as agent:
        executor = await launched(agent, master, containers, executors)
        assert await executor.post(executor.call("HEARTBEAT"), headers=headers) == status
        assert await executor.post(executor.call("HEARTBEAT")) == 202
