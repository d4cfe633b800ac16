"""Whether a FrameworkInfo may subscribe, and what the allocator needs to know of it.

Source of the rules and of the texts that clients see: Apache Mesos `src/master/validation.cpp`
(namespace framework) and `src/master/master.cpp` (`_subscribe`).
"""

from collections.abc import Mapping
from math import isfinite

from cairn_core.errors import RemoteError
from cairn_core.extensions import AllocFramework, FrameworkId
from cairn_core.master.state.ids import fault_of_id
from cairn_core.master.state.records import FrameworkRecord
from cairn_core.master.state.settings import Settings
from cairn_core.mesos.types import FrameworkInfo
from cairn_core.resources import ResourceError, quantities
from cairn_core.roles import DEFAULT_ROLE, RoleError, validate, validate_all

#: Longest name, user, hostname... that a framework may give itself; the original sets no bound.
MAX_TEXT = 4096
MAX_ROLES = 1024
#: Longest failover timeout: the original counts nanoseconds in 64 bits.
MAX_FAILOVER_S = 9.2e9


class FrameworkError(RemoteError):
    """This framework cannot subscribe; the text is sent to it."""


def capabilities_of(info: FrameworkInfo) -> frozenset[str]:
    """Names of its capabilities."""
    return frozenset(c.type for c in info.capabilities if c.type is not None)


def roles_of(info: FrameworkInfo) -> frozenset[str]:
    """The roles it subscribes to; raises FrameworkError where they are malformed."""
    if "MULTI_ROLE" in capabilities_of(info):
        if info.role is not None:
            raise FrameworkError("'FrameworkInfo.role' must not be set when MULTI_ROLE is")
        if len(info.roles) > MAX_ROLES:
            raise FrameworkError(f"'FrameworkInfo.roles' has {len(info.roles)}, limit {MAX_ROLES}")
        try:
            return validate_all(info.roles)
        except RoleError as error:
            raise FrameworkError(f"'FrameworkInfo.roles' is invalid: {error}") from None
    if info.roles:
        raise FrameworkError("'FrameworkInfo.roles' must not be set without MULTI_ROLE")
    try:
        return frozenset({validate(info.role or DEFAULT_ROLE)})
    except RoleError as error:
        raise FrameworkError(f"'FrameworkInfo.role' is invalid: {error}") from None


def check_info(info: FrameworkInfo, principal: str | None, settings: Settings) -> frozenset[str]:
    """The roles of an acceptable FrameworkInfo; raises FrameworkError.

    principal: of the connection; None when it is not authenticated.
    """
    if settings.authenticate_frameworks and principal is None:
        raise FrameworkError("Framework is not authenticated")
    if principal is not None and info.principal is not None and info.principal != principal:
        raise FrameworkError(
            f"Framework principal '{info.principal[:200]}' does not match authenticated principal "
            f"'{principal[:200]}'"
        )
    for name in ("name", "user", "hostname", "webui_url", "principal"):
        if len(getattr(info, name) or "") > MAX_TEXT:
            raise FrameworkError(f"'FrameworkInfo.{name}' is longer than {MAX_TEXT} characters")
    if info.user == "root" and not settings.root_submissions:
        raise FrameworkError(
            "User 'root' is not allowed to run frameworks without root submissions"
        )
    if not isfinite(info.failover_timeout) or not 0 <= info.failover_timeout <= MAX_FAILOVER_S:
        raise FrameworkError(
            f"'FrameworkInfo.failover_timeout' is invalid: {info.failover_timeout}"
        )
    if info.id is not None and info.id.value and (fault := fault_of_id(info.id.value)):
        raise FrameworkError(f"'FrameworkInfo.id' {fault}")
    roles = roles_of(info)
    if settings.roles is not None and (foreign := sorted(roles - settings.roles)):
        raise FrameworkError(f"Roles {foreign} are not present in the master's --roles")
    minimums(info)
    return roles


def check_suppressed(suppressed: tuple[str, ...], roles: frozenset[str]) -> frozenset[str]:
    """The suppressed roles; raises FrameworkError unless each is a role of the framework."""
    for role in suppressed:
        if role not in roles:
            raise FrameworkError(f"Suppressed role '{role[:200]}' is not contained in the roles")
    return frozenset(suppressed)


def minimums(info: FrameworkInfo) -> dict[str, tuple[Mapping[str, int], ...]]:
    """Per role, the least that an offer must hold; raises FrameworkError."""
    out: dict[str, tuple[Mapping[str, int], ...]] = {}
    for role, filters in info.offer_filters.items():
        least = filters.min_allocatable_resources
        if least is None:
            continue
        try:
            out[role] = tuple(
                {
                    name: quantities.to_milli(scalar.value, f"{role}.{name}")
                    for name, scalar in alternative.quantities.items()
                }
                for alternative in least.quantities
            )
        except ResourceError as error:
            raise FrameworkError(f"'FrameworkInfo.offer_filters' is invalid: {error}") from None
    return out


def for_allocator(framework: FrameworkRecord) -> AllocFramework:
    """The framework as the allocator sees it."""
    return AllocFramework(
        id=FrameworkId(framework.framework_id),
        roles=framework.roles,
        suppressed=framework.suppressed,
        capabilities=framework.capabilities,
        min_allocatable=minimums(framework.info),
        offer_constraints=framework.constraints,
    )
