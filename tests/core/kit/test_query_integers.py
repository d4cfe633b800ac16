"""Integers in queries: whole, at most 64 bits, refused by name otherwise."""

import pytest

from cairn_core.kit.http_types import Refused, Request


def asked(text: str) -> int | None:
    return Request.make("GET", f"/x?n={text}").integer("n", 7)


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 7), ("0", 0), ("-12", -12), ("1795252045162043960", 1795252045162043960)],
    ids=["missing", "zero", "negative", "nanoseconds since 1970"],
)
def test_integers_are_read(text: str, value: int) -> None:
    assert asked(text) == value


@pytest.mark.parametrize(
    "text", ["x", "1.5", "9223372036854775808", "1" * 400, "%D9%A1"],
    ids=["word", "fraction", "65 bits", "endless", "digit of another script"],
)  # fmt: skip
def test_what_is_no_such_integer_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refused, match="query parameter n: not an integer"):
        asked(text)
