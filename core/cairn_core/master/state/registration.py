"""Taking in what an agent brings along: its frameworks, executors and tasks.

After a change of masters this is how the master learns what runs; after a broken link it finds
out what master and agent disagree on. What the agent has, is; what only the master has, the agent
is asked about (`Registered.expected`). Source: Apache Mesos `src/master/master.cpp`
(`__reregisterSlave`, `reconcileKnownSlave`).
"""

import msgspec

from cairn_core.extensions import AgentId, FrameworkId
from cairn_core.master.registry import AgentStanding, agent_record
from cairn_core.master.state import agents, frameworks, ports, tasks
from cairn_core.master.state.cluster import Cluster, Joining
from cairn_core.master.state.effects import (
    AgentChanged,
    Change,
    CloseLink,
    TaskChanged,
    ToLink,
)
from cairn_core.master.state.framework_info import FrameworkError, minimums, roles_of
from cairn_core.master.state.ids import fault_of_id
from cairn_core.master.state.records import (
    AgentRecord,
    ExecutorRecord,
    FrameworkRecord,
    KeptStatus,
    KnownAgent,
    StaticTask,
    TaskRecord,
)
from cairn_core.master.state.validation import executor_bytes, interned
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.agent_api import Admission, Inventory
from cairn_core.mesos.types import Reason, Source, TaskState
from cairn_core.resources import ResourceError, Resources
from cairn_core.roles import DEFAULT_ROLE

#: Statuses of a returning task that are kept: one per state.
_MAX_STATUSES = len(TaskState)


def inventory(c: Cluster, link: int, part: Inventory) -> None:
    """A part of the list; the last one registers the agent."""
    joining = c.joining.get(link)
    if joining is None:
        c.emit(CloseLink(link))
        return
    joining.tasks += len(part.tasks) + len(part.executors) + len(part.frameworks)
    if joining.tasks > c.settings.max_agent_tasks:
        del c.joining[link]
        fault = f"agent lists more than {c.settings.max_agent_tasks} tasks and executors"
        c.emit(ToLink(link, Admission(30.0, fault)))
        return
    joining.parts.append(part)
    if not part.last:
        return
    agent_id = joining.agent_id
    if agent_id in c.transitions:
        # It is being given up just now: it starts over when that is written.
        del c.joining[link]
        c.emit(ToLink(link, Admission(1.0)))
        return
    if agent_id in c.agents or agent_id in c.recovered_agents:
        _register(c, joining, agent_id)
        return
    # Unreachable, or forgotten by the registry: it is admitted anew first.
    c.transitions.add(agent_id)
    info = agents.info_bytes(joining.hello.info, agent_id)

    def admitted() -> None:
        c.transitions.discard(agent_id)
        if c.joining.get(link) is joining:
            _register(c, joining, agent_id)
        else:
            c.unreachable_agents.pop(agent_id, None)
            hostname = joining.hello.info.hostname
            c.recovered_agents[agent_id] = KnownAgent(agent_id, info, hostname)
            c.wake_at(c.now + c.settings.agent_reregister_timeout_s, "recovered", agent_id)

    c.store([agent_record(agent_id, AgentStanding.ADMITTED, info)], admitted)


