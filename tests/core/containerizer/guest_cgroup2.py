"""What runs in the guest of test_guest.py: real containers under version 2 control groups.

Started there as `python -m guest_cgroup2 DESCRIPTOR`; writes one JSON object per finding.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.cgroups import CgroupError, Cgroups, own_group
from cairn_core.agent.containerizer.errors import LaunchFailed
from cairn_core.agent.containerizer.runtime_dir import ContainerTermination
from cairn_core.extensions import UNLIMITED, Amounts, ContainerConfig
from cairn_core.mesos.containers import ContainerInfo, LinuxInfo
from cairn_core.testing.containers import Site, until

MOUNT = Path("/sys/fs/cgroup")
#: As a service manager would make it: the agent is started in it, its containers live below.
DELEGATED = "delegated"
ROOT = f"{DELEGATED}/cairn"
ALL = "cgroups/cpu,cgroups/mem,filesystem/linux,namespaces/pid,namespaces/ipc"
CFS = {"cgroups_enable_cfs": "true"}
#: Takes memory until it is killed, in a process that is not the container's first.
EATER = "/usr/bin/head -c 200m /dev/zero | /usr/bin/tail; echo survived; exec sleep 1234"


def new_id() -> str:
    return str(uuid.uuid4())


class Findings:
    """The report."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, name: str, **facts: Any) -> None:
        line = json.dumps({"name": name, "at": round(time.monotonic(), 2), **facts})
        os.write(self._descriptor, line.encode() + b"\n")


def shown(end: ContainerTermination) -> dict[str, Any]:
    return {
        "status": end.status,
        "reason": end.reason,
        "message": end.message.partition("\n")[0],
        "statistics": "MEMORY STATISTICS" in end.message,
        "limited": end.limited,
    }


def control_files(cgroups: Cgroups, container_id: str) -> dict[str, str]:
    names = {"cpu": ("cpu.weight", "cpu.max"), "memory": ("memory.low", "memory.max")}
    return {
        name: cgroups.read(controller, container_id, name).strip()
        for controller, files in names.items()
        for name in files
    }


