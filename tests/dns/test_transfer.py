"""Whole zones, as other people's software takes them."""

import struct
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.xfr
import dns.zone
import pytest

from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.table import Table
from cairn_dns.transfer import MAX_UNDER_WAY, MESSAGE_BYTES, Transfers
from cairn_dns.wire import AAAA, CNAME, PTR, SRV, A
from cairn_dns.zone import Record, RecordSet

ZONES = (ZoneSettings(domain="mesos"), ZoneSettings(domain="sub.mesos"))


def table(names: int = 3) -> tuple[Table, RecordSet, Encoder]:
    added: list[Record] = [
        ("alias.mesos", CNAME, "n0.x.mesos"),
        ("n0.x.mesos", AAAA, b"\xfd" * 16),
        ("in.sub.mesos", A, b"\x0a\0\0\1"),
        ("xmesos", A, b"\x0a\0\0\1"),
        ("1.0.0.10.in-addr.arpa", PTR, "n0.x.mesos"),
    ]
    for i in range(names):
        added.append((f"n{i}.x.mesos", A, (0x0A000000 + i).to_bytes(4)))
        added.append((f"n{i}.x.mesos", A, (0x0B000000 + i).to_bytes(4)))
        added.append(("_n._tcp.x.mesos", SRV, (f"n{i}.x.mesos", 80)))
    records, made, encoder = RecordSet(), Table(), Encoder(ZONES)
    records.change([], added, now=0)
    for update in encoder.whole(records, 7):
        made.apply(update)
    records.take_changed()
    return made, records, encoder


def ask(zone: str, kind: str = "AXFR", *, serial: int | None = None) -> bytes:
    query = dns.message.make_query(zone, kind)
    if serial is not None:
        query = dns.xfr.make_query(dns.zone.Zone(zone), serial=serial)[0]
    return query.to_wire()


def messages(found: Iterator[bytes] | None) -> list[dns.message.Message]:
    assert found is not None
    return [
        dns.message.from_wire(one, xfr=True, one_rr_per_rrset=True, origin=None)
        for one in found
        if one
    ]


def lines(found: list[dns.message.Message]) -> list[str]:
    return [rrset.to_text() for message in found for rrset in message.answer]


def rcode(found: Iterator[bytes] | None) -> str:
    [message] = messages(found)
    return dns.rcode.to_text(message.rcode())


def transfers(made: Table | None = None) -> Transfers:
    return Transfers(made or table()[0], ["127.0.0.0/8", "fd00::/8"])


def test_a_zone_is_between_two_soas_and_has_all_that_belongs_to_it() -> None:
    found = lines(messages(transfers().begin(ask("mesos"), "127.0.0.1")))
    soa = "mesos. 60 IN SOA ns1.mesos. root.ns1.mesos. 7 60 600 86400 60"
    assert found[0] == found[-1] == soa
    assert sorted(found[1:-1]) == sorted(
        [
            "mesos. 60 IN NS ns1.mesos.",
            "alias.mesos. 60 IN CNAME n0.x.mesos.",
            "n0.x.mesos. 60 IN AAAA fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd",
            *(f"n{i}.x.mesos. 60 IN A 10.0.0.{i}" for i in range(3)),
            *(f"n{i}.x.mesos. 60 IN A 11.0.0.{i}" for i in range(3)),
            *(f"_n._tcp.x.mesos. 60 IN SRV 0 1 80 n{i}.x.mesos." for i in range(3)),
        ]
    )


def test_the_case_of_the_zone_does_not_matter() -> None:
    assert len(lines(messages(transfers().begin(ask("MeSoS"), "127.0.0.1")))) > 2


def test_large_zones_come_in_messages_of_moderate_size() -> None:
    made, _, _ = table(3000)
    found = transfers(made).begin(ask("mesos"), "127.0.0.1")
    assert found is not None
    parts = list(found)
    sizes = [len(part) for part in parts if part]
    assert len(sizes) > 5
    assert max(sizes) <= MESSAGE_BYTES + 100
    # others have their turn
    assert parts.count(b"") > 5
    whole = messages(iter(parts))
    assert len(lines(whole)) == 3000 * 3 + 5
    assert [len(message.question) for message in whole] == [1] + [0] * (len(whole) - 1)


