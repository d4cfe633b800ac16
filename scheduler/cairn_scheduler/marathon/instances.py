"""Instances of apps: what is stored of one, and what happens to it.

    Scheduled -> Provisioned -> Staging -> Starting -> Running -> terminal
                                             Unreachable -> UnreachableInactive -> forgotten

A terminal instance whose goal is Running is scheduled again under the same id with the next
attempt; with goal Decommissioned it is expunged; with goal Stopped it stays for its volumes.
Every function takes an instance and a fact and gives a `Change`: what to store, and what follows.
The caller stores first and acts afterwards. Source: the released Marathon's instance updates.
Times are wall-clock seconds, for they outlive the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from cairn_core.mesos.types import TaskState, TaskStatus
from cairn_scheduler.marathon import instance_ids
from cairn_scheduler.marathon.app import App, UnreachableEnabled, UnreachableStrategy
from cairn_scheduler.marathon.conditions import Condition, Goal, condition_of
from cairn_scheduler.marathon.constraints import Place


class Address(Struct, frozen=True):
    """An address that a task has got."""

    ip_address: str
    protocol: str = "IPv4"


class Agent(Struct, frozen=True):
    """Where an instance is, or was last."""

    agent_id: str
    hostname: str
    region: str | None = None
    zone: str | None = None
    attributes: dict[str, str] = {}

    @property
    def place(self) -> Place:
        """As constraints see it."""
        return Place(self.hostname, self.region, self.zone, self.attributes)


class Task(Struct, frozen=True):
    """The task of an instance's current attempt.

    host_ports: of the app's ports in their order, None where a port has none.
    mesos_state: last state that Mesos reported, None before the first.
    """

    id: str
    staged_at: float
    host_ports: tuple[int | None, ...] = ()
    started_at: float | None = None
    mesos_state: TaskState | None = None
    message: str = ""
    addresses: tuple[Address, ...] = ()
    check_result: dict[str, dict[str, int | bool]] | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """The host ports that were allocated."""
        return tuple(p for p in self.host_ports if p is not None)


class Instance(Struct, frozen=True):
    """One instance. version, config_version: of the app that it is, or will be, launched as.

    attempt: launches so far. since: when it came into its condition. healthy: what the executor's
    health check says, None while it says nothing.
    """

    id: str
    app_id: str
    version: str
    config_version: str
    goal: Goal = Goal.RUNNING
    condition: Condition = Condition.SCHEDULED
    since: float = 0.0
    active_since: float | None = None
    attempt: int = 0
    role: str = "*"
    unreachable: UnreachableStrategy = UnreachableEnabled()
    agent: Agent | None = None
    task: Task | None = None
    healthy: bool | None = None
    volumes: tuple[str, ...] = ()

    @property
    def is_scheduled(self) -> bool:
        """Whether it waits for an offer."""
        return self.condition is Condition.SCHEDULED and self.goal is Goal.RUNNING

    @property
    def counts(self) -> bool:
        """Whether it counts towards the instances that the app wants."""
        return self.goal is Goal.RUNNING and self.condition is not Condition.UNREACHABLE_INACTIVE

    @property
    def considered_healthy(self) -> bool:
        """Whether it serves, as far as Mesos knows."""
        return self.condition is Condition.RUNNING and self.healthy is not False


@dataclass(frozen=True, slots=True)
class ConditionChanged:
    """Tell subscribers: the instance came into a condition."""

    instance: Instance
    condition: Condition


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """Tell subscribers: the executor's health check found something new."""

    instance: Instance
    healthy: bool | None


@dataclass(frozen=True, slots=True)
class StatusReported:
    """Tell subscribers about a task's status."""

    instance: Instance
    task: Task
    status: TaskStatus


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """Remember as the app's last task failure; and the launch delay grows."""

    instance: Instance
    task: Task
    status: TaskStatus


@dataclass(frozen=True, slots=True)
class DelayLaunches:
    """Let the launch delay of a configuration grow."""

    app_id: str
    config_version: str


@dataclass(frozen=True, slots=True)
class AdvanceDelay:
    """A launch got on: the time it took does not eat up the delay."""

    app_id: str
    config_version: str


@dataclass(frozen=True, slots=True)
class KillTask:
    """Ask the agent to kill a task."""

    task_id: str
    agent_id: str | None


@dataclass(frozen=True, slots=True)
class Launched:
    """The task runs or is healthy: a launch token comes back."""

    instance_id: str


