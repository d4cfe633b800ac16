"""Health checks that Marathon runs itself: when to probe, what the results mean, when to kill.

Failures within the grace period count only after a first success. While that is so, the first
probe is made at once and the next one after as much time as went by since, if that is less than
the interval: an instance that starts in a moment is healthy a moment later. Without grace the first
probe is made after the interval or `FIRST_S`, whichever is shorter, as in the original; in all
other cases the next one is an interval after the result. Results of checks that the executor runs
are kept here too, so that all are shown alike. Source: the released Marathon's health checks.
"""

import heapq
from dataclasses import dataclass, field, replace
from random import Random

from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.checks import HealthCheck
from cairn_scheduler.marathon.conditions import Condition
from cairn_scheduler.marathon.effects import Probe, Probed
from cairn_scheduler.marathon.instances import Instance
from cairn_scheduler.marathon.ports import task_ports
from cairn_scheduler.marathon.task_checks import check_port
from cairn_scheduler.marathon.task_json import Health

#: Longest wait for a first probe, seconds.
FIRST_S = 5.0
#: Shortest wait between two probes of an instance that is coming up, seconds.
SHORTEST_WAIT_S = 0.1
HEALTH = "health"


@dataclass(slots=True)
class Watched:
    """An instance that runs, with its checks and their results by index.

    since: when we began to look, on the monotonic clock.
    """

    instance: Instance
    app: App
    since: float
    results: dict[int, Health] = field(default_factory=dict)
    condemned: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result led to.

    check: the check that it is about. failed: it counts as a failure. turned: alive is otherwise
    than before, or known for the first time. kill: too many failures in a row.
    """

    watched: Watched
    check: HealthCheck
    health: Health
    failed: bool = False
    turned: bool = False
    kill: bool = False


class HealthRules:
    """Which instances are checked, and when next."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._watched: dict[str, Watched] = {}
        self._heap: list[tuple[float, str, str, int]] = []
        self._by_task: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def watched(self, instance_id: str) -> Watched | None:
        """What is known of an instance."""
        return self._watched.get(instance_id)

    def results(self, instance_id: str) -> tuple[Health, ...]:
        """Results of an instance in the order of its checks."""
        found = self._watched.get(instance_id)
        if found is None:
            return ()
        return tuple(health for _, health in sorted(found.results.items()))

    def follow(
        self, instance: Instance, app: App | None, results: dict[int, Health] | None, *, now: float
    ) -> None:
        """An instance is as given. It is checked while it runs, and forgotten when it has ended.

        results: of an earlier process, for an instance that is not known yet.
        """
        task = instance.task
        if task is None or app is None or not app.health_checks or _is_over(instance):
            self.forget(instance.id)
            return
        known = self._watched.get(instance.id)
        if known is not None and self._by_task.get(task.id) == instance.id:
            known.instance = instance
            return
        self.forget(instance.id)
        if instance.condition is not Condition.RUNNING:
            return
        self._watched[instance.id] = Watched(instance, app, now, dict(results or {}))
        self._by_task[task.id] = instance.id
        for index, check in enumerate(app.health_checks):
            if not check.by_mesos:
                first = min(float(check.interval_seconds), FIRST_S)
                if results is not None:
                    # After a restart all are due at once otherwise.
                    wait = first * self._rng.random()
                else:
                    wait = 0.0 if check.grace_period_seconds > 0 else first
                heapq.heappush(self._heap, (now + wait, task.id, instance.id, index))

    def forget(self, instance_id: str) -> None:
        """An instance is checked no more."""
        known = self._watched.pop(instance_id, None)
        if known is not None and known.instance.task is not None:
            self._by_task.pop(known.instance.task.id, None)

    def deadline(self) -> float | None:
        """When the next probe is due."""
        return self._heap[0][0] if self._heap else None

    def due(self, *, now: float) -> list[Probe]:
        """The probes to run now."""
        probes = []
        while self._heap and self._heap[0][0] <= now:
            _, task_id, instance_id, index = heapq.heappop(self._heap)
            known = self._watched.get(instance_id)
            if known is None or self._by_task.get(task_id) != instance_id or known.condemned:
                continue
            check = known.app.health_checks[index]
            probe = _probe(known, index)
            if probe is None or known.instance.condition is not Condition.RUNNING:
                # No port to ask, or nobody can reach it now: look again later.
                again = now + max(1.0, float(check.interval_seconds))
                heapq.heappush(self._heap, (again, task_id, instance_id, index))
                continue
            probes.append(probe)
        return probes

    def result(self, probed: Probed, *, now: float, wall: float) -> Verdict | None:
        """A probe came back; None where nobody asks for it any more."""
        _, task_id, index = probed.key
        known = self._watched.get(self._by_task.get(task_id, ""))
        if known is None or index >= len(known.app.health_checks):
            return None
        check = known.app.health_checks[index]
        interval = max(1.0, float(check.interval_seconds))
        before = known.results.get(index)
        coming_up = not probed.good and self._in_grace(known, check, before, wall)
        wait = max(now - known.since, SHORTEST_WAIT_S) if coming_up else interval
        heapq.heappush(self._heap, (now + min(wait, interval), task_id, known.instance.id, index))
        if known.instance.condition is not Condition.RUNNING:
            return None
        if check.ignore_http1xx and 100 <= probed.status < 200:
            return None
        if coming_up:
            return None
        return self._judge(known, index, probed.good, probed.failure, wall)

    def reported(self, instance_id: str, healthy: bool, *, wall: float) -> Verdict | None:
        """The executor says how an instance is; it kills by itself."""
        known = self._watched.get(instance_id)
        if known is None:
            return None
        for index, check in enumerate(known.app.health_checks):
            if check.by_mesos:
                verdict = self._judge(
                    known, index, healthy, "" if healthy else "check failed", wall
                )
                known.condemned = False
                return replace(verdict, kill=False)
        return None

    def _in_grace(
        self, known: Watched, check: HealthCheck, before: Health | None, wall: float
    ) -> bool:
        task = known.instance.task
        started = task.started_at if task is not None else None
        never_alive = before is None or before.first_success is None
        return never_alive and (
            started is None or wall - started < float(check.grace_period_seconds)
        )

    def _judge(self, known: Watched, index: int, good: bool, cause: str, wall: float) -> Verdict:
        check = known.app.health_checks[index]
        before = known.results.get(index)
        health = before or Health(known.instance.id)
        if good:
            first = health.first_success if health.first_success is not None else wall
            # Later than the last failure even where the clock does not move.
            at = max(wall, (health.last_failure or 0.0) + 0.001)
            health = replace(health, consecutive_failures=0, first_success=first, last_success=at)
        else:
            health = replace(
                health,
                consecutive_failures=health.consecutive_failures + 1,
                last_failure=max(wall, health.last_success or 0.0),
                last_failure_cause=cause,
            )
        known.results[index] = health
        limit = check.max_consecutive_failures
        kill = not good and 0 < limit <= health.consecutive_failures and not known.condemned
        known.condemned = known.condemned or kill
        return Verdict(
            known,
            check,
            health,
            failed=not good,
            turned=before is None or before.alive != health.alive,
            kill=kill,
        )


def _is_over(instance: Instance) -> bool:
    return instance.condition.is_terminal or instance.condition in (
        Condition.SCHEDULED,
        Condition.PROVISIONED,
    )


def _probe(known: Watched, index: int) -> Probe | None:
    """How a check asks; None where there is no port to ask."""
    instance, check = known.instance, known.app.health_checks[index]
    task, agent = instance.task, instance.agent
    if task is None or agent is None:
        return None
    try:
        ports = task_ports(known.app, task.host_ports, Random(0))
    except ValueError:
        return None
    port = check_port(check.port, check.port_index, ports, inside=False)
    if port is None:
        return None
    return Probe(
        key=(HEALTH, task.id, index),
        scheme=check.protocol.lower(),
        host=agent.hostname,
        port=port,
        path=check.path or "/",
        timeout_s=max(0.1, float(check.timeout_seconds)),
    )
