"""What runs and in which surroundings: commands, containers, checks (Mesos v1 messages)."""

from cairn_core.mesos.base import (
    ContainerID,
    DurationInfo,
    Labels,
    Message,
    Parameter,
    Parameters,
    emitted,
)


class SecretReference(Message, frozen=True):
    """Names a secret kept elsewhere."""

    name: str
    key: str | None = None


class SecretValue(Message, frozen=True):
    """A secret carried along."""

    data: bytes


class Secret(Message, frozen=True):
    """A secret by value or by reference; never logged."""

    type: str | None = None
    reference: SecretReference | None = None
    value: SecretValue | None = None


class EnvironmentVariable(Message, frozen=True):
    """One variable; `type` is VALUE or SECRET."""

    name: str
    type: str = emitted("VALUE")
    value: str | None = None
    secret: Secret | None = None


class Environment(Message, frozen=True):
    """The variables of a command."""

    variables: tuple[EnvironmentVariable, ...] = ()


class URI(Message, frozen=True):
    """A file that the fetcher puts into the sandbox before the command starts."""

    value: str
    executable: bool | None = None
    extract: bool = emitted(True)
    cache: bool | None = None
    output_file: str | None = None


class CommandInfo(Message, frozen=True):
    """A command: `value` through `/bin/sh -c` when `shell`, else `value` with `arguments`."""

    uris: tuple[URI, ...] = ()
    environment: Environment | None = None
    shell: bool = emitted(True)
    value: str | None = None
    arguments: tuple[str, ...] = ()
    user: str | None = None


class KillPolicy(Message, frozen=True):
    """How long a task may take to end after SIGTERM."""

    grace_period: DurationInfo | None = None


class CheckCommand(Message, frozen=True):
    """A check that runs a command."""

    command: CommandInfo


class CheckHttp(Message, frozen=True):
    """A check that asks `http://127.0.0.1:<port><path>`."""

    port: int
    path: str | None = None


class CheckTcp(Message, frozen=True):
    """A check that connects to a port."""

    port: int


class CheckInfo(Message, frozen=True):
    """A check whose result is reported and never acted upon."""

    type: str | None = None
    command: CheckCommand | None = None
    http: CheckHttp | None = None
    tcp: CheckTcp | None = None
    delay_seconds: float = emitted(15.0)
    interval_seconds: float = emitted(10.0)
    timeout_seconds: float = emitted(20.0)


class HealthCheckHttp(Message, frozen=True):
    """HTTP part of a health check; 200 to 399 is healthy."""

    port: int
    protocol: str = emitted("IPv4")
    scheme: str | None = None
    path: str | None = None
    statuses: tuple[int, ...] = ()


class HealthCheckTcp(Message, frozen=True):
    """TCP part of a health check; a connection is healthy."""

    port: int
    protocol: str = emitted("IPv4")


class HealthCheck(Message, frozen=True):
    """A check that kills the task after `consecutive_failures`; times in seconds."""

    type: str | None = None
    command: CommandInfo | None = None
    http: HealthCheckHttp | None = None
    tcp: HealthCheckTcp | None = None
    delay_seconds: float = emitted(15.0)
    interval_seconds: float = emitted(10.0)
    timeout_seconds: float = emitted(20.0)
    consecutive_failures: int = emitted(3)
    grace_period_seconds: float = emitted(10.0)


class ImageAppc(Message, frozen=True):
    """An appc image."""

    name: str
    id: str | None = None
    labels: Labels | None = None


class ImageDocker(Message, frozen=True):
    """A docker image by name."""

    name: str
    config: Secret | None = None


class Image(Message, frozen=True):
    """A container image; `type` is APPC or DOCKER."""

    type: str
    appc: ImageAppc | None = None
    docker: ImageDocker | None = None
    cached: bool = emitted(True)


class VolumeDocker(Message, frozen=True):
    """A volume of a docker volume driver."""

    name: str
    driver: str | None = None
    driver_options: Parameters | None = None


class MountPropagation(Message, frozen=True):
    """HOST_TO_CONTAINER or BIDIRECTIONAL."""

    mode: str | None = None


class VolumeHostPath(Message, frozen=True):
    """A directory of the host."""

    path: str
    mount_propagation: MountPropagation | None = None


class VolumeSandboxPath(Message, frozen=True):
    """A directory of this sandbox (SELF) or of the parent's (PARENT)."""

    path: str
    type: str | None = None


class VolumeSource(Message, frozen=True):
    """Where a volume comes from."""

    type: str | None = None
    docker_volume: VolumeDocker | None = None
    host_path: VolumeHostPath | None = None
    sandbox_path: VolumeSandboxPath | None = None
    secret: Secret | None = None


class Volume(Message, frozen=True):
    """A mount; `mode` is RW or RO."""

    mode: str
    container_path: str
    host_path: str | None = None
    image: Image | None = None
    source: VolumeSource | None = None


