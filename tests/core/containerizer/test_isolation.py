"""Isolators on the real kernel: groups, namespaces, mounts, users. Needs root."""

import os
import signal
from pathlib import Path

import pytest

from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.errors import ContainerizerError, LaunchFailed
from cairn_core.agent.containerizer.runtime_dir import RuntimeDir
from cairn_core.extensions import UNLIMITED, Amounts, ContainerConfig
from cairn_core.mesos.containers import ContainerInfo, LinuxInfo, Volume
from cairn_core.testing.containers import Site, until
from cairn_core.testing.requires import requires

pytestmark = pytest.mark.netns
ALL = "cgroups/cpu,cgroups/mem,filesystem/linux,namespaces/pid,namespaces/ipc,disk/du"


@pytest.fixture(autouse=True)
def root_and_groups() -> None:
    requires("root", "cgroup:memory", "cgroup:freezer")


def out(config: ContainerConfig, name: str = "stdout") -> str:
    return Path(config.sandbox, name).read_text()


async def test_a_container_sees_only_itself(site: Site, container_id: str) -> None:
    config = site.config(
        "id -un; ls /proc | grep -c '^[0-9]'; echo $$; ipcs -q | grep -c '^0x'; "
        "echo x > /dev/stderr",
        user="nobody",
        requests=Amounts(100, 64),
    )
    os.chown(config.sandbox, 65534, 65534)
    async with site.agent(ALL, linux=True) as agent:
        await agent.launch(container_id, config)
        end = await agent.wait(container_id)
    assert end.status == 0
    user, shown, pid, queues = out(config).split()
    assert (user, pid, queues) == ("nobody", "2", "0")
    assert int(shown) <= 4
    assert out(config, "stderr") == "x\n"
    assert Path(config.sandbox, "stdout").owner() == "nobody"
    assert site.groups_left() == set()


async def test_amounts_are_in_the_groups_and_can_be_updated(site: Site, container_id: str) -> None:
    config = site.config("exec sleep 1234", requests=Amounts(500, 64))
    flags = {"cgroups_enable_cfs": "true"}
    async with site.agent(ALL, linux=True, flags=flags) as agent:
        pid = await agent.launch(container_id, config)
        cgroups = site.cgroups()

        def shown() -> list[str]:
            return [
                cgroups.read(controller, container_id, name).strip()
                for controller, name in (
                    ("cpu", "cpu.shares"),
                    ("cpu", "cpu.cfs_quota_us"),
                    ("memory", "memory.soft_limit_in_bytes"),
                    ("memory", "memory.limit_in_bytes"),
                )
            ]

        assert shown() == ["512", "50000", str(64 << 20), str(64 << 20)]
        await agent.update(container_id, Amounts(2000, 128), None)
        assert shown() == ["2048", "200000", str(128 << 20), str(128 << 20)]
        await agent.update(container_id, Amounts(1, 48), None)
        assert shown() == ["2", "1000", str(48 << 20), str(128 << 20)]  # never lowered
        await agent.update(container_id, Amounts(1000, 48), Amounts(UNLIMITED, UNLIMITED))
        assert shown()[:2] == ["1024", "-1"]
        assert int(shown()[3]) > 1 << 60
        assert pid in cgroups.pids("memory", container_id)
        usage = await agent.usage(container_id)
        assert (usage.processes, usage.mem_soft_limit_bytes) == (2, 48 << 20)
        assert (usage.mem_total_bytes or 0) > 0
        await agent.destroy(container_id)
    assert site.groups_left() == set()


async def test_going_over_memory_is_a_limitation(site: Site, container_id: str) -> None:
    config = site.config("head -c 200m /dev/zero | tail", requests=Amounts(1000, 32))
    async with site.agent(ALL, linux=True) as agent:
        await agent.launch(container_id, config)
        end = await agent.wait(container_id)
    assert end.reason == "REASON_CONTAINER_LIMITATION_MEMORY"
    first, _, rest = end.message.partition("\n")
    assert first == "Memory limit exceeded: Requested: 32MB Maximum Used: 32MB"
    assert "MEMORY STATISTICS: " in rest
    assert end.limited == {"mem": 32000}
    assert site.groups_left() == set()


