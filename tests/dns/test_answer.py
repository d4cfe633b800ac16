"""Answers as other people's software reads them, and what no query may do."""

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_dns.answer import EDNS_BYTES, Answerer, Foreign
from cairn_dns.encode import BadName, Table, ZoneSettings, empty_table, encode_zone, wire_name
from cairn_dns.records import Zone


def table(many: int = 100) -> Table:
    zone = Zone()
    zone.add_addresses("web.marathon.mesos", [b"\x0a\0\0\1", b"\x0a\0\0\2"])
    zone.add_addresses("many.marathon.mesos", [(0x0A000000 + i).to_bytes(4) for i in range(many)])
    for i in range(20):
        host = f"web-{i}-s0.marathon.mesos"
        zone.add_addresses(host, [(0x0A010000 + i).to_bytes(4)])
        zone.add_service("_web._tcp.marathon.mesos", host, 31000 + i)
    zone.add_service("_two._tcp.marathon.mesos", "web.marathon.mesos", 80)
    zone.add_service("_two._tcp.marathon.mesos", "web.marathon.mesos", 443)
    zone.add_addresses("x" * 64 + ".mesos", [b"\x0a\0\0\3"])
    return encode_zone(zone, ZoneSettings(), serial=7)


TABLE = table()


def ask(
    name: str, kind: str = "A", *, edns: int | None = None, tcp: bool = False
) -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0 if edns else False, payload=edns or 0)
    reply = Answerer(TABLE).answer(query.to_wire(), tcp=tcp)
    assert isinstance(reply, bytes)
    message = dns.message.from_wire(reply)
    assert query.is_response(message)
    return message


def values(message: dns.message.Message) -> set[str]:
    return {data.to_text() for rrset in message.answer for data in rrset}


def test_addresses_are_answered_with_authority() -> None:
    message = ask("WEB.Marathon.mesos")
    assert values(message) == {"10.0.0.1", "10.0.0.2"}
    assert message.answer[0].ttl == 60
    assert message.flags & dns.flags.AA
    assert message.flags & dns.flags.RA
    assert message.flags & dns.flags.RD
    assert message.edns == -1


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
    query = dns.message.make_query("web.marathon.mesos", "A").to_wire()
    firsts = set()
    for _ in range(4):
        reply = answerer.answer(query)
        assert isinstance(reply, bytes)
        firsts.add(dns.message.from_wire(reply).answer[0][0].to_text())
    assert firsts == {"10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        pytest.param("nobody.marathon.mesos", "A", "NXDOMAIN", id="no such name"),
        pytest.param("web.marathon.mesos", "AAAA", "NOERROR", id="no such type"),
        pytest.param("web.marathon.mesos", "TXT", "NOERROR", id="a type that is never there"),
        pytest.param("_tcp.marathon.mesos", "A", "NOERROR", id="a name with names below it"),
        pytest.param("_nobody._tcp.marathon.mesos", "SRV", "NXDOMAIN", id="no such service"),
        pytest.param("mesos", "A", "NOERROR", id="the apex"),
    ],
)
def test_negative_answers_carry_the_soa_of_the_zone(name: str, kind: str, rcode: str) -> None:
    message = ask(name, kind)
    assert message.rcode() == dns.rcode.from_text(rcode)
    assert message.answer == []
    [rrset] = message.authority
    assert rrset.to_text() == "mesos. 60 IN SOA ns1.mesos. root.ns1.mesos. 7 60 600 86400 60"


def test_the_apex_has_soa_and_ns() -> None:
    assert values(ask("mesos", "SOA")) == {"ns1.mesos. root.ns1.mesos. 7 60 600 86400 60"}
    assert values(ask("mesos", "NS")) == {"ns1.mesos."}


def test_stars_behind_the_first_label_are_ignored() -> None:
    assert values(ask("web.*.marathon.mesos")) == {"10.0.0.1", "10.0.0.2"}
    assert ask("*.web.marathon.mesos").rcode() == dns.rcode.NXDOMAIN


def test_large_answers_are_cut_to_what_the_client_takes() -> None:
    plain = ask("many.marathon.mesos")
    assert plain.flags & dns.flags.TC
    assert len(values(plain)) == 29
    assert len(plain.to_wire()) <= 512
    wide = ask("many.marathon.mesos", edns=4096)
    assert wide.edns == 0
    assert wide.payload == EDNS_BYTES
    assert wide.flags & dns.flags.TC
    assert 29 < len(values(wide)) < 100
    whole = ask("many.marathon.mesos", tcp=True)
    assert not whole.flags & dns.flags.TC
    assert len(values(whole)) == 100