class IPAddress(Message, frozen=True):
    """One address of a container."""

    protocol: str = emitted("IPv4")
    ip_address: str | None = None


class PortMapping(Message, frozen=True):
    """A host port that leads to a container port."""

    host_port: int
    container_port: int
    protocol: str | None = None


class NetworkInfo(Message, frozen=True):
    """A network that a container joins, or the addresses it got there."""

    ip_addresses: tuple[IPAddress, ...] = ()
    name: str | None = None
    groups: tuple[str, ...] = ()
    labels: Labels | None = None
    port_mappings: tuple[PortMapping, ...] = ()


class CapabilityInfo(Message, frozen=True):
    """A set of Linux capabilities."""

    capabilities: tuple[str, ...] = ()


class SeccompInfo(Message, frozen=True):
    """The seccomp profile of a container."""

    profile_name: str | None = None
    unconfined: bool | None = None


class LinuxInfo(Message, frozen=True):
    """What only Linux has."""

    capability_info: CapabilityInfo | None = None
    bounding_capabilities: CapabilityInfo | None = None
    effective_capabilities: CapabilityInfo | None = None
    share_pid_namespace: bool | None = None
    seccomp: SeccompInfo | None = None
    ipc_mode: str | None = None
    shm_size: int | None = None
    share_cgroups: bool = emitted(True)


class RLimit(Message, frozen=True):
    """One resource limit; both bounds or neither."""

    type: str | None = None
    hard: int | None = None
    soft: int | None = None


class RLimitInfo(Message, frozen=True):
    """Resource limits of a container's processes."""

    rlimits: tuple[RLimit, ...] = ()


class WindowSize(Message, frozen=True):
    """Size of a terminal."""

    rows: int
    columns: int


class TTYInfo(Message, frozen=True):
    """Asks for a terminal."""

    window_size: WindowSize | None = None


class DockerInfo(Message, frozen=True):
    """The docker form of a container."""

    image: str
    network: str = emitted("HOST")
    port_mappings: tuple[PortMapping, ...] = ()
    privileged: bool = emitted(False)
    parameters: tuple[Parameter, ...] = ()
    force_pull_image: bool | None = None
    volume_driver: str | None = None


class MesosInfo(Message, frozen=True):
    """The Mesos form of a container."""

    image: Image | None = None


class ContainerInfo(Message, frozen=True):
    """The surroundings of a task; `type` is DOCKER or MESOS."""

    type: str
    volumes: tuple[Volume, ...] = ()
    hostname: str | None = None
    docker: DockerInfo | None = None
    mesos: MesosInfo | None = None
    network_infos: tuple[NetworkInfo, ...] = ()
    linux_info: LinuxInfo | None = None
    rlimit_info: RLimitInfo | None = None
    tty_info: TTYInfo | None = None


class CgroupNetCls(Message, frozen=True):
    """The net_cls handle of a container."""

    classid: int | None = None


class CgroupInfo(Message, frozen=True):
    """What cgroups say of a container."""

    net_cls: CgroupNetCls | None = None


class ContainerStatus(Message, frozen=True):
    """What an agent knows of a running container."""

    container_id: ContainerID | None = None
    network_infos: tuple[NetworkInfo, ...] = ()
    cgroup_info: CgroupInfo | None = None
    executor_pid: int | None = None


class ResourceStatistics(Message, frozen=True):
    """Usage of one container; times in seconds, sizes in bytes, `timestamp` since the epoch."""

    timestamp: float
    processes: int | None = None
    threads: int | None = None
    cpus_user_time_secs: float | None = None
    cpus_system_time_secs: float | None = None
    cpus_limit: float | None = None
    cpus_soft_limit: float | None = None
    cpus_nr_periods: int | None = None
    cpus_nr_throttled: int | None = None
    cpus_throttled_time_secs: float | None = None
    mem_total_bytes: int | None = None
    mem_total_memsw_bytes: int | None = None
    mem_limit_bytes: int | None = None
    mem_soft_limit_bytes: int | None = None
    mem_file_bytes: int | None = None
    mem_anon_bytes: int | None = None
    mem_cache_bytes: int | None = None
    mem_rss_bytes: int | None = None
    mem_mapped_file_bytes: int | None = None
    mem_swap_bytes: int | None = None
    mem_unevictable_bytes: int | None = None
    disk_limit_bytes: int | None = None
    disk_used_bytes: int | None = None
    net_rx_packets: int | None = None
    net_rx_bytes: int | None = None
    net_rx_errors: int | None = None
    net_rx_dropped: int | None = None
    net_tx_packets: int | None = None
    net_tx_bytes: int | None = None
    net_tx_errors: int | None = None
    net_tx_dropped: int | None = None
