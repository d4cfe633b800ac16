"""App definitions: what is printed, what is read, what is refused and how it is said."""

import json
from typing import Any

import pytest

from cairn_scheduler.marathon import legacy_app, normalize
from cairn_scheduler.marathon.app import App, decode, encode, without_version_info
from cairn_scheduler.marathon.errors import (
    InvalidJson,
    Locked,
    MalformedJson,
    MarathonError,
    NotValid,
    UnmappableJson,
    app_not_found,
)
from cairn_scheduler.marathon.json_input import parse
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.validation import Rules, validate

DEFAULTS = Defaults(accepted_resource_roles=("*",))


def created(raw: dict[str, Any], defaults: Defaults = DEFAULTS) -> App:
    """The app that a POST of this body makes."""
    update = legacy_app.read_app(raw)
    return normalize.complete(update, str(update.id), defaults)


def printed(app: App) -> dict[str, Any]:
    """Its JSON."""
    body: dict[str, Any] = json.loads(encode(app))
    return body


def test_smallest_app_reads_back_with_every_default_and_no_other_key() -> None:
    assert printed(created({"id": "/a", "cmd": "sleep 9"})) == {
        "id": "/a",
        "acceptedResourceRoles": ["*"],
        "backoffFactor": 1.15,
        "backoffSeconds": 1,
        "cmd": "sleep 9",
        "cpus": 1,
        "disk": 0,
        "executor": "",
        "gpus": 0,
        "instances": 1,
        "killSelection": "YOUNGEST_FIRST",
        "labels": {},
        "maxLaunchDelaySeconds": 300,
        "mem": 128,
        "networks": [{"mode": "host"}],
        "portDefinitions": [{"name": "default", "port": 0, "protocol": "tcp"}],
        "requirePorts": False,
        "role": "*",
        "unreachableStrategy": {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0},
        "upgradeStrategy": {"minimumHealthCapacity": 1, "maximumOverCapacity": 1},
    }


def test_whole_numbers_are_printed_whole_and_survive_storage() -> None:
    app = created({"id": "a", "cmd": "sleep 9", "cpus": 2.0, "mem": 64.5, "disk": 3})
    assert b'"cpus":2,' in encode(app)
    assert decode(encode(app)) == app
    assert encode(decode(encode(app))) == encode(app)


def test_version_info_is_left_out_on_request_only() -> None:
    app = decode(
        b'{"id":"/a","version":"v","versionInfo":{"lastScalingAt":"1","lastConfigChangeAt":"2"}}'
    )
    assert app.config_version == "2"
    assert "versionInfo" in printed(app)
    assert "versionInfo" not in printed(without_version_info(app))


# Definitions of old: nginx behind the edge, its load and its scaler, two on the overlay.
NGINX = {
    "id": "nginx",
    "container": {
        "type": "DOCKER",
        "docker": {
            "image": "nginx:1.7.7",
            "network": "BRIDGE",
            "portMappings": [{"hostPort": 0, "containerPort": 80, "servicePort": 10000}],
            "forcePullImage": True,
        },
    },
    "instances": 1,
    "cpus": 0.1,
    "mem": 65,
    "healthChecks": [
        {
            "protocol": "HTTP",
            "path": "/",
            "portIndex": 0,
            "timeoutSeconds": 10,
            "gracePeriodSeconds": 10,
            "intervalSeconds": 2,
            "maxConsecutiveFailures": 10,
        }
    ],
    "labels": {"HAPROXY_GROUP": "external"},
}
AUTOSCALE = {
    "id": "marathon-lb-autoscale",
    "args": [
        "--marathon", "http://leader.mesos:8080", "--haproxy",
        "http://marathon-lb.marathon.mesos:9090", "--target-rps", "100", "--apps", "nginx_10000",
    ],
    "cpus": 0.1,
    "mem": 16.0,
    "instances": 1,
    "container": {
        "type": "DOCKER",
        "docker": {
            "image": "brndnmtthws/marathon-lb-autoscale",
            "network": "HOST",
            "forcePullImage": True,
        },
    },
}  # fmt: skip
SIEGE = {
    "id": "siege",
    "args": ["-d1", "-r1000", "-c100", "http://marathon-lb.marathon.mesos:10000/"],
    "cpus": 0.5,
    "mem": 16.0,
    "instances": 1,
    "container": {
        "type": "DOCKER",
        "volumes": [],
        "docker": {
            "image": "yokogawa/siege",
            "network": "HOST",
            "privileged": False,
            "parameters": [],
            "forcePullImage": False,
        },
    },
}


