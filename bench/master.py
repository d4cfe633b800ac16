"""A real master over loopback: links, tasks, updates, readers, and its return after kill -9.

Three processes: `cairn-master`, the simulated agents (`cairn_core.testing.sim_agents`), and this
one with a framework and the readers. Ten tasks on each agent, then 200 status updates a second,
20 readers of `/state` that ask again a second after each answer, and a framework whose calls are
timed. Case `agents x tasks`:

    register_cpu_s     CPU of the master to register all agents; `per_agent_bytes` its memory
    launch_cpu_s       CPU to launch and run all tasks; `per_task_bytes` its memory
    call_p50_ms, call_p99_ms   a framework's calls (ACKNOWLEDGE, RECONCILE) under that load
    lag_p999_ms, lag_max_ms    how late the master's event loop was meanwhile
    state_p50_ms, state_bytes  `/state`, and `state_refused` the share of answers that were 503
    update_rate        updates a second that went all the way and were acknowledged
    cpu_cores          what all that cost the master, cores
    stream_bytes       memory of an operator's event stream, of 50
    return_s, return_cpu_s     kill -9, a new master on the same registry, all agents and tasks back
    private_bytes      memory of the master then

Published figures of the original (not measured here): `/state` to 20 pollers in 1.0 s with 100
agents and 10,000 tasks (Mesos 1.7); 4 s until 10,000 agents with 100,000 tasks were back (1.5).
"""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from bench.failover import private_bytes
from bench.report import CannotRun, Result
from cairn_core.mesos.recordio import Decoder

TASKS_PER_AGENT = 10
UPDATES_PER_S = 200
POLLERS = 20
STREAMS = 50
WAIT_S = 300.0


