"""Zones that this host answers itself: what is in them.

Built in are those of dcos-net (`dcos_dns_app`, `dcos_dns_listener`); others come from the
configuration (`zones`) or are pushed by daemons of this host.  No I/O.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from msgspec import Meta, Struct

from cairn_core.errors import shorten
from cairn_dns.wire import AAAA, CNAME, SRV, A, BadName, wire_name
from cairn_dns.zone import Record, Value

from .rewrite import ends_in
from .routes import DIRECTORY, GLOBAL

#: TTL of all local records, seconds.
LOCAL_TTL = 5
#: How many names `zk-1.zk`... there are, however many masters.
ZK_NAMES = 5
MAX_RECORDS = 100_000
MAX_ZONES = 256
#: Of all pushed zones together.
MAX_PUSHED_RECORDS = 500_000
#: Where the proxy itself is, on every host.
PROXY_ADDRESSES = ("198.51.100.1", "198.51.100.2", "198.51.100.3", "fd01:d::c633:6401")
THIS_NODE = f"thisnode.{DIRECTORY}"
BUILT_IN = ("spartan", "localhost", "zk", THIS_NODE)
#: Zones of the directory that belong to others, so that no configuration may own them.
RESERVED = ("l4lb", "mesos", "dcos")

Ttl = Annotated[int, Meta(ge=0, le=86400)]

MAX_ZONE_NAME = 200
_ZONE_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class BadZone(ValueError):
    """A zone or one of its records cannot be served; the text names the field."""


class RecordSpec(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A record as configured or pushed.

    name: relative to the zone, `@` or empty for the zone itself; with a last dot it is absolute.
    type: A, AAAA, CNAME or SRV in any case. value: an address, an absolute name, or for SRV
    `target:port`.
    """

    name: str
    type: str
    value: str


class ZoneSpec(Struct, forbid_unknown_fields=True):
    """A whole pushed zone. generation: grows with every change of the zone."""

    generation: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    records: Annotated[list[RecordSpec], Meta(max_length=MAX_RECORDS)]
    ttl: Ttl = LOCAL_TTL


@dataclass(frozen=True, slots=True)
class LocalZone:
    """One zone as it is served.

    generation: of a pushed one, else 0. leads_away: whether an answer may lead out of the zone, so
    that more has to be looked up; `of` finds it out.
    """

    name: str
    records: frozenset[Record]
    ttl: int = LOCAL_TTL
    generation: int = 0
    leads_away: bool = False

    @classmethod
    def of(
        cls, name: str, records: Iterable[Record], ttl: int = LOCAL_TTL, generation: int = 0
    ) -> "LocalZone":
        """A zone of these records.  O(records)."""
        kept = frozenset(records)
        away = any(kind == CNAME for _, kind, _ in kept)
        return cls(name, kept, ttl, generation, away)


def zone_name(text: str, *, pushed: bool, taken: Iterable[str] = ()) -> str:
    """The name of a configured or pushed zone, lower case.  Raises BadZone.

    taken: zones that belong to somebody else already, among them the cluster's domain.
    """
    name = text.lower().strip(".")
    try:
        wire = wire_name(name)
    except BadName as error:
        raise BadZone(f"zone: {error}") from None
    if len(name) > MAX_ZONE_NAME:  # it is the name of a file as well
        raise BadZone(f"zone: has more than {MAX_ZONE_NAME} characters: {shorten(name, 80)!r}")
    if any(letter not in _ZONE_LETTERS for letter in name):
        raise BadZone(f"zone: has other characters than letters, digits, '-', '_': {name!r}")
    label = name.removesuffix("." + DIRECTORY)
    reserved = [one for one in RESERVED if not (pushed and one == "l4lb")]
    if name in (*BUILT_IN, DIRECTORY, GLOBAL) or label in reserved or name in taken:
        raise BadZone(f"zone: reserved name {name!r}")
    if pushed and "." not in name:
        raise BadZone(f"zone: a top-level domain belongs to others: {name!r}")
    for other in ("mesos", "dcos", "thisnode"):
        if ends_in(wire, wire_name(f"{other}.{DIRECTORY}")):
            raise BadZone(f"zone: below a reserved name: {name!r}")
    # Reverse names have PTR records, which nobody can push.
    for other in (*taken, "spartan", "localhost", "zk", GLOBAL, *(("arpa",) if pushed else ())):
        if ends_in(wire, wire_name(other)):
            raise BadZone(f"zone: below {other!r}: {name!r}")
    return name


