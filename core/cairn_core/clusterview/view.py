"""The cluster as network daemons see it: an immutable snapshot, and what changed.

No I/O and no knowledge of where facts come from; sources give rows by key.  A change costs what
it touches: a snapshot shares everything else with the one before.  One rule lives here: after a
change of masters the new one does not know the tasks of agents that have not come back yet.  What
belonged to such an agent is held, with its framework, until the agent is back or is given up;
everything else applies at once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from immutables import Map

from cairn_core.mesos.feed_rows import (
    AGENT,
    FRAMEWORK,
    MASTER,
    TASK,
    VIP,
    AgentRow,
    BadRow,
    FrameworkRow,
    MasterRow,
    Row,
    TaskRow,
    VipRow,
    decode_row,
)

#: Rows that `Replacement` compares in one step, some half a millisecond.
STEP_ROWS = 500


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole cluster at one moment.  Tables are by key of the feed, in no order.

    version: grows with each change, within one process. vips: empty with a master that is not
    ours, which gives no addresses.
    """

    version: int = 0
    tasks: Map[str, TaskRow] = field(default_factory=Map)
    agents: Map[str, AgentRow] = field(default_factory=Map)
    frameworks: Map[str, FrameworkRow] = field(default_factory=Map)
    masters: Map[str, MasterRow] = field(default_factory=Map)
    vips: Map[str, VipRow] = field(default_factory=Map)

    @property
    def leader(self) -> MasterRow | None:
        """The master that leads."""
        return next((master for master in self.masters.values() if master.leads), None)

    def agent(self, agent_id: str) -> AgentRow | None:
        """An agent by its id."""
        return self.agents.get(f"agent/{agent_id}")

    def framework(self, framework_id: str) -> FrameworkRow | None:
        """A framework by its id."""
        return self.frameworks.get(f"framework/{framework_id}")

    def vip(self, name: str) -> VipRow | None:
        """The addresses of a named VIP by its full name."""
        return self.vips.get(f"vip/{name}")

    def row(self, key: str) -> Row | None:
        """Any row by its key."""
        name = _TABLES.get(_prefix(key))
        row: Row | None = getattr(self, name).get(key) if name is not None else None
        return row

    def rows(self) -> Iterable[tuple[str, Row]]:
        """All rows with their keys."""
        for name in _TABLES.values():
            yield from getattr(self, name).items()

    @property
    def size(self) -> int:
        """Number of rows."""
        return sum(len(getattr(self, name)) for name in _TABLES.values())


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two snapshots: rows before and after by key (None: not there)."""

    before: Snapshot
    after: Snapshot
    rows: Mapping[str, tuple[Row | None, Row | None]]


class ClusterView:
    """Rows in, snapshots and changes out.

    Invariant: `snapshot` shows exactly the rows applied, plus those held for recovering agents.
    """

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        #: Rows that could not be read and were left out, by kind.
        self.skipped: Counter[str] = Counter()
        self._held = _Held()

    def apply_values(
        self, values: Mapping[str, bytes | None], *, new_epoch: bool = False
    ) -> Changes | None:
        """Apply encoded rows (None: gone); see `apply`.  Unreadable ones are counted, not shown."""
        rows: dict[str, Row | None] = {}
        for key, value in values.items():
            try:
                rows[key] = None if value is None else decode_row(key, value)
            except BadRow:
                self.skipped[_prefix(key)[:-1]] += 1
                rows[key] = None
        return self.apply(rows, new_epoch=new_epoch)

    def apply(self, rows: Mapping[str, Row | None], *, new_epoch: bool = False) -> Changes | None:
        """Apply changed rows (None: gone) and return what changed, or None.

        new_epoch: another master speaks now; what is gone may only not be back yet.
        Costs O(rows), and what is released with an agent.
        """
        edit, held = _Edit(self.snapshot), self._held
        agents: set[str] = set()
        gone: dict[str, list[str]] = {prefix: [] for prefix in _TABLES}
        for key, row in rows.items():
            prefix = _prefix(key)
            if prefix not in gone:
                continue
            if prefix == AGENT:
                agents.add(key.removeprefix(AGENT))
            old = edit.row(key)
            if row is not None:
                held.release(key, old)
                edit.put(key, _located(row, old))
            elif old is not None and key not in held.keys:
                gone[prefix].append(key)
        # Whether a task is held depends on its agent, and a framework on its tasks.
        for key in gone[MASTER] + gone[AGENT] + gone[VIP]:
            edit.put(key, None)
        for key in gone[TASK]:
            task = edit.row(key)
            if new_epoch and isinstance(task, TaskRow) and edit.awaits(task.agent_id):
                held.add_task(key, task)
            else:
                edit.put(key, None)
        for agent_id in agents:
            if not edit.awaits(agent_id):
                for key in list(held.tasks_of.get(agent_id, ())):
                    held.release(key, edit.row(key))
                    edit.put(key, None)
        for key in gone[FRAMEWORK]:
            if new_epoch and held.needs(key):
                held.keys.add(key)
            else:
                edit.put(key, None)
        for key in held.take_unneeded():
            edit.put(key, None)
        if not edit.changed:
            return None
        last, self.snapshot = self.snapshot, edit.finish()
        return Changes(last, self.snapshot, edit.changed)

    def replace(self, rows: Iterable[Row], *, new_epoch: bool = False) -> Changes | None:
        """Apply a whole table: what is not in it is gone."""
        replacement = Replacement(self, list(rows))
        for _ in replacement.steps():
            pass
        return replacement.finish(new_epoch=new_epoch)

    @property
    def held(self) -> int:
        """Number of rows shown only because their agent is not back yet."""
        return len(self._held.keys)

    def is_news(self, key: str, row: Row) -> bool:
        """Whether applying a row would change anything."""
        return key in self._held.keys or self.snapshot.row(key) != row


class Replacement:
    """Finds in small steps what a whole table changes, so that others have their turn between.

    Invariant: with all `steps` taken and no other change of the view since, `finish` costs what
    differs.
    """

    def __init__(self, view: ClusterView, rows: Sequence[Row]) -> None:
        self._view = view
        self._rows = rows
        self._changed: dict[str, Row | None] = {}
        self._before: Snapshot | None = None

    def steps(self) -> Iterator[None]:
        """Compare; yields after each STEP_ROWS rows."""
        view, before = self._view, self._view.snapshot
        self._changed, seen = {}, set()
        for number, row in enumerate(self._rows, 1):
            key = row.key
            seen.add(key)
            # Of two rows with one key the last counts.
            if view.is_news(key, row):
                self._changed[key] = row
            else:
                self._changed.pop(key, None)
            if number % STEP_ROWS == 0:
                yield
        for number, (key, _) in enumerate(before.rows(), 1):
            if key not in seen:
                self._changed[key] = None
            if number % STEP_ROWS == 0:
                yield
        self._before = before

    def finish(self, *, new_epoch: bool = False) -> Changes | None:
        """Apply what was found; see `ClusterView.apply`."""
        if self._before is not self._view.snapshot:
            for _ in self.steps():
                pass
        return self._view.apply(self._changed, new_epoch=new_epoch)


class _Edit:
    """The next snapshot while it is made; tables in which nothing changes are shared."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        # Reading from a mutation is as cheap as from a map, but making one is not free.
        self._tables: dict[str, Any] = {}
        self.changed: dict[str, tuple[Row | None, Row | None]] = {}

    def row(self, key: str) -> Row | None:
        table = self._tables.get(_prefix(key))
        if table is None:
            return self._base.row(key)
        row: Row | None = table.get(key)
        return row

    def awaits(self, agent_id: str) -> bool:
        agent = self.row(f"{AGENT}{agent_id}")
        return isinstance(agent, AgentRow) and agent.recovering

    def put(self, key: str, row: Row | None) -> None:
        """Set or remove a row, at most once for each key."""
        old = self.row(key)
        if old == row:
            return
        self.changed[key] = (old, row)
        prefix = _prefix(key)
        if prefix not in self._tables:
            self._tables[prefix] = getattr(self._base, _TABLES[prefix]).mutate()
        if row is None:
            del self._tables[prefix][key]
        else:
            self._tables[prefix][key] = row

    def finish(self) -> Snapshot:
        base = self._base
        tables = {
            name: self._tables[prefix].finish() if prefix in self._tables else getattr(base, name)
            for prefix, name in _TABLES.items()
        }
        return Snapshot(base.version + 1, **tables)


