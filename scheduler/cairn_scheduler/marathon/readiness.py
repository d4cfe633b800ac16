"""Readiness checks: whether a new instance of a deployment may count.

The first call is made at once, the next ones every interval until the first success. Nothing of
this is kept: a new leader asks again. Source: the released Marathon's readiness checks.
"""

import heapq
from random import Random
from typing import Any

from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.effects import Probe, Probed
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.ports import task_ports

READINESS = "readiness"
READY_STATUSES = (200,)
#: Longest text of an answer that is shown, characters.
MAX_BODY = 10_000


class ReadinessRules:
    """The instances that are asked, by task."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[Instance, App]] = {}
        self._ready: set[str] = set()
        self._heap: list[tuple[float, str]] = []

    def is_ready(self, instance: Instance) -> bool:
        """Whether the running task of an instance has been ready."""
        return instance.task is not None and instance.task.id in self._ready

    def ask(self, instance: Instance, app: App, *, now: float) -> None:
        """Ask a running instance of a deployment until it is ready. Twice does no harm."""
        task = instance.task
        if task is None or instance.condition is not Condition.RUNNING or not app.readiness_checks:
            return
        if task.id in self._ready or task.id in self._asked:
            return
        self._asked[task.id] = (instance, app)
        heapq.heappush(self._heap, (now, task.id))

    def forget(self, instance: Instance) -> None:
        """The deployment or the task is over."""
        if instance.task is not None:
            self._asked.pop(instance.task.id, None)
            self._ready.discard(instance.task.id)

    def deadline(self) -> float | None:
        """When the next probe is due."""
        return self._heap[0][0] if self._heap else None

    def due(self, *, now: float) -> list[Probe]:
        """The probes to run now."""
        probes = []
        while self._heap and self._heap[0][0] <= now:
            _, task_id = heapq.heappop(self._heap)
            asked = self._asked.get(task_id)
            probe = _probe(*asked) if asked is not None else None
            if probe is not None:
                probes.append(probe)
        return probes

    def result(self, probed: Probed, *, now: float) -> tuple[str, dict[str, Any]] | None:
        """A probe came back: (instance id, the result as it is shown), None for a stranger."""
        _, task_id, _ = probed.key
        asked = self._asked.get(task_id)
        if asked is None:
            return None
        instance, app = asked
        check = app.readiness_checks[0]
        ready = probed.status in (check.http_status_codes_for_ready or READY_STATUSES)
        shown: dict[str, Any] = {"name": check.name, "taskId": task_id, "ready": ready}
        if check.preserve_last_response and probed.status:
            shown["lastResponse"] = {
                "status": probed.status,
                "contentType": probed.content_type,
                "body": probed.body[:MAX_BODY],
            }
        if ready:
            self._ready.add(task_id)
            del self._asked[task_id]
        else:
            heapq.heappush(self._heap, (now + max(1.0, float(check.interval_seconds)), task_id))
        return instance.id, shown


def _probe(instance: Instance, app: App) -> Probe | None:
    """How the check asks; None where there is no port of that name."""
    check, task, agent = app.readiness_checks[0], instance.task, instance.agent
    if task is None or agent is None:
        return None
    for port in task_ports(app, task.host_ports, Random(0)):
        if port.name == check.port_name:
            return Probe(
                key=(READINESS, task.id, 0),
                scheme=check.protocol.lower(),
                host=agent.hostname,
                port=port.told,
                path=check.path,
                timeout_s=float(check.timeout_seconds),
                statuses=check.http_status_codes_for_ready or READY_STATUSES,
                keep_body=check.preserve_last_response,
            )
    return None
