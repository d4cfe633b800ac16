"""Any bytes: never an exception, never too much, always an answer to the right query."""

import random
import struct

import dns.message
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cairn_dns.answer import Answerer, Foreign
from cairn_dns.compat import CompatAnswerer
from cairn_dns.encode import Encoder, ZoneSettings
from cairn_dns.table import Table
from cairn_dns.transfer import Transfers
from cairn_dns.wire import AAAA, CNAME, SRV, TXT, A, name_end, question_end, read_opt, text_name
from cairn_dns.zone import Record, RecordSet


def table() -> Table:
    added: list[Record] = [("many.mesos", A, bytes([10, 0, i, 1])) for i in range(100)]
    for i in range(30):
        added += [
            (f"host-{i}.mesos", A, bytes([10, 1, i, 1])),
            (f"host-{i}.mesos", AAAA, bytes([0xFD, i]) * 8),
            ("_many._tcp.mesos", SRV, (f"host-{i}.mesos", i)),
        ]
    added += [("alias.mesos", CNAME, "many.mesos"), ("text.mesos", TXT, "x" * 2000)]
    records, made = RecordSet(), Table()
    records.change([], added, now=0)
    for update in Encoder([ZoneSettings(domain="mesos")]).whole(records, 1):
        made.apply(update)
    return made


TABLE = table()
ANSWERERS = {
    "ours": Answerer(TABLE),
    "compat": CompatAnswerer(TABLE, random.Random(1)),
}
TRANSFERS = Transfers(TABLE, ["127.0.0.0/8"])

LABELS = st.one_of(
    st.sampled_from(
        [b"many", b"_many", b"_tcp", b"mesos", b"alias", b"text", b"*", b"host-1", b"MANY", b""]
    ),
    st.binary(max_size=70),
)


@st.composite
def names(draw: st.DrawFn) -> bytes:
    """Names that may be ours, too long, compressed, or nonsense."""
    parts = [bytes([min(len(x), 255)]) + x for x in draw(st.lists(LABELS, max_size=6))]
    end = draw(
        st.sampled_from([b"\5mesos\0", b"\0", b"", b"\xc0\x0c", b"\xc0\xff", b"\x40", b"\x80"])
    )
    return b"".join(parts) + end


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Queries, more or less."""
    short = st.integers(0, 0xFFFF)
    few = st.sampled_from([0, 1, 2, 40, 0xFFFF])
    head = struct.pack(
        "!HHHHHH",
        draw(short),
        draw(st.one_of(st.sampled_from([0, 0x0100, 0x0110, 0x0120, 0x0300]), short)),
        draw(st.one_of(st.just(1), few)),
        draw(st.one_of(st.just(0), few)),
        draw(st.one_of(st.just(0), few)),
        draw(st.one_of(st.integers(0, 1), few)),
    )
    kind = draw(st.one_of(st.sampled_from([1, 5, 6, 16, 28, 33, 251, 252, 255]), short))
    question = draw(names()) + struct.pack("!HH", kind, draw(st.one_of(st.just(1), short)))
    opt = struct.pack("!BHHIH", 0, 41, draw(short), draw(st.sampled_from([0, 0x8000, 0x10000])), 0)
    rest = draw(st.sampled_from([b"", opt, opt + opt, opt[:-1], opt[:-1] + b"\x04abcd"]))
    whole = head + question + rest + draw(st.binary(max_size=20))
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Good queries with a few bytes changed."""
    name = draw(st.sampled_from(["many.mesos", "_many._tcp.mesos", "nobody.mesos", "example.com"]))
    kind = draw(st.sampled_from(["A", "AAAA", "SRV", "TXT", "ANY", "AXFR"]))
    edns = draw(st.sampled_from([False, 0]))
    data = bytearray(dns.message.make_query(name, kind, use_edns=edns).to_wire())
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


START = struct.pack("!HHHHHH", 1, 0x100, 1, 0, 0, 0)
QUERIES = st.one_of(st.binary(max_size=600), messages(), damaged())


def limit_of(query: bytes, *, tcp: bool, compat: bool) -> int:
    """The most bytes that an answer may have."""
    if tcp:
        return 65535
    end = question_end(query) if not compat and len(query) >= 12 else None
    opt = read_opt(query, end) if end is not None else None
    return min(max(opt[3] << 8 | opt[4], 512), 1232) if opt else 512


@pytest.mark.parametrize("kind", ANSWERERS)
@pytest.mark.parametrize("tcp", [False, True])
@settings(max_examples=400, deadline=None)
@given(QUERIES)
@example(b"\0" * 12)
@example(START + b"\xc0\x0c\0\1\0\1")
@example(START + b"\1*\1*\5mesos\0\0\1\0\1")
@example(
    struct.pack("!HHHHHH", 1, 0x100, 1, 0, 0, 0)
    + (b"\x3f" + b"a" * 63) * 3
    + b"\x3d"
    + b"a" * 61
    + b"\0\0\1\0\1"
)
@example(START + b"\5mesos\0\0\xff\0\1")
def test_any_bytes_get_a_sane_answer_or_none(kind: str, tcp: bool, query: bytes) -> None:
    answerer = ANSWERERS[kind]
    replies = [answerer.answer(query, tcp=tcp) for _ in range(2)]
    for found in replies:
        candidates = (found.refused, found.failed) if isinstance(found, Foreign) else (found,)
        for reply in candidates:
            if reply is None:
                continue
            assert len(reply) <= limit_of(query, tcp=tcp, compat=kind == "compat")
            if len(query) >= 12:
                assert reply[:2] == query[:2]
            assert reply[2] & 0x80
            # other people's software reads it
            if kind == "ours" or len(reply) == 12:
                dns.message.from_wire(reply, raise_on_truncation=False)
    assert type(replies[0]) is type(replies[1])


@settings(max_examples=300, deadline=None)
@given(QUERIES, st.sampled_from(["127.0.0.1", "10.0.0.1", "nonsense"]))
def test_any_bytes_for_a_whole_zone(query: bytes, client: str) -> None:
    found = TRANSFERS.begin(query, client)
    for reply in found or ():
        assert not reply or (reply[:2] == query[:2] and reply[2] & 0x80)


@given(st.binary(max_size=300), st.integers(0, 320))
def test_names_end_within_the_message(message: bytes, at: int) -> None:
    end = name_end(message, at)
    assert end is None or at < end <= len(message) + 1


@given(st.binary(max_size=300))
def test_any_bytes_have_a_text(wire: bytes) -> None:
    assert text_name(wire).isascii()


def test_hostile_names_are_answered_in_little_time() -> None:
    # the most labels a name can have, none of them known
    name = b"\1a" * 127 + b"\0"
    query = START + name + b"\0\1\0\1"
    for answerer in ANSWERERS.values():
        assert isinstance(answerer.answer(query), Foreign)
