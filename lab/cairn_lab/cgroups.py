"""Cgroup subtrees of a lab, in every hierarchy that this machine mounts (v1, v2, hybrid).

Membership in `cairn/<lab>` is how a lab recognises its processes without memory: a process
joins before it does anything else, so nothing that a lab started can be outside.
Document: the kernel's cgroup-v1 and cgroup-v2 admin guides.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cairn_lab.errors import LabError

MOUNT_ROOT = Path("/sys/fs/cgroup")
# v2 controllers that containers are limited with; the rest is left alone
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


def hierarchies(mounts: str | None = None) -> list[Path]:
    """Mount points of all cgroup hierarchies below /sys/fs/cgroup, sorted.

    mounts: text of /proc/self/mounts; None reads it.
    """
    if mounts is None:
        mounts = Path("/proc/self/mounts").read_text()
    found = set()
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] in ("cgroup", "cgroup2"):
            found.add(Path(fields[1]))
    return sorted(path for path in found if path.is_relative_to(MOUNT_ROOT))


def create(hierarchy: Path, cgroup: str) -> None:
    """Make `cgroup` and its parents in one hierarchy, usable for processes; idempotent."""
    place = hierarchy
    for part in Path(cgroup).parts:
        parent, place = place, place / part
        if (available := parent / "cgroup.controllers").exists():
            for controller in set(available.read_text().split()) & set(_CONTROLLERS):
                # refused when a process sits in `parent`; then its limits do not apply below
                with contextlib.suppress(OSError):
                    (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        place.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # a v1 cpuset starts empty and then takes no process
            mine, above = place / name, parent / name
            if mine.exists() and above.exists() and not mine.read_text().strip():
                mine.write_text(above.read_text())


def join(cgroup: str) -> None:
    """Move the calling process into `cgroup` in every hierarchy; the cgroup must exist."""
    for hierarchy in hierarchies():
        (hierarchy / cgroup / "cgroup.procs").write_text("0")


def processes(cgroup: str) -> set[int]:
    """Ids of all processes in `cgroup` and below, in any hierarchy."""
    found: set[int] = set()
    for place in _subtrees(cgroup):
        with contextlib.suppress(FileNotFoundError, OSError):
            found.update(map(int, (place / "cgroup.procs").read_text().split()))
    found.discard(0)  # 0 stands for a process of a pid namespace that we cannot see
    return found


def kill(cgroup: str, *, timeout_s: float = 20.0) -> None:
    """SIGKILL every process in `cgroup` and below until none is left.

    Raises LabError when one survives for `timeout_s`. The caller's own process, should it
    be inside, is spared.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        _thaw(cgroup)
        left = processes(cgroup) - {os.getpid()}
        if not left:
            return
        if time.monotonic() > deadline:
            some = ", ".join(map(str, sorted(left)[:5]))
            raise LabError(f"processes {some} in cgroup {cgroup} survive SIGKILL; try again later")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def remove(cgroup: str) -> None:
    """Remove `cgroup` and everything below in every hierarchy; no process may be inside."""
    # A cgroup stays busy for a moment after its last process was reaped.
    deadline = time.monotonic() + 5.0
    while places := list(_subtrees(cgroup)):
        for place in places:
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"cannot remove {place}: {error.strerror}") from error
        time.sleep(0.01)


def _thaw(cgroup: str) -> None:
    """A frozen v1 cgroup delivers no SIGKILL."""
    for place in _subtrees(cgroup):
        state = place / "freezer.state"
        with contextlib.suppress(OSError):
            if state.exists() and state.read_text().strip() != "THAWED":
                state.write_text("THAWED")


def _subtrees(cgroup: str) -> Iterator[Path]:
    """Directories of `cgroup` in all hierarchies, children before parents."""
    for hierarchy in hierarchies():
        for place, _, _ in os.walk(hierarchy / cgroup, topdown=False):
            yield Path(place)
