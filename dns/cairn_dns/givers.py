"""Who gives the records of a name: for people who ask why an answer is as it is.

Every task is looked at, most of them only to see that its name is no part of the one that was
asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cairn_core.mesos.feed_rows import TaskRow

from .addresses import Address, address_text, reversed_address
from .dcos_records import DCOS_DOMAIN, dcos_master_records, dcos_task_records
from .labels import dcos_label, mangle
from .records import (
    Domains,
    Rules,
    agent_records,
    framework_records,
    leader_address,
    master_records,
    own_records,
    source_addresses,
    task_addresses,
    task_records,
)
from .wire import PTR
from .zone import Record, Value

if TYPE_CHECKING:
    from .cluster_zone import ClusterZone


@dataclass(frozen=True, slots=True)
class Giver:
    """A row that gives a record.

    kind: "task", "agent", "framework", "master", or "own" for this server. id, name: of the row.
    framework: the name of a task's. agent: id of a task's. source: which of the sources of the
    configuration gave the address; empty for other records.
    """

    kind: str
    id: str = ""
    name: str = ""
    framework: str = ""
    agent: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Explained:
    """A record, type and value as in `zone`, and the rows that give it."""

    type: int
    value: Value
    givers: tuple[Giver, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The records of a name.

    changed: seconds since the epoch; None where there are none, 0 for those of the start.
    """

    name: str
    changed: float | None
    records: tuple[Explained, ...]


def explain(zone: "ClusterZone", name: str) -> Explanation:
    """Why a name, in lower case and without its last dot, has the records it has."""
    found: dict[tuple[int, Value], dict[Giver, None]] = {
        (kind, value): {}
        for kind in sorted(zone.records.kinds(name))
        for value in zone.records.values(name, kind)
    }
    if found:
        given = _backwards(zone, name) if reversed_address(name) else _given(zone, name)
        for kind, value, giver in given:
            if (kind, value) in found:
                found[kind, value][giver] = None
    return Explanation(
        name,
        zone.records.changed_at(name),
        tuple(Explained(*record, tuple(givers)) for record, givers in found.items()),
    )


def _given(zone: "ClusterZone", name: str) -> Iterator[tuple[int, Value, Giver]]:
    """Records of a name with those who give them; also records that it does not have."""
    for records, giver in _of_hosts(zone):
        for owner, kind, value in records:
            if owner == name:
                yield kind, value, giver or _master(zone, value)
    for row, agent, domains in _tasks(zone, name):
        records = _task_records(row, agent, domains, zone.rules)
        for owner, kind, value in records:
            if owner == name:
                source = _source(name, row, agent, domains, zone.rules, value)
                yield kind, value, _task(row, domains, source)


def _backwards(zone: "ClusterZone", name: str) -> Iterator[tuple[int, Value, Giver]]:
    """As `_given`, for the name of an address."""
    address = reversed_address(name)
    for host in zone.records.values(name, PTR):
        if address in zone.masters:
            yield PTR, host, _master(zone, address)
            continue
        for row, agent, domains in _tasks(zone, str(host)):
            made = task_records(row, agent, (), domains, zone.rules)
            if made.host == host and address in task_addresses(row, agent, zone.rules):
                source = _source(str(host), row, agent, domains, zone.rules, address)
                yield PTR, host, _task(row, domains, source)


def _of_hosts(zone: "ClusterZone") -> Iterator[tuple[list[Record], Giver | None]]:
    """Records of everything but tasks; for masters, each record has a giver of its own."""
    rules, leader = zone.rules, zone.leader
    yield own_records(rules).records, Giver("own")
    yield master_records(zone.given_masters, leader, rules).records, None
    yield dcos_master_records(zone.given_masters, leader).records, None
    for one, agent in zone.agents.items():
        if agent.row is not None:
            made = agent_records(agent.row, agent.addresses or (), rules)
            yield made.records, Giver("agent", one, agent.row.hostname)
    for one, framework in zone.frameworks.items():
        if framework.row is not None and framework.domains is not None:
            made = framework_records(framework.row, framework.addresses, framework.domains)
            yield made.records, Giver("framework", one, framework.row.name)


def _tasks(zone: "ClusterZone", name: str) -> Iterator[tuple[TaskRow, Sequence[Address], Domains]]:
    """Tasks that may give records of a name: theirs is a part of it."""
    in_dcos, rfc952 = name.endswith(DCOS_DOMAIN), zone.rules.rfc952
    for task in zone.tasks.values():
        if task.row is None or task.agent is None or task.domains is None:
            continue
        raw = task.row.discovery_name or task.row.name
        label = dcos_label(raw) if in_dcos else mangle(raw, rfc952=rfc952)
        if label in name or raw in name:
            yield task.row, task.agent, task.domains


def _task_records(
    row: TaskRow, agent: Sequence[Address], domains: Domains, rules: Rules
) -> list[Record]:
    addresses = task_addresses(row, agent, rules)
    records = task_records(row, agent, addresses, domains, rules).records
    if rules.dcos_zones:
        records += dcos_task_records(row, agent, domains.name).records
    return records


def _source(
    name: str,
    row: TaskRow,
    agent: Sequence[Address],
    domains: Domains,
    rules: Rules,
    value: Value | None,
) -> str:
    """Where an address comes from; empty for other values."""
    sources: Sequence[str] = rules.ip_sources
    if name.endswith((f".{domains.on_agent}", f".agentip.{DCOS_DOMAIN}")):
        sources = ("host",)
    elif name.endswith(f".{DCOS_DOMAIN}"):
        sources = ("netinfo", "host")
    return next((one for one in sources if value in source_addresses(row, agent, one)), "")


def _task(row: TaskRow, domains: Domains, source: str) -> Giver:
    return Giver("task", row.id, row.name, domains.name, row.agent_id, source)


def _master(zone: "ClusterZone", value: Value | None) -> Giver:
    """Who gives a record of masters: the leader, or one that is known by its address only."""
    leader = zone.leader
    if leader is not None and (not isinstance(value, bytes) or value == leader_address(leader)):
        return Giver("master", leader.id, leader.hostname or leader.ip)
    return Giver("master", "", address_text(value) if isinstance(value, bytes) else "")
