"""What is encoded is what the records say, whole or change by change."""

import random
from collections.abc import Iterable

import dns.message
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_dns.answer import Answerer
from cairn_dns.encode import MAX_QUESTIONS, Encoder, ZoneSettings
from cairn_dns.table import Table, Update, decode_update, encode_update
from cairn_dns.tree import NameTree
from cairn_dns.wire import AAAA, CNAME, NS, PTR, SRV, TXT, TYPE_NAMES, A, BadName, wire_name
from cairn_dns.zone import Record, RecordSet

MESOS = ZoneSettings(domain="mesos")


def record_set(*records: Record) -> RecordSet:
    found = RecordSet()
    found.change([], records, now=0)
    return found


def table_of(updates: Iterable[Update]) -> Table:
    """What a serving process makes of updates."""
    table = Table()
    for update in updates:
        table.apply(decode_update(encode_update(update)))
    return table


def zone_of(*records: Record, zones: tuple[ZoneSettings, ...] = (MESOS,)) -> Table:
    return table_of(Encoder(zones).whole(record_set(*records), 7))


def ask(table: Table, name: str, kind: str) -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=False)
    reply = Answerer(table).answer(query.to_wire(), tcp=True)
    assert isinstance(reply, bytes)
    return dns.message.from_wire(reply, one_rr_per_rrset=True)


def texts(section: list[dns.rrset.RRset]) -> list[str]:
    return [rrset.to_text() for rrset in section]


def answers(table: Table, name: str, kind: str) -> list[str]:
    return sorted(texts(ask(table, name, kind).answer))


def address(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4)


def test_each_type_is_answered_as_it_was_recorded() -> None:
    table = zone_of(
        ("web.mesos", A, address(1)),
        ("web.mesos", AAAA, b"\xfd" + b"\0" * 14 + b"\1"),
        ("_web._tcp.mesos", SRV, ("web.mesos", 80)),
        ("alias.mesos", CNAME, "web.mesos"),
        ("about.mesos", TXT, "x" * 300),
        ("sub.mesos", NS, "ns.sub.mesos"),
        ("1.0.0.10.in-addr.arpa", PTR, "web.mesos"),
    )
    assert answers(table, "web.mesos", "A") == ["web.mesos. 60 IN A 10.0.0.1"]
    assert answers(table, "web.mesos", "AAAA") == ["web.mesos. 60 IN AAAA fd00::1"]
    assert answers(table, "alias.mesos", "CNAME") == ["alias.mesos. 60 IN CNAME web.mesos."]
    [text] = answers(table, "about.mesos", "TXT")
    assert text.count("x") == 300
    assert answers(table, "sub.mesos", "NS") == ["sub.mesos. 60 IN NS ns.sub.mesos."]
    assert answers(table, "1.0.0.10.in-addr.arpa", "PTR") == [
        "1.0.0.10.in-addr.arpa. 60 IN PTR web.mesos."
    ]
    services = ask(table, "_web._tcp.mesos", "SRV")
    assert texts(services.answer) == ["_web._tcp.mesos. 60 IN SRV 0 1 80 web.mesos."]
    assert texts(services.additional) == [
        "web.mesos. 60 IN A 10.0.0.1",
        "web.mesos. 60 IN AAAA fd00::1",
    ]


def test_the_apex_has_soa_and_ns() -> None:
    table = zone_of(("web.mesos", A, address(1)))
    assert answers(table, "mesos", "SOA") == [
        "mesos. 60 IN SOA ns1.mesos. root.ns1.mesos. 7 60 600 86400 60"
    ]
    assert answers(table, "mesos", "NS") == ["mesos. 60 IN NS ns1.mesos."]


def test_ns_of_the_records_take_the_place_of_our_own() -> None:
    records = record_set(("mesos", NS, "other.example"))
    encoder, table = Encoder([MESOS]), Table()
    for update in encoder.whole(records, 1):
        table.apply(update)
    assert answers(table, "mesos", "NS") == ["mesos. 60 IN NS other.example."]
    records.change([("mesos", NS, "other.example")], [], now=1)
    for update in encoder.changed(records, records.take_changed() | {"mesos"}, 2):
        table.apply(update)
    assert answers(table, "mesos", "NS") == ["mesos. 60 IN NS ns1.mesos."]