def test_additional_records_go_first() -> None:
    message = ask("_web._tcp.marathon.mesos", "SRV", edns=1000)
    assert len(values(message)) == 20
    assert message.additional == []
    assert not message.flags & dns.flags.TC
    whole = ask("_web._tcp.marathon.mesos", "SRV", tcp=True)
    assert len(whole.additional) == 16
    assert {rrset.name.to_text() for rrset in whole.additional} <= {
        data.target.to_text() for data in whole.answer[0]
    }


def test_an_unknown_edns_version_is_refused() -> None:
    query = dns.message.make_query("web.marathon.mesos", "A", use_edns=1)
    reply = Answerer(TABLE).answer(query.to_wire())
    assert isinstance(reply, bytes)
    assert dns.message.from_wire(reply).rcode() == dns.rcode.BADVERS


def test_foreign_names_are_left_to_others() -> None:
    for name in ("example.com", "foomesos", "."):
        query = dns.message.make_query(name, "A")
        reply = Answerer(TABLE).answer(query.to_wire())
        assert isinstance(reply, Foreign)
        assert dns.message.from_wire(reply.refused).rcode() == dns.rcode.REFUSED
        assert dns.message.from_wire(reply.failed).rcode() == dns.rcode.SERVFAIL


def test_before_the_cluster_is_known_nothing_is_denied() -> None:
    query = dns.message.make_query("leader.mesos", "A")
    reply = Answerer(empty_table("mesos")).answer(query.to_wire())
    assert isinstance(reply, bytes)
    assert dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("query", "rcode"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"\0" * 11, None, id="less than a header"),
        pytest.param(b"\0\1\x80\0\0\1\0\0\0\0\0\0\0\0\1\0\1", None, id="an answer"),
        pytest.param(b"\0\1\1\0\0\0\0\0\0\0\0\0", 1, id="no question"),
        pytest.param(b"\0\1\1\0\0\1\0\0\0\0\0\0\x03ab", 1, id="half a question"),
        pytest.param(b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", 1, id="a compressed question"),
        pytest.param(b"\0\1\x28\0\0\1\0\0\0\0\0\0\0\0\1\0\1", 4, id="an update"),
    ],
)
def test_malformed_queries(query: bytes, rcode: int | None) -> None:
    reply = Answerer(TABLE).answer(query)
    if rcode is None:
        assert reply is None
    else:
        assert isinstance(reply, bytes)
        assert reply[3] & 15 == rcode
        assert reply[:2] == query[:2]


@settings(max_examples=300)
@given(st.binary(max_size=80), st.binary(max_size=40))
def test_no_query_raises_and_no_answer_exceeds_its_limit(tail: bytes, name: bytes) -> None:
    for query in (
        tail,
        b"\0\1\1\0\0\1\0\0\0\0\0\1" + tail,
        b"\0\1\1\0\0\1\0\0\0\0\0\1\4many\x08marathon\5mesos\0\0\1\0\1" + tail,
        b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\5mesos\0\0\1\0\1",
    ):
        reply = Answerer(TABLE).answer(query)
        if isinstance(reply, bytes):
            assert len(reply) <= EDNS_BYTES
            try:
                dns.message.from_wire(reply)
            except dns.exception.DNSException as error:
                raise AssertionError(f"{query!r} -> {reply!r}") from error


ZONES = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.integers(0, 3)), max_size=12
)


@given(ZONES, ZONES)
def test_taking_over_what_has_not_changed_changes_nothing(
    before: list[tuple[str, str, int]], after: list[tuple[str, str, int]]
) -> None:
    def made(facts: list[tuple[str, str, int]]) -> Zone:
        zone = Zone()
        for name, target, number in facts:
            if number % 2:
                zone.add_service(f"_{name}.mesos", f"{target}.mesos", number)
            else:
                zone.add_addresses(f"{name}.mesos", [number.to_bytes(4)])
        return zone

    def in_any_order(table: Table) -> object:
        # Where two zones are equal as sets, either order of answers will do.
        return {
            name: {
                kind: sorted(len(one.answers) + len(one.additional) for one in sections)
                for kind, sections in known.by_type.items()
            }
            for name, known in table.names.items()
        }

    first, second = made(before), made(after)
    last = (first, encode_zone(first, ZoneSettings(), 1))
    taken = encode_zone(second, ZoneSettings(), 2, last)
    fresh = encode_zone(second, ZoneSettings(), 2)
    assert in_any_order(taken) == in_any_order(fresh)
    assert taken.names[taken.apex] == fresh.names[fresh.apex]
    assert taken.soa == fresh.soa


def test_names_that_dns_cannot_express_are_counted() -> None:
    assert TABLE.skipped == 1
    for name in ("", "a..b", "é.mesos", "x" * 64, ".".join(["x" * 60] * 5)):
        with pytest.raises(BadName):
            wire_name(name)
