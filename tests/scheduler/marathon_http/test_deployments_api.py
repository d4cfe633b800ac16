"""`/v2/deployments` and `/v2/queue`."""

from collections.abc import Callable
from typing import Any

from cairn_core.mesos.types import TaskState
from cairn_scheduler.marathon.effects import Probe, Probed


async def test_a_deployment_is_rolled_back(site: Any) -> None:
    await site.sleeper("/a", cpus=1)
    site.rig.run()
    changed = await site("PUT", "/v2/apps/a", {"cpus": 2})
    undone = await site("DELETE", f"/v2/deployments/{changed.json['deploymentId']}")
    assert (undone.status, set(undone.json)) == (200, {"version", "deploymentId"})
    assert (await site.get("/v2/apps/a"))["app"]["cpus"] == 1
    ids = [d["id"] for d in await site.get("/v2/deployments")]
    assert ids == [undone.json["deploymentId"]]


async def test_a_deployment_is_stopped_where_it_is(site: Any) -> None:
    plan = (await site.sleeper("/a"))["deployments"][0]["id"]
    stopped = await site("DELETE", f"/v2/deployments/{plan}?force=TRUE")
    assert (stopped.status, stopped.body) == (202, b"")
    assert await site.get("/v2/deployments") == []
    assert (await site.get("/v2/apps/a"))["app"]["id"] == "/a"


async def test_the_queue_shows_what_waits_and_why(site: Any) -> None:
    await site.sleeper("/big", cpus=64, instances=3)
    site.rig.pass_time()
    site.rig.offer("small", "cpus:1;mem:1024;ports:[31000-31009]")
    (item,) = (await site.get("/v2/queue"))["queue"]
    assert (item["count"], item["role"], item["app"]["id"]) == (3, "*", "/big")
    assert item["delay"] == {"timeLeftSeconds": 0, "overdue": True}
    summary = item["processedOffersSummary"]
    assert (summary["processedOffersCount"], summary["unusedOffersCount"]) == (1, 1)
    declined = {r["reason"]: r["declined"] for r in summary["rejectSummaryLastOffers"]}
    assert declined == {
        "UnfulfilledRole": 0, "UnfulfilledConstraint": 0, "NoCorrespondingReservationFound": 0,
        "AgentMaintenance": 0, "InsufficientCpus": 1, "InsufficientMemory": 0,
        "InsufficientDisk": 0, "InsufficientGpus": 0, "InsufficientPorts": 0,
        "DeclinedScarceResources": 0,
    }  # fmt: skip
    assert "lastUnusedOffers" not in item
    (item,) = (await site.get("/v2/queue?embed=lastUnusedOffers"))["queue"]
    (unused,) = item["lastUnusedOffers"]
    assert unused["offer"]["hostname"] == "small"
    assert "InsufficientCpus" in unused["reason"]
    strict = await site.get("/v2/queue", headers={"User-Agent": "python-requests/2.31.0"})
    assert "role" not in strict["queue"][0]


async def test_a_delay_is_shown_and_reset(site: Any) -> None:
    await site.sleeper("/a", backoffSeconds=100, maxLaunchDelaySeconds=3600)
    (task,) = site.rig.run()
    site.rig.update(task, TaskState.FAILED)
    site.rig.pass_time()
    (item,) = (await site.get("/v2/queue"))["queue"]
    assert item["delay"]["overdue"] is False
    assert 90 <= item["delay"]["timeLeftSeconds"] <= 100
    assert site.rig.offer() == []
    assert (await site("DELETE", "/v2/queue/a/delay")).status == 204
    assert len(site.rig.run()) == 1
    assert (await site.get("/v2/queue"))["queue"] == []
    assert (await site("DELETE", "/v2/queue/a/delay")).status == 404
    assert (await site("DELETE", "/v2/queue/a")).json == {"message": "URI not found"}


async def test_only_so_many_deployments_run_at_once(make_site: Callable[..., Any]) -> None:
    site = await make_site(max_running_deployments=1)
    await site.sleeper("/a")
    refused = await site("POST", "/v2/apps", {"id": "/b", "cmd": "sleep 9"})
    assert refused.status == 403
    assert refused.json["message"].startswith("Max number (1) of running deployments")
    assert (await site("GET", "/v2/apps/b")).status == 404


async def test_readiness_is_shown_while_it_is_waited_for(site: Any) -> None:
    await site.sleeper(
        "/slow",
        portDefinitions=[{"port": 0, "name": "http"}],
        readinessChecks=[{"name": "up", "portName": "http", "preserveLastResponse": True}],
    )
    (task,) = site.rig.run()
    (probe,) = [e for e in site.rig.effects if isinstance(e, Probe)]
    site.rig.found(Probed(probe.key, good=False, status=503, content_type="x/y", body="not yet"))
    result = {
        "name": "up", "taskId": task, "ready": False,
        "lastResponse": {"status": 503, "contentType": "x/y", "body": "not yet"},
    }  # fmt: skip
    app = (await site.get("/v2/apps/slow?embed=app.readiness"))["app"]
    assert app["readinessCheckResults"] == [result]
    (deployment,) = await site.get("/v2/deployments")
    assert deployment["currentActions"][0]["readinessCheckResults"] == [result]
    site.rig.found(Probed(probe.key, good=True, status=200))
    site.rig.pass_time()
    assert await site.get("/v2/deployments") == []
