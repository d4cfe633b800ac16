"""A multiset of records that knows which names have changed.

Several tasks may give the same record; it stays until the last of them has gone.  So each change
costs what it touches, however large the zone is.  No I/O, no clock: `now` is an argument.
"""

from collections import Counter
from collections.abc import Iterable, KeysView
from typing import Any, TypeAlias

from .bags import added, only, put, removed, things
from .wire import AAAA, SRV, A

#: A and AAAA: the address, 4 or 16 bytes.  SRV: (target, port).  CNAME, PTR, NS: a name.
Value: TypeAlias = bytes | tuple[str, int] | str
#: (owner, type, value).  Names are absolute, without the last dot, in lower case.
Record: TypeAlias = tuple[str, int, Value]

_ADDRESS_BYTES = {A: 4, AAAA: 16}


class _Node:
    """What is known of one name.

    addresses, services: bags of its A and AAAA, and of its SRV values.  others: a bag of
    (type, value).  owners: a bag of the nodes whose SRV records lead here, once for each value.
    changed_at: when the values last changed.  noted: whether `take_changed` is to name it.
    """

    __slots__ = ("addresses", "changed_at", "name", "noted", "others", "owners", "services")

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses: Any = None
        self.services: Any = None
        self.others: Any = None
        self.owners: Any = None
        self.changed_at: float | None = None
        self.noted = False


class RecordSet:
    """Records by name.

    Invariant: it holds exactly the records that were added and not removed since; `take_changed`
    has named every name whose answers may differ from those at the call before: those with other
    values, and those of SRV records that lead to an address that changed.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._changed: list[_Node] = []
        #: Different records by type.
        self.counts: dict[int, int] = {}

    def change(self, remove: Iterable[Record], add: Iterable[Record], *, now: float) -> None:
        """Remove and add records; what is in both costs a look-up and changes nothing.

        now: seconds since the epoch, kept as the time of change.  Removing a record that is not
        there is a bug and raises KeyError.
        """
        if remove and add:
            counts = Counter(add)
            counts.subtract(remove)
            add, remove = counts.elements(), (-counts).elements()
        self._add(add, now)
        self._remove(remove, now)

    def take_changed(self) -> set[str]:
        """Names whose answers may have changed since the last call; some may be gone."""
        changed, self._changed = self._changed, []
        for node in changed:
            node.noted = False
        return {node.name for node in changed}

    def values(self, name: str, kind: int) -> list[Value]:
        """Values of one type in a fixed order: sorted."""
        node = self._nodes.get(name)
        found: Iterable[Any]
        if node is None:
            return []
        if kind in _ADDRESS_BYTES:
            size = _ADDRESS_BYTES[kind]
            found = [value for value in things(node.addresses) if len(value) == size]
        elif kind == SRV:
            found = things(node.services)
        else:
            found = [value for one, value in things(node.others) if one == kind]
        return sorted(found)

    def kinds(self, name: str) -> set[int]:
        """Types that a name has records of; empty for an unknown name."""
        node = self._nodes.get(name)
        if node is None:
            return set()
        found = {A if len(value) == 4 else AAAA for value in things(node.addresses)}
        if node.services is not None:
            found.add(SRV)
        return found | {kind for kind, _ in things(node.others)}

    def by_kind(self, name: str) -> dict[int, list[Value]]:
        """All values of a name by type: `kinds` and `values` at once."""
        found: dict[int, list[Value]] = {}
        node = self._nodes.get(name)
        if node is None:
            return found
        alone = only(node.addresses)
        if alone is not None:
            found[A if len(alone) == 4 else AAAA] = [alone]
        elif node.addresses is not None:
            for kind, size in _ADDRESS_BYTES.items():
                if values := [one for one in things(node.addresses) if len(one) == size]:
                    found[kind] = sorted(values)
        if node.services is not None:
            found[SRV] = sorted(things(node.services))
        for kind in {kind for kind, _ in things(node.others)}:
            found[kind] = sorted(value for one, value in things(node.others) if one == kind)
        return found

    def changed_at(self, name: str) -> float | None:
        """When a name last changed, seconds since the epoch; None for an unknown name."""
        node = self._nodes.get(name)
        return node.changed_at if node is not None else None

    def names(self) -> "KeysView[str]":
        """Every name; some only because others lead to it (they have no `kinds`)."""
        return self._nodes.keys()

    def __len__(self) -> int:
        return len(self._nodes)

    def _add(self, records: Iterable[Record], now: float) -> None:
        nodes, counts = self._nodes, self.counts
        target_name, target = "", _Node("")
        for name, kind, value in records:
            node = nodes.get(name)
            if node is None:
                node = nodes[name] = _Node(name)
            if kind == SRV:
                if node.services is None:
                    node.services = value
                else:
                    node.services, new = added(node.services, value)
                    if not new:
                        continue
                # services of one task lead to one host, mostly
                if value[0] is not target_name:
                    target_name = value[0]  # type: ignore[assignment]  # SRV
                    target = nodes.get(target_name) or nodes.setdefault(
                        target_name, _Node(target_name)
                    )
                target.owners = put(target.owners, node)
            elif kind in _ADDRESS_BYTES:
                if node.addresses is None:
                    node.addresses = value
                else:
                    node.addresses, new = added(node.addresses, value)
                    if not new:
                        continue
                if node.owners is not None:
                    self._note_owners(node)
            else:
                node.others, new = added(node.others, (kind, value))
                if not new:
                    continue
            node.changed_at = now
            if not node.noted:
                self._note(node)
            counts[kind] = counts.get(kind, 0) + 1

    def _remove(self, records: Iterable[Record], now: float) -> None:
        nodes = self._nodes
        for name, kind, value in records:
            node = nodes[name]
            if kind == SRV:
                node.services, last = removed(node.services, value)
            elif kind in _ADDRESS_BYTES:
                node.addresses, last = removed(node.addresses, value)
            else:
                node.others, last = removed(node.others, (kind, value))
            if not last:
                continue
            self.counts[kind] -= 1
            node.changed_at = now
            if not node.noted:
                self._note(node)
            if kind == SRV:
                target = nodes[value[0]]  # type: ignore[index]  # SRV
                target.owners, _ = removed(target.owners, node)
                self._forget_if_empty(target)
            elif kind in _ADDRESS_BYTES and node.owners is not None:
                self._note_owners(node)
            self._forget_if_empty(node)

    def _note(self, node: _Node) -> None:
        node.noted = True
        self._changed.append(node)

    def _note_owners(self, node: _Node) -> None:
        for owner in things(node.owners):
            if not owner.noted:
                self._note(owner)

    def _forget_if_empty(self, node: _Node) -> None:
        if node.addresses is node.services is node.others is None:
            node.changed_at = None
            if node.owners is None:
                self._nodes.pop(node.name, None)
