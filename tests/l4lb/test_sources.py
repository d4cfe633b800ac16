"""The source address of a connection whose entry we make."""

import pytest

from cairn_l4lb.sources import new_source

HOST, CONTAINER, REMOTE, PREFERRED = b"\x0a\0\0\1", b"\x0a\1\0\2", b"\x0a\0\0\2", b"\x0a\0\0\1"
HOST6, REMOTE6 = bytes(15) + b"\5", bytes(15) + b"\6"


@pytest.mark.parametrize(
    ("client", "backend", "expected"),
    [
        (HOST, HOST, b"\x7f\0\0\1"),
        (CONTAINER, HOST, CONTAINER),
        (HOST, REMOTE, PREFERRED),
        (CONTAINER, REMOTE, PREFERRED),
        (HOST6, HOST6, bytes(15) + b"\1"),
    ],
)
def test_the_table_of_the_original(client: bytes, backend: bytes, expected: bytes) -> None:
    assert new_source(client, backend, {HOST, HOST6}, {REMOTE: PREFERRED}.get) == expected


def test_an_unknown_route_is_no_source() -> None:
    assert new_source(HOST, REMOTE6, {HOST}, lambda _: None) is None
