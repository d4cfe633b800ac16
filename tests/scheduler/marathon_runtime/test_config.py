"""Settings of cairn-marathon from flags, environment and file."""

from pathlib import Path

import pytest

from cairn_core.kit.config import ConfigError, load
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.groups import RootGroup
from cairn_scheduler.marathon.io_marathon import core_settings
from cairn_scheduler.marathon.io_mesos import framework_info

PREFIXES = ("CAIRN_MARATHON_", "MARATHON_")


def read(environ: dict[str, str] | None = None, **flags: str) -> MarathonConfig:
    return load(
        MarathonConfig, program="cairn-marathon", file=None, env_prefixes=PREFIXES,
        environ=environ or {}, flags=flags,
    ).config  # fmt: skip


def test_original_names_work_as_environment() -> None:
    environ = {
        "MARATHON_MASTER": "a:5050,b:5050",
        "MARATHON_MESOS_ROLE": "slave_public",
        "MARATHON_DEFAULT_ACCEPTED_RESOURCE_ROLES": "*,slave_public",
        "MARATHON_ENABLE_FEATURES": "task_killing,gpu_resources",
        "MARATHON_SOMETHING_ELSE": "ignored",
    }
    config = read(environ)
    assert config.masters() == ["http://a:5050", "http://b:5050"]
    assert config.defaults().role == "slave_public"
    assert config.match_rules().accepted_roles == {"*", "slave_public"}
    info = framework_info(config, "F", ("slave_public",), "nobody", "http://here:8080")
    assert info.id is not None
    assert {c.type for c in info.capabilities} >= {
        "MULTI_ROLE", "PARTITION_AWARE", "TASK_KILLING_STATE", "GPU_RESOURCES",
    }  # fmt: skip
    assert info.failover_timeout == 604800


def test_durations_of_the_original_are_milliseconds() -> None:
    settings = core_settings(read(kill_retry_timeout="1500", decline_offer_duration="60000"))
    assert settings.tracking.kill_retry_s == 1.5
    assert settings.launching.decline_s == 60
    assert settings.launching.tokens is None
    assert core_settings(read(launch_tokens="7")).launching.tokens == 7


def test_roles_of_a_top_level_group_may_be_used() -> None:
    rules = read().validation_rules(RootGroup(""), "/dev/app")
    assert rules.roles == frozenset({"*", "dev"})


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"master": ""}, "master"),
        ({"local_port_min": "20001"}, "local_port_min"),
        ({"http_credentials": "nobody"}, "http_credentials"),
        ({"mesos_role": "a b"}, "role"),
        ({"launch_tokens": "-1"}, "launch_tokens"),
    ],
)
def test_wrong_settings_are_named(flags: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read(None, **flags)


def test_secret_comes_from_its_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim\n")
    assert read(mesos_authentication_secret_file=str(secret)).secret() == "geheim"
    assert read(mesos_authentication_secret="plain").secret() == "plain"
    missing = read(mesos_authentication_secret_file=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none"):
        missing.secret()
