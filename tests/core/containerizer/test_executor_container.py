"""The command executor as a container of its own: forked from the zygote, over agent restarts."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cairn_core.agent.containerizer.runtime_dir import RuntimeDir
from cairn_core.extensions import Amounts, ContainerConfig
from cairn_core.testing.containers import Site
from cairn_core.testing.requires import requires

ENTRY = "cairn_core.executor.command:main"
PRELOAD = ("cairn_core.executor.command",)


class Agent:
    """Serves the executor API; keeps the statuses and acknowledges them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.statuses: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task: dict[str, Any] | None = None
        self.stream: asyncio.StreamWriter | None = None
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
        call = msgspec.json.decode(body)
        if call["type"] == "SUBSCRIBE":
            self.stream = writer
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.send("SUBSCRIBED")
            for update in call["subscribe"].get("unacknowledged_updates", ()):
                self.take(update["status"])
            if self.task is not None:
                self.send("LAUNCH", task=self.task)
                self.task = None
            return
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        self.take(call["update"]["status"])

    def take(self, status: dict[str, Any]) -> None:
        self.statuses.put_nowait(status)
        self.send("ACKNOWLEDGED", task_id=status["task_id"], uuid=status["uuid"])

    def send(self, kind: str, **body: Any) -> None:
        assert self.stream is not None
        record = msgspec.json.encode({"type": kind, kind.lower(): body})
        data = b"%d\n%b" % (len(record), record)
        self.stream.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def states(self, number: int) -> list[str]:
        async with asyncio.timeout(20):
            return [(await self.statuses.get())["state"] for _ in range(number)]


@pytest.fixture
async def agent(site: Site) -> AsyncIterator[Agent]:
    path = str(site.root / "executors.sock")
    found = Agent(path)
    server = await asyncio.start_unix_server(found.serve, path)
    os.chmod(path, 0o666)
    yield found
    server.close()
    for writer in found.writers:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def executor(site: Site, agent: Agent, command: str, **more: Any) -> ContainerConfig:
    agent.task = {"task_id": {"value": "t"}, "name": "n", "command": {"value": command}}
    sandbox = site.sandbox()
    environment = {
        "MESOS_FRAMEWORK_ID": "f",
        "MESOS_EXECUTOR_ID": "t",
        "MESOS_DOMAIN_SOCKET": agent.path,
        "MESOS_CHECKPOINT": "1",
        "MESOS_SANDBOX": sandbox,
    }
    return ContainerConfig(sandbox=sandbox, entry=ENTRY, environment=environment, **more)


async def test_a_task_runs_in_a_forked_executor(
    site: Site, agent: Agent, container_id: str
) -> None:
    config = executor(site, agent, "echo out; echo err >&2; env > env; exit 2")
    async with site.agent(preload=PRELOAD) as containerizer:
        await containerizer.launch(container_id, config)
        assert await agent.states(3) == ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]
        end = await containerizer.wait(container_id)
    assert end.status == 0  # the executor did its work
    sandbox = Path(config.sandbox)
    assert ((sandbox / "stdout").read_text(), (sandbox / "stderr").read_text()) == (
        "out\n",
        "err\n",
    )
    assert "MESOS_DOMAIN_SOCKET" not in (sandbox / "env").read_text()


@pytest.mark.netns
async def test_a_task_runs_isolated_and_over_an_agent_restart(
    site: Site, agent: Agent, container_id: str
) -> None:
    requires("root", "cgroup:memory", "cgroup:freezer")
    isolation = "cgroups/cpu,cgroups/mem,filesystem/linux,namespaces/pid,namespaces/ipc"
    amounts = Amounts(200, 64)
    command = "id -un; echo $PPID; while [ ! -e go ]; do sleep 0.02; done"
    config = executor(site, agent, command, user="nobody", requests=amounts)
    os.chown(config.sandbox, 65534, 65534)
    async with site.agent(isolation, linux=True, preload=PRELOAD) as containerizer:
        await containerizer.launch(container_id, config)
        assert await agent.states(2) == ["TASK_STARTING", "TASK_RUNNING"]
    async with site.agent(isolation, linux=True, preload=PRELOAD) as containerizer:
        assert await containerizer.recover({container_id: None}) == set()
        Path(config.sandbox, "go").touch()
        assert await agent.states(1) == ["TASK_FINISHED"]
        end = await containerizer.wait(container_id)
    assert end.status == 0
    assert Path(config.sandbox, "stdout").read_text() == "nobody\n1\n"
    assert site.groups_left() == set()


@pytest.mark.netns
async def test_destroying_an_executor_destroys_its_task(
    site: Site, agent: Agent, container_id: str
) -> None:
    requires("root", "cgroup:memory", "cgroup:freezer")
    config = executor(site, agent, "setsid sleep 1234 & sleep 1234")
    async with site.agent("cgroups/cpu,cgroups/mem", linux=True, preload=PRELOAD) as containerizer:
        await containerizer.launch(container_id, config)
        await agent.states(2)
        await containerizer.destroy(container_id)
    assert site.groups_left() == set()
    assert RuntimeDir(site.runtime).termination(container_id) is not None
