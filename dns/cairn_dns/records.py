"""The records that one row of the cluster gives: which tasks, under which names, with which
addresses.

Follows Mesos-DNS `records/generator.go` (version 0.9), and where told so the branch of it that
DC/OS 1.13-2.2 ran.  Each function depends on its arguments alone, so that the records of a row
that is gone can be made again to take them away.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, MasterRow, PortRow, TaskRow

from .addresses import Address, address_text, framework_host, one_per_family, parse_address
from .labels import domain_fragment, host_ending, mangle
from .wire import AAAA, SRV, A
from .zone import Record, Value

#: Ports of one task that get SRV records, of its resources and of its discovery information each.
MAX_PORTS = 1000
MAX_PORT = 65535
MAX_NAME = 253

# What a label can hold without being written in another way in zone files: lower case, no dots,
# nothing that needs an escape.
# Differs: no `*` either; other servers that take over the zone would answer every name with it.
_CHARACTERS = r"!#-'+,\-/0-9:<-?\[\]^-~"
_LABEL = rf"[{_CHARACTERS}]{{1,63}}"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_ASKED = re.compile(rf"[{_CHARACTERS}.]+")
# With parts no longer than these no name exceeds a limit, and nothing has to be checked:
# 7 dots and underscores, port name, task name with its ending, protocol and domains make 246.
_SHORT_TASK, _SHORT_ENDING, _SHORT_PORT, _SHORT_PROTOCOL, _SHORT_DOMAINS = 44, 19, 40, 16, 120
#: Where the tail of the agent's id begins in the ending of a host name, behind `-ybndr-`.
_TAIL = 7
#: So many ports of a task are kept for others that have the same.
_FEW_PORTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What of the configuration decides about records.

    domain, own_name: absolute, in lower case, without dots at their ends. ip_sources: in order;
    the first that has addresses wins. own_addresses: of this server, for `own_name`.
    dcos_branch: at most one IPv4 and one IPv6 address of each task, from all sources, and of each
    host. slave_discovery_ports: discovery ports below `slave` too. healthy_only: hide tasks whose
    check fails. dcos_zones: names in `dcos.thisdcos.directory` too. reverse: names of addresses.
    """

    domain: str = "mesos"
    ip_sources: tuple[str, ...] = ("netinfo", "mesos", "host")
    rfc952: bool = False
    own_name: str = "ns1.mesos"
    own_addresses: tuple[Address, ...] = ()
    dcos_branch: bool = False
    slave_discovery_ports: bool = False
    healthy_only: bool = False
    dcos_zones: bool = False
    reverse: bool = True


class Made(NamedTuple):
    """Records of a row, and what of it made no sense: "port", "name" and their numbers.

    host: the name that a task has for itself alone, if it has one.
    """

    records: list[Record]
    skipped: Mapping[str, int] = {}
    host: str = ""


@dataclass(frozen=True, slots=True)
class Domains:
    """Where the names of a framework's tasks are.

    inside: `marathon.mesos`. on_agent: `marathon.slave.mesos`. name: of the framework.
    valid: whether there can be names at all. short: whether no name of a task that is short
    itself can be too long.
    """

    name: str
    inside: str
    on_agent: str
    valid: bool
    short: bool


def domains_of(framework: FrameworkRow, rules: Rules) -> Domains:
    """The domains of a framework."""
    fragment = domain_fragment(framework.name, rfc952=rules.rfc952)
    on_agent = f"{fragment}.slave.{rules.domain}"
    inside = f"{fragment}.{rules.domain}"
    valid = is_name(inside)
    short = valid and len(on_agent) <= _SHORT_DOMAINS
    return Domains(framework.name, inside, on_agent, valid, short)


