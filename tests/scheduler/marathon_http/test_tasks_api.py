"""`/v2/tasks` and the tasks of apps: lists, endpoints as text, kills."""

from typing import Any

from cairn_core.mesos.types import TaskState


async def test_all_tasks_with_their_service_ports(site: Any) -> None:
    await site.sleeper("/b", portDefinitions=[{"port": 9001}, {"port": 9002}])
    await site.sleeper("/a", portDefinitions=[])
    site.rig.run()
    tasks = (await site.get("/v2/tasks"))["tasks"]
    assert [(t["appId"], t["servicePorts"], len(t["ports"])) for t in tasks] == [
        ("/a", [], 0),
        ("/b", [9001, 9002], 2),
    ]
    assert (await site.get("/v2/apps/b/tasks"))["tasks"][0]["id"] == tasks[1]["id"]
    assert (await site("GET", "/v2/apps/c/tasks")).status == 404


async def test_tasks_by_status(site: Any) -> None:
    await site.sleeper("/a", instances=2)
    site.rig.pass_time()
    first, second = site.rig.offer()
    site.rig.update(first, TaskState.RUNNING)
    site.rig.update(second, TaskState.STAGING)

    async def ids(query: str) -> list[str]:
        return [task["id"] for task in (await site.get(f"/v2/tasks?{query}"))["tasks"]]

    assert await ids("status=running") == [first]
    assert await ids("status[]=staging") == [second]
    assert await ids("status=running&status=staging") == [first, second]


async def test_endpoints_as_text(site: Any) -> None:
    await site.sleeper("/prod/web", portDefinitions=[{"port": 9001}], instances=2)
    await site.sleeper("/batch", portDefinitions=[])
    site.rig.run("host1")
    answer = await site("GET", "/v2/tasks", headers={"Accept": "text/plain"})
    assert answer.headers["Content-Type"].startswith("text/plain")
    ports = [t["ports"][0] for t in (await site.get("/v2/apps/prod/web/tasks"))["tasks"]]
    web = f"prod_web\t9001\thost1:{ports[0]}\thost1:{ports[1]}\t\n"
    assert answer.body.decode() == "batch\t \thost1\t\n" + web
    alone = await site("GET", "/v2/apps/prod/web/tasks", headers={"Accept": "text/plain"})
    assert alone.body.decode() == web


async def test_a_killed_task_is_shown_as_it_was_and_replaced(site: Any) -> None:
    await site.sleeper("/a", instances=2)
    first, second = site.rig.run()
    answer = await site("DELETE", f"/v2/apps/a/tasks/{first}")
    assert (answer.status, answer.json["task"]["id"]) == (200, first)
    assert answer.json["task"]["state"] == "TASK_RUNNING"
    assert site.rig.kills() == [first]
    site.rig.update(first, TaskState.KILLED)
    assert len(site.rig.run()) == 1
    assert (await site.get("/v2/apps/a"))["app"]["instances"] == 2
    other = await site("DELETE", f"/v2/apps/a/tasks/{second}?scale=True")
    assert (other.status, set(other.json)) == (200, {"version", "deploymentId"})
    assert (await site.get("/v2/apps/a"))["app"]["instances"] == 1
    assert site.rig.kills()[-1] == second


async def test_tasks_are_killed_by_host(site: Any) -> None:
    await site.sleeper("/a", instances=2, constraints=[["hostname", "UNIQUE"]])
    (here,) = site.rig.run("h1")
    (there,) = site.rig.run("h2")
    answer = await site("DELETE", "/v2/apps/a/tasks?host=h2")
    assert [task["id"] for task in answer.json["tasks"]] == [there]
    assert site.rig.kills() == [there]
    both = await site("DELETE", "/v2/apps/a/tasks")
    assert {task["id"] for task in both.json["tasks"]} == {here, there}


async def test_tasks_are_killed_by_name_across_apps(site: Any) -> None:
    await site.sleeper("/a")
    await site.sleeper("/b")
    tasks = site.rig.run()
    gone = "a.instance-11111111-2222-11e9-8444-555555555555._app.1"
    answer = await site("POST", "/v2/tasks/delete", {"ids": [*tasks, gone, tasks[0]]})
    assert {task["id"] for task in answer.json["tasks"]} == set(tasks)
    assert sorted(site.rig.kills()) == sorted(tasks)
    for body, path in (({}, "/ids"), ({"ids": 3}, "/ids"), ({"ids": ["x", 4]}, "/ids(1)")):
        refused = await site("POST", "/v2/tasks/delete", body)
        assert refused.status == 422
        assert refused.json["details"][0]["path"] == path


async def test_an_old_attempt_of_an_instance_is_not_its_task(site: Any) -> None:
    await site.sleeper("/a")
    (first,) = site.rig.run()
    site.rig.update(first, TaskState.FAILED)
    site.rig.pass_time(2.0)
    (second,) = site.rig.run()
    assert first.rpartition(".")[0] == second.rpartition(".")[0]
    assert (await site("DELETE", f"/v2/apps/a/tasks/{first}")).status == 404
    assert (await site("DELETE", f"/v2/apps/b/tasks/{second}")).status == 404
