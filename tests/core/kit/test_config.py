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
        ("PORT", "x", "port: expected a whole number, got a text: 'x'"),
        ("PORT", "70000", "port: expected a whole number <= 65535: '70000'"),
        ("INTERVAL", "5 s", "interval: not a duration such as 10secs or 5mins: '5 s'"),
        ("INTERVAL", "-1secs", "interval: expected a number >= 0.0: -1.0"),
        ("MODE", "c", "mode: not one of a, b: 'c'"),
        ("WEIGHTS", '{"x": "y"}', "weights[...]: expected a whole number, got a text"),
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
        ('{"port": "80"}', "port: expected a whole number, got a text: '80'"),
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


def test_keys_of_an_original_are_ignored_where_they_say_nothing_to_us(tmp_path: Path) -> None:
    file = tmp_path / "sample.json"
    file.write_text('{"port": 5, "web_urk": 1, "iface": "x"}')
    loaded = load(
        Sample, program="cairn-sample", file=file, environ={}, foreign_keys=("web_urk", "iface")
    )
    assert (loaded.config.port, loaded.ignored) == (5, ("web_urk", "iface"))
    with pytest.raises(ConfigError, match="unknown setting 'web_urk'"):
        load(Sample, program="cairn-sample", file=file, environ={}, foreign_keys=("iface",))


class Listed(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings with a list of fixed length."""

    queue: tuple[int, int] = (50, 58)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("50", "queue: expected a list of length 2, got 1: ['50']"),
        ("[50, true]", "queue[1]: expected a whole number, got true or false: [50, True]"),
        ("[50", "queue: Input data was truncated: '[50'"),
    ],
)
def test_a_wrong_list_is_told_in_plain_words(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Listed, program="cairn-listed", environ={"CAIRN_LISTED_QUEUE": text})
    assert caught.value.problem == problem
