"""Names of VIPs as records of the zone that the DNS proxy of this host answers."""

from collections.abc import Mapping

from msgspec import Struct

#: Seconds that others may keep an answer; the originals' (dcos/minuteman `src/minuteman_dns.erl`).
TTL = 5
#: The proxy takes no more in one zone, and the name server's own records need room as well.
MAX_RECORDS = 100_000 - 2


class Record(Struct, frozen=True):
    """A record; the name is relative to the zone."""

    name: str
    type: str
    value: str


class PushedZone(Struct, frozen=True):
    """The zone as it is pushed.  generation: grows with every change, also over restarts."""

    generation: int
    records: list[Record]
    ttl: int = TTL


def records(names: Mapping[str, tuple[str, str]]) -> tuple[list[Record], int]:
    """Records for the addresses of names, and how many names found no room.

    names: `<label>.<framework>` -> (IPv4 or "", IPv6 or ""). Sorted, so that equal names give
    equal records.
    """
    found: list[Record] = []
    for number, (name, (ipv4, ipv6)) in enumerate(sorted(names.items())):
        if len(found) + 2 > MAX_RECORDS:
            return found, len(names) - number
        if ipv4:
            found.append(Record(name, "A", ipv4))
        if ipv6:
            found.append(Record(name, "AAAA", ipv6))
    return found, 0


def with_name_server(records: list[Record], addresses: tuple[str, ...]) -> list[Record]:
    """The records, and `ns.<zone>` as the originals have it.

    addresses: of the DNS proxy, the same on every host.
    """
    return [
        *(Record("ns", "AAAA" if ":" in one else "A", one) for one in addresses),
        *records,
    ]
