"""What a test needs and this machine may lack.

Outside continuous integration a test that lacks something is skipped and says what; with
`CI=true` a missing requirement is a failure, so that nothing is skipped unseen.
"""

import os
import shutil
from typing import NoReturn

import pytest


def requires(*needs: str) -> None:
    """Go on only where everything in `needs` is there.

    `root` is the user id 0, `path:/x` a file that must exist, `cgroup:NAME` a version 1
    controller; any other word is a program on the PATH.
    """
    missing = [need for need in needs if not _has(need)]
    if missing:
        lacking(", ".join(missing))


def lacking(what: str) -> NoReturn:
    """End the test because this machine lacks something that `requires` has no word for."""
    problem = f"needs {what}"
    if os.environ.get("CI") == "true":
        pytest.fail(problem)
    pytest.skip(problem)


def _has(need: str) -> bool:
    if need == "root":
        return os.geteuid() == 0
    if need.startswith("path:"):
        return os.path.exists(need.removeprefix("path:"))
    if need.startswith("cgroup:"):
        return os.path.isdir(f"/sys/fs/cgroup/{need.removeprefix('cgroup:')}")
    return shutil.which(need) is not None