def test_settings_show() -> None:
    zone = ZoneSettings(
        domain="Spartan",
        ttl=5,
        srv_priority=3,
        srv_weight=9,
        additional=False,
        soa_mname="ns.spartan",
        soa_rname="support.spartan",
        soa_minimum=1,
        nameservers=("a.spartan", "b.spartan"),
        nameserver_ttl=3600,
    )
    table = zone_of(
        ("x.spartan", A, address(1)), ("_x._tcp.spartan", SRV, ("x.spartan", 1)), zones=(zone,)
    )
    assert answers(table, "spartan", "NS") == [
        "spartan. 3600 IN NS a.spartan.",
        "spartan. 3600 IN NS b.spartan.",
    ]
    services = ask(table, "_x._tcp.spartan", "SRV")
    assert texts(services.answer) == ["_x._tcp.spartan. 5 IN SRV 3 9 1 x.spartan."]
    assert not services.additional
    # a negative answer is kept as long as the minimum says (RFC 2308, 3)
    [soa] = ask(table, "y.spartan", "A").authority
    assert soa.ttl == 1


@pytest.mark.parametrize("count", [1, 2, 16, 29, 30, 100, 464])
def test_every_address_is_among_those_that_fit_a_plain_datagram(count: int) -> None:
    table = zone_of(*(("web.marathon.mesos", A, address(i)) for i in range(count)))
    answerer, seen, firsts = Answerer(table), set(), set()
    query = dns.message.make_query("web.marathon.mesos", "A", use_edns=False, id=0).to_wire()
    for _ in range(64):
        reply = answerer.answer(query)
        assert isinstance(reply, bytes)
        assert len(reply) <= 512
        found = [data.to_text() for rr in dns.message.from_wire(reply).answer for data in rr]
        seen.update(found)
        firsts.add(found[0])
    assert len(seen) == count
    assert len(firsts) == min(count, 16)


def test_each_target_of_a_service_comes_first_in_turn() -> None:
    records: list[Record] = []
    for i in range(4):
        records.append((f"t{i}.mesos", A, address(i)))
        records += [("_web._tcp.mesos", SRV, (f"t{i}.mesos", port)) for port in (80, 443)]
    table, firsts = zone_of(*records), set()
    answerer = Answerer(table)
    for number in range(8):
        query = dns.message.make_query("_web._tcp.mesos", "SRV", use_edns=False, id=number << 8)
        reply = answerer.answer(query.to_wire(), tcp=True)
        assert isinstance(reply, bytes)
        message = dns.message.from_wire(reply, one_rr_per_rrset=True)
        firsts.add(message.answer[0][0].target.to_text())
        assert len(message.answer) == 8
        # pointers into the answers are right for each order
        assert {rr.to_text() for rr in message.additional} == {
            f"t{i}.mesos. 60 IN A 10.0.0.{i}" for i in range(4)
        }
    assert firsts == {f"t{i}.mesos." for i in range(4)}


def test_more_records_than_a_message_takes_are_cut() -> None:
    table = zone_of(
        *(("all.mesos", A, address(i)) for i in range(6000)),
        *(("_all._tcp.mesos", SRV, ("all.mesos", i)) for i in range(4000)),
    )
    for name, kind, least in (("all.mesos", "A", 4000), ("_all._tcp.mesos", "SRV", 1)):
        query = dns.message.make_query(name, kind).to_wire()
        reply = Answerer(table).answer(query, tcp=True)
        assert isinstance(reply, bytes)
        assert len(reply) <= 65535
        message = dns.message.from_wire(reply)
        assert sum(map(len, message.answer)) >= least or kind == "SRV"


def test_aliases_are_followed_and_come_first() -> None:
    table = zone_of(
        ("a.mesos", CNAME, "b.mesos"),
        ("b.mesos", CNAME, "c.mesos"),
        ("c.mesos", A, address(1)),
        ("c.mesos", A, address(2)),
        ("out.mesos", CNAME, "example.com"),
        ("loop.mesos", CNAME, "pool.mesos"),
        ("pool.mesos", CNAME, "loop.mesos"),
        ("self.mesos", CNAME, "self.mesos"),
    )
    chain = ["a.mesos. 60 IN CNAME b.mesos.", "b.mesos. 60 IN CNAME c.mesos."]
    found = texts(ask(table, "a.mesos", "A").answer)
    assert found[:2] == chain
    assert sorted(found[2:]) == ["c.mesos. 60 IN A 10.0.0.1", "c.mesos. 60 IN A 10.0.0.2"]
    assert texts(ask(table, "a.mesos", "AAAA").answer) == chain
    assert texts(ask(table, "a.mesos", "MX").answer) == chain[:1]
    assert answers(table, "out.mesos", "A") == ["out.mesos. 60 IN CNAME example.com."]
    assert len(ask(table, "loop.mesos", "A").answer) == 1
    assert len(ask(table, "self.mesos", "A").answer) == 1


