"""Keeps the last known cluster in a file; a change costs the rows that it changes.

A batch of changed rows is appended and flushed; when what was appended is larger than the base,
the file is written anew and takes the place of the old one.  Whatever moment the process or the
machine ends at, the file is good up to the last batch that was flushed.
"""

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from cairn_core.errors import cause
from cairn_core.mesos.feed_rows import BadRow, Row, decode_row, encode_row

from .journal import MAGIC, encode_batch, read_kept
from .view import Snapshot

log = logging.getLogger(__name__)

#: The file is not written anew before so much was appended, bytes.
MIN_JOURNAL_BYTES = 1024 * 1024
#: Version of the former file, a single array.
_FORMER_VERSION = 1


class _Former(msgspec.Struct, frozen=True, array_like=True):
    version: int
    wall: float
    rows: list[tuple[str, bytes]]


class KeptFile:
    """One file and who writes it.  All methods may be called from any thread.

    Invariant: the file is good up to `_end`, or `_end` is 0 and it must be written anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base = 0
        self._end = 0
        #: Changed rows that could not be written yet.
        self._owed: dict[str, Row | None] = {}
        self._told = ""
        self._writing = threading.Lock()

    def load(self) -> tuple[list[Row], float] | None:
        """Rows and when they were true, seconds since the epoch; None when there are none."""
        try:
            data = _read_file(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("kept state is not used file=%s reason=%s", self._path, cause(error))
            return None
        kept = read_kept(data)
        if kept is None:
            former = _read_former(data)
            if former is None:
                log.warning("kept state is not used file=%s reason=it is damaged", self._path)
                return None
            return _decode_rows(former.rows), former.wall
        if kept.good < len(data):
            log.warning(
                "end of the kept state is torn file=%s ignored=%d bytes",
                self._path, len(data) - kept.good,
            )  # fmt: skip
        with self._writing:
            self._base, self._end = kept.base, kept.good
        return _decode_rows(kept.rows.items()), kept.wall

    def write(self, changed: Mapping[str, Row | None], snapshot: Snapshot, wall: float) -> None:
        """Append what has changed since the last call, or write the whole snapshot anew.

        wall: when the snapshot was true.  Takes as long as the disk does.  A failure is logged,
        once for each cause, and made up for by the next call.
        """
        with self._writing:
            self._owed.update(changed)
            try:
                if not self._end or self._is_outgrown() or not self._append(wall):
                    self._write_anew(snapshot, wall)
            except OSError as error:
                self._tell(cause(error))
                return
            self._owed.clear()
            self._tell("")

    def _is_outgrown(self) -> bool:
        return self._end - self._base > max(self._base, MIN_JOURNAL_BYTES)

    def _append(self, wall: float) -> bool:
        """Append what is owed; False when the file is not ours any more."""
        rows = ((key, _encoded(row)) for key, row in self._owed.items())
        data = b"".join(encode_batch(rows, wall))
        try:
            file = self._path.open("r+b")
        except FileNotFoundError:
            return False
        with file:
            if os.fstat(file.fileno()).st_size < self._end:
                return False
            try:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), self._end)
                raise
        self._end += len(data)
        return True

    def _write_anew(self, snapshot: Snapshot, wall: float) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(self._path.name + ".new")
        try:
            new.unlink(missing_ok=True)
            with new.open("xb") as file:
                size = _write_base(file, snapshot, wall)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._base = self._end = size
        _sync_directory(self._path.parent)

    def _tell(self, problem: str) -> None:
        if problem == self._told:
            return
        self._told = problem
        if problem:
            log.error("state not kept file=%s reason=%s", self._path, problem)
        else:
            log.info("state is kept again file=%s", self._path)


def _read_file(path: Path) -> bytes:
    """What is in a regular file; opening anything else might wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        return file.read()


def _write_base(file: BinaryIO, snapshot: Snapshot, wall: float) -> int:
    size = file.write(MAGIC)
    for frame in encode_batch(((key, _encoded(row)) for key, row in snapshot.rows()), wall):
        size += file.write(frame)
    return size


def _encoded(row: Row | None) -> bytes | None:
    return None if row is None else encode_row(row)


def _sync_directory(path: Path) -> None:
    """Have a new name on disk too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_former(data: bytes) -> _Former | None:
    try:
        former = msgspec.msgpack.decode(data, type=_Former)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return former if former.version == _FORMER_VERSION else None


def _decode_rows(values: Iterable[tuple[str, bytes]]) -> list[Row]:
    """Rows that can be read; others were written by another version."""
    rows = []
    for key, value in values:
        with contextlib.suppress(BadRow):
            row = decode_row(key, value)
            if row is not None:
                rows.append(row)
    return rows
