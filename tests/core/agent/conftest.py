"""An agent in this process, with a master and containers that are fakes."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cairn_core.agent.config import AgentConfig, Machine
from cairn_core.agent.daemon import Agent
from cairn_core.testing.agents import FakeAgentMaster, FakeContainers, until

StartAgent = Callable[..., AbstractAsyncContextManager[Agent]]


@pytest.fixture
async def master() -> AsyncIterator[FakeAgentMaster]:
    async with FakeAgentMaster() as fake:
        yield fake


@pytest.fixture
async def containers() -> FakeContainers:
    return FakeContainers()


@pytest.fixture
def start_agent(tmp_path: Path, master: FakeAgentMaster, containers: FakeContainers) -> StartAgent:
    """Start an agent; leaving the block is its sudden end, and its containers live on."""

    seeds = itertools.count()

    @contextlib.asynccontextmanager
    async def start(
        *,
        boot_id: str = "boot-1",
        ready: bool = True,
        raises: type[Exception] | None = None,
        **settings: Any,
    ) -> AsyncIterator[Agent]:
        chosen: dict[str, Any] = {
            "master": f"127.0.0.1:{master.port}",
            "work_dir": str(tmp_path / "work"),
            "runtime_dir": str(tmp_path / "run"),
            "ip": "127.0.0.1",
            "port": 0,
            "hostname": "agent-1",
            "resources": "cpus:4;mem:4096;disk:10000;ports:[31000-31100]",
            "switch_user": False,
            "registration_backoff_factor": 0.01,
        }
        config = AgentConfig(**(chosen | settings))
        agent = Agent(
            config,
            containers,
            traces=containers.traces,
            ip="127.0.0.1",
            machine=Machine(4, 8 << 30, 100 << 30),
            rng=Random(next(seeds)),
            boot_id=boot_id,
        )
        stop = asyncio.Event()
        running = asyncio.ensure_future(agent.run(stop))
        try:
            if ready:
                await until(
                    lambda: agent.state.master.registered or running.done(), "the registration"
                )
            if running.done():
                running.result()
            yield agent
        finally:
            stop.set()
            await asyncio.wait({running})
        if raises is None:
            running.result()
            return
        with pytest.raises(ExceptionGroup) as raised:
            running.result()
        assert raised.group_contains(raises)

    return start
