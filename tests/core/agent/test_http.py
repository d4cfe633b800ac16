"""What the agent answers over HTTP: status codes of the executor API, reads, files, numbers."""

import os
from typing import Any

import aiohttp
import pytest

from cairn_core.agent.daemon import Agent
from cairn_core.kit.operator_files import mode_of
from cairn_core.mesos.types import (
    AgentID,
    CommandInfo,
    FrameworkID,
    FrameworkInfo,
    Label,
    Labels,
    TaskID,
    TaskInfo,
)
from cairn_core.testing.agents import AGENT_ID, FakeAgentMaster, FakeContainers, scalars, until

FRAMEWORK = FrameworkInfo(user="root", name="test", id=FrameworkID("fw-1"), checkpoint=True)
TASK = TaskInfo(
    name="web",
    task_id=TaskID("task-1"),
    agent_id=AgentID(AGENT_ID),
    resources=scalars(cpus=0.5, mem=64),
    command=CommandInfo(value="sleep 1000"),
    labels=Labels((Label("a", "b"),)),
)
STATUS = {
    "task_id": {"value": "task-1"}, "state": "TASK_RUNNING", "source": "SOURCE_EXECUTOR",
    "uuid": "AAECAwQFRgeICQoLDA0ODw==", "timestamp": 1.5,
}  # fmt: skip


def call(kind: str | None, **more: Any) -> dict[str, Any]:
    ids = {"framework_id": {"value": "fw-1"}, "executor_id": {"value": "task-1"}}
    return ({"type": kind} if kind else {}) | ids | more


async def run(agent: Agent, master: FakeAgentMaster, containers: FakeContainers) -> str:
    """Start TASK; gives the token of its container."""
    master.run_task(FRAMEWORK, TASK)
    (container_id,) = await until(containers.running, "a container")
    executor = agent.state.containers[container_id]
    await until(lambda: executor.deadline is not None, "the launch")
    return executor.token


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (call("SUBSCRIBE"), {"Content-Type": "text/plain"}, 415),
        (call("SUBSCRIBE"), {"Content-Type": "application/x-protobuf"}, 415),
        ({"type": "SUBSCRIBE"}, {}, 400),
        (call(None), {}, 400),
        (call("UPDATE"), {}, 400),
        (call("UPDATE", update={"status": STATUS | {"state": "TASK_STAGING"}}), {}, 400),
        (call("UPDATE", update={"status": STATUS | {"uuid": "AAEC"}}), {}, 400),
        (call("UPDATE", update={"status": STATUS | {"source": "SOURCE_MASTER"}}), {}, 400),
        (call("MESSAGE"), {}, 400),
        (call("SUBSCRIBE") | {"framework_id": {"value": "fw-9"}}, {}, 400),
        (call("SUBSCRIBE") | {"executor_id": {"value": "x"}}, {}, 400),
        (call("UPDATE", update={"status": STATUS}), {}, 403),
        (call("SUBSCRIBE"), {"Accept": "text/html"}, 406),
        (call("DANCE"), {}, 501),
        (call("HEARTBEAT"), {}, 202),
    ],
    ids=[
        "another media type", "protobuf", "no ids", "no type", "update without update",
        "an executor may not stage", "a uuid of three bytes", "in the master's name",
        "message without message", "unknown framework", "unknown executor", "not subscribed",
        "accepts nothing that we speak", "unknown call", "a heartbeat is always welcome",
    ],
)  # fmt: skip
async def test_status_codes_of_the_executor_api(
    body: dict[str, Any],
    headers: dict[str, str],
    status: int,
    start_agent: Any,
    master: FakeAgentMaster,
    containers: FakeContainers,
) -> None:
    async with start_agent() as agent, aiohttp.ClientSession() as session:
        token = await run(agent, master, containers)
        url = f"http://127.0.0.1:{agent.port}/slave(1)/api/v1/executor"
        sent = {"Authorization": f"Bearer {token}"} | headers
        async with session.post(url, json=body, headers=sent) as answer:
            assert answer.status == status, await answer.text()


