"""Strangers get so many answers; trusted clients any number."""

import struct

import dns.flags
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dns.networks import MAX_REMEMBERED, Networks
from cairn_dns.rate import DROP, MAX_NETWORKS, PASS, SLIP, Limiter, slip


def verdicts(limiter: Limiter, source: bytes, count: int, now: float = 5.0) -> list[int]:
    return [limiter.verdict(source, now) for _ in range(count)]


def test_every_second_answer_beyond_the_limit_slips() -> None:
    found = verdicts(Limiter(3, []), bytes([8, 8, 8, 8]), 7)
    assert found == [PASS, PASS, PASS, DROP, SLIP, DROP, SLIP]


def test_a_network_is_one_client() -> None:
    limiter = Limiter(2, [])
    assert verdicts(limiter, bytes([8, 8, 8, 1]), 2) == [PASS, PASS]
    assert verdicts(limiter, bytes([8, 8, 8, 2]), 1) == [DROP]
    assert verdicts(limiter, bytes([8, 8, 9, 2]), 1) == [PASS]
    six = bytes.fromhex("20010db8000000") + bytes(9)
    assert verdicts(limiter, six, 2) == [PASS, PASS]
    assert verdicts(limiter, six[:15] + b"\1", 1) == [DROP]
    assert verdicts(limiter, bytes.fromhex("20010db8000001") + bytes(9), 1) == [PASS]


def test_the_next_second_is_another_one() -> None:
    limiter = Limiter(1, [])
    source = bytes([8, 8, 8, 8])
    assert verdicts(limiter, source, 2, now=5.9) == [PASS, DROP]
    assert verdicts(limiter, source, 1, now=6.0) == [PASS]


@pytest.mark.parametrize(
    "source", [bytes([127, 0, 0, 1]), bytes([10, 1, 2, 3]), bytes(15) + b"\1", b"\xfd" + bytes(15)]
)
def test_trusted_clients_have_no_limit(source: bytes) -> None:
    limiter = Limiter(1, ["10.0.0.0/8", "fd00::/8"])
    assert set(verdicts(limiter, source, 100)) == {PASS}


def test_no_limit_is_none() -> None:
    assert set(verdicts(Limiter(0, []), bytes([8, 8, 8, 8]), 100)) == {PASS}


def test_memory_is_bounded() -> None:
    limiter = Limiter(1, [])
    for number in range(MAX_NETWORKS * 2):
        limiter.verdict(struct.pack("!I", 0x20000000 + number * 256), 5.0)
    assert len(limiter._counts) <= MAX_NETWORKS
    # a crowd frees nobody of his count
    flooded = bytes([32, 0, 0, 1])
    assert verdicts(limiter, flooded, 5)[-2:] in ([DROP, SLIP], [SLIP, DROP])
    networks = Networks(["10.0.0.0/8"])
    for number in range(MAX_REMEMBERED + 100):
        assert struct.pack("!I", 0x20000000 + number) not in networks
    assert len(networks.known) <= MAX_REMEMBERED


def test_a_slip_asks_to_come_back_over_tcp() -> None:
    query = dns.message.make_query("web.mesos", "A")
    reply = slip(query.to_wire())
    assert reply is not None
    message = dns.message.from_wire(reply, raise_on_truncation=False)
    assert query.is_response(message)
    assert message.flags & dns.flags.TC
    assert not message.answer


@given(st.binary(max_size=60))
def test_a_slip_is_never_larger_than_its_query(query: bytes) -> None:
    reply = slip(query)
    if reply is not None:
        assert len(reply) <= len(query)
        assert reply[:2] == query[:2]
        assert reply[2] & 0x82 == 0x82


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        (bytes([10, 1, 2, 3]), True),
        ("11.0.0.0", False),
        ("::ffff:10.1.2.3", True),
        (bytes(10) + b"\xff\xff" + bytes([10, 1, 2, 3]), True),
        ("fe80::1%eth0", True),
        ("fe80::1", True),
        ("::1", False),
        ("nonsense", False),
        ("", False),
        (b"abc", False),
    ],
)
def test_networks_know_their_addresses(address: str | bytes, expected: bool) -> None:
    networks = Networks(["10.9.9.9/8", "fe80::/10"])
    assert [address in networks for _ in range(2)] == [expected] * 2


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0"):
        Networks(["10.0.0"])
