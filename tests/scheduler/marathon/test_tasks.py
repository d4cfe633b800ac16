"""What tasks are launched with, and what of the queue, events and selectors is shown."""

import json
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from cairn_core.mesos import codec
from cairn_core.mesos.scheduler_api import Offer
from cairn_core.mesos.types import AgentID, FrameworkID, OfferID, TaskInfo
from cairn_core.resources import Resources
from cairn_scheduler.marathon import events, labels, legacy_app, normalize
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.errors import IllegalArgument
from cairn_scheduler.marathon.matcher import Match, MatchRules, Need, Offered, Reason, match
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.queue import QueueStatistics, item_json
from cairn_scheduler.marathon.task_builder import BuildRules, build

VERSION = "2020-01-01T00:00:00.000Z"
OFFER = Offer(
    id=OfferID("o"),
    framework_id=FrameworkID("f"),
    agent_id=AgentID("S1"),
    hostname="host1",
    resources=tuple(Resources.parse("cpus:4;mem:4096;disk:1000;ports:[31000-31002]").to_wire()),
)


def built(prefix: str = "", **keys: Any) -> dict[str, Any]:
    """The JSON of the task of an app, on the one offer."""
    update = legacy_app.read_app({"id": "/g/a", "cmd": "sleep 9"} | keys)
    app = replace(normalize.complete(update, "/g/a", Defaults()), version=VERSION)
    offered = Offered.of(OFFER)
    rules = MatchRules(supported=frozenset(Need))
    found = match(app, offered, (), rules, Random(3), wall=0.0)
    assert isinstance(found, Match)
    task = build(app, "t1", offered, found, BuildRules(env_prefix=prefix), Random(3))
    assert codec.decode(TaskInfo, codec.encode(task)) == task
    body: dict[str, Any] = json.loads(codec.encode(task))
    return body


def variables(task: dict[str, Any]) -> dict[str, str]:
    """The environment of a task."""
    found = task.get("command") or task["executor"]["command"]
    return {v["name"]: v["value"] for v in found["environment"]["variables"]}


REQUIRED: dict[str, Any] = {"ports": [31000, 31001], "requirePorts": True}
BRIDGE: dict[str, Any] = {
    "container": {
        "docker": {
            "image": "i",
            "network": "BRIDGE",
            "portMappings": [
                {"containerPort": 80, "hostPort": 31000, "name": "web", "protocol": "udp,tcp"},
                {"containerPort": 0, "hostPort": 31001, "labels": {"VIP_0": "/a:80"}},
            ],
        }
    }
}
OVERLAY: dict[str, Any] = {
    "networks": [{"name": "n", "mode": "container", "labels": {"k": "v"}}],
    "container": {
        "type": "MESOS",
        "docker": {"image": "i"},
        "portMappings": [
            {"containerPort": 80, "name": "web", "protocol": "udp,tcp"},
            {"containerPort": 0},
            {"containerPort": 81, "hostPort": 31000},
        ],
    },
}


def test_host_mode_task() -> None:
    task = built(
        labels={"a-b": "c"},
        portDefinitions=[{"port": 31000, "name": "http", "labels": {"VIP_0": "/a:80"}}],
        requirePorts=True,
        env={"HOST": "mine", "X": "y"},
        user="nobody",
        taskKillGracePeriodSeconds=7,
        fetch=[{"uri": "http://x/y", "destPath": "z"}],
    )
    assert task["name"] == "a.g"
    assert task["agent_id"] == {"value": "S1"}
    assert task["kill_policy"] == {"grace_period": {"nanoseconds": 7_000_000_000}}
    assert task["labels"] == {"labels": [{"key": "a-b", "value": "c"}]}
    assert task["discovery"] == {
        "visibility": "FRAMEWORK",
        "name": "a.g",
        "ports": {
            "ports": [
                {
                    "number": 31000,
                    "name": "http",
                    "protocol": "tcp",
                    "labels": {"labels": [{"key": "VIP_0", "value": "/a:80"}]},
                }
            ]
        },
    }
    command = task["command"]
    assert (command["value"], command["shell"], command["user"]) == ("sleep 9", True, "nobody")
    assert command["uris"][0]["output_file"] == "z"
    assert "container" not in task
    assert variables(task) == {
        "MESOS_TASK_ID": "t1",
        "MARATHON_APP_ID": "/g/a",
        "MARATHON_APP_VERSION": VERSION,
        "MARATHON_APP_RESOURCE_CPUS": "1.0",
        "MARATHON_APP_RESOURCE_MEM": "128.0",
        "MARATHON_APP_RESOURCE_DISK": "0.0",
        "MARATHON_APP_RESOURCE_GPUS": "0",
        "MARATHON_APP_ENFORCE_GROUP_ROLE": "FALSE",
        "MARATHON_APP_LABELS": "A_B",
        "MARATHON_APP_LABEL_A_B": "c",
        "PORT": "31000",
        "PORT0": "31000",
        "PORTS": "31000",
        "PORT_31000": "31000",
        "PORT_HTTP": "31000",
        "HOST": "mine",
        "X": "y",
    }
    amounts = {r["name"]: r.get("scalar", {}).get("value") for r in task["resources"]}
    assert amounts == {"cpus": 1.0, "mem": 128.0, "ports": None}


