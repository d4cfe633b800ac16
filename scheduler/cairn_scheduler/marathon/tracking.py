"""Instances at work: changes into the tables, status updates, kills, expiry, reconciliation.

`Tracker.apply` is the one door by which an instance changes. It carries out what the instance's
rules say follows: events, failures, launch delays, kills.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import assert_never

from cairn_core.framework.reconciliation import Reconciliation
from cairn_core.mesos.scheduler_api import ReconcileTask
from cairn_core.mesos.types import AgentID, TaskID, TaskState, TaskStatus
from cairn_scheduler.marathon import events, instance_ids
from cairn_scheduler.marathon import instances as rules
from cairn_scheduler.marathon.conditions import Condition, Goal, condition_of
from cairn_scheduler.marathon.effects import AcknowledgeUpdate, ReconcileTasks, SendKill
from cairn_scheduler.marathon.errors import BadRequest
from cairn_scheduler.marathon.health import HealthRules, Verdict
from cairn_scheduler.marathon.instances import Change, Instance
from cairn_scheduler.marathon.readiness import ReadinessRules
from cairn_scheduler.marathon.store import HealthRecord, Ledger
from cairn_scheduler.marathon.task_json import Health
from cairn_scheduler.marathon.timestamps import timestamp

#: A kill that nobody answers is given up after this many attempts.
MAX_KILLS = 20
#: Longest message of a failure that is kept, characters.
MAX_MESSAGE = 4096
_TIMED = frozenset(
    {
        Condition.PROVISIONED,
        Condition.STAGING,
        Condition.STARTING,
        Condition.UNREACHABLE,
        Condition.UNREACHABLE_INACTIVE,
    }
)


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """Times in seconds; see the settings of the same names."""

    confirm_timeout_s: float = 300.0
    launch_timeout_s: float = 300.0
    kill_retry_s: float = 30.0
    kill_chunk: int = 100
    reconciliation_s: float = 600.0


@dataclass(slots=True)
class _Kill:
    """A task to be killed. sent_at: when last, None while it waits for its turn."""

    agent_id: str | None
    sent_at: float | None = None
    attempts: int = 0


class Tracker:
    """See the module. demand: apps with instances that wait since the last look."""

    def __init__(
        self,
        ledger: Ledger,
        health: HealthRules,
        readiness: ReadinessRules,
        settings: TrackerSettings,
        rng: Random,
    ) -> None:
        self.ledger = ledger
        self.health = health
        self.readiness = readiness
        self.demand: set[str] = set()
        self.launched = 0
        self.updates = 0
        self.connected = False
        self._settings = settings
        self._rng = rng
        self._timed: set[str] = set()
        #: When the launch delay of an app's configuration grew last, wall clock.
        self._delayed_at: dict[tuple[str, str], float] = {}
        self._kills: dict[str, _Kill] = {}
        self._in_flight = 0
        self._reconciliation = Reconciliation(rng, period_s=settings.reconciliation_s)

    # Recovery and connection

    def recover(self) -> None:
        """Take up the instances that were read from the log."""
        ledger, tables = self.ledger, self.ledger.tables
        for instance in tables.instances.values():
            kept = ledger.kept_health.get(instance.id)
            results = None
            if kept is not None and instance.task is not None and kept.task_id == instance.task.id:
                results = dict(kept.results)
            self._follow(instance, results if results is not None else {})
            if instance.is_scheduled:
                self.demand.add(instance.app_id)
            ending = instance.goal is not Goal.RUNNING and instance.condition.is_active
            if ending and instance.task is not None:
                self._kills[instance.task.id] = _Kill(_agent_id(instance))
        for task_id, agent_id in ledger.kills.items():
            self._kills.setdefault(task_id, _Kill(agent_id))

    def registered(self) -> None:
        """A subscription began: ask for all tasks, kill again what shall be killed."""
        self.connected = True
        self._reconciliation.subscribed(now=self.ledger.now)
        for kill in self._kills.values():
            kill.sent_at = None
        self._in_flight = 0
        self._send_kills()

    def disconnected(self) -> None:
        """The subscription is over."""
        self.connected = False
        self._reconciliation.disconnected()

    # Changes

    def apply(self, change: Change) -> Instance | None:
        """Make a change of an instance come true; returns what is left of it."""
        ledger = self.ledger
        before, after = change.before, change.after
        for effect in change.effects:
            self._carry_out(change, effect)
        if not change.is_change:
            return after
        if before is not None and (after is None or after.task != before.task):
            self._attempt_over(before, after)
        if after is None:
            assert before is not None
            self._timed.discard(before.id)
            self.health.forget(before.id)
            ledger.drop_instance(before)
            self.gone(before.app_id)
            return None
        ledger.put_instance(after)
        self._follow(after, None)
        if after.is_scheduled and not (before is not None and before.is_scheduled):
            self.demand.add(after.app_id)
        if after.condition in (Condition.UNREACHABLE, Condition.UNREACHABLE_INACTIVE):
            return self._expire(after)
        return after

    def _follow(self, instance: Instance, results: dict[int, Health] | None) -> None:
        """Keep the indices of an instance right."""
        ledger = self.ledger
        if instance.condition in _TIMED:
            self._timed.add(instance.id)
        else:
            self._timed.discard(instance.id)
        app = ledger.tables.app_of(instance)
        self.health.follow(instance, app, results, now=ledger.now)
        self._show_health(instance.id)

    def _show_health(self, instance_id: str) -> None:
        found = self.health.results(instance_id)
        shown = self.ledger.tables.health
        if found:
            shown[instance_id] = found
        else:
            shown.pop(instance_id, None)

    def _attempt_over(self, before: Instance, after: Instance | None) -> None:
        """The task of an instance is another one, or gone."""
        task = before.task
        if task is None or (after is not None and after.task and after.task.id == task.id):
            return
        self._killed(task.id)
        self.readiness.forget(before)
        self.ledger.tables.readiness.pop(before.id, None)
        self.ledger.drop_health(before.id)

    def gone(self, app_id: str) -> None:
        """An app or an instance is gone: with the last one of a removed app, all of it is."""
        tables = self.ledger.tables
        if app_id not in tables.root.apps and app_id not in tables.by_app:
            self.ledger.drop_failure(app_id)
            tables.backoff.reset(app_id)
            self.ledger.publish(events.AppTerminated(timestamp=self._stamp(), app_id=app_id))

    def _carry_out(self, change: Change, effect: rules.Effect) -> None:
        ledger = self.ledger
        match effect:
            case rules.ConditionChanged(instance, condition):
                ledger.publish(_instance_changed(instance, condition, self._stamp()))
            case rules.HealthChanged(instance, healthy):
                ledger.publish(
                    events.InstanceHealthChanged(
                        timestamp=self._stamp(),
                        instance_id=instance.id,
                        run_spec_id=instance.app_id,
                        run_spec_version=instance.version,
                        healthy=healthy,
                    )
                )
            case rules.StatusReported(instance, task, status):
                ledger.publish(_status_update(instance, task, status, self._stamp()))
            case rules.TaskFailed():
                if effect.instance.app_id in ledger.tables.root.apps:
                    checks = self.health.results(effect.instance.id)
                    ledger.put_failure(_shown(effect, checks))
            case rules.DelayLaunches(app_id):
                ledger.dirty.add(app_id)
                if change.before is not None:
                    self._delay(change.before)
            case rules.AdvanceDelay(app_id, config_version):
                ledger.tables.backoff.advance(app_id, config_version, now=ledger.now)
            case rules.KillTask(task_id, agent_id):
                if change.after is None:
                    # Nobody waits for it any more; should it come back it is killed as a stranger.
                    ledger.emit(SendKill(task_id, agent_id))
                else:
                    replaced = change.after.goal is Goal.RUNNING
                    self._kill(task_id, agent_id, keep=replaced)
            case rules.Launched():
                self.launched += 1
            case _:
                assert_never(effect)

    def _delay(self, failed: Instance) -> None:
        """Let the launch delay grow, once for all launches of before it grew last.

        Differs: the original counts each; where many are launched together and fail together,
        that would end at the longest delay at once.
        """
        ledger = self.ledger
        app, task = ledger.tables.app_of(failed), failed.task
        if app is None or task is None:
            return
        key = (app.id, app.config_version)
        if ledger.tables.backoff.deadline(app) is None:
            self._delayed_at.pop(key, None)
        if task.staged_at > self._delayed_at.get(key, -1.0):
            ledger.tables.backoff.grow(app, now=ledger.now)
            self._delayed_at[key] = ledger.wall

    def _stamp(self) -> str:
        return timestamp(self.ledger.wall)

    # Status updates

    def update(self, status: TaskStatus) -> None:
        """A task's state, from the master."""
        ledger = self.ledger
        self.updates += 1
        task_id = status.task_id.value
        self._reconciliation.answered(task_id)
        instance = self._instance_of(task_id)
        condition = condition_of(status)
        if instance is None:
            self._stranger(status, condition)
        else:
            ours = instance.task is not None and instance.task.id == task_id
            self.apply(rules.update(instance, status, wall=ledger.wall))
            if ours and status.healthy is not None:
                self._judged(self.health.reported(instance.id, status.healthy, wall=ledger.wall))
        if condition.is_terminal:
            self._killed(task_id)
        if status.uuid is not None:
            ledger.emit(AcknowledgeUpdate(status))

    def _instance_of(self, task_id: str) -> Instance | None:
        try:
            return self.ledger.tables.instances.get(instance_ids.parse_task_id(task_id).instance)
        except BadRequest:
            return None

    def _stranger(self, status: TaskStatus, condition: Condition) -> None:
        """A task of no instance: killed if it runs."""
        task_id = status.task_id.value
        if not condition.is_terminal:
            if not condition.is_lost:
                self._kill(
                    task_id,
                    status.agent_id.value if status.agent_id is not None else None,
                    keep=False,
                )
            return
        try:
            parsed = instance_ids.parse_task_id(task_id)
        except BadRequest:
            return
        self.ledger.publish(
            events.UnknownInstanceTerminated(
                timestamp=self._stamp(),
                instance_id=parsed.instance,
                run_spec_id=parsed.app,
                condition=condition.value,
            )
        )

    # Health

    def judge(self, verdict: Verdict | None) -> None:
        """A check of our own has a result."""
        self._judged(verdict)
        if verdict is None:
            return
        instance, app = verdict.watched.instance, verdict.watched.app
        if verdict.failed:
            self.ledger.publish(
                events.HealthCheckFailed(
                    timestamp=self._stamp(),
                    app_id=app.id,
                    health_check=verdict.check,
                    task_id=instance.id,
                )
            )
        if verdict.turned:
            self.ledger.publish(
                events.HealthStatusChanged(
                    timestamp=self._stamp(),
                    app_id=app.id,
                    instance_id=instance.id,
                    version=instance.version,
                    alive=verdict.health.alive,
                )
            )
        if verdict.kill and instance.task is not None:
            agent = instance.agent
            self.ledger.publish(
                events.UnhealthyInstanceKilled(
                    timestamp=self._stamp(),
                    app_id=app.id,
                    task_id=instance.task.id,
                    instance_id=instance.id,
                    version=instance.version,
                    reason=verdict.health.last_failure_cause or "",
                    host=agent.hostname if agent is not None else "",
                    slave_id=agent.agent_id if agent is not None else None,
                )
            )
            self.apply(rules.kill(instance))

    def _judged(self, verdict: Verdict | None) -> None:
        if verdict is None:
            return
        instance = verdict.watched.instance
        self._show_health(instance.id)
        if verdict.turned and instance.task is not None:
            # Only what turned is kept: the log need not hold every success.
            record = HealthRecord(instance.task.id, dict(verdict.watched.results))
            self.ledger.put_health(instance.id, record)
            self.ledger.dirty.add(instance.app_id)

    # Kills

    def _kill(self, task_id: str, agent_id: str | None, *, keep: bool) -> None:
        """Have a task killed until it is gone. keep: nothing else in the log says so."""
        if task_id in self._kills:
            return
        self._kills[task_id] = _Kill(agent_id)
        if keep:
            self.ledger.put_kill(task_id, agent_id)
        self._send_kills()

    def _killed(self, task_id: str) -> None:
        """A task is gone."""
        kill = self._kills.pop(task_id, None)
        if kill is not None and kill.sent_at is not None:
            self._in_flight -= 1
        self.ledger.drop_kill(task_id)
        if kill is not None:
            self._send_kills()

    def _send_kills(self) -> None:
        """Send kills while the limit allows it, the oldest first."""
        if not self.connected or self._in_flight >= self._settings.kill_chunk:
            return
        if self._in_flight >= len(self._kills):
            return
        for task_id, kill in self._kills.items():
            if kill.sent_at is None:
                kill.sent_at = self.ledger.now
                kill.attempts += 1
                self._in_flight += 1
                self.ledger.emit(SendKill(task_id, kill.agent_id))
                if self._in_flight >= self._settings.kill_chunk:
                    return

    @property
    def kills_in_flight(self) -> int:
        """Kills that were sent and not answered."""
        return self._in_flight

    # Time

    def deadline(self) -> float | None:
        """When to reconcile."""
        return self._reconciliation.deadline()

    def reconcile(self) -> None:
        """Ask for task states, if it is time."""
        if not self.connected:
            return
        for body in self._reconciliation.due(self._known_tasks(), now=self.ledger.now):
            self.ledger.emit(ReconcileTasks(body))

    def _known_tasks(self) -> Iterator[ReconcileTask]:
        for instance in self.ledger.tables.instances.values():
            if instance.task is not None and (
                instance.condition.is_active or instance.condition is Condition.UNREACHABLE_INACTIVE
            ):
                agent_id = _agent_id(instance)
                yield ReconcileTask(
                    TaskID(instance.task.id), AgentID(agent_id) if agent_id else None
                )

    def sweep(self) -> None:
        """Now and then: what took too long, kills without an answer, delays that are over."""
        ledger = self.ledger
        for instance_id in sorted(self._timed):
            instance = ledger.tables.instances.get(instance_id)
            if instance is not None:
                self._expire(instance)
        overdue = ledger.now - self._settings.kill_retry_s
        for task_id, kill in list(self._kills.items()):
            if kill.sent_at is None or kill.sent_at > overdue:
                continue
            if kill.attempts >= MAX_KILLS:
                self._killed(task_id)
            else:
                kill.sent_at = None
                self._in_flight -= 1
        self._send_kills()
        for key in ledger.tables.backoff.sweep(now=ledger.now):
            self._delayed_at.pop(key, None)

    def _expire(self, instance: Instance) -> Instance | None:
        change = rules.expire(
            instance,
            wall=self.ledger.wall,
            confirm_timeout_s=self._settings.confirm_timeout_s,
            launch_timeout_s=self._settings.launch_timeout_s,
        )
        if not change.is_change and not change.effects:
            return instance
        return self.apply(change)

    def set_goal(self, instances: Iterable[Instance], goal: Goal) -> None:
        """Decide what becomes of instances."""
        for instance in list(instances):
            self.apply(rules.set_goal(instance, goal, wall=self.ledger.wall))


