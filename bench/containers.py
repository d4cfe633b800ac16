"""What a container costs to launch, to keep and to end, beside runc; restarting its agent.

Real processes under the isolators cgroups/cpu, cgroups/mem, filesystem/linux, namespaces/pid and
namespaces/ipc. Needs root, version 1 control groups and runc (which gets the same namespaces and
limits and has no isolator, sandbox log or waiting parent). Launches one after the other; ends all
at once, runc's by as many callers as there are processors. Cases:

    sleep        the command is sleep(1); this is what runc is measured with as well
    forked       the command executor, forked from the zygote, as an agent does for a task
    started      the command executor as a Python of its own
    restart      an agent ends, and another takes over all containers of the case `sleep`

Executors have no agent to talk to and try to reach one, as after a crash. Processor time is that
of agent, helpers and containers; runc's is without that of its caller.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from time import perf_counter

from bench.report import CannotRun, Result
from bench.runc import Runc, private_kb
from cairn_core.agent.containerizer.containerizer import Containerizer
from cairn_core.agent.containerizer.processes import descendants, is_running
from cairn_core.agent.containerizer.runtime_dir import RuntimeDir
from cairn_core.extensions import Amounts, ContainerConfig
from cairn_core.testing.containers import Site

ISOLATION = "cgroups/cpu,cgroups/mem,filesystem/linux,namespaces/pid,namespaces/ipc"
ENTRY = "cairn_core.executor.command:main"
EXECUTOR = Path(sys.modules["cairn_core"].__path__[0]) / "executor" / "__main__.py"
MEM_MIB = 64
ENVIRONMENT = {
    "MESOS_FRAMEWORK_ID": "f",
    "MESOS_EXECUTOR_ID": "e",
    "MESOS_AGENT_ENDPOINT": "127.0.0.1:1",
    "MESOS_CHECKPOINT": "1",
}


def used_s(site: Site) -> float:
    """Processor seconds of this process, and of all that the site's groups ever held."""
    usage = site.cgroups().read("cpuacct", "", "cpuacct.usage")
    own = os.times()
    return int(usage) / 1e9 + own.user + own.system


@asynccontextmanager
async def agent_of(site: Site) -> AsyncIterator[Containerizer]:
    """One life of an agent."""
    async with site.agent(ISOLATION, linux=True, preload=(ENTRY.partition(":")[0],)) as agent:
        yield agent


def config_of(site: Site, case: str) -> ContainerConfig:
    """What the case launches."""
    argv = {
        "sleep": ("/bin/sleep", "12345"),
        "started": (sys.executable, "-I", "-S", str(EXECUTOR)),
    }
    return ContainerConfig(
        sandbox=site.sandbox(), argv=argv.get(case, ()), environment=ENVIRONMENT,
        requests=Amounts(100, MEM_MIB), entry="" if case in argv else ENTRY,
    )  # fmt: skip


async def measure(site: Site, case: str, count: int) -> list[Result]:
    """Launch, look, end."""
    found: list[Result] = []

    def tell(metric: str, value: float, unit: str, of: str = case) -> None:
        found.append(Result("containers", of, metric, value, unit, count))

    async with agent_of(site) as agent:
        first = str(uuid.uuid4())
        await agent.launch(first, config_of(site, case))  # starts the zygote
        await agent.destroy(first)
        used, start = used_s(site), perf_counter()
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for cid in ids:
            await agent.launch(cid, config_of(site, case))
        tell("launch_ms", (perf_counter() - start) * 1000 / count, "ms")
        tell("launch_cpu_ms", (used_s(site) - used) * 1000 / count, "ms")
        written = RuntimeDir(site.runtime)
        pairs = [pair for cid in ids if (pair := written.processes(cid)) is not None]
        monitors = sum(private_kb(pair.monitor.pid) for pair in pairs)
        inside = descendants(pair.init.pid for pair in pairs)
        containers = sum(private_kb(pid) for pid in inside)
        tell("monitor_private_kb", monitors / count, "kB")
        tell("container_private_kb", containers / count, "kB")
    again = perf_counter()
    async with agent_of(site) as agent:
        await agent.recover(dict.fromkeys(ids))
        if case == "sleep":
            tell("restart_ms", (perf_counter() - again) * 1000, "ms", "restart")
            lost = count - sum(is_running(pair.init) for pair in pairs)
            tell("killed", lost, "containers", "restart")
        used, start = used_s(site), perf_counter()
        await asyncio.gather(*(agent.destroy(cid) for cid in ids))
        tell("destroy_ms", (perf_counter() - start) * 1000 / count, "ms")
        tell("destroy_cpu_ms", (used_s(site) - used) * 1000 / count, "ms")
    return found


def run(quick: bool) -> Iterator[Result]:
    """All cases."""
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/cpuacct").is_dir():
        raise CannotRun("needs root and version 1 control groups")
    if shutil.which("runc") is None:
        raise CannotRun("needs runc to compare with (apt-get install runc)")
    count = 30 if quick else 500
    for case in ("sleep", "forked", "started"):
        with new_site() as site:
            yield from asyncio.run(measure(site, case, count))
        if case == "sleep":
            with new_site() as site, closing(Runc(site)) as runc:
                yield from runc.measure(count)


@contextmanager
def new_site() -> Iterator[Site]:
    """A site that leaves nothing behind."""
    with tempfile.TemporaryDirectory() as root:
        site = Site(Path(root), f"cairn-bench-{uuid.uuid4().hex[:12]}")
        try:
            yield site
        finally:
            site.close()
