"""The whole daemon over real HTTP, with a real master and simulated agents: kill -9 included."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn_core.errors import Unavailable
from cairn_core.kit.http_client import HttpClient
from cairn_core.testing.simulated_agents import SimulatedAgents

DEADLINE_S = 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Programs:
    """A master and a Marathon as processes."""

    def __init__(self, folder: Path, http: HttpClient) -> None:
        self.folder = folder
        self.http = http
        self.master_port, self.port = free_port(), free_port()
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, module: str, *arguments: str) -> asyncio.subprocess.Process:
        name = module.split(".")[1]
        with (self.folder / f"{name}.log").open("ab") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *arguments, stdout=stream, stderr=stream,
                env={**os.environ, "PYTHONPATH": ""},
            )  # fmt: skip
        self.processes.append(process)
        return process

    async def start_master(self) -> asyncio.subprocess.Process:
        process = await self.start(
            "cairn_core.master.cli", "--ip", "127.0.0.1", "--hostname", "127.0.0.1",
            "--port", str(self.master_port), "--work-dir", str(self.folder / "master"),
        )  # fmt: skip
        await self.answers(f"{self.master}/ready")
        return process

    async def start_marathon(self) -> asyncio.subprocess.Process:
        process = await self.start(
            "cairn_scheduler.marathon.cli", "--master", f"127.0.0.1:{self.master_port}",
            "--hostname", "127.0.0.1", "--http-address", "127.0.0.1",
            "--http-port", str(self.port), "--work-dir", str(self.folder / "marathon"),
        )  # fmt: skip
        await self.answers(f"{self.url}/ready")
        return process

    @property
    def master(self) -> str:
        return f"http://127.0.0.1:{self.master_port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answers(self, url: str) -> None:
        async def ready() -> bool:
            try:
                return (await self.http.request("GET", url)).ok
            except Unavailable:
                return False

        await self.until(ready, f"{url} answers")

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition, which may be awaited."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    found = condition()
                    if asyncio.iscoroutine(found):
                        found = await found
                    if found:
                        return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            logs = [p.read_text()[-2000:] for p in self.folder.glob("*.log")]
            pytest.fail("\n".join([f"it never came true that {what}", *logs]))

    async def put(self, app_id: str, **keys: Any) -> None:
        app = {"id": app_id, "cmd": "sleep 1000", "cpus": 0.1, "mem": 32, **keys}
        reply = await self.http.request("PUT", f"{self.url}/v2/apps{app_id}", json=app)
        reply.expect(200, 201)

    async def get(self, path: str) -> Any:
        return (await self.http.request("GET", self.url + path)).expect().json(Any)

    async def idle(self) -> bool:
        return not await self.get("/v2/deployments")


@asynccontextmanager
async def programs(folder: Path) -> AsyncIterator[Programs]:
    async with HttpClient() as http:
        made = Programs(folder, http)
        try:
            yield made
        finally:
            for process in made.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()


@pytest.mark.slow
async def test_killed_in_the_middle_of_a_restart_it_goes_on(tmp_path: Path) -> None:
    async with programs(tmp_path) as made:
        await made.start_master()
        async with SimulatedAgents(made.master, count=5, start_s=0.2) as agents:
            await agents.registered()
            marathon = await made.start_marathon()
            strategy = {"minimumHealthCapacity": 0.8, "maximumOverCapacity": 0.2}
            await made.put("/web", instances=20, upgradeStrategy=strategy)
            await made.put("/calm", instances=5)
            await made.until(made.idle, "both apps are deployed")
            first = set(agents.running)
            calm = {task for task in first if task.startswith("calm.")}
            assert len(first) == 25
            agents.most = 25

            await made.put("/web", instances=20, cmd="sleep 2000", upgradeStrategy=strategy)
            await made.until(lambda: len(agents.running & first) <= 18, "some are replaced")
            marathon.send_signal(signal.SIGKILL)
            await marathon.wait()
            assert len(agents.running & first) > 5, "it was too quick to be killed in between"
            await made.start_marathon()
            await made.until(made.idle, "the restart is done")

            assert len(agents.running) == 25
            assert agents.running & first == calm
            assert agents.most <= 25 + 4
            assert set(agents.launches.values()) == {1}
            shown = (await made.get("/v2/apps//web"))["app"]
            assert shown["tasksRunning"] == 20

            # Killed once more, with nothing to do: nothing changes.
            after = set(agents.running)
            made.processes[-1].send_signal(signal.SIGKILL)
            await made.processes[-1].wait()
            await made.start_marathon()
            await made.put("/new", instances=1)
            await made.until(made.idle, "it launches again")
            assert after < agents.running
            made.processes[-1].send_signal(signal.SIGTERM)
            assert await made.processes[-1].wait() == 0


@pytest.mark.slow
async def test_master_that_comes_back_finds_everything_as_it_was(tmp_path: Path) -> None:
    async with programs(tmp_path) as made:
        master = await made.start_master()
        async with SimulatedAgents(made.master, count=3) as agents:
            await agents.registered()
            await made.start_marathon()
            await made.put("/web", instances=6)
            await made.until(made.idle, "the app is deployed")
            before = set(agents.running)
            master.send_signal(signal.SIGKILL)
            await master.wait()
            await made.start_master()
            await made.put("/web", instances=8)
            await made.until(lambda: len(agents.running) == 8, "it is scaled")
            await made.until(made.idle, "the scaling is done")
            assert before < agents.running
            assert set(agents.launches.values()) == {1}
            # A role that the framework did not have so far.
            await made.put("/dev/api", role="dev", instances=2)
            await made.until(made.idle, "an app of another role is deployed")
            assert len(agents.running) == 10
