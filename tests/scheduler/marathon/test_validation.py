"""Which apps cannot run, and the texts that say so."""

from typing import Any

import pytest

from cairn_scheduler.marathon import legacy_app, normalize, paths
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.constraints import constraint_faults
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.validation import Rules, validate, validate_change

ALL = Rules(features=frozenset({"secrets", "gpu_resources", "external_volumes"}))
CONTAINER = {"mode": "container", "name": "n"}


def app(raw: dict[str, Any]) -> App:
    """A complete app of these keys and a command."""
    update = legacy_app.read_app({"id": "a", "cmd": "sleep 9"} | raw)
    return normalize.complete(update, str(update.id), Defaults())


def faults(raw: dict[str, Any], rules: Rules = ALL) -> dict[str, tuple[str, ...]]:
    """Faults by path."""
    return {f.path: f.errors for f in validate(app(raw), rules)}


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"cmd": None, "args": ["a"]},
        {"cmd": None, "container": {"docker": {"image": "i"}}},
        {"cmd": None, "container": {"type": "MESOS"}},
        {"id": "/a/b.c/d-1"},
        {"healthChecks": [{}]},
        {"healthChecks": [{"protocol": "COMMAND", "command": {"value": "true"}}]},
        {"healthChecks": [{"protocol": "TCP", "port": 80}], "portDefinitions": []},
        {"secrets": {"s": {"source": "x"}}, "env": {"A": {"secret": "s"}}},
        {"gpus": 1, "resourceLimits": {"cpus": "unlimited", "mem": 128}},
        {"networks": [CONTAINER, {"mode": "container", "name": "m"}]},
        {"acceptedResourceRoles": ["*"]},
        {"unreachableStrategy": {"inactiveAfterSeconds": 1, "expungeAfterSeconds": 1}},
    ],
    ids=str,
)
def test_valid_apps_have_no_faults(raw: dict[str, Any]) -> None:
    assert faults(raw) == {}


CMD = "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'."
PORT = (
    "Health check port indices must address an element of the ports array or container port "
    "mappings."
)


