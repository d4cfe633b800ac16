"""What a lab consists of: hosts, their addresses and names, and the doors to the outside.

Pure: everything follows from the lab's name and the numbers of hosts, so that two
processes that know those agree on everything else. Addresses come from 203.0.113.0/24
(RFC 5737, TEST-NET-3) and 2001:db8:cafe::/64 (RFC 3849), which no real machine owns.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeAlias

from cairn_lab.errors import LabError

Role: TypeAlias = Literal["master", "agent", "public_agent"]

DEFAULT_NAME = "lab"
#: The lab's only network segment, and its prefix lengths.
NETWORKS = ("203.0.113.0/24", "2001:db8:cafe::/64")
IPV4_PREFIX = 24
IPV6_PREFIX = 64
#: Processes of the lab that belong to no host live in `system-switch` and `system-relays`.
SWITCH = "switch"
BRIDGE = "br0"
RELAYS = "relays"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
# role -> host name stem, first last octet, most hosts of the role
_RANGES: Mapping[Role, tuple[str, int, int]] = {
    "master": ("master", 11, 9),
    "agent": ("agent", 101, 99),
    "public_agent": ("public", 201, 50),
}


@dataclass(frozen=True, slots=True)
class Host:
    """One virtual machine of the lab."""

    name: str
    role: Role
    ipv4: IPv4Address
    ipv6: IPv6Address


@dataclass(frozen=True, slots=True)
class Relay:
    """A door: HTTP on 127.0.0.1:`port` outside reaches `host`:`target_port` inside."""

    name: str
    port: int
    host: str
    target_port: int


@dataclass(frozen=True, slots=True)
class Topology:
    """A lab as planned. `hosts` is ordered: masters, private agents, public agents."""

    name: str
    hosts: tuple[Host, ...]
    relays: tuple[Relay, ...] = ()

    def host(self, name: str) -> Host:
        """The host called `name`; raises LabError that lists the hosts there are."""
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise LabError(f"no host {name!r} in lab {self.name!r}; there are {known}")

    def by_role(self, role: Role) -> tuple[Host, ...]:
        """The hosts of one role, in order."""
        return tuple(host for host in self.hosts if host.role == role)

    def system_cgroup(self, part: str) -> str:
        """Cgroup of the processes of `part` (a host, SWITCH or RELAYS), below each hierarchy.

        Apart from `agent_cgroup`, because an agent owns everything below its own root.
        """
        return f"{lab_cgroup(self.name)}/system-{part}"

    def agent_cgroup(self, host: str) -> str:
        """Cgroup that the agent on `host` owns: its --cgroups_root."""
        return f"{lab_cgroup(self.name)}/{host}"


def lab_cgroup(name: str) -> str:
    """Cgroup that holds every process of lab `name`, below each hierarchy."""
    return f"cairn/{name}"


def checked_name(name: str) -> str:
    """`name`, or LabError when it cannot name directories, cgroups and sockets."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"lab name {name!r} is not usable: "
            "at most 31 lower-case letters, digits and '-', starting with a letter"
        )
    return name


def plan(
    name: str = DEFAULT_NAME,
    *,
    masters: int = 1,
    agents: int = 2,
    public: int = 1,
    ports: Mapping[str, int] | None = None,
) -> Topology:
    """Lay out a lab. `ports`: relay name -> port on 127.0.0.1; None means no relays.

    Raises LabError when a number is out of range.
    """
    checked_name(name)
    if masters > 1:
        raise LabError(
            f"--masters {masters}: several masters need the ZooKeeper log engine, "
            "which this version does not have; use --masters 1"
        )
    hosts: list[Host] = []
    for role, flag, count, least in (
        ("master", "--masters", masters, 1),
        ("agent", "--agents", agents, 0),
        ("public_agent", "--public", public, 0),
    ):
        hosts += _hosts_of(role, flag, count, least)  # type: ignore[arg-type]  # literals above
    relays = tuple(
        Relay(door, port, hosts[0].name, target)
        for door, target in DOORS.items()
        if (port := (ports or {}).get(door)) is not None
    )
    return Topology(name, tuple(hosts), relays)


#: Doors on the (leading) master: name -> port inside. The same port is the default outside.
DOORS: Mapping[str, int] = {"master": 5050, "marathon": 8080}


def _hosts_of(role: Role, flag: str, count: int, least: int) -> list[Host]:
    stem, first, most = _RANGES[role]
    if not least <= count <= most:
        raise LabError(f"{flag} {count}: must be between {least} and {most}")
    return [
        Host(
            name=f"{stem}{i + 1}",
            role=role,
            ipv4=IPv4Address(f"203.0.113.{first + i}"),
            ipv6=IPv6Address(f"2001:db8:cafe::{first + i}"),
        )
        for i in range(count)
    ]


def parse_ports(settings: Iterable[str]) -> dict[str, int]:
    """Port of each door: DOORS, changed by `NAME=PORT` texts as in `--port master=15050`."""
    ports = dict(DOORS)
    for text in settings:
        door, _, digits = text.partition("=")
        if door not in DOORS:
            raise LabError(f"--port {text}: no door {door!r}; there are {', '.join(DOORS)}")
        if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) <= 65535:
            raise LabError(f"--port {text}: {digits!r} is not a port between 1 and 65535")
        ports[door] = int(digits)
    return ports


def hosts_file(topology: Topology, host: Host) -> str:
    """Text of /etc/hosts on `host`: itself, then everybody."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for other in (host, *(h for h in topology.hosts if h is not host)):
        lines += [f"{other.ipv4} {other.name}", f"{other.ipv6} {other.name}"]
    return "\n".join(lines) + "\n"


def resolv_conf(topology: Topology) -> str:
    """Text of /etc/resolv.conf on every host: the masters' proxies and nothing else.

    It holds until the host's own proxy runs, which writes the file, and again after it was
    stopped. A real resolver beside them would turn names of the cluster into cached NXDOMAIN.
    """
    servers = [f"nameserver {master.ipv4}" for master in topology.by_role("master")[:3]]
    return "\n".join([*servers, "options timeout:1 attempts:2"]) + "\n"


def bridge_commands(topology: Topology, pids: Mapping[str, int]) -> str:
    """`ip -batch` text for the switch's namespace: a bridge with a cable to every host.

    `pids`: PID 1 of each host, as the process that runs `ip` sees them.
    """
    lines = ["link set lo up", f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up"]
    for host in topology.hosts:
        lines += [
            f"link add {host.name} type veth peer name eth0 netns {pids[host.name]}",
            f"link set {host.name} master {BRIDGE} up",
        ]
    return "\n".join(lines) + "\n"


def address_commands(host: Host) -> str:
    """`ip -batch` text for a host's namespace, once its cable is there.

    nodad: the addresses are unique by construction, and waiting would delay daemons.
    """
    return "\n".join(
        [
            "link set lo up",
            f"addr add {host.ipv4}/{IPV4_PREFIX} brd + dev eth0",
            f"addr add {host.ipv6}/{IPV6_PREFIX} dev eth0 nodad",
            "link set eth0 up",
            "",
        ]
    )