def on_overlay(app_id: str, engine: str) -> dict[str, Any]:
    """`nginxmesos` and `nginxmesos1` differ in the engine only."""
    mapping = {"host_port": 0, "container_port": 80, "protocol": "tcp"}
    return {
        "id": app_id,
        "cmd": "env; ip -o addr; sleep 3600",
        "cpus": 0.10,
        "mem": 512,
        "instances": 1,
        "ipAddress": {"networkName": "dcos"},
        "container": {
            "type": engine,
            "docker": {"network": "USER", "image": "nginx", "portMappings": [mapping]},
        },
    }


def test_bridge_app_of_old_becomes_canonical() -> None:
    body = printed(created(NGINX))
    expected = {
        "container": {
            "type": "DOCKER",
            "volumes": [],
            "docker": {
                "image": "nginx:1.7.7",
                "forcePullImage": True,
                "privileged": False,
                "parameters": [],
            },
            "portMappings": [
                {
                    "containerPort": 80,
                    "hostPort": 0,
                    "servicePort": 10000,
                    "protocol": "tcp",
                    "labels": {},
                }
            ],
        },
        "networks": [{"mode": "container/bridge"}],
        "cpus": 0.1,
        "mem": 65,
        "healthChecks": [
            {
                "protocol": "HTTP",
                "path": "/",
                "portIndex": 0,
                "timeoutSeconds": 10,
                "gracePeriodSeconds": 10,
                "intervalSeconds": 2,
                "maxConsecutiveFailures": 10,
                "delaySeconds": 15,
                "ignoreHttp1xx": False,
                "ipProtocol": "IPv4",
            }
        ],
        "labels": {"HAPROXY_GROUP": "external"},
    }
    assert {key: body[key] for key in expected} == expected
    assert not {"cmd", "portDefinitions", "fetch", "env"} & set(body)


@pytest.mark.parametrize(
    "raw",
    [NGINX, AUTOSCALE, SIEGE, on_overlay("nginxmesos", "MESOS"), on_overlay("n1", "DOCKER")],
    ids=["nginx", "autoscale", "siege", "nginxmesos", "nginxmesos1"],
)
def test_apps_of_old_are_valid(raw: dict[str, Any]) -> None:
    assert validate(created(raw), Rules()) == []


@pytest.mark.parametrize("raw", [AUTOSCALE, SIEGE], ids=["autoscale", "siege"])
def test_host_network_apps_of_old_keep_their_arguments(raw: dict[str, Any]) -> None:
    body = printed(created(raw))
    assert body["args"] == raw["args"]
    assert body["networks"] == [{"mode": "host"}]
    assert "network" not in body["container"]["docker"]
    assert "portMappings" not in body["container"]
    assert body["portDefinitions"] == [{"name": "default", "port": 0, "protocol": "tcp"}]


@pytest.mark.parametrize("engine", ["MESOS", "DOCKER"])
def test_overlay_apps_of_old_join_the_named_network(engine: str) -> None:
    body = printed(created(on_overlay("nginxmesos", engine)))
    assert body["networks"] == [{"mode": "container", "name": "dcos"}]
    assert body["container"]["type"] == engine
    assert body["container"]["portMappings"] == [
        {"containerPort": 80, "hostPort": 0, "servicePort": 0, "protocol": "tcp", "labels": {}}
    ]
    assert "ipAddress" not in body