def test_an_alias_follows_what_it_leads_to() -> None:
    records = record_set(("a.mesos", CNAME, "b.mesos"), ("b.mesos", CNAME, "c.mesos"))
    encoder, table = Encoder([MESOS]), Table()
    for update in encoder.whole(records, 1):
        table.apply(update)
    records.take_changed()
    records.change([], [("c.mesos", A, address(1))], now=1)
    for update in encoder.changed(records, records.take_changed(), 2):
        table.apply(update)
    assert "c.mesos. 60 IN A 10.0.0.1" in answers(table, "a.mesos", "A")


def test_a_name_belongs_to_the_longest_apex() -> None:
    table = zone_of(
        ("x.thisdcos.directory", A, address(1)),
        ("x.dcos.thisdcos.directory", A, address(2)),
        zones=(
            ZoneSettings(domain="thisdcos.directory", ttl=1),
            ZoneSettings(domain="dcos.thisdcos.directory", ttl=2),
        ),
    )
    assert ask(table, "x.thisdcos.directory", "A").answer[0].ttl == 1
    assert ask(table, "x.dcos.thisdcos.directory", "A").answer[0].ttl == 2
    [soa] = ask(table, "nope.dcos.thisdcos.directory", "A").authority
    assert soa.name.to_text() == "dcos.thisdcos.directory."


def test_names_that_dns_cannot_express_are_left_out_and_counted() -> None:
    records = record_set(
        ("good.mesos", A, address(1)),
        ("y..mesos", A, address(2)),
        ("x" * 64 + ".mesos", A, address(3)),
        ("ü.mesos", A, address(4)),
        (".".join(["a" * 60] * 5) + ".mesos", A, address(5)),
        ("_bad._tcp.mesos", SRV, ("x" * 64 + ".mesos", 1)),
        ("_bad._tcp.mesos", SRV, ("good.mesos", 2)),
    )
    encoder = Encoder([MESOS])
    table = table_of(encoder.whole(records, 1))
    assert encoder.skipped == 4
    assert answers(table, "_bad._tcp.mesos", "SRV") == [
        "_bad._tcp.mesos. 60 IN SRV 0 1 2 good.mesos."
    ]
    records.take_changed()
    records.change([("y..mesos", A, address(2))], [], now=1)
    assert list(encoder.changed(records, records.take_changed(), 2))
    assert encoder.skipped == 3


def test_updates_are_of_bounded_size() -> None:
    records = record_set(*((f"n{i}.x{i}.mesos", A, address(i)) for i in range(5000)))
    encoder = Encoder([MESOS])
    for whole in (list(encoder.whole(records, 1)), list(encoder.whole(records, 1))):
        assert len(whole) >= 5
        assert whole[0].begin
        assert [update.done for update in whole] == [False] * (len(whole) - 1) + [True]
        for update in whole:
            size = len(update.put) + len(update.drop) + len(update.put_ancestors)
            assert size <= MAX_QUESTIONS + 10
    assert table_of(encoder.whole(records, 1)).ancestors == table_of(whole).ancestors


def test_a_change_costs_what_it_touches() -> None:
    sizes = []
    for count in (10, 3000):
        records = record_set(*((f"n{i}.mesos", A, address(i)) for i in range(count)))
        encoder = Encoder([MESOS])
        assert list(encoder.whole(records, 1))
        records.take_changed()
        records.change([("n1.mesos", A, address(1))], [("n1.mesos", A, address(9999))], now=1)
        found = list(encoder.changed(records, records.take_changed(), 2))
        sizes.append(sum(len(encode_update(update)) for update in found))
    assert sizes[0] == sizes[1]


def test_only_the_serial_of_a_zone_with_a_change_grows() -> None:
    zones = (ZoneSettings(domain="a"), ZoneSettings(domain="b"))
    records = record_set(("x.a", A, address(1)), ("x.b", A, address(2)))
    encoder, table = Encoder(zones), Table()
    for update in encoder.whole(records, 1):
        table.apply(update)
    records.take_changed()
    records.change([], [("y.a", A, address(3))], now=1)
    for update in encoder.changed(records, records.take_changed(), 2):
        table.apply(update)
    assert " 2 60 " in answers(table, "a", "SOA")[0]
    assert " 1 60 " in answers(table, "b", "SOA")[0]


def test_settings_that_make_no_zone_are_refused() -> None:
    with pytest.raises(BadName, match="label"):
        Encoder([ZoneSettings(domain="a..b")])
    with pytest.raises(BadName, match="label"):
        Encoder([ZoneSettings(domain="mesos", soa_mname="x" * 64)])


def test_there_are_never_more_counters_than_a_byte_tells() -> None:
    zones = tuple(ZoneSettings(domain=f"z{i}") for i in range(300))
    records = record_set(*((f"x.z{i}", A, address(i)) for i in range(300)))
    table = table_of(Encoder(zones).whole(records, 1))
    assert len(table.counters) <= 256
    assert table.counters[-1] == ("other", "other")
    assert answers(table, "x.z299", "A")