class _Held:
    """Keys of rows that the source no longer has but that are still shown.

    Invariant: `tasks_of` has each held task under its agent, and `_tasks` how many each framework
    has.
    """

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.tasks_of: dict[str, set[str]] = {}
        self._tasks: Counter[str] = Counter()
        self._unneeded: set[str] = set()

    def needs(self, framework_key: str) -> bool:
        return self._tasks[framework_key] > 0

    def add_task(self, key: str, task: TaskRow) -> None:
        self.keys.add(key)
        self.tasks_of.setdefault(task.agent_id, set()).add(key)
        self._tasks[f"{FRAMEWORK}{task.framework_id}"] += 1

    def release(self, key: str, row: Row | None) -> None:
        """A row is held no longer; nothing when it was not."""
        if key not in self.keys:
            return
        self.keys.remove(key)
        if not isinstance(row, TaskRow):
            return
        tasks = self.tasks_of[row.agent_id]
        tasks.remove(key)
        if not tasks:
            del self.tasks_of[row.agent_id]
        framework_key = f"{FRAMEWORK}{row.framework_id}"
        self._tasks[framework_key] -= 1
        if not self._tasks[framework_key]:
            del self._tasks[framework_key]
            self._unneeded.add(framework_key)

    def take_unneeded(self) -> list[str]:
        """Held frameworks whose last held task went; they are held no longer."""
        gone = [key for key in self._unneeded if key in self.keys and not self.needs(key)]
        self.keys.difference_update(gone)
        self._unneeded.clear()
        return gone


_TABLES = {
    MASTER: "masters",
    AGENT: "agents",
    FRAMEWORK: "frameworks",
    VIP: "vips",
    TASK: "tasks",
}


def _prefix(key: str) -> str:
    return key[: key.find("/") + 1]


def _located(row: Row, old: Row | None) -> Row:
    """A master that only awaits an agent may not know its address; then the old one holds."""
    if isinstance(row, AgentRow) and isinstance(old, AgentRow) and row.recovering and not row.ip:
        return msgspec.structs.replace(row, ip=old.ip, port=old.port)
    return row
