"""System calls that Python 3.11 lacks: unshare, setns, mount, pivot_root, prctl (man section 2)."""

import ctypes
import os

CLONE_FLAGS = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
MS_FLAGS = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "remount": 0x20,
    "bind": 0x1000,
    "rec": 0x4000,
    "private": 0x40000,
    "slave": 0x80000,
    "shared": 0x100000,
}
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _flags(names: list[str], table: dict[str, int]) -> int:
    value = 0
    for name in names:
        value |= table[name]
    return value


def unshare(namespaces: list[str]) -> None:
    """Leave the named namespaces (keys of CLONE_FLAGS). OSError names them."""
    if namespaces:
        _check(_libc.unshare(_flags(namespaces, CLONE_FLAGS)), f"unshare {','.join(namespaces)}")


def setns(path: str, kind: str) -> None:
    """Enter the namespace that the file `path` refers to, which must be of `kind`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_FLAGS[kind]), f"setns {kind} {path}")
    finally:
        os.close(fd)


def mount(source: str, target: str, fstype: str, flags: list[str], data: str = "") -> None:
    """Mount; `flags` are keys of MS_FLAGS. OSError names the target."""
    result = _libc.mount(
        source.encode() or None,
        target.encode(),
        fstype.encode() or None,
        ctypes.c_ulong(_flags(flags, MS_FLAGS)),
        data.encode() or None,
    )
    _check(result, f"mount {source or fstype} on {target}")


def prctl(option: int, value: int | bytes) -> None:
    """One process attribute; see the PR_ constants."""
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, argument, zero, zero, zero), f"prctl {option}")
