"""Tasks and executors: launched, updated, acknowledged, forgotten.

    STAGING -> STARTING -> RUNNING -> KILLING -> terminal; UNREACHABLE until the agent returns

Resources are given back at the first terminal state seen, ports after a rest (`ports`); the record
goes when the framework has acknowledged a terminal update. Source: Apache Mesos
`src/master/master.cpp` (`updateTask`, `removeTask`, `statusUpdate`, `acknowledge`, `kill`) and
`docs/task-state-reasons.md`.
"""

import msgspec

from cairn_core.master.state import ports, vips
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.effects import Change, TaskChanged
from cairn_core.master.state.records import (
    MAX_UNREACHABLE_TASKS,
    AgentRecord,
    ExecutorRecord,
    FrameworkRecord,
    KeptStatus,
    TaskRecord,
)
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.scheduler_api import Event
from cairn_core.mesos.types import Reason, Source, TaskState, TaskStatus
from cairn_core.resources import EMPTY, Resources

#: Reasons of updates that change what a check says, not the state.
_CHECKED = frozenset({Reason.TASK_CHECK_STATUS_UPDATED, Reason.TASK_HEALTH_CHECK_STATUS_UPDATED})


def made_up(
    c: Cluster,
    task: TaskRecord,
    state: TaskState,
    source: Source,
    reason: Reason | None,
    message: str,
) -> TaskStatus:
    """A status update that no agent sent: without uuid, so there is nothing to acknowledge."""
    return status_of(
        c, task.task_id, task.agent_id, state, source, reason, message, task.executor_id
    )


def status_of(
    c: Cluster,
    task_id: str,
    agent_id: str | None,
    state: TaskState,
    source: Source,
    reason: Reason | None,
    message: str,
    executor_id: str | None = None,
) -> TaskStatus:
    """As `made_up`, for a task that need not be known."""
    return TaskStatus(
        types.TaskID(task_id),
        state,
        message=message,
        source=source,
        reason=reason,
        agent_id=types.AgentID(agent_id) if agent_id is not None else None,
        executor_id=types.ExecutorID(executor_id) if executor_id is not None else None,
        timestamp=c.wall,
    )


def send(c: Cluster, framework: FrameworkRecord, status: TaskStatus) -> None:
    """Forward a status update."""
    c.tell(framework, Event(type="UPDATE", update=scheduler_api.Update(status)))


# What runs where


def hold(
    c: Cluster, agent: AgentRecord, framework_id: str, role: str, resources: Resources
) -> None:
    """Count resources as used on the agent; an executor may use none."""
    if not resources:
        return
    ports.take(c, agent, resources)
    roles = agent.used.setdefault(framework_id, {})
    roles[role] = roles.get(role, EMPTY) + resources


def release(
    c: Cluster, agent: AgentRecord, framework_id: str, role: str, resources: Resources
) -> None:
    """No longer used on the agent; its ports rest."""
    if not resources:
        return
    ports.rest(c, agent, resources)
    roles = agent.used[framework_id]
    # An agent may have listed two tasks with one port, which the first of them took along.
    left = roles[role].minus_common(resources)
    if left:
        roles[role] = left
        return
    del roles[role]
    if not roles:
        del agent.used[framework_id]


def add(c: Cluster, framework: FrameworkRecord, agent: AgentRecord, task: TaskRecord) -> None:
    """Put a task into the tables; its resources are allocated to it already."""
    framework.tasks[task.task_id] = task
    agent.tasks.setdefault(task.framework_id, {})[task.task_id] = task
    if task.holds:
        hold(c, agent, task.framework_id, task.role, task.resources)
    vips.added(c, framework, task)
    c.emit(TaskChanged(task, Change.ADDED))


def add_executor(
    c: Cluster, framework: FrameworkRecord, agent: AgentRecord, executor: ExecutorRecord
) -> None:
    """Put an executor into the tables; its resources are allocated to it already."""
    framework.executors[(executor.agent_id, executor.executor_id)] = executor
    agent.executors.setdefault(executor.framework_id, {})[executor.executor_id] = executor
    hold(c, agent, executor.framework_id, executor.role, executor.resources)


