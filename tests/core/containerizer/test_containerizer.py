"""Containers as any user: launch, end, destroy, recovery. No cgroups, no namespaces."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.errors import (
    ContainerizerError,
    LaunchFailed,
    UnknownContainer,
)
from cairn_core.agent.containerizer.launch_spec import LoggerSettings
from cairn_core.agent.containerizer.runtime_dir import RuntimeDir
from cairn_core.extensions import ContainerConfig
from cairn_core.testing.containers import Site, until


async def test_a_container_runs_and_its_status_is_known(site: Site, container_id: str) -> None:
    config = site.config('echo "$PATH $A"; pwd; exit 3', environment={"A": "b"})
    async with site.agent() as agent:
        assert await agent.launch(container_id, config) > 0
        end = await agent.wait(container_id)
    assert os.waitstatus_to_exitcode(end.status or 0) == 3
    assert end.reason is None
    assert Path(config.sandbox, "stdout").read_text().split("\n") == [
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin b", config.sandbox, "",
    ]  # fmt: skip


async def test_nothing_of_the_agent_leaks_in(site: Site, container_id: str) -> None:
    os.environ["CAIRN_TEST_LEAK"] = "1"
    config = site.config("env; ls -l /proc/self/fd; umask; cat /proc/self/status | grep Sig")
    try:
        async with site.agent() as agent:
            await agent.launch(container_id, config)
            await agent.wait(container_id)
    finally:
        del os.environ["CAIRN_TEST_LEAK"]
    text = Path(config.sandbox, "stdout").read_text()
    assert "CAIRN_TEST_LEAK" not in text
    assert "socket" not in text
    assert "0022" in text
    assert "SigIgn:\t0000000000000000" in text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("/nonexistent/program",), "cannot execute /nonexistent/program: No such file"),
        (("/etc/passwd",), "cannot execute /etc/passwd: Permission denied"),
    ],
)
async def test_a_command_that_cannot_be_executed_fails_the_launch(
    site: Site, container_id: str, argv: tuple[str, ...], said: str
) -> None:
    async with site.agent() as agent:
        with pytest.raises(LaunchFailed, match=said):
            await agent.launch(container_id, ContainerConfig(sandbox=site.sandbox(), argv=argv))
        end = await agent.wait(container_id)
        assert end.reason == "REASON_CONTAINER_LAUNCH_FAILED"
        assert agent.containers() == {}


async def test_unknown_user_and_missing_sandbox_fail_the_launch(site: Site) -> None:
    async with site.agent() as agent:
        with pytest.raises(LaunchFailed, match="no such user on this agent: 'nobody-here'"):
            await agent.launch("a", site.config("true", user="nobody-here"))
        with pytest.raises(LaunchFailed, match="No such file"):
            await agent.launch("b", ContainerConfig(sandbox="/nonexistent/x", argv=("true",)))


async def test_destroy_kills_everything_also_what_left_the_session(
    site: Site, container_id: str
) -> None:
    config = site.config("setsid sleep 1234 & sleep 1234 & trap '' TERM; echo up; wait")
    async with site.agent() as agent:
        pid = await agent.launch(container_id, config)
        await until(lambda: len(processes.descendants([pid])) == 3)
        members = processes.descendants([pid])
        first, second = await asyncio.gather(
            agent.destroy(container_id, "REASON_X", "because"), agent.destroy(container_id)
        )
        assert first == second == await agent.wait(container_id)
        assert (first.reason, first.message) == ("REASON_X", "because")
        assert os.WTERMSIG(first.status or 0) == signal.SIGKILL
    assert not [pid for pid in members if processes.read_stat(pid)]


async def test_what_a_container_leaves_behind_is_killed(site: Site, container_id: str) -> None:
    config = site.config("setsid sleep 1234 & echo $!")
    async with site.agent() as agent:
        await agent.launch(container_id, config)
        end = await agent.wait(container_id)
    assert end.status == 0
    left = int(Path(config.sandbox, "stdout").read_text())
    assert processes.read_stat(left) is None


async def test_ids_are_used_once_and_unknown_ones_are_named(site: Site, container_id: str) -> None:
    async with site.agent() as agent:
        await agent.launch(container_id, site.config("true"))
        with pytest.raises(ContainerizerError, match="already launched"):
            await agent.launch(container_id, site.config("true"))
        for bad in ("../x", "a b", "", "a" * 300, "a/b"):
            with pytest.raises(ContainerizerError, match="not usable"):
                await agent.launch(bad, site.config("true"))
        with pytest.raises(UnknownContainer):
            await agent.wait("nobody")
        await agent.wait(container_id)
        agent.forget(container_id)
        assert not Path(site.runtime, "containers", container_id).exists()


async def test_output_is_rotated_and_no_line_is_lost(site: Site, container_id: str) -> None:
    config = site.config(
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done",
        environment={
            "CONTAINER_LOGGER_MAX_STDOUT_SIZE": "8KB",
            "CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS": "rotate 20\ncompress",
        },
    )
    async with site.agent(logger=LoggerSettings()) as agent:
        await agent.launch(container_id, config)
        await agent.wait(container_id)
    names = [*(f"stdout.{n}" for n in range(20, 0, -1)), "stdout"]
    files = [Path(config.sandbox, name) for name in names]
    text = "".join(path.read_text() for path in files if path.exists())
    assert text == "".join(f"line {n}\n" for n in range(3000))
    assert max(path.stat().st_size for path in files if path.exists()) <= 8192


async def test_a_new_agent_takes_over_what_runs(site: Site, container_id: str) -> None:
    config = site.config("echo before; while [ ! -e go ]; do sleep 0.02; done; echo after; exit 5")
    async with site.agent() as agent:
        pid = await agent.launch(container_id, config)
    async with site.agent() as agent:
        assert await agent.recover({container_id: None}) == set()
        assert list(agent.containers()) == [container_id]
        status = await agent.status(container_id)
        assert status.executor_pid == pid
        Path(config.sandbox, "go").touch()
        end = await agent.wait(container_id)
    assert os.waitstatus_to_exitcode(end.status or 0) == 5
    assert Path(config.sandbox, "stdout").read_text() == "before\nafter\n"


async def test_the_status_of_what_ended_without_an_agent_is_found(
    site: Site, container_id: str
) -> None:
    async with site.agent() as agent:
        pid = await agent.launch(container_id, site.config("exit 7"))
    await until(lambda: RuntimeDir(site.runtime).status(container_id) is not None)
    await until(lambda: processes.read_stat(pid) is None)
    async with site.agent() as agent:
        await agent.recover({container_id: None, "never-heard-of": None})
        end = await agent.wait(container_id)
        lost = await agent.wait("never-heard-of")
    assert os.waitstatus_to_exitcode(end.status or 0) == 7
    assert lost.status is None


async def test_unknown_containers_are_destroyed_at_recovery(site: Site, container_id: str) -> None:
    async with site.agent() as agent:
        pid = await agent.launch(container_id, site.config("sleep 1234"))
    async with site.agent() as agent:
        assert await agent.recover({}) == {container_id}
    assert processes.read_stat(pid) is None
    assert RuntimeDir(site.runtime).ids() == []


async def test_a_recycled_process_number_is_never_adopted(site: Site, container_id: str) -> None:
    async with site.agent() as agent:
        await agent.launch(container_id, site.config("sleep 1234"))
        await agent.destroy(container_id)
    path = Path(site.runtime, "containers", container_id)
    (path / "termination").unlink()
    stranger = processes.identify(os.getpid())
    assert stranger is not None
    found = RuntimeDir(site.runtime).processes(container_id)
    assert found is not None
    text = (path / "processes").read_text()
    for who in (found.init, found.monitor):
        text = text.replace(f'"pid":{who.pid}', f'"pid":{os.getpid()}')
    (path / "processes").write_text(text)
    async with site.agent() as agent:
        await agent.recover({container_id: None})
        await agent.wait(container_id)  # and this process still lives


async def test_an_agent_that_dies_before_the_release_leaves_nothing(
    site: Site, container_id: str
) -> None:
    stuck = asyncio.Event()

    async def fetch(_: str, __: ContainerConfig) -> None:
        stuck.set()
        await asyncio.Event().wait()

    config = site.config("touch ran")
    async with site.agent(fetch=fetch) as agent:
        launching = asyncio.ensure_future(agent.launch(container_id, config))
        await stuck.wait()
        found = RuntimeDir(site.runtime).processes(container_id)
    assert found is not None
    await until(lambda: not processes.is_running(found.monitor))
    assert not processes.is_running(found.init)
    assert not Path(config.sandbox, "ran").exists()
    assert launching.cancelled() or await asyncio.gather(launching, return_exceptions=True)


async def test_a_container_is_destroyed_during_its_launch(site: Site, container_id: str) -> None:
    stuck = asyncio.Event()

    async def fetch(_: str, __: ContainerConfig) -> None:
        stuck.set()
        await asyncio.Event().wait()

    async with site.agent(fetch=fetch) as agent:
        launching = asyncio.ensure_future(agent.launch(container_id, site.config("true")))
        await stuck.wait()
        end = await agent.destroy(container_id, "REASON_TASK_KILLED_DURING_LAUNCH", "killed")
        assert end.reason == "REASON_TASK_KILLED_DURING_LAUNCH"
        with pytest.raises(LaunchFailed, match="killed"):
            await launching


async def test_a_container_never_outlives_its_monitor(site: Site, container_id: str) -> None:
    async with site.agent() as agent:
        await agent.launch(container_id, site.config("sleep 1234"))
        found = RuntimeDir(site.runtime).processes(container_id)
        assert found is not None
        os.kill(found.monitor.pid, signal.SIGKILL)
        end = await agent.wait(container_id)
    assert end.status is None
    assert not processes.is_running(found.init)


async def test_containers_survive_the_zygote_and_a_new_one_starts(
    site: Site, container_id: str
) -> None:
    async with site.agent() as agent:
        await agent.launch(container_id, site.config("sleep 1234"))
        zygote = site.zygotes[0].pid()
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: not alive(zygote))
        await agent.launch("another", site.config("exit 0"))
        assert (await agent.wait("another")).status == 0
        assert list(agent.containers()) == [container_id]
        end = await agent.destroy(container_id)
    assert os.WTERMSIG(end.status or 0) == signal.SIGKILL


async def test_many_containers_at_once(site: Site) -> None:
    async with site.agent() as agent:
        await asyncio.gather(*(agent.launch(f"c{n}", site.config(f"exit {n}")) for n in range(20)))
        ends = await asyncio.gather(*(agent.wait(f"c{n}") for n in range(20)))
    assert [os.waitstatus_to_exitcode(end.status or 0) for end in ends] == list(range(20))


async def test_usage_counts_the_processes(site: Site, container_id: str) -> None:
    async with site.agent("posix/cpu,posix/mem") as agent:
        pid = await agent.launch(container_id, site.config("sleep 1234 & wait"))
        await until(lambda: len(processes.descendants([pid])) == 2)
        usage = await agent.usage(container_id)
        await agent.destroy(container_id)
    assert usage.processes == 2
    assert (usage.mem_rss_bytes or 0) > 100_000


def alive(pid: int) -> bool:
    stat = processes.read_stat(pid)
    return stat is not None and stat.state not in "ZX"
