"""The settings that the documentation lists are those that there are."""

from pathlib import Path

import msgspec

from cairn_core.agent.config import AgentConfig
from cairn_core.kit.config import load, settings_table

ROOT = Path(__file__).resolve().parents[3]


def test_the_settings_table_is_fresh() -> None:
    text = (ROOT / "docs/agent.md").read_text()
    table = text.partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    assert table.strip() == settings_table(AgentConfig).strip()


def test_the_sample_configuration_is_right() -> None:
    sample = ROOT / "core/config/agent.json"
    loaded = load(AgentConfig, program="cairn-agent", file=sample, environ={})
    assert loaded.config.recovery_timeout == 900.0
    assert set(msgspec.json.decode(sample.read_bytes())) == {
        name for name, source in loaded.sources.items() if source != "default"
    }


def test_flags_of_the_original_are_taken_from_its_environment() -> None:
    environ = {"MESOS_MASTER": "m:5050", "MESOS_GC_DELAY": "2days", "MESOS_SWITCH_USER": "false"}
    environ["MESOS_NO_SUCH_FLAG"] = "x"
    loaded = load(
        AgentConfig,
        program="cairn-agent",
        env_prefixes=("CAIRN_AGENT_", "MESOS_"),
        environ=environ,
    )
    assert (loaded.config.gc_delay, loaded.config.switch_user) == (172800.0, False)
