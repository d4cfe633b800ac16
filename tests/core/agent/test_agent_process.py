"""The real agent program with real containers, killed and started again under a fake master."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from cairn_core.agent.containerizer import processes
from cairn_core.agent.containerizer.cgroups import Cgroups, find_hierarchies
from cairn_core.agent.containerizer.launcher import Zygote
from cairn_core.agent.io_containers import PRELOAD
from cairn_core.mesos import agent_api
from cairn_core.mesos.types import (
    AgentID,
    CommandInfo,
    ExecutorID,
    ExecutorInfo,
    FrameworkID,
    FrameworkInfo,
    TaskID,
    TaskInfo,
)
from cairn_core.testing.agents import AGENT_ID, FakeAgentMaster, scalars, until
from cairn_core.testing.requires import requires

pytestmark = pytest.mark.netns

FRAMEWORK = FrameworkInfo(user="root", name="test", id=FrameworkID("fw-1"), checkpoint=True)


def task(task_id: str, script: str, user: str | None = None) -> TaskInfo:
    return TaskInfo(
        name=task_id,
        task_id=TaskID(task_id),
        agent_id=AgentID(AGENT_ID),
        resources=scalars(cpus=0.1, mem=32),
        command=CommandInfo(value=script, user=user),
    )


#: An executor of somebody else: TCP, no token, two tasks at once, ends when it is told to.
EXECUTOR = """
import base64, http.client, json, os, time
ids = {"framework_id": {"value": os.environ["MESOS_FRAMEWORK_ID"]},
       "executor_id": {"value": os.environ["MESOS_EXECUTOR_ID"]}}
def post(**call):
    c = http.client.HTTPConnection(os.environ["MESOS_AGENT_ENDPOINT"])
    c.request("POST", "/api/v1/executor", json.dumps(call | ids),
              {"Content-Type": "application/json"})
    return c.getresponse()
def update(task_id, state):
    post(type="UPDATE", update={"status": {"task_id": task_id, "state": state,
         "source": "SOURCE_EXECUTOR", "timestamp": time.time(),
         "uuid": base64.b64encode(os.urandom(16)).decode()}}).read()
stream = post(type="SUBSCRIBE", subscribe={})
while length := stream.readline():
    event = json.loads(stream.read(int(length)))
    if event["type"] == "LAUNCH":
        update(event["launch"]["task"]["task_id"], "TASK_RUNNING")
    elif event["type"] == "KILL":
        update(event["kill"]["task_id"], "TASK_KILLED")
    elif event["type"] == "SHUTDOWN":
        raise SystemExit(3)
