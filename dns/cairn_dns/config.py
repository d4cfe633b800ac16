"""Settings of `cairn-dns`, spelled as in a Mesos-DNS file, which starts this daemon unchanged.

Keys of the original: `records/config.go`; what it checks: `validation`.  Settings of ours have
an underscore or are new words; they come last.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from cairn_core.errors import shorten
from cairn_core.kit.config import CommonConfig, Port, Secret

from . import validation
from .addresses import Address
from .control import ServerSettings
from .encode import ZoneSettings
from .records import Rules

#: Loopback, private, shared and link-local addresses (RFC 1918, 4193, 6598, 3927).
PRIVATE_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
    "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip
LOOPBACK = ("127.0.0.0/8", "::1/128")
DCOS_DOMAIN = "dcos.thisdcos.directory"

Seconds = Annotated[float, Meta(gt=0, le=1e6, description="seconds", extra={"cairn": "duration"})]
WaitSeconds = Annotated[
    float, Meta(ge=0, le=1e6, description="seconds", extra={"cairn": "duration"})
]
Whole = Annotated[int, Meta(ge=0, le=0x7FFFFFFF, description="seconds")]


def _text(description: str) -> Meta:
    return Meta(description=description)


class Credentials(Struct, frozen=True):
    """Who we are at the masters; JSON of the original has the keys in any case."""

    principal: str = ""
    secret: str = ""


class DnsConfig(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-dns`."""

    zk: Annotated[
        Secret, _text("where masters are found: zk://host:port,.../path, file:///path, host:port")
    ] = ""
    masters: Annotated[list[str], _text("masters, each address:port, where `zk` is not set")] = []
    # Differs: the original exits after this time; we log, are not ready, and go on.
    zk_detection_timeout: Annotated[
        WaitSeconds, _text("without a leader for so long we are not ready; 0: never mind")
    ] = field(default=30.0, name="zkDetectionTimeout")
    refresh_s: Annotated[Seconds, _text("between two questions, where only polling is left")] = (
        field(default=60.0, name="refreshSeconds")
    )
    state_timeout_s: Annotated[Seconds, _text("for one state of a master")] = field(
        default=300.0, name="stateTimeoutSeconds"
    )
    ttl: Annotated[Whole, _text("seconds that others may keep an answer")] = 60
    srv_weight: Annotated[int, Meta(ge=0, le=65535, description="weight in SRV answers")] = field(
        default=1, name="SRVRecordDefaultWeight"
    )
    domain: Annotated[str, _text("domain of the cluster")] = "mesos"
    port: Annotated[Port, _text("port for UDP and TCP")] = 53
    listener: Annotated[str | list[str], _text("address to answer on, or several")] = "0.0.0.0"
    http_listener: Annotated[str, _text("address of the HTTP API")] = field(
        default="0.0.0.0", name="httpListener"
    )
    http_port: Annotated[Port, _text("port of the HTTP API")] = field(default=8123, name="httpport")
    dns_on: Annotated[bool, _text("whether queries are answered")] = field(
        default=True, name="dnson"
    )
    http_on: Annotated[bool, _text("whether there is an HTTP API")] = field(
        default=True, name="httpon"
    )
    external_on: Annotated[bool, _text("whether other names are forwarded at all")] = field(
        default=True, name="externalon"
    )
    # Differs: Mesos-DNS forwards to a public service unless told otherwise; names of a
    # company are nobody else's business.
    resolvers: Annotated[
        list[str] | None,
        _text("servers for other names, address or address:port; an empty list: resolv.conf's"),
    ] = None
    zone_resolvers: Annotated[
        dict[str, list[str]], _text("zones with servers of their own: zone -> servers")
    ] = field(default_factory=dict, name="zoneResolvers")
    timeout_s: Annotated[Seconds, _text("for one server of a forwarded query")] = field(
        default=5.0, name="timeout"
    )
    recurse_on: Annotated[bool, _text("the bit 'recursion available' in answers")] = field(
        default=True, name="recurseon"
    )
    ip_sources: Annotated[list[str], _text("where addresses of tasks come from, in order")] = field(
        default_factory=lambda: ["netinfo", "mesos", "host"], name="IPSources"
    )
    rfc952: Annotated[bool, _text("labels as in RFC 952: 24 characters, no leading digit")] = field(
        default=False, name="EnforceRFC952"
    )
    truncate: Annotated[bool, _text("the bit 'truncated' in answers that were cut")] = field(
        default=True, name="SetTruncateBit"
    )
    enumeration_on: Annotated[bool, _text("whether the HTTP API lists everything")] = field(
        default=True, name="EnumerationOn"
    )
    soa_mname: Annotated[str, _text("name of this server")] = field(
        default="ns1.mesos", name="SOAMname"
    )
    soa_rname: Annotated[str, _text("mailbox of who runs it")] = field(
        default="root.ns1.mesos", name="SOARname"
    )
    soa_refresh: Whole = field(default=60, name="SOARefresh")
    soa_retry: Whole = field(default=600, name="SOARetry")
    soa_expire: Whole = field(default=86400, name="SOAExpire")
    soa_minttl: Annotated[
        Whole, _text("shown by the HTTP API; the SOA's minimum is `ttl`, as in the original")
    ] = field(default=60, name="SOAMinttl")
    mesos_https_on: Annotated[bool, _text("speak TLS with masters")] = field(
        default=False, name="mesosHTTPSOn"
    )
    ca_cert_file: Annotated[
        str, _text("who may sign masters' certificates; without it none is checked")
    ] = field(default="", name="caCertFile")
    cert_file: Annotated[str, _text("our certificate for masters")] = field(
        default="", name="certFile"
    )
    key_file: Annotated[str, _text("its key")] = field(default="", name="keyFile")
    mesos_authentication: Annotated[
        Literal["", "basic", "iam"], _text("how we prove who we are to masters")
    ] = field(default="", name="mesosAuthentication")
    mesos_credentials: Annotated[
        dict[str, str], Meta(description="`principal` and `secret`", extra={"cairn": "secret"})
    ] = field(default_factory=dict, name="mesosCredentials")
    iam_config_file: Annotated[str, _text("service account: uid, private_key, login_endpoint")] = (
        field(default="", name="iamConfigFile")
    )
    reverse_dns_on: Annotated[bool, _text("names of addresses (PTR)")] = field(
        default=True, name="ReverseDnsOn"
    )
    resolv_subnet_first: Annotated[bool, _text("refused: answers are made before anybody asks")] = (
        field(default=False, name="ResolvSubnetFirst")
    )

    compat: Annotated[bool, _text("answer byte by byte as Mesos-DNS does, where that is odd")] = (
        False
    )
    dcos_branch: Annotated[
        bool, _text("at most one IPv4 and one IPv6 address of a task, as DC/OS 1.13-2.2")
    ] = False
    slave_discovery_ports: Annotated[
        bool, _text("discovery ports below `.slave` too, as newer forks have them")
    ] = False
    healthy_only: Annotated[bool, _text("hide tasks whose health check fails")] = False
    dcos_zones: Annotated[bool, _text(f"answer {DCOS_DOMAIN} as well")] = False
    processes: Annotated[
        int, Meta(ge=0, le=64, description="serving processes; 0: one per core, at most 4")
    ] = 0
    forward_clients: Annotated[list[str], _text("networks whose queries are forwarded")] = field(
        default_factory=lambda: list(PRIVATE_NETWORKS)
    )
    allow_transfer: Annotated[list[str], _text("networks that may fetch whole zones (AXFR)")] = (
        field(default_factory=lambda: list(LOOPBACK))
    )
    rate_limit: Annotated[
        int,
        Meta(ge=0, description="answers a second for each foreign network, /24 or /56; 0: any"),
    ] = 1000
    tcp_connections: Annotated[
        int, Meta(ge=1, le=10_000, description="TCP connections of a serving process")
    ] = 1000
    tcp_connections_per_client: Annotated[
        int, Meta(ge=1, le=10_000, description="of these for one address")
    ] = 100
    tcp_queries: Annotated[
        int, Meta(ge=0, description="queries of a TCP connection; 0: any; 128 with `compat`")
    ] = 0
    source: Annotated[
        Literal["auto", "feed", "stream", "poll"], _text("how the cluster is followed")
    ] = "auto"
    api: Annotated[
        Literal["mesos-dns", "dcos-net"], _text("shape of /v1/hosts and /v1/services")
    ] = "mesos-dns"
    state_dir: Annotated[str, _text("where the last known cluster is kept")] = "/var/lib/cairn/dns"

    def __post_init__(self) -> None:
        """Check what the types cannot say, so that `--check-config` finds it too."""
        if not self.dns_on and not self.http_on:
            raise ValueError("dnson: may not be false together with httpon")
        if not self.masters and not self.zk:
            raise ValueError("masters: empty, and zk is not set either")
        checks: list[tuple[str, Callable[[], object]]] = [
            ("zk", lambda: validation.zookeeper(self.zk)),
            ("masters", lambda: validation.masters(self.masters)),
            ("domain", lambda: validation.valid_domain(self.domain)),
            ("listener", self.listeners),
            ("httpListener", lambda: validation.addresses([self.http_listener])),
            ("IPSources", lambda: validation.ip_sources(self.ip_sources)),
            ("SOAMname", lambda: validation.valid_name(self.soa_mname)),
            ("SOARname", lambda: validation.mailbox(self.soa_rname)),
            ("forward_clients", lambda: validation.networks(self.forward_clients)),
            ("allow_transfer", lambda: validation.networks(self.allow_transfer)),
            ("mesosCredentials", self.credentials),
        ]
        if self.external_on:  # Compat: the original looks at them only when they are used
            checks += [
                ("resolvers", lambda: validation.resolvers(self.resolvers or [])),
                (
                    "zoneResolvers",
                    lambda: validation.zone_resolvers(self.zone_resolvers, self.zone),
                ),
            ]
        for name, check in checks:
            try:
                check()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.dcos_zones and self.zone == DCOS_DOMAIN:
            raise ValueError(f"dcos_zones: {DCOS_DOMAIN} is the domain already")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("certFile: needs keyFile, and keyFile needs certFile")
        if self.mesos_authentication == "iam" and not self.iam_config_file:
            raise ValueError("iamConfigFile: needed for mesosAuthentication iam")
        if self.mesos_authentication == "basic" and not self.credentials().principal:
            raise ValueError("mesosCredentials: principal is needed for basic authentication")
        if self.resolv_subnet_first:
            raise ValueError("ResolvSubnetFirst: not supported, answers are made ahead of queries")

    @property
    def zone(self) -> str:
        """The domain in lower case."""
        return self.domain.lower()

    def listeners(self) -> list[str]:
        """Addresses to answer on."""
        given = self.listener.split(",") if isinstance(self.listener, str) else self.listener
        return validation.addresses(text.strip() for text in given)

    def credentials(self) -> Credentials:
        """Principal and secret, whose keys may be in any case."""
        given = {key.lower(): value for key, value in self.mesos_credentials.items()}
        unknown = set(given) - {"principal", "secret"}
        if unknown:
            raise ValueError(f"unknown key {shorten(min(unknown), 40)!r}")
        return Credentials(**given)


