"""The disk under `checkpoint`: writes that are there whole or not at all, and reading them back.

A file is replaced by writing a temporary one beside it, fsync, rename, fsync of the directory. A
record is appended and fsynced; when that fails, what was written of it is cut off again.

Everything that waits at one moment is written first and then fsynced, renamed, fsynced, several
files at a time: those that wait for the disk together share what the file system writes to its
journal.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cairn_core.agent import checkpoint
from cairn_core.agent.effects import Append, Link, Put, Remove, Write

log = logging.getLogger(__name__)

T = TypeVar("T")

TEMPORARY = ".tmp"
MAX_OPEN = 256
#: Files that are fsynced at the same time, where at least so many wait; threads cost more than they
#: save for a single task.
MAX_SYNCING = 8
MANY = 20
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
        """Carry out each group of writes in order; a failure ends its group only."""
        batch = _Batch()
        for group in groups:
            batch.results.append(None)
            try:
                for write in group:
                    self._stage(write, batch)
            except OSError as error:
                batch.results[-1] = error
        batch.commit()
        for failure in _together(_sync_directory, batch.directories):
            if failure is not None and not isinstance(failure, FileNotFoundError):
                raise failure
        return batch.results

    def _stage(self, write: Write, batch: "_Batch") -> None:
        path = self.root / write.path
        if path in batch.paths or len(batch.opened) >= MAX_OPEN:
            batch.commit()
        match write:
            case Put():
                self._make(path.parent, batch.directories)
                batch.put(path, write.data)
            case Append():
                self._make(path.parent, batch.directories)
                batch.append(path, write.data)
            case Link():
                batch.commit()  # what it points at comes first
                self._make(path.parent, batch.directories)
                _link(path, write.target)
                batch.directories[str(path.parent)] = None
            case Remove():
                path.unlink(missing_ok=True)
                batch.directories[str(path.parent)] = None

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


@dataclass(slots=True)
class _Open:
    """A file that is written and not fsynced yet. size: of the file before an append."""

    fd: int
    group: int
    path: Path
    temporary: Path | None = None
    size: int = 0


@dataclass(slots=True)
class _Batch:
    """Writes on their way to disk.

    Invariant: no path is open twice, so that order does not matter among the open ones.
    """

    results: list[OSError | None] = field(default_factory=list)
    opened: list[_Open] = field(default_factory=list)
    paths: set[Path] = field(default_factory=set)
    #: In which entries came or changed; fsynced last.
    directories: dict[str, None] = field(default_factory=dict)

    def put(self, path: Path, data: bytes) -> None:
        """Write a file beside the one that it replaces."""
        temporary = path.with_name(path.name + TEMPORARY)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._write(_Open(fd, len(self.results) - 1, path, temporary), data)

    def append(self, path: Path, data: bytes) -> None:
        """Write a record behind the others."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(fd).st_size
        if size == 0:
            self.directories[str(path.parent)] = None
        self._write(_Open(fd, len(self.results) - 1, path, None, size), data)

    def _write(self, file: _Open, data: bytes) -> None:
        try:
            _write_all(file.fd, data)
        except OSError:
            _undo(file)
            os.close(file.fd)
            raise
        self.opened.append(file)
        self.paths.add(file.path)

    def commit(self) -> None:
        """Bring what is open to disk, then into place."""
        # A rename between two fsyncs would make each of them wait for the journal again.
        errors = _together(os.fsync, [file.fd for file in self.opened])
        for file, error in zip(self.opened, errors, strict=True):
            if error is not None:
                self.results[file.group] = error
                _undo(file)
        for file in self.opened:
            os.close(file.fd)
            if file.temporary is None or not file.temporary.exists():
                continue
            try:
                os.rename(file.temporary, file.path)
                self.directories[str(file.path.parent)] = None
            except OSError as error:
                self.results[file.group] = error
                _undo(file)
        self.opened.clear()
        self.paths.clear()


def _together(sync: Callable[[T], None], things: Collection[T]) -> list[OSError | None]:
    """Sync each thing, several at a time; what went wrong with each."""

    def attempt(thing: T) -> OSError | None:
        try:
            sync(thing)
        except OSError as error:
            return error
        return None

    if len(things) < MANY:
        return [attempt(thing) for thing in things]
    with ThreadPoolExecutor(MAX_SYNCING) as threads:
        return list(threads.map(attempt, things))


def _undo(file: _Open) -> None:
    with contextlib.suppress(OSError):
        if file.temporary is not None:
            file.temporary.unlink()
        else:
            os.ftruncate(file.fd, file.size)


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
