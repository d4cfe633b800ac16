"""Regular expressions that match in time linear in the text, for patterns of others.

Python's `re` can take exponential time on a pattern of a framework, which would stop the master.
This is the usual set-of-states simulation over the part of RE2's syntax that constraints use:
literals, `.`, classes, escapes (`\\d \\w \\s \\D \\W \\S` and punctuation), groups, `|`, and the
repetitions `* + ? {m} {m,} {m,n}`. A match is of the whole text; `^` and `$` at the ends change
nothing. Case matters. What is not understood is refused, never guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from cairn_core.errors import RemoteError

#: The original limits RE2 to a program of 100 instructions; ours are smaller steps.
MAX_STATES = 1000
MAX_PATTERN = 1024
MAX_REPEAT = 100
#: Longer texts do not match; attributes are short.
MAX_TEXT = 4096

_Test: TypeAlias = Callable[[str], bool]

_CLASSES: dict[str, _Test] = {
    "d": lambda c: c in "0123456789",
    "D": lambda c: c not in "0123456789",
    "w": lambda c: c == "_" or (c.isascii() and c.isalnum()),
    "W": lambda c: not (c == "_" or (c.isascii() and c.isalnum())),
    "s": lambda c: c in "\t\n\f\r ",
    "S": lambda c: c not in "\t\n\f\r ",
}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}


class RegexError(RemoteError):
    """The pattern is malformed, too large, or uses what is not supported."""


@dataclass(frozen=True, slots=True)
class _Char:
    test: _Test


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    branches: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: "_Node"
    least: int
    most: int | None


_Node: TypeAlias = _Char | _Sequence | _Choice | _Repeat


class _Parser:
    """Recursive descent over the pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def fail(self, why: str) -> RegexError:
        return RegexError(f"regex {self.text[:80]!r} at {self.at}: {why}")

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise self.fail("ends too early")
        self.at += 1
        return char

    def choice(self) -> _Node:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else _Choice(tuple(branches))

    def sequence(self) -> _Node:
        parts = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated())
        return _Sequence(tuple(parts))

    def repeated(self) -> _Node:
        node = self.atom()
        char = self.peek()
        if char not in ("*", "+", "?", "{") or not char:
            return node
        if char == "{":
            least, most = self.bounds()
        else:
            self.at += 1
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        if self.peek() == "?":
            self.at += 1  # greedy or not is the same for a match of the whole
        if self.peek() in ("*", "+", "?", "{") and self.peek():
            raise self.fail("repetition of a repetition")
        return _Repeat(node, least, most)

    def bounds(self) -> tuple[int, int | None]:
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not (low.isascii() and low.isdigit()) or not (high == "" or high.isdigit()):
            raise self.fail("malformed repetition")
        self.at = end + 1
        least = int(low)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
            raise self.fail(f"repetition is not between 0 and {MAX_REPEAT}")
        return least, most

    def atom(self) -> _Node:
        char = self.take()
        if char == "(":
            return self.group()
        if char == "[":
            return _Char(self.char_class())
        if char == ".":
            return _Char(lambda c: c != "\n")
        if char == "\\":
            return _Char(self.escape())
        if char == "^" and self.at == 1:
            return _Sequence(())
        if char == "$" and self.at == len(self.text):
            return _Sequence(())
        if char in "*+?{^$":
            raise self.fail(f"{char!r} is not expected here")
        return _Char(lambda c: c == char)

    def group(self) -> _Node:
        self.depth += 1
        if self.depth > 30:
            raise self.fail("groups are nested too deep")
        if self.peek() == "?":
            if self.text[self.at : self.at + 2] != "?:":
                raise self.fail("only plain and (?: groups are supported")
            self.at += 2
        node = self.choice()
        if self.peek() != ")":
            raise self.fail("')' is missing")
        self.at += 1
        self.depth -= 1
        return node

    def escape(self) -> _Test:
        char = self.take()
        if char in _CLASSES:
            return _CLASSES[char]
        literal = _CONTROL.get(char, char)
        if literal == char and (char.isalnum() or not char.isascii()):
            raise self.fail(f"escape \\{char} is not supported")
        return lambda c: c == literal

    def char_class(self) -> _Test:
        negated = self.peek() == "^"
        if negated:
            self.at += 1
        tests: list[_Test] = []
        first = True
        while first or self.peek() != "]":
            first = False
            tests.append(self.class_item())
        self.at += 1
        return lambda c: any(test(c) for test in tests) is not negated

    def class_item(self) -> _Test:
        char = self.take()
        if char == "[" and self.peek() == ":":
            raise self.fail("named classes are not supported")
        if char == "\\":
            escaped = self.escape()
            if self.text[self.at - 1] in _CLASSES:
                return escaped
            char = _CONTROL.get(self.text[self.at - 1], self.text[self.at - 1])
        if self.peek() != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return lambda c: c == char
        self.at += 1
        last = self.take()
        if last == "\\":
            last = self.take()
        if last < char:
            raise self.fail(f"range {char}-{last} is empty")
        return lambda c: char <= c <= last


@dataclass(slots=True)
class _Program:
    """A non-deterministic automaton: per state a test with its successor, or free moves."""

    tests: list[_Test | None] = field(default_factory=list)
    moves: list[tuple[int, ...]] = field(default_factory=list)

    def state(self, test: _Test | None, moves: tuple[int, ...]) -> int:
        if len(self.tests) >= MAX_STATES:
            raise RegexError(f"regex needs more than {MAX_STATES} states")
        self.tests.append(test)
        self.moves.append(moves)
        return len(self.tests) - 1

    def build(self, node: _Node, then: int) -> int:
        """The state from which `node` and then `then` is matched."""
        match node:
            case _Char(test):
                return self.state(test, (then,))
            case _Sequence(parts):
                for part in reversed(parts):
                    then = self.build(part, then)
                return then
            case _Choice(branches):
                return self.state(None, tuple(self.build(branch, then) for branch in branches))
            case _Repeat(part, least, most):
                if most is None:
                    loop = self.state(None, (then,))
                    self.moves[loop] = (self.build(part, loop), then)
                    then = loop
                else:
                    end = then
                    for _ in range(most - least):
                        then = self.state(None, (self.build(part, then), end))
                for _ in range(least):
                    then = self.build(part, then)
                return then


class Pattern:
    """A pattern, compiled; raises RegexError."""

    def __init__(self, regex: str) -> None:
        if len(regex) > MAX_PATTERN:
            raise RegexError(f"regex has {len(regex)} characters, limit {MAX_PATTERN}")
        parser = _Parser(regex)
        tree = parser.choice()
        if parser.at != len(regex):
            raise parser.fail("')' is not expected here")
        self._program = _Program()
        self._end = self._program.state(None, ())
        self._start = self._program.build(tree, self._end)

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        if len(text) > MAX_TEXT:
            return False
        tests, moves = self._program.tests, self._program.moves
        states = self._reach([self._start])
        for char in text:
            states = self._reach(
                [
                    moves[state][0]
                    for state in states
                    if (test := tests[state]) is not None and test(char)
                ]
            )
            if not states:
                return False
        return self._end in states

    def _reach(self, states: list[int]) -> set[int]:
        """These states and those that free moves lead to."""
        tests, moves = self._program.tests, self._program.moves
        seen: set[int] = set()
        while states:
            state = states.pop()
            if state not in seen:
                seen.add(state)
                if tests[state] is None:
                    states.extend(moves[state])
        return seen