async def test_the_killer_striking_the_first_process_is_still_a_limitation(
    site: Site, container_id: str
) -> None:
    script = "exec /usr/bin/python3 -c 'x = bytearray(200 << 20)'"
    config = site.config(script, requests=Amounts(1000, 32))
    async with site.agent("cgroups/cpu,cgroups/mem", linux=True) as agent:
        await agent.launch(container_id, config)
        end = await agent.wait(container_id)
    assert end.reason == "REASON_CONTAINER_LIMITATION_MEMORY"
    assert os.WTERMSIG(end.status or 0) == signal.SIGKILL


async def test_going_over_disk_is_a_limitation_only_when_enforced(
    site: Site, container_id: str
) -> None:
    config = site.config("head -c 5m /dev/zero > big; sync; sleep 1234", requests=Amounts(1, 1, 2))
    flags = {"enforce_container_disk_quota": "true", "container_disk_watch_interval": "0.05"}
    async with site.agent("disk/du", linux=True, flags=flags) as agent:
        await agent.launch(container_id, config)
        end = await agent.wait(container_id)
    assert end.reason == "REASON_CONTAINER_LIMITATION_DISK"
    assert end.message.endswith("exceeds quota (2MB)")


async def test_volumes_are_mounted_and_nothing_leaks_out(site: Site, container_id: str) -> None:
    shared = site.root / "shared"
    shared.mkdir()
    (shared / "file").write_text("content")
    volumes = (
        Volume(mode="RO", container_path="in/side", host_path=str(shared)),
        Volume(mode="RW", container_path="/mnt", host_path=str(shared)),
    )
    config = site.config(
        "cat in/side/file; touch in/side/no 2>&1; touch /mnt/yes; exec sleep 1234",
        container=ContainerInfo(type="MESOS", volumes=volumes),
    )
    before = Path("/proc/self/mountinfo").read_text()
    async with site.agent(ALL, linux=True) as agent:
        await agent.launch(container_id, config)
        await until(lambda: (shared / "yes").exists())
        assert Path("/proc/self/mountinfo").read_text() == before
        await agent.destroy(container_id)
    assert out(config).startswith("content")
    assert "Read-only file system" in out(config)
    assert not (shared / "no").exists()


async def test_a_volume_that_leads_out_of_the_sandbox_is_refused(site: Site) -> None:
    volume = Volume(mode="RW", container_path="../../etc", host_path="/tmp")
    config = site.config("true", container=ContainerInfo(type="MESOS", volumes=(volume,)))
    async with site.agent(ALL, linux=True) as agent:
        with pytest.raises(LaunchFailed, match="leads out of the sandbox"):
            await agent.launch("x", config)
    assert site.groups_left() == set()


async def test_the_process_namespace_can_be_shared(site: Site, container_id: str) -> None:
    container = ContainerInfo(type="MESOS", linux_info=LinuxInfo(share_pid_namespace=True))
    config = site.config("readlink /proc/self/ns/pid", container=container)
    async with site.agent(ALL, linux=True) as agent:
        await agent.launch(container_id, config)
        await agent.wait(container_id)
    assert out(config).strip() == os.readlink("/proc/self/ns/pid")


async def test_what_forks_without_end_dies_at_once(site: Site, container_id: str) -> None:
    config = site.config("while :; do (setsid sleep 99 &); sleep 0.001; done")
    async with site.agent("cgroups/cpu,cgroups/mem", linux=True) as agent:
        await agent.launch(container_id, config)
        cgroups = site.cgroups()
        await until(lambda: len(cgroups.pids("freezer", container_id)) > 50)
        await agent.destroy(container_id)
        assert cgroups.exists("freezer", container_id) is False


