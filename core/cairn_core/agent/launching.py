"""What the container of an executor shall be: command, environment, user, amounts.

Source: mesos docs/executor-http-api.md (environment), `src/slave/slave.cpp` (the command executor
and its overhead).
"""

from collections.abc import Iterable, Mapping

from cairn_core.agent.effects import Settings
from cairn_core.agent.records import ExecutorRecord, FrameworkRecord, TaskRecord
from cairn_core.errors import shorten
from cairn_core.extensions import UNLIMITED, Amounts, ContainerConfig
from cairn_core.kit.durations import format_duration
from cairn_core.mesos.types import (
    CommandInfo,
    ExecutorID,
    ExecutorInfo,
    FrameworkInfo,
    LimitScalar,
    Resource,
    TaskInfo,
)
from cairn_core.resources import Resources

#: What a command executor may use beyond its task; not counted as the task's.
OVERHEAD = Amounts(cpus_milli=100, mem_mib=32)
SUBSCRIPTION_BACKOFF_MAX = "2secs"


def executor_for(task: TaskInfo, framework: FrameworkInfo) -> tuple[ExecutorInfo, bool]:
    """The executor of a task, and whether it is the command executor.

    Name and source of the command executor are the original's, for tools show them.
    """
    if task.executor is not None:
        return task.executor, False
    command = task.command or CommandInfo()
    shown = _shown(command)
    return (
        ExecutorInfo(
            executor_id=ExecutorID(task.task_id.value),
            framework_id=framework.id,
            name=f"Command Executor (Task: {task.task_id.value}) (Command: {shown})",
            source=task.task_id.value,
            container=task.container,
            resources=(),
            discovery=task.discovery,
            labels=task.labels,
        ),
        True,
    )


def _shown(command: CommandInfo) -> str:
    if command.shell:
        return f"sh -c '{shorten(command.value or '', 60)}'"
    return shorten(" ".join((command.value or "", *command.arguments)).strip(), 60)


def user_of(task: TaskInfo, framework: FrameworkInfo, settings: Settings) -> str | None:
    """The user that the executor runs as; None for the agent's own.

    The task's command decides, then the executor's, then the framework.
    """
    if not settings.switch_user:
        return None
    command = task.executor.command if task.executor is not None else task.command
    return (command.user if command is not None else None) or framework.user or None


def amounts(
    executor: ExecutorRecord, tasks: Iterable[TaskRecord]
) -> tuple[Amounts, Amounts | None]:
    """Requests and limits of a container with these tasks; no limits when none is set apart.

    Resources that cannot be read count as nothing: the master has checked them.
    """
    held = [executor.info.resources]
    limited: dict[str, float] = {}
    tasks = list(tasks)
    for task in tasks:
        held.append(task.info.resources)
    requests = _amounts(held)
    for name in ("cpus", "mem"):
        values = [task.info.limits.get(name) for task in tasks]
        if any(value is not None for value in values):
            limited[name] = sum(
                _limit(value, task.info.resources, name)
                for value, task in zip(values, tasks, strict=True)
            ) + _named(executor.info.resources, name)
    if executor.is_command:
        requests = _plus(requests, OVERHEAD)
    if not limited:
        return requests, None
    overhead = OVERHEAD if executor.is_command else Amounts()
    return requests, Amounts(
        cpus_milli=_bounded(limited.get("cpus"), 1000, overhead.cpus_milli, requests.cpus_milli),
        mem_mib=_bounded(limited.get("mem"), 1, overhead.mem_mib, requests.mem_mib),
        disk_mib=requests.disk_mib,
    )


def _limit(limit: LimitScalar | None, resources: tuple[Resource, ...], name: str) -> float:
    if limit is None:
        return _named(resources, name)
    if isinstance(limit.value, str):
        return float("inf")
    return limit.value


def _named(resources: tuple[Resource, ...], name: str) -> float:
    return sum(r.scalar.value for r in resources if r.name == name and r.scalar is not None)


def _bounded(value: float | None, unit: int, overhead: int, request: int) -> int:
    """A limit in units; never below the request, for such a container could not start."""
    if value is None:
        return request
    if not value < float(1 << 50):
        return UNLIMITED
    return max(round(value * unit) + overhead, request)


def _amounts(lists: Iterable[tuple[Resource, ...]]) -> Amounts:
    held = [resource for resources in lists for resource in resources]
    return Amounts(
        cpus_milli=round(_named(tuple(held), "cpus") * 1000),
        mem_mib=round(_named(tuple(held), "mem")),
        disk_mib=round(
            sum(
                r.scalar.value
                for r in held
                if r.name == "disk" and r.scalar is not None and r.disk is None
            )
        ),
    )


