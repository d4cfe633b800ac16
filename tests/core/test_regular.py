"""Linear-time regular expressions against Python's own."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_core.regular import MAX_TEXT, Pattern, PatternError

atoms = st.sampled_from(
    [
        "a",
        "b",
        "c",
        ".",
        "[ab]",
        "[^a]",
        "[a-c]",
        r"\d",
        r"\w",
        r"\s",
        r"\.",
        "",
        "^",
        "$",
        r"[\d-]",
    ]
)
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda p: f"(?:{p[0]}|{p[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])).map(
            lambda p: f"({p[0]}){p[1]}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(patterns, st.text("abc1 .-", max_size=8))
def test_matches_like_the_backtracking_engine(pattern: str, text: str) -> None:
    assert Pattern(pattern).matches(text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("rack-[0-9]+", "rack-12", True),
        ("rack-[0-9]+", "rack-12x", False),
        ("(?i)RACK", "rack", True),
        ("(?s).+", "a\nb", True),
        (".+", "a\nb", False),
        ("a|b|cd", "cd", True),
        ("(?P<zone>eu|us)-1", "us-1", True),
        ("", "", True),
        ("", "a", False),
        ("x*", "y" * 9, False),
        ("ü+", "üü", True),
        (".*", "a" * (MAX_TEXT + 1), False),
    ],
)
def test_table(pattern: str, text: str, expected: bool) -> None:
    assert Pattern(pattern).matches(text) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        "(", "[a", "*a", "a{3,2}", r"(a)\1", "(?=a)b", "(?<!a)b", r"\bword\b", "(?m)^a$",
        "(?i:a)b", "a{5000}", "(a{100}){100}", "((((a{9}){9}){9}){9}){9}", "a" * 2000,
        "(" * 1000, "(?>a)b", "a++",
    ],
)  # fmt: skip
def test_what_is_malformed_irregular_or_large_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern(pattern)
    assert caught.value.pattern == pattern
    assert len(str(caught.value)) < 500


def test_nested_repetition_takes_linear_time() -> None:
    assert not Pattern("(a+)+b").matches("a" * MAX_TEXT)
    assert not Pattern("(a|a)*(a|aa)*b").matches("a" * MAX_TEXT)