def _agent_id(instance: Instance) -> str | None:
    return instance.agent.agent_id if instance.agent is not None else None


def _shown(failure: rules.TaskFailed, checks: tuple[Health, ...]) -> rules.TaskFailed:
    """What is shown of a failure, of bounded size.

    Differs: the original does not say that a killed task was not healthy, nor why.
    """
    status = failure.status
    message = status.message or ""
    if status.state is TaskState.KILLED:
        causes = [c.last_failure_cause for c in checks if not c.alive and c.last_failure_cause]
        if causes:
            message = f"killed while not healthy: {causes[0]}. {message}".rstrip()
    slim = TaskStatus(
        task_id=status.task_id,
        state=status.state,
        message=message[:MAX_MESSAGE],
        reason=status.reason,
        agent_id=status.agent_id,
        timestamp=status.timestamp,
    )
    return rules.TaskFailed(failure.instance, failure.task, slim)


def _instance_changed(instance: Instance, condition: Condition, stamp: str) -> events.Event:
    agent = instance.agent
    return events.InstanceChanged(
        timestamp=stamp,
        instance_id=instance.id,
        condition=condition.value,
        run_spec_id=instance.app_id,
        run_spec_version=instance.version,
        agent_id=agent.agent_id if agent is not None else None,
        host=agent.hostname if agent is not None else None,
    )


def _status_update(
    instance: Instance, task: rules.Task, status: TaskStatus, stamp: str
) -> events.Event:
    agent = instance.agent
    return events.StatusUpdate(
        timestamp=stamp,
        slave_id=agent.agent_id if agent is not None else "",
        task_id=task.id,
        task_status=status.state.value,
        message=status.message or "",
        app_id=instance.app_id,
        host=agent.hostname if agent is not None else "",
        version=instance.version,
        ip_addresses=events.addresses_json(task.addresses),
        ports=task.ports,
    )
