"""What the agent keeps on disk: the names and the contents of its files, without touching a disk.

Directory names are those of the original (Apache Mesos `src/slave/paths.cpp`), so that tools and
people find sandboxes where they look for them. Contents are JSON of our own. Below the work
directory:

    slaves/<sid>/frameworks/<fid>/executors/<eid>/runs/<cid>     sandbox; `latest` beside it
    meta/boot_id  meta/master.epoch                              of the machine, of the master
    meta/slaves/latest -> <sid>
    meta/slaves/<sid>/slave.info
    meta/slaves/<sid>/frameworks/<fid>/framework.info
      .../executors/<eid>/runs/<cid>/executor.info  executor.sentinel
      .../executors/<eid>/runs/<cid>/tasks/<tid>/task.info  task.updates  task.kill

`executor.info` lies with its run because it holds the run's token. The sentinel says that the run
is over and everything about it acknowledged. Ids become names of directories only through
`component`.
"""

from typing import TypeVar

import msgspec

from cairn_core.agent.effects import Append, Kill, Link, Put, Write
from cairn_core.agent.records import ExecutorRecord, FrameworkRecord, TaskRecord
from cairn_core.agent.status_updates import record_ack, record_update
from cairn_core.errors import RemoteError, shorten
from cairn_core.mesos.types import (
    AgentInfo,
    ExecutorInfo,
    FrameworkInfo,
    KillPolicy,
    TaskInfo,
    TaskStatus,
)

T = TypeVar("T", bound=msgspec.Struct)

META = "meta"
BOOT_ID = "boot_id"
EPOCH = "master.epoch"
LATEST = "slaves/latest"
AGENT_INFO = "slave.info"
FRAMEWORK_INFO = "framework.info"
EXECUTOR_INFO = "executor.info"
SENTINEL = "executor.sentinel"
TASK_INFO = "task.info"
TASK_UPDATES = "task.updates"
TASK_KILL = "task.kill"
#: Length of one name in a directory on every Linux file system.
MAX_COMPONENT_BYTES = 255


class BadId(RemoteError):
    """An id that cannot be the name of a directory.

    field: which id; value: as it was given.
    """

    def __init__(self, field: str, value: str, reason: str) -> None:
        super().__init__(f"{field} {shorten(value, 60)!r} {reason}")
        self.field = field
        self.value = value


class AgentFile(msgspec.Struct, frozen=True):
    """`slave.info`: what the agent registered as."""

    id: str
    info: AgentInfo


class ExecutorFile(msgspec.Struct, frozen=True):
    """`executor.info`: one run of an executor."""

    info: ExecutorInfo
    token: str
    sandbox: str
    user: str | None
    is_command: bool


class TaskFile(msgspec.Struct, frozen=True):
    """`task.info`: the task and the operation that launched it."""

    info: TaskInfo
    operation_id: str
    user: str | None = None


class KillFile(msgspec.Struct, frozen=True):
    """`task.kill`: somebody wants the task to end."""

    policy: KillPolicy | None = None