def test_a_zone_is_of_one_moment() -> None:
    made, records, encoder = table(3000)
    found = transfers(made).begin(ask("mesos"), "127.0.0.1")
    assert found is not None
    next(found)
    records.change([], [("new.mesos", A, b"\x0a\0\0\1")], now=1)
    for update in encoder.changed(records, records.take_changed(), 8):
        made.apply(update)
    told = lines(messages(found))
    assert not any(line.startswith("new.") for line in told)
    assert " 7 60 " in told[0]
    assert told[0] == told[-1]


def test_a_zone_can_be_read_by_others() -> None:
    made, _, _ = table(500)
    found = messages(transfers(made).begin(ask("mesos"), "127.0.0.1"))
    zone = dns.zone.Zone("mesos.")
    with dns.xfr.Inbound(zone, dns.rdatatype.AXFR) as inbound:
        done = [
            inbound.process_message(
                dns.message.from_wire(message.to_wire(max_size=65535), xfr=True, origin=zone.origin)
            )
            for message in found
        ]
    assert done[-1]
    assert len(zone.nodes) == 500 + 3
    zone.check_origin()


@pytest.mark.parametrize(
    ("zone", "client", "expected"),
    [
        ("mesos", "10.0.0.1", "REFUSED"),
        ("mesos", "fe80::1%lo", "REFUSED"),
        ("x.mesos", "127.0.0.1", "NOTAUTH"),
        ("example.com", "127.0.0.1", "NOTAUTH"),
        (".", "127.0.0.1", "NOTAUTH"),
    ],
)
def test_others_and_other_names_are_refused(zone: str, client: str, expected: str) -> None:
    for kind in ("AXFR", "IXFR"):
        assert rcode(transfers().begin(ask(zone, kind), client)) == expected


def test_refused_ones_are_counted() -> None:
    mine = transfers()
    mine.begin(ask("mesos"), "10.0.0.1")
    messages(mine.begin(ask("mesos"), "fd00::1"))
    assert (mine.refused, mine.begun) == (1, 1)
    mine.allow(["10.0.0.0/8"])
    messages(mine.begin(ask("mesos"), "10.0.0.1"))
    assert (mine.refused, mine.begun) == (1, 2)


def test_so_many_are_under_way_at_once() -> None:
    mine, started = transfers(), list[Iterator[bytes]]()
    for _ in range(MAX_UNDER_WAY):
        found = mine.begin(ask("mesos"), "127.0.0.1")
        assert found is not None
        next(found)
        started.append(found)
    assert rcode(mine.begin(ask("mesos"), "127.0.0.1")) == "REFUSED"
    started.pop()  # its client is gone
    del found
    assert len(messages(mine.begin(ask("mesos"), "127.0.0.1"))) == 1
    started.clear()
    assert mine.under_way == 0


def test_a_zone_that_is_not_known_yet_is_not_an_empty_one() -> None:
    made = Table()
    made.apply(Encoder(ZONES).unloaded())
    assert rcode(transfers(made).begin(ask("mesos"), "127.0.0.1")) == "SERVFAIL"


def test_changes_alone_are_answered_with_all() -> None:
    found = lines(messages(transfers().begin(ask("mesos", serial=5), "127.0.0.1")))
    assert len(found) > 2
    [soa] = lines(messages(transfers().begin(ask("mesos", serial=7), "127.0.0.1")))
    assert " 7 60 " in soa


@pytest.mark.parametrize(
    "query",
    [
        dns.message.make_query("mesos", "A").to_wire(),
        ask("mesos")[:11],
        ask("mesos")[:20],
        b"\0\0\x80" + ask("mesos")[3:],
        ask("mesos")[:2] + b"\x28" + ask("mesos")[3:],
        ask("mesos")[:4] + b"\0\2" + ask("mesos")[6:],
    ],
    ids=["A", "short", "cut", "answer", "update", "two questions"],
)
def test_other_queries_are_not_for_here(query: bytes) -> None:
    assert transfers().begin(query, "127.0.0.1") is None


def test_a_malformed_query_is_said_to_be() -> None:
    query = ask("mesos")
    query = query[:10] + struct.pack("!H", 1) + query[12:]
    assert rcode(transfers().begin(query, "127.0.0.1")) == "FORMERR"
