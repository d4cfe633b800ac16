"""An agent that is only the executor API, for a real executor process to talk to."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import cairn_core.executor

DEADLINE_S = 20.0
MAIN = str(Path(cairn_core.executor.__file__).parent / "__main__.py")


class FakeAgent:
    """Serves `POST /api/v1/executor` on a domain socket; keeps every call."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "agent.sock")
        self.directory = directory
        self.calls: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.heads: list[str] = []
        self.acknowledge = True
        self.refuse = 0  # this many subscriptions are answered with 503
        self.processes: list[asyncio.subprocess.Process] = []
        self._streams: list[asyncio.StreamWriter] = []
        self._writers: list[asyncio.StreamWriter] = []  # of all connections
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with suppress(OSError):
                await writer.wait_closed()
        self._streams.clear()
        self._writers.clear()
        Path(self.path).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:  # an executor that was killed while it connected
            return
        self.heads.append(head)
        length = int(head.lower().partition("content-length:")[2].split()[0])
        call = json.loads(await reader.readexactly(length))
        if call["type"] == "SUBSCRIBE":
            if self.refuse:
                self.refuse -= 1
                writer.write(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                return
            self._streams.append(writer)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.calls.put_nowait(call)
            framework = {"name": "f", "user": "u", "capabilities": [{"type": "TASK_KILLING_STATE"}]}
            self.send("SUBSCRIBED", framework_info=framework)
            for update in call["subscribe"].get("unacknowledged_updates", ()):
                self._acknowledge(update["status"])
            return
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        self.calls.put_nowait(call)
        if call["type"] == "UPDATE":
            self._acknowledge(call["update"]["status"])

    def _acknowledge(self, status: dict[str, Any]) -> None:
        if self.acknowledge:
            self.send("ACKNOWLEDGED", task_id=status["task_id"], uuid=status["uuid"])

    def send(self, kind: str, **body: Any) -> None:
        """One event on the newest stream."""
        record = json.dumps({"type": kind, kind.lower(): body}).encode()
        data = b"%d\n%b" % (len(record), record)
        self._streams[-1].write(b"%x\r\n%b\r\n" % (len(data), data))

    async def status(self) -> dict[str, Any]:
        """The status in the next UPDATE call."""
        async with asyncio.timeout(DEADLINE_S):
            while (call := await self.calls.get())["type"] != "UPDATE":
                pass
        status: dict[str, Any] = call["update"]["status"]
        return status

    async def subscription(self) -> dict[str, Any]:
        """The next SUBSCRIBE call."""
        async with asyncio.timeout(DEADLINE_S):
            while (call := await self.calls.get())["type"] != "SUBSCRIBE":
                pass
        return call

    async def states(self, number: int) -> list[str]:
        """The next states, in order."""
        return [(await self.status())["state"] for _ in range(number)]

    async def execute(self, **environment: str) -> asyncio.subprocess.Process:
        """A real executor, started as on a machine without our packages."""
        env = {
            "PATH": "/usr/bin:/bin", "MESOS_FRAMEWORK_ID": "f", "MESOS_EXECUTOR_ID": "t",
            "MESOS_DOMAIN_SOCKET": self.path, "MESOS_CHECKPOINT": "1",
            "MESOS_SUBSCRIPTION_BACKOFF_MAX": "100ms", "MESOS_SANDBOX": str(self.directory),
            "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "secret", **environment,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", MAIN, env=env, cwd=self.directory,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(process)
        return process

    async def launch(self, command: dict[str, Any], **more: Any) -> asyncio.subprocess.Process:
        """An executor that runs a task."""
        process = await self.execute()
        await self.subscription()
        task = {"task_id": {"value": "t"}, "name": "n", "agent_id": {"value": "a"}}
        self.send("LAUNCH", task={**task, "command": command, **more})
        return process


@asynccontextmanager
async def fake_agent(directory: Path) -> AsyncIterator[FakeAgent]:
    """An agent that ends its executors with it."""
    agent = FakeAgent(directory)
    await agent.start()
    try:
        yield agent
    finally:
        for process in agent.processes:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        await agent.stop()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[FakeAgent]:
    directory = tmp_path / uuid.uuid4().hex
    directory.mkdir()
    async with fake_agent(directory) as found:
        yield found
