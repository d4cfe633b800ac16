"""Processes as /proc shows them: who is who, who descends from whom, what they use (proc(5))."""

import asyncio
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/<pid>/stat that we use; times in clock ticks."""

    state: str
    parent: int
    session: int
    user: int
    system: int
    threads: int
    start: int
    rss_pages: int


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that no later process with the same number can be taken for."""

    pid: int
    start: int  #: clock ticks after boot
    boot_id: str
    namespace: int  #: inode of the process namespace in which `pid` is meant


def read_stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            text = file.read()
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses itself.
    words = text[text.rindex(")") + 2 :].split()
    return Stat(
        state=words[0],
        parent=int(words[1]),
        session=int(words[3]),
        user=int(words[11]),
        system=int(words[12]),
        threads=int(words[17]),
        start=int(words[19]),
        rss_pages=int(words[21]),
    )


@functools.cache
def boot_id() -> str:
    """Changes with every start of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def identify(pid: int) -> Identity | None:
    """Who has this number now; None when nobody."""
    stat = read_stat(pid)
    if stat is None:
        return None
    return Identity(pid, stat.start, boot_id(), os.stat("/proc/self/ns/pid").st_ino)


def is_running(who: Identity) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    stat = read_stat(who.pid)
    return stat is not None and stat.state not in "ZX" and identify(who.pid) == who


def descendants(roots: Iterable[int]) -> set[int]:
    """`roots` and all that descend from them, of those alive now."""
    children: dict[int, list[int]] = {}
    alive = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read_stat(int(name))) is not None:
            alive.add(int(name))
            children.setdefault(stat.parent, []).append(int(name))
    found: set[int] = set()
    ahead = [pid for pid in roots if pid in alive]
    while ahead:
        pid = ahead.pop()
        if pid not in found:
            found.add(pid)
            ahead.extend(children.get(pid, ()))
    return found


def kill(pids: Iterable[int], number: int) -> None:
    """Send a signal to each that still exists."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


async def gone(who: Identity) -> None:
    """Return when this process has ended. Works for processes that are not our children."""
    try:
        fd = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return
    try:
        if not is_running(who):  # checked while the number is pinned
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)
