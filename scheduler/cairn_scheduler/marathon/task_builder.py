"""The TaskInfo of an app: variables, command, container, discovery, checks.

Source: the released Marathon's task builder. Order of variables: what Marathon knows of the app,
then ports and HOST, then the app's own, each wins over the ones before.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from cairn_core.mesos import containers
from cairn_core.mesos.types import (
    CommandInfo,
    ContainerInfo,
    DiscoveryInfo,
    DockerInfo,
    DurationInfo,
    Environment,
    EnvironmentVariable,
    ExecutorID,
    ExecutorInfo,
    Image,
    IPAddress,
    KillPolicy,
    Label,
    Labels,
    LimitScalar,
    MesosInfo,
    NetworkInfo,
    Parameter,
    Port,
    PortMapping,
    Ports,
    TaskID,
    TaskInfo,
    Volume,
)
from cairn_core.resources import Resources
from cairn_core.resources.quantities import to_milli
from cairn_scheduler.marathon import paths
from cairn_scheduler.marathon.app import App
from cairn_scheduler.marathon.container import BRIDGE, CONTAINER, HOST
from cairn_scheduler.marathon.matcher import Match, Offered
from cairn_scheduler.marathon.ports import TaskPort, port_variables, task_ports
from cairn_scheduler.marathon.task_checks import check_info, health_check

COMMAND_EXECUTORS = ("", "//cmd")
#: Longest label, key or value, that becomes a variable.
MAX_LABEL = 512
_LABEL_PREFIX = "MARATHON_APP_LABEL_"


@dataclass(frozen=True, slots=True)
class BuildRules:
    """What the daemon's configuration says about tasks.

    env_prefix: `--env_vars_prefix`, for HOST and the port variables only.
    bridge_name: `--mesos_bridge_name`, the network that stands for the bridge.
    """

    env_prefix: str = ""
    bridge_name: str = "mesos-bridge"


def build(
    app: App,
    task_id: str,
    offered: Offered,
    match: Match,
    rules: BuildRules,
    rng: Random,
    *,
    enforce_role: bool = False,
) -> TaskInfo:
    """The task to launch on an offer that matched."""
    ports = task_ports(app, match.host_ports, rng)
    name = paths.reversed_dotted(app.id)
    hostname = offered.offer.hostname
    command = _command(app, task_id, hostname, ports, rules, enforce_role)
    container = _container(app, task_id, ports, rules)
    custom = app.executor not in COMMAND_EXECUTORS
    return TaskInfo(
        name=name,
        task_id=TaskID(task_id),
        agent_id=offered.offer.agent_id,
        resources=tuple(match.resources.to_wire(offered.refined, offered.role)),
        executor=_executor(app, task_id, command, container, offered) if custom else None,
        command=None if custom else command,
        container=None if custom else container,
        health_check=health_check(app, ports),
        check=check_info(app, ports),
        kill_policy=_kill_policy(app),
        labels=labels(app.labels),
        discovery=DiscoveryInfo(
            visibility="FRAMEWORK", name=name, ports=Ports(discovery_ports(app, ports))
        ),
        limits=_limits(app),
    )


def labels(values: Mapping[str, str]) -> Labels | None:
    """Labels as a message, None for none."""
    return Labels(tuple(Label(k, v) for k, v in values.items())) if values else None


def context_variables(app: App, task_id: str, enforce_role: bool) -> dict[str, str]:
    """What Marathon tells a task about its app."""
    env = {
        "MESOS_TASK_ID": task_id,
        "MARATHON_APP_ID": app.id,
        "MARATHON_APP_VERSION": app.version or "",
    }
    if app.is_docker and app.container is not None and app.container.docker is not None:
        env["MARATHON_APP_DOCKER_IMAGE"] = app.container.docker.image
    env["MARATHON_APP_RESOURCE_CPUS"] = str(float(app.cpus))
    env["MARATHON_APP_RESOURCE_MEM"] = str(float(app.mem))
    env["MARATHON_APP_RESOURCE_DISK"] = str(float(app.disk))
    env["MARATHON_APP_RESOURCE_GPUS"] = str(app.gpus)
    env["MARATHON_APP_ENFORCE_GROUP_ROLE"] = "TRUE" if enforce_role else "FALSE"
    return env | label_variables(app.labels)


def label_variables(values: Mapping[str, str]) -> dict[str, str]:
    """Labels as variables: names upper-cased, what is no letter, digit or `_` becomes `_`."""
    named = {
        re.sub(r"[^a-zA-Z0-9_]+", "_", key).upper(): value
        for key, value in values.items()
        if len(key) < MAX_LABEL - len(_LABEL_PREFIX) and len(value) < MAX_LABEL
    }
    env = {"MARATHON_APP_LABELS": " ".join(named)}
    return env | {_LABEL_PREFIX + key: value for key, value in named.items()}


def _command(
    app: App,
    task_id: str,
    hostname: str,
    ports: Sequence[TaskPort],
    rules: BuildRules,
    enforce_role: bool,
) -> CommandInfo:
    """The command: a shell line, an argument vector, or what the image says."""
    told = port_variables(ports) | {"HOST": hostname}
    env = context_variables(app, task_id, enforce_role)
    env |= {rules.env_prefix + key: value for key, value in told.items()}
    env |= {key: value for key, value in app.env.items() if isinstance(value, str)}
    value = app.cmd or None
    if app.args and value is None and app.container is None:
        value = app.args[0]
    return CommandInfo(
        uris=tuple(
            containers.URI(
                value=f.uri,
                executable=f.executable,
                extract=f.extract,
                cache=f.cache,
                output_file=f.dest_path,
            )
            for f in app.fetch
        ),
        environment=Environment(tuple(EnvironmentVariable(k, value=v) for k, v in env.items())),
        shell=bool(app.cmd) and not app.args,
        value=value,
        arguments=app.args,
        user=app.user,
    )


def _executor(
    app: App,
    task_id: str,
    command: CommandInfo,
    container: ContainerInfo | None,
    offered: Offered,
) -> ExecutorInfo:
    """A custom executor: a program that is made executable and started with the command."""
    path = "'" + app.executor.replace("'", "'\"'\"'") + "'"
    line = app.cmd or " ".join(app.args)
    own = app.executor_resources
    resources = (
        Resources.scalars(
            cpus=to_milli(float(own.cpus)),
            mem=to_milli(float(own.mem)),
            disk=to_milli(float(own.disk)),
        ).to_wire(offered.refined, offered.role)
        if own is not None
        else ()
    )
    return ExecutorInfo(
        executor_id=ExecutorID(f"marathon-{task_id}"),
        type="CUSTOM",
        command=CommandInfo(
            uris=command.uris,
            environment=command.environment,
            shell=True,
            value=f"chmod ug+rx {path} && exec {path} {line}",
            user=command.user,
        ),
        container=container,
        resources=tuple(resources),
    )


def _kill_policy(app: App) -> KillPolicy | None:
    grace = app.task_kill_grace_period_seconds
    return None if grace is None else KillPolicy(DurationInfo(grace * 1_000_000_000))


def _limits(app: App) -> dict[str, LimitScalar]:
    limits = app.resource_limits
    if limits is None:
        return {}
    values = {"cpus": limits.cpus, "mem": limits.mem}
    return {
        name: LimitScalar("Infinity" if isinstance(value, str) else float(value))
        for name, value in values.items()
        if value is not None
    }


def discovery_ports(app: App, ports: Sequence[TaskPort]) -> tuple[Port, ...]:
    """What DNS and the load balancers read: one entry per protocol, and per network where a port
    is reached on the container's address. Labels, VIPs among them, pass unchanged.
    """
    networks = [n.name for n in app.networks if n.mode == CONTAINER and n.name is not None]
    mapped = bool(app.port_mappings)
    out = []
    for port in ports:
        scopes: list[dict[str, str]] = [{}]
        number = port.told
        if mapped and port.host is not None:
            scopes = [{"network-scope": "host"}]
        elif mapped:
            names = port.network_names or networks
            scopes = [{"network-scope": "container", "network-name": name} for name in names]
        for protocol in port.protocols:
            for scope in scopes:
                out.append(
                    Port(
                        number=number,
                        name=port.name,
                        protocol=protocol,
                        labels=labels({**port.labels, **scope}),
                    )
                )
    return tuple(out)


def _container(
    app: App, task_id: str, ports: Sequence[TaskPort], rules: BuildRules
) -> ContainerInfo | None:
    """The container; none for a plain task in host mode."""
    container = app.container
    if container is None and app.is_host_mode:
        return None
    tty = containers.TTYInfo() if app.tty else None
    if container is None:
        return ContainerInfo(
            type="MESOS", mesos=MesosInfo(), network_infos=_networks(app, ports, rules)
        )
    volumes = tuple(
        Volume(mode=v.mode or "RW", container_path=v.container_path, host_path=v.host_path)
        for v in container.volumes
        if v.host_path is not None
    )
    if container.type == "DOCKER":
        names = [n for n in app.networks if n.mode == CONTAINER]
        return ContainerInfo(
            type="DOCKER",
            volumes=volumes,
            docker=_docker(app, task_id, ports),
            network_infos=tuple(NetworkInfo(name=n.name, labels=labels(n.labels)) for n in names),
            tty_info=tty,
        )
    image = None
    if container.docker is not None:
        docker = container.docker
        image = Image(
            type="DOCKER",
            docker=containers.ImageDocker(name=docker.image),
            cached=not docker.force_pull_image,
        )
    return ContainerInfo(
        type="MESOS",
        volumes=volumes,
        mesos=MesosInfo(image=image),
        network_infos=_networks(app, ports, rules),
        linux_info=_linux(app),
        tty_info=tty,
    )


def _docker(app: App, task_id: str, ports: Sequence[TaskPort]) -> DockerInfo | None:
    docker = app.container.docker if app.container is not None else None
    if docker is None:
        return None
    mode = app.networks[0].mode
    given = [Parameter(p.key, p.value) for p in docker.parameters]
    return DockerInfo(
        image=docker.image,
        network={HOST: "HOST", BRIDGE: "BRIDGE"}.get(mode, "USER"),
        port_mappings=() if mode == HOST else _mappings(ports),
        privileged=docker.privileged,
        # The label ties a container that docker lists to its task.
        parameters=(*given, Parameter("label", f"MESOS_TASK_ID={task_id}")),
        force_pull_image=docker.force_pull_image,
    )


def _mappings(ports: Sequence[TaskPort], network: str | None = None) -> tuple[PortMapping, ...]:
    """Mappings that have a host port, on one network when it is named; one per protocol."""
    return tuple(
        PortMapping(host_port=port.host, container_port=port.container, protocol=protocol)
        for port in ports
        if port.host is not None
        and (network is None or not port.network_names or network in port.network_names)
        for protocol in port.protocols
    )


def _networks(app: App, ports: Sequence[TaskPort], rules: BuildRules) -> tuple[NetworkInfo, ...]:
    """The networks that a Mesos container joins."""
    return tuple(
        NetworkInfo(
            ip_addresses=(IPAddress(),),
            name=rules.bridge_name if n.mode == BRIDGE else n.name,
            labels=labels(n.labels),
            port_mappings=_mappings(ports, n.name),
        )
        for n in app.networks
        if n.mode != HOST
    )


def _linux(app: App) -> containers.LinuxInfo | None:
    info = app.container.linux_info if app.container is not None else None
    if info is None:
        return None
    seccomp, ipc = info.seccomp, info.ipc_info
    return containers.LinuxInfo(
        seccomp=None
        if seccomp is None
        else containers.SeccompInfo(
            profile_name=seccomp.profile_name, unconfined=seccomp.unconfined or None
        ),
        ipc_mode=ipc.mode if ipc is not None else None,
        shm_size=ipc.shm_size if ipc is not None else None,
    )