@pytest.mark.parametrize(
    ("raw", "path", "text"),
    [
        ({"cmd": None}, "/", CMD),
        ({"args": ["x"]}, "/", CMD),
        ({"cmd": "x"}, "/", "must not be an empty string"),
        ({"id": "/"}, "/id", "Path must contain at least one path element"),
        ({"id": "/" + "a" * 190}, "/id", "id must not be longer than 190 characters"),
        ({"id": "/A"}, "/id", f"must fully match regular expression '{paths.SEGMENT.pattern}'"),
        (
            {"id": "/a/tasks"},
            "/id",
            "must not end with any of the following reserved keywords: restart, tasks, versions, "
            "., ..",
        ),
        ({"portDefinitions": []} | {"healthChecks": [{}]}, "/healthChecks(0)", PORT),
        ({"healthChecks": [{"portIndex": 1}]}, "/healthChecks(0)", PORT),
        ({"healthChecks": [{"protocol": "COMMAND"}]}, "/healthChecks(0)/command", "not defined"),
        (
            {"healthChecks": [{"protocol": "MESOS_TCP"}, {"protocol": "MESOS_HTTP"}]},
            "/",
            "AppDefinition can contain at most one Mesos health check",
        ),
        (
            {"healthChecks": [{"ipProtocol": "IPv6"}]},
            "/healthChecks(0)",
            "IPv6 can only be used for container type DOCKER and Mesos http/https/tcp health "
            "checks",
        ),
        (
            {"readinessChecks": [{}]},
            "/readinessChecks(0)/portName",
            "No port definition reference for portName http-api",
        ),
        (
            {"portDefinitions": [{"name": "a"}, {"name": "a"}]},
            "/portDefinitions",
            "Port names must be unique.",
        ),
        (
            {"portDefinitions": [{"port": 9}, {"port": 9}]},
            "/portDefinitions",
            "Ports must be unique.",
        ),
        (
            {"networks": [CONTAINER, {"mode": "container/bridge"}]},
            "/networks",
            "May specify a single host network, single bridge network, or else 1-to-n container "
            "networks",
        ),
        ({"networks": [CONTAINER, CONTAINER]}, "/networks", "Duplicate networks are not allowed"),
        (
            {"networks": [{"mode": "host", "name": "h"}]},
            "/networks",
            "Host networks may not have names or labels",
        ),
        (
            {
                "networks": [CONTAINER, {"name": "m"}],
                "container": {"type": "MESOS", "portMappings": [{"hostPort": 0}]},
            },
            "/container/portMappings(0)",
            "networkNames must be a single item list when hostPort is specified and more than 1 "
            "container network is defined",
        ),
        (
            {"gpus": 1, "container": {"docker": {"image": "i"}}},
            "/",
            "GPU resources only work with the Mesos containerizer",
        ),
        ({"env": {"A": {"secret": "s"}}}, "/env/A/secret", "references an undefined secret"),
        (
            {"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}, "instances": 2},
            "/",
            "Single instance app may only have one instance",
        ),
        (
            {"acceptedResourceRoles": ["x"]},
            "/acceptedResourceRoles",
            "acceptedResourceRoles can only contain *",
        ),
        (
            {"role": "r", "acceptedResourceRoles": ["x"]},
            "/acceptedResourceRoles",
            "acceptedResourceRoles can only contain * and r",
        ),
        ({"role": "-r"}, "/role", "A role name must not start with a '-'."),
        ({"fetch": [{"uri": "http://a b"}]}, "/fetch(0)/uri", "URI has invalid syntax."),
        (
            {"resourceLimits": {"cpus": 0.5}},
            "/resourceLimits/cpus",
            "resource limit must be greater than or equal to requested resource (1)",
        ),
        (
            {"unreachableStrategy": {"inactiveAfterSeconds": 2, "expungeAfterSeconds": 1}},
            "/unreachableStrategy/inactiveAfterSeconds",
            "inactiveAfterSeconds (2) must be less than or equal to expungeAfterSeconds (1)",
        ),
        (
            {"constraints": [["hostname", "LIKE", "("]]},
            "/constraints(0)",
            "is not a valid regular expression",
        ),
    ],
)
def test_fault_is_named_with_its_path(raw: dict[str, Any], path: str, text: str) -> None:
    assert text in faults(raw).get(path, ())


@pytest.mark.parametrize(
    ("raw", "feature"),
    [
        ({"gpus": 1}, "gpu_resources"),
        ({"secrets": {"s": {"source": "x"}}}, "secrets"),
        (
            {
                "container": {
                    "type": "MESOS",
                    "volumes": [
                        {
                            "containerPath": "d",
                            "mode": "RW",
                            "external": {"name": "v", "provider": "dvdi"},
                        }
                    ],
                }
            },
            "external_volumes",
        ),
    ],
)
def test_features_must_be_switched_on(raw: dict[str, Any], feature: str) -> None:
    texts = [t for errors in faults(raw, Rules()).values() for t in errors]
    assert texts == [f"Feature {feature} is not enabled. Enable with --enable_features {feature})"]
    assert faults(raw) == {}


def test_role_must_be_one_that_the_group_allows() -> None:
    rules = Rules(roles=frozenset({"*", "dev"}))
    assert faults({"role": "dev"}, rules) == {}
    assert faults({"role": "ops"}, rules) == {"/role": ("is not one of (*,dev)",)}


def resident(**changes: Any) -> App:
    """An app bound to a volume."""
    volume = {
        "containerPath": "d",
        "mode": "RW",
        "persistent": {"size": changes.pop("size", 10)},
    }
    return app(changes | {"container": {"type": "MESOS", "volumes": [volume]}})


def test_what_is_bound_to_a_volume_keeps_its_resources() -> None:
    old = resident()
    assert validate_change(old, resident(instances=3, cmd="other"), force=False) == []
    assert [f.path for f in validate_change(old, resident(cpus=2), force=False)] == ["/cpus"]
    assert [f.path for f in validate_change(old, resident(size=11), force=False)] == ["/container"]
    moved = resident(role="r")
    assert [f.path for f in validate_change(old, moved, force=False)] == ["/role"]
    assert validate_change(old, moved, force=True) == []


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (["hostname"], "Each constraint must have either 2 or 3 fields"),
        (["a", "b", "c", "d"], "Each constraint must have either 2 or 3 fields"),
        (["hostname", "unique"], "operator must be one of the following"),
        (["hostname", "UNIQUE", "1"], "UNIQUE does not accept a value"),
        (["zone", "GROUP_BY", "x"], "GROUP BY must define an integer value"),
        (["zone", "MAX_PER"], "MAX_PER requires an integer value"),
        (["zone", "LIKE"], "LIKE and UNLIKE require a non-empty"),
        (["zone", "UNLIKE", "["], "is not a valid regular expression"),
        (["zone", "IS", "a b"], "IS only supports Mesos text and float values"),
    ],
)
def test_constraint_faults(constraint: list[str], text: str) -> None:
    assert constraint_faults(constraint)[0].startswith(text)


@pytest.mark.parametrize(
    ("path", "base", "expected"),
    [
        ("a", "/", "/a"),
        ("a/b", "/g", "/g/a/b"),
        ("../x", "/g/h", "/g/x"),
        ("/x/./y/..", "/g", "/x"),
        ("../../..", "/g", "/"),
    ],
)
def test_relative_ids_are_resolved(path: str, base: str, expected: str) -> None:
    assert paths.canonical(path, base) == expected
