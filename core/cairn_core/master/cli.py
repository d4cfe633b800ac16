"""`cairn-master`: flags, file and environment to settings, then `daemon.build`."""

import sys

from cairn_core.kit import daemon
from cairn_core.master.config import MasterConfig
from cairn_core.master.daemon import build


def main() -> int:
    """Run the master; returns the exit code."""
    return daemon.main(
        "cairn-master", MasterConfig, build, env_prefixes=("CAIRN_MASTER_", "MESOS_")
    )


if __name__ == "__main__":
    sys.exit(main())
