"""The link's rules, by scripts of sends, losses and reconnects."""

import contextlib
import random
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.kit import link as wire
from cairn_core.kit.link import (
    FrameReader,
    Hello,
    Link,
    LinkError,
    LinkFull,
    MessageTooLarge,
    decode_hello,
    encode_frame,
    encode_message,
)


class Put(msgspec.Struct, frozen=True, tag=True):
    """A message."""

    n: int
    pad: bytes = b""


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Another."""

    n: int


End = Link[Put | Drop, Put | Drop]


def end(**options: int) -> End:
    return Link(Put | Drop, session="s", **options)  # type: ignore[arg-type]  # one is a boolean


def frames(data: bytes) -> list[wire.Frame]:
    reader = FrameReader()
    found = reader.feed(data)
    assert reader.feed(b"") == []
    return found


def connect(a: End, b: End, *, b_knows: bool = True) -> None:
    """Exchange HELLOs as `io_link` does; `a` is the side that connects."""
    hello = decode_hello(frames(a.hello())[0])
    resume = b_knows and b.can_resume(hello)
    b.attach(hello, fresh=not resume)
    a.attach(decode_hello(frames(b.hello(fresh=not resume))[0]))


def carry(a: End, b: End, *, acknowledge_now: bool = False) -> list[Put | Drop]:
    data = a.bytes_to_send(acknowledge_now=acknowledge_now)
    return [message for frame in frames(data) for message in b.receive(frame)]


def pair(**options: int) -> tuple[End, End]:
    a, b = end(**options), end(**options)
    connect(a, b, b_knows=False)
    return a, b


def test_messages_of_one_turn_are_one_batch() -> None:
    a, b = pair()
    for n in range(100):
        a.send(Put(n))
    a.send_encoded(encode_message(Drop(7)))
    data = a.bytes_to_send()
    assert len(frames(data)) == 1
    assert [m for f in frames(data) for m in b.receive(f)] == [*map(Put, range(100)), Drop(7)]
    assert a.bytes_to_send() == b""


def test_what_is_acknowledged_is_forgotten() -> None:
    a, b = pair()
    a.send(Put(1))
    carry(a, b)
    assert a.outstanding_bytes > 0
    assert b.owes_acknowledgement
    assert b.bytes_to_send() == b""  # held back for a frame that carries it
    carry(b, a, acknowledge_now=True)
    assert a.outstanding_bytes == 0
    assert b.bytes_to_send(acknowledge_now=True) == b""


def test_a_ping_is_answered_even_when_nothing_is_owed() -> None:
    a, b = pair()
    a.ping()
    carry(a, b)
    assert len(frames(b.bytes_to_send(acknowledge_now=True))) == 1


def test_a_sender_without_credit_waits_for_the_receiver() -> None:
    a, b = pair(window_bytes=1000, auto_acknowledge=False)
    for n in range(100):
        a.send(Put(n, b"x" * 90))
    got = carry(a, b)
    assert 9 <= len(got) <= 11
    assert a.bytes_to_send() == b""
    carry(b, a, acknowledge_now=True)
    assert a.bytes_to_send() == b""
    while len(got) < 100:
        b.acknowledge()
        carry(b, a)
        more = carry(a, b)
        assert more
        got += more
    assert [message.n for message in got] == list(range(100))


def test_a_full_link_refuses_and_takes_again_later() -> None:
    a, b = pair(limit_bytes=1000)
    with contextlib.suppress(LinkFull):
        for n in range(100):
            a.send(Put(n, b"x" * 90))
    assert a.is_full
    assert 1000 <= a.outstanding_bytes < 1200
    count = len(carry(a, b))
    carry(b, a, acknowledge_now=True)
    a.send(Put(count))
    assert carry(a, b) == [Put(count)]


def test_a_message_above_a_frame_is_our_error() -> None:
    a, b = pair()
    with pytest.raises(MessageTooLarge):
        a.send(Put(1, b"x" * wire.MAX_FRAME_BYTES))
    a.send(Put(2, b"x" * (wire.MAX_MESSAGE_BYTES - 50)))
    a.send(Put(3))
    got = carry(a, b)
    carry(b, a, acknowledge_now=True)
    got += carry(a, b)
    assert [m.n for m in got] == [2, 3]


def test_a_session_that_one_side_forgot_starts_over() -> None:
    a, b = pair()
    a.send(Put(1))
    carry(a, b)
    a.send(Put(2))
    a.detach()
    other = end()
    connect(a, other, b_knows=False)
    assert a.outstanding_bytes == 0
    a.send(Put(3))
    assert carry(a, other) == [Put(3)]


def test_a_gap_cannot_be_resumed() -> None:
    a, b = pair()
    for n in range(3):
        a.send(Put(n))
        carry(a, b)
        carry(b, a, acknowledge_now=True)
    assert not a.can_resume(Hello(session="s", received=2))
    assert a.can_resume(Hello(session="s", received=3))
    assert not a.can_resume(Hello(session="s", received=4))
    assert not a.can_resume(Hello(session="t", received=3))
    with pytest.raises(LinkError, match="hello says 2 received, batches kept up to 3"):
        a.attach(Hello(session="s", received=2))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (wire.Frame(wire.BATCH, 2, 0, b"\x90"), "batch 2 after 0"),
        (wire.Frame(wire.BATCH, 1, 0, b"\xc1"), "malformed batch"),
        (wire.Frame(wire.BATCH, 1, 0, b"\x91\x01"), "malformed batch"),
        (wire.Frame(wire.BATCH, 1, 0, b"\x91" * 5000), "malformed batch"),
        (wire.Frame(wire.ACK, 0, 1, b""), "batch 1 acknowledged, last sent is 0"),
        (wire.Frame(wire.HELLO, 0, 0, b""), "out of place"),
        (wire.Frame(99, 0, 0, b""), "frame of kind 99"),
    ],
)
def test_a_broken_peer_is_refused(frame: wire.Frame, reason: str) -> None:
    _, b = pair()
    with pytest.raises(LinkError, match=reason):
        b.receive(frame)


def test_nothing_is_taken_before_hello() -> None:
    with pytest.raises(LinkError, match="before HELLO"):
        end().receive(wire.Frame(wire.ACK, 0, 0, b""))


@pytest.mark.parametrize(
    "hello",
    [
        Hello(oldest=2, newest=3, session="s"),
        Hello(session=""),
        Hello(session="x" * 65),
        Hello(session="s", received=-1),
        Hello(session="s", credit=0),
    ],
)
def test_a_hello_out_of_range_is_refused(hello: Hello) -> None:
    frame = frames(encode_frame(wire.HELLO, body=msgspec.msgpack.encode(hello)))[0]
    with pytest.raises(LinkError):
        decode_hello(frame)


def test_a_credit_that_is_ignored_ends_the_connection() -> None:
    a, b = pair(window_bytes=1000, auto_acknowledge=False)
    body = b"\x91" + encode_message(Put(1, b"x" * 1_000_000))
    for seq in range(1, 6):
        b.receive(wire.Frame(wire.BATCH, seq, 0, body))
    with pytest.raises(LinkError, match="over a credit of 1000"):
        b.receive(wire.Frame(wire.BATCH, 6, 0, body))
    assert a.is_open


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_arbitrary_bytes_are_frames_or_a_link_error(data: bytes, cuts: list[int]) -> None:
    _, b = pair()
    reader = FrameReader()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    with contextlib.suppress(LinkError):
        for start, stop in zip(edges, edges[1:], strict=False):  # noqa: RUF007 - pairs of cuts
            for frame in reader.feed(data[start:stop]):
                b.receive(frame)


@given(
    st.lists(st.binary(max_size=30), min_size=1, max_size=10),
    st.lists(st.integers(0, 10**6), max_size=10),
)
def test_frames_survive_being_split_at_any_byte(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(encode_frame(wire.BATCH, n, 0, body) for n, body in enumerate(bodies))
    reader = FrameReader()
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    got = []
    for start, stop in zip(edges, edges[1:], strict=False):  # noqa: RUF007 - pairs of cuts
        got += reader.feed(data[start:stop])
    assert [frame.body for frame in got] == bodies


@pytest.mark.parametrize("length", [0, 16, wire.MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_wrong_length_is_refused_before_the_rest_arrives(length: int) -> None:
    with pytest.raises(LinkError, match=f"frame of {length} bytes"):
        FrameReader().feed(length.to_bytes(4, "big"))


@dataclass
class Side:
    """One end in a script: what it has sent and got, and bytes on the way to it."""

    link: End
    sent: int = 0
    got: list[int] = field(default_factory=list)
    inbox: bytes = b""
    reader: FrameReader = field(default_factory=FrameReader)


@settings(max_examples=150)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from("sSfFdDcka"), min_size=5, max_size=120),
    st.sampled_from([300, 5000]),
)
def test_nothing_is_lost_or_doubled_over_cuts(seed: int, script: list[str], window: int) -> None:
    """s/S: send; f/F: flush; d/D: deliver some bytes; c: cut; k: connect; a: acknowledge."""
    rng = random.Random(seed)
    a, b = Side(end(window_bytes=window)), Side(end(window_bytes=window))
    connect(a.link, b.link, b_knows=False)
    connected = True

    def flush(side: Side, other: Side, now: bool = False) -> None:
        other.inbox += side.link.bytes_to_send(acknowledge_now=now)

    def deliver(side: Side, count: int) -> None:
        data, side.inbox = side.inbox[:count], side.inbox[count:]
        for frame in side.reader.feed(data):
            side.got += [message.n for message in side.link.receive(frame)]

    def reconnect() -> None:
        for side in (a, b):
            side.link.detach()
            side.inbox, side.reader = b"", FrameReader()
        connect(a.link, b.link)

    for step in [*script, "k"]:
        side, other = (a, b) if step.islower() else (b, a)
        match step.lower():
            case "s":
                side.link.send(Put(side.sent, b"x" * rng.randrange(200)))
                side.sent += 1
            case "f" if connected:
                flush(side, other)
            case "d" if connected:
                deliver(side, rng.randrange(400))
            case "c":
                a.link.detach()
                b.link.detach()
                connected = False
            case "k":
                reconnect()
                connected = True
            case "a" if connected:
                flush(a, b, True)
                flush(b, a, True)
        for checked, peer in ((a, b), (b, a)):
            assert checked.got == list(range(len(checked.got)))
            assert len(checked.got) <= peer.sent
    for _ in range(200):
        for side, other in ((a, b), (b, a)):
            flush(side, other, True)
            deliver(other, len(other.inbox))
    assert (len(a.got), len(b.got)) == (b.sent, a.sent)
    assert a.link.outstanding_bytes == b.link.outstanding_bytes == 0
