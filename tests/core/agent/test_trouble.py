"""What an agent does when something goes wrong around it."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from cairn_core.agent import io_checkpoint, io_sandbox
from cairn_core.agent.config import AgentConfig, Machine, read_masters, read_resources, reserve
from cairn_core.agent.containerizer.runtime_dir import ContainerTermination
from cairn_core.agent.effects import Append, Link, Put, Remove, Write
from cairn_core.agent.garbage import Garbage
from cairn_core.agent.io_checkpoint import Store
from cairn_core.agent.io_recovery import AgentStopped
from cairn_core.agent.reconfiguration import Incompatible, check
from cairn_core.agent.recovery import CorruptCheckpoint
from cairn_core.errors import LocalError
from cairn_core.mesos import agent_api
from cairn_core.mesos.types import (
    AgentID,
    AgentInfo,
    Capability,
    CommandInfo,
    ContainerInfo,
    DockerInfo,
    FrameworkID,
    FrameworkInfo,
    TaskID,
    TaskInfo,
)
from cairn_core.resources import Resources, read_attributes
from cairn_core.testing.agents import AGENT_ID, FakeAgentMaster, FakeContainers, scalars, until

FRAMEWORK = FrameworkInfo(user="root", name="test", id=FrameworkID("fw-1"), checkpoint=True)


def task(task_id: str = "task-1", **more: Any) -> TaskInfo:
    fields: dict[str, Any] = {
        "name": task_id,
        "task_id": TaskID(task_id),
        "agent_id": AgentID(AGENT_ID),
        "resources": scalars(cpus=0.5, mem=64),
        "command": CommandInfo(value="true"),
    }
    return TaskInfo(**(fields | more))


async def started(master: FakeAgentMaster, containers: FakeContainers) -> str:
    """Run a task; gives the id of its container once the launch is known."""
    master.run_task(FRAMEWORK, task())
    (container_id,) = await until(containers.running, "a container")
    assert isinstance(container_id, str)
    return container_id


# ---- containers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reason", "message"),
    [
        (
            ContainerTermination(9, "REASON_CONTAINER_LIMITATION_MEMORY", "Memory limit exceeded"),
            "REASON_CONTAINER_LIMITATION_MEMORY",
            "Memory limit exceeded",
        ),
        (
            ContainerTermination(9),
            "REASON_EXECUTOR_TERMINATED",
            "the executor was killed by signal 9 and left the task behind",
        ),
        (
            ContainerTermination(3 << 8),
            "REASON_EXECUTOR_TERMINATED",
            "the executor exited with status 3 and left the task behind",
        ),
    ],
    ids=["over its memory", "killed", "exited"],
)
async def test_a_task_fails_with_the_reason_of_its_containers_end(
    end: ContainerTermination,
    reason: str,
    message: str,
    start_agent: Any,
    master: FakeAgentMaster,
    containers: FakeContainers,
) -> None:
    async with start_agent():
        containers.end(await started(master, containers), end)
        status = await master.acknowledged("TASK_FAILED")
        assert (status.reason, status.message) == (reason, message)


async def test_a_launch_that_fails_says_why(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    containers.refusal = "Failed to fetch all URIs: http://x/y: 404"
    async with start_agent() as agent:
        master.run_task(FRAMEWORK, task())
        status = await master.acknowledged("TASK_FAILED")
        assert status.reason == "REASON_CONTAINER_LAUNCH_FAILED"
        assert status.message == containers.refusal
        await until(lambda: not agent.state.containers, "the end")
        assert agent.launch_errors == 1


async def test_an_executor_that_never_registers_is_ended(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent(executor_registration_timeout=0.05):
        container_id = await started(master, containers)
        status = await master.acknowledged("TASK_FAILED")
        assert status.reason == "REASON_EXECUTOR_REGISTRATION_TIMEOUT"
        assert status.message == "the executor did not register within 50ms"
        assert containers.destroyed == [container_id]


async def test_a_kill_before_the_executor_is_there_ends_the_launch(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent:
        container_id = await started(master, containers)
        master.kill_task(FRAMEWORK, "task-1")
        status = await master.acknowledged("TASK_KILLED")
        assert status.reason == "REASON_TASK_KILLED_DURING_LAUNCH"
        await until(lambda: not agent.state.containers, "the end")
        assert containers.destroyed == [container_id]


@pytest.mark.parametrize(
    ("more", "state", "message"),
    [
        (
            {"container": ContainerInfo("DOCKER", docker=DockerInfo("nginx"))},
            "TASK_FAILED",
            "could create a DOCKER container",
        ),
        ({"command": None}, "TASK_FAILED", "no command to run"),
        ({"task_id": "../../etc"}, "TASK_ERROR", "task_id '../../etc' holds a /"),
        ({"task_id": ".."}, "TASK_ERROR", "task_id '..' is not a name"),
        ({"resources": scalars(cpus=-1)}, "TASK_ERROR", "is negative"),
    ],
    ids=["docker", "nothing to run", "a path as id", "the parent as id", "negative cpus"],
)
async def test_a_task_that_cannot_run_here_is_answered_at_once(
    more: dict[str, Any],
    state: str,
    message: str,
    start_agent: Any,
    master: FakeAgentMaster,
    containers: FakeContainers,
) -> None:
    async with start_agent():
        master.run_task(FRAMEWORK, task(**more))
        status = await master.acknowledged(state)
        assert status.message is not None
        assert message in status.message
        assert not containers.configs


# ---- the master -----------------------------------------------------------------------------


@pytest.mark.parametrize("aware", [True, False])
async def test_tasks_that_the_master_expects_in_vain_are_answered(
    aware: bool, start_agent: Any, master: FakeAgentMaster
) -> None:
    master.expected = (agent_api.Expected(FrameworkID("fw-1"), TaskID("gone"), aware),)
    async with start_agent():
        status = await master.acknowledged("TASK_DROPPED" if aware else "TASK_LOST")
        assert status.reason == "REASON_RECONCILIATION"


async def test_commands_of_an_older_master_are_dropped(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers, tmp_path: Path
) -> None:
    master.epoch = 7
    async with start_agent() as agent:
        assert (tmp_path / "work/meta/master.epoch").read_bytes() == b"7"
        master.send(agent_api.RunTask(6, "op-old", FRAMEWORK, task()))
        master.run_task(FRAMEWORK, task("task-2"))
        await until(lambda: containers.configs, "a launch")
        assert agent.state.counters["fenced_commands"] == 1
        assert agent.state.find_task("fw-1", "task-1") is None
    master.epoch = 6
    async with start_agent(ready=False) as agent:
        await until(lambda: agent.state.counters["fenced_commands"], "the refusal")
        assert not agent.state.master.registered


async def test_an_operation_that_comes_twice_is_applied_once_also_after_a_restart(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    run = agent_api.RunTask(1, "op-1", FRAMEWORK, task())
    async with start_agent() as agent:
        master.send(run)
        master.send(run)
        await until(lambda: agent.state.counters["repeated_operations"] == 1, "the second")
        await until(containers.running, "a container")
    async with start_agent() as agent:
        await master.registered(2)
        master.send(run)
        await until(lambda: agent.state.counters["repeated_operations"] == 1, "the third")
        assert len(containers.configs) == 1


async def test_the_agent_comes_back_when_the_connection_breaks(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent:
        await started(master, containers)
        master.cut()
        await until(lambda: not agent.state.master.registered, "the loss")
        await master.registered(2)
        assert [t.task_id.value for p in master.inventory() for t in p.tasks] == ["task-1"]
        assert len(containers.running()) == 1


async def test_a_shutdown_ends_everything_and_the_next_start_is_a_new_agent(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent(raises=AgentStopped) as agent:
        await started(master, containers)
        master.send(agent_api.Shutdown(1, "Agent has been marked gone"))
        await until(lambda: not agent.front.ready, "the end of the agent")
    assert not containers.running()
    master.agent_id = "new-S1"
    async with start_agent() as agent:
        assert agent.state.agent_id == "new-S1"


async def test_a_framework_that_is_gone_leaves_nothing(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent:
        await started(master, containers)
        master.send(agent_api.ShutdownFramework(1, "op-x", FrameworkID("fw-1")))
        await until(lambda: not agent.state.frameworks, "the end of the framework")
        assert not containers.running()
        assert not any(isinstance(m, agent_api.Update) for m in master.said)


# ---- disk and machine -----------------------------------------------------------------------


async def test_a_full_disk_fails_the_task_and_not_the_agent(
    start_agent: Any,
    master: FakeAgentMaster,
    containers: FakeContainers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with start_agent() as agent:
        with monkeypatch.context() as patch:

            def full(fd: int, data: bytes) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(io_checkpoint, "_write_all", full)
            master.run_task(FRAMEWORK, task())
            status = await master.acknowledged("TASK_FAILED")
        assert status.reason == "REASON_CONTAINER_LAUNCH_FAILED"
        assert status.message == (
            "cannot write the task to the agent's disk: No space left on device"
        )
        assert not containers.configs
        master.run_task(FRAMEWORK, task("task-2"))
        await until(containers.running, "a container once there is room")
        agent.state.check()


@pytest.mark.parametrize("aware", [True, False])
async def test_after_a_reboot_tasks_are_reported_lost(
    aware: bool, start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    capabilities = (Capability("PARTITION_AWARE"),) if aware else ()
    framework = FrameworkInfo(
        user="root", name="t", id=FrameworkID("fw-1"), checkpoint=True, capabilities=capabilities
    )
    async with start_agent():
        master.run_task(framework, task())
        await until(containers.running, "a container")
    containers.configs.clear()
    containers.ended.clear()
    async with start_agent(boot_id="boot-2") as agent:
        status = await master.acknowledged("TASK_GONE" if aware else "TASK_LOST")
        assert status.reason == "REASON_AGENT_RESTARTED"
        await until(lambda: not agent.state.frameworks, "the end")
        assert agent.state.agent_id == AGENT_ID


async def test_tasks_of_frameworks_without_checkpoints_end_with_the_agent(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    framework = FrameworkInfo(user="root", name="t", id=FrameworkID("fw-1"), checkpoint=False)
    async with start_agent():
        master.run_task(framework, task())
        (container_id,) = await until(containers.running, "a container")
        assert containers.configs[container_id].environment["MESOS_CHECKPOINT"] == "0"
    async with start_agent() as agent:
        assert not agent.state.containers
        assert containers.destroyed == [container_id]


async def test_an_unreadable_checkpoint_stops_a_strict_agent_only(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers, tmp_path: Path
) -> None:
    async with start_agent():
        await started(master, containers)
    (info,) = tmp_path.glob(
        f"work/meta/slaves/{AGENT_ID}/frameworks/*/executors/*/runs/*/executor.info"
    )
    info.write_bytes(b'{"info":')
    with pytest.raises(ExceptionGroup) as raised:
        async with start_agent():
            pass
    assert raised.group_contains(CorruptCheckpoint, match="executor.info.*--strict=false")
    async with start_agent(strict=False) as agent:
        assert agent.recovery_errors == 1
        assert not containers.running()


async def test_a_second_agent_on_one_work_directory_is_refused(start_agent: Any) -> None:
    async with start_agent():
        with pytest.raises(LocalError, match="used by process"):
            async with start_agent(runtime_dir="/nonexistent/x"):
                pass


# ---- changed description --------------------------------------------------------------------


def info(resources: str = "cpus:4;mem:1024;ports:[1-10]", attributes: str = "rack:a") -> AgentInfo:
    return AgentInfo(
        hostname="agent-1",
        resources=tuple(Resources.parse(resources).to_wire()),
        attributes=read_attributes(attributes),
    )


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        (info(), False),
        (info("cpus:8;mem:1024;ports:[1-20]"), True),
        (info("cpus:4;mem:1024;ports:[1-10];gpus:1"), True),
        (info(attributes="rack:a;zone:b"), True),
    ],
    ids=["nothing", "more", "a new resource", "a new attribute"],
)
def test_additions_are_fine(new: AgentInfo, changed: bool) -> None:
    assert check(info(), new, "additive") is changed
    if changed:
        with pytest.raises(Incompatible):
            check(info(), new, "equal")
    else:
        assert not check(info(), new, "equal")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (info("cpus:2;mem:1024;ports:[1-10]"), "resources were cpus:4.*, are cpus:2"),
        (info("cpus:4;mem:1024;ports:[1-5]"), r"ports:\[1-10\].*, are .*ports:\[1-5\]"),
        (info(attributes="rack:b"), "attribute was rack:a, is rack:b"),
        (info(attributes="zone:b"), "attribute 'rack' is gone"),
        (AgentInfo(hostname="other", resources=info().resources), "hostname was 'agent-1'"),
    ],
    ids=["fewer cpus", "fewer ports", "another rack", "no rack", "another name"],
)
def test_a_refused_change_names_field_and_values(new: AgentInfo, message: str) -> None:
    with pytest.raises(Incompatible, match=message):
        check(info(), new, "additive")


async def test_an_agent_with_fewer_resources_does_not_start(start_agent: Any) -> None:
    async with start_agent():
        pass
    with pytest.raises(ExceptionGroup) as raised:
        async with start_agent(resources="cpus:1;mem:4096;disk:10000;ports:[31000-31100]"):
            pass
    assert raised.group_contains(Incompatible, match="--recover=cleanup")


# ---- settings and rooms ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(8, 16 << 30, 100 << 30), {"cpus": 8, "mem": 15 << 10, "disk": 95 << 10}),
        (Machine(1, 1 << 30, 4 << 30), {"cpus": 1, "mem": 512, "disk": 2 << 10}),
    ],
    ids=["large", "small"],
)
def test_what_an_agent_offers_of_its_machine(machine: Machine, expected: dict[str, int]) -> None:
    assert reserve(machine) == expected


def test_what_the_flag_does_not_name_is_found_out() -> None:
    config = AgentConfig(master="m:5050", resources="cpus:2", default_role="web")
    found = Resources.from_wire(read_resources(config, Machine(8, 16 << 30, 100 << 30)))
    assert found.reserved_to("web") == found
    assert found.scalar("cpus") == 2000
    assert found.ranges("ports") == ((31000, 32000),)


@pytest.mark.parametrize(
    ("master", "expected"),
    [
        ("10.0.0.1:5050", [("10.0.0.1", 5050)]),
        ("a,b:15050", [("a", 5050), ("b", 15050)]),
        ("[2001:db8::1]:5050", [("2001:db8::1", 5050)]),
    ],
)
def test_masters_are_addresses(master: str, expected: list[tuple[str, int]]) -> None:
    assert read_masters(AgentConfig(master=master)) == expected


@pytest.mark.parametrize("master", ["zk://a:2181/mesos", "a:b", "", "a:99999"])
def test_what_is_no_master_is_refused_with_its_text(master: str) -> None:
    with pytest.raises(ValueError, match="master: "):
        AgentConfig(master=master)


def test_garbage_goes_sooner_when_the_disk_fills() -> None:
    garbage = Garbage(delay_s=1000.0, headroom=0.1)
    garbage.add("old", wall=0.0)
    garbage.add("new", wall=500.0)
    garbage.add("old", wall=400.0)
    assert garbage.due(0.0, wall=899.0) == []
    assert garbage.due(0.0, wall=900.0) == ["old"]
    assert garbage.due(0.8, wall=599.0) == []
    assert garbage.due(0.8, wall=601.0) == ["new"]
    assert garbage.due(1.0, wall=602.0) == []
    garbage.add("any", wall=602.0)
    assert garbage.due(0.95, wall=602.0) == ["any"]


async def test_an_ended_run_is_removed_with_everything_above_it(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers, tmp_path: Path
) -> None:
    async with start_agent(gc_delay=0.0) as agent:
        containers.end(await started(master, containers), ContainerTermination(0))
        await master.acknowledged("TASK_FAILED")
        await until(lambda: len(agent.collector.garbage) == 2, "the end")
        folders = list(tmp_path.glob("work/**/frameworks/fw-1"))
        assert len(folders) == 2
        assert not agent.paths.table()
        await agent.collector.collect()
        assert not any(folder.exists() for folder in folders)


def test_a_write_is_whole_or_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blocked, fine = Put("a/b", b"1"), Put("c", b"2")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/a").write_text("a file where a directory should be")
    first, second = store.apply([[blocked], [fine]])
    assert isinstance(first, OSError)
    assert second is None
    assert (tmp_path / "meta/c").read_bytes() == b"2"
    assert not list(tmp_path.rglob("*.tmp"))


def test_writes_of_one_batch_happen_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first: list[Write] = [
        Append("log", b"a"),
        Put("log", b"b"),
        Append("log", b"c"),
        Put("slaves/x", b"x"),
    ]
    second: list[Write] = [
        Append("log", b"d"),
        Put("gone", b"1"),
        Remove("gone"),
        Link("slaves/latest", "x"),
    ]
    assert store.apply([first, second]) == [None, None]
    meta = tmp_path / "meta"
    files = {p.relative_to(meta).as_posix() for p in meta.rglob("*")}
    assert (meta / "log").read_bytes() == b"bcd"
    assert (meta / "slaves/latest").readlink() == Path("x")
    assert files == {"log", "slaves", "slaves/x", "slaves/latest"}


def test_a_record_that_cannot_be_written_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    assert store.apply([[Append("log", b"whole")]]) == [None]
    whole = os.write

    def half(fd: int, data: memoryview) -> int:
        whole(fd, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    (failure,) = store.apply([[Append("log", b"torn")]])
    assert isinstance(failure, OSError)
    assert (tmp_path / "meta/log").read_bytes() == b"whole"


def test_a_sandbox_is_made_once_and_latest_points_at_it(tmp_path: Path) -> None:
    for run in ("one", "two", "two"):
        io_sandbox.create(tmp_path / "runs" / run, None)
    assert (tmp_path / "runs/latest").readlink() == Path("two")
    with pytest.raises(ValueError, match="no such user on this agent: 'nobody-here'"):
        io_sandbox.create(tmp_path / "runs/three", "nobody-here")


async def test_many_launches_share_their_trips_to_the_disk(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent:
        trips = 0
        apply = agent.store.apply

        def counted(groups: Any) -> Any:
            nonlocal trips
            trips += 1
            return apply(groups)

        agent.store.apply = counted
        for number in range(50):
            master.run_task(FRAMEWORK, task(f"task-{number}"))
        async with asyncio.timeout(20):
            await until(lambda: len(containers.running()) == 50, "50 containers")
        assert trips < 25
