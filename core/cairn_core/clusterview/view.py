"""The cluster as network daemons see it: an immutable snapshot, and what changed.

No I/O and no knowledge of where facts come from; sources give rows by key.  One rule lives here:
after a change of masters the new one does not know the tasks of agents that have not come back
yet.  What belonged to such an agent is held, with its framework, until the agent is back or is
given up; everything else applies at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

import msgspec

from cairn_core.mesos.feed_rows import (
    AgentRow,
    BadRow,
    FrameworkRow,
    MasterRow,
    Row,
    TaskRow,
    decode_row,
)

R = TypeVar("R", TaskRow, AgentRow, FrameworkRow, MasterRow)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole cluster at one moment.  Tables are by key of the feed and are never changed.

    version: grows with each change, within one process.
    """

    version: int = 0
    tasks: Mapping[str, TaskRow] = field(default_factory=dict)
    agents: Mapping[str, AgentRow] = field(default_factory=dict)
    frameworks: Mapping[str, FrameworkRow] = field(default_factory=dict)
    masters: Mapping[str, MasterRow] = field(default_factory=dict)

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

    def rows(self) -> Iterable[tuple[str, Row]]:
        """All rows with their keys."""
        for table in (self.masters, self.agents, self.frameworks, self.tasks):
            yield from table.items()


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
        #: Rows that could not be read; they are left out.
        self.bad_rows = 0
        self._rows: dict[str, Row] = {}
        #: Rows that the source no longer has but that are still shown, by key.
        self._held: dict[str, TaskRow | FrameworkRow] = {}

    def apply_values(
        self, values: Mapping[str, bytes | None], *, new_epoch: bool = False
    ) -> Changes | None:
        """Apply encoded rows (None: gone); see `apply`.  Unreadable ones are counted, not shown."""
        rows: dict[str, Row | None] = {}
        for key, value in values.items():
            try:
                rows[key] = None if value is None else decode_row(key, value)
            except BadRow:
                self.bad_rows += 1
                rows[key] = None
        return self.apply(rows, new_epoch=new_epoch)

    def apply(self, rows: Mapping[str, Row | None], *, new_epoch: bool = False) -> Changes | None:
        """Apply changed rows (None: gone) and return what changed, or None.

        new_epoch: another master speaks now; what is gone may only not be back yet.
        """
        changed: dict[str, tuple[Row | None, Row | None]] = {}
        before = {key: self._shown(key) for key in rows}
        for key, row in rows.items():
            old = self._rows.pop(key, None)
            if row is not None:
                self._rows[key] = _located(row, old)
                self._held.pop(key, None)
            elif new_epoch and isinstance(old, TaskRow | FrameworkRow):
                self._held[key] = old
        for key in self._release():
            before.setdefault(key, self._held[key])
            del self._held[key]
        for key, old in before.items():
            new = self._shown(key)
            if old != new:
                changed[key] = (old, new)
        if not changed:
            return None
        last, self.snapshot = self.snapshot, self._snapshot(changed)
        return Changes(last, self.snapshot, changed)

    def replace(self, rows: Iterable[Row], *, new_epoch: bool = False) -> Changes | None:
        """Apply a whole table: what is not in it is gone."""
        table: dict[str, Row | None] = dict.fromkeys(self._rows)
        table.update((row.key, row) for row in rows)
        return self.apply(table, new_epoch=new_epoch)

    @property
    def held(self) -> int:
        """Number of rows shown only because their agent is not back yet."""
        return len(self._held)

    def _shown(self, key: str) -> Row | None:
        return self._rows.get(key) or self._held.get(key)

    def _release(self) -> list[str]:
        """Keys that need not be held any longer."""
        if not self._held:
            return []
        gone, needed = [], set()
        for key, row in self._held.items():
            if isinstance(row, TaskRow):
                agent = self._rows.get(f"agent/{row.agent_id}")
                if isinstance(agent, AgentRow) and agent.recovering:
                    needed.add(f"framework/{row.framework_id}")
                else:
                    gone.append(key)
        gone += [
            key
            for key, row in self._held.items()
            if isinstance(row, FrameworkRow) and key not in needed
        ]
        return gone

    def _snapshot(self, changed: Mapping[str, tuple[Row | None, Row | None]]) -> Snapshot:
        """The next snapshot; tables in which nothing changed are shared with the last one."""
        last = self.snapshot
        kinds = {type(new if new is not None else old) for old, new in changed.values()}
        return Snapshot(
            last.version + 1,
            _changed(last.tasks, TaskRow, changed) if TaskRow in kinds else last.tasks,
            _changed(last.agents, AgentRow, changed) if AgentRow in kinds else last.agents,
            _changed(last.frameworks, FrameworkRow, changed)
            if FrameworkRow in kinds
            else last.frameworks,
            _changed(last.masters, MasterRow, changed) if MasterRow in kinds else last.masters,
        )


def _located(row: Row, old: Row | None) -> Row:
    """A master that only awaits an agent may not know its address; then the old one holds."""
    if isinstance(row, AgentRow) and isinstance(old, AgentRow) and row.recovering and not row.ip:
        return msgspec.structs.replace(row, ip=old.ip, port=old.port)
    return row


def _changed(
    table: Mapping[str, R], kind: type[R], changed: Mapping[str, tuple[Row | None, Row | None]]
) -> Mapping[str, R]:
    """A copy of one table with its changes."""
    copy = dict(table)
    for key, (old, new) in changed.items():
        if isinstance(new, kind):
            copy[key] = new
        elif isinstance(old, kind):
            copy.pop(key, None)
    return MappingProxyType(copy)