# -- any series of changes ----------------------------------------------------------------------

NAMES = [
    "a.mesos", "b.a.mesos", "c.b.a.mesos", "d.c.b.a.mesos", "e.mesos", "f.e.mesos", "mesos",
    "x.sub.mesos", "sub.mesos", "_s._tcp.mesos", "1.in-addr.arpa", "y..mesos", "g.h.i.mesos",
]  # fmt: skip
ZONES = (MESOS, ZoneSettings(domain="sub.mesos", ttl=5))
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.just(A), st.integers(0, 3).map(address)),
    st.tuples(
        st.sampled_from(NAMES),
        st.just(SRV),
        st.tuples(st.sampled_from(NAMES), st.integers(0, 1)),
    ),
    st.tuples(st.sampled_from(NAMES), st.just(CNAME), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(NAMES), st.just(AAAA), st.just(b"\xfd" * 16)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sets(RECORDS, max_size=8), max_size=8), st.data())
def test_any_series_of_changes_gives_what_a_whole_table_gives(
    states: list[set[Record]], data: st.DataObject
) -> None:
    records, encoder, table = RecordSet(), Encoder(ZONES), Table()
    before: set[Record] = set()
    for update in encoder.whole(records, 1):
        table.apply(update)
    for number, state in enumerate(states):
        records.change(list(before - state), list(state - before), now=number)
        before = state
        for update in encoder.changed(records, records.take_changed(), 2):
            table.apply(update)
        if data.draw(st.booleans()):  # a serving process that is new
            table = table_of(encoder.whole(records, 3))
    other = Encoder(ZONES)
    expected = table_of(other.whole(records, 1))
    soas = {wire_name(zone.domain) + b"\0\6\0\1" for zone in ZONES}

    def plain(entries: dict[bytes, object]) -> dict[bytes, object]:
        """Without counters, whose numbers depend on what came first, and without serials."""
        return {
            question: entry[1:] if isinstance(entry, bytes) else [one[1:] for one in entry]  # type: ignore[attr-defined]
            for question, entry in entries.items()
            if question not in soas
        }

    assert plain(dict(table.entries)) == plain(dict(expected.entries))
    assert table.ancestors == expected.ancestors
    assert table.zones.keys() == expected.zones.keys()
    assert encoder.skipped == other.skipped


def test_a_table_given_while_records_change_ends_up_right() -> None:
    rng = random.Random(1)
    records = record_set(*((f"n{i}.x{i % 50}.mesos", A, address(i)) for i in range(4000)))
    encoder = Encoder([MESOS])
    assert list(encoder.whole(records, 1))
    records.take_changed()
    table, behind = Table(), list[Update]()
    for update in encoder.whole(records, 1):
        table.apply(update)
        old = rng.randrange(4000)
        gone: list[Record] = [
            (f"n{old}.x{old % 50}.mesos", A, value)
            for value in records.values(f"n{old}.x{old % 50}.mesos", A)
        ]
        new: list[Record] = [(f"n{old + 5000}.y{old}.mesos", A, address(old))]
        records.change(gone, new, now=1)
        behind += encoder.changed(records, records.take_changed(), 2)
    for update in behind:
        table.apply(update)
    expected = table_of(Encoder([MESOS]).whole(records, 2))
    assert table.entries.keys() == expected.entries.keys()
    assert table.ancestors == expected.ancestors


@given(st.lists(st.tuples(st.sampled_from(NAMES[:6]), st.booleans()), max_size=30))
def test_ancestors_are_the_names_above_those_that_exist(steps: list[tuple[str, bool]]) -> None:
    tree, names, ancestors = NameTree(), set[str](), set[str]()
    for name, exists in steps:
        if exists:
            names.add(name)
            ancestors.update(tree.add(name, "mesos"))
        else:
            names.discard(name)
            ancestors.difference_update(tree.remove(name, "mesos"))
        expected = set()
        for one in names:
            at = one.partition(".")[2]
            while at not in ("", "mesos"):
                expected.add(at)
                at = at.partition(".")[2]
        assert ancestors == expected == set(tree.ancestors())


def test_types_have_names_for_the_counters() -> None:
    assert {A, AAAA, SRV, NS, CNAME, PTR, TXT} <= TYPE_NAMES.keys()


def test_an_earlier_table_is_freed_in_pieces() -> None:
    records = record_set(*((f"n{i}.mesos", A, address(i)) for i in range(50)))
    encoder, table = Encoder([MESOS]), Table()
    for _ in range(2):
        for update in encoder.whole(records, 1):
            table.apply(update)
    assert [table.free(20) for _ in range(3)] == [True, True, False]
    assert len(table.entries) == 52
