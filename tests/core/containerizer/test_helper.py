"""The helper processes: what they load, log files with hostile neighbours, death at every stage."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cairn_core
from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.errors import LaunchFailed
from cairn_core.agent.containerizer.helper.logsink import LogSink
from cairn_core.agent.containerizer.launcher import Launcher, Zygote
from cairn_core.agent.containerizer.runtime_dir import RuntimeDir
from cairn_core.extensions import ContainerConfig, Hook, Isolator, LaunchInfo
from cairn_core.mesos.types import Label, Labels, TaskID, TaskState, TaskStatus
from cairn_core.testing.containers import Site, until


def test_nothing_but_the_standard_library_is_loaded() -> None:
    root = str(Path(cairn_core.__file__).parents[1])
    code = (
        f"import sys; sys.path.append({root!r}); "
        "import cairn_core.agent.containerizer.helper.monitor; "
        "print([n for n in sys.modules if n.split('.')[0] not in sys.stdlib_module_names "
        "and not n.startswith('cairn_core.agent.containerizer.helper') and n != '__main__'])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True)
    packages = ["cairn_core", "cairn_core.agent", "cairn_core.agent.containerizer"]
    assert done.stdout.decode().strip() == str(packages)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.binary(max_size=60), max_size=30), st.integers(10, 50))
def test_rotation_loses_nothing(tmp_path: Path, blocks: list[bytes], limit: int) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    with closing(LogSink(str(tmp_path), "stdout", limit, 1000)) as sink:
        for block in blocks:
            sink.write(block)
    number = len(list(tmp_path.iterdir())) - 1
    names = [*(f"stdout.{n}" for n in range(number, 0, -1)), "stdout"]
    found = [(tmp_path / name).read_bytes() for name in names]
    assert b"".join(found) == b"".join(blocks)
    assert all(len(content) <= limit for content in found)


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    with closing(LogSink(str(tmp_path), "stderr", 10, 2)) as sink:
        for number in range(9):
            sink.write(b"line %d...\n" % number)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stderr", "stderr.1", "stderr.2"]


def test_links_in_the_sandbox_are_never_followed(tmp_path: Path) -> None:
    precious, sandbox = tmp_path / "precious", tmp_path / "sandbox"
    sandbox.mkdir()
    precious.write_text("kept")
    (sandbox / "stdout").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        LogSink(str(sandbox), "stdout", 10, 1)
    (sandbox / "stdout").unlink()
    os.link(precious, sandbox / "stdout")
    with pytest.raises(OSError, match="not a plain file"):
        LogSink(str(sandbox), "stdout", 10, 1)
    (sandbox / "stdout").unlink()
    with closing(LogSink(str(sandbox), "stdout", 10, 1)) as sink:
        sink.write(b"123456789\n")
        (sandbox / "stdout").unlink()
        (sandbox / "stdout").symlink_to(precious)
        (sandbox / "stdout.1").mkdir()  # so that the link cannot be moved away either
        sink.write(b"123456789\n")
    assert precious.read_text() == "kept"


class Deadly(Isolator):
    """Kills a process of the container when it is to be isolated."""

    def __init__(self, victim: str) -> None:
        self.victim = victim

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        return None

    async def isolate(self, container_id: str, pid: int) -> None:
        stat = processes.read_stat(pid)
        assert stat is not None
        os.kill(pid if self.victim == "init" else stat.parent, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["init", "monitor"])
async def test_a_process_that_dies_before_the_release_fails_the_launch(
    site: Site, container_id: str, victim: str
) -> None:
    config = site.config("touch ran")
    async with site.agent() as agent:
        agent._isolators = (Deadly(victim),)
        with pytest.raises(LaunchFailed):
            await agent.launch(container_id, config)
    assert not Path(config.sandbox, "ran").exists()


async def test_an_isolator_that_fails_leaves_nothing(site: Site, container_id: str) -> None:
    cleaned: list[str] = []

    class Broken(Isolator):
        def __init__(self, name: str, stage: str) -> None:
            self.label, self.stage = name, stage

        async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
            if self.stage == "prepare":
                raise ValueError("no room")
            return None

        async def isolate(self, container_id: str, pid: int) -> None:
            if self.stage == "isolate":
                raise OSError("no cgroup")

        async def cleanup(self, container_id: str) -> None:
            cleaned.append(self.label)
            raise RuntimeError("also broken")

    async with site.agent() as agent:
        agent._isolators = (Broken("a", ""), Broken("b", "prepare"), Broken("c", ""))
        with pytest.raises(LaunchFailed, match="no room"):
            await agent.launch("x", site.config("true"))
        assert cleaned == ["b", "a"]
        agent._isolators = (Broken("a", ""), Broken("b", "isolate"), Broken("c", ""))
        with pytest.raises(LaunchFailed, match="no cgroup"):
            await agent.launch(container_id, site.config("true"))
        assert cleaned == ["b", "a", "c", "b", "a"]
        assert agent.containers() == {}


async def test_a_zygote_of_another_version_is_retired_and_its_containers_live(
    site: Site, container_id: str
) -> None:
    async with site.agent(preload=("json",)) as agent:
        pid = await agent.launch(container_id, site.config("exec sleep 1234"))
        old = site.zygotes[0].pid()
        assert old is not None
    async with site.agent() as agent:
        await until(lambda: not Path(f"/proc/{old}/cmdline").exists() or is_dead(old))
        await agent.recover({container_id: None})
        assert list(agent.containers()) == [container_id]
        assert processes.read_stat(pid) is not None
        await agent.launch("other", site.config("exit 0"))
        await agent.destroy(container_id)


async def test_a_zygote_ends_when_neither_agent_nor_containers_are_left(
    site: Site, container_id: str
) -> None:
    config = site.config("while [ ! -e go ]; do sleep 0.02; done")
    async with site.agent(check_s=0.02) as agent:
        await agent.launch(container_id, config)
        zygote = site.zygotes[0].pid()
        assert zygote is not None
        await agent.launch("short", site.config("exit 0"))
        await agent.wait("short")
    found = RuntimeDir(site.runtime).processes(container_id)
    assert found is not None
    start = time.monotonic()
    await until(lambda: time.monotonic() > start + 0.2)  # ten looks
    assert not is_dead(zygote)  # for a container is left
    assert processes.is_running(found.init)
    Path(config.sandbox, "go").touch()
    await until(lambda: is_dead(zygote))
    assert not list(Path(site.runtime).glob("zygote-*.sock"))
    async with site.agent() as agent:
        await agent.recover({container_id: None})
        assert (await agent.wait(container_id)).status == 0
        await agent.launch("after", site.config("exit 0"))  # by a new zygote
        assert (await agent.wait("after")).status == 0


async def test_a_zygote_without_containers_stays_while_an_agent_lives(site: Site) -> None:
    async with site.agent(check_s=0.02) as agent:
        await agent.launch("first", site.config("exit 0"))
        await agent.wait("first")
        zygote = site.zygotes[0].pid()
        assert zygote is not None
        start = time.monotonic()
        await until(lambda: time.monotonic() > start + 0.2)  # ten looks
        assert not is_dead(zygote)
        await agent.launch("second", site.config("exit 0"))
        assert site.zygotes[0].pid() == zygote


async def test_the_agents_environment_stays_with_the_agent(
    site: Site, container_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAIRN_AGENT_CREDENTIAL", "principal secret")
    async with site.agent() as agent:
        config = site.config("tr '\\0' '\\n' < /proc/$PPID/environ > seen; env >> seen")
        await agent.launch(container_id, config)
        await agent.wait(container_id)
        zygote = site.zygotes[0].pid()
        seen = Path(config.sandbox, "seen").read_text()
        assert "PATH=" in seen
        assert "CREDENTIAL" not in seen
        assert b"CREDENTIAL" not in Path(f"/proc/{zygote}/environ").read_bytes()


async def test_a_hook_sees_the_sandbox_before_the_command_runs(
    site: Site, container_id: str
) -> None:
    class Writes(Hook):
        async def post_fetch(self, container_id: str, sandbox: str) -> None:
            Path(sandbox, "hooked").write_text(container_id)

    config = site.config("cat hooked")
    async with site.agent(hooks=[Writes()]) as agent:
        await agent.launch(container_id, config)
        await agent.wait(container_id)
    assert Path(config.sandbox, "stdout").read_text() == container_id


async def test_hooks_add_to_the_environment_and_hear_of_the_end(
    site: Site, container_id: str
) -> None:
    removed: list[tuple[str, str]] = []

    class Broken(Hook):
        async def remove_executor(self, framework_id: str, executor_id: str) -> None:
            raise RuntimeError("broken")

    class Adds(Hook):
        def executor_environment(self, executor: Mapping[str, object]) -> Mapping[str, str]:
            return {"ADDED": f"{executor['framework_id']} {executor['executor_id']}"}

        async def remove_executor(self, framework_id: str, executor_id: str) -> None:
            removed.append((framework_id, executor_id))

    environment = {"MESOS_FRAMEWORK_ID": "f", "MESOS_EXECUTOR_ID": "e"}
    config = site.config("echo $ADDED $MESOS_EXECUTOR_ID", environment=environment)
    async with site.agent(hooks=[Broken(), Adds()]) as agent:
        await agent.launch(container_id, config)
        await agent.wait(container_id)
    assert Path(config.sandbox, "stdout").read_text() == "{'value': 'f'} {'value': 'e'} e\n"
    assert removed == [("f", "e")]


async def test_hooks_add_labels_and_addresses_to_a_status(site: Site) -> None:
    class Broken(Hook):
        def task_status(
            self, framework_id: str, status: Mapping[str, object]
        ) -> Mapping[str, object] | None:
            raise RuntimeError("broken")

    class Wrong(Hook):
        def task_status(
            self, framework_id: str, status: Mapping[str, object]
        ) -> Mapping[str, object] | None:
            return {"labels": 3, "state": "TASK_FAILED"}

    class Adds(Hook):
        def task_status(
            self, framework_id: str, status: Mapping[str, object]
        ) -> Mapping[str, object] | None:
            address = {"ip_addresses": [{"ip_address": "9.0.3.130"}]}
            return {
                "labels": {"labels": [{"key": "of", "value": framework_id}]},
                "container_status": {"network_infos": [address]},
                "state": "TASK_FAILED",
            }

    status = TaskStatus(TaskID("t"), TaskState.RUNNING, uuid=b"0123456789abcdef")
    async with site.agent(hooks=[Broken(), Adds(), Wrong()]) as agent:
        found = agent.decorated("f", status)
    assert found.state is TaskState.RUNNING, "a hook has no say in that"
    assert found.uuid == status.uuid
    assert found.labels == Labels((Label("of", "f"),))
    assert found.container_status is not None
    (info,) = found.container_status.network_infos
    assert info.ip_addresses[0].ip_address == "9.0.3.130"


def is_dead(pid: int) -> bool:
    stat = processes.read_stat(pid)
    return stat is None or stat.state == "Z"


async def test_a_client_that_talks_nonsense_harms_nobody(site: Site, container_id: str) -> None:
    async with site.agent() as agent:
        await agent.launch(container_id, site.config("exec sleep 1234"))
        zygote = Zygote(site.runtime)
        for nonsense in (b"", b"\n", b"[]\n", b"{}\n", b'{"id": 1, "argv": 2}\n', b"\xff" * 100):
            reader, writer = await zygote.connect()
            writer.write(nonsense)
            writer.write_eof()
            async with asyncio.timeout(10):
                said = await reader.read()
            writer.close()
            assert b'"pid"' not in said
        await agent.launch("after", site.config("exit 0"))
        assert (await agent.wait("after")).status == 0
        await agent.destroy(container_id)


async def test_a_launcher_without_a_zygote_says_why(tmp_path: Path) -> None:
    zygote = Zygote(str(tmp_path), ("no.such.module",))
    launcher = Launcher(zygote)
    await launcher.prepare()
    with pytest.raises(OSError, match=r"zygote exited with 1: ModuleNotFoundError: .*no"):
        await launcher.fork("x", {})