def read_records(zone: str, specs: Sequence[RecordSpec]) -> Iterator[Record]:
    """Records of a zone.  Raises BadZone with the number of the record and its field."""
    kinds: dict[str, bool] = {}
    seen: set[tuple[str, Value]] = set()
    for index, spec in enumerate(specs):
        try:
            record = _read(zone, spec)
        except BadZone as error:
            raise BadZone(f"records[{index}].{error}") from None
        owner, kind, value = record
        alias = kind == CNAME
        if alias and kinds.get(owner) is not None and (owner, value) not in seen:
            raise BadZone(f"records[{index}].name: has other records beside CNAME: {owner!r}")
        if kinds.setdefault(owner, alias) != alias:
            raise BadZone(f"records[{index}].name: has other records beside CNAME: {owner!r}")
        if alias:
            if owner == zone:
                raise BadZone(f"records[{index}].name: the zone itself cannot be a CNAME")
            seen.add((owner, value))
        yield record


def _read(zone: str, spec: RecordSpec) -> Record:
    owner = _owner(zone, spec.name)
    match spec.type.upper():
        case "A":
            return owner, A, _address(spec.value, 4)
        case "AAAA":
            return owner, AAAA, _address(spec.value, 6)
        case "CNAME":
            return owner, CNAME, _name("value", spec.value)
        case "SRV":
            target, colon, port = spec.value.rpartition(":")
            if not colon or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
                raise BadZone(f"value: not target:port: {shorten(spec.value, 80)!r}")
            return owner, SRV, (_name("value", target), int(port))
        case _:
            raise BadZone(f"type: not A, AAAA, CNAME or SRV: {shorten(spec.type, 40)!r}")


def _owner(zone: str, text: str) -> str:
    if text in ("", "@"):
        return zone
    absolute = text.endswith(".") and text != "."
    name = _name("name", text if absolute else f"{text}.{zone}")
    if name != zone and not name.endswith("." + zone):
        raise BadZone(f"name: not below {zone!r}: {shorten(text, 80)!r}")
    return name


def _name(field: str, text: str) -> str:
    name = text.lower().removesuffix(".")
    try:
        wire_name(name)
    except BadName as error:
        raise BadZone(f"{field}: {error}") from None
    if any(not 32 < ord(letter) < 127 for letter in name):
        raise BadZone(f"{field}: has a blank or a control character: {shorten(text, 80)!r}")
    # Differs: the original's library knows wildcards, though no zone of it ever had one.
    if "*" in name:
        raise BadZone(f"{field}: wildcards are not served: {shorten(text, 80)!r}")
    return name


def _address(text: str, version: int) -> bytes:
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in text:
        raise BadZone(f"value: not an IPv{version} address: {shorten(text, 60)!r}")
    return address.packed


def built_in(
    masters: Sequence[str], private: Sequence[str], public: Sequence[str]
) -> list[LocalZone]:
    """The zones that every host has.

    masters: addresses in the order of the configuration. private, public: of this node.
    """
    zones: dict[str, list[Record]] = {
        "spartan": [
            ("ready.spartan", A, _packed("127.0.0.1")),
            ("ns.spartan", A, _packed(PROXY_ADDRESSES[0])),
        ],
        # Differs: the original has no ::1, so that clients with IPv6 only do not find themselves.
        "localhost": [("localhost", A, _packed("127.0.0.1")), ("localhost", AAAA, _packed("::1"))],
        "zk": [
            _host(f"zk-{number + 1}.zk", masters[number % len(masters)])
            for number in range(ZK_NAMES if masters else 0)
        ],
        THIS_NODE: [_host(THIS_NODE, address) for address in private]
        + [_host(f"public.{THIS_NODE}", address) for address in public],
    }
    return [LocalZone.of(name, records) for name, records in zones.items()]


def configured(
    zones: Mapping[str, Sequence[RecordSpec]], taken: Iterable[str] = ()
) -> list[LocalZone]:
    """Zones of the setting `zones`.  Raises BadZone."""
    found = []
    for text, specs in zones.items():
        try:
            name = zone_name(text, pushed=False, taken=taken)
            found.append(LocalZone.of(name, read_records(name, specs)))
        except BadZone as error:
            raise BadZone(f"zones[{shorten(text, 80)!r}].{error}") from None
    return found


def _host(name: str, address: str) -> Record:
    packed = _packed(address)
    return name, A if len(packed) == 4 else AAAA, packed


def _packed(address: str) -> bytes:
    return ip_address(address).packed
