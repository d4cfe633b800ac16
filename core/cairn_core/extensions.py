"""What others may plug into Cairn: protocols, and the values that pass through them.

A plug-in is found by its entry point and loaded only when the configuration names it:
`cairn.isolators` (a callable that takes an `AgentSettings` and returns an `Isolator`),
`cairn.hooks` (the same for a `Hook`) and `cairn.allocators` (an `Allocator`). The life
cycle of an isolator is that of the original's isolator modules
(mesos include/mesos/slave/isolator.hpp, include/mesos/hook.hpp).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, Protocol

from cairn_core.mesos.containers import URI, ContainerInfo, ContainerStatus, ResourceStatistics
from cairn_core.mesos.types import Attribute
from cairn_core.resources import Resources

ALLOCATORS = "cairn.allocators"
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
        return None

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Before the process exists. Called in the order of the isolators, one at a time."""
        return None

    async def isolate(self, container_id: str, pid: int) -> None:
        """The process exists and waits. Called for all isolators at once."""
        return None

    async def watch(self, container_id: str) -> Limitation:
        """Return when the container is over a limit; cancelled when it has ended."""
        raise NoLimit

    async def limitation(self, container_id: str) -> Limitation | None:
        """Asked once after the container ended by itself, before `cleanup`: was it a limit?"""
        return None

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """The amounts changed while the container runs."""
        return None

    async def usage(self, container_id: str) -> Mapping[str, float | int]:
        """Fields of ResourceStatistics; those of several isolators are merged."""
        return {}

    async def status(self, container_id: str) -> ContainerStatus | None:
        """What to add to the container's status."""
        return None

    async def cleanup(self, container_id: str) -> None:
        """All processes are gone. Called in reverse order; must succeed when repeated."""
        return None


class NoLimit(Exception):
    """Raised by `Isolator.watch` when this isolator enforces nothing on the container."""


class Hook(Protocol):
    """Looks at or changes what an agent does. Derive from it: every method has a default."""

    def executor_environment(self, executor: Mapping[str, object]) -> Mapping[str, str]:
        """Variables to add to an executor's environment (slaveExecutorEnvironmentDecorator).

        executor: `framework_id` and `executor_id` of its ExecutorInfo. Raising fails the launch.
        """
        return {}

    async def post_fetch(self, container_id: str, sandbox: str) -> None:
        """All URIs are in the sandbox (slavePostFetchHook)."""
        return None

    async def remove_executor(self, framework_id: str, executor_id: str) -> None:
        """An executor has ended (slaveRemoveExecutorHook)."""
        return None

    def task_status(
        self, framework_id: str, status: Mapping[str, object]
    ) -> Mapping[str, object] | None:
        """Labels and container_status for an update, or None (slaveTaskStatusDecorator)."""
        return None


def statistics(timestamp: float, fields: Mapping[str, float | int]) -> ResourceStatistics:
    """ResourceStatistics of merged fields; `timestamp` in seconds since the epoch."""
    return ResourceStatistics(timestamp=timestamp, **fields)  # type: ignore[arg-type]  # by name


FrameworkId = NewType("FrameworkId", str)
AgentId = NewType("AgentId", str)


@dataclass(frozen=True, slots=True)
class AllocatorSettings:
    """Settings that every allocator is given, beside a random generator.

    min_allocatable: alternatives of which an offer must contain one, thousandths by name.
    region: of the master; agents elsewhere are only for REGION_AWARE frameworks.
    """

    interval_s: float = 1.0  #: between two ticks; also the shortest life of an offer filter
    min_allocatable: tuple[Mapping[str, int], ...] = ({"cpus": 10}, {"mem": 32_000})
    fair_sharing_excluded: frozenset[str] = frozenset()  #: names that no share counts
    filter_gpus: bool = True  #: agents with gpus are only for GPU_RESOURCES frameworks
    region: str | None = None


