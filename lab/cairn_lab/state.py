"""What a lab remembers on disk, who may change it, and what it made outside its directory.

    /var/lib/cairn-lab/made.json          paths made outside: mount points, cgroup parents
    /var/lib/cairn-lab/<name>/lab.json    a LabState
    /var/lib/cairn-lab/<name>/hosts/<host>/{etc,lib,log,...}   bound into the host

Writing goes before doing, so that `down` finds all of it whenever `up` was interrupted.
"""

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from cairn_lab.errors import LabError

BASE = Path("/var/lib/cairn-lab")


class HostState(msgspec.Struct, frozen=True):
    """PID 1 of a host; `started` (clock ticks since boot) tells it from a later owner of the id."""

    pid: int
    started: int


class LabState(msgspec.Struct, frozen=True, kw_only=True):
    """A lab as it was brought up; enough to lay out the same topology again."""

    name: str
    #: Ids of processes mean nothing after a reboot.
    boot_id: str
    #: "starting" until everything runs: found later, it is the trace of an interrupted `up`.
    phase: Literal["starting", "up"]
    masters: int
    agents: int
    public: int
    #: Door name -> port on 127.0.0.1; None: no relays.
    ports: dict[str, int] | None
    #: Hosts without any daemon.
    bare: bool = False
    hosts: dict[str, HostState] = {}
    switch: HostState | None = None
    relays: HostState | None = None


def directory(name: str) -> Path:
    """Where lab `name` keeps everything."""
    return BASE / name


def boot_id() -> str:
    """Identity of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process(pid: int) -> HostState | None:
    """Identity of process `pid`, or None when there is none (a zombie is none)."""
    try:
        # the command name, in parentheses, may hold blanks and parentheses
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else HostState(pid, int(fields[19]))


def alive(remembered: HostState | None) -> bool:
    """Whether the process that was written down still runs."""
    return remembered is not None and process(remembered.pid) == remembered


def load(name: str) -> LabState | None:
    """State of lab `name`; None when there is none. Raises LabError when it is unreadable."""
    path = directory(name) / "lab.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabState)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise LabError(
            f"{path}: {error}; remove the lab with 'cairn lab down --name {name}'"
        ) from error


def save(state: LabState) -> None:
    """Write `state` so that a reader sees the old or the new one."""
    place = directory(state.name)
    place.mkdir(parents=True, exist_ok=True)
    _write(place / "lab.json", msgspec.json.format(msgspec.json.encode(state)))


def names() -> list[str]:
    """Labs that have a directory, whether they run or not."""
    try:
        return sorted(entry.name for entry in BASE.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def forget(name: str) -> None:
    """Remove the directory of lab `name`, if any; symbolic links are not followed."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory(name))


class MadePaths:
    """Ledger of directories and empty files made outside the lab directories.

    Labs share them (a mount point serves every host), so the last lab to go removes them,
    and only while they are empty: what somebody else put there meanwhile stays.
    """

    def __init__(self, base: Path = BASE) -> None:
        self._base = base
        self._path = base / "made.json"

    def make(self, path: Path, *, directory: bool) -> None:
        """Make `path` and missing parents unless they exist; remembers them first."""
        missing = []
        place = path
        while not place.exists():
            missing.append(place)
            place = place.parent
        if not missing:
            return
        missing.reverse()
        known = self._read()
        self._base.mkdir(parents=True, exist_ok=True)
        added = [str(p) for p in missing if str(p) not in known]
        _write(self._path, msgspec.json.format(msgspec.json.encode(known + added)))
        for place in missing:
            if place == path and not directory:
                place.touch()
            else:
                place.mkdir(exist_ok=True)

    def remove(self) -> None:
        """Remove everything remembered that is still empty, and the ledger itself."""
        for text in reversed(self._read()):
            path = Path(text)
            with contextlib.suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                elif path.stat().st_size == 0:
                    path.unlink()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        with contextlib.suppress(OSError):
            self._base.rmdir()

    def _read(self) -> list[str]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[str])
        except (FileNotFoundError, msgspec.DecodeError):
            return []


@contextlib.contextmanager
def locked(what: str, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the machine-wide lock `what` (a lab's name, or "" for the ledger).

    An abstract socket: it leaves no file, and the kernel frees it when the holder dies.
    Raises LabError when somebody else holds it for `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        while True:
            try:
                lock.bind(f"\0cairn-lab/{what}")
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(
                        f"another 'cairn lab' command is busy with lab {what!r}; try again later"
                    ) from error
                time.sleep(0.05)
        yield


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
