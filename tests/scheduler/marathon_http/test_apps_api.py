"""`/v2/apps`: what is answered, with which status, and what it does."""

from typing import Any

import pytest

from cairn_core.mesos.types import TaskState


async def test_a_minimal_app_is_read_back_in_canonical_form(site: Any) -> None:
    answer = await site("POST", "/v2/apps", {"id": "a", "cmd": "sleep 9"})
    assert answer.status == 201
    created = answer.json
    assert answer.headers["Location"] == "/v2/apps/a"
    assert created["deployments"] == [{"id": answer.headers["Marathon-Deployment-Id"]}]
    assert "versionInfo" not in created
    assert {created[k] for k in ("tasksStaged", "tasksRunning", "tasksHealthy")} == {0}
    app = (await site.get("/v2/apps//a"))["app"]
    version = app["version"]
    assert created["version"] == version
    assert app == {
        "id": "/a", "cmd": "sleep 9", "backoffFactor": 1.15, "backoffSeconds": 1, "cpus": 1,
        "disk": 0, "executor": "", "gpus": 0, "instances": 1, "labels": {},
        "killSelection": "YOUNGEST_FIRST", "maxLaunchDelaySeconds": 300, "mem": 128,
        "networks": [{"mode": "host"}], "requirePorts": False, "role": "*",
        "portDefinitions": [{"name": "default", "port": 10000, "protocol": "tcp"}],
        "unreachableStrategy": {"expungeAfterSeconds": 0, "inactiveAfterSeconds": 0},
        "upgradeStrategy": {"maximumOverCapacity": 1, "minimumHealthCapacity": 1},
        "version": version,
        "versionInfo": {"lastConfigChangeAt": version, "lastScalingAt": version},
        "tasksStaged": 0, "tasksRunning": 0, "tasksHealthy": 0, "tasksUnhealthy": 0,
        "deployments": created["deployments"], "tasks": [],
    }  # fmt: skip


async def test_every_answer_forbids_caching_and_names_the_leader(site: Any) -> None:
    for method, path in (("GET", "/v2/apps"), ("GET", "/v2/apps/none"), ("GET", "/nowhere")):
        headers = (await site(method, path)).headers
        assert headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
        assert headers["Pragma"] == "no-cache"
        assert headers["Expires"] == "0"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-XSS-Protection"] == "1; mode=block"
        assert headers["X-Marathon-Leader"] == "http://marathon1:8080"
        assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "answer"),
    [
        ("GET", "/nowhere", None, 404, {"message": "URI not found"}),
        ("GET", "/v2/apps/x", None, 404, {"message": "App '/x' does not exist"}),
        (
            "GET", "/v2/apps/a/versions/2000-01-01T00:00:00.000Z", None, 404,
            {"message": "App '/a' does not exist in version 2000-01-01T00:00:00.000Z"},
        ),
        ("GET", "/v2/apps/x/versions", None, 404, {"message": "App '/x' does not exist"}),
        ("PATCH", "/v2/apps/x", {"cpus": 2}, 404, {"message": "App '/x' does not exist"}),
        ("DELETE", "/v2/apps/x", None, 404, {"message": "App '/x' does not exist"}),
        ("POST", "/v2/apps/x/restart", None, 404, {"message": "App '/x' does not exist"}),
        ("GET", "/v2/groups/x", None, 404, {"message": "Group '/x' does not exist"}),
        ("GET", "/v2/pods/x", None, 404, {"message": "Pod '/x' does not exist"}),
        ("POST", "/v2/pods", {"id": "x"}, 501, {"message": "pods: not served"}),
        (
            "DELETE", "/v2/deployments/x", None, 404,
            {"message": "DeploymentPlan x does not exist"},
        ),
        (
            "DELETE", "/v2/queue/x/delay", None, 404,
            {"message": "Application /x not found in tasks queue."},
        ),
        (
            "DELETE", "/v2/apps/a/tasks/a.instance-nope._app.1", None, 404,
            {"message": "Task 'a.instance-nope._app.1' does not exist"},
        ),
        (
            "POST", "/v2/apps", {"id": "a", "cmd": "x"}, 409,
            {"message": "An app with id [/a] already exists."},
        ),
        (
            "POST", "/v2/apps", {"id": 3, "cmd": 4}, 422,
            {
                "message": "Invalid JSON",
                "details": [
                    {"path": "/id", "errors": ["error.expected.jsstring"]},
                    {"path": "/cmd", "errors": ["error.expected.jsstring"]},
                ],
            },
        ),
        (
            "POST", "/v2/apps", {"id": "b"}, 422,
            {
                "message": "Object is not valid",
                "details": [
                    {
                        "path": "/",
                        "errors": [
                            "AppDefinition must either contain one of 'cmd' or 'args', "
                            "and/or a 'container'."
                        ],
                    }
                ],
            },
        ),
        (
            "PUT", "/v2/apps/a", {"version": "2000-01-01T00:00:00.000Z", "cpus": 1}, 422,
            {
                "message": "Object is not valid",
                "details": [
                    {
                        "path": "/",
                        "errors": [
                            "The 'version' field may only be combined with the 'id' field."
                        ],
                    }
                ],
            },
        ),
        (
            "DELETE", "/v2/apps/a/tasks?scale=true&wipe=true", None, 400,
            {"message": "You cannot use scale and wipe at the same time."},
        ),
        ("POST", "/v2/info", {}, 405, {"message": "Method Not Allowed"}),
        ("DELETE", "/v2/apps", None, 405, {"message": "Method Not Allowed"}),
        ("GET", "/v2/events", None, 405, {"message": "Method Not Allowed"}),
    ],
)  # fmt: skip
async def test_errors_have_the_bodies_that_clients_know(
    site: Any, method: str, path: str, body: Any, status: int, answer: Any
) -> None:
    await site.sleeper("/a")
    got = await site(method, path, body)
    assert (got.status, got.json) == (status, answer)