def remove_executor(c: Cluster, framework: FrameworkRecord, executor: ExecutorRecord) -> None:
    """Forget an executor and free what it held."""
    del framework.executors[(executor.agent_id, executor.executor_id)]
    agent = c.agents.get(executor.agent_id)
    if agent is not None:
        of_framework = agent.executors[executor.framework_id]
        del of_framework[executor.executor_id]
        if not of_framework:
            del agent.executors[executor.framework_id]
        release(c, agent, executor.framework_id, executor.role, executor.resources)
    _give_back(c, executor)


def free(c: Cluster, task: TaskRecord) -> None:
    """The task needs its resources no more."""
    if not task.holds:
        return
    task.holds = False
    agent = c.agents.get(task.agent_id)
    if agent is not None:
        release(c, agent, task.framework_id, task.role, task.resources)
    _give_back(c, task)


def _give_back(c: Cluster, what: TaskRecord | ExecutorRecord) -> None:
    c.allocator.recover(
        what.framework_id, what.agent_id, what.role, what.resources, refuse_s=None, now=c.now
    )
    c.allocate_soon()


def remove(
    c: Cluster, framework: FrameworkRecord, task: TaskRecord, *, unreachable: bool = False
) -> None:
    """Take a task out of the live ones, into the unreachable or the completed ones."""
    free(c, task)
    framework.tasks.pop(task.task_id, None)
    framework.unreachable_tasks.pop(task.task_id, None)
    agent = c.agents.get(task.agent_id)
    if agent is not None and (of_framework := agent.tasks.get(task.framework_id)):
        of_framework.pop(task.task_id, None)
        if not of_framework:
            del agent.tasks[task.framework_id]
    if unreachable:
        framework.unreachable_tasks[task.task_id] = task
        while len(framework.unreachable_tasks) > MAX_UNREACHABLE_TASKS:
            del framework.unreachable_tasks[next(iter(framework.unreachable_tasks))]
    else:
        framework.completed_tasks.append(task)
    vips.removed(c, task)
    c.emit(TaskChanged(task, Change.REMOVED))


# Status updates


def take_in(
    c: Cluster,
    framework: FrameworkRecord,
    task: TaskRecord,
    status: TaskStatus,
    latest: TaskState,
) -> None:
    """Store what an update says; frees the resources when the newest state ends the task.

    latest: the newest state that the agent knows, which may be ahead of `status`.
    """
    before = task.state
    if not task.state.is_terminal:
        task.state = latest
    told = task.status_update_uuid if status.uuid is not None else None
    task.status_update_state = status.state
    task.status_update_uuid = status.uuid
    if status.uuid is None or status.uuid != told:
        kept = msgspec.structs.replace(status, data=None, uuid=None, message=None)
        entry = KeptStatus(status.state, msgspec.json.encode(kept))
        task.statuses = (*(k for k in task.statuses if k.state != status.state), entry)
        healthy = task.healthy
        task.healthy = status.healthy
        if before != task.state or healthy != status.healthy or status.reason in _CHECKED:
            c.emit(TaskChanged(task, Change.UPDATED, status))
    if task.state != before:
        _count(c, task.state, status)
    if task.state.is_terminal or task.state is TaskState.UNREACHABLE:
        free(c, task)


def _count(c: Cluster, state: TaskState, status: TaskStatus) -> None:
    name = state.removeprefix("TASK_").lower()
    if state.is_terminal:
        c.counts[f"master/tasks_{name}"] += 1
        if status.source and status.reason:
            source = status.source.removeprefix("SOURCE_").lower().replace("agent", "slave")
            reason = status.reason.removeprefix("REASON_").lower().replace("agent", "slave")
            c.counts[f"master/task_{name}/source_{source}/reason_{reason}"] += 1


def updated(c: Cluster, agent: AgentRecord, message: agent_api.Update) -> None:
    """An agent sent a status update: forward it, take it in."""
    c.counts["master/messages_status_update"] += 1
    framework = c.frameworks.get(message.framework_id.value)
    status = message.status
    if framework is None:
        c.counts["master/invalid_status_updates"] += 1
        if message.framework_id.value in c.completed_frameworks:
            c.command(
                agent,
                agent_api.ShutdownFramework(c.epoch, c.operation_id(), message.framework_id),
            )
        return
    send(c, framework, status)
    task = agent.tasks.get(framework.framework_id, {}).get(status.task_id.value)
    if task is None:
        c.counts["master/invalid_status_updates"] += 1
        return
    c.counts["master/valid_status_updates"] += 1
    take_in(c, framework, task, status, message.latest_state)
    if status.uuid is None and status.state.is_terminal:
        remove(c, framework, task)  # nobody will acknowledge it


