"""Which names exist because there are names below them (empty non-terminals, RFC 8020).

A tree of names by counting: of each name it is known how many names are right below it.  A name
that appears or goes costs its labels at most, and mostly one look-up.
"""

from collections.abc import Iterable


class NameTree:
    """Names with records, below the apexes of zones.

    Invariant: `_below` says of exactly those names that have any, how many names are right below;
    a name counts there when it has records, or is in `_below` itself.  Apexes always exist, and
    are not in it.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._below: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a name was added and not removed."""
        return name in self._known

    def ancestors(self) -> Iterable[str]:
        """Names that have others below them."""
        return self._below.keys()

    def add(self, name: str, apex: str) -> list[str]:
        """A name of the zone `apex` has records now.  Returns names that are ancestors now."""
        if name in self._known:
            return []
        self._known.add(name)
        at, found = name, list[str]()
        exists = name in self._below
        while not exists and (parent := _parent(at, apex)):
            count = self._below[parent] = self._below.get(parent, 0) + 1
            if count == 1:
                found.append(parent)
            exists = count > 1 or parent in self._known
            at = parent
        return found

    def remove(self, name: str, apex: str) -> list[str]:
        """A name has no records any more.  Returns names that are no ancestors any more."""
        if name not in self._known:
            return []
        self._known.discard(name)
        at, found = name, list[str]()
        exists = name in self._below
        while not exists and (parent := _parent(at, apex)):
            self._below[parent] -= 1
            exists = self._below[parent] > 0 or parent in self._known
            if not self._below[parent]:
                del self._below[parent]
                found.append(parent)
            at = parent
        return found


def _parent(name: str, apex: str) -> str:
    """The name above, or nothing for the apex and what is right below it."""
    parent = name.partition(".")[2] if name != apex else ""
    return parent if parent != apex else ""