Effect: TypeAlias = (
    ConditionChanged
    | HealthChanged
    | StatusReported
    | TaskFailed
    | DelayLaunches
    | AdvanceDelay
    | KillTask
    | Launched
)


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an instance. after: None means that it is to be forgotten."""

    before: Instance | None
    after: Instance | None
    effects: tuple[Effect, ...] = ()

    @property
    def is_change(self) -> bool:
        """Whether there is something to store."""
        return self.before != self.after


#: After these the launch delay grows; a kill was wanted.
_DELAYING = frozenset(
    {
        Condition.FAILED, Condition.ERROR, Condition.DROPPED, Condition.GONE, Condition.FINISHED,
    }
)  # fmt: skip
_ADVANCING = frozenset(
    {Condition.STAGING, Condition.STARTING, Condition.RUNNING, Condition.PROVISIONED}
)
_FAILURES = _DELAYING | {Condition.KILLED, Condition.UNKNOWN, Condition.UNREACHABLE}


def schedule(app: App, instance_id: str, *, wall: float) -> Change:
    """A new instance that waits for an offer."""
    instance = Instance(
        id=instance_id,
        app_id=app.id,
        version=app.version or "",
        config_version=app.config_version,
        since=wall,
        role=app.role,
        unreachable=app.unreachable_strategy,
    )
    return Change(None, instance, (ConditionChanged(instance, Condition.SCHEDULED),))


def reschedule(instance: Instance, app: App, *, wall: float) -> Change:
    """Let an instance without a task, scheduled or stopped, wait for an offer as the app is now."""
    after = replace(
        _waiting(instance),
        version=app.version or "",
        config_version=app.config_version,
        goal=Goal.RUNNING,
        since=wall,
        role=instance.role if instance.volumes else app.role,
        unreachable=app.unreachable_strategy,
    )
    return _changed(instance, after, Condition.SCHEDULED)


def provision(
    instance: Instance, agent: Agent, host_ports: Sequence[int | None], *, wall: float
) -> Change:
    """An offer was chosen: to be stored before the offer is accepted."""
    attempt = instance.attempt + 1
    task = Task(
        id=instance_ids.task_id(instance.id, attempt),
        staged_at=wall,
        host_ports=tuple(host_ports),
    )
    after = replace(
        instance,
        condition=Condition.PROVISIONED,
        since=wall,
        active_since=None,
        attempt=attempt,
        agent=agent,
        task=task,
        healthy=None,
    )
    advance = AdvanceDelay(after.app_id, after.config_version)
    return Change(instance, after, (ConditionChanged(after, Condition.PROVISIONED), advance))


def set_goal(instance: Instance, goal: Goal, *, wall: float) -> Change:
    """Decide what shall become of an instance; what runs against its goal is killed.

    A decommissioned instance never returns. One that has no task is over at once.
    """
    if instance.goal is Goal.DECOMMISSIONED and goal is not Goal.DECOMMISSIONED:
        return Change(instance, instance)
    after = replace(instance, goal=goal)
    if goal is Goal.RUNNING:
        return Change(instance, after)
    if after.condition is Condition.SCHEDULED or after.condition.is_terminal:
        return _ended(instance, after, after.condition, ())
    return Change(instance, after, _kill(after))


def kill(instance: Instance) -> Change:
    """Kill the task and leave the goal: the instance is launched again."""
    return Change(instance, instance, _kill(instance))


def _kill(instance: Instance) -> tuple[Effect, ...]:
    task = instance.task
    if task is None or not (
        instance.condition.is_active or instance.condition is Condition.UNREACHABLE_INACTIVE
    ):
        return ()
    return (KillTask(task.id, instance.agent.agent_id if instance.agent is not None else None),)


def update(instance: Instance, status: TaskStatus, *, wall: float) -> Change:
    """Mesos reports the status of a task of this instance.

    What is about an earlier attempt changes nothing; if that task still runs it is killed.
    """
    task = instance.task
    condition = condition_of(status)
    task_id = status.task_id.value
    agent_id = status.agent_id.value if status.agent_id is not None else None
    if task is None or task.id != task_id:
        stray = not condition.is_terminal and not condition.is_lost
        return Change(instance, instance, (KillTask(task_id, agent_id),) if stray else ())
    if instance.condition.is_terminal or instance.condition is Condition.SCHEDULED:
        return Change(instance, instance)
    if condition is Condition.UNREACHABLE and instance.condition is (
        Condition.UNREACHABLE_INACTIVE
    ):
        condition = Condition.UNREACHABLE_INACTIVE
    at = status.timestamp if status.timestamp is not None else wall
    task = _reported(task, status, condition, at)
    healthy = status.healthy if status.healthy is not None else instance.healthy
    if condition is not Condition.RUNNING:
        healthy = None
    moved = condition is not instance.condition
    active_since = instance.active_since
    if condition is Condition.RUNNING and active_since is None:
        active_since = at
    after = replace(
        instance,
        condition=condition,
        since=_since(status, condition, at) if moved else instance.since,
        active_since=active_since,
        task=task,
        healthy=healthy,
    )
    if after == instance:
        return Change(instance, instance)
    return _consequences(instance, after, task, status, moved, wall)


def _since(status: TaskStatus, condition: Condition, at: float) -> float:
    """An agent is lost since the master says so, not since it told us."""
    if condition is Condition.UNREACHABLE and status.unreachable_time is not None:
        return status.unreachable_time.nanoseconds / 1e9
    return at


def _reported(task: Task, status: TaskStatus, condition: Condition, at: float) -> Task:
    """The task with what the status says of it."""
    addresses = task.addresses
    if status.container_status is not None:
        found = tuple(
            Address(ip.ip_address, ip.protocol)
            for info in status.container_status.network_infos
            for ip in info.ip_addresses
            if ip.ip_address is not None
        )
        addresses = found or addresses
    started = task.started_at
    if started is None and condition is Condition.RUNNING:
        started = at
    result = task.check_result
    if status.check_status is not None:
        result = _check_result(status) or result
    return replace(
        task,
        mesos_state=status.state,
        message=status.message or "",
        addresses=addresses,
        started_at=started,
        check_result=result,
    )


def _check_result(status: TaskStatus) -> dict[str, dict[str, int | bool]] | None:
    check = status.check_status
    assert check is not None
    if check.http is not None and check.http.status_code is not None:
        return {"http": {"statusCode": check.http.status_code}}
    if check.tcp is not None and check.tcp.succeeded is not None:
        return {"tcp": {"succeeded": check.tcp.succeeded}}
    if check.command is not None and check.command.exit_code is not None:
        return {"command": {"exitCode": check.command.exit_code}}
    return None


def _consequences(
    before: Instance, after: Instance, task: Task, status: TaskStatus, moved: bool, wall: float
) -> Change:
    """What follows from a status update that changed something."""
    condition = after.condition
    effects: list[Effect] = []
    if moved:
        effects.append(StatusReported(after, task, status))
        effects.append(ConditionChanged(after, condition))
        if condition in _FAILURES and after.goal is Goal.RUNNING:
            effects.append(TaskFailed(after, task, status))
        if condition in _DELAYING:
            effects.append(DelayLaunches(after.app_id, after.config_version))
        elif condition in _ADVANCING:
            effects.append(AdvanceDelay(after.app_id, after.config_version))
    if after.healthy != before.healthy and condition is Condition.RUNNING:
        effects.append(HealthChanged(after, after.healthy))
    if condition is Condition.RUNNING and (moved or (after.healthy and not before.healthy)):
        effects.append(Launched(after.id))
    if condition.is_terminal:
        return _ended(before, replace(after, since=wall), condition, tuple(effects))
    if after.goal is not Goal.RUNNING and moved and condition is not Condition.KILLING:
        # It came back, or was launched, after its end was decided.
        effects += _kill(after)
    return Change(before, after, tuple(effects))


def _ended(
    before: Instance, after: Instance, condition: Condition, effects: tuple[Effect, ...]
) -> Change:
    """No task is left: what the goal makes of that."""
    match after.goal:
        case Goal.DECOMMISSIONED:
            if condition is Condition.SCHEDULED:
                effects = (ConditionChanged(after, Condition.KILLED), *effects)
            return Change(before, None, effects)
        case Goal.STOPPED:
            return Change(before, after, effects)
        case Goal.RUNNING:
            again = _waiting(after)
            return Change(before, again, (*effects, ConditionChanged(again, again.condition)))


def _waiting(instance: Instance) -> Instance:
    """As it waits for an offer: nowhere, unless its volumes bind it."""
    return replace(
        instance,
        condition=Condition.SCHEDULED,
        active_since=None,
        agent=instance.agent if instance.volumes else None,
        task=None,
        healthy=None,
    )


def _changed(before: Instance, after: Instance, condition: Condition) -> Change:
    effects = (ConditionChanged(after, condition),) if before.condition is not condition else ()
    return Change(before, after, effects)


def expire(
    instance: Instance,
    *,
    wall: float,
    confirm_timeout_s: float = 300.0,
    launch_timeout_s: float = 300.0,
) -> Change:
    """Time passes. Nothing happens more than once per step, so call again after a change.

    Provisioned longer than `confirm_timeout_s`: the launch got lost, it is scheduled again (a
    late task is killed as a stray). Staging longer than `launch_timeout_s`: killed. Unreachable:
    by its strategy first inactive, then forgotten.
    """
    age = wall - instance.since
    match instance.condition:
        case Condition.PROVISIONED if age > confirm_timeout_s:
            over = replace(instance, condition=Condition.DROPPED, task=None, since=wall)
            return _ended(instance, over, Condition.DROPPED, _kill(instance))
        case Condition.STAGING | Condition.STARTING if age > launch_timeout_s:
            return Change(instance, replace(instance, since=wall), _kill(instance))
        case Condition.UNREACHABLE | Condition.UNREACHABLE_INACTIVE:
            return _expire_unreachable(instance, age)
        case _:
            return Change(instance, instance)


def _expire_unreachable(instance: Instance, age: float) -> Change:
    strategy = instance.unreachable
    if isinstance(strategy, str):
        return Change(instance, instance)
    if age >= strategy.expunge_after_seconds:
        effects = (*_kill(instance), ConditionChanged(instance, Condition.GONE))
        return Change(instance, None, effects)
    if instance.condition is Condition.UNREACHABLE and age >= strategy.inactive_after_seconds:
        inactive = replace(instance, condition=Condition.UNREACHABLE_INACTIVE)
        return Change(
            instance, inactive, (ConditionChanged(inactive, Condition.UNREACHABLE_INACTIVE),)
        )
    return Change(instance, instance)