def _register(c: Cluster, joining: Joining, agent_id: AgentId) -> None:
    """The inventory is complete and the registry has the agent."""
    del c.joining[joining.link]
    c.unheard.pop(joining.hello.session, None)
    agent = c.agents.get(agent_id)
    known = agent is not None
    was_unreachable = c.unreachable_agents.pop(agent_id, None) is not None
    c.recovered_agents.pop(agent_id, None)
    if agent is None:
        agent = agents.new_record(c, joining.hello, agent_id)
        new = joining.hello.agent_id is None
        c.counts[f"master/slave_{'registrations' if new else 'reregistrations'}"] += 1
        if not new:
            agent.reregistered_time = c.wall
    else:
        agents.refresh_record(c, agent, joining.hello)
        ports.fit(agent)
        agent.reregistered_time = c.wall
        c.counts["master/slave_reregistrations"] += 1
    merge = _Merge(c, agent, known, was_unreachable)
    expected = merge.take_in(joining.parts)
    agent.connected = True
    agent.active = not agent.deactivated
    agent.deadline = None
    agent.link = joining.link
    agent.session = joining.hello.session
    agent.pings = 0
    c.links[joining.link] = agent_id
    if known:
        c.allocator.update_agent(ports.for_allocator(agent))
        if agent.active:
            c.allocator.activate_agent(agent_id)
    else:
        used = {FrameworkId(f): roles for f, roles in agent.used.items()}
        c.allocator.add_agent(ports.for_allocator(agent), used)
    c.command(agent, agent_api.Registered(expected))
    merge.tell_of_frameworks()
    for key, policy in agent.kills.items():
        tasks.command_kill(c, agent, key, policy)
    agent.kills.clear()
    agents.start_pings(c, agent)
    c.emit(AgentChanged(agent, Change.UPDATED if known else Change.ADDED))
    c.allocate_soon()


class _Merge:
    """Puts what an agent lists beside what the master knows of it."""

    def __init__(self, c: Cluster, agent: AgentRecord, known: bool, was_unreachable: bool) -> None:
        self.c = c
        self.agent = agent
        #: The allocator knows the agent already, and must be told of what is new there.
        self.known = known
        self.was_unreachable = was_unreachable
        #: Frameworks that ended, or changed, while the agent was away.
        self.strangers: dict[str, None] = {}
        self.outdated: list[types.FrameworkInfo] = []

    def take_in(self, parts: list[Inventory]) -> tuple[agent_api.Expected, ...]:
        """Merge; returns the tasks that the master expected beside those listed."""
        for part in parts:
            for info in part.frameworks:
                self._framework(info)
        listed_executors = {
            (e.framework_id.value, e.info.executor_id.value) for p in parts for e in p.executors
        }
        listed_tasks = {(t.framework_id.value, t.task_id.value) for p in parts for t in p.tasks}
        expected = self._drop_unlisted(listed_executors, listed_tasks)
        for part in parts:
            for executor in part.executors:
                self._executor(executor)
        for part in parts:
            for task in part.tasks:
                self._task(task)
        return expected

    def tell_of_frameworks(self) -> None:
        """Tell the agent, behind Registered, of frameworks that ended or changed."""
        c = self.c
        for framework_id in self.strangers:
            end = agent_api.ShutdownFramework(
                c.epoch, c.operation_id(), types.FrameworkID(framework_id)
            )
            c.command(self.agent, end)
        for info in self.outdated:
            c.command(self.agent, agent_api.UpdateFramework(c.epoch, info))

    def _framework(self, info: types.FrameworkInfo) -> None:
        if info.id is None or fault_of_id(info.id.value):
            return
        framework_id = info.id.value
        if framework_id in self.c.completed_frameworks:
            self.strangers[framework_id] = None
            return
        framework = self.c.frameworks.get(FrameworkId(framework_id))
        if framework is not None:
            if framework.info != info and not framework.recovered:
                self.outdated.append(framework.info)
            return
        try:
            roles_of(info)
            minimums(info)
        except FrameworkError:
            self.strangers[framework_id] = None
            return
        frameworks.recover(self.c, info)

    def _owner(self, framework_id: str) -> FrameworkRecord | None:
        framework = self.c.frameworks.get(FrameworkId(framework_id))
        if framework is None:
            self.strangers[framework_id] = None
        return framework

    def _drop_unlisted(
        self, executors: set[tuple[str, str]], listed: set[tuple[str, str]]
    ) -> tuple[agent_api.Expected, ...]:
        for framework_id, of_framework in list(self.agent.executors.items()):
            for executor in list(of_framework.values()):
                if (framework_id, executor.executor_id) not in executors:
                    owner = self.c.frameworks[executor.framework_id]
                    tasks.remove_executor(self.c, owner, executor)
        return tuple(
            agent_api.Expected(
                types.FrameworkID(framework_id),
                types.TaskID(task.task_id),
                self.c.frameworks[task.framework_id].partition_aware,
            )
            for framework_id, of_framework in self.agent.tasks.items()
            for task in of_framework.values()
            if (framework_id, task.task_id) not in listed
        )

    def _executor(self, executor: agent_api.Executor) -> None:
        framework = self._owner(executor.framework_id.value)
        if framework is None:
            return
        key = (self.agent.agent_id, executor.info.executor_id.value)
        if key in framework.executors:
            return
        try:
            resources = interned(executor.info.resources)
        except ResourceError:
            self.c.counts["master/dropped_messages"] += 1
            return
        record = ExecutorRecord(
            key[1],
            framework.framework_id,
            self.agent.agent_id,
            role_of(executor.info.resources, framework),
            resources,
            executor_bytes(executor.info, framework.framework_id),
        )
        tasks.add_executor(self.c, framework, self.agent, record)
        self._taken(record)

    def _task(self, task: types.Task) -> None:
        framework = self._owner(task.framework_id.value)
        if framework is None:
            return
        record = framework.tasks.get(task.task_id.value)
        if record is None:
            self._new_task(framework, task)
        elif record.agent_id == self.agent.agent_id and record.state != task.state:
            if not record.state.is_terminal:
                record.state = task.state
                if task.state.is_terminal:
                    tasks.free(self.c, record)
                self.c.emit(TaskChanged(record, Change.UPDATED))
        elif record.agent_id != self.agent.agent_id:
            # The same id runs elsewhere already: this one was forgotten, and is one too many.
            self.agent.kills[(framework.framework_id, task.task_id.value)] = None

    def _new_task(self, framework: FrameworkRecord, task: types.Task) -> None:
        try:
            resources = interned(task.resources)
        except ResourceError:
            self.c.counts["master/dropped_messages"] += 1
            return
        record = returned(task, self.agent.agent_id, framework, resources)
        framework.unreachable_tasks.pop(record.task_id, None)
        tasks.add(self.c, framework, self.agent, record)
        if record.holds:
            self._taken(record)
        if self.was_unreachable and not record.state.is_terminal:
            status = tasks.made_up(
                self.c, record, record.state, Source.MASTER, Reason.AGENT_REREGISTERED,
                "Unreachable agent re-registered",
            )  # fmt: skip
            tasks.send(self.c, framework, status)

    def _taken(self, what: TaskRecord | ExecutorRecord) -> None:
        if self.known:
            self.c.allocator.allocate_used(
                what.framework_id, what.agent_id, what.role, what.resources
            )


