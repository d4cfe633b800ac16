"""Answers as other people's software reads them, and what no query may do."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import pytest

from cairn_dns.answer import Answerer, Foreign, cut, moved
from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.table import MAX_NEGATIVES, Table
from cairn_dns.wire import (
    AAAA,
    EDNS_BYTES,
    MAX_QUERY_RECORDS,
    PTR,
    SRV,
    A,
    question_end,
    read_opt,
    wire_name,
)
from cairn_dns.zone import Record, RecordSet


def table(many: int = 100) -> Table:
    records: list[Record] = [
        ("web.marathon.mesos", A, b"\x0a\0\0\1"),
        ("web.marathon.mesos", A, b"\x0a\0\0\2"),
        ("one.marathon.mesos", A, b"\x0a\0\0\1"),
        ("six.marathon.mesos", AAAA, b"\xfd" + b"\0" * 14 + b"\1"),
        ("_two._tcp.marathon.mesos", SRV, ("web.marathon.mesos", 80)),
        ("_two._tcp.marathon.mesos", SRV, ("web.marathon.mesos", 443)),
        ("1.0.0.10.in-addr.arpa", PTR, "one.marathon.mesos"),
    ]
    records += [("many.marathon.mesos", A, (0x0A000000 + i).to_bytes(4)) for i in range(many)]
    for i in range(40):
        host = f"web-{i}-s0.marathon.mesos"
        records.append((host, A, (0x0A010000 + i).to_bytes(4)))
        records.append(("_web._tcp.marathon.mesos", SRV, (host, 31000 + i)))
    found, made = RecordSet(), Table()
    found.change([], records, now=0)
    for update in Encoder([ZoneSettings(domain="mesos")]).whole(found, 7):
        made.apply(update)
    return made


TABLE = table()


def ask(
    name: str,
    kind: str = "A",
    *,
    edns: int | None = None,
    tcp: bool = False,
    flags: int = dns.flags.RD,
    answerer: Answerer | None = None,
) -> dns.message.Message:
    query = dns.message.make_query(
        name, kind, use_edns=0 if edns else False, payload=edns or 0, flags=flags
    )
    answerer = answerer or Answerer(TABLE)
    replies = [answerer.answer(query.to_wire(), tcp=tcp) for _ in range(2)]
    # the second time it is remembered, and answered the short way
    assert len(replies[0]) == len(replies[1])  # type: ignore[arg-type]  # answers
    message = dns.message.from_wire(replies[1])  # type: ignore[arg-type]
    assert query.is_response(message)
    return message


def values(message: dns.message.Message) -> set[str]:
    return {data.to_text() for rrset in message.answer for data in rrset}


def raw(
    name: bytes = b"\3web\x08marathon\5mesos\0",
    kind: int = 1,
    *,
    bits: int = 0x0100,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    klass: int = 1,
    extra: bytes = b"",
) -> bytes:
    return (
        struct.pack("!HHHHHH", 0x1234, bits, *counts)
        + name
        + struct.pack("!HH", kind, klass)
        + extra
    )


def header(reply: bytes | Foreign | None) -> tuple[int, ...]:
    assert isinstance(reply, bytes)
    return struct.unpack_from("!HHHHHH", reply)


def rcode(reply: bytes | Foreign | None) -> int:
    return header(reply)[1] & 0x0F


OPT = b"\0\0\x29\x10\0\0\0\0\0\0\0"


# -- positive answers ---------------------------------------------------------------------------


def test_addresses_are_answered_with_authority() -> None:
    message = ask("WEB.Marathon.mesos")
    assert values(message) == {"10.0.0.1", "10.0.0.2"}
    assert message.answer[0].ttl == 60
    assert message.flags & dns.flags.AA
    assert message.flags & dns.flags.RA
    assert message.flags & dns.flags.RD
    assert message.edns == -1


def test_the_case_of_the_question_is_kept() -> None:
    query = dns.message.make_query("wEb.MARATHON.mesos", "A", use_edns=False).to_wire()
    reply = Answerer(TABLE).answer(query)
    assert isinstance(reply, bytes)
    assert query[12:] in reply
    assert dns.message.from_wire(reply).answer[0].name.to_text() == "wEb.MARATHON.mesos."


@pytest.mark.parametrize("edns", [None, 1232])
@pytest.mark.parametrize("flags", [0, dns.flags.RD, dns.flags.RD | dns.flags.CD | dns.flags.AD])
def test_bits_are_repeated_that_have_to_be(flags: int, edns: int | None) -> None:
    for name in ("web.marathon.mesos", "nobody.mesos"):
        message = ask(name, flags=flags, edns=edns)
        assert message.flags & dns.flags.RD == flags & dns.flags.RD
        assert message.flags & dns.flags.CD == flags & dns.flags.CD
        assert not message.flags & dns.flags.AD
        assert message.flags & dns.flags.RA


def test_recursion_is_offered_as_configured() -> None:
    answerer = Answerer(TABLE, recursion_available=False)
    for name in ("web.marathon.mesos", "nobody.mesos", "many.marathon.mesos"):
        assert not ask(name, answerer=answerer).flags & dns.flags.RA


def test_services_bring_the_addresses_of_their_targets() -> None:
    message = ask("_two._tcp.marathon.mesos", "SRV")
    assert values(message) == {
        "0 1 80 web.marathon.mesos.",
        "0 1 443 web.marathon.mesos.",
    }
    [rrset] = message.additional
    assert rrset.to_text() == "web.marathon.mesos. 60 IN A 10.0.0.1"


def test_the_order_changes_from_answer_to_answer() -> None:
    answerer = Answerer(TABLE)
    query = dns.message.make_query("web.marathon.mesos", "A", use_edns=False).to_wire()
    firsts = set()
    for _ in range(4):
        reply = answerer.answer(query)
        assert isinstance(reply, bytes)
        firsts.add(dns.message.from_wire(reply).answer[0][0].to_text())
    assert firsts == {"10.0.0.1", "10.0.0.2"}


def test_names_of_addresses_are_answered() -> None:
    message = ask("1.0.0.10.in-addr.arpa", "PTR")
    assert values(message) == {"one.marathon.mesos."}
    assert message.flags & dns.flags.AA


def test_any_is_answered_with_one_type() -> None:
    assert values(ask("web.marathon.mesos", "ANY")) == {"10.0.0.1", "10.0.0.2"}
    assert values(ask("_two._tcp.marathon.mesos", "ANY"))
    assert values(ask("six.marathon.mesos", "ANY")) == {"fd00::1"}
    assert ask("_tcp.marathon.mesos", "ANY").rcode() == dns.rcode.NOERROR
    assert ask("nobody.mesos", "ANY").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("name", ["web.*.marathon.mesos", "web.*.*.marathon.*.mesos"])
def test_stars_are_skipped(name: str) -> None:
    assert values(ask(name)) == {"10.0.0.1", "10.0.0.2"}


def test_pointers_are_right_behind_a_question_with_stars() -> None:
    message = ask("_two.*._tcp.marathon.mesos", "SRV")
    [rrset] = message.additional
    assert rrset.to_text() == "web.marathon.mesos. 60 IN A 10.0.0.1"


def test_a_star_in_front_is_a_name_like_others() -> None:
    assert ask("*.web.marathon.mesos").rcode() == dns.rcode.NXDOMAIN


# -- negative answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("nobody.marathon.mesos", "A", "NXDOMAIN"),
        ("_nobody._tcp.marathon.mesos", "SRV", "NXDOMAIN"),
        ("below.web.marathon.mesos", "A", "NXDOMAIN"),
        ("web.marathon.mesos", "AAAA", "NOERROR"),
        ("web.marathon.mesos", "HTTPS", "NOERROR"),
        ("web.marathon.mesos", "TXT", "NOERROR"),
        ("_two._tcp.marathon.mesos", "A", "NOERROR"),
        ("marathon.mesos", "A", "NOERROR"),
        ("_tcp.marathon.mesos", "SRV", "NOERROR"),
        ("mesos", "A", "NOERROR"),
    ],
)
@pytest.mark.parametrize("edns", [None, 1232])
def test_what_there_is_not_is_said_with_the_soa_of_the_apex(
    name: str, kind: str, expected: str, edns: int | None
) -> None:
    message = ask(name, kind, edns=edns)
    assert dns.rcode.to_text(message.rcode()) == expected
    assert not message.answer
    assert message.flags & dns.flags.AA
    [soa] = message.authority
    assert soa.to_text() == "mesos. 60 IN SOA ns1.mesos. root.ns1.mesos. 7 60 600 86400 60"
    assert message.edns == (0 if edns else -1)


def test_what_was_not_there_is_found_as_soon_as_it_is() -> None:
    mine, records = Table(), RecordSet()
    encoder = Encoder([ZoneSettings(domain="mesos")])
    for update in encoder.whole(records, 1):
        mine.apply(update)
    answerer = Answerer(mine)
    assert ask("new.mesos", answerer=answerer).rcode() == dns.rcode.NXDOMAIN
    assert mine.negatives
    records.change([], [("new.mesos", A, b"\x0a\0\0\1")], now=1)
    for update in encoder.changed(records, records.take_changed(), 2):
        mine.apply(update)
    assert values(ask("new.mesos", answerer=answerer)) == {"10.0.0.1"}
    [soa] = ask("other.mesos", answerer=answerer).authority
    assert soa[0].serial == 2


def test_names_that_do_not_exist_are_remembered_in_bounded_memory() -> None:
    mine = table(1)
    answerer = Answerer(mine)
    for number in range(MAX_NEGATIVES + 100):
        answerer.answer(raw(b"\4" + struct.pack("!I", number).replace(b"\0", b"a") + b"\5mesos\0"))
    assert len(mine.negatives) <= MAX_NEGATIVES


def test_nobody_says_that_a_name_is_not_there_before_the_cluster_is_known() -> None:
    mine = Table()
    mine.apply(Encoder([ZoneSettings(domain="mesos")]).unloaded())
    message = ask("web.marathon.mesos", answerer=Answerer(mine))
    assert message.rcode() == dns.rcode.SERVFAIL
    assert not message.flags & dns.flags.AA


def test_a_server_that_was_told_nothing_has_no_names() -> None:
    assert isinstance(Answerer(Table()).answer(raw()), Foreign)


# -- names that are not ours --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["example.com", "mesos.example", "xmesos", ".", "com"])
def test_foreign_names_are_for_others(name: str) -> None:
    query = dns.message.make_query(name, "A")
    found = Answerer(TABLE).answer(query.to_wire())
    assert isinstance(found, Foreign)
    refused, failed = dns.message.from_wire(found.refused), dns.message.from_wire(found.failed)
    assert query.is_response(refused)
    assert query.is_response(failed)
    assert refused.rcode() == dns.rcode.REFUSED
    assert failed.rcode() == dns.rcode.SERVFAIL
    assert not refused.flags & dns.flags.AA


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edns", "limit"), [(None, 512), (100, 512), (512, 512), (700, 700), (4096, EDNS_BYTES)]
)
@pytest.mark.parametrize(
    ("name", "kind"), [("many.marathon.mesos", "A"), ("_web._tcp.marathon.mesos", "SRV")]
)
def test_answers_are_cut_between_records(
    name: str, kind: str, edns: int | None, limit: int
) -> None:
    query = dns.message.make_query(name, kind, use_edns=0 if edns else False, payload=edns or 0)
    reply = Answerer(TABLE).answer(query.to_wire())
    assert isinstance(reply, bytes)
    assert len(reply) <= limit
    message = dns.message.from_wire(reply, raise_on_truncation=False)
    assert message.flags & dns.flags.TC
    assert not message.additional
    record = 16 if kind == "A" else 100
    assert len(reply) > limit - record
    assert message.edns == (0 if edns else -1)


def test_what_is_left_out_beside_the_answers_is_not_missed() -> None:
    # the answers fit into 512 bytes, their addresses do not
    records: list[Record] = []
    for i in range(8):
        records.append((f"host-number-{i}.marathon.mesos", A, bytes([10, 0, 0, i])))
        records.append(("_s._tcp.mesos", SRV, (f"host-number-{i}.marathon.mesos", 1)))
    found, mine = RecordSet(), Table()
    found.change([], records, now=0)
    for update in Encoder([ZoneSettings(domain="mesos")]).whole(found, 1):
        mine.apply(update)
    message = ask("_s._tcp.mesos", "SRV", answerer=Answerer(mine))
    assert len(values(message)) == 8
    assert not message.additional
    assert not message.flags & dns.flags.TC
    whole = ask("_s._tcp.mesos", "SRV", edns=1232, answerer=Answerer(mine))
    assert len(whole.additional) == 8


def test_a_longer_name_with_the_same_answers_has_fewer_of_them() -> None:
    found, mine = RecordSet(), Table()
    names = ("a.mesos", "a" * 40 + ".mesos")
    found.change([], [(n, A, bytes([10, 0, 0, i])) for n in names for i in range(60)], now=0)
    for update in Encoder([ZoneSettings(domain="mesos")]).whole(found, 1):
        mine.apply(update)
    answerer, counts = Answerer(mine), []
    for name in names:
        for _ in range(40):
            query = dns.message.make_query(name, "A", use_edns=False).to_wire()
            reply = answerer.answer(query)
            assert isinstance(reply, bytes)
            assert 512 - 16 < len(reply) <= 512
        counts.append(header(reply)[3])
    assert counts[0] > counts[1]


def test_the_bit_for_cut_answers_can_be_off() -> None:
    query = dns.message.make_query("many.marathon.mesos", "A", use_edns=False).to_wire()
    reply = Answerer(TABLE, truncate=False).answer(query)
    assert isinstance(reply, bytes)
    assert not reply[2] & 0x02


def test_tcp_has_room_for_all() -> None:
    message = ask("many.marathon.mesos", tcp=True)
    assert len(values(message)) == 100
    assert not message.flags & dns.flags.TC
    assert len(values(ask("many.marathon.mesos", tcp=True, edns=512))) == 100


def test_the_longest_name_gets_an_answer_within_the_limit() -> None:
    name = ".".join(["a" * 61] * 3 + ["b" * 53, "mesos"])
    assert len(wire_name(name)) == 247
    long = ".".join(["a" * 61] * 3 + ["b" * 61, "mesos"])
    assert len(wire_name(long)) == 255
    for one in (name, long):
        query = dns.message.make_query(one, "A", use_edns=False).to_wire()
        for _ in range(2):
            reply = Answerer(TABLE).answer(query)
            assert isinstance(reply, bytes)
            assert len(reply) <= 512
            assert dns.message.from_wire(reply).rcode() == dns.rcode.NXDOMAIN


def test_cut_and_moved_walk_whole_records() -> None:
    entry = TABLE.entries[wire_name("_two._tcp.marathon.mesos") + struct.pack("!HH", SRV, 1)]
    variant = entry if isinstance(entry, bytes) else entry[0]
    answers, additional, body, whole = cut(variant, 10_000)
    assert (answers, additional, whole) == (2, 1, True)
    assert cut(variant, len(body) - 1)[:2] == (2, 0)
    assert cut(variant, 0) == (0, 0, b"", False)
    assert moved(moved(variant, 7), 0) != variant
    assert len(moved(variant, 7)) == len(variant)


# -- EDNS ----------------------------------------------------------------------------------------


def test_edns_is_answered_in_kind() -> None:
    answerer = Answerer(TABLE)
    for name in ("web.marathon.mesos", "nobody.mesos"):
        message = ask(name, edns=4096, answerer=answerer)
        assert message.edns == 0
        assert message.payload == EDNS_BYTES
        assert not message.options


def test_options_are_ignored() -> None:
    cookie = dns.edns.GenericOption("COOKIE", b"12345678")
    query = dns.message.make_query("web.marathon.mesos", "A", use_edns=0, options=[cookie])
    reply = Answerer(TABLE).answer(query.to_wire())
    assert isinstance(reply, bytes)
    message = dns.message.from_wire(reply)
    assert message.edns == 0
    assert not message.options
    assert values(message) == {"10.0.0.1", "10.0.0.2"}


def test_the_bit_for_signatures_is_repeated() -> None:
    query = dns.message.make_query("web.marathon.mesos", "A", use_edns=0, want_dnssec=True)
    answerer = Answerer(TABLE)
    for _ in range(2):
        reply = answerer.answer(query.to_wire())
        assert isinstance(reply, bytes)
        assert dns.message.from_wire(reply).ednsflags & dns.flags.DO


def test_other_versions_of_edns_are_refused_with_ours() -> None:
    query = raw(counts=(1, 0, 0, 1), extra=b"\0\0\x29\x10\0\0\1\0\0\0\0")
    reply = Answerer(TABLE).answer(query)
    assert isinstance(reply, bytes)
    message = dns.message.from_wire(reply)
    assert message.rcode() == dns.rcode.BADVERS
    assert message.edns == 0
    assert not message.answer


def test_an_opt_is_found_wherever_it_is() -> None:
    address = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4abcd"
    for counts, extra in (
        ((1, 0, 0, 2), address + OPT),
        ((1, 0, 0, 2), OPT + address),
        ((1, 1, 1, 1), address + address + OPT),
        ((1, 0, 0, 1), OPT + b"trailing"),
    ):
        reply = Answerer(TABLE).answer(raw(counts=counts, extra=extra))
        assert header(reply)[5] == 1
        assert rcode(reply) == 0


@pytest.mark.parametrize(
    ("counts", "extra"),
    [
        ((1, 0, 0, 2), OPT + OPT),
        ((1, 0, 0, 1), OPT[:-1]),
        ((1, 0, 0, 1), OPT[:-1] + b"\5"),
        ((1, 0, 0, 1), b"\1a" + OPT),
        ((1, 0, 0, 1), b""),
        ((1, 0, 0, 65535), OPT),
        ((1, 0, 0, 1), b"\x80\0\0\x29"),
        ((1, 0, 0, 1), b"\x3f" + b"a" * 20),
    ],
)
def test_records_that_cannot_be_read_are_malformed(
    counts: tuple[int, int, int, int], extra: bytes
) -> None:
    reply = Answerer(TABLE).answer(raw(counts=counts, extra=extra))
    assert rcode(reply) == 1
    assert len(reply) == 12  # type: ignore[arg-type]  # an answer


def test_a_query_is_not_looked_through_without_end() -> None:
    record = b"\0\0\1\0\1\0\0\0\0\0\0"
    fine = raw(counts=(1, 0, 0, MAX_QUERY_RECORDS), extra=record * MAX_QUERY_RECORDS)
    end = question_end(fine)
    assert end is not None
    assert read_opt(fine, end) == b""
    more = MAX_QUERY_RECORDS + 1
    assert read_opt(raw(counts=(1, 0, 0, more), extra=record * more), end) is None


# -- odd queries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [b"", b"\0" * 11, raw(bits=0x8100), raw(bits=0x8000)[:12]])
def test_what_is_no_query_gets_no_answer(query: bytes) -> None:
    assert Answerer(TABLE).answer(query) is None


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    reply = Answerer(TABLE).answer(raw(bits=opcode << 11 | 0x0100))
    assert rcode(reply) == 4
    assert header(reply)[1] >> 11 & 0x0F == opcode


@pytest.mark.parametrize(
    "query",
    [
        raw(counts=(0, 0, 0, 0)),
        raw(counts=(2, 0, 0, 0), extra=b"\3web\0\0\1\0\1"),
        raw()[:-1],
        raw()[:20],
        raw(b"\xc0\x0c"),
        raw(b"\x40" + b"a" * 64 + b"\5mesos\0"),
        raw(b"\x3f" + b"a" * 10),
        raw((b"\x3f" + b"a" * 63) * 4 + b"\0"),
    ],
    ids=["none", "two", "cut", "cut name", "pointer", "64", "beyond", "257"],
)
def test_malformed_questions_are_said_to_be(query: bytes) -> None:
    reply = Answerer(TABLE).answer(query)
    assert header(reply) == (0x1234, 0x8181, 0, 0, 0, 0)


@pytest.mark.parametrize("klass", [0, 2, 3, 4, 254, 255, 65535])
def test_other_classes_are_refused(klass: int) -> None:
    assert rcode(Answerer(TABLE).answer(raw(klass=klass))) == 5
    version = raw(b"\7version\4bind\0", 16, klass=3)
    assert rcode(Answerer(TABLE).answer(version)) == 5


def test_whole_zones_are_not_for_here() -> None:
    zone = b"\5mesos\0"
    answerer = Answerer(TABLE)
    assert rcode(answerer.answer(raw(zone, 252))) == 5
    assert rcode(answerer.answer(raw(zone, 252), tcp=True)) == 5
    assert rcode(answerer.answer(raw(zone, 251), tcp=True)) == 5
    # over UDP the serial is what is wanted first (RFC 1995, 2)
    reply = answerer.answer(raw(zone, 251))
    assert isinstance(reply, bytes)
    message = dns.message.from_wire(reply)
    assert [rrset.rdtype.name for rrset in message.answer] == ["SOA"]


# -- counting ------------------------------------------------------------------------------------


def test_answers_are_counted_by_zone_type_and_rcode() -> None:
    mine = table()
    answerer = Answerer(mine)
    for name, kind in (
        ("web.marathon.mesos", "A"),
        ("many.marathon.mesos", "A"),
        ("_two._tcp.marathon.mesos", "SRV"),
        ("1.0.0.10.in-addr.arpa", "PTR"),
        ("nobody.mesos", "A"),
        ("web.marathon.mesos", "HTTPS"),
    ):
        for edns in (0, False):
            for _ in range(2):
                answerer.answer(dns.message.make_query(name, kind, use_edns=edns).to_wire())
    answerer.answer(raw(klass=3))
    answerer.answer(raw(bits=0x2900))
    assert mine.counted() == {
        ("mesos", "A"): 8,
        ("mesos", "SRV"): 4,
        ("arpa", "PTR"): 4,
    }
    assert answerer.others == {
        ("mesos", "A", "NXDOMAIN"): 4,
        ("mesos", "other", "NOERROR"): 4,
        ("", "A", "REFUSED"): 1,
        ("", "", "NOTIMP"): 1,
    }


def test_counts_survive_another_table() -> None:
    mine = table()
    Answerer(mine).answer(raw())
    records = RecordSet()
    records.change([], [("x.other", A, b"abcd")], now=0)
    for update in Encoder([ZoneSettings(domain="other")]).whole(records, 1):
        mine.apply(update)
    Answerer(mine).answer(raw(b"\1x\5other\0"))
    assert mine.counted() == {("mesos", "A"): 1, ("other", "A"): 1}
