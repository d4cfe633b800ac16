"""The app definition, canonical: what is stored, compared, launched and printed.

Source: the released Marathon's REST type `app` and its JSON writers. `App` is complete, defaults
and all; `AppUpdate` is the same with every key optional, as a PUT carries it. JSON through
`encode` follows the original: optional keys only when set (strict clients fail on keys that they
do not know), keys with a default always, most collections only when not empty.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from cairn_core.mesos.base import emitted
from cairn_scheduler.marathon.checks import Check, HealthCheck, ReadinessCheck
from cairn_scheduler.marathon.container import (
    Amount,
    Container,
    Network,
    NonEmpty,
    Part,
    PathText,
    PortDefinition,
    PortMapping,
)

#: A label that caps an app at one instance, also during an upgrade.
SINGLE_INSTANCE_LABEL = "MARATHON_SINGLE_INSTANCE_APP"
YOUNGEST_FIRST = "YOUNGEST_FIRST"
OLDEST_FIRST = "OLDEST_FIRST"

# Whole numbers stay whole, so that 1 is printed as 1; hence both branches.
Number: TypeAlias = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
Share: TypeAlias = Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0, le=1)]
Factor: TypeAlias = Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1)]
Int32: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
KillSelection: TypeAlias = Literal["YOUNGEST_FIRST", "OLDEST_FIRST"]
Constraint: TypeAlias = tuple[str, ...]
ExecutorPath: TypeAlias = Annotated[str, Meta(pattern="^(//cmd)$|^(/?[^/]+(/[^/]+)*)$|^$")]


class SecretRef(Part, frozen=True):
    """Points to an entry of `secrets`."""

    secret: NonEmpty


class SecretSource(Part, frozen=True):
    """Where a secret comes from."""

    source: NonEmpty


EnvValue: TypeAlias = str | SecretRef


class Fetch(Part, frozen=True):
    """A file that is put into the sandbox before the start."""

    uri: PathText
    extract: bool = emitted(True)
    executable: bool = emitted(False)
    cache: bool = emitted(False)
    dest_path: PathText | None = None


class UpgradeStrategy(Part, frozen=True):
    """Bounds of a rolling restart, as shares of the instances."""

    minimum_health_capacity: Share = emitted(1)
    maximum_over_capacity: Share = emitted(1)


class UnreachableEnabled(Part, frozen=True):
    """Seconds until a lost instance is replaced, and until it is forgotten."""

    inactive_after_seconds: Amount = emitted(0)
    expunge_after_seconds: Amount = emitted(0)


UnreachableStrategy: TypeAlias = Literal["disabled"] | UnreachableEnabled


class ExecutorResources(Part, frozen=True):
    """What a custom executor itself uses; memory and disk in MiB. Lower bounds: the defaults."""

    cpus: Number = emitted(0.1)
    mem: Number = emitted(32)
    disk: Number = emitted(10)


class ResourceLimits(Part, frozen=True):
    """How much more than requested an instance may use; `unlimited` or a number."""

    cpus: int | float | str | None = None
    mem: int | float | str | None = None


class Residency(Part, frozen=True):
    """Marks an app whose instances are bound to their volumes; its values have no effect."""

    relaunch_escalation_timeout_seconds: Amount = emitted(3600)
    task_lost_behavior: Literal["WAIT_FOREVER", "RELAUNCH_AFTER_TIMEOUT"] = emitted("WAIT_FOREVER")


class VersionInfo(Part, frozen=True):
    """When the app was last scaled, and when its configuration last changed; timestamps."""

    last_scaling_at: str
    last_config_change_at: str


class App(Part, frozen=True):
    """A complete app definition. Memory and disk in MiB, times in seconds.

    id: absolute. Invariant: networks is not empty; in host mode there are no port mappings, in
    any other mode no port definitions.
    version, version_info: set by the root group when it takes the app.
    """

    id: str
    role: NonEmpty = emitted("*")
    cmd: str | None = None
    args: tuple[str, ...] = ()
    user: str | None = None
    env: dict[str, EnvValue] = {}
    instances: Int32 = emitted(1)
    cpus: Number = emitted(1)
    mem: Number = emitted(128)
    disk: Number = emitted(0)
    gpus: Int32 = emitted(0)
    resource_limits: ResourceLimits | None = None
    executor: str = emitted("")
    executor_resources: ExecutorResources | None = None
    constraints: tuple[Constraint, ...] = ()
    accepted_resource_roles: tuple[str, ...] | None = None
    fetch: tuple[Fetch, ...] = ()
    container: Container | None = None
    networks: tuple[Network, ...] = emitted((Network(mode="host"),))
    port_definitions: tuple[PortDefinition, ...] | None = None
    require_ports: bool = emitted(False)
    health_checks: tuple[HealthCheck, ...] = ()
    check: Check | None = None
    readiness_checks: tuple[ReadinessCheck, ...] = ()
    backoff_seconds: Int32 = emitted(1)
    backoff_factor: Factor = emitted(1.15)
    max_launch_delay_seconds: Int32 = emitted(300)
    upgrade_strategy: UpgradeStrategy = emitted(UpgradeStrategy())
    kill_selection: KillSelection = emitted("YOUNGEST_FIRST")
    task_kill_grace_period_seconds: Int32 | None = None
    unreachable_strategy: UnreachableStrategy = emitted(UnreachableEnabled())
    dependencies: tuple[str, ...] = ()
    labels: dict[str, str] = emitted({})
    secrets: dict[str, SecretSource] = {}
    tty: bool | None = None
    residency: Residency | None = None
    version: str | None = None
    version_info: VersionInfo | None = None

    @property
    def is_resident(self) -> bool:
        """Whether instances are bound to their volumes."""
        return self.residency is not None

    @property
    def is_single_instance(self) -> bool:
        """Whether the label caps the app at one instance."""
        return self.labels.get(SINGLE_INSTANCE_LABEL) == "true"

    @property
    def is_host_mode(self) -> bool:
        """Whether instances share the agent's network."""
        return all(n.mode == "host" for n in self.networks)

    @property
    def port_mappings(self) -> tuple[PortMapping, ...]:
        """Mappings of the container, if it has any."""
        container = self.container
        return (container.port_mappings or ()) if container is not None else ()

    @property
    def ports(self) -> tuple[PortDefinition, ...] | tuple[PortMapping, ...]:
        """The ports that port indices count: mappings where there are some, else definitions."""
        return self.port_mappings or self.port_definitions or ()

    @property
    def service_ports(self) -> tuple[int, ...]:
        """The service port of each of `ports`."""
        if self.port_mappings:
            return tuple(m.service_port for m in self.port_mappings)
        return tuple(d.port for d in self.port_definitions or ())

    @property
    def is_docker(self) -> bool:
        """Whether the docker daemon runs it."""
        return self.container is not None and self.container.type == "DOCKER"

    @property
    def config_version(self) -> str:
        """Version since which the configuration is what it is: what instances are compared by."""
        if self.version_info is not None:
            return self.version_info.last_config_change_at
        return self.version or ""


