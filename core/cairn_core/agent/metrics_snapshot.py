"""The agent's numbers under the original's names, as `/metrics/snapshot` serves them.

Source: mesos docs/monitoring.md; telegraf and mesos_exporter read these. Gauges come from the
tables, counters from the rules; what only the shell measures is added there.
"""

from cairn_core.agent.launching import used
from cairn_core.agent.records import ExecutorState
from cairn_core.agent.state import AgentState
from cairn_core.mesos.types import AgentInfo, TaskState
from cairn_core.resources import Resources

NAMES = ("cpus", "gpus", "mem", "disk")
LIVE = (TaskState.STAGING, TaskState.STARTING, TaskState.RUNNING, TaskState.KILLING)
#: Counters that scrapers expect also before the first event.
COUNTERS = (
    "tasks_finished", "tasks_failed", "tasks_killed", "tasks_lost", "tasks_gone",
    "valid_status_updates", "invalid_status_updates", "valid_framework_messages",
    "invalid_framework_messages", "executors_terminated", "executors_preempted",
)  # fmt: skip


def snapshot(state: AgentState, info: AgentInfo) -> dict[str, float]:
    """Every number that the tables tell; O(tasks)."""
    out = {f"slave/{name}": float(state.counters[name]) for name in COUNTERS}
    executors = list(state.containers.values())
    total, held = Resources.from_wire(info.resources), used(executors)
    for name in NAMES:
        whole, part = total.scalar(name) / 1000, held.scalar(name) / 1000
        out[f"slave/{name}_total"] = whole
        out[f"slave/{name}_used"] = part
        out[f"slave/{name}_percent"] = part / whole if whole else 0.0
        for kind in ("total", "used", "percent"):
            out[f"slave/{name}_revocable_{kind}"] = 0.0
    tasks = [task for executor in executors for task in executor.live]
    for task_state in LIVE:
        name = task_state.removeprefix("TASK_").lower()
        out[f"slave/tasks_{name}"] = float(sum(task.state is task_state for task in tasks))
    for executor_state in (
        ExecutorState.REGISTERING,
        ExecutorState.RUNNING,
        ExecutorState.TERMINATING,
    ):
        out[f"slave/executors_{executor_state.value.lower()}"] = float(
            sum(executor.state is executor_state for executor in executors)
        )
    out["slave/frameworks_active"] = float(len(state.frameworks))
    out["slave/registered"] = float(state.master.registered)
    return out