@pytest.mark.parametrize(
    ("raw", "key", "expected"),
    [
        pytest.param(
            {"ports": [8080, 0]},
            "portDefinitions",
            [{"port": 8080, "protocol": "tcp"}, {"port": 0, "protocol": "tcp"}],
            id="ports",
        ),
        pytest.param(
            {"uris": ["http://x/a.tar.gz", "http://x/a.bin"]},
            "fetch",
            [
                {"uri": "http://x/a.tar.gz", "extract": True, "executable": False, "cache": False},
                {"uri": "http://x/a.bin", "extract": False, "executable": False, "cache": False},
            ],
            id="only archives are unpacked",
        ),
        pytest.param(
            {"ipAddress": {"networkName": "mesos-bridge"}},
            "networks",
            [{"mode": "container/bridge"}],
            id="the name of the bridge is the bridge",
        ),
        pytest.param(
            {"ipAddress": {"networkName": "n", "labels": {"a": "b"}}},
            "container",
            {
                "type": "MESOS",
                "volumes": [],
                "portMappings": [
                    {
                        "containerPort": 0,
                        "servicePort": 0,
                        "name": "default",
                        "protocol": "tcp",
                        "labels": {},
                    }
                ],
            },
            id="an address implies a container with one port",
        ),
        pytest.param(
            {
                "ipAddress": {
                    "networkName": "n",
                    "discovery": {"ports": [{"number": 80, "name": "web", "protocol": "udp"}]},
                }
            },
            "container",
            {
                "type": "MESOS",
                "volumes": [],
                "portMappings": [
                    {
                        "containerPort": 80,
                        "servicePort": 0,
                        "name": "web",
                        "protocol": "udp",
                        "labels": {},
                    }
                ],
            },
            id="discovery ports",
        ),
        pytest.param({"ports": []}, "portDefinitions", [], id="no ports at all"),
        pytest.param(
            {"networks": [{"mode": "container/bridge"}], "container": {"type": "MESOS"}},
            "container",
            {
                "type": "MESOS",
                "volumes": [],
                "portMappings": [
                    {
                        "containerPort": 0,
                        "hostPort": 0,
                        "servicePort": 0,
                        "name": "default",
                        "protocol": "tcp",
                        "labels": {},
                    }
                ],
            },
            id="a bridge maps to a random host port",
        ),
        pytest.param(
            {"networks": [{"name": "n"}], "requirePorts": True},
            "requirePorts",
            False,
            id="required ports are for host mode",
        ),
        pytest.param(
            {"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}},
            "upgradeStrategy",
            {"minimumHealthCapacity": 0, "maximumOverCapacity": 0},
            id="a single instance stops before the next starts",
        ),
        pytest.param(
            {"dependencies": ["b", "../c", "/d"]},
            "dependencies",
            ["/b", "/c", "/d"],
            id="relative dependencies",
        ),
        pytest.param(
            {"readinessChecks": [{"portName": "default"}]},
            "readinessChecks",
            [
                {
                    "name": "readinessCheck",
                    "protocol": "HTTP",
                    "path": "/",
                    "portName": "default",
                    "intervalSeconds": 30,
                    "timeoutSeconds": 10,
                    "httpStatusCodesForReady": [200],
                    "preserveLastResponse": False,
                }
            ],
            id="readiness codes",
        ),
    ],
)
def test_keys_become_canonical(raw: dict[str, Any], key: str, expected: Any) -> None:
    assert printed(created({"id": "a", "cmd": "sleep 9"} | raw))[key] == expected


def test_app_with_persistent_volume_is_resident() -> None:
    volume = {"containerPath": "data", "mode": "RW", "persistent": {"size": 100}}
    body = printed(
        created({"id": "a", "cmd": "run", "container": {"type": "MESOS", "volumes": [volume]}})
    )
    assert body["residency"] == {
        "relaunchEscalationTimeoutSeconds": 3600,
        "taskLostBehavior": "WAIT_FOREVER",
    }
    assert body["upgradeStrategy"] == {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0}
    assert body["unreachableStrategy"] == "disabled"
    assert body["container"]["volumes"][0]["persistent"]["type"] == "root"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (
            {"networks": [{"mode": "host"}], "ipAddress": {}},
            "must not specify both networks and ipAddress",
        ),
        (
            {
                "networks": [{"mode": "host"}],
                "container": {"docker": {"image": "i", "network": "HOST"}},
            },
            "must not specify both container.docker.network and networks",
        ),
        ({"ipAddress": {}, "ports": [1]}, "cannot specify both an IP address and port"),
        (
            {"ports": [1], "portDefinitions": [{"port": 2}]},
            "cannot specify both ports and port definitions",
        ),
        (
            {"uris": ["http://a"], "fetch": [{"uri": "http://b"}]},
            "cannot specify both uris and fetch fields",
        ),
        ({"ports": [7, 7]}, "ports must be unique"),
        (
            {"container": {"docker": {"image": "i", "network": "NONE"}}},
            "unsupported docker network type NONE",
        ),
        (
            {"networks": [{"mode": "container"}]},
            "Network name must be specified when container network is selected.",
        ),
    ],
)
def test_old_and_new_keys_do_not_mix(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(NotValid) as caught:
        created({"id": "a", "cmd": "sleep 9"} | raw)
    assert [e for f in caught.value.faults for e in f.errors] == [text]


def test_unnamed_container_network_takes_the_default_name() -> None:
    app = created(
        {"id": "a", "cmd": "run", "networks": [{"mode": "container"}]},
        Defaults(network_name="dcos"),
    )
    assert app.networks[0].name == "dcos"


def test_every_wrong_type_is_named_with_its_path() -> None:
    raw = {
        "id": 3,
        "cpus": "x",
        "instances": 1.5,
        "mem": -1,
        "args": "a",
        "env": {"A": 3},
        "tty": "yes",
        "labels": [],
        "killSelection": "ANY",
        "container": {"docker": {}, "portMappings": [{}, {"name": "A b"}, {"hostPort": 70000}]},
    }
    with pytest.raises(InvalidJson) as caught:
        legacy_app.read_app(raw)
    assert caught.value.status == 422
    assert {f.path: f.errors for f in caught.value.faults} == {
        "/id": ("error.expected.jsstring",),
        "/cpus": ("error.expected.jsnumber",),
        "/instances": ("error.expected.int",),
        "/mem": ("error.min",),
        "/args": ("error.expected.jsarray",),
        "/env/A": ("error.expected.jsstring",),
        "/tty": ("error.expected.jsboolean",),
        "/labels": ("error.expected.jsobject",),
        "/killSelection": ("error.unknown.enum.literal",),
        "/container/docker/image": ("error.path.missing",),
        "/container/portMappings(1)/name": ("error.pattern",),
        "/container/portMappings(2)/hostPort": ("error.max",),
    }


def test_missing_id_is_named_beside_other_faults() -> None:
    with pytest.raises(InvalidJson) as caught:
        legacy_app.read_app({"cmd": 1})
    assert [f.path for f in caught.value.faults] == ["/id", "/cmd"]


def test_null_means_absent_and_unknown_keys_are_ignored() -> None:
    assert created({"id": "a", "cmd": "run it", "container": None, "what": 1, "args": None}) == (
        created({"id": "a", "cmd": "run it"})
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"{", MalformedJson), (b"\xff", MalformedJson), (b"[" * 100_000, MalformedJson)],
    ids=["cut off", "not text", "too deep"],
)
def test_text_that_is_not_json_is_refused(body: bytes, kind: type[MarathonError]) -> None:
    with pytest.raises(kind) as caught:
        parse(body)
    assert caught.value.status == 400
    assert isinstance(caught.value.body()["details"], str)