def role_of(resources: tuple[types.Resource, ...], framework: FrameworkRecord) -> str:
    """The role that resources are allocated to."""
    for resource in resources:
        if resource.allocation_info is not None and resource.allocation_info.role is not None:
            return resource.allocation_info.role
    return next(iter(sorted(framework.roles)), DEFAULT_ROLE)


def returned(
    task: types.Task, agent_id: AgentId, framework: FrameworkRecord, resources: Resources
) -> TaskRecord:
    """The record of a task that an agent lists."""
    static = StaticTask(**{name: getattr(task, name) for name in StaticTask.__struct_fields__})
    kept: dict[TaskState, KeptStatus] = {}
    for status in task.statuses[-_MAX_STATUSES:]:
        bare = msgspec.structs.replace(status, data=None, uuid=None, message=None)
        kept.pop(status.state, None)
        kept[status.state] = KeptStatus(status.state, msgspec.json.encode(bare))
    return TaskRecord(
        task.task_id.value,
        framework.framework_id,
        agent_id,
        task.executor_id.value if task.executor_id is not None else None,
        task.name,
        role_of(task.resources, framework),
        resources,
        task.state,
        msgspec.json.encode(static),
        holds=not task.state.is_terminal,
        status_update_state=task.status_update_state,
        status_update_uuid=task.status_update_uuid,
        statuses=tuple(kept.values()),
        healthy=task.statuses[-1].healthy if task.statuses else None,
    )
