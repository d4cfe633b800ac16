"""A whole Marathon in this process: HTTP in front, a fake master behind, its log on disk."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from cairn_core.testing.fake_master import FakeMaster
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.daemon import Assembly, assemble

WAIT_S = 20.0
APP = {"id": "/web", "cmd": "sleep 9", "cpus": 0.5, "mem": 32, "portDefinitions": []}


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(WAIT_S):
        while not (value := await condition()):  # noqa: ASYNC110 - conditions come from anywhere
            await asyncio.sleep(0.01)
    return value


@contextlib.asynccontextmanager
async def running(master: FakeMaster, work_dir: Path) -> AsyncIterator[Assembly]:
    config = MarathonConfig(master=master.url, work_dir=str(work_dir), hostname="localhost")
    assembly = await assemble(config, [("127.0.0.1", 0)])
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for service in assembly.services:
            group.create_task(_serve(service, stop))
        try:
            await until(lambda: _is_ready(assembly))
            yield assembly
        finally:
            stop.set()


async def _serve(service: Callable[[asyncio.Event], Any], stop: asyncio.Event) -> None:
    await service(stop)


async def _is_ready(assembly: Assembly) -> bool:
    return bool(assembly.api.http.addresses) and assembly.marathon.elected()


async def ask(assembly: Assembly, method: str, path: str, body: Any = None) -> Any:
    url = f"http://127.0.0.1:{assembly.api.http.port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=body) as answer,
    ):
        assert answer.status < 400, await answer.text()
        return await answer.json()


async def test_an_app_runs_outlives_its_marathon_and_ends(tmp_path: Path) -> None:
    async with FakeMaster() as master:
        async with running(master, tmp_path) as first:
            await master.call("SUBSCRIBE")
            await ask(first, "POST", "/v2/apps", APP)
            await master.call("REVIVE")
            master.offer("agent-1", cpus=2, mem=512)
            accept = (await master.call("ACCEPT")).accept
            assert accept is not None
            (operation,) = accept.operations
            assert operation.launch is not None
            (task,) = operation.launch.task_infos
            task_id = task.task_id.value
            master.update(task_id, "TASK_RUNNING")
            await master.call("ACKNOWLEDGE")

            async def runs() -> bool:
                app = (await ask(first, "GET", "/v2/apps/web"))["app"]
                return bool(app["tasksRunning"] == 1 and not app["deployments"])

            await until(runs)
            framework_id = (await ask(first, "GET", "/v2/info"))["frameworkId"]

        async with running(master, tmp_path) as second:
            subscribed = await master.call("SUBSCRIBE")
            assert subscribed.framework_id is not None
            assert subscribed.framework_id.value == framework_id
            app = (await ask(second, "GET", "/v2/apps/web"))["app"]
            assert [t["id"] for t in app["tasks"]] == [task_id]
            assert app["tasksRunning"] == 1
            reconcile = (await master.call("RECONCILE", _asks_for_tasks)).reconcile
            assert reconcile is not None
            assert [t.task_id.value for t in reconcile.tasks] == [task_id]
            master.update(task_id, "TASK_RUNNING")
            await master.call("ACKNOWLEDGE")
            sent = [call.type for call in master.calls]
            assert (sent.count("ACCEPT"), sent.count("KILL")) == (1, 0)

            await ask(second, "DELETE", "/v2/apps/web")
            kill = (await master.call("KILL")).kill
            assert kill is not None
            assert kill.task_id.value == task_id
            master.update(task_id, "TASK_KILLED")

            async def is_gone() -> bool:
                return not await ask(second, "GET", "/v2/deployments")

            await until(is_gone)
            assert (await ask(second, "GET", "/v2/tasks"))["tasks"] == []


def _asks_for_tasks(call: Any) -> bool:
    return bool(call.reconcile.tasks)


async def test_leadership_given_up_ends_the_process_in_one_line(tmp_path: Path) -> None:
    async with FakeMaster() as master:
        try:
            async with running(master, tmp_path) as marathon:
                await ask(marathon, "DELETE", "/v2/leader")
                await asyncio.wait_for(asyncio.Event().wait(), WAIT_S)
        except* Exception as group:
            ended = [str(error) for error in group.exceptions]
        assert ended == ["leadership was given up: ending, to start anew"]