def test_prefix_is_put_before_ports_and_host_only() -> None:
    env = variables(built("P_", **REQUIRED))
    assert {k for k in env if k.startswith("P_")} == {
        "P_HOST", "P_PORT", "P_PORT0", "P_PORT1", "P_PORTS", "P_PORT_31000", "P_PORT_31001",
    }  # fmt: skip
    assert "PORT" not in env


def test_arguments_are_a_vector() -> None:
    command = built(cmd=None, args=["echo", "a b"])["command"]
    assert (command["shell"], command["value"]) == (False, "echo")
    assert command["arguments"] == ["echo", "a b"]
    contained = built(cmd=None, args=["a"], container={"docker": {"image": "i"}})["command"]
    assert "value" not in contained


def test_docker_bridge_task() -> None:
    task = built(**BRIDGE)
    assert task["container"]["docker"] == {
        "image": "i",
        "network": "BRIDGE",
        "privileged": False,
        "force_pull_image": False,
        "parameters": [{"key": "label", "value": "MESOS_TASK_ID=t1"}],
        "port_mappings": [
            {"host_port": 31000, "container_port": 80, "protocol": "udp"},
            {"host_port": 31000, "container_port": 80, "protocol": "tcp"},
            {"host_port": 31001, "container_port": 31001, "protocol": "tcp"},
        ],
    }
    shown = [
        (p["number"], p["protocol"], {x["key"]: x["value"] for x in p["labels"]["labels"]})
        for p in task["discovery"]["ports"]["ports"]
    ]
    assert shown == [
        (31000, "udp", {"network-scope": "host"}),
        (31000, "tcp", {"network-scope": "host"}),
        (31001, "tcp", {"VIP_0": "/a:80", "network-scope": "host"}),
    ]
    env = variables(task)
    assert {k: v for k, v in env.items() if k.startswith("PORT")} == {
        "PORT": "31000",
        "PORT0": "31000",
        "PORT1": "31001",
        "PORTS": "31000,31001",
        "PORT_80": "31000",
        "PORT_31001": "31001",
        "PORT_WEB": "31000",
    }
    assert env["MARATHON_APP_DOCKER_IMAGE"] == "i"


def test_overlay_task_is_reached_on_its_own_address() -> None:
    task = built(**OVERLAY)
    (network,) = task["container"]["network_infos"]
    assert network == {
        "name": "n",
        "labels": {"labels": [{"key": "k", "value": "v"}]},
        "ip_addresses": [{"protocol": "IPv4"}],
        "port_mappings": [{"host_port": 31000, "container_port": 81, "protocol": "tcp"}],
    }
    assert task["container"]["mesos"]["image"]["docker"] == {"name": "i"}
    shown = task["discovery"]["ports"]["ports"]
    assert [p["number"] for p in shown][:2] == [80, 80]
    assert {x["key"]: x["value"] for x in shown[0]["labels"]["labels"]} == {
        "network-scope": "container",
        "network-name": "n",
    }
    env = variables(task)
    drawn = int(env["PORT1"])
    assert 1025 <= drawn <= 65535
    assert drawn not in (80, 81, 31000)
    assert env["PORT0"] == "80"
    assert env[f"PORT_{drawn}"] == str(drawn)
    assert env["PORTS"] == f"31000,{drawn}"
    assert [p["number"] for p in shown] == [80, 80, drawn, 31000]


