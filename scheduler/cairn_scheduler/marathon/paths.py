"""Ids of apps and groups: paths of names, absolute (`/a/b`) or relative to a group (`../b`).

Inside, an id is its absolute text; the root group is `/`.
"""

import re
from collections.abc import Iterator

ROOT = "/"
#: What a segment must match; `.` and `..` are allowed on input and resolved away.
SEGMENT = re.compile(
    r"^(([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])\.)*([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])$"
    r"|^(\.|\.\.)$"
)
#: Last segments that collide with sub-resources of the API.
RESERVED = ("restart", "tasks", "versions", ".", "..")
#: Longest id that we take. A task id adds up to 60 characters, and may have 255: the longest name
#: of a file. An app with a longer id would be stored, and every task of it refused.
MAX_LENGTH = 190


def segments(path: str) -> list[str]:
    """Names of a path; the root has none."""
    return [part for part in path.split("/") if part]


def canonical(path: str, base: str = ROOT) -> str:
    """The absolute path of `path` as seen from the group `base`, dots resolved.

    `..` above the root stays at the root.
    """
    out = [] if path.startswith("/") else segments(base)
    for part in segments(path):
        if part == "..":
            if out:
                out.pop()
        elif part != ".":
            out.append(part)
    return "/" + "/".join(out)


def parent(path: str) -> str:
    """The group that holds an absolute path; the root's parent is the root."""
    return path.rpartition("/")[0] or ROOT


def name(path: str) -> str:
    """Last segment; empty for the root."""
    return path.rpartition("/")[2]


def join(base: str, child: str) -> str:
    """The path of a name in a group."""
    return f"/{child}" if base == ROOT else f"{base}/{child}"


def is_below(path: str, group: str) -> bool:
    """Whether an absolute path lies strictly below a group."""
    return path != group and (group == ROOT or path.startswith(f"{group}/"))


def ancestors(path: str) -> Iterator[str]:
    """The groups above a path, nearest first, the root last."""
    while path != ROOT:
        path = parent(path)
        yield path


def top_level(path: str) -> str | None:
    """Name of the top-level group that holds a path; None for what lies in the root itself."""
    parts = segments(path)
    return parts[0] if len(parts) > 1 else None


def faults(path: str) -> list[str]:
    """What is wrong with an id, as texts for a validation error."""
    found = []
    if len(path) > MAX_LENGTH:
        found.append(f"id must not be longer than {MAX_LENGTH} characters")
    bad = [part for part in segments(path[:MAX_LENGTH]) if not SEGMENT.match(part)]
    if bad or "//" in path:
        found.append(f"must fully match regular expression '{SEGMENT.pattern}'")
    if name(path) in RESERVED:
        found.append(
            f"must not end with any of the following reserved keywords: {', '.join(RESERVED)}"
        )
    return found


def safe(path: str) -> str:
    """The id as the first part of instance ids: `/a/b` is `a_b`."""
    return "_".join(segments(path))


def reversed_dotted(path: str) -> str:
    """The id as a task's name: `/a/b` is `b.a`."""
    return ".".join(reversed(segments(path)))