"""


class Program:
    """`cairn-agent` as a process that a test kills and starts again."""

    def __init__(self, root: Path, master: FakeAgentMaster) -> None:
        self.root = root
        self.master = master
        self.cgroups_root = f"cairn-test-{uuid.uuid4().hex[:12]}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, **flags: str) -> None:
        arguments = {
            "master": f"127.0.0.1:{self.master.port}",
            "work_dir": str(self.root / "work"),
            "runtime_dir": str(self.root / "run"),
            "cgroups_root": self.cgroups_root,
            "ip": "127.0.0.1",
            "port": "0",
            "resources": "cpus:4;mem:4096;disk:1000",
            "registration_backoff_factor": "50ms",
            **flags,
        }
        with (self.root / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cairn_core.agent.cli",
                *(f"--{name}={value}" for name, value in arguments.items()),
                stderr=log,
            )  # fmt: skip

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()

    def sandbox(self, task_id: str) -> Path:
        (found,) = self.root.glob(f"work/slaves/*/frameworks/*/executors/{task_id}/runs/latest")
        return found

    async def clean(self) -> None:
        """End everything that the agents of this test made, also after a failure."""
        if self.process is not None and self.process.returncode is None:
            await self.kill()
        cgroups = Cgroups(find_hierarchies(), self.cgroups_root)
        controllers = [*cgroups.hierarchies.v1, *([""] if cgroups.hierarchies.v2 else [])]
        if (self.root / "run/helper").is_dir():
            zygote = Zygote(str(self.root / "run/helper"), PRELOAD)
            zygote.retire_others()
            zygote.stop()
        roots = [cgroups.path(controller, "") for controller in controllers]
        processes.kill(_pids(roots), signal.SIGKILL)
        await until(lambda: not _pids(roots), "the last process")
        for root in roots:
            for folder, _, _ in os.walk(root, topdown=False):
                os.rmdir(folder)


def _pids(roots: list[Path]) -> set[int]:
    files = [file for root in roots for file in root.rglob("cgroup.procs")]
    return {int(pid) for file in files for pid in file.read_text().split()}


@pytest.fixture
async def program(tmp_path: Path, master: FakeAgentMaster) -> AsyncIterator[Program]:
    requires("root", "cgroup:freezer")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder != Path("/tmp") and folder.owner() == "root":
            folder.chmod(0o755)  # a task that runs as nobody has to reach its sandbox
    made = Program(tmp_path, master)
    yield made
    await made.clean()


async def test_a_killed_agent_takes_its_tasks_over_and_updates_flow_on(
    program: Program, master: FakeAgentMaster
) -> None:
    await program.start()
    await master.registered()
    master.run_task(FRAMEWORK, task("long", "echo begun; sleep 1000"))
    master.run_task(FRAMEWORK, task("awaited", "until test -e go; do sleep 0.05; done; exit 7"))
    for task_id in ("long", "awaited"):
        await master.acknowledged("TASK_STARTING", task_id)
        running = await master.acknowledged("TASK_RUNNING", task_id)
        assert running.container_status is not None
        assert running.container_status.executor_pid is not None
        assert os.path.exists(f"/proc/{running.container_status.executor_pid}")
    assert (program.sandbox("long") / "stdout").read_text() == "begun\n"
    await program.kill()
    (program.sandbox("awaited") / "go").touch()
    await program.start()
    failed = await master.acknowledged("TASK_FAILED", "awaited")
    assert failed.message == "Command exited with status 7"
    listed = {t.task_id.value: t.state for part in master.inventory() for t in part.tasks}
    assert listed["long"] == "TASK_RUNNING"
    master.kill_task(FRAMEWORK, "long")
    await master.acknowledged("TASK_KILLED", "long")
    assert await program.stop() == 0


async def test_a_task_that_dies_with_its_executor_while_the_agent_is_away_has_failed(
    program: Program, master: FakeAgentMaster
) -> None:
    await program.start()
    await master.registered()
    master.run_task(FRAMEWORK, task("victim", "sleep 1000"))
    await master.acknowledged("TASK_STARTING")
    running = await master.acknowledged("TASK_RUNNING")
    assert running.container_status is not None
    pid = running.container_status.executor_pid
    assert pid is not None
    await program.kill()
    os.kill(pid, signal.SIGKILL)
    await program.start()
    failed = await master.acknowledged("TASK_FAILED")
    assert failed.reason == "REASON_EXECUTOR_TERMINATED"
    assert failed.message is not None
    assert "signal 9" in failed.message
    assert await program.stop() == 0


@pytest.mark.parametrize(
    ("script", "user", "state", "message"),
    [
        ("exit 0", "nobody", "TASK_FINISHED", "Command exited with status 0"),
        ("test $(id -un) = nobody", "nobody", "TASK_FINISHED", "Command exited with status 0"),
        ("kill -9 $$", None, "TASK_FAILED", "Command terminated with signal Killed"),
        ("true", "no-such-user", "TASK_FAILED", "no such user on this agent: 'no-such-user'"),
    ],
    ids=["ends", "runs as the user that it names", "is killed", "names nobody"],
)
async def test_how_a_task_ended_is_told_in_words(
    script: str,
    user: str | None,
    state: str,
    message: str,
    program: Program,
    master: FakeAgentMaster,
) -> None:
    await program.start()
    await master.registered()
    master.run_task(FRAMEWORK, task("task", script, user))
    if user != "no-such-user":
        await master.acknowledged("TASK_STARTING")
        await master.acknowledged("TASK_RUNNING")
    status = await master.acknowledged(state)
    assert status.message is not None
    assert message in status.message
    assert await program.stop() == 0


async def test_cleanup_ends_everything_and_forgets_the_agent(
    program: Program, master: FakeAgentMaster
) -> None:
    await program.start()
    await master.registered()
    master.run_task(FRAMEWORK, task("task", "sleep 1000"))
    await master.acknowledged("TASK_STARTING")
    running = await master.acknowledged("TASK_RUNNING")
    assert running.container_status is not None
    await program.kill()
    await program.start(recover="cleanup")
    assert program.process is not None
    assert await program.process.wait() == 1
    assert not os.path.exists(f"/proc/{running.container_status.executor_pid}")
    assert not os.path.lexists(program.root / "work/meta/slaves/latest")


async def test_an_executor_of_somebody_else_runs_two_tasks_and_is_shut_down(
    program: Program, master: FakeAgentMaster
) -> None:
    await program.start()
    await master.registered()
    command = CommandInfo(
        shell=False, value="/usr/bin/python3", arguments=("python3", "-I", "-c", EXECUTOR)
    )
    info = ExecutorInfo(ExecutorID("shared"), command=command, resources=scalars(cpus=0.1, mem=32))
    for task_id in ("one", "two"):
        run = replace(task(task_id, ""), command=None, executor=info)
        master.run_task(FRAMEWORK, run)
        await master.acknowledged("TASK_RUNNING", task_id)
    master.kill_task(FRAMEWORK, "one")
    await master.acknowledged("TASK_KILLED", "one")
    master.send(agent_api.ShutdownExecutor(1, "op-end", FrameworkID("fw-1"), ExecutorID("shared")))
    failed = await master.acknowledged("TASK_FAILED", "two")
    assert failed.message == "the executor exited with status 3 and left the task behind"
    exited = await until(
        lambda: next((m for m in master.said if isinstance(m, agent_api.ExecutorExited)), None)
    )
    assert exited.status == 3 << 8
    assert await program.stop() == 0
