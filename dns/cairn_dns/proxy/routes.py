"""Who is asked for a name: longest suffix first.

The table of dcos-net `dcos_dns_router`, with the differences named below:

    <domain>, dcos.thisdcos.directory            masters
    mesos.thisdcos.directory                     masters, as <domain> and back
    dclb.thisdcos.directory, dclb.thisdcos.global, *.thisdcos.global,
      *.<cluster id>.dcos.directory              below thisdcos.directory, and back
    thisdcos.directory, zones of this host       answered here
    forward_zones                                their servers
    reverse names of private addresses           masters, when told so
    everything else                              upstream resolvers
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, ip_network
from typing import NamedTuple

from cairn_dns.wire import text_name, wire_name

from .rewrite import Rename

#: An address and a port, 53 unless said otherwise.
Server = tuple[str, int]

DIRECTORY = "thisdcos.directory"
GLOBAL = "thisdcos.global"
#: TTL of names of the cluster that are shown under another domain, seconds.
# Compat: dcos-net copies `mesos.` with this TTL; forwarding is no reason to keep it longer.
MESOS_TTL = 5
#: Renames on the way of one name; `mesos.thisdcos.global` takes two.
MAX_RENAMES = 4
#: RFC 1918, 6598 and 3927, and RFC 4193: addresses whose names only the cluster can know.
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")
PRIVATE_V6 = ("c.f.ip6.arpa", "d.f.ip6.arpa")


class Kind(Enum):
    """What a route does."""

    LOCAL = "local"  # answered here
    MASTERS = "masters"
    ZONE = "zone"  # a zone with servers of its own
    UPSTREAM = "upstream"
    RENAME = "rename"  # look again under another name


@dataclass(frozen=True, slots=True)
class Route:
    """What happens with names below one suffix.

    suffix: wire form, lower case. rename: the real suffix, for RENAME. max_ttl: seconds, or None.
    """

    kind: Kind
    suffix: bytes
    servers: tuple[Server, ...] = ()
    rename: bytes = b""
    max_ttl: int | None = None

    @property
    def zone(self) -> str:
        """Its label in metrics: the suffix with the last dot."""
        return text_name(self.suffix) + "."


class Fate(Enum):
    """What becomes of an answer when routes change."""

    KEEP = "keep"
    EXPIRE = "expire"  # the servers are others: only for when they do not answer
    DROP = "drop"


class Plan(NamedTuple):
    """Where a name goes, and under which names on the way."""

    route: Route
    renames: tuple[Rename, ...]
    max_ttl: int | None

    def fate(self, later: "Plan") -> Fate:
        """What becomes of an answer that came by this plan when `later` takes its place."""
        here, there = self.route, later.route
        if (here.kind, self.renames, self.max_ttl) != (there.kind, later.renames, later.max_ttl):
            return Fate.DROP
        return Fate.KEEP if set(here.servers) == set(there.servers) else Fate.EXPIRE


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What routes are made of.

    local: zones answered here. domain: of the masters' Mesos-DNS. cluster_id: empty for none.
    reverse: networks whose reverse names the masters know.
    """

    domain: str = "mesos"
    masters: Sequence[Server] = ()
    upstreams: Sequence[Server] = ()
    zones: Mapping[str, Sequence[Server]]
    local: Iterable[str] = ()
    cluster_id: str = ""
    reverse: Sequence[str] = ()