def is_name(text: str) -> bool:
    """Whether a text can be a name: labels of 1 to 63 bytes, 253 together."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_published(task: TaskRow, rules: Rules) -> bool:
    """Whether a task has records as soon as its agent and its framework are known."""
    return task.state == "TASK_RUNNING" and not (rules.healthy_only and task.healthy is False)


def address_records(name: str, addresses: Iterable[Address]) -> list[Record]:
    """A and AAAA records of a name."""
    return [(name, A if len(one) == 4 else AAAA, one) for one in addresses]


def joined(one: Made, other: Made) -> Made:
    """What two functions made of one task; the host name is that of the first."""
    skipped = Counter(one.skipped) + Counter(other.skipped)
    return Made(one.records + other.records, skipped, one.host)


def value_text(value: Value) -> str:
    """A value as the HTTP API shows it: an address, `target.:port`, or a name."""
    if isinstance(value, bytes):
        return address_text(value)
    return f"{value[0]}.:{value[1]}" if isinstance(value, tuple) else f"{value}."


def fitting(records: Sequence[Record]) -> list[Record]:
    """The records whose names, and whose targets, can be written as DNS names."""
    return [
        record
        for record in records
        if is_name(record[0]) and (not isinstance(record[2], tuple) or is_name(record[2][0]))
    ]


# -- masters, agents, frameworks -------------------------------------------------------------------


def master_records(masters: Sequence[Address], leader: MasterRow | None, rules: Rules) -> Made:
    """`leader`, `master` and the numbered ones; see `numbered`.

    Differs: without a leader the original has no state at all; we keep the masters that are
    configured.
    """
    domain, records = rules.domain, []
    address = leader_address(leader)
    if leader is not None and address is not None:
        name = f"leader.{domain}"
        records += address_records(name, [address])
        if 0 <= leader.port <= MAX_PORT:
            records += [(f"_leader._{one}.{domain}", SRV, (name, leader.port))
                        for one in ("tcp", "udp")]  # fmt: skip
    for number, one in enumerate(numbered(masters, leader)):
        records += address_records(f"master.{domain}", [one])
        records += address_records(f"master{number}.{domain}", [one])
    return Made(records)


def numbered(masters: Sequence[Address], leader: MasterRow | None) -> list[Address]:
    """The masters in the order of their numbers: the order given, each once; a leader that is
    not among them comes last."""
    address = leader_address(leader)
    return list(dict.fromkeys((*masters, *([address] if address is not None else []))))


def leader_address(leader: MasterRow | None) -> Address | None:
    """Where the leader is."""
    return parse_address(leader.ip) if leader is not None else None


def own_records(rules: Rules) -> Made:
    """Addresses of this server, whose name is in SOA records."""
    return Made(address_records(rules.own_name, rules.own_addresses))


def agent_records(row: AgentRow, addresses: Sequence[Address], rules: Rules) -> Made:
    """`slave`: the addresses of all agents."""
    if not addresses:
        return Made([], {"agent": 1})
    name = f"slave.{rules.domain}"
    records = address_records(name, addresses)
    if not 0 <= row.port <= MAX_PORT:
        return Made(records, {"port": 1})
    records.append((f"_slave._tcp.{rules.domain}", SRV, (name, row.port)))
    return Made(records)


def framework_records(row: FrameworkRow, addresses: Sequence[Address], domains: Domains) -> Made:
    """The name of a framework, and where its scheduler listens if that is known."""
    if not addresses or not domains.valid:
        return Made([], {"framework": 1})
    records = address_records(domains.inside, addresses)
    port = framework_host(row)[1]
    if port is None:
        return Made(records)
    service = f"_framework._tcp.{domains.inside}"
    if port > MAX_PORT or not is_name(service):
        return Made(records, {"port": 1})
    records.append((service, SRV, (domains.inside, port)))
    return Made(records)


# -- tasks -----------------------------------------------------------------------------------------


def source_addresses(task: TaskRow, agent: Sequence[Address], source: str) -> Sequence[Address]:
    """What one of the sources of the configuration says."""
    if source == "host":
        return agent
    if source == "netinfo":
        texts = [text for network in task.networks for text in network.addresses]
    else:
        texts = [text for name, text in task.label_addresses if name == source]
    return [one for one in map(parse_address, texts) if one is not None]


def task_addresses(task: TaskRow, agent: Sequence[Address], rules: Rules) -> Sequence[Address]:
    """Addresses of a task: all of the first source that has any.

    Compat: the branch for DC/OS takes the first of each family from all sources together.
    """
    if rules.dcos_branch:
        sources = rules.ip_sources
        return one_per_family([a for one in sources for a in source_addresses(task, agent, one)])
    for source in rules.ip_sources:
        found = source_addresses(task, agent, source)
        if found:
            return found
    return ()


def task_names(task: TaskRow, rules: Rules) -> tuple[str, ...]:
    """Names of a task below its framework.

    Compat: a discovery name counts as it is, and as a label: `web.shop` is found both as
    `web.shop.marathon.mesos` and as `web-shop.marathon.mesos`.  One that nobody can ask for,
    since queries are in lower case and without escapes, is left out.
    """
    raw = task.discovery_name
    if not raw:
        return (mangle(task.name, rfc952=rules.rfc952),)
    label = mangle(raw, rfc952=rules.rfc952)
    asked = raw != label and len(raw) <= MAX_NAME and _ASKED.fullmatch(raw)
    return (raw, label) if asked else (label,)


def task_records(
    task: TaskRow,
    agent: Sequence[Address],
    addresses: Sequence[Address],
    domains: Domains,
    rules: Rules,
) -> Made:
    """The records of a published task, in the order in which the original makes them.

    agent: addresses of its agent. addresses: see `task_addresses`.
    """
    if not domains.valid:
        return Made([], {"task": 1})
    inside, on_agent = domains.inside, domains.on_agent
    ending = host_ending(task.id, task.agent_id)
    skipped: dict[str, int] = {}
    numbers = _numbers(task.ports, skipped)
    # Compat: only a discovery name, not discovery information as such, makes the difference
    ports = task.discovery_ports if task.discovery_name else ()
    services = (_known_services if len(ports) <= _FEW_PORTS else _services)(ports, rules.rfc952)
    if services.bad:
        skipped["port"] = skipped.get("port", 0) + services.bad
    short = services.short and domains.short and len(ending) <= _SHORT_ENDING
    short = short and ending.isascii() and ending[_TAIL:].isalnum()
    records: list[Record] = []
    host_inside = ""
    for name in task_names(task, rules):
        host = name + ending
        host_inside, host_on_agent = f"{host}.{inside}", f"{host}.{on_agent}"
        _host_records(records, addresses, f"{name}.{inside}", host_inside)
        _host_records(records, agent, f"{name}.{on_agent}", host_on_agent)
        if numbers:
            owners = [f"_{name}._tcp.{on_agent}", f"_{name}._udp.{on_agent}"]
            if not task.discovery_name:
                owners += [f"_{name}._tcp.{inside}", f"_{name}._udp.{inside}"]
            for number in numbers:
                value = (host_on_agent, number)
                for owner in owners:
                    records.append((owner, SRV, value))
        for before, protocol, number in services.parts:
            owner = f"{before}_{name}._{protocol}.{inside}"
            records.append((owner, SRV, (host_inside, number)))
            if rules.slave_discovery_ports:
                owner = f"{before}_{name}._{protocol}.{on_agent}"
                records.append((owner, SRV, (host_on_agent, number)))
        # without a dot it is a label, or nothing
        short = short and 0 < len(name) <= _SHORT_TASK and ("." not in name or is_name(name))
    if not short:
        fit = fitting(records)
        if len(fit) != len(records):
            skipped["name"] = len(records) - len(fit)
        records = fit
        host_inside = host_inside if is_name(host_inside) else ""
    return Made(records, skipped, host_inside)


def _host_records(
    records: list[Record], addresses: Sequence[Address], name: str, host: str
) -> None:
    """Addresses of a task's name, which others may share, and of its host name."""
    for one in addresses:
        kind = A if len(one) == 4 else AAAA
        records.append((name, kind, one))
        records.append((host, kind, one))


