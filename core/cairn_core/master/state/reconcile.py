"""What a framework is told when it asks for the states of its tasks.

Source: Apache Mesos `docs/reconciliation.md` and `src/master/master.cpp` (`_reconcileTasks`).
"""

import msgspec

from cairn_core.master.state import tasks
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import FrameworkRecord, TaskRecord
from cairn_core.mesos import types
from cairn_core.mesos.scheduler_api import Reconcile
from cairn_core.mesos.types import Reason, Source, TaskState, TaskStatus

_LATEST = "Reconciliation: Latest task state"


def reconcile(c: Cluster, framework: FrameworkRecord, call: Reconcile) -> None:
    """Answer RECONCILE: every task when none is named."""
    c.counts["master/messages_reconcile_tasks"] += 1
    if not call.tasks:
        for task in framework.tasks.values():
            tasks.send(c, framework, _known(c, framework, task))
        return
    for asked in call.tasks:
        agent_id = asked.agent_id.value if asked.agent_id is not None else None
        explicit(c, framework, asked.task_id.value, agent_id)


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
