"""The backends of one VIP, of all tasks that are some; and what is kept of problems.  No I/O."""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import TypeVar

from msgspec.structs import replace

from cairn_core.errors import shorten

from .model import Backend
from .vips import Member

T = TypeVar("T")

#: Backends of one VIP that are refused and of which it is told why.
MAX_REFUSED = 8
#: Instead of more problems than anybody reads.
UNTOLD = ("not told, for there are too many problems",)


def of_members(
    members: Iterable[Member], drained: frozenset[str], not_of_container: Callable[[str], str]
) -> tuple[tuple[Backend, ...], list[str]]:
    """Backends in order, each address and port once: of several tasks the one with the highest
    weight, then with the smallest id; and why some are none.

    drained: see `is_meant`. not_of_container: why an address that a container reports is none of
    its own; empty where it is.
    """
    best: dict[tuple[str, int], Backend] = {}
    refused: dict[str, str] = {}
    for member in members:
        one = member.backend
        if _is_reported(one) and (reason := not_of_container(one.address)):
            refused[one.task_id] = reason
            continue
        if drained and is_meant(one, drained):
            one = replace(one, weight=0, why="drained")
        other = best.setdefault((one.address, one.port), one)
        if other is not one and _rank(one) < _rank(other):
            best[one.address, one.port] = one
    return (
        tuple(best[place] for place in sorted(best)),
        [
            f"task {shorten(task, 80)!r}: {reason}"
            for task, reason in nsmallest(MAX_REFUSED, refused.items())
        ],
    )


def reported(members: Iterable[Member]) -> set[str]:
    """Addresses of containers, which these say themselves."""
    return {one.backend.address for one in members if _is_reported(one.backend)}


def is_meant(one: Backend, targets: frozenset[str]) -> bool:
    """Whether a backend is among `targets`: its `address:port`, its task, the address or id of its
    agent."""
    return (
        one.agent_address in targets
        or one.task_id in targets
        or one.agent_id in targets
        or one.text in targets
    )


def keep_problems(
    kept: dict[T, tuple[str, ...]], key: T, problems: tuple[str, ...], limit: int
) -> None:
    """Note the problems of a task or VIP, in words for as many of them as `limit` says."""
    if not problems:
        kept.pop(key, None)
    elif len(kept) < limit or kept.get(key, UNTOLD) is not UNTOLD:
        kept[key] = problems
    else:
        kept[key] = UNTOLD


def _is_reported(one: Backend) -> bool:
    return one.address != one.agent_address


def _rank(one: Backend) -> tuple[int, str, Backend]:
    return -one.weight, one.task_id, one