def component(field: str, value: str) -> str:
    """`value` as one name in a directory, unchanged; raises BadId when it cannot be one."""
    if not value:
        raise BadId(field, value, "is empty")
    if value in (".", ".."):
        raise BadId(field, value, "is not a name")
    if "/" in value:
        raise BadId(field, value, "holds a /")
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise BadId(field, value, "holds a control character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadId(field, value, "is not text") from None
    if size > MAX_COMPONENT_BYTES:
        raise BadId(field, value, f"is longer than {MAX_COMPONENT_BYTES} bytes")
    return value


def agent_dir(agent_id: str) -> str:
    """Below `meta` as well as below the work directory."""
    return f"slaves/{component('agent_id', agent_id)}"


def framework_dir(agent_id: str, framework_id: str) -> str:
    """Likewise."""
    return f"{agent_dir(agent_id)}/frameworks/{component('framework_id', framework_id)}"


def run_dir(agent_id: str, framework_id: str, executor_id: str, container_id: str) -> str:
    """Likewise; below the work directory this is the sandbox."""
    return (
        f"{framework_dir(agent_id, framework_id)}/executors/"
        f"{component('executor_id', executor_id)}/runs/{component('container_id', container_id)}"
    )


def _run(agent_id: str, executor: ExecutorRecord) -> str:
    return run_dir(agent_id, executor.framework_id, executor.id, executor.container_id)


def _task(agent_id: str, executor: ExecutorRecord, task_id: str) -> str:
    return f"{_run(agent_id, executor)}/tasks/{component('task_id', task_id)}"


# ---- writes ---------------------------------------------------------------------------------


def put_epoch(epoch: int) -> Put:
    """The highest epoch of a master that commanded us."""
    return Put(EPOCH, b"%d" % epoch)


def put_agent(agent_id: str, info: AgentInfo) -> tuple[Write, ...]:
    """The identity under which the next agent process comes back."""
    return (
        Put(f"{agent_dir(agent_id)}/{AGENT_INFO}", _encode(AgentFile(agent_id, info))),
        Link(LATEST, agent_id),
    )


def put_framework(agent_id: str, framework: FrameworkRecord) -> Put:
    """A framework with executors here."""
    path = f"{framework_dir(agent_id, framework.id)}/{FRAMEWORK_INFO}"
    return Put(path, _encode(framework.info))


def put_executor(agent_id: str, executor: ExecutorRecord) -> Put:
    """One run of an executor, before it starts."""
    content = ExecutorFile(
        executor.info, executor.token, executor.sandbox, executor.user, executor.is_command
    )
    return Put(f"{_run(agent_id, executor)}/{EXECUTOR_INFO}", _encode(content))


def put_task(agent_id: str, executor: ExecutorRecord, task: TaskRecord) -> Put:
    """A task, before the executor hears of it."""
    content = TaskFile(task.info, task.operation_id, task.user)
    return Put(f"{_task(agent_id, executor, task.id)}/{TASK_INFO}", _encode(content))


def put_kill(agent_id: str, executor: ExecutorRecord, task_id: str, kill: Kill) -> Put:
    """The wish that a task ends, before the executor hears of it."""
    return Put(f"{_task(agent_id, executor, task_id)}/{TASK_KILL}", _encode(KillFile(kill.policy)))


def append_update(agent_id: str, executor: ExecutorRecord, status: TaskStatus) -> Append:
    """An update, before the executor is told that we have it."""
    path = f"{_task(agent_id, executor, status.task_id.value)}/{TASK_UPDATES}"
    return Append(path, record_update(status))


def append_ack(agent_id: str, executor: ExecutorRecord, task_id: str, uuid: bytes) -> Append:
    """The acknowledgement of an update."""
    return Append(f"{_task(agent_id, executor, task_id)}/{TASK_UPDATES}", record_ack(uuid))


def put_updates(agent_id: str, executor: ExecutorRecord, task_id: str, data: bytes) -> Put:
    """A shorter file of updates in place of a long one."""
    return Put(f"{_task(agent_id, executor, task_id)}/{TASK_UPDATES}", data)


def put_sentinel(agent_id: str, executor: ExecutorRecord) -> Put:
    """The run is over."""
    return Put(f"{_run(agent_id, executor)}/{SENTINEL}", b"")


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


# ---- reading --------------------------------------------------------------------------------


class Corrupt(Exception):
    """A file does not hold what it should. `path` is below `meta`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


def decode(kind: type[T], path: str, data: bytes) -> T:
    """The content of a file; raises Corrupt."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(path, shorten(str(error)) or "unreadable") from None


def decode_framework(path: str, data: bytes) -> FrameworkInfo:
    """The content of `framework.info`, whose id must be there; raises Corrupt."""
    info = decode(FrameworkInfo, path, data)
    if info.id is None:
        raise Corrupt(path, "framework without id")
    return info


def decode_epoch(data: bytes) -> int:
    """The content of `master.epoch`; raises Corrupt."""
    if not data.isdigit() or len(data) > 20:
        raise Corrupt(EPOCH, f"not a number: {data[:20]!r}")
    return int(data)