async def test_helpers_live_beside_the_containers(site: Site, container_id: str) -> None:
    async with site.agent(ALL, linux=True) as agent:
        await agent.launch(container_id, site.config("exec sleep 1234"))
        found = RuntimeDir(site.runtime).processes(container_id)
        zygote = site.zygotes[0].pid()
        assert found is not None
        helpers = site.cgroups().pids("memory", "helpers")
        assert {zygote, found.monitor.pid} <= helpers
        assert found.init.pid not in helpers
        score = Path(f"/proc/{found.init.pid}/oom_score_adj").read_text()
        assert int(score) == 0
        await agent.destroy(container_id)


async def test_recovery_adopts_and_removes_orphans_with_their_groups(site: Site) -> None:
    kept, orphan, groups_only = (
        "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
        "22222222-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
        "33333333-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
    )
    async with site.agent(ALL, linux=True) as agent:
        for cid in (kept, orphan):
            await agent.launch(cid, site.config("exec sleep 1234", requests=Amounts(100, 64)))
    site.cgroups().create("freezer", groups_only)
    site.cgroups().create("freezer", "not-a-container")
    async with site.agent(ALL, linux=True) as agent:
        assert await agent.recover({kept: None}) == {orphan, groups_only}
        assert site.groups_left() == {kept, "not-a-container"}
        await agent.update(kept, Amounts(100, 128), None)
        end = await agent.destroy(kept)
        assert os.WTERMSIG(end.status or 0) == signal.SIGKILL
    assert site.groups_left() == {"not-a-container"}


async def test_a_dead_monitor_ends_the_container_and_leaves_nothing(
    site: Site, container_id: str
) -> None:
    async with site.agent("cgroups/cpu,cgroups/mem", linux=True) as agent:
        await agent.launch(container_id, site.config("setsid sleep 1234 & wait"))
        cgroups = site.cgroups()
        await until(lambda: len(cgroups.pids("freezer", container_id)) == 2)
        members = cgroups.pids("freezer", container_id)
        found = RuntimeDir(site.runtime).processes(container_id)
        assert found is not None
        os.kill(found.monitor.pid, signal.SIGKILL)
        assert (await agent.wait(container_id)).status is None
    for pid in members:
        stat = processes.read_stat(pid)
        assert stat is None or stat.state == "Z"
    assert site.groups_left() == set()


async def test_nested_containers_share_or_have_their_own_groups(
    site: Site, container_id: str
) -> None:
    own = ContainerInfo(type="MESOS", linux_info=LinuxInfo(share_cgroups=False))
    async with site.agent(ALL, linux=True) as agent:
        with pytest.raises(ContainerizerError, match="its parent does not run"):
            await agent.launch(f"{container_id}.child", site.config("true"))
        await agent.launch(container_id, site.config("exec sleep 1234", requests=Amounts(500, 64)))
        child = await agent.launch(f"{container_id}.child", site.config("exec sleep 1234"))
        other = await agent.launch(
            f"{container_id}.own",
            site.config("exec sleep 1234", container=own, requests=Amounts(100, 40)),
        )
        cgroups = site.cgroups()
        procs = cgroups.read("memory", container_id, "cgroup.procs").split()
        assert str(child) in procs
        assert str(other) not in procs
        nested = f"{container_id}/mesos/own"
        assert str(other) in cgroups.read("memory", nested, "cgroup.procs").split()
        assert cgroups.read("memory", nested, "memory.limit_in_bytes").strip() == str(40 << 20)
    async with site.agent(ALL, linux=True) as agent:
        known = [container_id, f"{container_id}.child", f"{container_id}.own"]
        assert await agent.recover(dict.fromkeys(known)) == set()
        await agent.destroy(f"{container_id}.child")
        assert set(agent.containers()) == {container_id, f"{container_id}.own"}
        await agent.destroy(container_id, "REASON_X", "ended")
        assert agent.containers() == {}
    assert site.groups_left() == set()
