"""Marathon over real HTTP: a master, a Marathon, and simulated agents whose tasks start at once.

    1x500       one app of 500 instances, from its PUT until all run; again for a rolling restart
    16x500      16 apps of 500, put one after the other, until all 8,000 run
    put-1000    seconds of a PUT that changes one of 1,000 apps

`cpu_ms_per_task` is the processor time of the master and of Marathon while the tasks came up.
`overshoot` is how many tasks there ever were above what was asked for; it must be 0.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.report import CannotRun, Result
from cairn_core.errors import Unavailable
from cairn_core.kit.http_client import HttpClient
from cairn_core.testing.simulated_agents import SimulatedAgents

AGENTS = 100
WAIT_S = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cluster:
    """The processes and what drives them."""

    http: HttpClient
    url: str
    agents: SimulatedAgents
    master: "subprocess.Popen[bytes]"
    marathon: "subprocess.Popen[bytes]"

    async def put(self, app: dict[str, Any]) -> None:
        """Create or replace an app."""
        reply = await self.http.request(
            "PUT", f"{self.url}/v2/apps{app['id']}?force=true", json=app
        )
        reply.expect()

    async def deployed(self) -> None:
        """Wait until no deployment is left."""
        async with asyncio.timeout(WAIT_S):
            while True:
                reply = await self.http.request("GET", f"{self.url}/v2/deployments")
                if not reply.expect().json(list[Any]):
                    return
                await asyncio.sleep(0.05)

    def cpu_s(self) -> tuple[float, float]:
        """Processor time that master and Marathon have used."""
        return _cpu_s(self.master.pid), _cpu_s(self.marathon.pid)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def run(quick: bool) -> Iterator[Result]:
    """The cases; quick: 4 apps of 250 and 200 apps in place of the large ones."""
    yield from asyncio.run(_run(quick))


async def _run(quick: bool) -> list[Result]:
    found: list[Result] = []
    many, size, apps = (4, 250, 200) if quick else (16, 500, 1000)
    async with _cluster() as cluster:
        found += await _one(cluster, size)
        found += await _many(cluster, many, size)
        found += await _puts(cluster, apps)
    return found


def _app(app_id: str, instances: int, cmd: str = "sleep 1000") -> dict[str, Any]:
    return {"id": app_id, "cmd": cmd, "cpus": 0.1, "mem": 32, "instances": instances}


async def _one(cluster: Cluster, size: int) -> list[Result]:
    case, agents = f"1x{size}", cluster.agents
    seconds, cpu = await _timed(cluster, [_app("/one", size)])
    out = [
        Result("marathon", case, "running_s", seconds, "s"),
        *_costs(case, cpu, size),
        Result("marathon", case, "overshoot", float(agents.most - size), "tasks"),
    ]
    agents.most = len(agents.running)
    seconds, _ = await _timed(cluster, [_app("/one", size, "sleep 2000")])
    out.append(Result("marathon", case, "rolling_restart_s", seconds, "s"))
    out.append(
        Result("marathon", case, "overshoot_restart", float(agents.most - 2 * size), "tasks")
    )
    await _timed(cluster, [_app("/one", 0)])
    agents.most = len(agents.running)
    return out


async def _many(cluster: Cluster, many: int, size: int) -> list[Result]:
    case, agents = f"{many}x{size}", cluster.agents
    seconds, cpu = await _timed(cluster, [_app(f"/many/app{n}", size) for n in range(many)])
    total = many * size
    out = [
        Result("marathon", case, "running_s", seconds, "s"),
        *_costs(case, cpu, total),
        Result("marathon", case, "overshoot", float(agents.most - total), "tasks"),
    ]
    if len(agents.running) != total:
        raise CannotRun(f"{len(agents.running)} tasks run, not {total}")
    await _timed(cluster, [_app(f"/many/app{n}", 0) for n in range(many)])
    return out


async def _puts(cluster: Cluster, apps: int) -> list[Result]:
    """PUTs of one app among many, of its configuration and without instances to wait for."""
    group = {"id": "/idle", "apps": [_app(f"/idle/app{n}", 0) for n in range(apps)]}
    reply = await cluster.http.request(
        "PUT", f"{cluster.url}/v2/groups/idle?force=true", json=group
    )
    reply.expect()
    await cluster.deployed()
    times = []
    for n in range(50):
        start = time.perf_counter()
        await cluster.put(_app(f"/idle/app{n}", 0, f"sleep {n}"))
        times.append(time.perf_counter() - start)
    case = f"put-{apps}"
    return [
        Result("marathon", case, "median_ms", median(times) * 1000, "ms", len(times)),
        Result("marathon", case, "max_ms", max(times) * 1000, "ms", len(times)),
    ]


async def _timed(cluster: Cluster, apps: list[dict[str, Any]]) -> tuple[float, tuple[float, float]]:
    """Seconds until apps are as put, and the processor time of both daemons meanwhile."""
    before, start = cluster.cpu_s(), time.perf_counter()
    for app in apps:
        await cluster.put(app)
    await cluster.deployed()
    seconds, after = time.perf_counter() - start, cluster.cpu_s()
    return seconds, (after[0] - before[0], after[1] - before[1])


def _costs(case: str, cpu: tuple[float, float], tasks: int) -> list[Result]:
    return [
        Result("marathon", case, f"cpu_ms_per_task_{who}", seconds * 1000 / tasks, "ms")
        for who, seconds in zip(("master", "marathon"), cpu, strict=True)
    ]


@asynccontextmanager
async def _cluster() -> AsyncIterator[Cluster]:
    """Start everything on free ports of the loopback; end it, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        at = Path(folder)
        master_port, port = _free_port(), _free_port()
        common = ["--log-level", "warning"]
        master = _start(
            at / "master.log", "cairn_core.master.cli",
            "--ip", "127.0.0.1", "--hostname", "127.0.0.1", "--port", str(master_port),
            "--work-dir", str(at / "master"), *common,
        )  # fmt: skip
        marathon = _start(
            at / "marathon.log", "cairn_scheduler.marathon.cli",
            "--master", f"127.0.0.1:{master_port}", "--hostname", "127.0.0.1",
            "--http-address", "127.0.0.1", "--http-port", str(port),
            "--work-dir", str(at / "marathon"), *common,
        )  # fmt: skip
        url, master_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{master_port}"
        try:
            async with HttpClient(total_s=60.0) as http:
                await _answers(http, f"{master_url}/ready", at / "master.log")
                await _answers(http, f"{url}/ready", at / "marathon.log")
                async with SimulatedAgents(master_url, count=AGENTS) as agents:
                    await agents.registered()
                    yield Cluster(http, url, agents, master, marathon)
        finally:
            for process in (marathon, master):
                process.send_signal(signal.SIGTERM)
            for process in (marathon, master):
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _start(log: Path, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=stream, stderr=stream
        )


async def _answers(http: HttpClient, url: str, log: Path) -> None:
    try:
        async with asyncio.timeout(20.0):
            while True:
                try:
                    if (await http.request("GET", url)).ok:
                        return
                except Unavailable:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        text = log.read_text(errors="replace").strip().splitlines()
        raise CannotRun(f"{url} does not answer: {text[-1] if text else 'no output'}") from None


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
