"""How long answers are kept, what they look like later, and that bounds hold."""

import struct

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.proxy.ask import Ask, fit, read_query
from cairn_dns.proxy.cache import (
    Cache,
    Entry,
    Limits,
    answer_from,
    key_of,
    make_key,
    stale_from,
)
from cairn_dns.proxy.message import RD, Question, question_of
from cairn_dns.wire import wire_name

SOA = "ns1.example. root.example. 1 60 180 86400 30"


def exchange(
    *records: tuple[str, int, str, str],
    name: str = "www.example",
    authority: tuple[str, int, str, str] | None = None,
    rcode: int = 0,
    edns: bool = False,
) -> tuple[bytes, bytes]:
    """A query and its reply."""
    query = dns.message.make_query(name, "A", use_edns=0 if edns else None)
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    for owner, ttl, kind, value in records:
        reply.answer.append(dns.rrset.from_text(f"{owner}.", ttl, "IN", kind, value))
    if authority is not None:
        owner, ttl, kind, value = authority
        reply.authority.append(dns.rrset.from_text(f"{owner}.", ttl, "IN", kind, value))
    return query.to_wire(), reply.to_wire()


def key(query: bytes) -> bytes:
    found = key_of(query)
    assert found is not None
    return found


def ttls(wire: bytes) -> list[int]:
    message = dns.message.from_wire(wire)
    return [rrset.ttl for section in message.sections[1:] for rrset in section]


def answer(entry: Entry | None, query: bytes, now: float) -> bytes:
    assert entry is not None
    return answer_from(entry, query, 12 + len(question_of(query).wire), now)


def test_an_answer_is_given_again_with_its_ttl_turned_down() -> None:
    cache = Cache(Limits())
    query, reply = exchange(("www.example", 60, "A", "203.0.113.1"), edns=True)
    cache.put(key(query), reply, now=100.0)
    for now, ttl in ((100.0, 60), (100.9, 60), (101.0, 59), (159.9, 1)):
        again = answer(cache.find(key(query), now), query, now)
        assert ttls(again) == [ttl]
        assert again[:2] == query[:2]
    assert cache.find(key(query), 160.0) is None


def test_the_spelling_is_that_of_who_asks() -> None:
    cache = Cache(Limits())
    query, reply = exchange(("www.example", 60, "A", "203.0.113.1"))
    cache.put(key(query), reply, now=0.0)
    other = query.replace(b"www", b"WwW")
    message = dns.message.from_wire(answer(cache.find(key(other), 1.0), other, 1.0))
    assert str(message.answer[0].name) == "WwW.example."


@pytest.mark.parametrize(
    ("records", "authority", "rcode", "kept_s"),
    [
        ([("www.example", 60, "A", "203.0.113.1")], None, 0, 60),
        ([("www.example", 86400, "A", "203.0.113.1")], None, 0, 3600),
        ([("www.example", 60, "CNAME", "a.example."), ("a.example", 5, "A", "203.0.113.1")],
         None, 0, 5),
        ([], ("example", 300, "SOA", SOA), 3, 30),
        ([], ("example", 10, "SOA", SOA), 0, 10),
        ([], None, 3, 0),
        ([("www.example", 60, "A", "203.0.113.1")], None, 2, 0),
        ([("www.example", 0, "A", "203.0.113.1")], None, 0, 0),
    ],
    ids=["as its ttl says", "an hour at most", "the smallest ttl", "as the minimum of the soa says",
         "as the ttl of the soa says", "negative without soa: not", "failures: not", "ttl 0: not"],
)  # fmt: skip
def test_how_long_an_answer_is_fresh(
    records: list[tuple[str, int, str, str]],
    authority: tuple[str, int, str, str] | None,
    rcode: int,
    kept_s: int,
) -> None:
    cache = Cache(Limits())
    query, reply = exchange(*records, authority=authority, rcode=rcode)
    cache.put(key(query), reply, now=0.0)
    assert (cache.find(key(query), max(kept_s - 0.5, 0)) is not None) == (kept_s > 0)
    assert cache.find(key(query), kept_s) is None


