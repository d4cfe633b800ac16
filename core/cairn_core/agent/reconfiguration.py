"""Whether an agent that comes back with other resources or attributes is still the same agent.

`equal` allows no change at all; `additive` allows more: larger amounts, wider ranges, new
resources, new attributes, a domain where there was none. What was promised before stays promised,
for running tasks and reservations stand on it. Source: Apache Mesos
`src/slave/compatibility.cpp`, docs/agent-recovery.md.
"""

from typing import Literal, TypeAlias

from cairn_core.errors import LocalError
from cairn_core.mesos.types import AgentInfo, Attribute
from cairn_core.resources import Resources, show_attributes

Policy: TypeAlias = Literal["equal", "additive"]


class Incompatible(LocalError):
    """The agent may not come back like this. `changes` has one line per field."""

    def __init__(self, policy: Policy, changes: list[str]) -> None:
        super().__init__(
            f"the agent's description changed in a way that --reconfiguration_policy={policy} does "
            f"not allow: {'; '.join(changes)}; put it back, or start with --recover=cleanup to "
            "end all tasks and register as a new agent"
        )
        self.changes = changes


def check(old: AgentInfo, new: AgentInfo, policy: Policy) -> bool:
    """Whether anything changed; raises Incompatible with every change that is not allowed."""
    changes: list[str] = []
    additive = policy == "additive"
    if old.hostname != new.hostname:
        changes.append(f"hostname was {old.hostname!r}, is {new.hostname!r}")
    if old.port != new.port:
        changes.append(f"port was {old.port}, is {new.port}")
    if old.domain != new.domain and not (additive and old.domain is None):
        changes.append(f"domain was {_domain(old)}, is {_domain(new)}")
    before, after = Resources.from_wire(old.resources), Resources.from_wire(new.resources)
    if before != after and not (additive and after.contains(before)):
        changes.append(f"resources were {before}, are {after}")
    changes += _attributes(old.attributes, new.attributes, additive)
    if changes:
        raise Incompatible(policy, changes)
    return (old.domain, before, old.attributes) != (new.domain, after, new.attributes)


def _domain(info: AgentInfo) -> str:
    fault = info.domain.fault_domain if info.domain is not None else None
    return f"{fault.region.name}/{fault.zone.name}" if fault is not None else "none"


def _attributes(
    old: tuple[Attribute, ...], new: tuple[Attribute, ...], additive: bool
) -> list[str]:
    if not additive:
        if sorted(map(repr, old)) == sorted(map(repr, new)):
            return []
        return [f"attributes were {show_attributes(old)}, are {show_attributes(new)}"]
    names = {attribute.name: attribute for attribute in new}
    changes = []
    for attribute in old:
        found = names.get(attribute.name)
        if found is None:
            changes.append(f"attribute {attribute.name!r} is gone")
        elif found != attribute and not _wider(attribute, found):
            was, now = show_attributes((attribute,)), show_attributes((found,))
            changes.append(f"attribute was {was}, is {now}")
    return changes


def _wider(old: Attribute, new: Attribute) -> bool:
    """Whether ranges or a set only grew."""
    if old.ranges is not None and new.ranges is not None:
        spans = new.ranges.range
        return all(
            any(s.begin <= r.begin and r.end <= s.end for s in spans) for r in old.ranges.range
        )
    if old.set is not None and new.set is not None:
        return set(old.set.item) <= set(new.set.item)
    return False
