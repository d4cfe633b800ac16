"""What other daemons told us, on disk: pushed zones and mounts.

A file per zone, replaced at once; what is confirmed survives a kill and a power cut.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from cairn_core.errors import shorten

from .zones import ZoneSpec

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 1024 * 1024
SUFFIX = ".json"


class Mount(Struct, forbid_unknown_fields=True):
    """A path of the HTTP interface that another daemon's Unix socket answers."""

    prefix: str
    socket: str


class Store:
    """Files below one folder."""

    def __init__(self, folder: Path) -> None:
        self._zones, self._mounts = folder / "zones", folder / "mounts.json"

    def zones(self) -> Iterator[tuple[str, ZoneSpec]]:
        """What is kept, by name; a file that makes no sense is told of and left out."""
        paths = sorted(self._zones.glob(f"*{SUFFIX}")) if self._zones.is_dir() else []
        for path in paths:
            try:
                yield path.name.removesuffix(SUFFIX), _load(path, ZoneSpec)
            except (OSError, ValueError, RecursionError) as error:
                log.error("zone not read path=%s reason=%s", path, shorten(str(error)))

    def keep_zone(self, name: str, spec: ZoneSpec) -> None:
        """Keep a zone; returns when it is on disk.  Raises OSError.

        name: checked already, so that it is no path: labels cannot have a slash here.
        """
        _write(self._zone(name), msgspec.json.encode(spec))

    def drop_zone(self, name: str) -> None:
        """Forget a zone.  Raises OSError."""
        self._zone(name).unlink(missing_ok=True)
        _sync(self._zones)

    def mounts(self) -> list[Mount]:
        """What is kept; none when the file makes no sense."""
        try:
            return _load(self._mounts, list[Mount])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            log.error("mounts not read path=%s reason=%s", self._mounts, shorten(str(error)))
            return []

    def keep_mounts(self, mounts: list[Mount]) -> None:
        """Keep all mounts.  Raises OSError."""
        _write(self._mounts, msgspec.json.encode(mounts))

    def _zone(self, name: str) -> Path:
        if "/" in name or "\0" in name or name.startswith("."):
            raise OSError(f"not a name of a file: {name[:80]!r}")
        return self._zones / f"{name}{SUFFIX}"


def _load(path: Path, kind: type[T]) -> T:
    with path.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    return msgspec.json.decode(data, type=kind)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    if not folder.is_dir():
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