class _Services(NamedTuple):
    """What discovery ports make of a task's name: what stands before it, protocol, number.

    short: whether no limit need be checked. bad: ports that are none.
    """

    parts: Sequence[tuple[str, str, int]]
    short: bool
    bad: int


def _services(ports: tuple[PortRow, ...], rfc952: bool) -> _Services:
    parts: list[tuple[str, str, int]] = []
    short, bad = True, max(0, len(ports) - MAX_PORTS)
    for port in ports[:MAX_PORTS]:
        number = port.number
        if not 0 <= number <= MAX_PORT:
            bad += 1
            continue
        protocol, name = mangle(port.protocol, rfc952=rfc952), mangle(port.name, rfc952=rfc952)
        protocols = (protocol,) if protocol else ("tcp", "udp")
        parts += [("", one, number) for one in protocols]
        if name:
            parts += [(f"_{name}.", one, number) for one in protocols]
        short = short and len(name) <= _SHORT_PORT and len(protocol) <= _SHORT_PROTOCOL
    return _Services(parts, short, bad)


#: Instances of an application have equal ports.
_known_services = lru_cache(maxsize=1024)(_services)


def _numbers(ranges: Iterable[tuple[int, int]], skipped: dict[str, int]) -> list[int]:
    """Single ports of inclusive ranges; a range of which some cannot be used is counted."""
    numbers: list[int] = []
    for first, last in ranges:
        begin = max(first, 0)
        end = min(last, MAX_PORT, begin + MAX_PORTS - len(numbers) - 1)
        numbers += range(begin, end + 1)
        if begin != first or end != last or first > last:
            skipped["port"] = skipped.get("port", 0) + 1
    return numbers
