"""Regular expressions in linear time, for patterns that strangers send us.

Python's `re` backtracks: `(a+)+b` on thirty letters takes minutes, and a scheduler that sends it
would stop the master. Here a pattern becomes a small automaton whose states are followed side by
side, so that a match costs at most (length of text) x (size of program), like in RE2. What an
automaton cannot do (back references, look-around) is refused, as RE2 does. The syntax is read by
the parser of Python's own `re`.
"""

import re
import re._constants as sre  # type: ignore[import-not-found]  # typeshed has it as sre_constants
import re._parser as sre_parser  # type: ignore[import-not-found]  # likewise sre_parse
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from cairn_core.errors import RemoteError, shorten

#: Longest pattern, in characters.
MAX_PATTERN = 1024
#: Most states of a program; a letter takes one, repeated letters two each.
MAX_PROGRAM = 1000
#: Longest text that is matched; a longer one never matches.
MAX_TEXT = 4096

CharTest: TypeAlias = Callable[[str], bool]

_CATEGORIES: dict[Any, CharTest] = {
    sre.CATEGORY_DIGIT: lambda c: unicodedata.category(c) == "Nd",
    sre.CATEGORY_NOT_DIGIT: lambda c: unicodedata.category(c) != "Nd",
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    sre.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    sre.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}


class PatternError(RemoteError):
    """A pattern that cannot be used. pattern: as it was given."""

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(f"regex {shorten(pattern)!r} {reason}")
        self.pattern = pattern


class Pattern:
    """A compiled pattern.

    Program: `_tests[i]` is the test on a letter that leads from state i to `_next[i][0]`, or
    None where all of `_next[i]` follow without a letter. The last state accepts.
    `_at[i]`: condition on the position ("start", "end") for passing state i, or None.
    """

    def __init__(self, pattern: str) -> None:
        """Raises PatternError for what is malformed, not regular, or too large."""
        if len(pattern) > MAX_PATTERN:
            raise PatternError(pattern, f"is longer than {MAX_PATTERN} characters")
        self._pattern = pattern
        self._tests: list[CharTest | None] = []
        self._next: list[list[int]] = []
        self._at: list[str | None] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parsed = sre_parser.parse(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(pattern, f"is malformed: {error}") from None
        self._flags = parsed.state.flags
        if self._flags & (re.MULTILINE | re.VERBOSE | re.LOCALE | re.ASCII):
            raise PatternError(pattern, "has a flag other than i, s or u")
        start = self._state()
        try:
            self._accept = self._sequence(parsed, start)
        except RecursionError:
            raise PatternError(pattern, "is nested too deeply") from None
        self._start = self._closure({start}, at_start=True, at_end=False)

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        if len(text) > MAX_TEXT:
            return False
        if not text:
            return self._accept in self._closure({0}, at_start=True, at_end=True)
        states = self._start
        last = len(text) - 1
        for at, letter in enumerate(text):
            following = set()
            for state in states:
                test = self._tests[state]
                if test is not None and test(letter):
                    following.add(self._next[state][0])
            if not following:
                return False
            states = self._closure(following, at_start=False, at_end=at == last)
        return self._accept in states

    def _closure(self, states: set[int], *, at_start: bool, at_end: bool) -> set[int]:
        """All states reached without reading a letter."""
        seen: set[int] = set()
        todo = list(states)
        while todo:
            state = todo.pop()
            if state in seen:
                continue
            seen.add(state)
            condition = self._at[state]
            if (condition == "start" and not at_start) or (condition == "end" and not at_end):
                continue
            if self._tests[state] is None:
                todo.extend(self._next[state])
        return seen

    # Building the program

    def _state(self) -> int:
        if len(self._tests) >= MAX_PROGRAM:
            raise PatternError(self._pattern, f"needs more than {MAX_PROGRAM} states")
        self._tests.append(None)
        self._next.append([])
        self._at.append(None)
        return len(self._tests) - 1

    def _letter(self, state: int, test: CharTest) -> int:
        """Read one letter."""
        if self._flags & re.IGNORECASE:
            plain = test

            def test(c: str) -> bool:
                return plain(c) or plain(c.lower()) or plain(c.upper())

        end = self._state()
        self._tests[state] = test
        self._next[state].append(end)
        return end

    def _sequence(self, items: Sequence[Any], state: int) -> int:
        for op, argument in items:
            state = self._item(op, argument, state)
        return state

    def _item(self, op: Any, argument: Any, state: int) -> int:
        """Add one item of a parsed pattern behind a state; the state behind it."""
        if op is sre.LITERAL:
            return self._letter(state, lambda c, o=argument: ord(c) == o)  # type: ignore[misc]  # binds now
        if op is sre.NOT_LITERAL:
            return self._letter(state, lambda c, o=argument: ord(c) != o)  # type: ignore[misc]  # binds now
        if op is sre.ANY:
            dot_all = bool(self._flags & re.DOTALL)
            return self._letter(state, lambda c: dot_all or c != "\n")
        if op is sre.IN:
            return self._letter(state, self._class(argument))
        if op is sre.BRANCH:
            end = self._state()
            for branch in argument[1]:
                begin = self._state()
                self._next[state].append(begin)
                self._next[self._sequence(branch, begin)].append(end)
            return end
        if op is sre.SUBPATTERN:
            _, add_flags, del_flags, body = argument
            if add_flags or del_flags:
                raise PatternError(self._pattern, "changes flags inside a group")
            return self._sequence(body, state)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            return self._repeat(argument, state)
        if op is sre.AT:
            return self._position(argument, state)
        raise PatternError(self._pattern, f"uses {str(op).lower()}, which is not regular")

    def _repeat(self, argument: Any, state: int) -> int:
        least, most, body = argument
        for _ in range(least):
            state = self._sequence(body, self._after(state))
        if most is sre.MAXREPEAT:
            loop = self._after(state)
            begin = self._after(loop)
            self._next[self._sequence(body, begin)].append(loop)
            return self._after(loop)
        end = self._state()
        for _ in range(most - least):
            self._next[state].append(end)
            state = self._sequence(body, self._after(state))
        self._next[state].append(end)
        return end

    def _after(self, state: int) -> int:
        """A new state that follows without a letter."""
        fresh = self._state()
        self._next[state].append(fresh)
        return fresh

    def _position(self, argument: Any, state: int) -> int:
        if argument in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
            condition = "start"
        elif argument in (sre.AT_END, sre.AT_END_STRING):
            condition = "end"
        else:
            raise PatternError(self._pattern, "uses a word boundary, which is not supported")
        gate = self._after(state)
        self._at[gate] = condition
        return self._after(gate)

    def _class(self, items: Sequence[Any]) -> CharTest:
        """A test for `[...]`."""
        negate = bool(items) and items[0][0] is sre.NEGATE
        tests: list[CharTest] = []
        for op, argument in items[1:] if negate else items:
            if op is sre.LITERAL:
                tests.append(lambda c, o=argument: ord(c) == o)  # type: ignore[misc]  # binds now
            elif op is sre.RANGE:
                tests.append(lambda c, r=argument: r[0] <= ord(c) <= r[1])  # type: ignore[misc]  # binds now
            else:
                tests.append(_CATEGORIES[argument])
        return lambda c: any(test(c) for test in tests) != negate
