"""Messages taken apart, renamed and put together, compared with an independent library."""

from collections.abc import Callable

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.proxy.message import (
    TC,
    Malformed,
    Message,
    Question,
    build,
    check,
    parse,
    read_name,
    walk,
)
from cairn_dns.proxy.rewrite import Rename, TooLong, back, ends_in, out
from cairn_dns.wire import text_name, wire_name

SHOWN = wire_name("mesos.thisdcos.directory")
REAL = wire_name("mesos")
RENAME = (Rename(SHOWN, REAL),)

LABEL = st.text("abcXYZ09-_", min_size=1, max_size=12)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)
RECORD = st.one_of(
    st.tuples(NAME, st.just("A"), st.just("203.0.113.1")),
    st.tuples(NAME, st.just("AAAA"), st.just("2001:db8::1")),
    st.tuples(NAME, st.just("CNAME"), NAME.map(lambda n: n + ".")),
    st.tuples(NAME, st.just("NS"), NAME.map(lambda n: n + ".")),
    st.tuples(NAME, st.just("MX"), NAME.map(lambda n: f"10 {n}.")),
    st.tuples(NAME, st.just("SRV"), NAME.map(lambda n: f"0 1 80 {n}.")),
    st.tuples(NAME, st.just("TXT"), st.just('"some text"')),
    st.tuples(NAME, st.just("SOA"), NAME.map(lambda n: f"{n}. root.{n}. 1 60 180 86400 1")),
)


def reply(question: str, kind: str, *records: tuple[str, str, str], edns: bool = False) -> bytes:
    """A reply as an independent library writes it."""
    query = dns.message.make_query(question, kind, use_edns=0 if edns else None)
    message = dns.message.make_response(query)
    for name, rtype, value in records:
        message.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", rtype, value))
    return message.to_wire(max_size=65535)


def lines(wire: bytes) -> list[str]:
    """All records as text, the way the independent library reads them."""
    message = dns.message.from_wire(wire)
    return [str(rrset) for section in message.sections[1:] for rrset in section]


@given(NAME, st.lists(RECORD, max_size=12), st.booleans())
def test_what_is_taken_apart_and_put_together_says_the_same(
    name: str, records: list[tuple[str, str, str]], edns: bool
) -> None:
    wire = reply(name, "A", *records, edns=edns)
    again = build(parse(wire))
    assert lines(again) == lines(wire)
    assert again[:12] == wire[:12]


@given(NAME, st.lists(RECORD, min_size=1, max_size=12), st.integers(60, 400))
def test_a_message_fits_its_limit_and_says_when_answers_are_missing(
    name: str, records: list[tuple[str, str, str]], limit: int
) -> None:
    wire = reply(name, "A", *records)
    cut = build(parse(wire), limit)
    question = 12 + len(name) + 6
    assert len(cut) <= max(limit, question)
    message = parse(cut)
    assert bool(message.bits & TC) == (len(message.answers) < len(parse(wire).answers))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for wire in (data, b"\0\1\x81\x80\0\1\0\3\0\2\0\1" + data):
        try:
            message = parse(wire)
        except Malformed:
            continue
        assert parse(build(message)).question == message.question


@given(st.lists(RECORD, max_size=6), st.data())
def test_a_damaged_message_is_a_message_or_malformed(
    records: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    wire = bytearray(reply("web.marathon.mesos", "A", *records))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = parse(bytes(wire))
    except Malformed:
        return
    shown = back(message, message.question, RENAME, 5)
    build(shown, 512)


@pytest.mark.parametrize(
    "wire",
    [b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x40", b"\x3fabc", b"\xc0", b"\x80\x00", b""],
    ids=["itself", "a circle", "unknown kind", "cut label", "cut pointer", "kind 10", "nothing"],
)
def test_a_name_that_makes_no_sense_is_malformed(wire: bytes) -> None:
    with pytest.raises(Malformed):
        read_name(bytes(12) + wire, 12)


def question(name: str, kind: int = 1) -> Question:
    """A question in the case it is written in."""
    wire = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    return Question(wire, kind, 1)


def test_an_answer_is_shown_under_the_name_that_was_asked_for() -> None:
    asked = question("Web.Marathon.Mesos.ThisDCOS.directory", 33)
    assert text_name(out(asked, RENAME).name) == "Web.Marathon.mesos"
    message = parse(
        reply(
            "Web.Marathon.mesos",
            "SRV",
            ("web.marathon.mesos", "SRV", "0 1 80 web-1.marathon.mesos."),
            ("web-1.marathon.mesos", "A", "203.0.113.1"),
            ("mesos", "NS", "ns1.mesos."),
            ("mesos", "SOA", "ns1.mesos. root.ns1.mesos. 1 60 180 86400 1"),
            ("x.mesos", "CNAME", "elsewhere.example."),
        )
    )
    shown = lines(build(back(message, asked, RENAME, 5)))
    assert shown[0].startswith("Web.Marathon.Mesos.ThisDCOS.directory. ")
    # Names that are compressed take the spelling of the question.
    assert [*map(str.lower, shown)] == [
        "web.marathon.mesos.thisdcos.directory. 5 in srv 0 1 80 "
        "web-1.marathon.mesos.thisdcos.directory.",
        "web-1.marathon.mesos.thisdcos.directory. 5 in a 203.0.113.1",
        "mesos.thisdcos.directory. 5 in ns ns1.mesos.thisdcos.directory.",
        "mesos.thisdcos.directory. 5 in soa ns1.mesos.thisdcos.directory. "
        "root.ns1.mesos.thisdcos.directory. 1 60 180 86400 1",
        "x.mesos.thisdcos.directory. 5 in cname elsewhere.example.",
    ]


@given(NAME)
def test_renaming_forth_and_back_changes_nothing(name: str) -> None:
    asked = question(f"{name}.mesos.thisdcos.directory")
    real = out(asked, RENAME)
    message = Message(1, 0x8180, real)
    assert back(message, asked, RENAME).question == asked


def test_a_name_that_is_too_long_under_its_real_domain_is_told() -> None:
    long = ".".join(["a" * 60] * 3 + ["b" * 50])
    rename = Rename(wire_name("x"), wire_name("l4lb.thisdcos.directory"))
    with pytest.raises(TooLong):
        out(question(f"{long}.x"), [rename])


@pytest.mark.parametrize(
    ("name", "suffix", "expected"),
    [
        ("a.mesos", "mesos", True),
        ("A.MESOS", "mesos", True),
        ("mesos", "mesos", True),
        ("amesos", "mesos", False),
        ("mesos.org", "mesos", False),
    ],
)
def test_a_suffix_ends_at_the_border_of_a_label(name: str, suffix: str, expected: bool) -> None:
    assert ends_in(question(name).name, wire_name(suffix)) is expected


@given(st.lists(RECORD, max_size=6), st.data())
def test_a_message_passes_the_check_exactly_when_it_can_be_walked(
    records: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    wire = bytearray(reply("web.marathon.mesos", "A", *records))
    for _ in range(data.draw(st.integers(0, 4))):
        wire[data.draw(st.integers(4, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(wire[: data.draw(st.integers(0, len(wire)))]) if data.draw(st.booleans()) else wire

    def fails(look: Callable[[bytes], object]) -> bool:
        try:
            look(bytes(cut))
        except Malformed:
            return True
        return False

    assert fails(check) == fails(lambda one: list(walk(one)))


def test_a_question_that_is_cut_is_no_message_even_without_records() -> None:
    wire = reply("web.marathon.mesos", "A")
    for look in (check, lambda one: list(walk(one))):
        with pytest.raises(Malformed):
            look(wire[:-1])
