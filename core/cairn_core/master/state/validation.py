"""Whether a task may be launched on what was offered.

Each check returns what is wrong, as the message of the TASK_ERROR, or None. Source of rules:
Apache Mesos `src/master/validation.cpp` (namespaces task, executor) and
`src/common/validation.cpp`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

import msgspec

from cairn_core.master.state.ids import fault_of_id
from cairn_core.master.state.records import AgentRecord, FrameworkRecord
from cairn_core.mesos import types
from cairn_core.resources import EMPTY, ResourceError, Resources

#: A task travels to the agent in one frame of the link.
MAX_TASK_BYTES = 2 * 1024 * 1024

_LIMITED = frozenset({"cpus", "mem"})
_VARIABLE = re.compile(r"[^=\0]{1,4096}")


@dataclass(frozen=True, slots=True)
class Launchable:
    """A task that passed.

    resources: of the task. executor: of a new executor that comes with it, and what it uses;
    None for a command task or an executor that runs already.
    """

    resources: Resources
    executor: types.ExecutorInfo | None = None
    executor_resources: Resources = EMPTY


def check_task(
    task: types.TaskInfo,
    framework: FrameworkRecord,
    agent: AgentRecord,
    role: str,
    available: Resources,
) -> Launchable | str:
    """What the launch would use, or what is wrong with the task."""
    fault = (
        _ids(task, framework, agent)
        or _kind(task)
        or _command("TaskInfo.command", task.command)
        or _kill_policy(task)
        or _health_check(task.health_check)
        or _check(task.check)
        or _max_completion(task)
        or _size(task)
    )
    if fault:
        return fault
    resources = _resources("Task", task.resources)
    if isinstance(resources, str):
        return resources
    if not resources:
        return "Task uses no resources"
    executor: types.ExecutorInfo | None = None
    executor_resources = EMPTY
    if task.executor is not None:
        found = _executor(task.executor, framework, agent)
        if isinstance(found, str):
            return found
        if found:
            executor = task.executor
            taken = _resources("Executor", executor.resources)
            if isinstance(taken, str):
                return taken
            executor_resources = taken
    fault = _mixed(resources, executor_resources) or _limits(task, resources)
    if fault:
        return fault
    total = resources + executor_resources
    if not available.contains(total):
        return (
            f"Total resources {total} required by task and its executor is more than available "
            f"{available}"
        )
    for kind in total:
        if not kind.usable_by(role):
            return f"Resource {kind} is not usable by role '{role}'"
    return Launchable(resources, executor, executor_resources)


def root_user(task: types.TaskInfo) -> str | None:
    """What is wrong where `root_submissions` is off.

    Differs: the original looks at the framework's user alone, which a task can override.
    """
    commands = (task.command, task.executor.command if task.executor is not None else None)
    if any(command is not None and command.user == "root" for command in commands):
        return "User 'root' is not allowed to run tasks without root submissions"
    return None


def _ids(task: types.TaskInfo, framework: FrameworkRecord, agent: AgentRecord) -> str | None:
    task_id = task.task_id.value
    if fault := fault_of_id(task_id):
        return f"Task ID {fault}"
    if task_id in framework.tasks or task_id in framework.unreachable_tasks:
        return f"Task has duplicate ID: {task_id}"
    if task.agent_id.value != agent.agent_id:
        return (
            f"Task uses invalid agent {task.agent_id.value[:255]} while agent {agent.agent_id} "
            "is expected"
        )
    return None


def _kind(task: types.TaskInfo) -> str | None:
    if (task.executor is None) == (task.command is None):
        return "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
    return None


def _command(field: str, command: types.CommandInfo | None) -> str | None:
    if command is None:
        return None
    variables = command.environment.variables if command.environment is not None else ()
    for variable in variables:
        if not _VARIABLE.fullmatch(variable.name):
            return f"'{field}.environment' has the invalid variable name {variable.name[:100]!r}"
        if variable.type == "VALUE" and variable.value is None:
            return f"Environment variable '{variable.name}' of type 'VALUE' must have a value set"
        if variable.value is not None and "\0" in variable.value:
            return f"Environment variable '{variable.name}' contains a null byte"
    for text in (command.value, command.user, *command.arguments):
        if text is not None and "\0" in text:
            return f"'{field}' contains a null byte"
    if command.shell and not command.value:
        return f"'{field}.value' must be set when 'shell' is true"
    return None


def _kill_policy(task: types.TaskInfo) -> str | None:
    policy = task.kill_policy
    if policy is not None and policy.grace_period is not None:
        nanoseconds = policy.grace_period.nanoseconds
        if nanoseconds < 0:
            return f"Task's 'kill_policy.grace_period' must be non-negative, not {nanoseconds}"
    return None


def _max_completion(task: types.TaskInfo) -> str | None:
    if task.max_completion_time is not None and task.max_completion_time.nanoseconds < 0:
        return "Task's 'max_completion_time' must be non-negative"
    return None


def _size(task: types.TaskInfo) -> str | None:
    size = len(msgspec.json.encode(task))
    if size > MAX_TASK_BYTES:
        return f"Task has {size} bytes of JSON, more than {MAX_TASK_BYTES}"
    return None


def _durations(what: str, values: Iterable[tuple[str, float]]) -> str | None:
    for name, seconds in values:
        if not isfinite(seconds) or seconds < 0:
            return f"Task uses invalid {what}: expecting '{name}' to be non-negative"
    return None


def _health_check(check: types.HealthCheck | None) -> str | None:
    """The `type` may be missing: it follows from the field that is set."""
    if check is None:
        return None
    kinds = {"COMMAND": check.command, "HTTP": check.http, "TCP": check.tcp}
    chosen = check.type or next((name for name, body in kinds.items() if body is not None), None)
    if chosen not in kinds:
        return "Task uses invalid health check: HealthCheck must specify 'type'"
    if kinds[chosen] is None:
        return f"Task uses invalid health check: expecting '{chosen.lower()}' to be set"
    if check.consecutive_failures < 0:
        return "Task uses invalid health check: 'consecutive_failures' must be non-negative"
    names = ("delay_seconds", "grace_period_seconds", "interval_seconds", "timeout_seconds")
    fault = _durations("health check", ((name, getattr(check, name)) for name in names))
    if fault is None and check.command is not None:
        fault = _command("health_check.command", check.command)
    if fault is None and check.http is not None:
        path, scheme = check.http.path, check.http.scheme
        if scheme is not None and scheme not in ("http", "https"):
            fault = f"Task uses invalid health check: unsupported HTTP scheme {scheme[:40]!r}"
        elif path is not None and not path.startswith("/"):
            fault = f"Task uses invalid health check: the path {path[:100]!r} must start with '/'"
    return fault


def _check(check: types.CheckInfo | None) -> str | None:
    if check is None:
        return None
    kinds = {"COMMAND": check.command, "HTTP": check.http, "TCP": check.tcp}
    if check.type not in kinds:
        return "Task uses invalid check: CheckInfo must specify 'type'"
    if kinds[check.type] is None:
        return f"Task uses invalid check: expecting '{check.type.lower()}' to be set"
    names = ("delay_seconds", "interval_seconds", "timeout_seconds")
    return _durations("check", ((name, getattr(check, name)) for name in names))


#: Larger lists are rarely alike, and many of them would be a lot to keep.
MAX_SHARED = 32


def interned(wire: tuple[types.Resource, ...]) -> Resources:
    """The value of wire resources; tasks of one kind share it. Raises ResourceError."""
    spans = sum(len(one.ranges.range) for one in wire if one.ranges is not None)
    words = sum(len(one.set.item) for one in wire if one.set is not None)
    if len(wire) + spans + words > MAX_SHARED:
        return Resources.from_wire(wire)
    return _shared(wire)


@lru_cache(maxsize=4096)
def _shared(wire: tuple[types.Resource, ...]) -> Resources:
    return Resources.from_wire(wire)


def _resources(whose: str, wire: tuple[types.Resource, ...]) -> Resources | str:
    try:
        return interned(wire)
    except ResourceError as error:
        return f"{whose} uses invalid resources: {error}"


def _mixed(*parts: Resources) -> str | None:
    """Revocable and other resources of one name must not be mixed."""
    revocable: dict[str, bool] = {}
    for part in parts:
        for kind in part:
            if revocable.setdefault(kind.name, kind.revocable) != kind.revocable:
                return f"Task uses both revocable and non-revocable '{kind.name}'"
    return None


def _limits(task: types.TaskInfo, resources: Resources) -> str | None:
    for name, limit in task.limits.items():
        if name not in _LIMITED:
            return f"Task's limit on '{name[:100]}' is not supported: only cpus and mem have limits"
        try:
            amount = float(limit.value)
        except ValueError:
            return f"Task's limit on '{name}' is not a number: {str(limit.value)[:40]!r}"
        if not amount * 1000 >= resources.scalar(name):
            return f"Task's limit on '{name}' is below its request"
    return None


def _executor(
    executor: types.ExecutorInfo, framework: FrameworkRecord, agent: AgentRecord
) -> bool | str:
    """Whether the executor is new on this agent, or what is wrong with it."""
    executor_id = executor.executor_id.value
    if fault := fault_of_id(executor_id):
        return f"Executor ID {fault}"
    owner = executor.framework_id
    if owner is not None and owner.value != framework.framework_id:
        return (
            f"ExecutorInfo has an invalid FrameworkID (Actual: {owner.value[:255]} vs Expected: "
            f"{framework.framework_id})"
        )
    if executor.type == "DEFAULT":
        return "The default executor is not supported: give a command to the executor"
    if executor.type not in (None, "CUSTOM", "UNKNOWN"):
        return f"ExecutorInfo has an unknown type {executor.type[:40]!r}"
    if executor.command is None:
        return "'ExecutorInfo.command' must be set for 'CUSTOM' executor"
    if fault := _command("ExecutorInfo.command", executor.command):
        return fault
    grace = executor.shutdown_grace_period
    if grace is not None and grace.nanoseconds < 0:
        return "ExecutorInfo's 'shutdown_grace_period' must be non-negative"
    known = agent.executors.get(framework.framework_id, {}).get(executor_id)
    if known is None:
        return True
    if known.info != executor_bytes(executor, framework.framework_id):
        return f"ExecutorInfo of '{executor_id}' is not compatible with the one that runs already"
    return False


def executor_bytes(executor: types.ExecutorInfo, framework_id: str) -> bytes:
    """The JSON that is kept and compared; the framework's id is filled in.

    Resources are put into one form: an agent lists them with the role that they are allocated to,
    a framework may send them in either form and any order.
    """
    try:
        wire = tuple(interned(executor.resources).to_wire())
    except ResourceError:
        wire = executor.resources  # whoever asked refuses them
    filled = msgspec.structs.replace(
        executor, framework_id=types.FrameworkID(framework_id), resources=wire
    )
    return msgspec.json.encode(filled)
