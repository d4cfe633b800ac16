"""Sandboxes on disk: made for a run, removed when nobody wants them any more.

Every function blocks and runs in a thread. Paths come from `checkpoint`, so no name in them was
chosen freely by a framework; what is inside a sandbox was, and is never followed out of it.
"""

import contextlib
import logging
import os
import pwd
import shutil
from pathlib import Path

from cairn_core.agent import checkpoint

log = logging.getLogger(__name__)

#: Kept private, as the original does; the owner is the task's user.
SANDBOX_MODE = 0o750
LATEST = "latest"


def create(sandbox: Path, user: str | None) -> None:
    """Make a sandbox owned by `user` and point `latest` at it; raises OSError, ValueError."""
    sandbox.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    sandbox.mkdir(mode=SANDBOX_MODE, exist_ok=True)
    if user is not None:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise ValueError(f"user: no such user on this agent: {user!r}") from None
        if entry.pw_uid != os.geteuid():
            os.chown(sandbox, entry.pw_uid, entry.pw_gid)
    link = sandbox.with_name(LATEST)
    temporary = sandbox.with_name(LATEST + ".tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    os.symlink(sandbox.name, temporary)
    os.rename(temporary, link)


def remove(path: Path) -> None:
    """Remove a directory with everything in it, links not followed; raises OSError.

    Files that a task made unreadable are no obstacle to root; what cannot be removed stays and is
    the error.
    """
    if not path.is_symlink() and path.exists():
        shutil.rmtree(path)


def prune(root: Path, path: Path) -> None:
    """Remove the directories above `path` that became empty, up to but without `root`."""
    at = path.parent
    while at != root and root in at.parents:
        with contextlib.suppress(OSError):
            if os.path.islink(at / LATEST) and not (at / LATEST).exists():
                (at / LATEST).unlink()
        try:
            names = os.listdir(at)
            if names == [checkpoint.FRAMEWORK_INFO]:
                (at / checkpoint.FRAMEWORK_INFO).unlink()
            at.rmdir()
        except OSError:
            return
        at = at.parent


def runs(work_dir: Path) -> list[tuple[str, float]]:
    """Every run on disk, sandboxes and checkpoints: path below the work directory, its time."""
    found: list[tuple[str, float]] = []
    for root in (work_dir, work_dir / checkpoint.META):
        for path in root.glob("slaves/*/frameworks/*/executors/*/runs/*"):
            if path.name != LATEST and not path.is_symlink():
                with contextlib.suppress(OSError):
                    found.append((path.relative_to(work_dir).as_posix(), path.stat().st_mtime))
    return found


def usage(path: Path) -> float:
    """Used fraction of the file system that holds `path`, 0 to 1."""
    stat = os.statvfs(path)
    return 1.0 - stat.f_bavail / stat.f_blocks if stat.f_blocks else 0.0
