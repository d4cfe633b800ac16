"""What pollers of the legacy endpoints see: JSON in shared pieces, made anew only where it changed.

Twenty pollers of `/state` must not cost twenty times the work, and a change of one task must not
cost the work of 200,000. So tasks and agents are rendered once per change and kept in chunks of
`CHUNK` records; an answer is a list of byte pieces that all readers share. Nothing is kept while
nobody asks: the first read after a pause of `IDLE_S` renders everything again.

    changed(effect)      marks records, O(1)
    begin(now)           takes what is marked
    work(limit) -> more  renders at most `limit` records; the shell calls it between other work,
                         as it takes the pieces
    state(), ...         pieces of the answers, made of what is rendered

Costs: `work` some 20 us a record; `state` one step a chunk and a framework.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cairn_core.master import legacy_json
from cairn_core.master.operator_read import separated
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import (
    AgentChanged,
    Changed,
    FrameworkChanged,
    OfferChanged,
    TaskChanged,
)
from cairn_core.master.state.records import AgentRecord, FrameworkRecord, TaskRecord
from cairn_core.mesos.types import TaskState
from cairn_core.resources import EMPTY, Resources

CHUNK = 128
IDLE_S = 60.0

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Chunk:
    """Some rendered records; `joined` is their JSON with commas, None when stale."""

    items: dict[str, bytes] = field(default_factory=dict)
    joined: bytes | None = None


@dataclass(slots=True)
class _Section:
    """A JSON list in chunks.

    Invariant: `places[key]` is the chunk whose items hold `key`; no chunk is empty.
    """

    chunks: list[_Chunk] = field(default_factory=list)
    places: dict[str, _Chunk] = field(default_factory=dict)

    def put(self, key: str, rendered: bytes) -> None:
        chunk = self.places.get(key)
        if chunk is None:
            if not self.chunks or len(self.chunks[-1].items) >= CHUNK:
                self.chunks.append(_Chunk())
            chunk = self.places[key] = self.chunks[-1]
        chunk.items[key] = rendered
        chunk.joined = None

    def drop(self, key: str) -> None:
        chunk = self.places.pop(key, None)
        if chunk is None:
            return
        del chunk.items[key]
        chunk.joined = None
        if not chunk.items:
            self.chunks.remove(chunk)

    def pieces(self) -> Iterator[bytes]:
        first = True
        for chunk in self.chunks:
            if chunk.joined is None:
                chunk.joined = b",".join(chunk.items.values())
            if not first:
                yield b","
            first = False
            yield chunk.joined


@dataclass(slots=True)
class _Counted:
    """How a live task was counted, so that it can be taken out again."""

    state: TaskState
    agent_id: str
    held: Resources


@dataclass(slots=True)
class _Framework:
    """Rendered tasks of one framework, and sums over its live ones.

    scalars: what live tasks hold. others: their ports and sets, with the number of tasks; ports
    of different agents overlap, so they are united and cannot be subtracted.
    """

    tasks: _Section = field(default_factory=_Section)
    counted: dict[str, _Counted] = field(default_factory=dict)
    states: Counter[TaskState] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    scalars: Resources = EMPTY
    others: Counter[Resources] = field(default_factory=Counter)
    #: Tasks that ended or are unreachable, by identity of the record: bounded, rendered once.
    past: dict[int, tuple[TaskRecord, bytes]] = field(default_factory=dict)

    def uncount(self, task_id: str) -> None:
        was = self.counted.pop(task_id, None)
        if was is None:
            return
        _decrement(self.states, was.state)
        _decrement(self.agents, was.agent_id)
        if was.held:
            self.scalars -= was.held.scalars_only()
            others = was.held.non_scalars()
            if others:
                _decrement(self.others, others)

    def count(self, task: TaskRecord) -> None:
        self.uncount(task.task_id)
        held = task.resources if task.holds else EMPTY
        self.counted[task.task_id] = _Counted(task.state, task.agent_id, held)
        self.states[task.state] += 1
        self.agents[task.agent_id] += 1
        if held:
            self.scalars += held.scalars_only()
            others = held.non_scalars()
            if others:
                self.others[others] += 1


def _decrement(counter: "Counter[Any]", key: Any) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


class ReadModel:
    """Renders the cluster's tables for readers. See the module's docstring for its use."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        #: Grows with each refresh that found a change; the ETag of answers.
        self.generation = 0
        self._warm = False
        self._used_at = 0.0
        self._marked: set[tuple[str, str]] = set()  # (framework id, task id)
        self._marked_agents: set[str] = set()
        self._marked_others = False
        self._todo: list[tuple[str, str]] = []
        self._todo_agents: list[str] = []
        self._todo_frameworks: list[str] = []  # all tasks of these
        self._frameworks: dict[str, _Framework] = {}
        self._agents = _Section()
        self._summaries = _Section()

    def changed(self, effect: Changed) -> None:
        """Take note of a change. O(1), and nothing at all while nobody reads."""
        if not self._warm:
            return
        match effect:
            case TaskChanged(task=task):
                self._marked.add((task.framework_id, task.task_id))
                self._marked_agents.add(task.agent_id)
            case OfferChanged(offer=offer):
                self._marked_agents.add(offer.agent_id)
            case AgentChanged(agent=agent):
                self._marked_agents.add(agent.agent_id)
            case FrameworkChanged() | _:
                pass
        self._marked_others = True

    def begin(self, *, now: float) -> None:
        """Start a refresh: take all that is marked, or everything after a pause."""
        self._used_at = now
        if not self._warm:
            self._warm = True
            self._frameworks.clear()
            self._agents = _Section()
            self._summaries = _Section()
            self._todo = []
            self._todo_frameworks = list(self.cluster.frameworks)
            self._todo_agents = list(self.cluster.agents)
            self._marked_others = True
        else:
            self._todo += self._marked
            self._todo_agents += self._marked_agents
        if self._busy or self._marked_others:
            self.generation += 1
        self._marked = set()
        self._marked_agents = set()
        self._marked_others = False

    def work(self, limit: int) -> bool:
        """Render at most `limit` marked records; True while some are left."""
        if not self._todo and self._todo_frameworks:
            framework = self.cluster.frameworks.get(self._todo_frameworks.pop())
            if framework is not None:
                self._todo = [(framework.framework_id, task_id) for task_id in framework.tasks]
        for _ in range(min(limit, len(self._todo))):
            self._render_task(*self._todo.pop())
            limit -= 1
        for _ in range(min(limit, len(self._todo_agents))):
            self._render_agent(self._todo_agents.pop())
        return self._busy

    def rest(self, *, now: float) -> bool:
        """Forget everything when nobody has read for a while; True when that was done. Called
        now and then, and never between `begin` and the end of its work."""
        if self._warm and not self._busy and now - self._used_at > IDLE_S:
            self._warm = False
            self._frameworks.clear()
            self._agents = _Section()
            self._summaries = _Section()
            self._marked.clear()
            self._marked_agents.clear()
            return True
        return False

    @property
    def _busy(self) -> bool:
        return bool(self._todo or self._todo_frameworks or self._todo_agents)

    def _render_task(self, framework_id: str, task_id: str) -> None:
        framework = self.cluster.frameworks.get(framework_id)
        view = self._frameworks.get(framework_id)
        if framework is None:
            self._frameworks.pop(framework_id, None)
            return
        if view is None:
            view = self._frameworks[framework_id] = _Framework()
        task = framework.tasks.get(task_id)
        if task is None:
            view.tasks.drop(task_id)
            view.uncount(task_id)
            return
        view.tasks.put(task_id, legacy_json.task(task))
        view.count(task)

    def _render_agent(self, agent_id: str) -> None:
        agent = self.cluster.agents.get(agent_id)
        if agent is None:
            self._agents.drop(agent_id)
            self._summaries.drop(agent_id)
            return
        summary = legacy_json.agent_summary(agent)
        self._agents.put(agent_id, _encode(summary))
        self._summaries.put(agent_id, _encode(summary | _agent_counts(agent)))

    def agents(self) -> Iterator[bytes]:
        """JSON of all agents, with commas."""
        return self._agents.pieces()

    def agent_summaries(self) -> Iterator[bytes]:
        """JSON of all agents with task counters, with commas."""
        return self._summaries.pieces()

    def framework(self, framework: FrameworkRecord) -> Iterator[bytes]:
        """JSON of one framework with all its tasks."""
        view = self._frameworks.setdefault(framework.framework_id, _Framework())
        head = _encode(legacy_json.framework_head(framework, self._used(framework, view)))
        yield head[:-1]
        yield b',"tasks":['
        yield from view.tasks.pieces()
        yield b'],"unreachable_tasks":['
        yield from separated(self._past(view, list(framework.unreachable_tasks.values())))
        yield b'],"completed_tasks":['
        yield from separated(self._past(view, list(framework.completed_tasks)))
        yield b"]}"
        keep = {id(task) for task in framework.unreachable_tasks.values()}
        keep |= {id(task) for task in framework.completed_tasks}
        if len(view.past) > len(keep):
            view.past = {key: value for key, value in view.past.items() if key in keep}

    def frameworks(self) -> Iterator[bytes]:
        """JSON of all frameworks that are not completed, with commas."""
        for index, framework in enumerate(list(self.cluster.frameworks.values())):
            if index:
                yield b","
            yield from self.framework(framework)

    def completed_frameworks(self) -> Iterator[bytes]:
        """JSON of completed frameworks, with commas."""
        for index, framework in enumerate(list(self.cluster.completed_frameworks.values())):
            if index:
                yield b","
            yield from self.framework(framework)

    def framework_summaries(self) -> Iterator[bytes]:
        """JSON of all frameworks with task counters, with commas."""
        for index, framework in enumerate(list(self.cluster.frameworks.values())):
            if index:
                yield b","
            view = self._frameworks.setdefault(framework.framework_id, _Framework())
            states = Counter(view.states)
            states.update(task.state for task in framework.unreachable_tasks.values())
            states.update(task.state for task in framework.completed_tasks)
            slave_ids = set(view.agents)
            slave_ids.update(task.agent_id for task in framework.completed_tasks)
            summary = legacy_json.framework_summary(framework, self._used(framework, view))
            yield _encode(
                summary | legacy_json.state_counts(states) | {"slave_ids": sorted(slave_ids)}
            )

    def tasks(self) -> Iterator[list[bytes]]:
        """JSON of every task that `/tasks` lists, in no particular order, some at a time."""
        for view in list(self._frameworks.values()):
            for chunk in view.tasks.chunks:
                yield list(chunk.items.values())
        for framework in (
            *self.cluster.frameworks.values(),
            *self.cluster.completed_frameworks.values(),
        ):
            view = self._frameworks.setdefault(framework.framework_id, _Framework())
            for task in self._past(view, list(framework.unreachable_tasks.values())):
                yield [task]
            for task in self._past(view, list(framework.completed_tasks)):
                yield [task]

    @staticmethod
    def _used(framework: FrameworkRecord, view: _Framework) -> Resources:
        executors = Resources.sum(record.resources for record in framework.executors.values())
        return Resources.sum([view.scalars, executors, *view.others])

    @staticmethod
    def _past(view: _Framework, tasks: Iterable[TaskRecord]) -> Iterator[bytes]:
        for task in tasks:
            known = view.past.get(id(task))
            if known is None or known[0].state is not task.state:
                known = view.past[id(task)] = (task, legacy_json.task(task))
            yield known[1]


def _agent_counts(agent: AgentRecord) -> dict[str, Any]:
    states: Counter[TaskState] = Counter(
        task.state for tasks in agent.tasks.values() for task in tasks.values()
    )
    framework_ids = sorted(key for key, tasks in agent.tasks.items() if tasks)
    return legacy_json.state_counts(states) | {"framework_ids": framework_ids}
