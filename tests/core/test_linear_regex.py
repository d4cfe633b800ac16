"""Matching in linear time, compared with Python's own matcher."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_core.linear_regex import Pattern, RegexError

atoms = st.sampled_from(
    ["a", "b", ".", r"\.", r"\d", r"\w", "[ab]", "[^a]", "[0-9-]", "(a|b)", "(?:ab)", "é"]
)
repeats = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])
patterns = st.lists(st.tuples(atoms, repeats), max_size=5).map(
    lambda parts: "".join(atom + repeat for atom, repeat in parts)
)


@given(pattern=patterns, other=patterns, text=st.text("ab0.é-", max_size=8))
def test_it_matches_what_python_matches(pattern: str, other: str, text: str) -> None:
    both = f"{pattern}|{other}"
    expected = re.fullmatch(both, text, re.ASCII) is not None
    assert Pattern(both).matches(text) == expected


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a)", "[", "[a", "*", "a**", "a{1001}", "a{2,1}", "a{x}", r"\b", "(?=a)", "a^b",
     "[[:alpha:]]", "\\", "a$b", "(" * 40, "(a{90}){90}", "x" * 2000, "[z-a]"],
)  # fmt: skip
def test_what_is_not_understood_is_refused(pattern: str) -> None:
    with pytest.raises(RegexError):
        Pattern(pattern)


def test_anchors_at_the_ends_change_nothing() -> None:
    assert Pattern("^ab$").matches("ab")
    assert not Pattern("^ab$").matches("abc")


def test_patterns_that_ruin_others_take_linear_time() -> None:
    began = time.perf_counter()
    assert not Pattern("(a+)+(a|a)*b").matches("a" * 4000)
    assert time.perf_counter() - began < 2.0
