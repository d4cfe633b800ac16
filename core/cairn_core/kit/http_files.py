"""`/files/{browse,read,download,debug}`: sandboxes and logs over HTTP, as the original shows them.

Paths of a request are virtual: a table maps prefixes of them to real directories and files, and
nothing outside the table can be reached. Source: Mesos src/files/files.cpp, docs/endpoints/files.
"""

import asyncio
import grp
import os
import pwd
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from cairn_core.kit.http_types import Answer, Handler, Refused, Request, Response
from cairn_core.kit.routes import Options, Router
from cairn_core.kit.sandbox_files import OutsideSandbox, open_beneath, parts_of

T = TypeVar("T")

#: What one read gives at most: 16 pages. Source: files.cpp, `FilesProcess::_read`.
MAX_READ_BYTES = 16 * 4096
#: Entries of one directory listed at most; a task may make millions.
MAX_ENTRIES = 100_000
_PIECE_BYTES = 256 * 1024


class FileInfo(msgspec.Struct, frozen=True):
    """One entry of `/files/browse`; field names are the original's."""

    path: str
    nlink: int
    size: int
    mtime: float
    mode: str
    uid: str
    gid: str


@dataclass(slots=True)
class VirtualPaths:
    """Which real path stands behind a virtual one; pure.

    Invariant: keys are normal: one leading slash, none at the end, no `.` or `..`.
    """

    _real: dict[str, Path] = field(default_factory=dict)

    def attach(self, virtual: str, real: Path) -> None:
        """Show `real`, a directory or a file, at `virtual`; replaces an earlier one."""
        self._real[self._normal(virtual)] = real

    def detach(self, virtual: str) -> None:
        """Stop showing it; unknown ones are ignored."""
        self._real.pop(self._normal(virtual), None)

    def resolve(self, virtual: str) -> tuple[Path, str] | None:
        """The attached path that is the longest prefix of `virtual`, and what is beneath it.

        Raises OutsideSandbox for a path with `..`.
        """
        parts = parts_of(virtual)
        for count in range(len(parts), 0, -1):
            real = self._real.get("/" + "/".join(parts[:count]))
            if real is not None:
                return real, "/".join(parts[count:])
        return None

    def table(self) -> dict[str, str]:
        """Virtual -> real, sorted, for `/files/debug`."""
        return {virtual: str(real) for virtual, real in sorted(self._real.items())}

    @staticmethod
    def _normal(virtual: str) -> str:
        return "/" + "/".join(parts_of(virtual))


