"""What holds for every definition: completing is idempotent, storage loses nothing."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn_scheduler.marathon import legacy_app, normalize
from cairn_scheduler.marathon.app import App, decode, encode
from cairn_scheduler.marathon.errors import MarathonError
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.validation import Rules, validate

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DEFAULTS = Defaults(accepted_resource_roles=("*",), network_name="dcos")
PORT = st.sampled_from([0, 80, 8080, 10000])
NAME = st.sampled_from(["http", "web", "x-1"])
LABELS = st.dictionaries(st.sampled_from(["a", "VIP_0"]), st.text(max_size=3), max_size=2)
MAPPING = st.fixed_dictionaries(
    {},
    optional={
        "containerPort": PORT,
        "hostPort": PORT,
        "servicePort": PORT,
        "name": NAME,
        "protocol": st.sampled_from(["tcp", "udp", "udp,tcp"]),
        "labels": LABELS,
    },
)
VOLUME = st.sampled_from(
    [
        {"containerPath": "/c", "hostPath": "/h", "mode": "RO"},
        {"containerPath": "c", "mode": "RW", "persistent": {"size": 5}},
        {"containerPath": "c", "mode": "RW", "external": {"name": "n", "provider": "dvdi"}},
    ]
)
DOCKER = st.fixed_dictionaries(
    {"image": st.just("i")},
    optional={
        "network": st.sampled_from(["HOST", "BRIDGE", "USER"]),
        "portMappings": st.lists(MAPPING, max_size=2),
        "forcePullImage": st.booleans(),
    },
)
CONTAINER = st.fixed_dictionaries(
    {"type": st.sampled_from(["MESOS", "DOCKER"])},
    optional={
        "docker": DOCKER,
        "portMappings": st.lists(MAPPING, max_size=2),
        "volumes": st.lists(VOLUME, max_size=2),
    },
)
DEFINITIONS = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "/g/a", "../x/y"])},
    optional={
        "cmd": st.text(max_size=5),
        "args": st.lists(st.text(max_size=3), max_size=2),
        "cpus": st.floats(0, 8) | st.integers(0, 8),
        "instances": st.integers(0, 5),
        "container": CONTAINER,
        "networks": st.lists(
            st.fixed_dictionaries(
                {"mode": st.sampled_from(["host", "container", "container/bridge"])},
                optional={"name": NAME, "labels": LABELS},
            ),
            max_size=2,
        ),
        "ports": st.lists(PORT, max_size=3),
        "portDefinitions": st.lists(
            st.fixed_dictionaries({}, optional={"port": PORT, "name": NAME}), max_size=2
        ),
        "uris": st.lists(st.sampled_from(["http://a/b.tgz", "http://a/c"]), max_size=2),
        "ipAddress": st.fixed_dictionaries({}, optional={"networkName": NAME, "labels": LABELS}),
        "healthChecks": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "protocol": st.sampled_from(["HTTP", "TCP", "COMMAND", "MESOS_HTTP"]),
                    "portIndex": st.integers(0, 2),
                },
            ),
            max_size=2,
        ),
        "labels": LABELS | st.just({"MARATHON_SINGLE_INSTANCE_APP": "true"}),
        "env": st.dictionaries(NAME, st.text(max_size=2) | st.just({"secret": "s"}), max_size=2),
        "requirePorts": st.booleans(),
        "dependencies": st.lists(st.sampled_from(["b", "/c", "../d"]), max_size=2),
        "unreachableStrategy": st.just("disabled") | st.just({"expungeAfterSeconds": 3}),
    },
)


def completed(raw: dict[str, Any]) -> App | None:
    """The app of a definition, None where it is refused on reading."""
    try:
        update = legacy_app.read_app(raw)
        return normalize.complete(update, str(update.id), DEFAULTS, "/g")
    except MarathonError:
        return None


@CALM
@given(DEFINITIONS)
def test_completing_is_idempotent_and_storage_loses_nothing(raw: dict[str, Any]) -> None:
    app = completed(raw)
    if app is None:
        return
    assert normalize.complete(normalize.as_update(app), app.id, DEFAULTS, "/g") == app
    assert decode(encode(app)) == app
    assert encode(decode(encode(app))) == encode(app)


@CALM
@given(DEFINITIONS)
def test_what_is_printed_can_be_put_back_and_changes_nothing(raw: dict[str, Any]) -> None:
    app = completed(raw)
    if app is None:
        return
    again = legacy_app.read_app(json.loads(encode(app)))
    assert normalize.complete(again, app.id, DEFAULTS, "/g") == app
    assert normalize.updated(app, again, DEFAULTS) == app


@CALM
@given(DEFINITIONS)
def test_canonical_form_holds_and_validation_always_answers(raw: dict[str, Any]) -> None:
    app = completed(raw)
    if app is None:
        return
    assert app.networks
    if app.is_host_mode:
        assert not app.port_mappings
        assert app.port_definitions is not None
    else:
        assert app.port_definitions is None
        assert not app.require_ports
        assert app.container is not None
    for found in validate(app, Rules()):
        assert found.path.startswith("/")
        assert found.errors


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "container", "docker", "env", "ports", "networks", "labels"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@CALM
@given(JSON)
def test_no_json_value_breaks_the_reader(raw: Any) -> None:
    completed(raw)