def _plus(a: Amounts, b: Amounts) -> Amounts:
    return Amounts(a.cpus_milli + b.cpus_milli, a.mem_mib + b.mem_mib, a.disk_mib + b.disk_mib)


def environment(
    executor: ExecutorRecord, framework: FrameworkRecord, agent_id: str, settings: Settings
) -> dict[str, str]:
    """The environment of an executor: the operator's, then the agent's, then the command's own."""
    sandbox = f"{settings.work_dir}/{executor.sandbox}"
    command = executor.info.command
    env = dict(settings.executor_environment)
    if executor.is_command and executor.live and executor.live[0].info.command is not None:
        # beside the task's own copy: settings of the logger are read off the container
        env |= _variables(executor.live[0].info.command)
    env |= {
        "MESOS_FRAMEWORK_ID": framework.id,
        "MESOS_EXECUTOR_ID": executor.id,
        "MESOS_DIRECTORY": sandbox,
        "MESOS_SANDBOX": sandbox,
        "MESOS_SLAVE_ID": agent_id,
        "MESOS_SLAVE_PID": settings.pid,
        "MESOS_AGENT_ENDPOINT": settings.endpoint,
        "MESOS_CHECKPOINT": "1" if executor.checkpoint else "0",
        "MESOS_HTTP_COMMAND_EXECUTOR": "1" if executor.is_command else "0",
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": format_duration(grace_s(executor, settings)),
        "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": executor.token,
        "LIBPROCESS_PORT": "0",
    }
    if executor.checkpoint:
        env["MESOS_RECOVERY_TIMEOUT"] = format_duration(settings.recovery_timeout_s)
        env["MESOS_SUBSCRIPTION_BACKOFF_MAX"] = SUBSCRIPTION_BACKOFF_MAX
    if settings.domain_socket:
        env["MESOS_DOMAIN_SOCKET"] = settings.domain_socket
    if command is not None:
        env |= _variables(command)
    return env


def _variables(command: CommandInfo) -> Mapping[str, str]:
    variables = command.environment.variables if command.environment is not None else ()
    return {v.name: v.value for v in variables if v.value is not None}


def grace_s(executor: ExecutorRecord, settings: Settings) -> float:
    """Seconds that an executor gets for its shutdown before its container is destroyed."""
    period = executor.info.shutdown_grace_period
    if period is None or period.nanoseconds < 0:
        return settings.executor_shutdown_grace_s
    return period.nanoseconds / 1e9


def container_config(
    executor: ExecutorRecord, framework: FrameworkRecord, agent_id: str, settings: Settings
) -> ContainerConfig:
    """The container of an executor with the tasks that it has now."""
    tasks = executor.live
    requests, limits = amounts(executor, tasks)
    command = tasks[0].info.command if executor.is_command and tasks else executor.info.command
    argv: tuple[str, ...] = ()
    entry = ""
    if executor.is_command:
        argv = settings.command_executor_argv
        entry = "" if argv else settings.command_executor_entry
    elif command is not None and command.shell:
        argv = ("/bin/sh", "-c", command.value or "")
    elif command is not None:
        # the original's rule: `value` is the program, `arguments` begin with the name it sees
        argv = (command.value or "", *command.arguments[1:])
    return ContainerConfig(
        sandbox=f"{settings.work_dir}/{executor.sandbox}",
        argv=argv,
        entry=entry,
        environment=environment(executor, framework, agent_id, settings),
        user=executor.user,
        requests=requests,
        limits=limits,
        container=executor.info.container,
        uris=command.uris if command is not None else (),
    )


def unsupported(task: TaskInfo) -> str | None:
    """Why this agent cannot start the task at all, or None."""
    container = (task.executor.container if task.executor is not None else None) or task.container
    if container is not None and container.type == "DOCKER":
        return "no containerizer of this agent could create a DOCKER container for the task"
    command = task.executor.command if task.executor is not None else task.command
    if task.executor is not None and task.executor.type == "DEFAULT":
        return "the default executor, which runs groups of tasks, is not available"
    if command is None or not command.value:
        return "the task has no command to run"
    return None


def used(executors: Iterable[ExecutorRecord]) -> Resources:
    """Resources that executors and their live tasks hold, as the JSON endpoints show them."""
    return Resources.sum(
        Resources.from_wire(resources)
        for executor in executors
        for resources in (executor.info.resources, *(t.info.resources for t in executor.live))
    )
