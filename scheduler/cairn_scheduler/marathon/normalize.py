"""From what a client wrote to a complete app: defaults, merging of updates, relative ids.

Source: the released Marathon's app normalisation and update rules. `complete` is idempotent:
completing what it made changes nothing. Partial updates are `merge` and then `complete`.
Differs: a partial update keeps `executorResources` and `resourceLimits`, which the original drops.
"""

from dataclasses import dataclass
from typing import Any

from msgspec.structs import asdict, replace

from cairn_scheduler.marathon import paths, timestamps
from cairn_scheduler.marathon.app import (
    App,
    AppUpdate,
    Residency,
    UnreachableEnabled,
    UnreachableStrategy,
    UpgradeStrategy,
)
from cairn_scheduler.marathon.checks import HealthCheck, ReadinessCheck
from cairn_scheduler.marathon.container import (
    BRIDGE,
    CONTAINER,
    HOST,
    Container,
    Network,
    PortDefinition,
    PortMapping,
    Volume,
)
from cairn_scheduler.marathon.errors import NotValid, fault

DEFAULT_PORTS = (PortDefinition(port=0, name="default"),)
#: Fields of AppUpdate that are completed by a rule of their own, or not taken from there at all.
_RULED = {
    "id", "networks", "container", "port_definitions", "require_ports", "health_checks",
    "readiness_checks", "dependencies", "upgrade_strategy", "unreachable_strategy", "residency",
    "role", "accepted_resource_roles", "version",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the daemon's configuration says about definitions.

    role: `--mesos_role`, or the group's role where one is enforced.
    accepted_resource_roles: `--default_accepted_resource_roles`; None leaves the key out.
    network_name: `--default_network_name`. bridge_name: `--mesos_bridge_name`.
    """

    role: str = "*"
    accepted_resource_roles: tuple[str, ...] | None = None
    network_name: str | None = None
    bridge_name: str = "mesos-bridge"


def complete(update: AppUpdate, app_id: str, defaults: Defaults, base: str = paths.ROOT) -> App:
    """A complete app from what is given, the rest by default.

    app_id: path of the app, relative to the group `base` or absolute; wins over `update.id`.
    Raises NotValid where a container network gets no name.
    """
    networks = _networks(update, defaults)
    is_host = all(n.mode == HOST for n in networks)
    container = _container(update, networks)
    definitions = None
    if is_host:
        given = update.port_definitions
        definitions = DEFAULT_PORTS if given is None else given
    values: dict[str, Any] = {
        name: value
        for name, value in asdict(update).items()
        if value is not None and name not in _RULED
    }
    ports = definitions or (container.port_mappings if container is not None else None)
    resident = container is not None and container.has_persistent_volumes
    residency = update.residency or (Residency() if resident else None)
    return App(
        id=paths.canonical(app_id, base),
        role=update.role or defaults.role,
        accepted_resource_roles=update.accepted_resource_roles or defaults.accepted_resource_roles,
        networks=networks,
        container=container,
        port_definitions=definitions,
        require_ports=bool(update.require_ports) and is_host,
        health_checks=tuple(_health_check(c, bool(ports)) for c in update.health_checks or ()),
        readiness_checks=tuple(_readiness_check(c) for c in update.readiness_checks or ()),
        dependencies=tuple(paths.canonical(d, base) for d in update.dependencies or ()),
        upgrade_strategy=_upgrade_strategy(update, container),
        unreachable_strategy=_unreachable_strategy(update, residency),
        residency=residency,
        **values,
    )


def merge(app: App, update: AppUpdate) -> AppUpdate:
    """The app with the given keys replaced, to be completed again. The id stays."""
    values = asdict(app)
    values.pop("version_info")
    values.pop("version")
    # What followed from a default must follow again where its cause changes.
    if update.labels is not None and update.upgrade_strategy is None and _follows_label(app):
        values["upgrade_strategy"] = None
    values |= {name: getattr(update, name) for name in update.given() - {"id", "version"}}
    return AppUpdate(**values)


def as_update(app: App) -> AppUpdate:
    """All keys of an app; completing them gives the app again, but for its version."""
    return merge(app, AppUpdate())


def updated(app: App, update: AppUpdate, defaults: Defaults, base: str = paths.ROOT) -> App:
    """The app after a partial update. Version fields stay: the root group stamps them."""
    if update.dependencies is not None:
        below = tuple(paths.canonical(d, base) for d in update.dependencies)
        update = replace(update, dependencies=below)
    done = complete(merge(app, update), app.id, defaults)
    return replace(done, version=app.version, version_info=app.version_info)


def replaced(app: App, update: AppUpdate, defaults: Defaults, base: str = paths.ROOT) -> App:
    """The app after a complete update (`partialUpdate=false`)."""
    done = complete(update, app.id, defaults, base)
    return replace(done, version=app.version, version_info=app.version_info)


def rollback_version(update: AppUpdate) -> str | None:
    """The version that an update asks to go back to, in canonical form; None if it does not.

    Raises NotValid where other keys come with it, IllegalArgument where it is no timestamp.
    """
    if update.version is None:
        return None
    if update.given() - {"version", "id"}:
        text = "The 'version' field may only be combined with the 'id' field."
        raise NotValid([fault("/", text)])
    return timestamps.canonical(update.version)


def _follows_label(app: App) -> bool:
    return app.is_single_instance and app.upgrade_strategy == UpgradeStrategy(
        minimum_health_capacity=0, maximum_over_capacity=0
    )


def _networks(update: AppUpdate, defaults: Defaults) -> tuple[Network, ...]:
    """Networks with names; host when none is given."""
    networks = update.networks or (Network(mode="host"),)
    out = []
    for network in networks:
        if network.mode == CONTAINER and network.name is None:
            if defaults.network_name is None:
                text = "Network name must be specified when container network is selected."
                raise NotValid([fault("/networks", text)])
            network = replace(network, name=defaults.network_name)
        out.append(network)
    return tuple(out)


def _container(update: AppUpdate, networks: tuple[Network, ...]) -> Container | None:
    """The container with the mappings that its networks call for."""
    container = update.container
    if all(n.mode == HOST for n in networks):
        if container is None:
            return None
        return replace(container, port_mappings=None, volumes=_volumes(container))
    if container is None:
        container = Container(type="MESOS")
    mappings = container.port_mappings
    if mappings is None:
        mappings = (PortMapping(name="default"),)
    # Compat: definitions beyond the mappings ask for as many unnamed mappings.
    missing = len(update.port_definitions or ()) - len(mappings)
    mappings += tuple(PortMapping() for _ in range(missing))
    if any(n.mode == BRIDGE for n in networks):
        mappings = tuple(replace(m, host_port=0) if m.host_port is None else m for m in mappings)
    return replace(container, port_mappings=mappings, volumes=_volumes(container))


def _volumes(container: Container) -> tuple[Volume, ...]:
    """Persistent volumes with their defaults: a root disk, or a mount where a profile is named."""
    out = []
    for volume in container.volumes:
        disk = volume.persistent
        if disk is not None:
            kind = disk.type or ("root" if disk.profile_name is None else "mount")
            volume = replace(volume, mode=volume.mode or "RW", persistent=replace(disk, type=kind))
        out.append(volume)
    return tuple(out)


def _health_check(check: HealthCheck, has_ports: bool) -> HealthCheck:
    """A check that knows its port and its path."""
    if check.protocol == "COMMAND":
        return check
    index, path, ignore = check.port_index, check.path, check.ignore_http1xx
    if has_ports and index is None and check.port is None:
        index = 0
    if check.is_http:
        path = path or "/"
        if not check.by_mesos:
            ignore = bool(ignore)
    return replace(check, port_index=index, path=path, ignore_http1xx=ignore)


def _readiness_check(check: ReadinessCheck) -> ReadinessCheck:
    return (
        check
        if check.http_status_codes_for_ready
        else replace(check, http_status_codes_for_ready=(200,))
    )


def _upgrade_strategy(update: AppUpdate, container: Container | None) -> UpgradeStrategy:
    """Given, or: nothing at once for single instances, no surplus where volumes are bound."""
    if update.upgrade_strategy is not None:
        return update.upgrade_strategy
    if (update.labels or {}).get("MARATHON_SINGLE_INSTANCE_APP") == "true":
        return UpgradeStrategy(minimum_health_capacity=0, maximum_over_capacity=0)
    if container is not None and (
        container.has_persistent_volumes or container.has_external_volumes
    ):
        return UpgradeStrategy(minimum_health_capacity=0.5, maximum_over_capacity=0)
    return UpgradeStrategy()


def _unreachable_strategy(update: AppUpdate, residency: Residency | None) -> UnreachableStrategy:
    if update.unreachable_strategy is not None:
        return update.unreachable_strategy
    return "disabled" if residency is not None else UnreachableEnabled()