class Routes:
    """Routes by suffix; made anew when anything of `Places` changes."""

    def __init__(self, places: Places) -> None:
        masters = tuple(places.masters)
        self._table: dict[bytes, Route] = {}
        self._add(Kind.UPSTREAM, "", tuple(places.upstreams))
        for reverse in places.reverse:
            for name in reverse_zones(reverse):
                self._add(Kind.MASTERS, name, masters)
        for zone, servers in places.zones.items():
            self._add(Kind.ZONE, zone, tuple(servers))
        # What follows wins over forward_zones of the same name, as in the original.
        self._rename(GLOBAL, DIRECTORY)
        self._rename(f"dclb.{GLOBAL}", f"l4lb.{DIRECTORY}")
        self._rename(f"dclb.{DIRECTORY}", f"l4lb.{DIRECTORY}")
        if places.cluster_id:
            self._rename(f"{places.cluster_id}.dcos.directory", DIRECTORY)
            self._rename(f"dclb.{places.cluster_id}.dcos.directory", f"l4lb.{DIRECTORY}")
        # Differs: the original sends unknown labels below to its own server, which refuses them;
        # here they do not exist, and nobody outside hears of them.
        self._add(Kind.LOCAL, DIRECTORY)
        self._add(Kind.MASTERS, f"dcos.{DIRECTORY}", masters)
        for zone in places.local:
            self._add(Kind.LOCAL, zone)
        self._add(Kind.MASTERS, places.domain, masters)
        self._rename(f"mesos.{DIRECTORY}", places.domain, MESOS_TTL)

    def plan(self, name: bytes) -> Plan:
        """Where `name` (wire form, any case) goes.  O(labels)."""
        renames: list[Rename] = []
        max_ttl: int | None = None
        rest = name.lower()
        while True:
            route = self._longest(rest)
            if route.kind is not Kind.RENAME or len(renames) == MAX_RENAMES:
                return Plan(route, tuple(renames), max_ttl)
            renames.append(Rename(route.suffix, route.rename))
            rest = rest[: len(rest) - len(route.suffix)] + route.rename
            if route.max_ttl is not None:
                max_ttl = route.max_ttl if max_ttl is None else min(max_ttl, route.max_ttl)

    def differing(self, other: "Routes") -> tuple[bytes, ...]:
        """Suffixes (wire form) below which names may go elsewhere by `other`; none when all go the
        same way."""
        mine, others = self._table, other._table
        found = {one for one in mine.keys() | others if not _alike(mine.get(one), others.get(one))}
        renames = [one for one in (*mine.values(), *others.values()) if one.kind is Kind.RENAME]
        for _ in range(MAX_RENAMES if found else 0):
            found |= {
                one.suffix
                for one in renames
                if any(one.rename.endswith(end) or end.endswith(one.rename) for end in found)
            }
        return tuple(found)

    def all(self) -> list[Route]:
        """Every route, for people, by suffix."""
        return sorted(self._table.values(), key=lambda route: route.zone)

    def _longest(self, name: bytes) -> Route:
        table = self._table
        while (route := table.get(name)) is None:
            name = name[1 + name[0] :]
        return route

    def _add(self, kind: Kind, zone: str, servers: tuple[Server, ...] = ()) -> None:
        suffix = wire_name(zone) if zone else b"\0"
        self._table[suffix] = Route(kind, suffix, servers)

    def _rename(self, zone: str, real: str, max_ttl: int | None = None) -> None:
        suffix = wire_name(zone)
        self._table[suffix] = Route(Kind.RENAME, suffix, (), wire_name(real), max_ttl)


def _alike(one: Route | None, other: Route | None) -> bool:
    """Whether two routes lead the same way, whatever the order of their servers."""
    if one is None or other is None:
        return one is other
    return (one.kind, one.rename, one.max_ttl, set(one.servers)) == (
        other.kind, other.rename, other.max_ttl, set(other.servers)
    )  # fmt: skip


def reverse_zones(network: str) -> list[str]:
    """Zones below `in-addr.arpa` or `ip6.arpa` that cover a network.

    network: also the name of such a zone itself.  Raises ValueError for anything else, and for
    IPv6 prefixes that do not end at a nibble.

    >>> reverse_zones("10.0.0.0/8")
    ['10.in-addr.arpa']
    >>> len(reverse_zones("172.16.0.0/12"))
    16
    """
    if network.endswith(".arpa"):
        wire_name(network)
        return [network]
    parsed = ip_network(network)
    if isinstance(parsed, IPv4Network):
        kept = -(-parsed.prefixlen // 8)
        whole = parsed.subnets(new_prefix=kept * 8)
        return [
            ".".join([*reversed(str(one.network_address).split(".")[:kept]), "in-addr.arpa"])
            for one in whole
        ]
    if parsed.prefixlen % 4:
        raise ValueError(f"prefix does not end at a nibble: {network!r}")
    nibbles = parsed.network_address.packed.hex()[: parsed.prefixlen // 4]
    return [".".join([*reversed(nibbles), "ip6.arpa"])]
