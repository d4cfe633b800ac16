"""The tree of shares: who is served next under hierarchical DRF.

    root ── role a ── role a/b ── framework slots
                  └─ a/.  ─────── framework slots of `a` itself
         └─ role * ────────────── framework slots

Every node below one parent is ordered by (share, count, path): the dominant share of its whole
subtree divided by its weight, how often it was allocated to, and its path. The next to be served
is the first eligible leaf in depth-first order. A role that has both frameworks and child roles
keeps its frameworks in a virtual child `.`, as in the original. Sources: Ghodsi et al.,
"Dominant Resource Fairness" (2011) and "Hierarchical Scheduling for Diverse Datacenter Workloads"
(2013); Apache Mesos `src/master/allocator/mesos/sorter/drf/sorter.cpp`.

Each leaf (a framework in a role) owns one bit; each block of siblings knows the bits below it.
So `first(eligible)` skips whole blocks of ineligible leaves with one `&`, whatever their order.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import TypeAlias

Key: TypeAlias = tuple[float, int, str]

_BLOCK = 48


def dominant_share(amounts: Mapping[str, int], totals: Mapping[str, int], weight: float) -> float:
    """Largest fraction of any one resource, divided by the weight.

    Names missing from `totals`, or 0 there, are skipped. weight: > 0.
    """
    best = 0.0
    for name, amount in amounts.items():
        total = totals.get(name)
        if total and amount / total > best:
            best = amount / total
    return best / weight


class Siblings:
    """Nodes of one parent in order, in blocks of some tens.

    Invariant: `_keys` and `_nodes` run in parallel; `_lasts[i]` is the last key and `_masks[i]`
    the union of the masks of block i; no block is empty.
    """

    __slots__ = ("_keys", "_lasts", "_masks", "_nodes")

    def __init__(self) -> None:
        self._keys: list[list[Key]] = []
        self._nodes: list[list[Node]] = []
        self._lasts: list[Key] = []
        self._masks: list[int] = []

    def fill(self, nodes: list["Node"]) -> None:
        """Start over with these nodes, whose keys and masks are right."""
        nodes = sorted(nodes, key=lambda node: node.key)
        self._nodes = [nodes[i : i + _BLOCK] for i in range(0, len(nodes), _BLOCK)]
        self._keys = [[node.key for node in block] for block in self._nodes]
        self._lasts = [keys[-1] for keys in self._keys]
        self._masks = [_union(block) for block in self._nodes]

    def move(self, node: "Node", key: Key) -> None:
        """Give a node that is here another key."""
        old = node.key
        if old == key:
            return
        node.key = key
        if len(self._lasts) == 1 and len(self._nodes[0]) == 1:
            self._keys[0][0] = self._lasts[0] = key
            return
        at = bisect_left(self._lasts, old)
        keys, nodes = self._keys[at], self._nodes[at]
        place = bisect_left(keys, old)
        del keys[place], nodes[place]
        if keys:
            self._lasts[at] = keys[-1]
            self._masks[at] = self._masks[at] & ~node.mask
        else:
            del self._keys[at], self._nodes[at], self._lasts[at], self._masks[at]
        self._insert(node)

    def _insert(self, node: "Node") -> None:
        key = node.key
        at = min(bisect_left(self._lasts, key), len(self._lasts) - 1)
        keys, nodes = self._keys[at], self._nodes[at]
        insort(keys, key)
        nodes.insert(bisect_left(keys, key), node)
        self._lasts[at] = keys[-1]
        self._masks[at] |= node.mask
        if len(keys) > 2 * _BLOCK:
            self._keys[at : at + 1] = [keys[:_BLOCK], keys[_BLOCK:]]
            self._nodes[at : at + 1] = [nodes[:_BLOCK], nodes[_BLOCK:]]
            self._lasts[at : at + 1] = [keys[_BLOCK - 1], keys[-1]]
            self._masks[at : at + 1] = [_union(nodes[:_BLOCK]), _union(nodes[_BLOCK:])]

    def first(self, eligible: int) -> "Node | None":
        """The first node that has an eligible leaf below it."""
        for at, mask in enumerate(self._masks):
            if mask & eligible:
                for node in self._nodes[at]:
                    if node.mask & eligible:
                        return node
        return None

    def __iter__(self) -> Iterator["Node"]:
        for block in self._nodes:
            yield from block


def _union(nodes: list["Node"]) -> int:
    mask = 0
    for node in nodes:
        mask |= node.mask
    return mask


class Node:
    """A role, the virtual child of a role, or (as a leaf) a framework in a role.

    amounts: allocated in the whole subtree, thousandths by name, reserved or not.
    mask: bits of the leaves below. Frameworks weigh 1.
    """

    __slots__ = ("amounts", "count", "key", "mask", "order", "parent", "path", "weight")

    def __init__(self, path: str, parent: "Node | None" = None, weight: float = 1.0) -> None:
        self.path = path
        self.parent = parent
        self.weight = weight
        self.amounts: dict[str, int] = {}
        self.count = 0
        self.mask = 0
        self.key: Key = (0.0, 0, path)
        self.order: Siblings | None = None


class Tree:
    """All nodes, and the totals that shares are fractions of.

    Changes of structure, weights and totals are collected and put in order at the next
    `refresh`; allocations move nodes at once, so that one round sees its own effects.
    """

    def __init__(self, excluded: frozenset[str] = frozenset()) -> None:
        #: Names that do not count (`--fair_sharing_excluded_resource_names`).
        self._excluded = excluded
        self._root = Node("")
        self._roles: dict[str, Node] = {}
        self._leaves: dict[str, dict[str, Node]] = {}
        self._size = 0
        self._weights: dict[str, float] = {}
        self._totals: dict[str, int] = {}
        self._shape_changed = False
        self._totals_changed = False
        self._released: dict[Node, None] = {}

    # Structure

    def add_leaf(self, role: str, framework: str, bit: int) -> Node:
        """A framework joins a role. Its bit must be free."""
        leaf = Node(framework)
        leaf.mask = bit
        self._leaves.setdefault(role, {})[framework] = leaf
        self._size += 1
        self._shape_changed = True
        return leaf

    def remove_leaf(self, role: str, framework: str) -> None:
        """A framework leaves a role. Its amounts must have been taken off before."""
        leaves = self._leaves[role]
        self._released.pop(leaves.pop(framework), None)
        self._size -= 1
        if not leaves:
            del self._leaves[role]
        self._shape_changed = True

    def set_weight(self, role: str, weight: float) -> None:
        """Weight of a role, > 0."""
        self._weights[role] = weight
        self._shape_changed = True

    def weight(self, role: str) -> float:
        """Weight of a role; 1.0 where never set."""
        return self._weights.get(role, 1.0)

    def add_total(self, amounts: Mapping[str, int], sign: int = 1) -> None:
        """An agent came (1) or went (-1)."""
        for name, amount in amounts.items():
            if name not in self._excluded:
                self._totals[name] = self._totals.get(name, 0) + sign * amount
        self._totals_changed = True

    def mask_of(self, role: str) -> int:
        """Bits of the leaves of a role and of the roles below it."""
        if self._shape_changed:
            self.refresh()
        node = self._roles.get(role)
        return node.mask if node is not None else 0

    # Amounts

    def allocated(self, leaf: Node, amounts: Mapping[str, int]) -> None:
        """A leaf was allocated to: count it, and put it and those above it in their new place."""
        totals = self._totals
        node: Node | None = leaf
        while node is not None:
            mine = node.amounts
            node.count += 1
            best = 0.0
            for name, amount in amounts.items():
                mine[name] = mine.get(name, 0) + amount
            for name, amount in mine.items():
                total = totals.get(name)
                if total and amount / total > best:
                    best = amount / total
            parent = node.parent
            if parent is not None and parent.order is not None:
                parent.order.move(node, (best / node.weight, node.count, node.path))
            node = parent

    def released(self, leaf: Node, amounts: Mapping[str, int]) -> None:
        """Amounts came back; the order follows at the next `refresh`."""
        node: Node | None = leaf
        while node is not None:
            mine = node.amounts
            for name, amount in amounts.items():
                left = mine.get(name, 0) - amount
                if left:
                    mine[name] = left
                else:
                    mine.pop(name, None)
            node = node.parent
        self._released[leaf] = None

    # Order

    def refresh(self) -> None:
        """Bring the order up to date. Cheap when nothing changed."""
        if self._shape_changed:
            self._rebuild()
        elif self._totals_changed or 4 * len(self._released) > self._size:
            # Sorting anew costs less than finding a new place for each of many.
            self._reorder(self._root)
        else:
            for leaf in self._released:
                self._move_up(leaf)
        self._shape_changed = self._totals_changed = False
        self._released.clear()

    def first(self, eligible: int) -> Node | None:
        """The eligible leaf that is served next.

        O(square root of the siblings) on each level. Call `refresh` before a slice of work.
        """
        node = self._root
        while node.order is not None:
            found = node.order.first(eligible)
            if found is None:
                return None
            node = found
        return node if node is not self._root else None

    def share(self, leaf: Node) -> float:
        """Dominant share of a leaf or role, divided by its weight."""
        return dominant_share(leaf.amounts, self._totals, leaf.weight)

    def role_shares(self) -> dict[str, float]:
        """Dominant share per role that has frameworks, divided by its weight."""
        self.refresh()
        return {role: self.share(self._roles[role]) for role in self._leaves}

    @property
    def totals(self) -> Mapping[str, int]:
        """Amounts that shares are fractions of."""
        return self._totals

    def allocated_amounts(self) -> Mapping[str, int]:
        """Allocated in the whole cluster, thousandths by name."""
        return self._root.amounts

    def listing(self) -> list[tuple[str, str]]:
        """(path of the parent, path) of all leaves in the order of service; for tests."""
        self.refresh()
        out: list[tuple[str, str]] = []

        def walk(node: Node) -> None:
            if node.order is None:
                assert node.parent is not None
                out.append((node.parent.path, node.path))
                return
            for child in node.order:
                walk(child)

        walk(self._root)
        return out

    def _move_up(self, leaf: Node) -> None:
        node = leaf
        while node.parent is not None and node.parent.order is not None:
            node.parent.order.move(node, self._key(node))
            node = node.parent

    def _key(self, node: Node) -> Key:
        return (
            dominant_share(node.amounts, self._totals, node.weight),
            node.count,
            node.path,
        )

    def _reorder(self, node: Node) -> None:
        node.key = self._key(node)
        if node.order is not None:
            children = list(node.order)
            for child in children:
                self._reorder(child)
            node.order.fill(children)

    def _rebuild(self) -> None:
        """Make the tree anew from the leaves, keeping the counts of roles that stay."""
        old = self._roles
        self._root = Node("")
        self._roles = {}
        children: dict[Node, list[Node]] = {self._root: []}
        for role in sorted(self._leaves):
            self._role(role, old, children)
        for role, leaves in self._leaves.items():
            holder = self._roles[role]
            if children[holder]:
                virtual = Node(f"{role}/.", holder)
                known = old.get(virtual.path) or old.get(role)
                virtual.count = known.count if known is not None else 0
                self._roles[virtual.path] = virtual
                children[holder].append(virtual)
                holder = virtual
                children[holder] = []
            for leaf in leaves.values():
                leaf.parent = holder
                children[holder].append(leaf)
                self._sum_up(leaf, holder)
        for node, below in children.items():
            node.order = Siblings()
            node.order.fill(below)
        self._reorder(self._root)

    def _role(self, role: str, old: Mapping[str, Node], children: dict[Node, list[Node]]) -> Node:
        if role in self._roles:
            return self._roles[role]
        above = role.rpartition("/")[0]
        parent = self._role(above, old, children) if above else self._root
        node = Node(role, parent, self.weight(role))
        node.count = old[role].count if role in old else 0
        self._roles[role] = node
        children[parent].append(node)
        children[node] = []
        return node

    @staticmethod
    def _sum_up(leaf: Node, holder: Node | None) -> None:
        while holder is not None:
            holder.mask |= leaf.mask
            for name, amount in leaf.amounts.items():
                holder.amounts[name] = holder.amounts.get(name, 0) + amount
            holder = holder.parent
