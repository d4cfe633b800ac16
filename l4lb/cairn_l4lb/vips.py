"""Which VIPs a task is a backend of, and how it is reached.

Source: dcos/minuteman `src/minuteman_mesos_poller.erl`, dcos-net
`apps/dcos_l4lb/src/dcos_l4lb_mesos_poller.erl`; the labels are read by `cairn_core.vips.labels`.
No I/O.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from cairn_core.errors import shorten
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, NetworkRow, TaskRow
from cairn_core.vips.labels import (
    MAX_PORT,
    Declared,
    DiscoveryPort,
    declared,
    is_vip_key,
    may_declare,
)
from cairn_core.vips.names import BadName, full_name
from cairn_core.vips.reserved import why_special

from .model import Backend, Options, Protocol
from .options import read_options

#: Which tasks count.  `dcos-net`: one that is unhealthy, not yet known to be healthy, or being
#: killed takes no new connections; `minuteman`: the first and the last are no backends at all, and
#: the second is one like others.
Era: TypeAlias = Literal["minuteman", "dcos-net"]

RUNNING, KILLING = "TASK_RUNNING", "TASK_KILLING"
#: Problems of one task that are told.
MAX_PROBLEMS = 8


class VipRules(Struct, frozen=True, kw_only=True):
    """What depends on the host and its settings.

    own_addresses: of this host, canonical: its tasks behind port mappings are reached in their
    containers (`direct`). ipv6: whether IPv6 backends count.
    """

    era: Era = "dcos-net"
    own_addresses: frozenset[str] = frozenset()
    direct: bool = True
    ipv6: bool = True


class VipKey(NamedTuple):
    """A VIP before it is known which address a name has.

    name: `<label>.<framework>`, empty for a literal VIP; address: of a literal one, else empty.
    ipv6: the family, of the VIP and of its backends.
    """

    name: str
    address: str
    port: int
    protocol: Protocol
    ipv6: bool


class Member(NamedTuple):
    """A task as a backend of one VIP, and what its labels say of that."""

    key: VipKey
    backend: Backend
    options: Options


class TaskVips(NamedTuple):
    """What a task gives to the table.  problems: one line each, without the task's id."""

    members: tuple[Member, ...] = ()
    problems: tuple[str, ...] = ()


NOTHING = TaskVips()
#: The tasks of an app ask for the same name.
_full_name = lru_cache(maxsize=16_384)(full_name)
#: They are backends of the same VIPs, and a task with many VIPs is one backend of most of them:
#: with 64 VIPs each, what is kept of a task halves.
_vip_key = lru_cache(maxsize=16_384)(VipKey)
_backend = lru_cache(maxsize=256)(Backend)


def task_backends(
    task: TaskRow, agent: AgentRow | None, framework: FrameworkRow | None, rules: VipRules
) -> TaskVips:
    """The VIPs that a task is a backend of; never raises.

    agent, framework: those of the task; None where nobody knows them.
    """
    if not may_declare(task):
        return NOTHING
    why = _why_not(task, rules.era)
    if why is None:
        return NOTHING
    found = declared(task)
    problems = [f"label {one.key!r}: value {one.value!r}: {one.reason}" for one in found.problems]
    members: dict[tuple[VipKey, str, int], Member] = {}
    for one in found.vips:
        try:
            for member in _members(one, task, agent, framework, why, rules, problems):
                backend = member.backend
                members.setdefault((member.key, backend.address, backend.port), member)
        except _NotPlaced as error:
            problems.append(f"label {shorten(one.key, 80)!r}: {error}")
    told = list(dict.fromkeys(problems))
    if len(told) > MAX_PROBLEMS:
        told[MAX_PROBLEMS:] = [f"{len(told) - MAX_PROBLEMS} more problems"]
    return TaskVips(tuple(members.values()), tuple(told))


class _NotPlaced(Exception):
    """A declaration makes no backend; the text says why."""


def _why_not(task: TaskRow, era: Era) -> str | None:
    """Why a task takes no new connections; empty where it does, None for what is no backend."""
    if era == "minuteman":
        return "" if task.state == RUNNING and task.healthy is not False else None
    if task.state == KILLING:
        return "killing"
    if task.state != RUNNING:
        return None
    if task.healthy is False:
        return "unhealthy"
    return "unchecked" if task.healthy is None and task.health_checked else ""