class Constraint(Protocol):
    """Which agents one role of a framework wants to be offered (decoded OfferConstraints)."""

    @property
    def per_host(self) -> bool:
        """Whether the answer depends on the host name, beyond attributes, region and zone."""
        ...

    def allows(self, agent: "AllocAgent") -> bool:
        """Whether the agent may be offered. Bounded time; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class AllocFramework:
    """What an allocator knows of a framework.

    capabilities: names such as GPU_RESOURCES.
    min_allocatable: per role, alternatives of which an offer must contain one; amounts in
        thousandths. A role that is absent takes the allocator's default; no alternative at all
        lets every amount through.
    """

    id: FrameworkId
    roles: frozenset[str]
    suppressed: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    min_allocatable: Mapping[str, tuple[Mapping[str, int], ...]] = field(default_factory=dict)
    offer_constraints: Mapping[str, Constraint] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AllocAgent:
    """What an allocator knows of an agent.

    capabilities: names such as MULTI_ROLE, HIERARCHICAL_ROLE, RESERVATION_REFINEMENT.
    unavailable: start of its maintenance window, wall-clock seconds; None without one. Only
        passed on; an agent before its window is offered like any other.
    """

    id: AgentId
    hostname: str
    total: Resources
    attributes: tuple[Attribute, ...] = ()
    region: str | None = None
    zone: str | None = None
    capabilities: frozenset[str] = frozenset(
        {"MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT"}
    )
    unavailable: float | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """Resources of one agent for one role of a framework: this becomes one offer."""

    framework_id: FrameworkId
    role: str
    agent_id: AgentId
    resources: Resources


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one slice of work decided. `more`: call `step` again, work is left."""

    allocations: tuple[Allocation, ...] = ()
    more: bool = False


class WhyNot(StrEnum):
    """Why a role of a framework was not offered an agent."""

    INACTIVE = "framework is not connected or not active"
    SUPPRESSED = "role is suppressed"
    NOT_IN_ROLE = "framework is not in the role"
    AGENT_INACTIVE = "agent is not active or not whitelisted"
    NOTHING_FREE = "agent has nothing free"
    RESERVED = "what is free is reserved to others"
    GPU = "agent has gpus and framework lacks GPU_RESOURCES"
    REGION = "agent is in another region and framework lacks REGION_AWARE"
    AGENT_TOO_OLD = "agent lacks a capability that the role needs"
    CONSTRAINT = "offer constraints exclude the agent"
    REFUSED = "declined lately"
    TOO_SMALL = "what is left is below the minimum of an offer"
    QUOTA_LIMIT = "quota limit of the role is reached"
    HEADROOM = "kept for quota guarantees of other roles"
    PAUSED = "waiting for agents to come back after a failover"
    ELIGIBLE = "eligible: offered when its turn comes"


@dataclass(frozen=True, slots=True)
class Why:
    """Why a role of a framework gets no offers: agents counted by reason, with examples.

    share: dominant share of the framework in the role, before the role's weight; allocated: how
    many agents hold allocations of it now.
    """

    framework_id: FrameworkId
    role: str
    counts: Mapping[WhyNot, int]
    examples: Mapping[WhyNot, tuple[AgentId, ...]]
    share: float = 0.0
    allocated: int = 0


