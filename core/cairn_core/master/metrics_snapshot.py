"""The master's numbers under the original's names, as `/metrics/snapshot` serves them.

Gauges are read off the tables, counters are the core's (`Cluster.counts`), the shell adds what only
it can measure. Source: docs/monitoring.md of the original; telegraf and mesos_exporter read these.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.records import FrameworkRecord
from cairn_core.mesos.types import TaskState
from cairn_core.resources import EMPTY, Resources, quantities

NAMES = ("cpus", "gpus", "mem", "disk")
#: Counters that scrapers expect to find also before the first event.
COUNTERS = (
    "master/slave_registrations", "master/slave_reregistrations", "master/slave_removals",
    "master/slave_removals/reason_registered", "master/slave_removals/reason_unhealthy",
    "master/slave_removals/reason_unregistered", "master/slave_unreachable_scheduled",
    "master/slave_unreachable_canceled", "master/slave_unreachable_completed",
    "master/slave_shutdowns_scheduled", "master/slave_shutdowns_canceled",
    "master/slave_shutdowns_completed", "master/recovery_slave_removals",
    "master/tasks_finished", "master/tasks_failed", "master/tasks_killed", "master/tasks_lost",
    "master/tasks_error", "master/tasks_dropped", "master/tasks_gone",
    "master/tasks_gone_by_operator", "master/valid_status_updates",
    "master/invalid_status_updates", "master/valid_status_update_acknowledgements",
    "master/invalid_status_update_acknowledgements", "master/dropped_messages",
    "master/messages_register_slave", "master/messages_reregister_slave",
    "master/messages_unregister_slave", "master/messages_status_update",
    "master/messages_exited_executor", "master/messages_launch_tasks",
    "master/messages_decline_offers", "master/messages_kill_task",
    "master/messages_reconcile_tasks", "master/messages_revive_offers",
    "master/messages_suppress_offers", "master/messages_status_update_acknowledgement",
    "master/messages_framework_to_executor", "master/messages_executor_to_framework",
    "master/messages_register_framework", "master/messages_reregister_framework",
    "master/messages_unregister_framework", "master/messages_deactivate_framework",
)  # fmt: skip
LIVE_STATES = (
    TaskState.STAGING, TaskState.STARTING, TaskState.RUNNING, TaskState.KILLING,
    TaskState.UNREACHABLE,
)  # fmt: skip


class Tally:
    """Sums over all agents and tasks, made in steps: run `steps`, then ask for `numbers`."""

    def __init__(self) -> None:
        self._totals = {False: Counter[str](), True: Counter[str]()}
        self._used = {False: Counter[str](), True: Counter[str]()}
        self._states: dict[str, Counter[TaskState]] = {}

    def steps(self, cluster: Cluster) -> Iterator[None]:
        """Add up; a step is an agent, or some thousand tasks."""
        for agent in list(cluster.agents.values()):
            _add(self._totals, (agent.total,))
            _add(self._used, (held for parts in agent.used.values() for held in parts.values()))
            yield
        for framework in list(cluster.frameworks.values()):
            own = self._states[framework.framework_id] = Counter()
            tasks = [*framework.tasks.values(), *framework.unreachable_tasks.values()]
            for start in range(0, len(tasks), 1000):
                own.update([task.state for task in tasks[start : start + 1000]])
                yield

    def numbers(self, cluster: Cluster, *, leads: bool, wall: float) -> dict[str, float]:
        """All numbers that the tables tell. wall: seconds since the epoch."""
        out: dict[str, float] = dict.fromkeys(COUNTERS, 0.0)
        out.update((name, float(count)) for name, count in cluster.counts.items())
        out["master/elected"] = float(leads)
        out["master/uptime_secs"] = wall - cluster.master.start_time
        self._resources(out)
        agents = cluster.agents.values()
        out["master/slaves_connected"] = float(sum(agent.connected for agent in agents))
        out["master/slaves_disconnected"] = float(sum(not agent.connected for agent in agents))
        out["master/slaves_active"] = float(sum(agent.active for agent in agents))
        out["master/slaves_inactive"] = float(sum(not agent.active for agent in agents))
        out["master/slaves_unreachable"] = float(len(cluster.unreachable_agents))
        frameworks = cluster.frameworks.values()
        out["master/frameworks_connected"] = float(sum(f.connected for f in frameworks))
        out["master/frameworks_disconnected"] = float(sum(not f.connected for f in frameworks))
        out["master/frameworks_active"] = float(sum(f.active for f in frameworks))
        out["master/frameworks_inactive"] = float(sum(not f.active for f in frameworks))
        out["master/vips"] = float(len(cluster.vips.addresses))
        out["master/vips_idle"] = float(len(cluster.vips.idle))
        out["master/vips_without_address"] = float(len(cluster.vips.refused))
        out["master/outstanding_offers"] = float(len(cluster.offers))
        states: Counter[TaskState] = Counter()
        for framework in frameworks:
            own = self._states.get(framework.framework_id, Counter())
            states.update(own)
            _framework(out, framework, own)
        for state in LIVE_STATES:
            out[f"master/tasks_{_short(state)}"] = float(states[state])
        return out

    def _resources(self, out: dict[str, float]) -> None:
        for revocable, suffix in ((False, ""), (True, "_revocable")):
            for name in NAMES:
                total = quantities.from_milli(self._totals[revocable][name])
                taken = quantities.from_milli(self._used[revocable][name])
                out[f"master/{name}{suffix}_total"] = total
                out[f"master/{name}{suffix}_used"] = taken
                out[f"master/{name}{suffix}_percent"] = taken / total if total else 0.0


def _add(sums: Mapping[bool, "Counter[str]"], parts: Iterable[Resources]) -> None:
    for part in parts:
        revocable = part.revocable() if any(kind.revocable for kind in part) else EMPTY
        plain = part.non_revocable() if revocable else part
        for name, amount in plain.quantities().items():
            sums[False][name] += amount
        for name, amount in revocable.quantities().items():
            sums[True][name] += amount


def _framework(
    out: dict[str, float], framework: FrameworkRecord, own: "Counter[TaskState]"
) -> None:
    prefix = f"master/frameworks/{quote(framework.info.name, safe='')}/{framework.framework_id}"
    out[f"{prefix}/subscribed"] = float(framework.connected)
    for state, count in own.items():
        if not state.is_terminal:
            out[f"{prefix}/tasks/active/{_short(state)}"] = float(count)
    for role in framework.roles:
        out[f"{prefix}/roles/{role}/suppressed"] = float(role in framework.suppressed)


def _short(state: TaskState) -> str:
    return state.removeprefix("TASK_").lower()


def system() -> dict[str, float]:
    """The machine's own numbers."""
    load = os.getloadavg()
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "system/cpus_total": float(os.cpu_count() or 1),
        "system/load_1min": load[0],
        "system/load_5min": load[1],
        "system/load_15min": load[2],
        "system/mem_total_bytes": float(os.sysconf("SC_PHYS_PAGES") * page),
        "system/mem_free_bytes": float(os.sysconf("SC_AVPHYS_PAGES") * page),
    }
