"""Opening files beneath a directory that someone else may write to.

A task can put any symbolic link into its sandbox; a path from outside can hold `..`. Both must not
lead out. Linux 5.6 has openat2(2) with RESOLVE_BENEATH for this, which the kernel checks at every
component without a race; links that stay inside are followed. Where it is missing, we walk one
component after the other and follow no link at all.
"""

import ctypes
import errno
import os
import platform
import stat
from collections.abc import Callable
from pathlib import Path

from cairn_core.errors import RemoteError, shorten

#: openat2 has this number on every architecture (include/uapi/asm-generic/unistd.h).
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
#: Of what is opened for reading: a pipe must not block us, a terminal must not become ours.
_SAFE = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
MAX_PATH = 4096


class OutsideSandbox(RemoteError):
    """The path leads out of its directory, or is no path at all."""

    def __init__(self, path: str) -> None:
        super().__init__(f"path leads out of its directory: {shorten(path)!r}")
        self.path = path


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def parts_of(path: str) -> list[str]:
    """Components of a relative path; `.` and doubled slashes vanish.

    Raises OutsideSandbox for `..`, NUL and what is too long.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path or len(path) > MAX_PATH:
        raise OutsideSandbox(path)
    return parts


def open_beneath(root: Path, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """A descriptor of `root/path`, guaranteed to be beneath `root`.

    path: relative; a leading slash is ignored; empty opens `root` itself. flags, mode: as of
        os.open; close-on-exec is added, and O_NONBLOCK, which regular files ignore.
    Raises OutsideSandbox, and OSError as os.open does.
    """
    parts = parts_of(path)
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        opened = _openat2 if _has_openat2() else _walk
        return opened(base, parts, flags | _SAFE, mode)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ELOOP):
            raise OutsideSandbox(path) from None
        raise
    finally:
        os.close(base)


def _openat2(base: int, parts: list[str], flags: int, mode: int) -> int:
    how = _OpenHow(
        flags=flags,
        mode=mode if flags & os.O_CREAT else 0,
        resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS,
    )
    name = os.fsencode("/".join(parts) or ".")
    for _ in range(64):
        got = int(
            _libc.syscall(
                ctypes.c_long(_SYS_OPENAT2),
                ctypes.c_long(base),
                ctypes.c_char_p(name),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
        )
        number = ctypes.get_errno()
        if got >= 0:
            return got
        # EAGAIN: something was renamed while the kernel looked for "..", try again
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), "/".join(parts))


def _walk(base: int, parts: list[str], flags: int, mode: int) -> int:
    """Without openat2: no link is followed anywhere."""
    if not parts:
        return os.open(".", flags | os.O_NOFOLLOW, mode, dir_fd=base)
    here = os.dup(base)
    try:
        for part in parts[:-1]:
            step = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                below = os.open(part, step, dir_fd=here)
            except NotADirectoryError:
                if stat.S_ISLNK(os.stat(part, dir_fd=here, follow_symlinks=False).st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part) from None
                raise
            os.close(here)
            here = below
        return os.open(parts[-1], flags | os.O_NOFOLLOW, mode, dir_fd=here)
    finally:
        os.close(here)


def _probe() -> bool:
    """Whether the kernel (and a seccomp filter above it) has openat2."""
    if platform.system() != "Linux":
        return False
    base = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_openat2(base, [], os.O_RDONLY | _SAFE, 0))
    except OSError:
        return False
    finally:
        os.close(base)
    return True


_known: list[bool] = []


def _has_openat2(probe: Callable[[], bool] = _probe) -> bool:
    if not _known:
        _known.append(probe())
    return _known[0]
