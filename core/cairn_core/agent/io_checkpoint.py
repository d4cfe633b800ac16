"""The disk under `checkpoint`: writes that are there whole or not at all, and reading them back.

A file is replaced by writing a temporary one beside it, fsync, rename, fsync of the directory. A
record is appended and fsynced; when that fails, what was written of it is cut off again.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cairn_core.agent import checkpoint
from cairn_core.agent.effects import Append, Link, Put, Remove, Write

log = logging.getLogger(__name__)

TEMPORARY = ".tmp"
#: Only these are read back; whatever else lies around is not ours.
NAMES = frozenset(
    {
        checkpoint.BOOT_ID, checkpoint.EPOCH, checkpoint.AGENT_INFO, checkpoint.FRAMEWORK_INFO,
        checkpoint.EXECUTOR_INFO, checkpoint.SENTINEL, checkpoint.TASK_INFO,
        checkpoint.TASK_UPDATES, checkpoint.TASK_KILL,
    }
)  # fmt: skip


class Store:
    """The files below `<work_dir>/meta`. Every method blocks; the daemon calls them in a thread."""

    def __init__(self, work_dir: Path) -> None:
        self.root = work_dir / checkpoint.META

    def apply(self, groups: Iterable[Iterable[Write]]) -> list[OSError | None]:
        """Carry out each group of writes in order; a failure ends its group only.

        Each directory is fsynced once per call, after everything in it.
        """
        results: list[OSError | None] = []
        directories: dict[str, None] = {}
        for group in groups:
            try:
                for write in group:
                    self._apply(write, directories)
                results.append(None)
            except OSError as error:
                results.append(error)
        for directory in directories:
            with contextlib.suppress(FileNotFoundError):
                _sync_directory(directory)
        return results

    def _apply(self, write: Write, directories: dict[str, None]) -> None:
        path = self.root / write.path
        match write:
            case Put():
                self._make(path.parent, directories)
                self._replace(path, write.data)
            case Append():
                self._make(path.parent, directories)
                _append(path, write.data)
            case Link():
                self._make(path.parent, directories)
                _link(path, write.target)
            case Remove():
                path.unlink(missing_ok=True)
        directories[str(path.parent)] = None

    def _make(self, directory: Path, directories: dict[str, None]) -> None:
        """Make a directory and note every parent that got a new entry."""
        missing = []
        at = directory
        while not at.is_dir():
            missing.append(at)
            at = at.parent
        for new in reversed(missing):
            # tokens of executors are in there
            new.mkdir(mode=0o700, exist_ok=True)
            directories[str(new.parent)] = None

    @staticmethod
    def _replace(path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + TEMPORARY)
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def read(self) -> tuple[dict[str, bytes], str | None]:
        """Every file by its path below `meta`, and where `slaves/latest` points."""
        files: dict[str, bytes] = {}
        try:
            latest: str | None = os.readlink(self.root / checkpoint.LATEST)
        except OSError:
            latest = None
        for path in _walk(self.root, latest):
            files[path.relative_to(self.root).as_posix()] = path.read_bytes()
        return files, latest


def _walk(root: Path, latest: str | None) -> Iterator[Path]:
    """Files of ours; of other agents' directories (`slaves/<old id>`) none."""
    for folder, folders, names in os.walk(root):
        if Path(folder) == root / "slaves":
            folders[:] = [name for name in folders if name == latest]
        for name in names:
            if name in NAMES:
                yield Path(folder) / name


def _append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        try:
            _write_all(fd, data)
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise
    finally:
        os.close(fd)


def _link(path: Path, target: str) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.rename(temporary, path)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def boot_id() -> str:
    """Differs after every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
