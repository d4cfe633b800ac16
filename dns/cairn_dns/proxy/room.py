"""How many questions may be under way, so that one kind of server cannot take it all.  No I/O."""

from .routes import Kind

#: Names of others, which say nothing of how the cluster does.
_OUTSIDE = frozenset({Kind.ZONE, Kind.UPSTREAM})


class Room:
    """Places for questions under way.

    Invariant: neither names of others (UPSTREAM, ZONE) nor all the rest have more than three
    quarters of `limit`, so that a quarter is left to the one while nobody answers for the other.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = {True: 0, False: 0}

    def __len__(self) -> int:
        return sum(self._taken.values())

    def take(self, kind: Kind) -> bool:
        """Take a place for a question of this kind; False when there is none."""
        outside = kind in _OUTSIDE
        if len(self) >= self.limit or self._taken[outside] >= max(self.limit * 3 // 4, 1):
            return False
        self._taken[outside] += 1
        return True

    def leave(self, kind: Kind) -> None:
        """Give a place back."""
        self._taken[kind in _OUTSIDE] -= 1
