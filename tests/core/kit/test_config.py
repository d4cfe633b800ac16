"""Settings: where they come from, which win, and what a wrong one says."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from cairn_core.kit.config import (
    Bytes,
    CommonConfig,
    ConfigError,
    Port,
    Seconds,
    Secret,
    load,
    settings_table,
)


class Sample(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-sample`."""

    port: Port = 53
    name: str = "x"
    interval: Annotated[Seconds, Meta(description="between two rounds")] = 1.0
    limit: Bytes | None = None
    verbose: bool = False
    masters: list[str] = []
    weights: dict[str, int] = {}
    mode: Literal["a", "b"] = "a"
    secret: Secret = ""
    web_url: str | None = msgspec.field(default=None, name="webUrl")


class Needy(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings with one that must be given."""

    work_dir: str


def sample(
    text: str | None = None,
    env: dict[str, str] | None = None,
    /,
    tmp: Path = Path("/"),
    **flags: str,
) -> Sample:
    file = None
    if text is not None:
        file = tmp / "sample.json"
        file.write_text(text)
    return load(
        Sample,
        program="cairn-sample",
        file=file,
        env_prefixes=("CAIRN_SAMPLE_", "MESOS_"),
        ignore_prefixes=("CAIRN_SAMPLE_PROXY_",),
        environ=env or {},
        flags=flags,
    ).config


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = '{"port": 1, "name": "file", "verbose": true, "mode": "b"}'
    env = {"CAIRN_SAMPLE_NAME": "env", "MESOS_NAME": "mesos", "MESOS_PORT": "7", "OTHER": "1"}
    config = sample(file, env, tmp=tmp_path, interval="2mins")
    assert config == Sample(port=7, name="env", interval=120.0, verbose=True, mode="b")


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("PORT", "8080", "port", 8080),
        ("NAME", "8080", "name", "8080"),
        ("NAME", "", "name", ""),
        ("NAME", "[x]", "name", "[x]"),
        ("INTERVAL", "100ms", "interval", 0.1),
        ("INTERVAL", "3", "interval", 3.0),
        ("LIMIT", "10MB", "limit", 10485760),
        ("VERBOSE", "", "verbose", True),
        ("VERBOSE", "false", "verbose", False),
        ("VERBOSE", "1", "verbose", True),
        ("MASTERS", "a, b,c", "masters", ["a", "b", "c"]),
        ("MASTERS", '["a,b"]', "masters", ["a,b"]),
        ("WEIGHTS", '{"x": 2}', "weights", {"x": 2}),
        ("WEB_URL", "http://x", "web_url", "http://x"),
        ("WEBURL", "http://x", "web_url", "http://x"),
    ],
)
def test_texts_become_values(variable: str, text: str, field: str, value: object) -> None:
    assert getattr(sample(None, {f"CAIRN_SAMPLE_{variable}": text}), field) == value


def test_a_value_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    assert sample(None, {"MESOS_SECRET": f"file://{tmp_path}/secret"}).secret == "hush"
    with pytest.raises(ConfigError, match=r"^environment MESOS_SECRET: file:///no/such"):
        sample(None, {"MESOS_SECRET": "file:///no/such"})


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("PORT", "x", "Expected `int`, got `str` - at `$.port`"),
        ("PORT", "70000", "Expected `int` <= 65535 - at `$.port`"),
        ("INTERVAL", "5 s", "not a duration such as 10secs or 5mins: '5 s' - at `$.interval`"),
        ("INTERVAL", "-1secs", "Expected `float` >= 0.0 - at `$.interval`"),
        ("MODE", "c", "Invalid enum value 'c' - at `$.mode`"),
        ("WEIGHTS", '{"x": "y"}', "Expected `int`, got `str` - at `$.weights[...]`"),
        ("NMAE", "x", "unknown setting"),
    ],
)
def test_the_first_wrong_setting_is_named(variable: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sample(None, {f"CAIRN_SAMPLE_{variable}": text})
    assert str(caught.value) == f"environment CAIRN_SAMPLE_{variable}: {problem}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"port": "80"}', "Expected `int`, got `str` - at `$.port`"),
        ('{"prot": 80}', "unknown setting 'prot'"),
        ('{"port": ', "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ("\udcff", "JSON is malformed"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "sample.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load(Sample, program="cairn-sample", file=file, environ={})
    assert caught.value.source == str(file)
    assert problem in caught.value.problem


def test_a_file_of_an_original_may_have_other_keys_and_nulls(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"PORT": 80, "weburl": "x", "interval": null, "email": "root"}')
    loaded = load(Sample, program="cairn-sample", file=file, environ={}, foreign_file=True)
    assert (loaded.config.port, loaded.config.web_url, loaded.config.interval) == (80, "x", 1.0)
    assert loaded.ignored == ("email",)
    file.write_text('{"some_application": {"key": 1}}')
    assert load(
        Sample, program="cairn-sample", file=file, environ={}, foreign_file=True
    ).ignored == ("some_application",)
    file.write_text('{"log_levels": "info"}')
    with pytest.raises(ConfigError, match="unknown setting 'log_levels', did you mean log_level"):
        load(Sample, program="cairn-sample", file=file, environ={}, foreign_file=True)


def test_a_missing_file_or_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: No such file or directory"):
        load(Sample, program="cairn-sample", file=tmp_path / "none.json", environ={})
    with pytest.raises(ConfigError, match=r"missing required setting work_dir \(flag --work-dir\)"):
        load(Needy, program="cairn-no-such-program", environ={})


def test_variables_of_a_program_with_a_longer_name_are_not_ours() -> None:
    assert sample(None, {"CAIRN_SAMPLE_PROXY_X": "1"}) == Sample()


def test_durations_and_sizes_may_be_texts_in_the_file_too(tmp_path: Path) -> None:
    config = sample('{"interval": "5mins", "limit": "1KB"}', tmp=tmp_path)
    assert (config.interval, config.limit) == (300.0, 1024)


def test_printing_shows_sources_and_hides_secrets() -> None:
    loaded = load(
        Sample, program="cairn-sample", environ={"CAIRN_SAMPLE_SECRET": "hush"}, flags={"port": "1"}
    )
    assert "port = 1  # flag --port" in loaded.lines()
    assert "secret = (hidden)  # environment CAIRN_SAMPLE_SECRET" in loaded.lines()
    assert 'log_level = "info"  # default' in loaded.lines()
    with pytest.raises(ConfigError) as caught:
        sample(None, {"CAIRN_SAMPLE_SECRET": "file:///no/such"})
    assert "hush" not in str(caught.value)


def test_the_table_has_every_setting() -> None:
    table = settings_table(Sample)
    assert "| `interval` | `1.0` | between two rounds |" in table
    assert "| `limit` | `null` | bytes |" in table
    assert "| `webUrl` | `null` |  |" in table
    assert "| `work_dir` | required |  |" in settings_table(Needy)