async def machine(site: Site, findings: Findings) -> None:
    """What is mounted, and where the agent ends up when started in a group that holds ours."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    kinds = {line.split(" - ")[1].split()[0] for line in mounts}
    group = MOUNT / DELEGATED
    group.mkdir()
    (group / "cgroup.procs").write_text("0")
    before = own_group()
    async with site.agent(ALL, linux=True, flags=CFS):
        pass
    findings.tell(
        "machine",
        release=os.uname().release,
        cgroup_mounts=sorted(kind for kind in kinds if kind.startswith("cgroup")),
        before=before,
        after=own_group(),
        left_behind=(group / "cgroup.procs").read_text().split(),
        handed_down=(group / "cgroup.subtree_control").read_text().split(),
    )


async def occupied(site: Site, findings: Findings) -> None:
    """Another process sits in a group above the root: an error that names the group."""
    group = MOUNT / "occupied"
    group.mkdir()
    process = await asyncio.create_subprocess_exec("/bin/sleep", "1234")
    (group / "cgroup.procs").write_text(str(process.pid))
    error = ""
    try:
        async with Site(site.root / "occupied", "occupied/cairn").agent(ALL, linux=True):
            pass
    except CgroupError as raised:
        error = str(raised)
    process.kill()
    await process.wait()
    findings.tell("occupied", error=error)


async def amounts(site: Site, findings: Findings) -> None:
    """Control files after launch and update, where the processes are, the processor quota."""
    busy = site.config("while :; do :; done", requests=Amounts(200, 64), user="nobody")
    os.chown(busy.sandbox, 65534, 65534)
    cid = new_id()
    async with site.agent(ALL, linux=True, flags=CFS) as agent:
        pid = await agent.launch(cid, busy)
        cgroups = site.cgroups()
        launched = control_files(cgroups, cid)
        start = time.monotonic()
        await until(lambda: cgroups.table("cpu", cid, "cpu.stat").get("nr_throttled", 0) >= 5)
        usage = await agent.usage(cid)
        took = time.monotonic() - start
        held = [
            str(path.parent.relative_to(MOUNT))
            for path in (MOUNT / ROOT).rglob("cgroup.procs")
            if str(pid) in path.read_text().split()
        ]
        zygote = site.zygotes[-1].pid()
        await agent.update(cid, Amounts(1000, 128), None)
        raised = control_files(cgroups, cid)
        await agent.update(cid, Amounts(1, 48), None)
        lowered = control_files(cgroups, cid)
        await agent.update(cid, Amounts(1, 48), Amounts(UNLIMITED, UNLIMITED))
        unlimited = control_files(cgroups, cid)
        findings.tell(
            "amounts",
            launched=launched,
            raised=raised,
            lowered=lowered,
            unlimited=unlimited,
            cid=cid,
            held=held,
            zygote=Path(f"/proc/{zygote}/cgroup").read_text().strip(),
            seconds=took,
            usage={
                name: getattr(usage, name)
                for name in (
                    "processes", "cpus_user_time_secs", "cpus_nr_throttled",
                    "cpus_throttled_time_secs", "mem_total_bytes", "mem_limit_bytes",
                    "mem_soft_limit_bytes", "mem_anon_bytes",
                )
            },
        )  # fmt: skip
        await agent.destroy(cid)


async def memory(site: Site, findings: Findings) -> None:
    """The killer strikes a child, the first process, and a nested container with own groups."""
    async with site.agent(ALL, linux=True) as agent:
        child = new_id()
        await agent.launch(child, site.config(EATER, requests=Amounts(1000, 32)))
        start = time.monotonic()
        findings.tell("killed child", **shown(await agent.wait(child)))
        findings.tell("killed child noticed", seconds=time.monotonic() - start)
    async with site.agent("cgroups/cpu,cgroups/mem", linux=True) as agent:
        script = "exec /usr/bin/python3 -IS -c 'x = bytearray(200 << 20)'"
        first = new_id()
        await agent.launch(first, site.config(script, requests=Amounts(1000, 32)))
        findings.tell("killed first process", **shown(await agent.wait(first)))

        parent = new_id()
        await agent.launch(parent, site.config("exec sleep 1234", requests=Amounts(500, 128)))
        nested = f"{parent}.{new_id()}"
        own = ContainerInfo(type="MESOS", linux_info=LinuxInfo(share_cgroups=False))
        config = site.config(EATER, requests=Amounts(500, 32), container=own)
        await agent.launch(nested, config)
        end = await agent.wait(nested)
        events = site.cgroups().table("memory", parent, "memory.events")
        findings.tell(
            "killed nested",
            parent_running=parent in agent.containers(),
            parent_counts=events["oom_kill"],
            **shown(end),
        )
        ended = await agent.destroy(parent)
        findings.tell("parent destroyed", **shown(ended))


async def destruction(site: Site, findings: Findings) -> None:
    """Destroy what forks without end; nothing is left, and the next agent finds its own."""
    cid, kept = new_id(), new_id()
    # A session of its own for each, so that only the group knows them all.
    bomb = "while :; do (sleep 1234 &) ; echo x; sleep 0.01; done"
    async with site.agent("cgroups/cpu,cgroups/mem", linux=True) as agent:
        await agent.launch(cid, site.config(bomb, requests=Amounts(500, 64)))
        stays = site.config("exec sleep 1234", requests=Amounts(500, 64))
        pid = await agent.launch(kept, stays)
        members = await until(
            lambda: found if len(found := site.cgroups().pids("", cid)) > 10 else None
        )
        has_kill = (site.cgroups().path("", cid) / "cgroup.kill").exists()
        await agent.destroy(cid)
        alive = [p for p in members if (s := processes.read_stat(p)) and s.state not in "ZX"]
        findings.tell(
            "destroyed",
            members=len(members),
            alive=alive,
            has_kill=has_kill,
            left=sorted(site.groups_left() - {kept}),
        )
        stranger = new_id()
        await agent.launch(stranger, site.config("exec sleep 1234", requests=Amounts(500, 64)))
    async with site.agent("cgroups/cpu,cgroups/mem", linux=True) as agent:
        strangers = await agent.recover({kept: None})
        findings.tell(
            "recovered",
            stranger_gone=stranger in strangers and kept not in strangers,
            kept=list(agent.containers()) == [kept],
            same_process=processes.read_stat(pid) is not None,
        )
        await agent.destroy(kept)
        refused = ""
        try:
            wrong = ContainerConfig(site.sandbox(), argv=("/no/such/program",))
            await agent.launch(new_id(), wrong)
        except LaunchFailed as error:
            refused = str(error)
        findings.tell("after all", left=sorted(site.groups_left()), refused=refused)


async def main(findings: Findings) -> None:
    site = Site(Path("/var/cairn"), ROOT)
    site.root.mkdir()
    await machine(site, findings)
    await occupied(site, findings)
    await amounts(site, findings)
    await memory(site, findings)
    await destruction(site, findings)


if __name__ == "__main__":
    asyncio.run(main(Findings(int(sys.argv[1]))))
