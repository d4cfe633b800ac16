"""Start the command executor without the agent's packages: `python -I -S .../executor`."""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if ROOT not in sys.path:
    sys.path.append(ROOT)  # last, so that nothing of ours hides the standard library

from cairn_core.executor.command import main  # noqa: E402 - needs the path set above

if __name__ == "__main__":
    sys.exit(main())
