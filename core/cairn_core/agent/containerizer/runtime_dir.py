"""What the containerizer writes to disk, so that a restarted agent finds its containers again.

    <runtime_dir>/containers/<id>/config         what was launched (JSON)
                                 /pid            first process, as a number, for people and tools
                                 /processes      identities of first process and monitor (JSON)
                                 /status         wait status, written by the monitor
                                 /termination    how it ended, once everything is cleaned up (JSON)
                                 /containers/<nested id>/...

Places and names follow the original (mesos src/slave/containerizer/mesos/paths.hpp). Files appear
whole or not at all whatever happens to the writer. Nothing is forced to a disk: no container
outlives its machine's kernel, and neither need what is written about it.
"""

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from cairn_core.agent.containerizer.processes import Identity
from cairn_core.extensions import ContainerConfig

T = TypeVar("T")
MAX_ID = 242
_ID = re.compile(r"[^\x00-\x20\x7f/.]+(\.[^\x00-\x20\x7f/.]+)*")


@dataclass(frozen=True, slots=True)
class Processes:
    """First process of a container and the monitor that waits for it."""

    init: Identity
    monitor: Identity


@dataclass(frozen=True, slots=True)
class ContainerTermination:
    """How a container ended.

    status: wait status (wait(2)), None when nobody could see it. reason: reason for a TaskStatus,
    None when the command ended by itself. limited: resource -> thousandths that were exceeded.
    """

    status: int | None = None
    reason: str | None = None
    message: str = ""
    limited: dict[str, int] = field(default_factory=dict)


def validate_id(container_id: str) -> None:
    """ValueError unless the id may name a directory and a cgroup."""
    if len(container_id) > MAX_ID or not _ID.fullmatch(container_id):
        raise ValueError(f"container_id: not usable: {container_id[:60]!r}")


def parent_of(container_id: str) -> str | None:
    """Id of the parent of a nested container."""
    return container_id.rpartition(".")[0] or None


class RuntimeDir:
    """The directory of all containers. Files appear whole or not at all."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def path(self, container_id: str) -> Path:
        """Directory of a container."""
        return self.root.joinpath(
            "containers", *container_id.replace(".", "/containers/").split("/")
        )

    def create(self, container_id: str, config: ContainerConfig) -> None:
        """Make the directory and keep the configuration, which may hold secrets."""
        path = self.path(container_id)
        path.mkdir(parents=True, mode=0o700)
        self._write(path / "config", msgspec.json.encode(config))

    def put_processes(self, container_id: str, processes: Processes) -> None:
        """Keep who the container's processes are."""
        path = self.path(container_id)
        self._write(path / "pid", str(processes.init.pid).encode())
        self._write(path / "processes", msgspec.json.encode(processes))

    def put_termination(self, container_id: str, termination: ContainerTermination) -> None:
        """Keep how the container ended."""
        self._write(self.path(container_id) / "termination", msgspec.json.encode(termination))

    def status(self, container_id: str) -> int | None:
        """The wait status that the monitor has written."""
        try:
            return int((self.path(container_id) / "status").read_text())
        except (OSError, ValueError):
            return None

    def config(self, container_id: str) -> ContainerConfig | None:
        """What was launched; None when missing or damaged."""
        return self._read(self.path(container_id) / "config", ContainerConfig)

    def processes(self, container_id: str) -> Processes | None:
        """Who the processes were; None before they were started."""
        return self._read(self.path(container_id) / "processes", Processes)

    def termination(self, container_id: str) -> ContainerTermination | None:
        """How the container ended; None while it is not cleaned up."""
        return self._read(self.path(container_id) / "termination", ContainerTermination)

    def remove(self, container_id: str) -> None:
        """Forget a container and all below it."""
        shutil.rmtree(self.path(container_id), ignore_errors=True)

    def ids(self) -> list[str]:
        """All containers that have a directory, parents before their children."""
        found: list[str] = []
        ahead: list[tuple[Path, str]] = [(self.root, "")]
        while ahead:
            directory, prefix = ahead.pop()
            try:
                names = sorted(os.listdir(directory / "containers"))
            except OSError:
                continue
            for name in names:
                found.append(prefix + name)
                ahead.append((directory / "containers" / name, f"{prefix}{name}."))
        return found

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)

    def _read(self, path: Path, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError):
            return None
