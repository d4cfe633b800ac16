"""A multiset of records that knows which names have changed.

Several tasks may give the same record; it stays until the last of them has gone.  So each change
costs what it touches, however large the zone is.  No I/O, no clock: `now` is an argument.
"""

from collections.abc import Iterable, KeysView
from typing import TypeAlias

from .wire import AAAA, SRV, A

#: A and AAAA: the address, 4 or 16 bytes.  SRV: (target, port).  CNAME, PTR, NS: a name.
Value: TypeAlias = bytes | tuple[str, int] | str
#: (owner, type, value).  Names are absolute, without the last dot, in lower case.
Record: TypeAlias = tuple[str, int, Value]


class _Node:
    """What is known of one name.

    values: how often each (type, value) was added.  owners: names whose SRV records lead here,
    with their number; None when there are none.  changed: when the values last changed.
    """

    __slots__ = ("changed", "owners", "values")

    def __init__(self) -> None:
        self.values: dict[tuple[int, Value], int] = {}
        self.owners: dict[str, int] | None = None
        self.changed = 0.0


class RecordSet:
    """Records by name.

    Invariant: it holds exactly the records that were added and not removed since; `take_changed`
    has named every name whose answers may differ from those at the call before.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._changed: set[str] = set()
        #: Different records by type.
        self.counts: dict[int, int] = {}

    def change(self, remove: Iterable[Record], add: Iterable[Record], *, now: float) -> None:
        """Remove and add records; what is in both costs a look-up and changes nothing.

        now: seconds since the epoch, kept as the time of change.  Removing a record that is not
        there is a bug and raises KeyError.
        """
        for name, kind, value in add:
            node = self._nodes.get(name)
            if node is None:
                node = self._nodes[name] = _Node()
            count = node.values.get((kind, value), 0)
            node.values[kind, value] = count + 1
            if count == 0:
                self._appeared(name, node, kind, value, now)
        for name, kind, value in remove:
            node = self._nodes[name]
            count = node.values[kind, value]
            if count > 1:
                node.values[kind, value] = count - 1
            else:
                del node.values[kind, value]
                self._gone(name, node, kind, value, now)

    def take_changed(self) -> set[str]:
        """Names whose answers may have changed since the last call; some may be gone."""
        changed, self._changed = self._changed, set()
        return changed

    def values(self, name: str, kind: int) -> list[Value]:
        """Values of one type in a fixed order: sorted."""
        node = self._nodes.get(name)
        if node is None:
            return []
        return sorted(value for one, value in node.values if one == kind)  # type: ignore[type-var]  # values of a type are alike

    def kinds(self, name: str) -> set[int]:
        """Types that a name has records of; empty for an unknown name."""
        node = self._nodes.get(name)
        return {kind for kind, _ in node.values} if node is not None else set()

    def changed_at(self, name: str) -> float | None:
        """When a name last changed, seconds since the epoch; None for an unknown name."""
        node = self._nodes.get(name)
        return node.changed if node is not None and node.values else None

    def names(self) -> "KeysView[str]":
        """Every name; some only because others lead to it (they have no `kinds`)."""
        return self._nodes.keys()

    def __len__(self) -> int:
        return len(self._nodes)

    def _appeared(self, name: str, node: _Node, kind: int, value: Value, now: float) -> None:
        node.changed = now
        self._note(name, node, kind)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == SRV:
            target = self._nodes.setdefault(value[0], _Node())  # type: ignore[arg-type]  # SRV
            owners = target.owners = target.owners or {}
            owners[name] = owners.get(name, 0) + 1

    def _gone(self, name: str, node: _Node, kind: int, value: Value, now: float) -> None:
        node.changed = now
        self._note(name, node, kind)
        self.counts[kind] -= 1
        if kind == SRV:
            target_name = value[0]
            target = self._nodes[target_name]  # type: ignore[index]  # SRV
            owners = target.owners
            assert owners is not None
            owners[name] -= 1
            if not owners[name]:
                del owners[name]
            if not owners:
                target.owners = None
                if not target.values:
                    del self._nodes[target_name]  # type: ignore[arg-type]  # SRV
        if not node.values and node.owners is None:
            self._nodes.pop(name, None)

    def _note(self, name: str, node: _Node, kind: int) -> None:
        self._changed.add(name)
        if node.owners is not None and kind in (A, AAAA):
            self._changed.update(node.owners)
