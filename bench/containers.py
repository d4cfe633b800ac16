"""Launching containers with the command executor in them, and what each one costs while it runs.

Real processes under the isolators cgroups/cpu, cgroups/mem, filesystem/linux, namespaces/pid and
namespaces/ipc; the executors have no agent to talk to and try to reach one, as after a crash.
Needs root and version 1 control groups. Cases:

    forked       the executor is forked from the zygote, as an agent does
    started      the executor is a Python of its own
"""

import asyncio
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from bench.report import CannotRun, Result
from cairn_core.agent.containerizer.processes import descendants
from cairn_core.agent.containerizer.runtime_dir import RuntimeDir
from cairn_core.extensions import Amounts, ContainerConfig
from cairn_core.testing.containers import Site

ISOLATION = "cgroups/cpu,cgroups/mem,filesystem/linux,namespaces/pid,namespaces/ipc"
ENTRY = "cairn_core.executor.command:main"
EXECUTOR = Path(sys.modules["cairn_core"].__path__[0]) / "executor" / "__main__.py"
ENVIRONMENT = {
    "MESOS_FRAMEWORK_ID": "f",
    "MESOS_EXECUTOR_ID": "e",
    "MESOS_AGENT_ENDPOINT": "127.0.0.1:1",
    "MESOS_CHECKPOINT": "1",
}


def private_kb(pid: int) -> int:
    """Memory that a process shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def used_s(site: Site) -> float:
    """Processor seconds of this process, and of all that the site's groups ever held."""
    usage = site.cgroups().read("cpuacct", "", "cpuacct.usage")
    own = os.times()
    return int(usage) / 1e9 + own.user + own.system


async def measure(site: Site, forked: bool, count: int) -> list[tuple[str, float, str]]:
    """Metric, value and unit."""
    found: list[tuple[str, float, str]] = []
    async with site.agent(ISOLATION, linux=True, preload=(ENTRY.partition(":")[0],)) as agent:

        async def launch() -> str:
            argv = () if forked else (sys.executable, "-I", "-S", str(EXECUTOR))
            config = ContainerConfig(
                sandbox=site.sandbox(), argv=argv, environment=ENVIRONMENT,
                requests=Amounts(100, 64), entry=ENTRY if forked else "",
            )  # fmt: skip
            cid = str(uuid.uuid4())
            await agent.launch(cid, config)
            return cid

        await launch()  # starts the zygote
        used, start = used_s(site), perf_counter()
        ids = [await launch() for _ in range(count)]
        found.append(("launch_ms", (perf_counter() - start) * 1000 / count, "ms"))
        found.append(("cpu_ms", (used_s(site) - used) * 1000 / count, "ms"))
        written = RuntimeDir(site.runtime)
        pairs = [pair for cid in ids if (pair := written.processes(cid)) is not None]
        monitors = sum(private_kb(pair.monitor.pid) for pair in pairs)
        inside = descendants(pair.init.pid for pair in pairs)
        containers = sum(private_kb(pid) for pid in inside)
        found.append(("monitor_private_kb", monitors / count, "kB"))
        found.append(("container_private_kb", containers / count, "kB"))
        start = perf_counter()
        await asyncio.gather(*(agent.destroy(cid) for cid in list(agent.containers())))
        found.append(("destroy_ms", (perf_counter() - start) * 1000 / (count + 1), "ms"))
    return found


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/cpuacct").is_dir():
        raise CannotRun("needs root and version 1 control groups")
    count = 50 if quick else 500
    for case, forked in (("forked", True), ("started", False)):
        with tempfile.TemporaryDirectory() as root:
            site = Site(Path(root), f"cairn-bench-{uuid.uuid4().hex[:12]}")
            try:
                for metric, value, unit in asyncio.run(measure(site, forked, count)):
                    yield Result("containers", case, metric, round(value, 3), unit, count)
            finally:
                site.close()