class _Bench:
    """The processes, and what the framework sees."""

    def __init__(self, work_dir: Path, agents: int) -> None:
        self.work_dir = work_dir
        self.agents = agents
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.master: subprocess.Popen[bytes] | None = None
        self.counters: dict[str, float] = {}
        self.stream_id = self.framework_id = ""
        self.launched = self.running = 0
        self.calls_s: list[float] = []
        self.session: aiohttp.ClientSession | None = None

    # Processes

    def start_master(self) -> None:
        """Run the master; it keeps its registry from one run to the next."""
        program = Path(sys.executable).with_name("cairn-master")
        with (self.work_dir / "master.log").open("ab") as out:
            self.master = subprocess.Popen(
                [
                    str(program),
                    f"--work_dir={self.work_dir / 'registry'}",
                    "--ip=127.0.0.1",
                    "--hostname=localhost",
                    f"--port={self.port}",
                    "--log_level=warning",
                ],
                stdout=out,
                stderr=out,
            )

    def stop_master(self, number: int) -> None:
        """Send a signal and wait for the end."""
        if self.master is not None:
            self.master.send_signal(number)
            self.master.wait(30)

    def cpu_s(self) -> float:
        """CPU seconds of the master so far."""
        assert self.master is not None
        fields = Path(f"/proc/{self.master.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Private bytes of the master."""
        assert self.master is not None
        return private_bytes(self.master.pid)

    @contextlib.asynccontextmanager
    async def simulated(self) -> AsyncIterator[asyncio.StreamWriter]:
        """The agents, in a process of their own; its standard input is given."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cairn_core.testing.sim_agents",
            "--port", str(self.port), "--agents", str(self.agents),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        reading = asyncio.create_task(self._count(process.stdout))
        try:
            yield process.stdin
        finally:
            process.kill()
            await process.wait()
            reading.cancel()

    async def _count(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            self.counters = json.loads(line)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for something."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():  # noqa: ASYNC110 - counters come from elsewhere
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise CannotRun(f"not within {WAIT_S:g} s: {what} ({self.counters})") from None

    async def numbers(self) -> dict[str, float]:
        """`/metrics/snapshot`; empty while nobody answers."""
        assert self.session is not None
        try:
            async with self.session.get(f"{self.url}/metrics/snapshot") as answer:
                return dict(await answer.json()) if answer.status == 200 else {}
        except aiohttp.ClientError:
            return {}

    async def back(self, tasks: int) -> None:
        """Wait until the master has all agents and tasks."""
        async with asyncio.timeout(WAIT_S):
            while True:
                numbers = await self.numbers()
                if (
                    numbers.get("master/slaves_active") == self.agents
                    and numbers.get("master/tasks_running", 0) >= tasks
                ):
                    return
                await asyncio.sleep(0.25)

    # The framework

    async def subscribe(self, group: asyncio.TaskGroup) -> "asyncio.Task[None]":
        """Subscribe, or subscribe again; returns the task that reads events."""
        assert self.session is not None
        info: dict[str, Any] = {
            "user": "nobody", "name": "bench", "failover_timeout": 3600.0, "checkpoint": True,
            "roles": ["bench"], "capabilities": [{"type": "MULTI_ROLE"}],
        }  # fmt: skip
        call: dict[str, Any] = {"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}
        if self.framework_id:
            info["id"] = call["framework_id"] = {"value": self.framework_id}
        answer = await self.session.post(f"{self.url}/api/v1/scheduler", json=call)
        if answer.status != 200:
            raise CannotRun(f"subscribe: {answer.status} {await answer.text()}")
        self.stream_id = answer.headers["Mesos-Stream-Id"]
        return group.create_task(self._events(answer, group))

    async def _events(self, answer: aiohttp.ClientResponse, group: asyncio.TaskGroup) -> None:
        # read and handled apart, as frameworks do: who lets too much pile up is cut off
        decoder = Decoder()
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        handling = group.create_task(self._handle(events))
        with contextlib.suppress(aiohttp.ClientError):
            async for data in answer.content.iter_any():
                for record in decoder.feed(data):
                    events.put_nowait(json.loads(record))
        handling.cancel()

    async def _handle(self, events: "asyncio.Queue[dict[str, Any]]") -> None:
        with contextlib.suppress(aiohttp.ClientError):  # the master is killed in the end
            while True:
                await self._event(await events.get())

    async def _event(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "SUBSCRIBED":
                self.framework_id = event["subscribed"]["framework_id"]["value"]
            case "OFFERS":
                for offer in event["offers"]["offers"]:
                    await self._accept(offer)
            case "UPDATE":
                status = event["update"]["status"]
                if "uuid" in status:
                    self.running += 1
                    body = {key: status[key] for key in ("agent_id", "task_id", "uuid")}
                    await self.call("ACKNOWLEDGE", acknowledge=body)
                elif status["state"] in ("TASK_ERROR", "TASK_LOST"):
                    raise CannotRun(f"{status['state']}: {status.get('message')}")

    async def _accept(self, offer: dict[str, Any]) -> None:
        goal = self.agents * TASKS_PER_AGENT
        tasks = []
        ranges: list[dict[str, int]] = next(
            (r["ranges"]["range"] for r in offer["resources"] if "ranges" in r), []
        )
        free = [port for span in ranges for port in range(span["begin"], span["end"] + 1)]
        cpus = sum(r["scalar"]["value"] for r in offer["resources"] if r["name"] == "cpus")
        for port in free[: min(TASKS_PER_AGENT, goal - self.launched, int(cpus / 0.5))]:
            tasks.append(
                {
                    "name": "web.bench",
                    "task_id": {"value": f"web.{self.launched}"},
                    "agent_id": offer["agent_id"],
                    "command": {"value": "sleep 1000"},
                    "labels": {"labels": [{"key": "VIP_0", "value": "/web:80"}]},
                    "discovery": {"visibility": "FRAMEWORK", "name": "web"},
                    "resources": [
                        {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.5}},
                        {"name": "mem", "type": "SCALAR", "scalar": {"value": 128}},
                        {
                            "name": "ports",
                            "type": "RANGES",
                            "ranges": {"range": [{"begin": port, "end": port}]},
                        },
                    ],
                }
            )
            self.launched += 1
        ids = {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 3600}}
        if tasks:
            launch = {"type": "LAUNCH", "launch": {"task_infos": tasks}}
            await self.call("ACCEPT", accept={**ids, "operations": [launch]})
        else:
            await self.call("DECLINE", decline=ids)

    async def call(self, kind: str, **body: Any) -> None:
        """A call on our stream, timed."""
        assert self.session is not None
        call = {"type": kind, "framework_id": {"value": self.framework_id}, **body}
        began = time.perf_counter()
        headers = {"Mesos-Stream-Id": self.stream_id}
        async with self.session.post(
            f"{self.url}/api/v1/scheduler", json=call, headers=headers
        ) as answer:
            await answer.read()
            if answer.status != 202:
                raise CannotRun(f"{kind}: {answer.status} {await answer.text()}")
        self.calls_s.append(time.perf_counter() - began)


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    agents = 300 if quick else min(5000, hard - 1000)
    if agents < 100:
        raise CannotRun(f"only {hard} open files are allowed")
    work_dir = Path(tempfile.mkdtemp(prefix="cairn-bench-"))
    bench = _Bench(work_dir, agents)
    found: list[tuple[str, float, str, int]] = []
    try:
        asyncio.run(_measure(bench, found, load_s=8.0 if quick else 40.0))
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, CannotRun | TimeoutError | aiohttp.ClientError):
            raise
        raise CannotRun(f"{type(error).__name__} {error}") from None
    finally:
        bench.stop_master(signal.SIGKILL)
        shutil.rmtree(work_dir)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    case = f"{agents}x{agents * TASKS_PER_AGENT}"
    for metric, value, unit, n in found:
        yield Result("master", case, metric, value, unit, n)


async def _measure(bench: _Bench, found: list[tuple[str, float, str, int]], load_s: float) -> None:
    agents, tasks = bench.agents, bench.agents * TASKS_PER_AGENT
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=connector) as bench.session,
        asyncio.TaskGroup() as group,
    ):
        bench.start_master()
        await _up(bench)
        cpu, memory = bench.cpu_s(), bench.memory()
        async with bench.simulated() as control:
            await bench.until(lambda: bench.counters.get("registered") == agents, "agents")
            found.append(("register_cpu_s", bench.cpu_s() - cpu, "s", agents))
            found.append(("per_agent_bytes", (bench.memory() - memory) / agents, "B", agents))

            cpu, memory = bench.cpu_s(), bench.memory()
            events = await bench.subscribe(group)
            await bench.until(lambda: bench.running >= tasks, "running tasks")
            found.append(("launch_cpu_s", bench.cpu_s() - cpu, "s", tasks))
            found.append(("per_task_bytes", (bench.memory() - memory) / tasks, "B", tasks))

            await bench.until(lambda: bench.counters["acknowledged"] >= tasks, "quiet")
            control.write(f"rate {UPDATES_PER_S}\n".encode())
            await _load(bench, found, load_s)
            await _streams(bench, found)
            control.write(b"rate 0\n")

            bench.stop_master(signal.SIGKILL)
            await events
            bench.start_master()
            began = time.perf_counter()
            await bench.back(tasks)
            found.append(("return_s", time.perf_counter() - began, "s", agents))
            found.append(("return_cpu_s", bench.cpu_s(), "s", agents))
            found.append(("private_bytes", bench.memory(), "B", 1))
            lags = await bench.numbers()
            found.append(("return_lag_max_ms", lags["master/loop_lag_ms/max"], "ms", 1))


async def _up(bench: _Bench) -> None:
    """Wait until the master leads."""
    async with asyncio.timeout(30):
        while not (await bench.numbers()).get("master/elected"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _load(bench: _Bench, found: list[tuple[str, float, str, int]], load_s: float) -> None:
    """Readers and calls while updates go on."""
    times: list[float] = []
    refused = size = 0
    rng = Random(1)

    async def poll() -> None:
        nonlocal refused, size
        assert bench.session is not None
        await asyncio.sleep(rng.random())
        while True:
            began = time.perf_counter()
            got = 0
            async with bench.session.get(f"{bench.url}/state") as answer:
                async for data in answer.content.iter_any():
                    got += len(data)
            if answer.status == 200:
                times.append(time.perf_counter() - began)
                size = got
            else:
                refused += 1
            await asyncio.sleep(1.0)

    async def ask() -> None:
        while True:
            task = {"task_id": {"value": f"web.{rng.randrange(bench.launched)}"}}
            await bench.call("RECONCILE", reconcile={"tasks": [task]})
            await asyncio.sleep(0.02)

    bench.calls_s.clear()
    before = bench.counters["acknowledged"]
    cpu, began = bench.cpu_s(), time.perf_counter()
    working = [asyncio.create_task(poll()) for _ in range(POLLERS)]
    working.append(asyncio.create_task(ask()))
    done, _ = await asyncio.wait(working, timeout=load_s, return_when=asyncio.FIRST_EXCEPTION)
    spent = time.perf_counter() - began
    lags = await bench.numbers()
    for task in working:
        task.cancel()
    for task in done:
        task.result()
    calls = sorted(bench.calls_s)
    found += [
        ("call_p50_ms", calls[len(calls) // 2] * 1e3, "ms", len(calls)),
        ("call_p99_ms", calls[len(calls) * 99 // 100] * 1e3, "ms", len(calls)),
        ("lag_p999_ms", lags["master/loop_lag_ms/p999"], "ms", 1),
        ("lag_max_ms", lags["master/loop_lag_ms/max"], "ms", 1),
        ("state_p50_ms", sorted(times)[len(times) // 2] * 1e3 if times else 0.0, "ms", len(times)),
        ("state_bytes", size, "B", 1),
        ("state_refused", refused / max(1, refused + len(times)), "ratio", refused + len(times)),
        ("update_rate", (bench.counters["acknowledged"] - before) / spent, "1/s", 1),
        ("cpu_cores", (bench.cpu_s() - cpu) / spent, "cores", 1),
    ]


async def _streams(bench: _Bench, found: list[tuple[str, float, str, int]]) -> None:
    """Operators that subscribe all at once and read."""
    assert bench.session is not None
    before = bench.memory()
    first = asyncio.Event()
    got = 0

    async def read() -> None:
        nonlocal got
        assert bench.session is not None
        async with bench.session.post(f"{bench.url}/api/v1", json={"type": "SUBSCRIBE"}) as answer:
            beaten = False
            async for data in answer.content.iter_any():
                if not beaten and b'{"type":"HEARTBEAT"}' in data:
                    beaten = True
                    got += 1
                    if got == STREAMS:
                        first.set()

    reading = [asyncio.create_task(read()) for _ in range(STREAMS)]
    async with asyncio.timeout(WAIT_S):
        await first.wait()
    found.append(("stream_bytes", max(0, bench.memory() - before) / STREAMS, "B", STREAMS))
    for task in reading:
        task.cancel()
