"""What others may plug into Cairn: protocols, and the values that pass through them.

A plug-in is found by its entry point and loaded only when the configuration names it:
`cairn.isolators` (a callable that takes an `AgentSettings` and returns an `Isolator`) and
`cairn.hooks` (the same for a `Hook`). The life cycle of an isolator is that of the original's
isolator modules (mesos include/mesos/slave/isolator.hpp, include/mesos/hook.hpp).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cairn_core.mesos.containers import URI, ContainerInfo, ContainerStatus, ResourceStatistics

ISOLATORS = "cairn.isolators"
HOOKS = "cairn.hooks"

#: As a limit: the container may use all there is (`Infinity` on the wire).
UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an isolator or hook may know of its agent."""

    runtime_dir: str  #: on a tmpfs: forgotten when the machine starts anew
    work_dir: str
    cgroups_root: str = "mesos"  #: our only subtree of every hierarchy
    cgroups_mount: str = "/sys/fs/cgroup"
    flags: Mapping[str, str] = field(default_factory=dict)  #: without the leading dashes


@dataclass(frozen=True, slots=True)
class Amounts:
    """Amounts of what a container may use. As limits each may be UNLIMITED."""

    cpus_milli: int = 0  #: thousandths of a processor
    mem_mib: int = 0
    disk_mib: int = 0


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """One container to launch.

    Exactly one of `argv` and `entry` is given. `entry` (`module:function`) runs a module of ours in
    the forked process, without starting an interpreter.
    """

    sandbox: str  #: absolute path on the host
    argv: tuple[str, ...] = ()
    entry: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None  #: None: the agent's own
    requests: Amounts = Amounts()
    limits: Amounts | None = None  #: None: hard limits equal the requests
    container: ContainerInfo | None = None
    uris: tuple[URI, ...] = ()
    working_directory: str | None = None  #: None: the sandbox


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount in the container's namespace; `flags` as in mount(8): `bind`, `ro`, `nosuid`..."""

    source: str
    target: str
    fstype: str = ""
    flags: tuple[str, ...] = ()
    data: str = ""


@dataclass(frozen=True, slots=True)
class LaunchInfo:
    """What one isolator wants of a launch; the wishes of all are merged.

    Lists are appended. `environment` is merged by name, later wins. The scalar fields may be given
    by one isolator only. namespaces: of `mnt pid ipc uts net`. join: kind -> path of a namespace.
    rlimits: name such as `RLIMIT_NOFILE`, soft, hard; -1 is infinity.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()
    join: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    masked: tuple[str, ...] = ()
    pre_exec: tuple[tuple[str, ...], ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] | None = None
    working_directory: str | None = None
    hostname: str | None = None
    no_new_privs: bool = False


@dataclass(frozen=True, slots=True)
class Limitation:
    """A container went over a limit and must end. `reason` is a TaskStatus reason."""

    reason: str
    message: str
    resources: Mapping[str, int] = field(default_factory=dict)  #: name -> thousandths


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container found after a restart of the agent."""

    container_id: str
    config: ContainerConfig
    pid: int  #: its first process, as the agent sees it


class Isolator(Protocol):
    """One aspect of keeping containers apart. Derive from it: every method has a default.

    Container ids are UUIDs; that of a nested container is `parent.child`. Whatever a method raises
    becomes the failure of that launch, update or destruction, with the text in its message.
    """

    @property
    def name(self) -> str:
        """The name in `--isolation`, for messages."""
        return type(self).__name__

    @property
    def supports_nesting(self) -> bool:
        """False: the isolator is left out for nested containers."""
        return False

    async def recover(self, known: Sequence[ContainerState], orphans: Sequence[str]) -> None:
        """Take over `known` containers; `cleanup` follows for each of `orphans`."""

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Before the process exists. Called in the order of the isolators, one at a time."""
        return None

    async def isolate(self, container_id: str, pid: int) -> None:
        """The process exists and waits. Called for all isolators at once."""

    async def watch(self, container_id: str) -> Limitation:
        """Return when the container is over a limit; cancelled when it has ended."""
        raise NoLimit

    async def limitation(self, container_id: str) -> Limitation | None:
        """Asked once after the container ended by itself, before `cleanup`: was it a limit?"""
        return None

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """The amounts changed while the container runs."""

    async def usage(self, container_id: str) -> Mapping[str, float | int]:
        """Fields of ResourceStatistics; those of several isolators are merged."""
        return {}

    async def status(self, container_id: str) -> ContainerStatus | None:
        """What to add to the container's status."""
        return None

    async def cleanup(self, container_id: str) -> None:
        """All processes are gone. Called in reverse order; must succeed when repeated."""


class NoLimit(Exception):
    """Raised by `Isolator.watch` when this isolator enforces nothing on the container."""


class Hook(Protocol):
    """Looks at or changes what an agent does. Derive from it: every method has a default."""

    def executor_environment(self, executor: Mapping[str, object]) -> Mapping[str, str]:
        """Variables to add to an executor's environment (slaveExecutorEnvironmentDecorator)."""
        return {}

    async def post_fetch(self, container_id: str, sandbox: str) -> None:
        """All URIs are in the sandbox (slavePostFetchHook)."""

    async def remove_executor(self, framework_id: str, executor_id: str) -> None:
        """An executor has ended (slaveRemoveExecutorHook)."""

    def task_status(
        self, framework_id: str, status: Mapping[str, object]
    ) -> Mapping[str, object] | None:
        """Labels and container_status for an update, or None (slaveTaskStatusDecorator)."""
        return None


def statistics(timestamp: float, fields: Mapping[str, float | int]) -> ResourceStatistics:
    """ResourceStatistics of merged fields; `timestamp` in seconds since the epoch."""
    return ResourceStatistics(timestamp=timestamp, **fields)  # type: ignore[arg-type]  # by name