def test_custom_executor_is_quoted() -> None:
    task = built(executor="it's", executorResources={"cpus": 0.1, "mem": 32, "disk": 10})
    assert "command" not in task
    executor = task["executor"]
    assert executor["executor_id"] == {"value": "marathon-t1"}
    path = "'it'\"'\"'s'"
    assert executor["command"]["value"] == f"chmod ug+rx {path} && exec {path} sleep 9"
    assert {r["name"]: r["scalar"]["value"] for r in executor["resources"]} == {
        "cpus": 0.1,
        "mem": 32.0,
        "disk": 10.0,
    }


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (
            {"protocol": "COMMAND", "command": {"value": "true"}},
            {"type": "COMMAND", "command": {"shell": True, "value": "true"}},
        ),
        (
            {"protocol": "MESOS_HTTPS", "path": "/x"},
            {
                "type": "HTTP",
                "http": {"port": 31000, "protocol": "IPv4", "scheme": "https", "path": "/x"},
            },
        ),
        (
            {"protocol": "MESOS_TCP", "port": 99},
            {"type": "TCP", "tcp": {"port": 99, "protocol": "IPv4"}},
        ),
    ],
)
def test_health_checks_of_mesos_go_with_the_task(
    check: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = built(**REQUIRED, healthChecks=[{"protocol": "HTTP"}, check])["health_check"]
    times = {
        "delay_seconds": 15.0,
        "interval_seconds": 60.0,
        "timeout_seconds": 20.0,
        "consecutive_failures": 3,
        "grace_period_seconds": 300.0,
    }
    assert found == expected | times


def test_check_that_never_kills_is_not_passed_on_as_zero() -> None:
    check = {"protocol": "MESOS_TCP", "maxConsecutiveFailures": 0}
    task = built(**REQUIRED, healthChecks=[check])
    assert task["health_check"]["consecutive_failures"] == 2**31 - 1


def test_health_check_of_a_mapping_goes_to_the_container_port() -> None:
    check = {"protocol": "MESOS_TCP", "portIndex": 2}
    assert built(**OVERLAY, healthChecks=[check])["health_check"]["tcp"]["port"] == 81


def test_limits_and_generic_checks() -> None:
    task = built(
        resourceLimits={"cpus": "unlimited", "mem": 256},
        check={"exec": {"command": {"argv": ["a", "b"]}}},
    )
    assert task["limits"] == {"cpus": {"value": "Infinity"}, "mem": {"value": 256.0}}
    assert task["check"]["command"]["command"]["arguments"] == ["a", "b"]


def test_queue_item_shows_the_funnel() -> None:
    statistics = QueueStatistics(since=1.0)
    statistics.declined(OFFER, (Reason.CONSTRAINT, Reason.CPUS), wall=2.0)
    statistics.declined(replace(OFFER, agent_id=AgentID("S2")), (Reason.CPUS,), wall=3.0)
    statistics.used(OFFER, wall=4.0)
    item = item_json({"id": "/a"}, 2, "*", statistics, delay_left_s=1.9, with_offers=True)
    assert {k: item[k] for k in ("count", "role", "since", "delay", "app")} == {
        "count": 2,
        "role": "*",
        "since": "1970-01-01T00:00:01.000Z",
        "delay": {"timeLeftSeconds": 1, "overdue": False},
        "app": {"id": "/a"},
    }
    summary = item["processedOffersSummary"]
    stages = [
        (s["reason"], s["declined"], s["processed"]) for s in summary["rejectSummaryLaunchAttempt"]
    ]
    assert stages == [
        ("UnfulfilledRole", 0, 3),
        ("UnfulfilledConstraint", 1, 3),
        ("NoCorrespondingReservationFound", 0, 2),
        ("AgentMaintenance", 0, 2),
        ("InsufficientCpus", 1, 2),
        ("InsufficientMemory", 0, 1),
        ("InsufficientDisk", 0, 1),
        ("InsufficientGpus", 0, 1),
        ("InsufficientPorts", 0, 1),
        ("DeclinedScarceResources", 0, 1),
    ]
    last = {s["reason"]: s["declined"] for s in summary["rejectSummaryLastOffers"]}
    assert (last["InsufficientCpus"], last["UnfulfilledConstraint"]) == (1, 0)
    assert (summary["processedOffersCount"], summary["unusedOffersCount"]) == (3, 2)
    unused = item["lastUnusedOffers"][0]
    assert unused["reason"] == ["UnfulfilledConstraint", "InsufficientCpus"]
    assert {"name": "cpus", "role": "*", "scalar": 4.0} in unused["offer"]["resources"]


def test_queue_says_what_the_cluster_lacks() -> None:
    item = item_json(
        {}, 1, "*", QueueStatistics(since=0.0), delay_left_s=0.0, obstacle="no docker",
        with_role=False,
    )  # fmt: skip
    first = item["processedOffersSummary"]["rejectSummaryLaunchAttempt"][0]
    assert first == {"reason": "NotSupported: no docker", "declined": 0, "processed": 0}
    assert item["delay"]["overdue"]
    assert "role" not in item


def test_event_frames_end_lines_with_crlf() -> None:
    event = events.AppTerminated(timestamp=VERSION, app_id="/a")
    first, second, third, rest = events.frame(event).split(b"\r\n")
    assert first == b"event: app_terminated_event"
    assert second.startswith(b"data: {")
    assert b"\n" not in second
    assert (third, rest) == (b"", b"")


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (
            events.StatusUpdate(
                timestamp=VERSION,
                slave_id="S1",
                task_id="t",
                task_status="TASK_RUNNING",
                message="",
                app_id="/a",
                host="h",
                version=VERSION,
            ),
            "slaveId taskId taskStatus message appId host ipAddresses ports version",
        ),
        (
            events.InstanceChanged(
                timestamp=VERSION,
                instance_id="i",
                condition="Running",
                run_spec_id="/a",
                run_spec_version=VERSION,
            ),
            "instanceId condition runSpecId agentId host runSpecVersion",
        ),
        (
            events.InstanceHealthChanged(
                timestamp=VERSION, instance_id="i", run_spec_id="/a", run_spec_version=VERSION
            ),
            "instanceId runSpecId runSpecVersion",
        ),
        (
            events.ApiPost(
                timestamp=VERSION, client_ip="127.0.0.1", uri="/v2/apps", app_definition=App("/a")
            ),
            "clientIp uri appDefinition",
        ),
        (
            events.DeploymentInfo(timestamp=VERSION, plan={}, current_step={}),
            "plan currentStep",
        ),
        (
            events.UnhealthyInstanceKilled(
                timestamp=VERSION,
                app_id="/a",
                task_id="t",
                instance_id="i",
                version=VERSION,
                reason="r",
                host="h",
            ),
            "appId taskId instanceId version reason host",
        ),
    ],
)
def test_events_have_exactly_their_fields(event: events.Event, fields: str) -> None:
    data = json.loads(events.frame(event).split(b"data: ")[1])
    assert set(data) == {"eventType", "timestamp", *fields.split()}
    assert data["eventType"] == event.event_type()


