"""Control groups: version 1, version 2 and hosts that mount both (cgroups(7)).

Each container has a group of its own name below `cgroups_root` in every hierarchy that an isolator
uses; nothing outside that subtree is touched but the controllers switched on above it. In version 2
processes live in a child named `leaf`, for a group that hands controllers down may hold none
itself; an agent that was started in such a group leaves it first (`make_room`).
"""

import contextlib
import errno
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from cairn_core.agent.containerizer.processes import kill as send
from cairn_core.errors import LocalError

LEAF = "leaf"
#: Group of the zygote and the monitors, beside those of the containers.
HELPERS = "helpers"
#: Group of the agent itself, where it cannot stay in the one it was started in.
AGENT = "agent"
V2_CONTROLLERS = ("cpu", "memory", "pids")
REMOVE_TRIES = 100
REMOVE_PAUSE_S = 0.01


class CgroupError(LocalError):
    """A control file could not be used; the text names it."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the hierarchies are mounted."""

    v1: dict[str, Path] = field(default_factory=dict)  #: controller -> mount point
    v2: Path | None = None
    v2_controllers: frozenset[str] = frozenset()


def parse_mounts(mountinfo: str) -> Hierarchies:
    """Read /proc/self/mountinfo (proc(5)); the first mount of a controller wins."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if len(words) < 5 or len(kind) < 3:
            continue
        point = Path(words[4].replace("\\040", " "))
        if kind[0] == "cgroup2" and v2 is None:
            v2 = point
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                if option not in ("rw", "ro"):
                    v1.setdefault(option, point)
    return Hierarchies(v1, v2)


def parse_table(text: str) -> dict[str, int]:
    """`key value` lines; those that are none are left out."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        with contextlib.suppress(ValueError):
            found[key] = int(value)
    return found


def find_hierarchies() -> Hierarchies:
    """The hierarchies of this host, as this process sees them."""
    found = parse_mounts(Path("/proc/self/mountinfo").read_text())
    if found.v2 is None:
        return found
    controllers = (found.v2 / "cgroup.controllers").read_text().split()
    return Hierarchies(found.v1, found.v2, frozenset(controllers))


