"""What a framework is told when it asks for the states of its tasks.

Source: Apache Mesos `docs/reconciliation.md` and `src/master/master.cpp` (`_reconcileTasks`).
"""

import msgspec

from cairn_core.extensions import FrameworkId
from cairn_core.master.state import tasks
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import FrameworkRecord, TaskRecord
from cairn_core.mesos import types
from cairn_core.mesos.scheduler_api import Reconcile
from cairn_core.mesos.types import Reason, Source, TaskState, TaskStatus

#: Answers sent at once, and the time to the next part in seconds.
PART = 250
PART_S = 0.025
#: Answers of one framework that may wait.
MAX_WAITING = 500_000

_LATEST = "Reconciliation: Latest task state"


def reconcile(c: Cluster, framework: FrameworkRecord, call: Reconcile) -> None:
    """Answer RECONCILE: every task when none is named.

    More than `PART` answers go out one part after the other, so that neither the framework's
    stream overflows nor anybody else has to wait long.
    """
    c.counts["master/messages_reconcile_tasks"] += 1
    waiting = framework.reconciling
    idle = not waiting
    if call.tasks:
        if len(waiting) + len(call.tasks) > MAX_WAITING:
            c.counts["master/dropped_messages"] += 1
            return
        for asked in call.tasks:
            agent_id = asked.agent_id.value if asked.agent_id is not None else None
            waiting.append((asked.task_id.value, agent_id, True))
    elif not framework.implicit:
        framework.implicit = True
        waiting.extend((task.task_id, task.agent_id, False) for task in framework.tasks.values())
    if idle:
        answer_some(c, framework.framework_id)


def answer_some(c: Cluster, framework_id: str) -> None:
    """Answer a part of what waits, and come back for the rest."""
    framework = c.frameworks.get(FrameworkId(framework_id))
    if framework is None:
        return
    waiting = framework.reconciling
    if not framework.connected:
        waiting.clear()
    for _ in range(min(PART, len(waiting))):
        task_id, agent_id, named = waiting.popleft()
        if named or task_id in framework.tasks:
            explicit(c, framework, task_id, agent_id)
    if waiting:
        c.wake_at(c.now + PART_S, "reconcile", framework_id)
    else:
        framework.implicit = False


def explicit(c: Cluster, framework: FrameworkRecord, task_id: str, agent_id: str | None) -> None:
    """Answer for one task, unless an agent that may have it is still expected back."""
    task = framework.tasks.get(task_id)
    if task is not None:
        tasks.send(c, framework, _known(c, framework, task))
        return
    if (agent_id in c.recovered_agents) if agent_id is not None else c.recovered_agents:
        return
    status = _unknown(c, framework, task_id, agent_id)
    state = status.state.for_framework(partition_aware=framework.partition_aware)
    tasks.send(c, framework, msgspec.structs.replace(status, state=state))


def _known(c: Cluster, framework: FrameworkRecord, task: TaskRecord) -> TaskStatus:
    """The state that was last forwarded, with what else the newest status said."""
    state = task.status_update_state or task.state
    status = tasks.made_up(c, task, state, Source.MASTER, Reason.RECONCILIATION, _LATEST)
    if task.statuses:
        newest = msgspec.json.decode(task.statuses[-1].json, type=TaskStatus)
        status = msgspec.structs.replace(
            status,
            healthy=newest.healthy,
            labels=newest.labels,
            container_status=newest.container_status,
            check_status=newest.check_status,
        )
    return status


def _unknown(
    c: Cluster, framework: FrameworkRecord, task_id: str, agent_id: str | None
) -> TaskStatus:
    lost = framework.unreachable_tasks.get(task_id)
    if lost is not None and agent_id is None:
        agent_id = lost.agent_id
    unreachable = c.unreachable_agents.get(agent_id) if agent_id is not None else None
    since = None
    if unreachable is not None or lost is not None:
        state, message = TaskState.UNREACHABLE, "Reconciliation: Task is unreachable"
        if unreachable is not None:
            since = types.TimeInfo(int(unreachable.time * 1e9))
    elif agent_id is not None and agent_id in c.agents:
        state, message = TaskState.GONE, "Reconciliation: Task is gone"
    elif agent_id is not None and agent_id in c.gone_agents:
        state = TaskState.GONE_BY_OPERATOR
        message = "Reconciliation: Task is gone, its agent was marked gone by an operator"
    else:
        state, message = TaskState.UNKNOWN, "Reconciliation: Task is unknown"
    status = tasks.status_of(
        c, task_id, agent_id, state, Source.MASTER, Reason.RECONCILIATION, message
    )
    return msgspec.structs.replace(status, unreachable_time=since)
