"""A whole master in this process, with some agents, and a loop that outlives a single example."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
import uvloop

from cairn_core.master.config import MasterConfig
from cairn_core.master.daemon import Assembly, assemble
from cairn_core.master.state.invariants import check
from cairn_core.testing.sim_agents import SimAgents

T = TypeVar("T")
WAIT_S = 20.0


class Victim:
    """The master under attack. `run` runs a coroutine in its loop; between two runs it rests."""

    def __init__(self, runner: asyncio.Runner, work_dir: Path, agents: int) -> None:
        self._runner = runner
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._count = agents
        self.work_dir = work_dir
        self.assembly: Assembly
        self.agents: SimAgents
        self.client: aiohttp.ClientSession

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the master's loop, with a deadline."""

        async def bounded() -> T:
            async with asyncio.timeout(3 * WAIT_S):
                return await work

        return self._runner.run(bounded())

    @property
    def url(self) -> str:
        """Where the master is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Its port."""
        return self.assembly.http.port

    async def start(self) -> None:
        """Start the master and its agents."""
        config = MasterConfig(
            work_dir=str(self.work_dir), ip="127.0.0.1", hostname="localhost",
            allocation_interval=0.05, port_rest=0.0,
        )  # fmt: skip
        self.assembly = await assemble(config, [("127.0.0.1", 0)])
        for service in self.assembly.services:
            self._tasks.append(asyncio.create_task(_serve(service, self._stop)))
        await self.until(lambda: self.assembly.master.recovered() and self.assembly.http.addresses)
        self.agents = SimAgents(self.port, self._count)
        self._tasks.append(asyncio.create_task(self.agents.run(self._stop)))
        self.client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S))
        await self.until(self.agents_are_there)

    async def stop(self) -> None:
        """End everything; what a service raised is raised here."""
        await self.client.close()
        self._stop.set()
        await asyncio.gather(*self._tasks)

    def agents_are_there(self) -> bool:
        """Whether every agent of ours is registered."""
        return all(agent.registered for agent in self.agents.agents)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for a condition with a deadline."""
        async with asyncio.timeout(WAIT_S):
            while not (value := condition()):  # noqa: ASYNC110 - conditions come from anywhere
                await asyncio.sleep(0.002)
        return value

    async def raw(self, head: str) -> tuple[int, bytes]:
        """Status and body of the answer to bytes that no client would send."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            first, _, rest_of_head = head.partition("\r\n")
            writer.write(f"{first}\r\nHost: localhost\r\n{rest_of_head}".encode())
            if "\r\n\r\n" not in head:
                close = b"" if "Connection:" in head else b"Connection: close\r\n"
                writer.write((b"\r\n" if rest_of_head else b"") + close + b"\r\n")
            async with asyncio.timeout(WAIT_S):
                line = await reader.readline()
                rest = await reader.read() if b" 101 " not in line else b"upgraded"
        finally:
            writer.transport.abort()
        assert line.startswith(b"HTTP/1."), line
        return int(line.split()[1]), rest.partition(b"\r\n\r\n")[2] or rest

    async def unharmed(self) -> None:
        """The master lives, failed at nothing, and its tables agree with each other."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError(f"service ended: {task}")
        assert self.assembly.http.stats.errors == 0, "a handler failed: see the log"
        check(self.assembly.master.cluster)
        async with self.client.get(f"{self.url}/health") as answer:
            assert answer.status == 200


async def _serve(service: Callable[[asyncio.Event], Any], stop: asyncio.Event) -> None:
    await service(stop)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        work_dir = tmp_path_factory.mktemp("victim")

        async def make() -> Victim:
            made = Victim(runner, work_dir, agents=2)
            await made.start()
            return made

        made = runner.run(make())
        yield made
        runner.run(made.stop())
