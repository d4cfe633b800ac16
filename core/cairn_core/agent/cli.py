"""`cairn-agent`: flags, file and environment to settings, then `daemon.build`."""

import sys

from cairn_core.agent.config import AgentConfig
from cairn_core.agent.daemon import build
from cairn_core.kit import daemon


def main() -> int:
    """Run the agent; returns the exit code."""
    return daemon.main("cairn-agent", AgentConfig, build, env_prefixes=("CAIRN_AGENT_", "MESOS_"))


if __name__ == "__main__":
    sys.exit(main())