def _members(
    one: Declared,
    task: TaskRow,
    agent: AgentRow | None,
    framework: FrameworkRow | None,
    why: str,
    rules: VipRules,
    problems: list[str],
) -> Iterator[Member]:
    if agent is None:
        raise _NotPlaced(f"agent {shorten(task.agent_id, 60)!r} is not known")
    name = ""
    if not one.host:
        if framework is None:
            raise _NotPlaced(f"framework {shorten(task.framework_id, 60)!r} is not known")
        try:
            name = _full_name(one.label, framework.name)
        except BadName as error:
            raise _NotPlaced(str(error)) from None
    labels = one.source.labels if isinstance(one.source, DiscoveryPort) else ()
    told = read_options(labels, one.index, _indices(labels))
    problems += told.problems
    weight = 0 if why else 1 if told.weight is None else told.weight
    why = why or ("" if weight else "weight 0")
    host = canonical(agent.ip)
    places = _places(one, task, host, rules)
    usable = [place for place in places if is_usable(place[0], host) and 0 < place[1] <= MAX_PORT]
    fitting = [
        place for place in usable
        if (":" in place[0]) <= rules.ipv6 and (name or (":" in place[0]) == (":" in one.host))
    ]  # fmt: skip
    if not fitting:
        raise _NotPlaced(_why_none(one, places, usable, rules))
    for address, port in fitting:
        key = _vip_key(name, one.host, one.port, one.protocol, ":" in address)
        backend = _backend(
            address, port, weight, task.id, task.agent_id, host, agent.zone,
            agent.active and not agent.recovering, 0, why,
        )  # fmt: skip
        yield Member(key, backend, told.options)


@lru_cache(maxsize=256)
def _indices(labels: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """The indices of all VIPs of a port, also of those whose value is wrong."""
    return frozenset(key[3:].removeprefix("_").upper() for key, _ in labels if is_vip_key(key))


def _why_none(
    one: Declared,
    places: list[tuple[str, int]],
    usable: list[tuple[str, int]],
    rules: VipRules,
) -> str:
    if not places:
        return "the container has no address"
    if not usable:
        address, port = places[0]
        return f"the task's address or port is of no use: {address or 'no address'}, {port}"
    if not rules.ipv6 and all(":" in address for address, _ in usable):
        return f"IPv6 is off: {usable[0][0]}"
    return f"{one.host} and the task's address {usable[0][0]} are of different families"


def _places(one: Declared, task: TaskRow, host: str, rules: VipRules) -> list[tuple[str, int]]:
    """Address and port of each family at which the task listens; the addresses are not checked."""
    if not isinstance(one.source, DiscoveryPort):
        return [(host, _resource_port(task, one.source.index))]
    number = one.source.number
    if one.source.scope == "host":
        return [_at_host(task, number, one.protocol, host, rules)]
    for network in task.networks:
        for outer, inner, protocol in network.port_mappings:
            if inner == number and outer and _matches(protocol, one.protocol):
                return [_at_host(task, outer, one.protocol, host, rules)]
    for outer, inner, protocol in task.docker_ports:
        if inner == number and outer and _matches(protocol, one.protocol):
            _check_own(task, outer)
            return [(host, outer)]
    addresses = _container_addresses(task.networks)
    if host in addresses:
        _check_own(task, number)
    return [(address, number) for address in addresses]


def _at_host(
    task: TaskRow, port: int, protocol: Protocol, host: str, rules: VipRules
) -> tuple[str, int]:
    """A port of the host, or where it leads to in a container of this host."""
    _check_own(task, port)
    direct = rules.direct and host in rules.own_addresses
    inside = _inside(task, port, protocol, host) if direct else None
    return inside or (host, port)


def _check_own(task: TaskRow, port: int) -> None:
    """Frameworks and containers say which port of the host it is: it must be one of the task's.

    A task without any ports among its resources may listen where it likes, as in the original.
    """
    if task.ports and not any(begin <= port <= end for begin, end in task.ports):
        raise _NotPlaced(f"port {port} of the host is none of the task's resources")


def _inside(task: TaskRow, port: int, protocol: Protocol, host: str) -> tuple[str, int] | None:
    """Where a port of the host leads to in a container of this host, in the host's family.

    Mappings of Docker are left out, as in dcos-net: it does not say which address it maps to.
    """
    for network in task.networks:
        for outer, inner, mapped in network.port_mappings:
            if outer == port and inner and _matches(mapped, protocol):
                for address in _container_addresses((network,)):
                    if (":" in address) == (":" in host) and address != host:
                        return address, inner
    return None


def _matches(mapped: str, protocol: Protocol) -> bool:
    return not mapped or protocol in mapped.lower().split(",")


def _container_addresses(networks: Iterable[NetworkRow]) -> list[str]:
    """The first address of each family of the first network that has any."""
    for network in networks:
        found: dict[bool, str] = {}
        for address in map(canonical, network.addresses):
            if address:
                found.setdefault(":" in address, address)
        if found:
            return list(found.values())
    return []


def _resource_port(task: TaskRow, index: int) -> int:
    """The port of the agent that a task got as number `index` in ascending order."""
    left, above = index, -1
    for begin, end in sorted(task.ports):
        begin = max(begin, above + 1)
        if left <= end - begin:
            return begin + left
        if end >= begin:
            left -= end - begin + 1
            above = end
    raise _NotPlaced(f"the task has no port number {index} among its resources")


@lru_cache(maxsize=65_536)
def canonical(text: str) -> str:
    """An address as `ipaddress` writes it, IPv4 inside of IPv6 as IPv4; empty for what is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return ""
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
    return str(address)


def is_usable(address: str, host: str) -> bool:
    """Whether a backend may have an address; a host itself may be loopback, for want of better.

    What containers report is theirs to choose, so it must not lead to another service of the
    client's own host or link.  Whether it is that of a host or a VIP, `literals` knows.
    """
    return bool(address) and (address == host or not why_special(address))
