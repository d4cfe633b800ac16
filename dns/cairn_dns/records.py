"""The zone: every record that a snapshot of the cluster gives.

Follows Mesos-DNS `records/generator.go` (version 0.9): which tasks, which of their addresses, and
under which names.  No I/O: addresses of hosts that are known by name only come as an argument.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeAlias

from cairn_core.clusterview.view import Snapshot
from cairn_core.mesos.feed_rows import FrameworkRow, TaskRow

from .labels import canonical, domain_fragment, mangle

#: An address as it goes over the wire: 4 or 16 bytes.
Address: TypeAlias = bytes
#: Addresses of hosts by name, as the system resolves them.
Hosts: TypeAlias = Mapping[str, Sequence[Address]]

#: Ports of one task that get SRV records.
MAX_PORTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What of the configuration decides about records.

    domain: without dots at its ends. ip_sources: in order; the first that has addresses wins.
    masters: those of the configuration, `(address, port)`, in its order.
    own_addresses: of this server, for `own_name` (absolute, without the last dot).
    """

    domain: str = "mesos"
    ip_sources: tuple[str, ...] = ("netinfo", "mesos", "host")
    rfc952: bool = False
    masters: tuple[Address, ...] = ()
    own_name: str = "ns1.mesos"
    own_addresses: tuple[Address, ...] = ()


@dataclass(slots=True)
class Zone:
    """Records by absolute name without the last dot; values in the order of their making.

    The inner dictionaries serve as sets that keep their order.
    """

    a: dict[str, dict[Address, None]] = field(default_factory=dict)
    aaaa: dict[str, dict[Address, None]] = field(default_factory=dict)
    srv: dict[str, dict[tuple[str, int], None]] = field(default_factory=dict)

    def add_addresses(self, name: str, addresses: Iterable[Address]) -> None:
        """Add A and AAAA records."""
        for address in addresses:
            table = self.a if len(address) == 4 else self.aaaa
            table.setdefault(name, {})[address] = None

    def add_service(self, name: str, target: str, port: int) -> None:
        """Add an SRV record."""
        self.srv.setdefault(name, {})[target, port] = None

    def names(self) -> set[str]:
        """Every name that has a record."""
        return self.a.keys() | self.aaaa.keys() | self.srv.keys()


def generate(snapshot: Snapshot, rules: Rules, hosts: Hosts) -> Zone:
    """All records of the cluster.  O(tasks + agents); 10,000 tasks take about half a second."""
    zone = Zone()
    _masters(zone, snapshot, rules)
    zone.add_addresses(rules.own_name, rules.own_addresses)
    agents = {row.id: (row, host_addresses(row.ip or row.hostname, hosts))
              for row in snapshot.agents.values()}  # fmt: skip
    for row, addresses in agents.values():
        zone.add_addresses(f"slave.{rules.domain}", addresses)
        zone.add_service(f"_slave._tcp.{rules.domain}", f"slave.{rules.domain}", row.port)
    fragments: dict[str, str] = {}
    for framework in snapshot.frameworks.values():
        fragments[framework.id] = domain_fragment(framework.name, rfc952=rules.rfc952)
        _framework(zone, framework, fragments[framework.id], rules, hosts)
    for task in snapshot.tasks.values():
        fragment, agent = fragments.get(task.framework_id), agents.get(task.agent_id)
        if task.state == "TASK_RUNNING" and fragment is not None and agent is not None:
            _task(zone, task, fragment, agent[1], rules)
    return zone


def hosts_wanted(snapshot: Snapshot) -> set[str]:
    """Names that `generate` would look up in `hosts`."""
    names = {framework_host(row)[0] for row in snapshot.frameworks.values()}
    names |= {row.ip or row.hostname for row in snapshot.agents.values()}
    return {name for name in names if name and parse_address(name) is None}


@lru_cache(maxsize=65536)
def parse_address(text: str) -> Address | None:
    """An address, or None.  The same few occur again and again, so they are kept."""
    try:
        return ip_address(text).packed
    except ValueError:
        return None


def host_addresses(host: str, hosts: Hosts) -> tuple[Address, ...]:
    """Addresses of a host that is named by address or by name."""
    address = parse_address(host)
    return (address,) if address is not None else tuple(hosts.get(host, ()))


