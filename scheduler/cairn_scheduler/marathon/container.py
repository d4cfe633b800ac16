"""Container, networks, ports and volumes of an app definition, in the canonical form.

Source: the released Marathon's REST types (`appContainer`, `network`, `volumes`, `linux`). Field
names are the JSON names in snake case. JSON: an optional key only when set, a key with a
default always (`emitted`), and empty collections as the original prints them.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from cairn_core.mesos.base import emitted

AnyPort: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Protocol: TypeAlias = Literal["tcp", "udp", "udp,tcp"]
NonEmpty: TypeAlias = Annotated[str, Meta(min_length=1)]
PathText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
LegacyName: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=1024, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
NetworkName: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9_]*[a-z0-9])?$")
]
#: MiB or seconds.
Amount: TypeAlias = Annotated[int, Meta(ge=0)]

HOST = "host"
CONTAINER = "container"
BRIDGE = "container/bridge"


class Part(Struct, frozen=True, omit_defaults=True, kw_only=True, rename="camel"):
    """A piece of a definition."""


class Network(Part, frozen=True):
    """A network that every instance joins."""

    name: NetworkName | None = None
    mode: Literal["container", "container/bridge", "host"] = emitted("container")
    labels: dict[str, str] = {}


class PortDefinition(Part, frozen=True):
    """A port in host mode: the service port, and the host port too if ports are required."""

    port: AnyPort = emitted(0)
    name: LegacyName | None = None
    protocol: Protocol = emitted("tcp")
    labels: dict[str, str] = {}

    @property
    def protocols(self) -> tuple[str, ...]:
        """`udp,tcp` is two."""
        return tuple(self.protocol.split(","))


class PortMapping(Part, frozen=True):
    """A port of a container; without host port it is reached on the container's address."""

    container_port: AnyPort = emitted(0)
    host_port: AnyPort | None = None
    service_port: AnyPort = emitted(0)
    protocol: Protocol = emitted("tcp")
    name: LegacyName | None = None
    labels: dict[str, str] = emitted({})
    network_names: tuple[Name, ...] = ()

    @property
    def protocols(self) -> tuple[str, ...]:
        """`udp,tcp` is two."""
        return tuple(self.protocol.split(","))


class DockerParameter(Part, frozen=True):
    """An option of the docker command line."""

    key: NonEmpty
    value: str


class PullConfig(Part, frozen=True):
    """Credentials of a registry, as the name of a secret."""

    secret: NonEmpty


class Docker(Part, frozen=True):
    """A docker image and how it is run."""

    image: NonEmpty
    force_pull_image: bool = emitted(False)
    privileged: bool = emitted(False)
    parameters: tuple[DockerParameter, ...] = emitted(())
    pull_config: PullConfig | None = None


class Seccomp(Part, frozen=True):
    """The seccomp profile, or none at all."""

    profile_name: str | None = None
    unconfined: bool = emitted(False)


class IpcInfo(Part, frozen=True):
    """Shared memory; `shm_size` in MiB."""

    mode: Literal["PRIVATE", "SHARE_PARENT"]
    shm_size: Amount | None = None


class LinuxInfo(Part, frozen=True):
    """What only Linux has."""

    seccomp: Seccomp | None = None
    ipc_info: IpcInfo | None = None


class PersistentVolume(Part, frozen=True):
    """Disk that outlives its instance's tasks; sizes in MiB."""

    size: Amount
    type: Literal["root", "path", "mount"] | None = None
    max_size: Amount | None = None
    profile_name: str | None = None
    constraints: tuple[tuple[str, ...], ...] = ()


class ExternalVolume(Part, frozen=True):
    """A volume of a storage provider (`dvdi` or `csi`); `size` in GiB.

    options: texts for dvdi, an object of its own for csi; validated with the provider.
    """

    name: str | None = None
    provider: str | None = None
    size: Amount | None = None
    options: dict[str, Any] = {}
    shared: bool = False


class Volume(Part, frozen=True):
    """A volume: exactly one of host_path, persistent, external and secret is set."""

    container_path: NonEmpty
    host_path: NonEmpty | None = None
    mode: Literal["RO", "RW"] | None = None
    persistent: PersistentVolume | None = None
    external: ExternalVolume | None = None
    secret: NonEmpty | None = None


class Container(Part, frozen=True):
    """What an instance runs in. None of port_mappings means that there is nothing to map."""

    type: Literal["MESOS", "DOCKER"] = emitted("DOCKER")
    docker: Docker | None = None
    volumes: tuple[Volume, ...] = emitted(())
    port_mappings: tuple[PortMapping, ...] | None = None
    linux_info: LinuxInfo | None = None

    @property
    def has_persistent_volumes(self) -> bool:
        """Whether instances are bound to where their volumes are."""
        return any(v.persistent is not None for v in self.volumes)

    @property
    def has_external_volumes(self) -> bool:
        """Whether a storage provider is needed."""
        return any(v.external is not None for v in self.volumes)
