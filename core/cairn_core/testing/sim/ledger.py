"""What must be true of all parts together; every part notes here what it did, and is judged.

- A task is started at most once, and never after its framework was told that it ended.
- Updates of an executor reach the framework in the order in which they were made, without a gap.
- What an agent confirmed to an executor, the framework hears some time (`unheard`).
"""

from collections import Counter
from typing import TypeAlias

from cairn_core.mesos.types import Source, TaskStatus

#: Framework id and task id.
Key: TypeAlias = tuple[str, str]


class Ledger:
    """One for a whole simulation."""

    def __init__(self) -> None:
        self.started: Counter[Key] = Counter()
        self._made: dict[Key, list[bytes]] = {}
        self._owner: dict[bytes, Key] = {}
        self._heard: Counter[Key] = Counter()
        self._confirmed: dict[bytes, None] = {}
        self._ended: dict[Key, str] = {}

    def start(self, key: Key) -> None:
        """The process of a task starts."""
        self.started[key] += 1
        assert self.started[key] == 1, f"task {key} started twice"
        assert key not in self._ended, f"task {key} starts after {self._ended[key]}"

    def make(self, key: Key, uuid: bytes) -> None:
        """An executor has news of a task; also said when it is repeated."""
        if uuid not in self._owner:
            self._owner[uuid] = key
            self._made.setdefault(key, []).append(uuid)

    def confirm(self, uuid: bytes) -> None:
        """The agent told the executor that it has an update."""
        assert uuid in self._owner
        self._confirmed[uuid] = None

    def hear(self, framework_id: str, status: TaskStatus) -> None:
        """A framework is told of a task."""
        key = (framework_id, status.task_id.value)
        if status.state.is_terminal and status.source != Source.MASTER:
            self._ended.setdefault(key, f"{status.state} {status.reason}")
        if status.uuid is None or status.uuid not in self._owner:
            return
        at = self._made[key].index(status.uuid)
        assert at <= self._heard[key], f"task {key}: an update before {status.state} was left out"
        self._heard[key] = max(self._heard[key], at + 1)

    def unheard(self) -> list[Key]:
        """Tasks of which a confirmed update has not been heard."""
        return [
            key
            for uuid in self._confirmed
            if self._made[key := self._owner[uuid]].index(uuid) >= self._heard[key]
        ]