def test_bytes_of_framework_messages_are_signed() -> None:
    assert events.signed_bytes(b"\x00\x7f\x80\xff") == (0, 127, -128, -1)


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("a", {"a": "1"}, True),
        ("a", {"b": "1"}, False),
        ("a==1", {"a": "1"}, True),
        ("a == 2", {"a": "1"}, False),
        ("a!=2", {"a": "1"}, True),
        ("a!=2", {}, False),
        ("a in (1, 2)", {"a": "2"}, True),
        ("a in(3)", {"a": "2"}, False),
        ("a notin (1,3)", {"a": "2"}, True),
        ("a notin (1)", {}, False),
        ("a, b==x-y_z.1", {"a": "", "b": "x-y_z.1"}, True),
        ("a,b", {"a": ""}, False),
        ("a\\ b==\\,", {"a b": ","}, True),
        ("inner==1", {"inner": "1"}, True),
    ],
)
def test_label_selectors(text: str, found: dict[str, str], expected: bool) -> None:
    assert labels.selector(text)(found) is expected


@pytest.mark.parametrize("text", ["", ",", "a,", "a=1", "a in 1", "a in (", "a in ()", "a b", "=="])
def test_bad_label_selectors_are_refused(text: str) -> None:
    with pytest.raises(IllegalArgument, match="Can not parse label selector"):
        labels.selector(text)