def record_rules(config: DnsConfig, own_addresses: Sequence[Address]) -> Rules:
    """What `records` has to know."""
    return Rules(
        domain=config.zone,
        ip_sources=tuple(config.ip_sources),
        rfc952=config.rfc952,
        own_name=validation.valid_name(config.soa_mname),
        own_addresses=tuple(own_addresses),
        dcos_branch=config.dcos_branch,
        slave_discovery_ports=config.slave_discovery_ports,
        healthy_only=config.healthy_only,
        dcos_zones=config.dcos_zones,
        reverse=config.reverse_dns_on,
    )


def zone_settings(config: DnsConfig) -> list[ZoneSettings]:
    """What `encode` has to know, the zone of the cluster first."""
    mname, rname = validation.valid_name(config.soa_mname), validation.mailbox(config.soa_rname)
    zones = [
        ZoneSettings(
            domain=config.zone,
            ttl=config.ttl,
            srv_weight=config.srv_weight,
            soa_mname=mname,
            soa_rname=rname,
            soa_refresh=config.soa_refresh,
            soa_retry=config.soa_retry,
            soa_expire=config.soa_expire,
        )
    ]
    if config.dcos_zones:
        # Compat: the numbers of dcos-net, `dcos_dns.hrl`
        zones.append(
            ZoneSettings(
                domain=DCOS_DOMAIN,
                ttl=5,
                srv_priority=1,
                soa_mname=mname,
                soa_rname=rname,
                soa_refresh=60,
                soa_retry=180,
                soa_expire=86400,
                soa_minimum=1,
            )
        )
    return zones


def server_settings(config: DnsConfig, resolvers: Sequence[str]) -> ServerSettings:
    """What the serving processes have to know.  resolvers: servers for other names."""
    zones = config.zone_resolvers if config.external_on else {}
    return ServerSettings(
        compat=config.compat,
        recursion_available=config.recurse_on,
        truncate=config.truncate,
        resolvers=validation.resolvers(resolvers),
        zone_resolvers={
            zone.lower(): validation.resolvers(servers) for zone, servers in zones.items()
        },
        timeout_s=config.timeout_s,
        forward_clients=config.forward_clients,
        allow_transfer=config.allow_transfer,
        rate_limit=config.rate_limit,
        tcp_connections=config.tcp_connections,
        tcp_connections_per_client=config.tcp_connections_per_client,
        tcp_queries=config.tcp_queries,
    )
