"""Drives the client `marathon`, unmodified: prints what it saw as JSON, fails where it fails.

Usage: drive.py <what> <base URL>
"""

import collections
import collections.abc
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# The client is older than Python 3.10, which moved this name.
collections.Iterable = collections.abc.Iterable

# ruff: noqa: E402
from marathon import MarathonClient
from marathon.exceptions import ConflictError, MarathonHttpError, NotFoundError
from marathon.models import MarathonApp, MarathonGroup, MarathonHealthCheck


def wait(what: str, check: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(0.05)
    return found


def settled(client: MarathonClient) -> bool:
    return not client.list_deployments()


def apps(client: MarathonClient) -> Any:
    """The life of an app."""
    small = {"cpus": 0.1, "mem": 32}
    app = client.create_app(
        "conformance/web",
        MarathonApp(cmd="sleep 1000", instances=2, labels={"tier": "front"}, **small),
    )
    seen: dict[str, Any] = {"created": app.id}
    wait("two running", lambda: client.get_app("/conformance/web").tasks_running == 2)
    wait("the first deployment", lambda: settled(client))
    first = client.get_app("conformance/web", embed_task_stats=True)
    seen["version"] = first.version
    seen["tasks"] = sorted(task.state for task in first.tasks)
    seen["listed"] = [a.id for a in client.list_apps(embed_tasks=True, label="tier==front")]
    try:
        client.create_app("conformance/web", MarathonApp(cmd="sleep 1", **small))
    except ConflictError as error:
        seen["conflict"] = error.error_message
    client.scale_app("conformance/web", delta=1)
    wait("three running", lambda: client.get_app("conformance/web").tasks_running == 3)
    wait("the scaling", lambda: settled(client))
    before = {task.id for task in client.list_tasks("conformance/web")}
    killed = client.kill_task("conformance/web", sorted(before)[0])
    seen["killed"] = killed.id in before
    wait(
        "a replacement",
        lambda: (
            len({t.id for t in client.list_tasks("conformance/web")} - before) == 1
            and client.get_app("conformance/web").tasks_running == 3
        ),
    )
    client.kill_tasks("conformance/web", scale=True)
    wait("none left", lambda: client.get_app("conformance/web").instances == 0)
    wait("the end of all", lambda: settled(client))
    client.update_app("conformance/web", MarathonApp(cmd="sleep 2000", instances=1, **small))
    wait("the update", lambda: settled(client))
    seen["commands"] = [client.get_app("conformance/web").cmd]
    seen["versions"] = len(client.list_versions("conformance/web"))
    seen["old"] = client.get_version("conformance/web", seen["version"]).cmd
    client.rollback_app("conformance/web", seen["version"])
    wait("the way back", lambda: settled(client))
    back = client.get_app("conformance/web")
    seen["commands"].append(back.cmd)
    seen["instances"] = back.instances
    client.restart_app("conformance/web")
    wait("the restart", lambda: settled(client))
    seen["endpoints"] = len(client.list_endpoints())
    client.kill_given_tasks([t.id for t in client.list_tasks("conformance/web")], scale=True)
    wait("given tasks", lambda: settled(client))
    client.delete_app("conformance/web")
    wait("the deletion", lambda: settled(client))
    try:
        client.get_app("conformance/web")
    except NotFoundError as error:
        seen["gone"] = error.error_message
    return seen


def groups(client: MarathonClient) -> Any:
    """The life of a group."""
    member = MarathonApp(id="one", cmd="sleep 1000", cpus=0.1, mem=32)
    other = MarathonApp(
        id="two", cmd="sleep 1000", cpus=0.1, mem=32, dependencies=["/conformance-group/one"]
    )
    client.create_group(MarathonGroup(id="/conformance-group", apps=[member, other]))
    wait("the group", lambda: settled(client))
    group = client.get_group("conformance-group")
    seen = {"apps": [app.id for app in group.apps], "listed": [g.id for g in client.list_groups()]}
    version = group.version
    client.scale_group("conformance-group", 2)
    wait("twice the group", lambda: settled(client))
    seen["scaled"] = [app.instances for app in client.get_group("conformance-group").apps]
    client.rollback_group("conformance-group", version)
    wait("the way back", lambda: settled(client))
    seen["back"] = [app.instances for app in client.get_group("conformance-group").apps]
    client.update_group("conformance-group", MarathonGroup(apps=[member]))
    wait("the update", lambda: settled(client))
    seen["updated"] = [app.id for app in client.get_group("conformance-group").apps]
    client.delete_group("conformance-group")
    wait("the deletion", lambda: settled(client))
    seen["left"] = [g.id for g in client.list_groups()]
    return seen


def waiting(client: MarathonClient) -> Any:
    """What cannot be launched: queue, deployments, refusals."""
    client.create_app(
        "conformance-big",
        MarathonApp(
            cmd="sleep 1",
            cpus=1000,
            mem=32,
            health_checks=[MarathonHealthCheck(protocol="TCP", port_index=0)],
        ),
    )
    (item,) = wait("the queue", client.list_queue)
    seen: dict[str, Any] = {"queued": item.app.id, "count": item.count}
    (item,) = client.list_queue(embed_last_unused_offers=True)
    seen["overdue"] = item.delay.overdue
    client.reset_delay("conformance-big")
    (deployment,) = client.list_deployments()
    seen["affected"] = deployment.affected_apps
    seen["actions"] = [a.action for step in deployment.steps for a in step.actions]
    try:
        client.update_app("conformance-big", MarathonApp(cpus=2000))
    except ConflictError as error:
        seen["locked"] = error.status_code
    try:
        client.create_app("conformance-bad", MarathonApp(cmd="sleep 1", cpus=-1))
    except MarathonHttpError as error:
        seen["refused"] = [error.status_code, error.error_message]
    undone = client.delete_deployment(deployment.id)
    seen["undone"] = sorted(undone)
    wait("the rollback", lambda: settled(client))
    seen["left"] = [a.id for a in client.list_apps(app_id="conformance-big")]
    client.create_app("conformance-big", MarathonApp(cmd="sleep 1", cpus=1000, mem=32))
    (deployment,) = client.list_deployments()
    client.delete_deployment(deployment.id, force=True)
    seen["cancelled"] = settled(client)
    client.delete_app("conformance-big")
    wait("the deletion", lambda: settled(client))
    return seen


def checked(client: MarathonClient) -> Any:
    """A service that is checked: by us, by the executor, and for readiness."""
    probe = {"path": "/", "port_index": 0, "interval_seconds": 1, "grace_period_seconds": 60}
    client.create_app(
        "conformance-checked",
        MarathonApp(
            cmd="python3 -m http.server --bind 127.0.0.1 $PORT0",
            cpus=0.1,
            mem=64,
            instances=2,
            port_definitions=[{"port": 0, "name": "http", "protocol": "tcp"}],
            health_checks=[
                MarathonHealthCheck(protocol="HTTP", **probe),
                MarathonHealthCheck(protocol="MESOS_TCP", delay_seconds=0, **probe),
            ],
            readiness_checks=[
                {"name": "ready", "portName": "http", "path": "/", "intervalSeconds": 2,
                 "timeoutSeconds": 1, "preserveLastResponse": True},
            ],
        ),
    )  # fmt: skip
    wait("the deployment", lambda: settled(client))
    app = client.get_app("conformance-checked", embed_readiness=True)
    seen: dict[str, Any] = {
        "healthy": app.tasks_healthy,
        "results": [[r.alive for r in task.health_check_results] for task in app.tasks],
    }
    client.update_app(
        "conformance-checked",
        MarathonApp(cmd="python3 -m http.server --bind 127.0.0.1 --directory / $PORT0"),
    )
    fewest = 2

    def carried_out() -> bool:
        nonlocal fewest
        fewest = min(fewest, client.get_app("conformance-checked").tasks_healthy)
        return settled(client)

    wait("the rolling restart", carried_out)
    seen["fewest"] = fewest
    app = client.get_app("conformance-checked")
    seen["versions"] = len({task.version for task in app.tasks})
    client.delete_app("conformance-checked")
    wait("the deletion", lambda: settled(client))
    return seen


def info(client: MarathonClient) -> Any:
    """What Marathon says of itself."""
    found = client.get_info()
    return {
        "name": found.name,
        "framework": found.framework_id,
        "elected": found.elected,
        "master": found.marathon_config.master,
        "leader": client.get_leader()["leader"],
        "ping": client.ping().decode(),
        "gauges": sorted(client.get_metrics()["gauges"]),
    }


def events(client: MarathonClient) -> Any:
    """The event stream through the life of an app, every event as the client's own object."""
    seen: list[Any] = []
    attached = threading.Event()

    def listen() -> None:
        for event in client.event_stream():
            seen.append(event)
            attached.set()
            if event.event_type == "app_terminated_event":
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert attached.wait(20), "no first event"
    client.create_app("conformance-told", MarathonApp(cmd="sleep 1000", cpus=0.1, mem=32))
    wait("the app", lambda: settled(client))
    client.delete_app("conformance-told")
    listener.join(60)
    assert not listener.is_alive(), [event.event_type for event in seen]
    plans = [e.plan for e in seen if e.event_type == "deployment_info"]
    return {
        "types": [event.event_type for event in seen],
        "states": [e.task_status for e in seen if e.event_type == "status_update_event"],
        "plans": len(plans),
        "targets": all(plan.target.id == "/" for plan in plans),
    }


if __name__ == "__main__":
    what, url = sys.argv[1:]
    run = {
        "apps": apps, "groups": groups, "waiting": waiting, "checked": checked, "info": info,
        "events": events,
    }  # fmt: skip
    print(json.dumps(run[what](MarathonClient(url, timeout=30))))