async def test_text_that_is_no_json_and_json_that_is_no_object(site: Any) -> None:
    broken = await site("POST", "/v2/apps", b'{"id": ')
    assert broken.status == 400
    assert broken.json["message"] == "Invalid JSON"
    assert isinstance(broken.json["details"], str)
    number = await site("POST", "/v2/apps", b"7")
    assert number.status == 400
    assert number.json["message"] == "Please specify data in JSON format"
    selector = await site("GET", "/v2/apps?label=a%3D%3D")
    assert selector.status == 422
    assert selector.json["message"].startswith("Can not parse label selector")
    bad_id = await site("POST", "/v2/tasks/delete", {"ids": ["nonsense"]})
    assert bad_id.status == 400
    assert bad_id.json["message"].startswith("Invalid task id 'nonsense'.")


async def test_a_locked_app_names_its_deployments_and_force_goes_over_it(site: Any) -> None:
    created = await site.sleeper("/a")
    plan = created["deployments"][0]["id"]
    locked = await site("PUT", "/v2/apps/a", {"cpus": 2})
    assert locked.status == 409
    assert locked.json["deployments"] == [{"id": plan}]
    assert locked.json["message"].startswith("App is locked by one or more deployments.")
    forced = await site("PUT", "/v2/apps/a?force=True", {"cpus": 2})
    assert forced.status == 200
    assert forced.json["deploymentId"] == forced.headers["Marathon-Deployment-Id"]
    assert [d["id"] for d in await site.get("/v2/deployments")] == [forced.json["deploymentId"]]


