"""Settings of `cairn-agent`, under the names that the original's flags have.

Source: mesos docs/configuration/agent.md. Files and our own environment variables use the same
names; `MESOS_<NAME>` works as well. What each setting means for us is in its description.
"""

import json
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cairn_core.agent.reconfiguration import Policy
from cairn_core.errors import LocalError, shorten
from cairn_core.kit.config import Bytes, CommonConfig, ConfigError, Port, Seconds, Secret
from cairn_core.mesos.types import Attribute, DomainInfo, Resource
from cairn_core.resources import ResourceError, Resources, read_attributes

GB = 1 << 30
MB = 1 << 20
DEFAULT_PORTS = "[31000-32000]"


def _text(description: str) -> Any:
    return Meta(description=description)


class AgentConfig(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-agent`. Names are those of the original's flags."""

    master: Annotated[str, _text("masters as host:port, comma-separated")]
    work_dir: Annotated[str, _text("sandboxes and what outlives a restart")] = (
        "/var/lib/cairn/agent"
    )
    runtime_dir: Annotated[str, _text("what does not outlive a reboot; on a tmpfs")] = (
        "/run/cairn/agent"
    )
    ip: Annotated[str, _text("address to listen on and to be reached at; empty: found out")] = ""
    port: Annotated[Port, _text("port to listen on")] = 5051
    advertise_ip: Annotated[str, _text("address that others are told, when not `ip`")] = ""
    hostname: Annotated[str, _text("name that others are told; empty: the machine's")] = ""
    resources: Annotated[
        str, _text("`cpus:4;mem:8192;ports:[31000-32000]` or JSON; what is missing is found out")
    ] = ""
    attributes: Annotated[str, _text("`rack:abc;zone:west`")] = ""
    default_role: Annotated[str, _text("role of resources that name none")] = "*"
    domain: Annotated[
        str, _text('`{"fault_domain":{"region":{"name":"r"},"zone":{"name":"z"}}}`')
    ] = ""
    reconfiguration_policy: Annotated[
        Policy, _text("which changes of resources and attributes a restart may bring")
    ] = "additive"
    isolation: Annotated[str, _text("isolators, comma-separated")] = "posix/cpu,posix/mem"
    hooks: Annotated[str, _text("installed hooks to call, comma-separated")] = ""
    launcher: Annotated[
        Literal["", "linux", "posix"], _text("how processes are found and killed; empty: by user")
    ] = ""
    containerizers: Annotated[Literal["mesos"], _text("kinds of containers")] = "mesos"
    cgroups_root: Annotated[str, _text("our subtree of every cgroup hierarchy")] = "mesos"
    cgroups_hierarchy: Annotated[str, _text("where cgroups are mounted")] = "/sys/fs/cgroup"
    cgroups_enable_cfs: Annotated[bool, _text("cpus are a hard limit too")] = False
    cgroups_limit_swap: Annotated[bool, _text("memory limits hold for memory and swap")] = False
    container_disk_watch_interval: Annotated[Seconds, _text("how often sandboxes are measured")] = (
        15.0
    )
    enforce_container_disk_quota: Annotated[bool, _text("a sandbox over its disk ends")] = False
    switch_user: Annotated[bool, _text("tasks run as their own user")] = True
    strict: Annotated[bool, _text("unreadable files of an earlier agent stop the start")] = True
    recover: Annotated[
        Literal["reconnect", "cleanup"],
        _text("take over what runs, or end it, forget this agent, and exit"),
    ] = "reconnect"
    recovery_timeout: Annotated[
        Seconds, _text("how long executors and agent wait for each other after a restart")
    ] = 900.0
    executor_registration_timeout: Annotated[
        Seconds, _text("how long a started executor may take to subscribe")
    ] = 60.0
    executor_reregistration_timeout: Annotated[
        Seconds,
        _text("after a restart, executors later than this are logged; none is killed for it"),
    ] = 2.0
    executor_shutdown_grace_period: Annotated[
        Seconds, _text("how long an executor may take to end when asked")
    ] = 5.0
    executor_environment_variables: Annotated[
        str, _text("JSON object: environment of every executor")
    ] = ""
    authenticate_http_executors: Annotated[
        bool, _text("refuse executors without their token; the command executor always needs it")
    ] = False
    http_executor_domain_sockets: Annotated[
        bool, _text("executors reach the agent through a Unix socket")
    ] = True
    domain_socket_location: Annotated[
        str, _text("path of that socket; empty: agent.sock in the runtime directory")
    ] = ""
    credential: Annotated[
        Secret, _text("JSON, or `principal secret`, to prove who we are to the master")
    ] = ""
    registration_backoff_factor: Annotated[
        Seconds, _text("first wait between attempts to reach the master")
    ] = 1.0
    gc_delay: Annotated[Seconds, _text("how long sandboxes of ended executors stay")] = 604800.0
    gc_disk_headroom: Annotated[
        float, Meta(ge=0, le=1, description="fraction of the disk to keep free")
    ] = 0.1
    disk_watch_interval: Annotated[Seconds, _text("how often the disk's use is looked at")] = 60.0
    fetcher_cache_size: Annotated[Bytes, _text("bytes of fetched files kept for others")] = 2 * GB
    fetcher_cache_dir: Annotated[str, _text("where; empty: in the work directory")] = ""
    fetcher_stall_timeout: Annotated[Seconds, _text("a fetch without progress fails")] = 60.0
    fetcher_allowed_dirs: Annotated[
        str, _text("directories that `file:` URIs may come from, comma-separated")
    ] = ""
    frameworks_home: Annotated[str, _text("where relative URIs start")] = ""
    container_logger_max_size: Annotated[
        Bytes, _text("bytes of stdout and of stderr before they are rotated")
    ] = 10 * MB
    container_logger_keep: Annotated[int, Meta(ge=0, le=1000, description="rotated files kept")] = 9

    def __post_init__(self) -> None:
        """Check what the types cannot say, so that `--check-config` finds it too."""
        try:
            read_masters(self)
            read_agent_attributes(self)
            read_domain(self)
            read_environment(self)
            read_credential(self)
            Resources.parse(self.resources, self.default_role)
        except ResourceError as error:
            raise ValueError(f"resources: {error}") from None
        except ConfigError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the agent's machine has. disk: of the file system of the work directory."""

    cpus: int
    mem_bytes: int
    disk_bytes: int


def reserve(machine: Machine) -> dict[str, int]:
    """Resources to offer when nothing is said, in the units of the flag.

    All processors; memory less 1 GB and disk less 5 GB, or half of what is small. Source: Apache
    Mesos `src/slave/containerizer/containerizer.cpp`.
    """
    mem = machine.mem_bytes - GB if machine.mem_bytes >= 2 * GB else machine.mem_bytes // 2
    disk = machine.disk_bytes - 5 * GB if machine.disk_bytes >= 10 * GB else machine.disk_bytes // 2
    return {"cpus": machine.cpus, "mem": mem // MB, "disk": disk // MB}


def read_resources(config: AgentConfig, machine: Machine) -> tuple[Resource, ...]:
    """What the agent offers: the flag, and what it found where the flag says nothing."""
    try:
        given = Resources.parse(config.resources, config.default_role)
        named = {kind.name for kind in given}
        missing = [f"{n}:{v}" for n, v in reserve(machine).items() if n not in named]
        if "ports" not in named:
            missing.append(f"ports:{DEFAULT_PORTS}")
        found = Resources.parse(";".join(missing), config.default_role)
    except ResourceError as error:
        raise ConfigError("resources", str(error)) from None
    return tuple((given + found).to_wire())


def read_agent_attributes(config: AgentConfig) -> tuple[Attribute, ...]:
    """Attributes of the flag; raises ConfigError."""
    try:
        return read_attributes(config.attributes)
    except ResourceError as error:
        raise ConfigError("attributes", str(error)) from None


def read_domain(config: AgentConfig) -> DomainInfo | None:
    """Fault domain of the flag; raises ConfigError."""
    if not config.domain:
        return None
    try:
        return msgspec.json.decode(config.domain, type=DomainInfo)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ConfigError("domain", shorten(str(error))) from None


def read_environment(config: AgentConfig) -> dict[str, str]:
    """`--executor_environment_variables`; raises ConfigError."""
    if not config.executor_environment_variables:
        return {}
    try:
        return msgspec.json.decode(config.executor_environment_variables, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ConfigError("executor_environment_variables", shorten(str(error))) from None


def read_credential(config: AgentConfig) -> tuple[str | None, str | None]:
    """Principal and secret; raises ConfigError without either in its text."""
    text = config.credential.strip()
    if not text:
        return None, None
    if text.startswith("{"):
        try:
            parsed = json.loads(text)
            return str(parsed["principal"]), str(parsed.get("secret", ""))
        except (ValueError, KeyError, AttributeError):
            raise ConfigError("credential", 'not {"principal": ..., "secret": ...}') from None
    principal, _, secret = text.partition(" ")
    return principal, secret.strip()


def read_masters(config: AgentConfig) -> list[tuple[str, int]]:
    """Addresses of `--master`; raises ConfigError for what cannot be one."""
    found: list[tuple[str, int]] = []
    for item in (part.strip() for part in config.master.split(",")):
        if item.startswith("zk://"):
            raise ConfigError(
                "master", "zk:// is not supported yet; name the masters as host:port,host:port"
            )
        host, colon, port = item.rpartition(":")
        if not colon:
            host, port = item, "5050"
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError("master", f"not host:port: {shorten(item, 60)!r}")
        found.append((host.strip("[]"), int(port)))
    return found


def flags_of(config: AgentConfig) -> dict[str, str]:
    """Settings as `/flags` shows them: texts by name, secrets left out."""
    shown: dict[str, str] = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if name == "credential" or value == "":
            continue
        shown[name] = str(value).lower() if isinstance(value, bool) else f"{value}"
    return shown


def work_path(config: AgentConfig) -> str:
    """The work directory as an absolute path without a trailing slash."""
    if not config.work_dir:
        raise LocalError("work_dir is empty")
    return os.path.abspath(config.work_dir)
