"""The executor as a process of its own, against an agent on a domain socket."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cairn_core.executor

if TYPE_CHECKING:
    from tests.core.executor.conftest import FakeAgent


async def ends(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(20):
        return await process.wait()


def shell(value: str, **variables: str) -> dict[str, Any]:
    listed = [{"name": name, "value": text} for name, text in variables.items()]
    return {"value": value, "environment": {"variables": listed}}


async def test_a_task_runs_to_its_end(agent: "FakeAgent") -> None:
    process = await agent.launch(shell('echo "$A $MESOS_SANDBOX $SECRET" > out', A="b"))
    assert await agent.states(3) == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
    assert await ends(process) == 0
    assert (agent.directory / "out").read_text() == f"b {agent.directory} \n"
    assert "Authorization: Bearer secret" in agent.heads[0]


async def test_a_task_without_a_shell_gets_its_arguments_as_they_are(agent: "FakeAgent") -> None:
    command = {"shell": False, "value": "touch", "arguments": ["touch", "a b", "$HOME"]}
    await agent.launch(command)
    assert (await agent.states(3))[-1] == "TASK_FINISHED"
    assert {"a b", "$HOME"} <= set(os.listdir(agent.directory))


async def test_failures_are_explained(agent: "FakeAgent") -> None:
    process = await agent.launch({"shell": False, "value": "/nonexistent"})
    await agent.status()
    status = await agent.status()
    assert (status["state"], status["message"]) == (
        "TASK_FAILED", "cannot execute /nonexistent: No such file or directory",
    )  # fmt: skip
    assert await ends(process) == 0


async def test_kill_reaches_the_whole_tree(agent: "FakeAgent") -> None:
    command = shell(
        "trap '' TERM; sleep 1234 & setsid sleep 1234 & echo $! > pid; wait; wait; wait"
    )
    process = await agent.launch(command)
    assert await agent.states(2) == ["TASK_STARTING", "TASK_RUNNING"]
    pid = Path(agent.directory, "pid")
    async with asyncio.timeout(20):
        while not (pid.exists() and pid.read_text().strip()):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    grace = {"grace_period": {"nanoseconds": 100_000_000}}
    agent.send("KILL", task_id={"value": "t"}, kill_policy=grace)
    status = await agent.status()
    assert status["state"] == "TASK_KILLING"
    assert (await agent.status())["state"] == "TASK_KILLED"
    assert await ends(process) == 0
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not stat.exists() or ") Z " in stat.read_text()


async def test_an_agent_that_restarts_learns_what_happened(agent: "FakeAgent") -> None:
    process = await agent.launch(shell("while [ ! -e go ]; do sleep 0.02; done; exit 4"))
    assert await agent.states(2) == ["TASK_STARTING", "TASK_RUNNING"]
    await agent.stop()
    (agent.directory / "go").touch()
    agent.refuse = 2
    await agent.start()
    while True:
        body = (await agent.subscription())["subscribe"]
        states = [u["status"]["state"] for u in body.get("unacknowledged_updates", ())]
        if states:
            break
        last = await agent.status()  # it subscribed before the command had ended
        states = [last["state"]]
        break
    assert states == ["TASK_FAILED"]
    assert await ends(process) == 0


async def test_an_agent_that_never_returns_is_given_up(agent: "FakeAgent") -> None:
    process = await agent.execute(MESOS_RECOVERY_TIMEOUT="200ms")
    await agent.subscription()
    task = {"task_id": {"value": "t"}, "name": "n", "command": {"value": "sleep 1234"}}
    agent.send("LAUNCH", task=task)
    await agent.states(2)
    await agent.stop()
    assert await ends(process) == 0


async def test_an_executor_without_an_agent_ends(agent: "FakeAgent") -> None:
    await agent.stop()
    process = await agent.execute(MESOS_RECOVERY_TIMEOUT="100ms")
    assert await ends(process) == 0


async def test_checks_reach_the_framework(agent: "FakeAgent") -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /moved"):
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n")
        elif head.startswith(b"GET /there"):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    times = {"delay_seconds": 0, "interval_seconds": 0.05, "timeout_seconds": 5}
    health = {"type": "HTTP", "http": {"port": port, "path": "/moved"}, **times}
    health |= {"grace_period_seconds": 0, "consecutive_failures": 2}
    check = {"type": "COMMAND", "command": {"command": {"value": 'test -e "$F"'}}, **times}
    async with server:
        await agent.launch(shell("sleep 1234", F="flag"), health_check=health, check=check)
        await agent.status()
        running = await agent.status()
        assert running["check_status"] == {"type": "COMMAND", "command": {}}
        two = [await agent.status(), await agent.status()]
        by_reason = {status["reason"]: status for status in two}
        assert by_reason["REASON_TASK_HEALTH_CHECK_STATUS_UPDATED"]["healthy"] is True
        checked = by_reason["REASON_TASK_CHECK_STATUS_UPDATED"]["check_status"]
        assert checked == {"type": "COMMAND", "command": {"exit_code": 1}}
        (agent.directory / "flag").touch()
        assert (await agent.status())["check_status"]["command"] == {"exit_code": 0}
        server.close()
        last = await agent.status()
        while last["state"] == "TASK_RUNNING":
            assert last["healthy"] is False
            last = await agent.status()
        assert last["state"] == "TASK_KILLING"
        last = await agent.status()
    assert (last["state"], last["healthy"]) == ("TASK_KILLED", False)


def test_nothing_but_the_standard_library_is_loaded() -> None:
    root = str(Path(cairn_core.executor.__file__).parents[2])
    code = (
        f"import sys; sys.path.append({root!r}); import cairn_core.executor.command; "
        "print([n for n in sys.modules if n.split('.')[0] not in sys.stdlib_module_names "
        "and not n.startswith('cairn_core.executor') and n not in ('cairn_core', '__main__')])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
