"""App definitions as clients write them: the canonical keys and those from before 1.5.

`read_app` and `read_update` take a JSON value and give an `AppUpdate` in canonical terms; all
defaults are left to `normalize`. Source: the released Marathon's app normalisation.

    container.docker.network   networks
      HOST                     host
      BRIDGE                   container/bridge
      USER + ipAddress         container, with the name and labels of ipAddress
      NONE                     refused
    container.docker.portMappings, ipAddress.discovery.ports   container.portMappings
    uris                       fetch
    ports                      portDefinitions
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, field
from msgspec.structs import asdict

from cairn_core.mesos.base import emitted
from cairn_scheduler.marathon.app import AppUpdate, Fetch
from cairn_scheduler.marathon.container import (
    AnyPort,
    Container,
    Docker,
    LegacyName,
    Network,
    NonEmpty,
    Part,
    PortDefinition,
    PortMapping,
    Protocol,
)
from cairn_scheduler.marathon.errors import Fault, InvalidJson, NotValid, UnmappableJson, fault
from cairn_scheduler.marathon.json_input import read_object

Uri: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
#: Endings that the agent's fetcher unpacks.
ARCHIVES = (
    ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".gz", ".tgz", ".tbz2", ".txz", ".zip",
)  # fmt: skip
#: Most apps that one PUT may carry.
MAX_UPDATES = 10_000


class LegacyPortMapping(PortMapping, frozen=True):
    """A mapping of the docker block; also takes the spelling of the Mesos messages."""

    # Differs: the original ignores these two keys, and with them what the author meant.
    mesos_container_port: AnyPort | None = field(default=None, name="container_port")
    mesos_host_port: AnyPort | None = field(default=None, name="host_port")

    def canonical(self) -> PortMapping:
        """Without the second spelling; the first wins."""
        port, host = self.container_port, self.host_port
        return PortMapping(
            container_port=port or self.mesos_container_port or 0,
            host_port=self.mesos_host_port if host is None else host,
            service_port=self.service_port,
            protocol=self.protocol,
            name=self.name,
            labels=self.labels,
            network_names=self.network_names,
        )


class LegacyDocker(Docker, frozen=True):
    """The docker block with its own network and mappings."""

    network: Literal["HOST", "BRIDGE", "USER", "NONE"] | None = None
    port_mappings: tuple[LegacyPortMapping, ...] | None = None
    credential: dict[str, Any] | None = None


class LegacyContainer(Container, frozen=True):
    """A container with either docker block."""

    docker: LegacyDocker | None = None


class DiscoveryPort(Part, frozen=True):
    """A port that an address of its own announces."""

    name: LegacyName
    number: AnyPort = emitted(0)
    protocol: Protocol = emitted("tcp")
    labels: dict[str, str] = {}


class Discovery(Part, frozen=True):
    """The ports of an address."""

    ports: tuple[DiscoveryPort, ...] = ()


class IpAddress(Part, frozen=True):
    """Asks for an address per instance."""

    network_name: NonEmpty | None = None
    labels: dict[str, str] = {}
    groups: tuple[str, ...] = ()
    discovery: Discovery | None = None


class AppInput(AppUpdate, frozen=True):
    """Whatever a client may write."""

    container: LegacyContainer | None = None
    ip_address: IpAddress | None = None
    ports: tuple[AnyPort, ...] | None = None
    uris: tuple[Uri, ...] | None = None


def read_app(raw: Any, *, bridge_name: str = "mesos-bridge") -> AppUpdate:
    """Read a new definition; `id` must be there.

    Raises UnmappableJson, InvalidJson, NotValid (old and new keys mixed).
    """
    if isinstance(raw, dict) and raw.get("id") is None:
        try:
            read_object(AppInput, raw)
        except InvalidJson as error:
            raise InvalidJson((fault("/id", "error.path.missing"), *error.faults)) from None
        raise InvalidJson([fault("/id", "error.path.missing")])
    return read_update(raw, bridge_name=bridge_name)


def read_update(raw: Any, *, bridge_name: str = "mesos-bridge", at: str = "") -> AppUpdate:
    """Read some keys of a definition; raises as `read_app`."""
    return canonical_update(read_object(AppInput, raw, at), bridge_name)


def canonical_update(given: AppInput, bridge_name: str) -> AppUpdate:
    """What was read, in canonical keys. Raises NotValid where old and new keys are mixed."""
    faults = mixture_faults(given)
    if faults:
        raise NotValid(faults)
    return translate(given, bridge_name)


def read_updates(raw: Any, *, bridge_name: str = "mesos-bridge") -> tuple[AppUpdate, ...]:
    """Read the body of a PUT to all apps: an array, each element with its id."""
    if not isinstance(raw, list):
        raise UnmappableJson("expected a JSON array")
    if len(raw) > MAX_UPDATES:
        raise UnmappableJson(f"expected at most {MAX_UPDATES} apps, got {len(raw)}")
    updates = tuple(
        read_update(item, bridge_name=bridge_name, at=f"({i})") for i, item in enumerate(raw)
    )
    missing = [
        fault(f"({i})/id", "error.path.missing") for i, u in enumerate(updates) if u.id is None
    ]
    if missing:
        raise InvalidJson(missing)
    return updates


def mixture_faults(app: AppInput) -> list[Fault]:
    """Keys that exclude each other."""
    docker = app.container.docker if app.container is not None else None
    discovery = app.ip_address.discovery if app.ip_address is not None else None
    engine = app.container.type if app.container is not None else "MESOS"
    real_ports = [port for port in app.ports or () if port]
    numbers = None if app.port_definitions is None else [d.port for d in app.port_definitions]
    old_mappings = docker.port_mappings if docker is not None else None
    mappings = app.container.port_mappings if app.container is not None else None
    names = [m.name for m in old_mappings or () if m.name is not None]
    checks: list[tuple[bool, str, str]] = [
        (
            docker is not None and docker.network is not None and bool(app.networks),
            "/",
            "must not specify both container.docker.network and networks",
        ),
        (
            app.ip_address is not None and bool(app.networks),
            "/",
            "must not specify both networks and ipAddress",
        ),
        (len(set(real_ports)) != len(real_ports), "/", "ports must be unique"),
        (
            app.ip_address is not None and bool(app.ports or app.port_definitions),
            "/",
            "cannot specify both an IP address and port",
        ),
        (
            app.ports is not None and numbers is not None and numbers != list(app.ports),
            "/",
            "cannot specify both ports and port definitions",
        ),
        (bool(app.uris and app.fetch), "/uris", "cannot specify both uris and fetch fields"),
        (
            bool(discovery) and engine == "DOCKER",
            "/ipAddress",
            "ipAddress/discovery is not allowed for Docker containers",
        ),
        (
            docker is not None and docker.network == "NONE",
            "/container/docker/network",
            "unsupported docker network type NONE",
        ),
        (
            docker is not None and docker.credential is not None,
            "/container/docker/credential",
            "must be empty",
        ),
        (
            bool(old_mappings and mappings),
            "/container",
            "cannot specify both portMappings and docker.portMappings",
        ),
        (
            len(set(names)) != len(names),
            "/container/docker/portMappings",
            "Port names must be unique.",
        ),
        (
            bool(discovery and discovery.ports and (mappings or old_mappings)),
            "/",
            "container.portMappings and ipAddress.discovery.ports must not both be set",
        ),
    ]
    return [fault(path, text) for wrong, path, text in checks if wrong]


def translate(app: AppInput, bridge_name: str) -> AppUpdate:
    """The same wish in canonical keys. `app` must be free of `mixture_faults`."""
    values = {
        name: value
        for name, value in asdict(app).items()
        if name not in ("container", "ip_address", "ports", "uris")
    }
    values["networks"] = _networks(app, bridge_name)
    values["container"] = _container(app)
    if app.ports is not None and app.port_definitions is None:
        values["port_definitions"] = tuple(PortDefinition(port=port) for port in app.ports)
    if app.uris and not app.fetch:
        values["fetch"] = tuple(Fetch(uri=u, extract=u.endswith(ARCHIVES)) for u in app.uris)
    return AppUpdate(**values)


def _networks(app: AppInput, bridge_name: str) -> tuple[Network, ...] | None:
    """Networks as asked for by either API; None where nothing was said."""
    wanted = app.ip_address
    docker = app.container.docker if app.container is not None else None
    kind = docker.network if docker is not None else None
    labels = wanted.labels if wanted is not None else {}
    name = wanted.network_name if wanted is not None else None
    if kind == "HOST":
        return (Network(mode="host"),)
    if kind == "BRIDGE" or (kind is None and name is not None and name == bridge_name):
        return (Network(mode="container/bridge", labels=labels),)
    if kind == "USER" or wanted is not None:
        return (Network(mode="container", name=name, labels=labels),)
    return app.networks


def _container(app: AppInput) -> Container | None:
    """The container with its mappings in the one place; an address implies a container."""
    given = app.container
    if given is None and app.ip_address is None:
        return None
    mappings = given.port_mappings if given is not None else None
    docker = None
    if given is not None and given.docker is not None:
        old = given.docker
        if old.port_mappings is not None and not mappings:
            mappings = tuple(m.canonical() for m in old.port_mappings)
        docker = Docker(
            image=old.image,
            force_pull_image=old.force_pull_image,
            privileged=old.privileged,
            parameters=old.parameters,
            pull_config=old.pull_config,
        )
    discovery = app.ip_address.discovery if app.ip_address is not None else None
    if discovery is not None and discovery.ports:
        mappings = tuple(
            PortMapping(
                container_port=port.number,
                name=port.name,
                protocol=port.protocol,
                labels=port.labels,
            )
            for port in discovery.ports
        )
    if given is None:
        return Container(type="MESOS", port_mappings=mappings)
    return Container(
        type=given.type,
        docker=docker,
        volumes=given.volumes,
        port_mappings=mappings,
        linux_info=given.linux_info,
    )