def add_file_routes(
    router: Router[Handler],
    paths: VirtualPaths,
    *,
    allowed: Callable[[str | None, str], bool] = lambda principal, path: True,
) -> None:
    """Add `/files/...` and the `.json` twins that old clients call.

    allowed: whether a principal may see a virtual path; refused with 403.
    """

    def wanted(request: Request) -> str:
        path = request.query.get("path", "")
        if not path:
            raise Refused(400, "Expecting 'path=value' in query.\n", text=True)
        if not allowed(request.principal, path):
            raise Refused(403, f"not allowed to see {path[:200]!r}")
        return path

    async def get_browse(request: Request) -> Answer:
        return Response.json(await in_thread(browse, paths, wanted(request)))

    async def get_read(request: Request) -> Answer:
        path = wanted(request)
        offset, length = request.integer("offset", -1), request.integer("length", -1)
        assert offset is not None
        assert length is not None
        if offset < -1:
            raise Refused(400, f"Negative offset provided: {offset}.\n", text=True)
        # Compat: files.cpp takes a length of -1 for "as much as allowed"
        if length < -1:
            raise Refused(400, f"Negative length provided: {length}.\n", text=True)
        data, at = await in_thread(read, paths, path, offset, length)
        return Response.json({"data": data.decode(errors="replace"), "offset": at})

    async def get_download(request: Request) -> Answer:
        path = wanted(request)
        descriptor = await in_thread(_open_file, paths, path)
        size = os.fstat(descriptor).st_size
        name = path.rstrip("/").rpartition("/")[2]
        return Response(
            body=_Download(descriptor, size),
            content_type="application/octet-stream",
            headers={
                "Content-Length": str(size),
                "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def get_debug(request: Request) -> Answer:
        return Response.json(
            {v: r for v, r in paths.table().items() if allowed(request.principal, v)}
        )

    options = Options(exact=True, jsonp=True)
    routes: Iterable[tuple[str, Handler]] = (
        ("browse", get_browse), ("read", get_read),
        ("download", get_download), ("debug", get_debug),
    )  # fmt: skip
    for name, handler in routes:
        router.add(f"/files/{name}", handler, json_twin=True, options=options)


class _Download(AsyncIterator[bytes]):
    """Pieces of a file, exactly as many bytes as were announced; closes it at the end."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._left = size

    async def __anext__(self) -> bytes:
        piece = b""
        if self._left:
            piece = await asyncio.to_thread(self._file.read, min(_PIECE_BYTES, self._left))
        if not piece:
            self._file.close()
            if self._left:
                # truncated meanwhile: cutting the connection is the only honest end
                raise ConnectionResetError("file became shorter while it was sent")
            raise StopAsyncIteration
        self._left -= len(piece)
        return piece

    def __del__(self) -> None:
        self._file.close()


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run in a thread, with the errors of the file system as answers."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except (FileNotFoundError, NotADirectoryError, OutsideSandbox):
        # what lies outside does not exist for the one who asks
        raise Refused(404, "No such file or directory.\n", text=True) from None
    except IsADirectoryError:
        raise Refused(400, "Cannot read from a directory.\n", text=True) from None
    except OSError as error:
        raise Refused(500, f"{error.strerror or 'unreadable'}\n", text=True) from None


def _resolve(paths: VirtualPaths, virtual: str) -> tuple[Path, str]:
    found = paths.resolve(virtual)
    if found is None:
        raise FileNotFoundError(virtual)
    real, rest = found
    if not rest and not real.is_dir():
        return real.parent, real.name
    return real, rest


def _open_file(paths: VirtualPaths, virtual: str) -> int:
    descriptor = open_beneath(*_resolve(paths, virtual))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(virtual)
    raise PermissionError(13, "Not a regular file.")


def read(paths: VirtualPaths, virtual: str, offset: int, length: int) -> tuple[bytes, int]:
    """Bytes of a virtual file and their offset; with offset -1 nothing and the size. Blocks.

    length: -1 for as much as allowed, which is MAX_READ_BYTES. Raises as `browse` does.
    """
    descriptor = _open_file(paths, virtual)
    try:
        size = os.fstat(descriptor).st_size
        if offset == -1:
            # how viewers find the end of a log
            return b"", size
        want = MAX_READ_BYTES if length == -1 else min(length, MAX_READ_BYTES)
        return os.pread(descriptor, want, min(offset, 2**63 - 1)), offset
    finally:
        os.close(descriptor)


def browse(paths: VirtualPaths, virtual: str) -> list[FileInfo]:
    """Entries of a virtual directory, sorted; links are shown, not followed. Blocks.

    Raises OSError, OutsideSandbox; `in_thread` turns them into answers.
    """
    descriptor = open_beneath(*_resolve(paths, virtual), os.O_RDONLY | os.O_DIRECTORY)
    try:
        found: list[FileInfo] = []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                if len(found) >= MAX_ENTRIES:
                    break
                try:
                    info = entry.stat(follow_symlinks=False)
                    name = entry.name.encode(errors="surrogateescape").decode(errors="replace")
                except OSError:
                    continue  # removed meanwhile
                found.append(_info(f"{virtual.rstrip('/')}/{name}", info))
        return sorted(found, key=lambda item: item.path)
    finally:
        os.close(descriptor)


def _info(path: str, info: os.stat_result) -> FileInfo:
    return FileInfo(
        path, info.st_nlink, info.st_size, info.st_mtime, stat.filemode(info.st_mode),
        _user(info.st_uid), _group(info.st_gid),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@lru_cache(maxsize=1024)
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