async def test_a_running_app_has_tasks_counts_and_no_deployments(site: Any) -> None:
    await site.sleeper("/web", instances=2)
    tasks = site.rig.run("agent-7")
    app = (await site.get("/v2/apps/web?embed=app.taskStats&embed=app.readiness"))["app"]
    assert (app["tasksRunning"], app["tasksStaged"], app["deployments"]) == (2, 0, [])
    assert [task["id"] for task in app["tasks"]] == tasks
    task = app["tasks"][0]
    assert task["appId"] == "/web"
    assert (task["host"], task["slaveId"]) == ("agent-7", "agent-7-id")
    assert task["state"] == "TASK_RUNNING"
    assert 31000 <= task["ports"][0] <= 31999
    assert task["version"] == app["version"]
    assert "servicePorts" not in task
    assert app["readinessCheckResults"] == []
    assert app["taskStats"]["totalSummary"]["stats"]["counts"]["running"] == 2
    assert "tasksStats" not in app
    listed = (await site.get("/v2/apps"))["apps"][0]
    assert "tasks" not in listed
    assert listed["tasksRunning"] == 2
    embedded = (await site.get("/v2/apps/?embed=apps.tasks"))["apps"][0]
    assert embedded["tasks"] == app["tasks"]
    below = await site.get("/v2/apps/*")
    assert [a["id"] for a in below["*"]] == ["/web"]
    assert below["*"][0]["tasks"] == app["tasks"]


async def test_what_was_rendered_before_is_not_shown_after_a_change(site: Any) -> None:
    await site.sleeper("/web")
    (task_id,) = site.rig.run()
    before = (await site.get("/v2/apps/web"))["app"]
    site.rig.update(task_id, TaskState.FAILED, message="killed by the test")
    after = (await site.get("/v2/apps/web"))["app"]
    assert before["tasksRunning"] == 1
    assert after["tasksRunning"] == 0
    failure = after["lastTaskFailure"]
    assert (failure["state"], failure["message"]) == ("TASK_FAILED", "killed by the test")
    assert (failure["host"], failure["taskId"]) == ("a1", task_id)
    assert failure["version"] == before["version"]
    await site("PUT", "/v2/apps/web?force=true", {"cpus": 3})
    assert (await site.get("/v2/apps/web"))["app"]["cpus"] == 3
    assert (await site.get("/v2/apps"))["apps"][0]["cpus"] == 3


async def test_filters_of_the_list(site: Any) -> None:
    await site.sleeper("/prod/web", labels={"tier": "front", "env": "prod"})
    await site.sleeper("/prod/db", cmd="run-database", labels={"tier": "back"})

    async def ids(query: str) -> list[str]:
        return [app["id"] for app in (await site.get(f"/v2/apps?{query}"))["apps"]]

    assert await ids("cmd=DATABASE") == ["/prod/db"]
    assert await ids("id=WEB") == ["/prod/web"]
    assert await ids("label=tier%3D%3Dfront,env") == ["/prod/web"]
    assert await ids("label=tier in (front, back)") == ["/prod/db", "/prod/web"]
    assert await ids("label=env!%3Dprod") == []
    assert await ids("id=") == ["/prod/db", "/prod/web"]


async def test_updates_merge_replace_and_create(site: Any) -> None:
    await site.sleeper("/a", mem=64, labels={"x": "1"})
    site.rig.run()
    merged = await site("PUT", "/v2/apps/a", {"cpus": 0.5})
    assert (merged.status, set(merged.json)) == (200, {"version", "deploymentId"})
    app = (await site.get("/v2/apps/a"))["app"]
    assert (app["cpus"], app["mem"], app["labels"]) == (0.5, 64, {"x": "1"})
    site.rig.run()
    body = {"cmd": "sleep 8"}
    replaced = await site("PUT", "/v2/apps/a?partialUpdate=FALSE&force=true", body)
    assert replaced.status == 200
    app = (await site.get("/v2/apps/a"))["app"]
    assert (app["cpus"], app["mem"], app["labels"], app["cmd"]) == (1, 128, {}, "sleep 8")
    created = await site("PUT", "/v2/apps/deep/b", {"cmd": "sleep 7"})
    assert created.status == 201
    assert created.headers["Location"] == "/v2/apps/deep/b"
    assert (await site.get("/v2/apps/deep/b"))["app"]["cmd"] == "sleep 7"


