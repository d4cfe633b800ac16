"""Helpers of the tests: addresses as texts, and whole zones made of rows."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from cairn_core.mesos.feed_rows import Row
from cairn_dns.addresses import Address, address_text
from cairn_dns.cluster_zone import ClusterZone
from cairn_dns.records import Rules
from cairn_dns.wire import AAAA, A
from cairn_dns.zone import Record, RecordSet

NOW = 1_700_000_000.0


def ip(text: str) -> Address:
    """An address in the form of records."""
    return ip_address(text).packed


def zone_of(
    rows: Iterable[Row],
    rules: Rules | None = None,
    masters: Sequence[str] = (),
    hosts: Mapping[str, Sequence[str]] | None = None,
) -> ClusterZone:
    """The zone of a cluster that has these rows."""
    zone = ClusterZone(rules or Rules())
    zone.set_masters([ip(text) for text in masters], now=NOW)
    zone.set_hosts(
        {host: [ip(one) for one in some] for host, some in (hosts or {}).items()}, now=NOW
    )
    put(zone, *rows)
    return zone


def put(zone: ClusterZone, *rows: Row, now: float = NOW) -> None:
    """Rows that are new or take the place of others."""
    apply(zone, {row.key: (None, row) for row in rows}, now=now)


def drop(zone: ClusterZone, *rows: Row, now: float = NOW) -> None:
    """Rows that are gone."""
    apply(zone, {row.key: (row, None) for row in rows}, now=now)


def apply(
    zone: ClusterZone, rows: Mapping[str, tuple[Row | None, Row | None]], *, now: float = NOW
) -> None:
    """Changed rows, at once."""
    for _ in zone.apply(rows, now=now):
        pass


def addresses(records: RecordSet, under: str = "mesos") -> dict[str, set[str]]:
    """Texts of the addresses of each name that ends so."""
    found: dict[str, set[str]] = {}
    for name, kind, value in everything(records):
        if kind in (A, AAAA) and isinstance(value, bytes) and name.endswith(under):
            found.setdefault(name, set()).add(address_text(value))
    return found


def services(records: RecordSet) -> dict[str, set[str]]:
    """`target:port` of each service."""
    found: dict[str, set[str]] = {}
    for name, _, value in everything(records):
        if isinstance(value, tuple):
            found.setdefault(name, set()).add(f"{value[0]}:{value[1]}")
    return found


def everything(records: RecordSet) -> set[Record]:
    """All records, each once."""
    return {
        (name, kind, value)
        for name in records.names()
        for kind in records.kinds(name)
        for value in records.values(name, kind)
    }
