"""Answers of the compatible mode are those that Mesos-DNS gave."""

import random
import struct
from ipaddress import ip_address
from pathlib import Path

import dns.message
import pytest

from cairn_dns.answer import Foreign
from cairn_dns.compat import CompatAnswerer, clean
from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.table import Table
from cairn_dns.wire import AAAA, SRV, A, wire_name
from cairn_dns.zone import Record, RecordSet

RECORDED = Path(__file__).parent / "mesos_dns_answers"
SERIAL = 1795783453


def record(line: str) -> Record:
    name, kind, value, *port = line.split()
    if kind == "SRV":
        return name, SRV, (value, int(port[0]))
    return name, {"A": A, "AAAA": AAAA}[kind], ip_address(value).packed


def recorded_table() -> Table:
    records, table = RecordSet(), Table()
    lines = (RECORDED / "records.txt").read_text().splitlines()
    records.change([], map(record, lines), now=0)
    for update in Encoder([ZoneSettings(domain="mesos")]).whole(records, SERIAL):
        table.apply(update)
    return table


TABLE = recorded_table()
ANSWERS = [line.split(maxsplit=3) for line in (RECORDED / "answers.txt").read_text().splitlines()]


def answer(query: bytes, *, tcp: bool = False, truncate: bool = True) -> bytes | None:
    reply = CompatAnswerer(TABLE, random.Random(1), truncate=truncate).answer(query, tcp=tcp)
    return reply.refused if isinstance(reply, Foreign) else reply


def sections(reply: bytes) -> list[list[str]]:
    message = dns.message.from_wire(reply, one_rr_per_rrset=True)
    parts = (message.answer, message.authority, message.additional)
    return [sorted(rrset.to_text() for rrset in part) for part in parts]


@pytest.mark.parametrize(
    ("transport", "query", "expected"),
    [row[:3] for row in ANSWERS],
    ids=[f"{row[3]} over {row[0]}" for row in ANSWERS],
)
def test_answers_are_those_of_the_original(transport: str, query: str, expected: str) -> None:
    reply = answer(bytes.fromhex(query), tcp=transport == "tcp")
    given = "-" if reply is None else reply.hex()
    if given == expected:
        return
    # several answers: the same ones in another order, or as many where not all fit
    assert reply is not None
    original = bytes.fromhex(expected)
    assert reply[:12] == original[:12]
    assert len(reply) == len(original)
    ours, theirs = sections(reply), sections(original)
    assert len(theirs[0]) > 1
    if original[2] & 0x02:
        assert [len(part) for part in ours] == [len(part) for part in theirs]
    else:
        assert ours == theirs


def test_answers_are_shuffled() -> None:
    answerer = CompatAnswerer(TABLE, random.Random(1))
    query = dns.message.make_query("four.marathon.mesos", "A", use_edns=False).to_wire()
    firsts = set()
    for _ in range(50):
        reply = answerer.answer(query)
        assert isinstance(reply, bytes)
        firsts.add(reply[-4:])
    assert len(firsts) == 4


def test_answers_are_kept_until_the_table_changes() -> None:
    table, records = Table(), RecordSet()
    encoder = Encoder([ZoneSettings(domain="mesos")])
    for update in encoder.whole(records, 1):
        table.apply(update)
    answerer = CompatAnswerer(table, random.Random(1))

    def answers() -> list[int]:
        query = dns.message.make_query("new.mesos", "A", use_edns=False).to_wire()
        replies = [answerer.answer(query) for _ in range(3)]
        assert all(isinstance(one, bytes) and one[:2] == query[:2] for one in replies)
        return [struct.unpack_from("!H", one, 6)[0] for one in replies]  # type: ignore[arg-type]

    assert answers() == [0, 0, 0]
    records.change([], [("new.mesos", A, b"\x0a\0\0\1")], now=1)
    for update in encoder.changed(records, records.take_changed(), 2):
        table.apply(update)
    assert answers() == [1, 1, 1]
    assert answerer.others == {("mesos", "A", "NXDOMAIN"): 3, ("mesos", "A", "NOERROR"): 3}


def test_the_bit_for_cut_answers_can_be_off() -> None:
    query = dns.message.make_query("many.marathon.mesos", "A", use_edns=False).to_wire()
    cut, quiet = answer(query), answer(query, truncate=False)
    assert cut is not None
    assert quiet is not None
    assert cut[2] & 0x02
    assert not quiet[2] & 0x02
    assert len(cut) == len(quiet) < 512


def test_an_unknown_cluster_is_no_empty_one() -> None:
    table = Table()
    table.apply(Encoder([ZoneSettings(domain="mesos")]).unloaded())
    query = dns.message.make_query("one.mesos", "A").to_wire()
    reply = CompatAnswerer(table, random.Random(1)).answer(query)
    assert isinstance(reply, bytes)
    assert struct.unpack_from("!H", reply, 2)[0] & 0x0F == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.*.b", "a.b"),
        ("*.a.b", "*.a.b"),
        ("a.*b.c", "ab.c"),
        ("a.*.*.b", "a.b"),
        ("a.b*.c", "a.b*.c"),
        ("a.**.b", "a*.b"),
    ],
)
def test_stars_behind_a_dot_are_taken_out_of_the_text(name: str, expected: str) -> None:
    assert clean(wire_name(name)) == wire_name(expected)