async def test_many_updates_are_one_deployment(site: Any) -> None:
    body = [{"id": "/a", "cmd": "x1"}, {"id": "/b", "cmd": "x2", "dependencies": ["/a"]}]
    answer = await site("PUT", "/v2/apps", body)
    assert answer.status == 200
    (deployment,) = await site.get("/v2/deployments")
    assert deployment["id"] == answer.json["deploymentId"]
    assert deployment["affectedApps"] == ["/a", "/b"]
    missing = await site("PATCH", "/v2/apps?force=true", [{"id": "/a"}, {"id": "/c"}])
    assert missing.status == 404
    nameless = await site("PUT", "/v2/apps", [{"cmd": "x"}])
    assert nameless.json["details"] == [{"path": "(0)/id", "errors": ["error.path.missing"]}]


async def test_versions_and_the_way_back(site: Any) -> None:
    first = (await site.sleeper("/a"))["version"]
    site.rig.run()
    await site("PUT", "/v2/apps/a", {"cmd": "sleep 1000"})
    site.rig.run()
    site.rig.run()
    versions = (await site.get("/v2/apps/a/versions"))["versions"]
    assert versions == sorted(versions, reverse=True)
    assert versions[-1] == first
    old = await site.get(f"/v2/apps/a/versions/{first}")
    assert (old["id"], old["cmd"], old["version"]) == ("/a", "sleep 9", first)
    back = await site("PUT", "/v2/apps/a?force=true", {"version": first})
    assert back.status == 200
    app = (await site.get("/v2/apps/a"))["app"]
    assert app["cmd"] == "sleep 9"
    assert app["version"] == back.json["version"] != first


async def test_restart_and_delete(site: Any) -> None:
    await site.sleeper("/a")
    (old,) = site.rig.run()
    restarted = await site("POST", "/v2/apps/a/restart")
    assert restarted.status == 200
    (deployment,) = await site.get("/v2/deployments")
    assert deployment["steps"] == [{"actions": [{"action": "RestartApplication", "app": "/a"}]}]
    (new,) = site.rig.run()
    assert site.rig.kills() == [old]
    site.rig.update(old, TaskState.KILLED)
    site.rig.pass_time()
    assert await site.get("/v2/deployments") == []
    deleted = await site("DELETE", "/v2/apps/a")
    assert (deleted.status, set(deleted.json)) == (200, {"version", "deploymentId"})
    assert (await site("GET", "/v2/apps/a")).status == 404
    site.rig.pass_time()
    assert site.rig.kills() == [old, new]


async def test_an_app_may_be_named_like_a_part_of_an_app(site: Any) -> None:
    await site.sleeper("/team/tasks/web")
    await site.sleeper("/team/versions/web")
    await site.sleeper("/explain")
    assert (await site.get("/v2/apps/team/tasks/web"))["app"]["id"] == "/team/tasks/web"
    assert (await site.get("/v2/apps/team/versions/web"))["app"]["id"] == "/team/versions/web"
    assert (await site("DELETE", "/v2/apps/team/tasks/web")).status == 200
    assert (await site.get("/v2/apps/explain"))["app"]["id"] == "/explain"


async def test_an_app_that_cannot_run_here_says_why(site: Any) -> None:
    body = {
        "id": "/boxed",
        "container": {"type": "DOCKER", "docker": {"image": "nginx"}},
    }
    assert (await site("POST", "/v2/apps", body)).status == 201
    site.rig.pass_time()
    (item,) = (await site.get("/v2/queue"))["queue"]
    first = item["processedOffersSummary"]["rejectSummaryLaunchAttempt"][0]
    assert first["reason"].startswith("NotSupported: this cluster has no ")
    explained = await site.get("/v2/apps/boxed/explain")
    assert explained["waiting"] == 1
    assert explained["reasons"][0].startswith("it can be launched nowhere: this cluster has no ")


async def test_explain_names_the_agents_that_do_not_fit(site: Any) -> None:
    await site.sleeper("/big", mem=4096)
    site.rig.pass_time()
    site.rig.offer("small", "cpus:1;mem:64;ports:[31000-31010]")
    explained = await site.get("/v2/apps/big/explain")
    assert explained["agents"] == [{"agentId": "small-id", "reason": "InsufficientMemory"}]
    assert explained["reasons"] == [
        "1 instances wait; 1 of 1 agents do not fit (1 for InsufficientMemory)"
    ]
