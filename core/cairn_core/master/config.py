"""Settings of `cairn-master`, under the names that the original's flags have.

Source: Apache Mesos `docs/configuration/master.md`. Files and our own environment variables use
the same names; `MESOS_<NAME>` works as well.
"""

import os
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cairn_core.errors import LocalError, shorten
from cairn_core.kit.config import CommonConfig, ConfigError, Port, Seconds
from cairn_core.kit.http_auth import parse_credentials
from cairn_core.mesos.types import DomainInfo
from cairn_core.resources import ResourceError, quantities
from cairn_core.roles import RoleError, validate, validate_all
from cairn_core.vips.addresses import (
    DEFAULT_IPV4,
    DEFAULT_IPV6,
    AddressRange,
    Allocator,
    BadRange,
)
from cairn_core.vips.reserved import is_address, why_not_range

MAX_CREDENTIALS_BYTES = 1024 * 1024


def _text(description: str) -> Any:
    return Meta(description=description)


class MasterConfig(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-master`. Names are those of the original's flags."""

    work_dir: Annotated[str, _text("where the registry is kept")] = "/var/lib/cairn/master"
    ip: Annotated[str, _text("address to listen on and to be reached at; empty: found out")] = ""
    port: Annotated[Port, _text("port to listen on")] = 5050
    advertise_ip: Annotated[str, _text("address that others are told, when not `ip`")] = ""
    advertise_port: Annotated[Port, _text("port that others are told; 0: `port`")] = 0
    hostname: Annotated[str, _text("name that others are told; empty: the machine's")] = ""
    cluster: Annotated[str, _text("name of the cluster, for people")] = ""
    domain: Annotated[
        str, _text('`{"fault_domain":{"region":{"name":"r"},"zone":{"name":"z"}}}`')
    ] = ""
    allocator: Annotated[str, _text("who decides on offers; an entry point")] = "hierarchical-drf"
    allocation_interval: Annotated[Seconds, _text("time between rounds over all agents")] = 1.0
    min_allocatable_resources: Annotated[
        str, _text("alternatives of which an offer must hold one; empty: any amount")
    ] = "cpus:0.01|mem:32"
    fair_sharing_excluded_resource_names: Annotated[
        str, _text("resources that no share counts, comma-separated")
    ] = ""
    filter_gpu_resources: Annotated[
        bool, _text("agents with gpus are only for frameworks with GPU_RESOURCES")
    ] = True
    offer_timeout: Annotated[Seconds, _text("an offer is rescinded after this; 0: never")] = 0.0
    max_offers_per_framework: Annotated[
        int, Meta(ge=1, description="outstanding offers of one framework")
    ] = 2048
    port_rest: Annotated[
        Seconds, _text("freed host ports are offered again after this; 0: at once")
    ] = 60.0
    agent_ping_timeout: Annotated[Seconds, _text("time between pings of an agent")] = 15.0
    max_agent_ping_timeouts: Annotated[
        int, Meta(ge=1, description="unanswered pings after which an agent is unreachable")
    ] = 5
    agent_reregister_timeout: Annotated[
        Seconds, _text("time for agents to come back after a change of masters")
    ] = 600.0
    registry_gc_interval: Annotated[
        Seconds, _text("how often old unreachable and gone agents are forgotten")
    ] = 900.0
    registry_max_agent_age: Annotated[
        Seconds, _text("unreachable and gone agents are forgotten after this")
    ] = 14 * 86400.0
    registry_max_agent_count: Annotated[
        int, Meta(ge=0, description="unreachable and gone agents that are remembered at most")
    ] = 102_400
    vip_min_ip: Annotated[str, _text("first address of named VIPs; empty: no IPv4 ones")] = (
        DEFAULT_IPV4.min
    )
    vip_max_ip: Annotated[str, _text("last address of named VIPs")] = DEFAULT_IPV4.max
    vip_allocator: Annotated[
        Allocator, _text("how an IPv4 one is looked for: as Minuteman with `nfq` or `ipvs` did")
    ] = "nfq"
    vip_min_ip6: Annotated[str, _text("first IPv6 address of named VIPs; empty: no IPv6 ones")] = (
        DEFAULT_IPV6.min
    )
    vip_max_ip6: Annotated[str, _text("last IPv6 address of named VIPs")] = DEFAULT_IPV6.max
    # A week: whoever is stopped over a holiday is found where clients remember it, and a name
    # costs nothing but one of 16 million addresses.
    vip_release: Annotated[
        Seconds, _text("a name that no task asks for keeps its address for so long")
    ] = 7 * 86400.0
    roles: Annotated[str, _text("roles that may be used, comma-separated; empty: any")] = ""
    weights: Annotated[str, _text("`role=weight,...`; used while the registry has no weights")] = ""
    root_submissions: Annotated[bool, _text("frameworks may run as root")] = True
    authenticate_frameworks: Annotated[bool, _text("frameworks must prove a principal")] = False
    authenticate_http_frameworks: Annotated[bool, _text("the same as the above")] = False
    authenticate_agents: Annotated[bool, _text("agents must prove a principal")] = False
    credentials: Annotated[
        str, _text("file of principals and secrets: JSON, or a line `principal secret` each")
    ] = ""

    def __post_init__(self) -> None:
        """Check what the types cannot say."""
        self.weight_table()
        self.domain_info()
        self.minimum()
        self.role_table()
        self.vip_range()
        self.vip_range6()
        if self.authenticates and not self.credentials:
            raise ValueError("credentials: must name a file when somebody must authenticate")

    @property
    def authenticates(self) -> bool:
        """Whether a credentials file is needed."""
        return self.frameworks_authenticate or self.authenticate_agents

    @property
    def frameworks_authenticate(self) -> bool:
        """Whether frameworks must prove a principal."""
        return self.authenticate_frameworks or self.authenticate_http_frameworks

    def role_table(self) -> frozenset[str] | None:
        """The roles that may be used; None for any."""
        names = [name.strip() for name in self.roles.split(",") if name.strip()]
        if not names:
            return None
        try:
            return validate_all(names) | {"*"}
        except RoleError as error:
            raise ValueError(f"roles: {error}") from None

    def weight_table(self) -> dict[str, float]:
        """Weights by role."""
        table: dict[str, float] = {}
        for item in filter(None, (i.strip() for i in self.weights.split(","))):
            role, equals, number = item.rpartition("=")
            try:
                table[validate(role)] = weight = float(number)
            except (ValueError, RoleError):
                raise ValueError(f"weights: not a role=weight: {shorten(item, 60)!r}") from None
            if not equals or not 0 < weight < float("inf"):
                raise ValueError(f"weights: not above 0: {shorten(item, 60)!r}")
        return table

    def minimum(self) -> tuple[dict[str, int], ...]:
        """Alternatives of which an offer must hold one."""
        try:
            return quantities.parse(self.min_allocatable_resources)
        except ResourceError as error:
            raise ValueError(f"min_allocatable_resources: {error}") from None

    def vip_range(self) -> AddressRange | None:
        """Where the IPv4 addresses of named VIPs come from; None: there are none."""
        return self._range("vip_min_ip", self.vip_min_ip, self.vip_max_ip, self.vip_allocator, 4)

    def vip_range6(self) -> AddressRange | None:
        """The same for IPv6."""
        allocator = DEFAULT_IPV6.allocator
        return self._range("vip_min_ip6", self.vip_min_ip6, self.vip_max_ip6, allocator, 6)

    def _range(
        self, name: str, first: str, last: str, allocator: Allocator, version: int
    ) -> AddressRange | None:
        if not first:
            return None
        own = [
            (text, "of this master") for text in (self.ip, self.advertise_ip) if is_address(text)
        ]
        try:
            span = AddressRange.parse(first, last, allocator)
        except BadRange as error:
            raise ValueError(f"{name}: {error}") from None
        if span.ipv6 != (version == 6):
            raise ValueError(f"{name}: not IPv{version}: {span.min}")
        if why := why_not_range(span.min, span.max, own):
            raise ValueError(f"{name}: {why}")
        return span

    def domain_info(self) -> DomainInfo | None:
        """The fault domain of this master."""
        if not self.domain:
            return None
        try:
            return msgspec.json.decode(self.domain, type=DomainInfo)
        except msgspec.MsgspecError as error:
            raise ValueError(f"domain: {shorten(str(error))}") from None


def read_credentials(path: str) -> dict[str, str]:
    """Principal to secret. Raises ConfigError, never with a secret in its text."""
    name = path.removeprefix("file://")
    try:
        with open(name, "rb") as stream:
            text = stream.read(MAX_CREDENTIALS_BYTES + 1)
            readable = os.fstat(stream.fileno()).st_mode & 0o004
    except OSError as error:
        raise ConfigError(name, error.strerror or str(error)) from None
    if len(text) > MAX_CREDENTIALS_BYTES:
        raise ConfigError(name, f"larger than {MAX_CREDENTIALS_BYTES} bytes")
    if readable:
        raise ConfigError(name, "may be read by others than its owner: chmod o-r")
    if text.lstrip()[:1] == b"{":
        try:
            return parse_credentials(text)
        except LocalError as error:
            raise ConfigError(name, str(error)) from None
    return _plain_credentials(name, text.decode(errors="replace"))


def _plain_credentials(name: str, text: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = re.split(r"\s+", line.strip())
        if words == [""]:
            continue
        if len(words) != 2:
            raise ConfigError(name, f"line {number} is not a principal and a secret")
        table[words[0]] = words[1]
    return table
