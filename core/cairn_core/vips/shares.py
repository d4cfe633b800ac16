"""How much of something that there is for all one framework may have."""

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from cairn_core.errors import shorten

T = TypeVar("T", bound=Hashable)

#: Of whom it is not known who has it, for example after a change of masters.
NOBODY = ""


class Shares(Generic[T]):
    """Who has what.

    most: things that there may be. share: those of one owner; and the last quarter of all is for
    owners that have less than a quarter of a share, so that a few cannot keep out everybody else.
    what: the things, for people.
    """

    def __init__(self, most: int, share: int, what: str) -> None:
        self._most, self._share, self._what = most, share, what
        self._owners: dict[T, str] = {}
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[T]:
        return iter(self._owners)

    def room(self, owner: str) -> int:
        """How many things more an owner may have; after so many there may be room again."""
        held, free = self._held.get(owner, 0), self._most - len(self._owners)
        room = min(self._share - held, free - self._most // 4)
        return max(room, min(max(self._share // 4, 1) - held, free), 0)

    def why_full(self, owner: str) -> str:
        """Why an owner has no room; for one that has none."""
        if len(self._owners) >= self._most:
            return f"there are {self._most} {self._what} already"
        held = self._held.get(owner, 0)
        return f"framework {shorten(owner, 80)!r} has {held} {self._what} already"

    def take(self, thing: T, owner: str) -> None:
        """Somebody has a thing now; who had it before has it no longer."""
        self.give_back(thing)
        self._owners[thing] = owner
        self._held[owner] += 1

    def claim(self, thing: T, owner: str) -> None:
        """Somebody uses a thing of which nobody knew who has it; nothing for other things."""
        if self._owners.get(thing) == NOBODY:
            self.take(thing, owner)

    def give_back(self, thing: T) -> bool:
        """Nobody has a thing any more; whether somebody had."""
        owner = self._owners.pop(thing, None)
        if owner is None:
            return False
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        return True