def test_names_of_the_cluster_are_fresh_for_a_moment_and_then_stale() -> None:
    cache = Cache(Limits())
    query, reply = exchange(("www.example", 60, "A", "203.0.113.1"))
    cache.put(key(query), reply, now=0.0, cluster=True)
    assert cache.find(key(query), 0.05) is not None
    assert cache.find(key(query), 0.1) is None
    entry = cache.stale(key(query), 3600.0)
    assert entry is not None
    stale = stale_from(entry, query, 12 + len(question_of(query).wire))
    assert ttls(stale) == [5]
    assert cache.stale(key(query), 86401.0) is None


def test_that_a_name_was_missing_is_never_told_stale() -> None:
    cache = Cache(Limits())
    query, reply = exchange(authority=("example", 60, "SOA", SOA), rcode=3)
    cache.put(key(query), reply, now=0.0, cluster=True)
    assert cache.find(key(query), 0.05) is not None
    assert cache.stale(key(query), 0.2) is None


def test_truncated_answers_are_not_kept() -> None:
    cache = Cache(Limits())
    query, reply = exchange(("www.example", 60, "A", "203.0.113.1"))
    cut = reply[:2] + bytes([reply[2] | 2]) + reply[3:]
    assert cache.put(key(query), cut, now=0.0) is None


def test_bits_of_the_query_have_entries_of_their_own() -> None:
    question = Question(wire_name("www.example"), 1, 1)
    asks = [
        Ask(question, bits, edns, dnssec)
        for bits in (0, RD, RD | 0x10, RD | 0x20)
        for edns, dnssec in ((False, False), (True, False), (True, True))
    ]
    keys = {ask.key() for ask in asks}
    assert len(keys) == len(asks)
    assert all(key_of(ask.query()) == ask.key() for ask in asks)


@given(st.binary(max_size=80))
def test_any_query_has_a_key_or_none(data: bytes) -> None:
    for query in (data, b"\0\1\1\0\0\1\0\0\0\0\0\0" + data, b"\0\1\1\0\0\1\0\0\0\0\0\1" + data):
        key_of(query)


@given(st.binary(max_size=120))
def test_any_reply_is_kept_or_not(data: bytes) -> None:
    question = Question(wire_name("a.example"), 1, 1)
    cache = Cache(Limits())
    own = make_key(question.wire, RD, edns=False, dnssec=False)
    head = b"\0\1\x81\x80\0\1\0\2\0\1\0\1"
    cache.put(own, head + question.wire + data, now=0.0)
    cache.put(own, data[:1] + head + data, now=0.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 8), st.sampled_from(["put", "find", "drop"])),
        max_size=200,
    )
)
def test_bounds_hold_and_what_is_used_stays(ops: list[tuple[int, int, str]]) -> None:
    cache = Cache(Limits(), entries=10, size=12_000)
    for now, (number, records, what) in enumerate(ops):
        question = Question(wire_name(f"n{number}.example"), 1, 1)
        own = make_key(question.wire, RD, edns=False, dnssec=False)
        rr = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 3600, 4) + bytes(4)
        reply = struct.pack("!HHHHHH", 0, 0x8180, 1, records, 0, 0) + question.wire + rr * records
        if what == "put":
            assert cache.put(own, reply, now=float(now)) is not None
        elif what == "find":
            cache.find(own, float(now))
        else:
            cache.drop(own)
        assert len(cache) <= 10
        assert cache.bytes <= 12_000
        assert cache.bytes >= 0
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_an_answer_in_use_outlives_one_that_is_not() -> None:
    cache = Cache(Limits(), entries=3)
    queries = []
    for number in range(4):
        query, reply = exchange(
            (f"n{number}.example", 60, "A", "203.0.113.1"), name=f"n{number}.example"
        )
        queries.append(key(query))
        cache.put(key(query), reply, now=0.0)
        cache.find(queries[0], 0.0)
    assert [cache.find(one, 0.0) is not None for one in queries] == [True, False, True, True]


def test_a_reply_that_is_too_long_for_the_client_is_cut_to_its_question() -> None:
    query, reply = exchange(*[("www.example", 60, "A", f"203.0.113.{n}") for n in range(40)])
    _, limit = read_query(query, tcp=False)
    cut = dns.message.from_wire(fit(reply, query, len(query), limit))
    assert cut.flags & 0x0200
    assert not cut.answer


def test_a_failure_without_its_question_gets_it_back() -> None:
    query, _ = exchange()
    reply = fit(b"\0\0\x81\x82" + bytes(8), query, len(query), 512)
    assert dns.message.from_wire(reply).rcode() == 2
    assert question_of(reply) == question_of(query)
