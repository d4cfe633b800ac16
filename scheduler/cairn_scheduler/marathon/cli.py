"""`cairn-marathon`: flags, file and environment to settings, then `daemon.build`."""

import sys

from cairn_core.kit import daemon
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.daemon import build


def main() -> int:
    """Run Marathon; returns the exit code."""
    return daemon.main(
        "cairn-marathon", MarathonConfig, build, env_prefixes=("CAIRN_MARATHON_", "MARATHON_")
    )


if __name__ == "__main__":
    sys.exit(main())