def test_an_array_is_no_app() -> None:
    with pytest.raises(UnmappableJson):
        legacy_app.read_app([])


def test_array_of_updates_needs_an_id_in_each() -> None:
    with pytest.raises(InvalidJson) as caught:
        legacy_app.read_updates([{"id": "/a"}, {"cmd": "x"}])
    assert caught.value.faults[0].as_json() == {
        "path": "(1)/id",
        "errors": ["error.path.missing"],
    }


def test_partial_update_changes_only_the_given_keys() -> None:
    before = created(NGINX)
    after = normalize.updated(before, legacy_app.read_update({"instances": 8}), DEFAULTS)
    assert printed(after) == printed(before) | {"instances": 8}


def test_full_update_puts_defaults_in_place_of_missing_keys() -> None:
    before = created(NGINX)
    update = legacy_app.read_update({"cmd": "sleep 9"})
    after = normalize.replaced(before, update, DEFAULTS)
    assert printed(after) == printed(created({"id": "/nginx", "cmd": "sleep 9"}))


def test_update_from_bridge_to_host_drops_the_mappings() -> None:
    update = legacy_app.read_update({"networks": [{"mode": "host"}]})
    after = normalize.updated(created(NGINX), update, DEFAULTS)
    assert after.port_mappings == ()
    assert [d.port for d in after.port_definitions or ()] == [0]


def test_update_from_host_to_bridge_drops_the_definitions() -> None:
    update = legacy_app.read_update({"networks": [{"mode": "container/bridge"}]})
    after = normalize.updated(created({"id": "a", "cmd": "run it"}), update, DEFAULTS)
    assert after.port_definitions is None
    assert [m.host_port for m in after.port_mappings] == [0]


def test_version_alone_means_roll_back() -> None:
    ask = legacy_app.read_update({"id": "/a", "version": "2020-01-31T13:00:00.1234+01:00"})
    assert normalize.rollback_version(ask) == "2020-01-31T12:00:00.123Z"
    assert normalize.rollback_version(legacy_app.read_update({"cpus": 1})) is None


def test_version_with_other_keys_is_refused() -> None:
    ask = legacy_app.read_update({"cpus": 1, "version": "2020-01-31T12:00:00.123Z"})
    with pytest.raises(NotValid, match="may only be combined with the 'id' field"):
        normalize.rollback_version(ask)


def test_errors_carry_status_and_body() -> None:
    locked = Locked(["d1"])
    assert (locked.status, locked.body()["deployments"]) == (409, [{"id": "d1"}])
    missing = app_not_found("/x", "v")
    assert (missing.status, missing.body()) == (
        404,
        {"message": "App '/x' does not exist in version v"},
    )