def own_group() -> str:
    """Version 2 group of this process, relative to the mount; "/" without version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return "/"


class Cgroups:
    """The groups of one agent below `root` (relative, as `--cgroups_root`)."""

    def __init__(self, hierarchies: Hierarchies, root: str) -> None:
        self.hierarchies = hierarchies
        self.root = root.strip("/")

    def make_room(self, own: str) -> bool:
        """Leave the version 2 group `own` where it has to hand controllers down to ours.

        own: this process's group as /proc/self/cgroup names it, relative to the mount. Returns
        whether it moved. Raises CgroupError when the kernel forbids it.
        """
        mount = self.hierarchies.v2
        if mount is None or not self.hierarchies.v2_controllers:
            return False
        group, root = mount / own.strip("/"), mount / self.root
        if group != root and group not in root.parents:
            return False
        if not (group / "cgroup.type").exists():
            return False  # the hierarchy's real root, which may hold processes as well
        leaf = root / AGENT / LEAF
        try:
            leaf.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CgroupError(f"{leaf}: {error.strerror}") from error
        self._put(leaf / "cgroup.procs", "0")
        return True

    def version(self, controller: str) -> int:
        """1 or 2: which version controls this; 0 when none does."""
        if controller in self.hierarchies.v1:
            return 1
        return 2 if controller in self.hierarchies.v2_controllers else 0

    def path(self, controller: str, group: str) -> Path:
        """Directory of a group. Raises CgroupError when nothing controls this."""
        mount = self.hierarchies.v1.get(controller)
        if mount is None and (controller in self.hierarchies.v2_controllers or controller == ""):
            mount = self.hierarchies.v2
        if mount is None:
            raise CgroupError(f"cgroup controller {controller or 'cgroup2'}: not mounted")
        return mount / self.root / group

    def create(self, controller: str, group: str) -> None:
        """Make the group; it may exist. Controller "" means the version 2 tree itself."""
        path = self.path(controller, group)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if controller not in self.hierarchies.v1:
                (path / LEAF).mkdir(exist_ok=True)
                self._switch_on(path)
        except OSError as error:
            raise CgroupError(f"{path}: {error.strerror}") from error

    def _switch_on(self, path: Path) -> None:
        """Hand the controllers down from the mount point to the children of `path`."""
        mount = self.hierarchies.v2
        wanted = [c for c in V2_CONTROLLERS if c in self.hierarchies.v2_controllers]
        assert mount is not None
        if not wanted:
            return
        text = " ".join(f"+{c}" for c in wanted)
        for group in reversed([path, *path.parents]):
            if group != mount and mount not in group.parents:
                continue
            try:
                (group / "cgroup.subtree_control").write_text(text)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise CgroupError(
                    f"{group}: holds processes, so no group below it can have controllers; "
                    "move them, or choose another cgroups_root"
                ) from error

    def add(self, controller: str, group: str, pid: int) -> None:
        """Move a process into the group."""
        path = self.path(controller, group)
        if controller not in self.hierarchies.v1:
            path /= LEAF
        self._put(path / "cgroup.procs", str(pid))

    def write(self, controller: str, group: str, name: str, value: str) -> None:
        """Set one control file."""
        self._put(self.path(controller, group) / name, value)

    def _put(self, path: Path, value: str) -> None:
        try:
            path.write_text(value)
        except OSError as error:
            raise CgroupError(f"{path}: cannot write {value!r}: {error.strerror}") from error

    def read(self, controller: str, group: str, name: str) -> str:
        """Content of a control file; CgroupError when it cannot be read."""
        path = self.path(controller, group) / name
        try:
            return path.read_text()
        except OSError as error:
            raise CgroupError(f"{path}: {error.strerror}") from error

    def table(self, controller: str, group: str, name: str) -> dict[str, int]:
        """A control file of `key value` lines; empty when it cannot be read."""
        with contextlib.suppress(CgroupError):
            return parse_table(self.read(controller, group, name))
        return {}

    def exists(self, controller: str, group: str) -> bool:
        """Whether the group is there."""
        with contextlib.suppress(CgroupError):
            return self.path(controller, group).is_dir()
        return False

    def pids(self, controller: str, group: str) -> set[int]:
        """Processes in the group and below. One that our process namespace hides is not among."""
        found: set[int] = set()
        for directory, _, _ in os.walk(self.path(controller, group)):
            with contextlib.suppress(OSError):
                text = Path(directory, "cgroup.procs").read_text()
                found |= {int(word) for word in text.split()}
        return found - {0}

    def kill(self, controller: str, group: str) -> None:
        """SIGKILL everything in the group at once, leaving nothing time to fork away."""
        path = self.path(controller, group)
        if not path.is_dir():
            return
        if (path / "cgroup.kill").exists():
            with contextlib.suppress(OSError):
                (path / "cgroup.kill").write_text("1")
            return
        freezer = controller == "freezer"
        if freezer:
            with contextlib.suppress(CgroupError):
                self.write(controller, group, "freezer.state", "FROZEN")
        send(self.pids(controller, group), 9)
        if freezer:  # a frozen process dies once it thaws
            with contextlib.suppress(CgroupError):
                self.write(controller, group, "freezer.state", "THAWED")

    def remove(self, controller: str, group: str) -> None:
        """Remove the group and those below; fine when absent. CgroupError when still in use."""
        path = self.path(controller, group)
        for attempt in range(REMOVE_TRIES):
            try:
                for directory, _, _ in os.walk(path, topdown=False):
                    os.rmdir(directory)
                return
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == REMOVE_TRIES - 1:
                    raise CgroupError(f"{path}: cannot remove: {error.strerror}") from error
                time.sleep(REMOVE_PAUSE_S)  # the kernel lets go of dead processes a little later

    def groups(self, controller: str) -> set[str]:
        """Names of the groups right below the root, without those of helpers and agent."""
        with contextlib.suppress(OSError, CgroupError):
            root = self.path(controller, "")
            return {e.name for e in os.scandir(root) if e.is_dir()} - {AGENT, HELPERS, LEAF}
        return set()
