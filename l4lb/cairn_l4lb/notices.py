"""What is logged of labels that are wrong and of backends that close: one line when it comes, one
when it goes, and not more than a few a minute."""

from collections import deque
from collections.abc import Iterable

from .model import BackendKey, endpoint

#: Lines in a minute; what is more is counted.
MAX_LINES = 10
PERIOD_S = 60.0


class Notices:
    """Compares with what it saw last; all `now` are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._problems: frozenset[tuple[str, str]] = frozenset()
        self._closed: frozenset[BackendKey] = frozenset()
        self._told: deque[float] = deque()
        self._untold = 0

    def look(
        self, problems: Iterable[tuple[str, str]], closed: Iterable[BackendKey], now: float
    ) -> list[str]:
        """Lines to log.  problems: whose it is, and the reason.  closed: backends."""
        last, self._problems = self._problems, frozenset(problems)
        before, self._closed = self._closed, frozenset(closed)
        lines = [
            f"not served as asked for of={who} reason={reason}"
            for who, reason in sorted(self._problems - last)
        ]
        lines += [
            f"put right of={who} reason={reason}" for who, reason in sorted(last - self._problems)
        ]
        lines += [
            f"backend closed after failures backend={_text(one)}"
            for one in sorted(self._closed - before)
        ]
        lines += [
            f"backend open again backend={_text(one)}" for one in sorted(before - self._closed)
        ]
        return self._bounded(lines, now)

    def _bounded(self, lines: list[str], now: float) -> list[str]:
        while self._told and now - self._told[0] >= PERIOD_S:
            self._told.popleft()
        room = max(0, MAX_LINES - len(self._told))
        told = lines[:room]
        if told and self._untold:
            told.append(f"of labels and backends there was more, not logged count={self._untold}")
            self._untold = 0
        self._untold += len(lines) - len(lines[:room])
        self._told.extend(now for _ in told)
        return told


def _text(key: BackendKey) -> str:
    protocol, address, port = key
    return f"{protocol}/{endpoint(address, port)}"