def framework_host(row: FrameworkRow) -> tuple[str, int | None]:
    """Where a framework is: host and, for those with a pid, port."""
    if not row.pid:
        return row.hostname, None
    host, _, port = row.pid.rpartition("@")[2].rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else None
    return host.removeprefix("[").removesuffix("]"), number


def task_addresses(
    task: TaskRow, agent: Sequence[Address], sources: Iterable[str]
) -> tuple[Address, ...]:
    """Addresses of a task: all of the first source that has one that can be read."""
    for source in sources:
        texts: Iterator[str]
        match source:
            case "host":
                if agent:
                    return tuple(agent)
                continue
            case "netinfo":
                texts = (text for network in task.networks for text in network.addresses)
            case _:
                texts = (text for name, text in task.label_addresses if name == source)
        found = tuple(a for a in map(parse_address, texts) if a is not None)
        if found:
            return found
    return ()


def _masters(zone: Zone, snapshot: Snapshot, rules: Rules) -> None:
    """`leader`, `master` and the numbered ones: in the order of the configuration; a leader
    that is not in it comes last."""
    numbered = list(dict.fromkeys(rules.masters))
    leader = snapshot.leader
    address = parse_address(leader.ip) if leader is not None else None
    if leader is not None and address is not None:
        name = f"leader.{rules.domain}"
        zone.add_addresses(name, [address])
        for protocol in ("tcp", "udp"):
            zone.add_service(f"_leader._{protocol}.{rules.domain}", name, leader.port)
        if address not in numbered:
            numbered.append(address)
    for number, one in enumerate(numbered):
        zone.add_addresses(f"master.{rules.domain}", [one])
        zone.add_addresses(f"master{number}.{rules.domain}", [one])


def _framework(zone: Zone, row: FrameworkRow, fragment: str, rules: Rules, hosts: Hosts) -> None:
    name = f"{fragment}.{rules.domain}" if fragment else rules.domain
    host, port = framework_host(row)
    zone.add_addresses(name, host_addresses(host, hosts))
    if port is not None:
        zone.add_service(f"_framework._tcp.{name}", name, port)


def _task(
    zone: Zone, task: TaskRow, fragment: str, agent: tuple[Address, ...], rules: Rules
) -> None:
    """The records of one task; twice where a discovery name differs from its label.

    # Compat: Mesos-DNS records/generator.go: a name such as `web.shop` is found both as
    # `web.shop.marathon.mesos` and as `web-shop.marathon.mesos`.
    """
    label = mangle(task.discovery_name or task.name, rfc952=rules.rfc952)
    names = [label]
    if task.discovery_name and _is_asked_for(task.discovery_name):
        names.insert(0, task.discovery_name)
    addresses = task_addresses(task, agent, rules.ip_sources)
    for name in dict.fromkeys(names):
        _task_names(zone, task, name, fragment, agent, addresses, rules)


def _is_asked_for(name: str) -> bool:
    """Whether a query can have this name as it is: queries are lower-cased before look-up."""
    return name.isascii() and name.isprintable() and name == name.lower()


def _task_names(
    zone: Zone,
    task: TaskRow,
    name: str,
    fragment: str,
    agent: tuple[Address, ...],
    addresses: tuple[Address, ...],
    rules: Rules,
) -> None:
    host = canonical(name, task.id, task.agent_id)
    inside, on_agent = f"{fragment}.{rules.domain}", f"{fragment}.slave.{rules.domain}"
    for one in (name, host):
        zone.add_addresses(f"{one}.{inside}", addresses)
        zone.add_addresses(f"{one}.{on_agent}", agent)
    domains = [on_agent] if task.discovery_name is not None else [on_agent, inside]
    for number in _expanded(task.ports):
        for protocol in ("tcp", "udp"):
            for domain in domains:
                zone.add_service(f"_{name}._{protocol}.{domain}", f"{host}.{on_agent}", number)
    for port in task.discovery_ports[:MAX_PORTS]:
        protocol = mangle(port.protocol, rfc952=rules.rfc952)
        port_name = mangle(port.name, rfc952=rules.rfc952)
        for one in (protocol,) if protocol else ("tcp", "udp"):
            service = f"_{name}._{one}.{inside}"
            zone.add_service(service, f"{host}.{inside}", port.number)
            if port_name:
                zone.add_service(f"_{port_name}.{service}", f"{host}.{inside}", port.number)


def _expanded(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    left = MAX_PORTS
    for first, last in ranges:
        for number in range(first, min(last, first + left - 1) + 1):
            yield number
            left -= 1
