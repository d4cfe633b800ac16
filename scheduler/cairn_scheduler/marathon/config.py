"""Settings of `cairn-marathon`, under the names that the original's flags have.

Source: the released Marathon's command line. Files and our own environment variables use the same
names; `MARATHON_<NAME>` works as well.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from cairn_core.kit.config import CommonConfig, ConfigError, Port, Seconds, Secret
from cairn_core.roles import RoleError, validate
from cairn_scheduler.marathon.container_validation import Rules
from cairn_scheduler.marathon.groups import RootGroup
from cairn_scheduler.marathon.matcher import MatchRules
from cairn_scheduler.marathon.normalize import Defaults
from cairn_scheduler.marathon.task_builder import BuildRules

MAX_SECRET_BYTES = 65536


def _text(description: str) -> Any:
    return Meta(description=description)


def _millis(description: str) -> Any:
    return Meta(ge=0, description=f"milliseconds: {description}")


class MarathonConfig(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-marathon`. Names are those of the original's flags."""

    master: Annotated[str, _text("masters, comma-separated `host:port` or URLs")] = (
        "http://127.0.0.1:5050"
    )
    work_dir: Annotated[str, _text("where the log is kept")] = "/var/lib/cairn/marathon"
    hostname: Annotated[str, _text("name that others are told; empty: the machine's")] = ""
    http_address: Annotated[str, _text("address to listen on")] = "0.0.0.0"
    http_port: Annotated[Port, _text("port to listen on")] = 8080
    http_credentials: Annotated[Secret, _text("`user:password` that clients must give")] = ""
    http_realm: Annotated[str, _text("realm of HTTP authentication")] = "Mesosphere"
    http_max_concurrent_requests: Annotated[
        int, Meta(ge=0, description="requests at work at once; 0: any number")
    ] = 0
    event_stream_max_outstanding_messages: Annotated[
        int, Meta(ge=1, description="undelivered events after which a subscriber is cut off")
    ] = 1024
    access_control_allow_origin: Annotated[
        tuple[str, ...], _text("origins that browsers may ask from")
    ] = ()
    framework_name: Annotated[str, _text("name of the framework")] = "marathon"
    mesos_role: Annotated[str, _text("role of apps that name none")] = "*"
    mesos_user: Annotated[str, _text("user of tasks that name none; empty: ours")] = ""
    mesos_bridge_name: Annotated[str, _text("network that stands for the bridge")] = "mesos-bridge"
    mesos_authentication_principal: Annotated[str, _text("principal to register with")] = ""
    mesos_authentication_secret: Annotated[Secret, _text("secret of the principal")] = ""
    mesos_authentication_secret_file: Annotated[str, _text("file that holds the secret")] = ""
    mesos_leader_ui_url: Annotated[str, _text("where people reach the master's pages")] = ""
    webui_url: Annotated[str, _text("where people reach us; empty: from hostname and port")] = ""
    failover_timeout: Annotated[
        Seconds, _text("tasks outlive us for this long while we are away")
    ] = 604_800.0
    checkpoint: Annotated[bool, _text("tasks outlive a restart of their agent")] = True
    default_accepted_resource_roles: Annotated[
        tuple[str, ...], _text("resource roles of apps that name none; empty: `*` and their own")
    ] = ()
    default_network_name: Annotated[str, _text("network of apps that name none")] = ""
    enable_features: Annotated[
        tuple[str, ...],
        _text("of vips, task_killing, secrets, external_volumes, gpu_resources"),
    ] = ()
    env_vars_prefix: Annotated[str, _text("put before HOST and PORT variables")] = ""
    local_port_min: Annotated[Port, _text("first service port to give out")] = 10000
    local_port_max: Annotated[Port, _text("last service port to give out")] = 20000
    max_apps: Annotated[int, Meta(ge=0, description="apps at most; 0: any number")] = 0
    max_running_deployments: Annotated[
        int, Meta(ge=1, description="deployments at work at once")
    ] = 100
    max_instances_per_offer: Annotated[
        int, Meta(ge=1, description="instances launched on one offer")
    ] = 100
    launch_tokens: Annotated[
        int, Meta(ge=0, description="launches that may be unconfirmed; 0: any number")
    ] = 0
    launch_token_refresh_interval: Annotated[int, _millis("launch tokens are refilled")] = 30_000
    decline_offer_duration: Annotated[int, _millis("an unused offer is refused")] = 120_000
    min_revive_offers_interval: Annotated[
        int, _millis("between two wishes for offers, on average")
    ] = 500
    reconciliation_interval: Annotated[int, _millis("between two reconciliations")] = 600_000
    scale_apps_interval: Annotated[int, _millis("between two checks of all apps")] = 300_000
    task_launch_timeout: Annotated[int, _millis("a task that stages longer is killed")] = 300_000
    task_launch_confirm_timeout: Annotated[
        int, _millis("a launch that nobody confirms is made again")
    ] = 300_000
    kill_chunk_size: Annotated[int, Meta(ge=1, description="kills on their way at once")] = 100
    kill_retry_timeout: Annotated[int, _millis("until a kill is sent again")] = 30_000
    max_concurrent_marathon_health_checks: Annotated[
        int, Meta(ge=1, description="health checks of our own at once")
    ] = 256
    zk_max_versions: Annotated[int, Meta(ge=1, description="versions kept per app")] = 50
    gpu_scheduling_behavior: Annotated[
        Literal["restricted", "unrestricted"], _text("may apps without GPUs use agents with them")
    ] = "restricted"
    maintenance_mode: Annotated[bool, _text("keep off agents in maintenance")] = True
    draining_seconds: Annotated[Seconds, _text("keep off this long before maintenance")] = 0.0
    new_group_enforce_role: Annotated[
        Literal["off", "top"], _text("whether new top-level groups enforce their role")
    ] = "off"
    strict_clients: Annotated[bool, _text("leave out keys that old clients do not know")] = False

    def __post_init__(self) -> None:
        """Check what the types cannot say."""
        if not self.masters():
            raise ValueError("master: must name at least one master")
        if self.local_port_min > self.local_port_max:
            raise ValueError(
                f"local_port_min: {self.local_port_min} is above "
                f"local_port_max {self.local_port_max}"
            )
        if self.http_credentials and ":" not in self.http_credentials:
            raise ValueError("http_credentials: must be user:password")
        for name in (self.mesos_role, *self.default_accepted_resource_roles):
            try:
                validate(name)
            except RoleError as error:
                raise ValueError(f"role: {error}") from None

    def masters(self) -> list[str]:
        """Base URLs of the masters."""
        names = [name.strip() for name in self.master.split(",") if name.strip()]
        return [name if "://" in name else f"http://{name}" for name in names]

    def secret(self) -> str:
        """The secret of the principal. Raises ConfigError when its file cannot be read."""
        path = self.mesos_authentication_secret_file
        if not path:
            return self.mesos_authentication_secret
        try:
            with open(path, "rb") as stream:
                text = stream.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise ConfigError(path, error.strerror or str(error)) from None
        if len(text) > MAX_SECRET_BYTES:
            raise ConfigError(path, f"larger than {MAX_SECRET_BYTES} bytes")
        return text.decode(errors="replace").strip()

    def defaults(self) -> Defaults:
        """What definitions are completed with."""
        return Defaults(
            role=self.mesos_role,
            accepted_resource_roles=self.default_accepted_resource_roles or None,
            network_name=self.default_network_name or None,
            bridge_name=self.mesos_bridge_name,
        )

    def validation_rules(self, root: RootGroup, app_id: str) -> Rules:
        """What a definition at a path may use."""
        return Rules(
            features=frozenset(self.enable_features),
            roles=root.allowed_roles(app_id, self.mesos_role),
        )

    def match_rules(self) -> MatchRules:
        """What offers must hold."""
        return MatchRules(
            accepted_roles=frozenset(self.default_accepted_resource_roles),
            gpus_restricted=self.gpu_scheduling_behavior == "restricted",
            maintenance=self.maintenance_mode,
            draining_s=self.draining_seconds,
        )

    def build_rules(self) -> BuildRules:
        """What tasks are told."""
        return BuildRules(env_prefix=self.env_vars_prefix, bridge_name=self.mesos_bridge_name)
