"""Role names: which are valid, and how they nest.

A role is a path (`eng/web`); `*` is the default role and stands alone. Source: Apache Mesos
`src/common/roles.cpp` and `docs/roles.md`.
"""

from collections.abc import Iterable

from cairn_core.errors import RemoteError

DEFAULT_ROLE = "*"
#: Longest role name that we take; the original sets no bound.
MAX_LENGTH = 1024


class RoleError(RemoteError):
    """A role name that is not one.

    role: the name as it was given.
    """

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(f"role {role[:64]!r} {reason}")
        self.role = role


def validate(role: str) -> str:
    """Return the role unchanged; raise RoleError when its name is not valid."""
    reason = _fault(role)
    if reason:
        raise RoleError(role, reason)
    return role


def validate_all(roles: Iterable[str]) -> frozenset[str]:
    """Validate several roles; a role named twice is an error, as in the original."""
    seen: set[str] = set()
    for role in roles:
        if validate(role) in seen:
            raise RoleError(role, "is given twice")
        seen.add(role)
    return frozenset(seen)


def _fault(role: str) -> str | None:
    if role == DEFAULT_ROLE:
        return None
    if not role:
        return "is empty"
    if len(role) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if role.startswith("/") or role.endswith("/"):
        return "starts or ends with a slash"
    if any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in role):
        return "contains white space or a control character"
    for component in role.split("/"):
        if not component:
            return "has an empty component"
        if component in (".", "..", "*"):
            return f"has the component {component!r}"
        if component.startswith("-"):
            return f"has the component {component[:64]!r}, which starts with '-'"
    return None


def ancestors(role: str) -> list[str]:
    """The roles above this one, nearest first: `a/b/c` has `a/b` and `a`."""
    above = []
    while "/" in role:
        role = role.rpartition("/")[0]
        above.append(role)
    return above


def lineage(role: str) -> list[str]:
    """The role itself and the roles above it, nearest first."""
    return [role, *ancestors(role)]


def top_level(role: str) -> str:
    """The first component: the role that holds the quota."""
    return role.partition("/")[0]


def is_subrole(role: str, of: str) -> bool:
    """Whether `role` lies strictly below `of`."""
    return len(role) > len(of) and role.startswith(of) and role[len(of)] == "/"