def acknowledge(c: Cluster, framework: FrameworkRecord, call: scheduler_api.Acknowledge) -> None:
    """The framework has an update; a terminal one ends the task's record."""
    c.counts["master/messages_status_update_acknowledgement"] += 1
    agent = c.agents.get(call.agent_id.value)
    if agent is None or not agent.connected:
        c.counts["master/invalid_status_update_acknowledgements"] += 1
        return
    c.counts["master/valid_status_update_acknowledgements"] += 1
    task = agent.tasks.get(framework.framework_id, {}).get(call.task_id.value)
    if (
        task is not None
        and task.status_update_uuid == call.uuid
        and task.status_update_state is not None
        and task.status_update_state.is_terminal
    ):
        remove(c, framework, task)
    c.command(
        agent,
        agent_api.Acknowledge(
            c.epoch, types.FrameworkID(framework.framework_id), call.task_id, call.uuid
        ),
    )


# Calls about running tasks


def kill(
    c: Cluster, framework: FrameworkRecord, task: TaskRecord, policy: types.KillPolicy | None
) -> None:
    """Ask the agent to end a task; remembered while it is away."""
    agent = c.agents.get(task.agent_id)
    if agent is None:
        return
    key = (framework.framework_id, task.task_id)
    if agent.connected:
        agent.kills.pop(key, None)
        command_kill(c, agent, key, policy)
    else:
        agent.kills[key] = policy


def command_kill(
    c: Cluster, agent: AgentRecord, key: tuple[str, str], policy: types.KillPolicy | None
) -> None:
    """Send one kill."""
    framework_id, task_id = key
    c.command(
        agent,
        agent_api.KillTask(
            c.epoch,
            c.operation_id(),
            types.FrameworkID(framework_id),
            types.TaskID(task_id),
            policy,
        ),
    )


def shut_down_executor(
    c: Cluster, framework: FrameworkRecord, call: scheduler_api.Shutdown
) -> None:
    """SHUTDOWN of an executor; dropped when the agent is not there."""
    c.counts["master/messages_shutdown_executor"] += 1
    agent = c.agents.get(call.agent_id.value)
    if agent is None or not agent.connected:
        c.counts["master/dropped_messages"] += 1
        return
    c.command(
        agent,
        agent_api.ShutdownExecutor(
            c.epoch,
            c.operation_id(),
            types.FrameworkID(framework.framework_id),
            call.executor_id,
        ),
    )


def message_to_executor(
    c: Cluster, framework: FrameworkRecord, call: scheduler_api.SchedulerMessage
) -> None:
    """MESSAGE: best effort."""
    c.counts["master/messages_framework_to_executor"] += 1
    agent = c.agents.get(call.agent_id.value)
    if agent is None or not agent.connected:
        c.counts["master/invalid_framework_to_executor_messages"] += 1
        return
    c.counts["master/valid_framework_to_executor_messages"] += 1
    c.command(
        agent,
        agent_api.ToExecutor(
            c.epoch, types.FrameworkID(framework.framework_id), call.executor_id, call.data
        ),
    )


def message_from_executor(c: Cluster, agent: AgentRecord, message: agent_api.FromExecutor) -> None:
    """Free-form data for a framework: best effort."""
    c.counts["master/messages_executor_to_framework"] += 1
    framework = c.frameworks.get(message.framework_id.value)
    if framework is None or not framework.connected:
        c.counts["master/invalid_executor_to_framework_messages"] += 1
        return
    c.counts["master/valid_executor_to_framework_messages"] += 1
    body = scheduler_api.SchedulerMessage(
        types.AgentID(agent.agent_id), message.executor_id, message.data
    )
    c.tell(framework, Event(type="MESSAGE", message=body))


def executor_exited(c: Cluster, agent: AgentRecord, message: agent_api.ExecutorExited) -> None:
    """An executor ended; the updates of its tasks come from the agent."""
    c.counts["master/messages_exited_executor"] += 1
    framework = c.frameworks.get(message.framework_id.value)
    if framework is None:
        return
    executor = framework.executors.get((agent.agent_id, message.executor_id.value))
    if executor is not None:
        remove_executor(c, framework, executor)
    failure = scheduler_api.Failure(
        types.AgentID(agent.agent_id), message.executor_id, message.status
    )
    c.tell(framework, Event(type="FAILURE", failure=failure))
