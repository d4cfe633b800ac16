"""Rows from the event stream of a master: a snapshot, then one event after the other.

The stream is SUBSCRIBE of the v1 operator API (Mesos docs/operator-http-api.md).  It has no event
for a task that is forgotten, so a task goes with its terminal update; and a task whose agent was
removed stays, for its agent may come back without a word about its tasks.  No I/O.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from cairn_core.errors import RemoteError, shorten
from cairn_core.mesos import codec
from cairn_core.mesos.feed_rows import (
    TASK,
    AgentRow,
    FrameworkRow,
    MasterRow,
    NetworkRow,
    Row,
    TaskRow,
    task_row,
)
from cairn_core.mesos.operator_api import Agent, Event, Framework, GetState, TaskUpdated
from cairn_core.mesos.types import AgentID, AgentInfo, MasterInfo, Task, TaskState

from .lenient import Unreadable, decode_lenient
from .sound import sound
from .state_json import split_pid

SUBSCRIBED = "SUBSCRIBED"


class BadEvent(RemoteError):
    """An event cannot be read at all."""


def read_event(record: bytes, skipped: "Counter[str]") -> Event:
    """An event; what makes no sense in it is left out and counted.  Raises BadEvent."""
    with contextlib.suppress(codec.DecodeError):
        return codec.decode(Event, record)
    try:
        return decode_lenient(Event, record, skipped)
    except Unreadable as error:
        raise BadEvent(f"event: {shorten(error.problem)}") from None


def snapshot_rows(state: GetState, skipped: "Counter[str]") -> list[Row]:
    """The rows of SUBSCRIBED, without that of a master."""
    rows: list[Row] = []
    if state.get_agents is not None:
        rows += [_agent(agent) for agent in state.get_agents.agents]
        rows += [_awaited(info) for info in state.get_agents.recovered_agents]
    if state.get_frameworks is not None:
        rows += [_framework(one) for one in state.get_frameworks.frameworks]
    if state.get_tasks is not None:
        rows += [task_row(task) for task in state.get_tasks.tasks if not task.state.is_terminal]
    return [sound(row, skipped) for row in rows]


def master_row(info: MasterInfo) -> MasterRow:
    """The row of the master that leads."""
    ip, port = split_pid(info.pid or "")
    if info.address is not None and info.address.ip:
        ip, port = info.address.ip, info.address.port
    return MasterRow(info.id, info.hostname or "", ip, port or info.port, leads=True)


class OperatorTables:
    """The rows that a stream has told so far.

    Invariant: `_tasks_of` has the keys of the tasks in `rows`, by framework.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        #: What made no sense since the last snapshot, by kind.
        self.skipped: Counter[str] = Counter()
        self._tasks_of: dict[str, set[str]] = {}

    def begin(self, rows: Iterable[Row], skipped: "Counter[str] | None" = None) -> None:
        """Start over with the rows of a snapshot, and what was left out of it."""
        self.rows = {}
        self._tasks_of = {}
        self.skipped = Counter(skipped or {})
        self.add(rows)

    def add(self, rows: Iterable[Row]) -> None:
        """More rows of the same snapshot."""
        for row in rows:
            self._put(row.key, row)

    def record(self, record: bytes) -> Mapping[str, Row | None]:
        """What an event in JSON changes; one that cannot be read changes nothing and is counted."""
        try:
            return self.event(read_event(record, self.skipped))
        except BadEvent:
            self.skipped["event"] += 1
            return {}

    def event(self, event: Event) -> Mapping[str, Row | None]:
        """What an event changes; nothing for events that have no meaning for rows."""
        changed = {
            key: None if row is None else sound(row, self.skipped)
            for key, row in self._changed(event).items()
        }
        for key, row in changed.items():
            self._put(key, row)
        return changed

    def _put(self, key: str, row: Row | None) -> None:
        old = self.rows.pop(key, None)
        if row is not None:
            self.rows[key] = row
        task = row if row is not None else old
        if isinstance(task, TaskRow):
            keys = self._tasks_of.setdefault(task.framework_id, set())
            if row is not None:
                keys.add(key)
            else:
                keys.discard(key)
                if not keys:
                    del self._tasks_of[task.framework_id]

    def _changed(self, event: Event) -> Mapping[str, Row | None]:
        match event.type:
            case "TASK_ADDED" if event.task_added is not None:
                return _one(task_row(event.task_added.task))
            case "TASK_UPDATED" if event.task_updated is not None:
                return self._task_updated(event.task_updated)
            case "AGENT_ADDED" if event.agent_added is not None:
                return _one(_agent(event.agent_added.agent))
            case "AGENT_REMOVED" if event.agent_removed is not None:
                return {f"agent/{event.agent_removed.agent_id.value}": None}
            case "FRAMEWORK_ADDED" if event.framework_added is not None:
                return _one(_framework(event.framework_added.framework))
            case "FRAMEWORK_UPDATED" if event.framework_updated is not None:
                return _one(_framework(event.framework_updated.framework))
            case "FRAMEWORK_REMOVED" if event.framework_removed is not None:
                return self._framework_removed(event.framework_removed.framework_info.id)
            case _:
                return {}

    def _task_updated(self, update: TaskUpdated) -> Mapping[str, Row | None]:
        status = update.status
        key = f"{TASK}{update.framework_id.value}/{status.task_id.value}"
        row = self.rows.get(key)
        if not isinstance(row, TaskRow):
            return {}
        if update.state.is_terminal:
            return {key: None}
        new = msgspec.structs.replace(row, state=update.state.value)
        if status.state is TaskState.RUNNING:
            # What a row takes from a status it takes from the newest running one.
            told = task_row(
                Task(
                    row.name, status.task_id, update.framework_id,
                    status.agent_id or AgentID(row.agent_id), update.state, statuses=(status,),
                )
            )  # fmt: skip
            networks: tuple[NetworkRow, ...] = told.networks
            if status.container_status is None:
                networks = row.networks
            new = msgspec.structs.replace(
                new, networks=networks, healthy=told.healthy,
                label_addresses=told.label_addresses or row.label_addresses,
            )  # fmt: skip
        return {key: new}

    def _framework_removed(self, framework_id: object) -> Mapping[str, Row | None]:
        gone: dict[str, Row | None] = dict.fromkeys(self._tasks_of.get(str(framework_id), ()))
        gone[f"framework/{framework_id}"] = None
        return gone


def _one(row: Row) -> Mapping[str, Row | None]:
    return {row.key: row}


def _agent(agent: Agent) -> AgentRow:
    ip, port = split_pid(agent.pid or "")
    return _agent_row(agent.agent_info, ip, port, active=agent.active, recovering=False)


def _awaited(info: AgentInfo) -> AgentRow:
    return _agent_row(info, "", 0, active=False, recovering=True)


def _agent_row(info: AgentInfo, ip: str, port: int, *, active: bool, recovering: bool) -> AgentRow:
    domain = info.domain.fault_domain if info.domain is not None else None
    return AgentRow(
        info.id.value if info.id is not None else "", info.hostname, ip, port or info.port,
        active, recovering,
        domain.region.name if domain is not None else "",
        domain.zone.name if domain is not None else "",
    )  # fmt: skip


def _framework(one: Framework) -> FrameworkRow:
    info = one.framework_info
    name = info.id.value if info.id is not None else ""
    return FrameworkRow(name, info.name, info.hostname or "", active=one.active)
