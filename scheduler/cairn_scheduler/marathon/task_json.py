"""Tasks, their health and their counts as the API shows them.

Source: the released Marathon's task JSON and its task counts. For a task that Mesos does not run
any more `ports`, `stagedAt`, `startedAt` and `version` are missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cairn_core.mesos.types import TaskState
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.events import addresses_json
from cairn_scheduler.marathon.instances import Instance, TaskFailed
from cairn_scheduler.marathon.timestamps import timestamp


@dataclass(frozen=True, slots=True)
class Health:
    """Result of one health check for one instance; times in seconds since the epoch."""

    instance_id: str
    consecutive_failures: int = 0
    first_success: float | None = None
    last_success: float | None = None
    last_failure: float | None = None
    last_failure_cause: str | None = None

    @property
    def alive(self) -> bool:
        """Whether the last success is newer than the last failure."""
        if self.last_success is None:
            return False
        return self.last_failure is None or self.last_success > self.last_failure

    def as_json(self) -> dict[str, Any]:
        """The element of `healthCheckResults`."""
        body: dict[str, Any] = {
            "alive": self.alive,
            "consecutiveFailures": self.consecutive_failures,
            "instanceId": self.instance_id,
        }
        for key, at in (
            ("firstSuccess", self.first_success),
            ("lastSuccess", self.last_success),
            ("lastFailure", self.last_failure),
        ):
            if at is not None:
                body[key] = timestamp(at)
        if self.last_failure_cause is not None:
            body["lastFailureCause"] = self.last_failure_cause
        return body


def task_json(
    instance: Instance,
    health: Sequence[Health] = (),
    service_ports: Sequence[int] | None = None,
    *,
    with_check_result: bool = True,
    with_role: bool = True,
) -> dict[str, Any]:
    """A task. The instance must have one. service_ports: only `/v2/tasks` shows them.

    with_check_result, with_role: off for clients that fail on keys they do not know.
    """
    task, agent = instance.task, instance.agent
    assert task is not None
    assert agent is not None
    body: dict[str, Any] = {
        "appId": instance.app_id,
        "id": task.id,
        "host": agent.hostname,
        "slaveId": agent.agent_id,
        "state": instance.condition.task_state.value,
        "ipAddresses": list(addresses_json(task.addresses)),
        "healthCheckResults": [h.as_json() for h in health],
        "localVolumes": [
            {
                "runSpecId": instance.app_id,
                "containerPath": volume.split("#")[1] if volume.count("#") == 2 else "",
                "uuid": volume.rpartition("#")[2],
                "persistenceId": volume,
            }
            for volume in instance.volumes
        ],
    }
    if instance.condition.is_active:
        body["ports"] = list(task.ports)
        body["stagedAt"] = timestamp(task.staged_at)
        if task.started_at is not None:
            body["startedAt"] = timestamp(task.started_at)
        body["version"] = instance.version
    if service_ports is not None:
        body["servicePorts"] = list(service_ports)
    if task.check_result is not None and with_check_result:
        body["checkResult"] = task.check_result
    for key, value in (("region", agent.region), ("zone", agent.zone)):
        if value is not None:
            body[key] = value
    if with_role:
        body["role"] = instance.role
    return body


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tasks of an app are in which way."""

    staged: int = 0
    running: int = 0
    healthy: int = 0
    unhealthy: int = 0

    def as_app_keys(self) -> dict[str, int]:
        """The keys of an app."""
        return {
            "tasksStaged": self.staged,
            "tasksRunning": self.running,
            "tasksHealthy": self.healthy,
            "tasksUnhealthy": self.unhealthy,
        }


def counts(
    instances: Iterable[Instance], health: Mapping[str, Sequence[Health]] | None = None
) -> Counts:
    """Counts of tasks.

    health: results by instance. Tasks without results are neither healthy nor unhealthy.
    """
    health = health or {}
    staged = running = healthy = unhealthy = 0
    for instance in instances:
        if instance.task is None:
            continue
        state = instance.task.mesos_state
        staged += state in (None, TaskState.STAGING) and instance.condition.is_active
        if instance.condition.task_state is not TaskState.RUNNING:
            continue
        running += 1
        found = health.get(instance.id, ())
        if found:
            alive = all(h.alive for h in found)
            healthy += alive
            unhealthy += not alive
        elif instance.healthy is not None:
            healthy += instance.healthy
            unhealthy += not instance.healthy
    return Counts(staged, running, healthy, unhealthy)


def task_stats(
    app: App,
    instances: Sequence[Instance],
    health: Mapping[str, Sequence[Health]] | None = None,
    *,
    wall: float,
) -> dict[str, Any]:
    """The `taskStats` of an app; a part without tasks is missing."""
    scaled = app.version_info.last_scaling_at if app.version_info is not None else ""
    tasks = [i for i in instances if i.task is not None]
    parts = {
        "startedAfterLastScaling": [
            i for i in tasks if i.task is not None and timestamp(i.task.staged_at) >= scaled
        ],
        "withLatestConfig": [i for i in tasks if i.config_version >= app.config_version],
        "withOutdatedConfig": [i for i in tasks if i.config_version < app.config_version],
        "totalSummary": tasks,
    }
    body = {}
    for name, members in parts.items():
        if not members:
            continue
        number = counts(members, health)
        stats: dict[str, Any] = {
            "counts": {
                "staged": number.staged,
                "running": number.running,
                "healthy": number.healthy,
                "unhealthy": number.unhealthy,
            }
        }
        ages = [
            wall - i.task.started_at
            for i in members
            if i.task is not None and i.task.started_at is not None
        ]
        if ages:
            stats["lifeTime"] = {
                "averageSeconds": sum(ages) / len(ages),
                "medianSeconds": median(ages),
            }
        body[name] = {"stats": stats}
    return body


def task_failure_json(failure: TaskFailed, *, wall: float) -> dict[str, Any]:
    """The `lastTaskFailure` of an app."""
    instance, status = failure.instance, failure.status
    body: dict[str, Any] = {
        "appId": instance.app_id,
        "host": instance.agent.hostname if instance.agent is not None else "",
        "message": status.message or "",
        "state": status.state.value,
        "taskId": failure.task.id,
        "timestamp": timestamp(status.timestamp if status.timestamp is not None else wall),
        "version": instance.version,
    }
    if instance.agent is not None:
        body["slaveId"] = instance.agent.agent_id
    return body
