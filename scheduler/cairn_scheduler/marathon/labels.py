"""Label selectors of `GET /v2/apps?label=`: terms joined by commas, all of which must hold.

    term      = key | key op value | key set
    op        = "==" | "!="
    set       = ("in" | "notin") "(" value { "," value } ")"
    key,value = one or more of [-A-Za-z0-9_.], any other character after a backslash

A bare key asks that the label exists. With `!=` and `notin`, too, the key must exist. Source: the
released Marathon's label selector grammar.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cairn_scheduler.marathon.errors import IllegalArgument

MAX_LENGTH = 4096
_WORD = re.compile(r"(?:[-A-Za-z0-9_.]|\\.)+")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. values: None asks only that the key is there."""

    key: str
    values: frozenset[str] | None = None
    negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an app with these labels meets it."""
        value = labels.get(self.key)
        if value is None:
            return False
        return self.values is None or (value in self.values) != self.negated


@dataclass(slots=True)
class _Cursor:
    """A place in the text."""

    text: str
    at: int = 0

    def space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match is not None else self.at

    def take(self, literal: str) -> bool:
        self.space()
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    def word(self) -> str:
        self.space()
        match = _WORD.match(self.text, self.at)
        if match is None:
            raise IllegalArgument(
                f"Can not parse label selector {self.text[:64]!r}: a word is expected at "
                f"position {self.at + 1}"
            )
        self.at = match.end()
        return re.sub(r"\\(.)", r"\1", match[0])

    def ends(self) -> bool:
        self.space()
        return self.at >= len(self.text)


def parse(text: str) -> tuple[Term, ...]:
    """Read a selector. Raises IllegalArgument."""
    if len(text) > MAX_LENGTH:
        raise IllegalArgument(f"Can not parse label selector: longer than {MAX_LENGTH} characters")
    cursor = _Cursor(text)
    terms = [_term(cursor)]
    while cursor.take(","):
        terms.append(_term(cursor))
    if not cursor.ends():
        raise IllegalArgument(
            f"Can not parse label selector {text[:64]!r}: a comma or the end is expected at "
            f"position {cursor.at + 1}"
        )
    return tuple(terms)


def selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """A selector as a predicate on labels. Raises IllegalArgument."""
    terms = parse(text)
    return lambda labels: all(term.matches(labels) for term in terms)


def _term(cursor: _Cursor) -> Term:
    key = cursor.word()
    if cursor.take("=="):
        return Term(key, frozenset({cursor.word()}))
    if cursor.take("!="):
        return Term(key, frozenset({cursor.word()}), negated=True)
    for keyword, negated in (("notin", True), ("in", False)):
        if cursor.take(keyword):
            return Term(key, _values(cursor), negated)
    return Term(key)


def _values(cursor: _Cursor) -> frozenset[str]:
    if not cursor.take("("):
        raise IllegalArgument(
            f"Can not parse label selector {cursor.text[:64]!r}: '(' is expected at position "
            f"{cursor.at + 1}"
        )
    values = [cursor.word()]
    while cursor.take(","):
        values.append(cursor.word())
    if not cursor.take(")"):
        raise IllegalArgument(
            f"Can not parse label selector {cursor.text[:64]!r}: ')' is expected at position "
            f"{cursor.at + 1}"
        )
    return frozenset(values)