async def test_get_is_not_allowed_on_the_executor_api(start_agent: Any) -> None:
    async with start_agent() as agent, aiohttp.ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{agent.port}/api/v1/executor")
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_the_domain_socket_has_the_executor_api_and_nothing_else(start_agent: Any) -> None:
    async with start_agent() as agent:
        connector = aiohttp.UnixConnector(agent.state.settings.domain_socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.post("http://agent/api/v1/executor", json={}) as answer:
                assert answer.status == 400
            async with session.get("http://agent/state") as answer:
                assert answer.status == 404


async def test_state_has_the_originals_keys(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent, aiohttp.ClientSession() as session:
        await run(agent, master, containers)
        for path in ("/state", "/slave(1)/state", "/state.json"):
            async with session.get(f"http://127.0.0.1:{agent.port}{path}") as answer:
                state = await answer.json()
        assert set(state) == {
            "version", "start_time", "id", "pid", "hostname", "capabilities", "resources",
            "reserved_resources", "unreserved_resources", "reserved_resources_full",
            "unreserved_resources_full", "reserved_resources_allocated",
            "unreserved_resources_allocated", "resource_providers", "attributes", "flags",
            "frameworks", "completed_frameworks", "master_hostname",
        }  # fmt: skip
        assert state["pid"] == f"slave(1)@127.0.0.1:{agent.port}"
        assert state["resources"]["ports"] == "[31000-31100]"
        assert state["unreserved_resources_allocated"]["cpus"] == 0.5
        (framework,) = state["frameworks"]
        (executor,) = framework["executors"]
        assert executor["name"] == "Command Executor (Task: task-1) (Command: sh -c 'sleep 1000')"
        assert executor["directory"].endswith(f"/runs/{executor['container']}")
        assert executor["queued_tasks"] == [
            {
                "id": "task-1", "name": "web", "framework_id": "fw-1", "executor_id": "",
                "slave_id": AGENT_ID, "state": "TASK_STAGING", "role": "*", "statuses": [],
                "resources": {"cpus": 0.5, "gpus": 0.0, "mem": 64.0, "disk": 0.0},
                "labels": [{"key": "a", "value": "b"}],
            }
        ]  # fmt: skip


async def test_containers_are_listed_with_their_figures(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent, aiohttp.ClientSession() as session:
        await run(agent, master, containers)
        base = f"http://127.0.0.1:{agent.port}"
        async with session.get(f"{base}/containers?framework_id=fw-1") as answer:
            (container,) = await answer.json()
        assert container["executor_id"] == "task-1"
        assert container["statistics"]["mem_rss_bytes"] == 4096
        assert container["status"]["executor_pid"] == 4711
        async with session.get(f"{base}/containers?framework_id=other") as answer:
            assert await answer.json() == []
        async with session.get(f"{base}/monitor/statistics.json") as answer:
            (row,) = await answer.json()
        assert set(row) == {"framework_id", "executor_id", "executor_name", "source", "statistics"}
        async with session.get(f"{base}/metrics/snapshot") as answer:
            numbers = await answer.json()
        assert numbers["slave/cpus_used"] == 0.5
        assert numbers["slave/cpus_percent"] == 0.125
        assert numbers["slave/registered"] == 1
        assert numbers["slave/tasks_staging"] == 1
        async with session.get(f"{base}/metrics") as answer:
            assert "mesos_slave_registered 1.0" in await answer.text()
        for path in ("/health", "/ready", "/version", "/flags", "/debug/state"):
            async with session.get(base + path) as answer:
                text = await answer.text()
                assert answer.status == 200
                assert (
                    containers.configs[container["container_id"]].environment[
                        "MESOS_EXECUTOR_AUTHENTICATION_TOKEN"
                    ]
                    not in text
                )


OPERATOR_READS = {
    "GET_HEALTH": "get_health", "GET_FLAGS": "get_flags", "GET_VERSION": "get_version",
    "GET_METRICS": "get_metrics", "GET_LOGGING_LEVEL": "get_logging_level",
    "GET_STATE": "get_state", "GET_CONTAINERS": "get_containers",
    "GET_FRAMEWORKS": "get_frameworks", "GET_EXECUTORS": "get_executors",
    "GET_TASKS": "get_tasks", "GET_OPERATIONS": "get_operations", "GET_AGENT": "get_agent",
    "GET_RESOURCE_PROVIDERS": "get_resource_providers",
}  # fmt: skip


async def test_every_read_of_the_operator_api_answers(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent, aiohttp.ClientSession() as session:
        await run(agent, master, containers)
        url = f"http://127.0.0.1:{agent.port}/api/v1"
        for kind, name in OPERATOR_READS.items():
            async with session.post(url, json={"type": kind}) as answer:
                assert answer.status == 200, kind
                body = await answer.json()
            assert body["type"] == kind
            assert name in body
        async with session.post(url, json={"type": "GET_TASKS"}) as answer:
            tasks = (await answer.json())["get_tasks"]
        assert [t["task_id"]["value"] for t in tasks["queued_tasks"]] == ["task-1"]
        for kind in ("LAUNCH_CONTAINER", "ATTACH_CONTAINER_INPUT", "NO_SUCH_CALL"):
            async with session.post(url, json={"type": kind}) as answer:
                assert answer.status == 501, kind


async def test_a_sandbox_is_read_under_each_of_its_names(
    start_agent: Any, master: FakeAgentMaster, containers: FakeContainers
) -> None:
    async with start_agent() as agent, aiohttp.ClientSession() as session:
        await run(agent, master, containers)
        (config,) = containers.configs.values()
        with open(f"{config.sandbox}/stdout", "w") as out:
            out.write("hello")
        base = f"http://127.0.0.1:{agent.port}"
        for path in (config.sandbox, "/frameworks/fw-1/executors/task-1/runs/latest"):
            query = {"path": f"{path}/stdout", "offset": "1"}
            async with session.get(f"{base}/files/read", params=query) as answer:
                assert await answer.json() == {"data": "ello", "offset": 1}
        read = {"type": "READ_FILE", "read_file": {"path": f"{path}/stdout", "offset": 0}}
        async with session.post(f"{base}/api/v1", json=read) as answer:
            assert await answer.json() == {
                "type": "READ_FILE", "read_file": {"size": 5, "data": "aGVsbG8="},
            }  # fmt: skip
        listing = {"type": "LIST_FILES", "list_files": {"path": path}}
        async with session.post(f"{base}/api/v1", json=listing) as answer:
            (info,) = (await answer.json())["list_files"]["file_infos"]
        assert (info["path"], info["size"], info["mode"]) == (f"{path}/stdout", 5, 0o100644)
        async with session.get(f"{base}/files/debug") as answer:
            assert await answer.json() == {config.sandbox: config.sandbox}
        os.symlink("../../../../../../../../../meta/boot_id", f"{config.sandbox}/link")
        os.symlink("stdout", f"{config.sandbox}/inside")
        for name, status in (("link", 404), ("inside", 200)):
            query = {"path": f"{path}/{name}", "offset": "0"}
            async with session.get(f"{base}/files/read", params=query) as answer:
                assert answer.status == status, name
        outside = {"path": f"{path}/../../../../../../../../meta/boot_id"}
        async with session.get(f"{base}/files/read", params=outside) as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("-rw-r--r--", 0o100644),
        ("drwxrwxrwt", 0o041777),
        ("lrwxrwxrwx", 0o120777),
        ("-rwsr-Sr-x", 0o106745),
        ("srw-------", 0o140600),
    ],
)
def test_a_mode_is_read_back_from_its_text(text: str, mode: int) -> None:
    assert mode_of(text) == mode