class AppUpdate(Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """Some keys of an app definition, canonical; None means that the key was not given."""

    id: str | None = None
    role: NonEmpty | None = None
    cmd: str | None = None
    args: tuple[str, ...] | None = None
    user: str | None = None
    env: dict[str, EnvValue] | None = None
    instances: Int32 | None = None
    cpus: Number | None = None
    mem: Number | None = None
    disk: Number | None = None
    gpus: Int32 | None = None
    resource_limits: ResourceLimits | None = None
    executor: ExecutorPath | None = None
    executor_resources: ExecutorResources | None = None
    constraints: tuple[Constraint, ...] | None = None
    accepted_resource_roles: tuple[str, ...] | None = None
    fetch: tuple[Fetch, ...] | None = None
    container: Container | None = None
    networks: tuple[Network, ...] | None = None
    port_definitions: tuple[PortDefinition, ...] | None = None
    require_ports: bool | None = None
    health_checks: tuple[HealthCheck, ...] | None = None
    check: Check | None = None
    readiness_checks: tuple[ReadinessCheck, ...] | None = None
    backoff_seconds: Int32 | None = None
    backoff_factor: Factor | None = None
    max_launch_delay_seconds: Int32 | None = None
    upgrade_strategy: UpgradeStrategy | None = None
    kill_selection: KillSelection | None = None
    task_kill_grace_period_seconds: Int32 | None = None
    unreachable_strategy: UnreachableStrategy | None = None
    dependencies: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    secrets: dict[str, SecretSource] | None = None
    tty: bool | None = None
    residency: Residency | None = None
    version: str | None = None

    def given(self) -> set[str]:
        """Names of the fields that are set."""
        return {name for name, value in asdict(self).items() if value is not None}


def encode(app: App) -> bytes:
    """The JSON of an app, as stored and as printed."""
    return msgspec.json.encode(app)


def decode(body: bytes) -> App:
    """Read back what `encode` wrote. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(body, type=App)


def scaled(app: App, instances: int) -> App:
    """The same app with another number of instances."""
    return replace(app, instances=instances)


def without_version_info(app: App) -> App:
    """As the answer to a POST prints it: the original stamps versions only afterwards."""
    return replace(app, version_info=None)
