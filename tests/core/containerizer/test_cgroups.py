"""Control groups: where they are mounted, and version 2 on a tree of plain files."""

from pathlib import Path

import pytest

from cairn_core.agent.containerizer.cgroups import CgroupError, Cgroups, Hierarchies, parse_mounts
from cairn_core.agent.containerizer.isolators.cgroups_cpu import (
    CgroupsCpu,
    quota_us,
    shares,
    weight,
)
from cairn_core.agent.containerizer.isolators.cgroups_mem import CgroupsMem
from cairn_core.errors import LocalError
from cairn_core.extensions import UNLIMITED, AgentSettings, Amounts, ContainerConfig

HYBRID = """\
20 1 0:20 / /proc rw,relatime - proc proc rw
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:27 / /somewhere/else rw - cgroup cgroup rw,memory
nonsense
"""
CID = "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa"


def test_mounts_of_a_hybrid_host() -> None:
    assert parse_mounts(HYBRID) == Hierarchies(
        v1={
            "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
            "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
            "memory": Path("/sys/fs/cgroup/memory"),
            "name=systemd": Path("/sys/fs/cgroup/systemd"),
        },
        v2=Path("/sys/fs/cgroup/unified"),
    )


@pytest.mark.parametrize(
    ("cpus_milli", "values"),
    [
        (1000, (1024, 100, 100_000)),
        (100, (102, 10, 10_000)),
        (1, (2, 1, 1000)),
        (200_000, (204_800, 10_000, 20_000_000)),
    ],
)
def test_processor_amounts_as_the_original_computes_them(
    cpus_milli: int, values: tuple[int, int, int]
) -> None:
    assert (shares(cpus_milli), weight(cpus_milli), quota_us(cpus_milli)) == values


@pytest.fixture
def unified(tmp_path: Path) -> Cgroups:
    controllers = frozenset({"cpu", "memory", "pids"})
    return Cgroups(Hierarchies(v2=tmp_path, v2_controllers=controllers), "cairn/host")


async def test_version_2_amounts(unified: Cgroups, tmp_path: Path) -> None:
    settings = AgentSettings("/r", "/w", flags={"cgroups_enable_cfs": "true"})
    cpu, mem = CgroupsCpu(settings, unified), CgroupsMem(settings, unified)
    config = ContainerConfig(sandbox="/s", argv=("x",), requests=Amounts(500, 64))
    for isolator in (cpu, mem):
        await isolator.prepare(CID, config)
        await isolator.isolate(CID, 4711)
    group = tmp_path / "cairn/host" / CID

    def shown() -> list[str]:
        names = ("cpu.weight", "cpu.max", "memory.low", "memory.max")
        return [(group / name).read_text() for name in names]

    assert shown() == ["50", "50000 100000", str(64 << 20), str(64 << 20)]
    assert (group / "leaf/cgroup.procs").read_text() == "4711"
    for parent in (tmp_path, tmp_path / "cairn", tmp_path / "cairn/host", group):
        assert (parent / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    await mem.update(CID, Amounts(500, 32), None)
    assert shown()[2:] == [str(32 << 20), str(64 << 20)]  # never lowered while it runs
    for isolator in (cpu, mem):
        await isolator.update(CID, Amounts(500, 32), Amounts(UNLIMITED, UNLIMITED))
    assert shown()[1::2] == ["max 100000", "max"]


async def test_version_2_usage_and_the_killer(unified: Cgroups, tmp_path: Path) -> None:
    settings = AgentSettings("/r", "/w")
    cpu, mem = CgroupsCpu(settings, unified), CgroupsMem(settings, unified)
    config = ContainerConfig(sandbox="/s", argv=("x",), requests=Amounts(500, 64))
    await cpu.prepare(CID, config)
    await mem.prepare(CID, config)
    group = tmp_path / "cairn/host" / CID
    for name, text in {
        "cpu.stat": "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n",
        "memory.current": "1000\n",
        "memory.stat": "anon 600\nfile 300\nfile_mapped 20\nunevictable 0\n",
        "memory.events": "low 0\noom 1\noom_kill 0\n",
        "memory.peak": f"{60 << 20}\n",
    }.items():
        (group / name).write_text(text)
    assert await cpu.usage(CID) == {
        "processes": 0, "cpus_user_time_secs": 2.0, "cpus_system_time_secs": 1.0,
    }  # fmt: skip
    usage = await mem.usage(CID)
    assert (usage["mem_total_bytes"], usage["mem_rss_bytes"]) == (1000, 600)
    assert usage["mem_limit_bytes"] == 64 << 20
    assert await mem.limitation(CID) is None
    (group / "memory.events").write_text("oom_kill 2\n")  # of a nested container's own group
    assert await mem.limitation(CID) is None
    (group / "leaf/memory.events").write_text("oom_kill 2\n")
    limitation = await mem.limitation(CID)
    assert limitation is not None
    assert limitation.reason == "REASON_CONTAINER_LIMITATION_MEMORY"
    assert limitation.message.startswith(
        "Memory limit exceeded: Requested: 64MB Maximum Used: 60MB\n"
    )
    assert limitation.resources == {"mem": 64_000}


def test_a_missing_controller_is_named() -> None:
    nothing = Cgroups(Hierarchies(), "x")
    with pytest.raises(LocalError, match="cgroups/mem: no hierarchy has the memory controller"):
        CgroupsMem(AgentSettings("/r", "/w"), nothing)
    with pytest.raises(CgroupError, match="cpu: not mounted"):
        nothing.path("cpu", "x")
    assert nothing.groups("cpu") == set()


def test_killing_in_version_2_is_one_write(unified: Cgroups, tmp_path: Path) -> None:
    unified.create("", CID)
    kill = tmp_path / "cairn/host" / CID / "cgroup.kill"
    kill.write_text("")
    unified.kill("", CID)
    assert kill.read_text() == "1"