class Allocator(Protocol):
    """Decides whom to offer what. Entry-point group `cairn.allocators`: a callable that takes
    a `random.Random` and an `AllocatorSettings`.

    Rules only: no clock, no I/O; the caller drives it. What it allocates counts as allocated -
    first as an offer, then as tasks - until `recover` gives it back. Unknown ids are ignored,
    because facts about things that have just gone may still be on their way.

        tick every interval, and whenever `next_deadline()` has passed
        while work is pending: step, with a budget of some 5 ms, then let others run
    """

    def add_framework(
        self,
        framework: AllocFramework,
        used: Mapping[AgentId, Mapping[str, Resources]],
        *,
        active: bool,
    ) -> None:
        """A framework registered, or (inactive) is known from its tasks after a failover.

        used: by agent and role, what it holds. What `add_agent` told already is not counted
        twice.
        """
        ...

    def update_framework(self, framework: AllocFramework) -> None:
        """Roles, capabilities, suppression, constraints or minimum changed."""
        ...

    def activate_framework(self, framework_id: FrameworkId) -> None:
        """It is connected and takes offers."""
        ...

    def deactivate_framework(self, framework_id: FrameworkId) -> None:
        """It takes no offers for now; what it holds still counts, its filters are forgotten."""
        ...

    def remove_framework(self, framework_id: FrameworkId) -> None:
        """It is gone, and what it held is free."""
        ...

    def add_agent(
        self, agent: AllocAgent, used: Mapping[FrameworkId, Mapping[str, Resources]]
    ) -> None:
        """An agent registered. used: what frameworks hold there, by role, known or not."""
        ...

    def update_agent(self, agent: AllocAgent) -> None:
        """Total resources, attributes, domain, capabilities or maintenance changed."""
        ...

    def activate_agent(self, agent_id: AgentId) -> None:
        """It takes part again."""
        ...

    def deactivate_agent(self, agent_id: AgentId) -> None:
        """Disconnected or draining: not offered, but still counted."""
        ...

    def remove_agent(self, agent_id: AgentId) -> None:
        """It is gone, with all that was allocated on it."""
        ...

    def set_whitelist(self, hostnames: frozenset[str] | None) -> None:
        """Offer only agents on these hosts; None: all."""
        ...

    def set_quota(
        self, role: str, guarantees: Mapping[str, int], limits: Mapping[str, int]
    ) -> None:
        """Quota of a top-level role, in thousandths. A name absent from limits is unlimited;
        both empty: the role has no quota any more.
        """
        ...

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Weights of some roles, > 0. Others keep theirs; 1.0 where never set."""
        ...

    def recover(
        self,
        framework_id: FrameworkId,
        agent_id: AgentId,
        role: str,
        resources: Resources,
        *,
        refuse_s: float | None,
        now: float,
    ) -> None:
        """Resources come back: declined, ended or rescinded.

        refuse_s: seconds for which the same role of the framework is not to be offered them
            again (at least one interval); 0: declined, but may be offered to it again after the
            next tick; None: not declined (a task ended, an offer was rescinded).
        """
        ...

    def allocate_used(
        self, framework_id: FrameworkId, agent_id: AgentId, role: str, resources: Resources
    ) -> None:
        """Resources were taken without an allocation of ours (a task that came back)."""
        ...

    def convert(
        self,
        framework_id: FrameworkId,
        agent_id: AgentId,
        role: str,
        before: Resources,
        after: Resources,
    ) -> None:
        """What a framework holds became something else (reserved, made a volume): the agent's
        total changes with it.
        """
        ...

    def revive(self, framework_id: FrameworkId, roles: frozenset[str], *, now: float) -> None:
        """Forget filters and suppression of these roles (none named: of all)."""
        ...

    def suppress(self, framework_id: FrameworkId, roles: frozenset[str]) -> None:
        """No offers for these roles (none named: all) until revived."""
        ...

    def hold(self, *, agents: int, timeout_s: float, now: float) -> None:
        """After a failover, while quota is set: allocate nothing until so many agents are back
        or the time is over.
        """
        ...

    def tick(self, *, now: float) -> None:
        """The periodic round over all agents is due."""
        ...

    def pending(self) -> bool:
        """Whether `step` has work to do."""
        ...

    def step(self, *, now: float, max_agents: int) -> StepResult:
        """Work on at most so many agents and return what was allocated on them.

        An agent costs some 15 us, with quota or reservations several times that: 32 at a time
        keep well within a slice. The caller must check each allocation against what it knows
        (a framework may have gone since) and `recover` what it makes no offer of.
        """
        ...

    def next_deadline(self) -> float | None:
        """When `tick` or `step` should run even if nothing happens; None: no such time."""
        ...

    def explain(self, framework_id: FrameworkId, role: str) -> Why:
        """Why (or that) the role of the framework gets no offers, agent by agent.

        Takes time linear in the agents (some 50 ms for 20,000).
        """
        ...

    def shares(self) -> Mapping[str, float]:
        """Dominant share per role that has frameworks, divided by its weight."""
        ...

    def quota_consumption(self) -> Mapping[str, Mapping[str, int]]:
        """Per top-level role with quota: reservations plus unreserved allocations, in
        thousandths.
        """
        ...

    def metrics(self) -> Mapping[str, float]:
        """Gauges and counters under the original's names, `allocator/mesos/...`."""
        ...
