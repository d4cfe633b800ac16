"""What makes a complete app one that can run: a list of faults, empty when it can.

`validate` checks an app on its own, `validate_change` an app against its predecessor. What spans
apps (ids against group ids, cycles) is in `groups`. Texts are those of the released Marathon,
for people search for them; types and bounds of single keys are checked on reading.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.app import App, SecretRef, encode
from cairn_scheduler.marathon.checks import HealthCheck
from cairn_scheduler.marathon.constraints import constraint_faults
from cairn_scheduler.marathon.container import BRIDGE, CONTAINER, HOST, Network, Volume
from cairn_scheduler.marathon.container_validation import (
    SECRETS,
    Faults,
    Rules,
    check_container,
    require_feature,
)
from cairn_scheduler.marathon.errors import Fault, NotValid, fault

__all__ = [
    "Rules", "identifier_faults", "require_valid", "role_faults", "validate", "validate_change",
]  # fmt: skip

#: Largest definition as JSON: it is one record of the log, with room for what is around it.
MAX_BYTES = 480_000
#: Most instances of one app: far above what a cluster holds, below what would exhaust us.
MAX_INSTANCES = 1_000_000
RESIDENT_CHANGE = (
    "Services with persistent volumes configured may not change resource requirements. "
    "If you need to make this change, please create a new service."
)
HOST_PORT_CHANGE = (
    "Services with persistent volumes configured may not change host ports. "
    "If you need to make this change, please create a new service."
)


def validate(app: App, rules: Rules) -> list[Fault]:
    """All faults of a complete app."""
    faults = Faults()
    _identity(app, faults)
    _command(app, faults)
    _amounts(app, faults)
    _networks(app.networks, faults)
    _ports(app, faults)
    check_container(app, rules, faults)
    _checks(app, faults)
    _roles(app, rules, faults)
    _secrets(app, rules, faults)
    _strategies(app, faults)
    _labels(app, faults)
    for i, constraint in enumerate(app.constraints):
        for text in constraint_faults(constraint):
            faults.unless(False, f"/constraints({i})", text)
    for i, fetch in enumerate(app.fetch):
        faults.unless(_is_uri(fetch.uri), f"/fetch({i})/uri", "URI has invalid syntax.")
    return faults.listed()


def require_valid(app: App, rules: Rules) -> App:
    """Return the app; raise NotValid with all its faults."""
    faults = validate(app, rules)
    if faults:
        raise NotValid(faults)
    return app


def validate_change(old: App, new: App, *, force: bool) -> list[Fault]:
    """Faults of replacing one app by another: what is bound to its volumes cannot change."""
    faults = Faults()
    if not (old.is_resident and new.is_resident):
        return []
    faults.unless(
        _persistent(old) == _persistent(new), "/container", "Persistent volumes can not be changed!"
    )
    for name in ("cpus", "mem", "disk", "gpus"):
        faults.unless(getattr(old, name) == getattr(new, name), f"/{name}", RESIDENT_CHANGE)
    faults.unless(_host_ports(old) == _host_ports(new), "/portDefinitions", HOST_PORT_CHANGE)
    faults.unless(
        force or old.role == new.role,
        "/role",
        "It is not possible to change the role for existing reservations. If you proceed with "
        "this change, all existing instances will continue to under the previous role, "
        f'"{old.role}". Only new instances will be allocated with the new role. In order to '
        "continue, retry your request with ?force=true",
    )
    return faults.listed()


def _identity(app: App, faults: Faults) -> None:
    for text in paths.faults(app.id):
        faults.unless(False, "/id", text)
    faults.unless(
        bool(paths.segments(app.id)), "/id", "Path must contain at least one path element"
    )
    for i, dependency in enumerate(app.dependencies):
        for text in paths.faults(dependency):
            faults.unless(False, f"/dependencies({i})", text)


def _command(app: App, faults: Faults) -> None:
    container = app.container
    image = container is not None and (container.docker is not None or container.type == "MESOS")
    both = bool(app.cmd) and bool(app.args)
    faults.unless(
        not both and bool(app.cmd or app.args or image),
        "/",
        "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.",
    )
    # Compat: released versions take one character for empty.
    faults.unless(app.cmd is None or len(app.cmd) > 1, "/", "must not be an empty string")
    faults.unless("\x00" not in (app.cmd or "") + "".join(app.args), "/cmd", "must not contain NUL")
    faults.unless("" not in app.env, "/env", "environment variable names must not be empty")


def _amounts(app: App, faults: Faults) -> None:
    size = len(encode(app))
    faults.unless(size <= MAX_BYTES, "/", f"has {size} bytes as JSON, expected {MAX_BYTES} or less")
    limit = 1 << 40
    for name in ("cpus", "mem", "disk", "gpus"):
        faults.unless(
            getattr(app, name) <= limit,
            f"/{name}",
            f"got {getattr(app, name)}, expected {limit} or less",
        )
    faults.unless(
        app.instances <= MAX_INSTANCES,
        "/instances",
        f"got {app.instances}, expected {MAX_INSTANCES} or less",
    )
    own = app.executor_resources
    if own is not None:
        for name, least in (("cpus", 0.1), ("mem", 32), ("disk", 10)):
            faults.unless(getattr(own, name) >= least, f"/executorResources/{name}", "error.min")
    limits = app.resource_limits
    if limits is None:
        return
    for name, request in (("cpus", app.cpus), ("mem", app.mem)):
        value = getattr(limits, name)
        path = f"/resourceLimits/{name}"
        if isinstance(value, str):
            faults.unless(
                value == "unlimited",
                path,
                f"'{value[:64]}' is an invalid resource limit. It must be 'unlimited' or a number",
            )
        elif value is not None:
            faults.unless(
                value >= request,
                path,
                f"resource limit must be greater than or equal to requested resource ({request})",
            )


def _networks(networks: tuple[Network, ...], faults: Faults) -> None:
    modes = [n.mode for n in networks]
    names = [n.name for n in networks if n.name is not None]
    faults.unless(
        not any(n.mode == HOST and (n.name or n.labels) for n in networks),
        "/networks",
        "Host networks may not have names or labels",
    )
    faults.unless(
        not any(n.mode == BRIDGE and n.name for n in networks),
        "/networks",
        "Bridge networks may not have names",
    )
    faults.unless(len(set(names)) == len(names), "/networks", "Duplicate networks are not allowed")
    faults.unless(
        modes in ([HOST], [BRIDGE]) or (bool(modes) and set(modes) == {CONTAINER}),
        "/networks",
        "May specify a single host network, single bridge network, or else 1-to-n container "
        "networks",
    )


def _ports(app: App, faults: Faults) -> None:
    modes = {n.mode for n in app.networks}
    faults.unless(
        not (HOST in modes and app.port_mappings),
        "/",
        "portMappings are not allowed with host-networking",
    )
    faults.unless(
        modes <= {HOST} or not app.port_definitions,
        "/",
        "portDefinitions are only allowed with host-networking",
    )
    definitions = app.port_definitions or ()
    where = "/container/portMappings" if app.port_mappings else "/portDefinitions"
    names = [p.name for p in app.ports if p.name is not None]
    faults.unless(len(set(names)) == len(names), where, "Port names must be unique.")
    numbers = [d.port for d in definitions if d.port]
    faults.unless(len(set(numbers)) == len(numbers), "/portDefinitions", "Ports must be unique.")
    known = {n.name for n in app.networks if n.name is not None}
    several = sum(n.mode == CONTAINER for n in app.networks) > 1
    for i, mapping in enumerate(app.port_mappings):
        path = f"/container/portMappings({i})"
        faults.unless(
            not several or mapping.host_port is None or len(mapping.network_names) == 1,
            path,
            "networkNames must be a single item list when hostPort is specified and more than 1 "
            "container network is defined",
        )
        for j, name in enumerate(mapping.network_names):
            faults.unless(
                name in known,
                f"{path}/networkNames({j})",
                f"is not one of ({','.join(sorted(known))})",
            )


def _checks(app: App, faults: Faults) -> None:
    count = len(app.ports)
    for i, check in enumerate(app.health_checks):
        path = f"/healthChecks({i})"
        faults.unless(
            _addresses_port(check, count),
            path,
            "Health check port indices must address an element of the ports array or container "
            "port mappings.",
        )
        faults.unless(
            check.protocol != "COMMAND" or check.command is not None,
            f"{path}/command",
            "not defined",
        )
        faults.unless(
            check.ip_protocol == "IPv4" or (check.by_mesos and app.is_docker),
            path,
            "IPv6 can only be used for container type DOCKER and Mesos http/https/tcp health "
            "checks",
        )
    mesos = sum(c.by_mesos and c.command is None for c in app.health_checks)
    faults.unless(mesos <= 1, "/", "AppDefinition can contain at most one Mesos health check")
    faults.unless(len(app.health_checks) <= 100, "/healthChecks", "expected 100 or less")
    _generic_check(app, count, faults)
    faults.unless(
        len(app.readiness_checks) <= 1,
        "/readinessChecks",
        f"got {len(app.readiness_checks)}, expected 1 or less",
    )
    names = {p.name for p in app.ports}
    for i, ready in enumerate(app.readiness_checks):
        path = f"/readinessChecks({i})"
        faults.unless(
            ready.port_name in names,
            f"{path}/portName",
            f"No port definition reference for portName {ready.port_name}",
        )
        faults.unless(
            ready.timeout_seconds < ready.interval_seconds,
            f"{path}/timeoutSeconds",
            f"got {ready.timeout_seconds}, expected less than {ready.interval_seconds}",
        )


def _addresses_port(check: HealthCheck, count: int) -> bool:
    if check.command is not None or check.by_mesos:
        # What Mesos runs may name a port that no mapping knows; an index must still exist.
        return check.port_index is None or check.command is not None or check.port_index < count
    if check.port_index is not None:
        return check.port_index < count
    return check.port is not None or count == 1


def _generic_check(app: App, count: int, faults: Faults) -> None:
    check = app.check
    if check is None:
        return
    kinds = [k for k in (check.http, check.tcp, check.exec) if k is not None]
    faults.unless(len(kinds) == 1, "/check", "must have exactly one of http, tcp and exec")
    for probe in (check.http, check.tcp):
        if probe is not None:
            faults.unless(
                probe.port is not None
                or (probe.port_index is None and count > 0)
                or (probe.port_index is not None and probe.port_index < count),
                "/check",
                "check port index must address an element of the ports array or container port "
                "mappings.",
            )
    if check.exec is not None:
        command = check.exec.command
        faults.unless(
            (command.shell is None) == bool(command.argv),
            "/check/exec/command",
            "must have exactly one of shell and argv",
        )


def _roles(app: App, rules: Rules, faults: Faults) -> None:
    for text in role_faults(app.role):
        faults.unless(False, "/role", text)
    if rules.roles is not None:
        faults.unless(
            app.role in rules.roles, "/role", f"is not one of ({','.join(sorted(rules.roles))})"
        )
    accepted = app.accepted_resource_roles
    if accepted is None:
        return
    faults.unless(bool(accepted), "/acceptedResourceRoles", "must not be empty")
    expected = " and ".join(sorted({"*", app.role}))
    faults.unless(
        set(accepted) <= {"*", app.role},
        "/acceptedResourceRoles",
        f"acceptedResourceRoles can only contain {expected}",
    )


def role_faults(role: str) -> list[str]:
    """What is wrong with the name of a role."""
    found = []
    named = {
        "\t": "horizontal tab (\\x09)", "\n": "line feed (\\x0a)", "\v": "vertical tab (\\x0b)",
        "\f": "form feed (\\x0c)", "\r": "carriage return (\\x0d)", " ": "space (\\x20)",
        "/": "slash (\\x2f)", "\x7f": "backspace (\\x7f)",
    }  # fmt: skip
    for char, what in named.items():
        if char in role:
            found.append(f"A role name must not include a {what} character.")
    if role in ("", ".", ".."):
        found.append(f'A role name must not be "{role}".')
    if role.startswith("-"):
        found.append("A role name must not start with a '-'.")
    return found


def _secrets(app: App, rules: Rules, faults: Faults) -> None:
    if app.secrets:
        require_feature(rules, SECRETS, "/secrets", faults)
    for name, value in app.env.items():
        if isinstance(value, SecretRef):
            faults.unless(
                SECRETS in rules.features,
                "/env",
                "use of secret-references in the environment requires the secrets feature to be "
                "enabled",
            )
            faults.unless(
                value.secret in app.secrets,
                f"/env/{name}/secret",
                "references an undefined secret",
            )


def _strategies(app: App, faults: Faults) -> None:
    strategy = app.upgrade_strategy
    if app.is_single_instance:
        faults.unless(app.instances <= 1, "/", "Single instance app may only have one instance")
        for name, value in (
            ("minimumHealthCapacity", strategy.minimum_health_capacity),
            ("maximumOverCapacity", strategy.maximum_over_capacity),
        ):
            faults.unless(value == 0, f"/upgradeStrategy/{name}", f"got {value}, expected 0.0")
    if app.is_resident:
        over = strategy.maximum_over_capacity
        faults.unless(
            over == 0, "/upgradeStrategy/maximumOverCapacity", f"got {over}, expected 0.0"
        )
        faults.unless(
            app.unreachable_strategy == "disabled",
            "/unreachableStrategy",
            "unreachableStrategy must be disabled for resident tasks",
        )
    lost = app.unreachable_strategy
    if not isinstance(lost, str):
        faults.unless(
            lost.inactive_after_seconds <= lost.expunge_after_seconds,
            "/unreachableStrategy/inactiveAfterSeconds",
            f"inactiveAfterSeconds ({lost.inactive_after_seconds}) must be less than or equal to "
            f"expungeAfterSeconds ({lost.expunge_after_seconds})",
        )


def _labels(app: App, faults: Faults) -> None:
    if app.labels.get("DCOS_MIGRATION_API_VERSION"):
        faults.unless(
            app.labels["DCOS_MIGRATION_API_VERSION"] == "v1"
            and bool(app.labels.get("DCOS_PACKAGE_FRAMEWORK_NAME"))
            and bool(app.labels.get("DCOS_MIGRATION_API_PATH")),
            "/",
            "DCOS_PACKAGE_FRAMEWORK_NAME and DCOS_MIGRATION_API_PATH must be defined when using "
            "DCOS_MIGRATION_API_VERSION",
        )


def _is_uri(text: str) -> bool:
    if any(char.isspace() or ord(char) < 32 or char in '"<>\\^`{|}' for char in text):
        return False
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def _persistent(app: App) -> list[Volume]:
    volumes: Iterable[Volume] = app.container.volumes if app.container is not None else ()
    return [v for v in volumes if v.persistent is not None]


def _host_ports(app: App) -> list[int | None]:
    if app.port_mappings:
        return [m.host_port for m in app.port_mappings]
    if not app.require_ports:
        return [0 for _ in app.port_definitions or ()]
    return [d.port for d in app.port_definitions or ()]


def identifier_faults(app_id: str, base: str) -> list[Fault]:
    """Faults of an app's absolute id as an element of a group."""
    if paths.parent(app_id) != base:
        text = f"Identifier is not child of '{base}'. Hint: use relative paths."
        return [fault("/id", text)]
    return []
