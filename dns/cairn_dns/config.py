"""Settings of `cairn-dns`, spelled as in a Mesos-DNS configuration file where it has them."""

from ipaddress import ip_network
from typing import Annotated

from msgspec import Meta, field

from cairn_core.errors import LocalError
from cairn_core.kit.config import CommonConfig, Port

from .encode import BadName, ZoneSettings, wire_name
from .records import Address, Rules, parse_address

IP_SOURCES = ("netinfo", "docker", "mesos", "host")
#: Loopback, private, shared and link-local addresses (RFC 1918, 4193, 6598, 3927).
PRIVATE_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
    "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip

Seconds = Annotated[float, Meta(gt=0, description="seconds")]
Whole = Annotated[int, Meta(ge=0, le=0x7FFFFFFF, description="seconds")]


def _text(description: str) -> Meta:
    return Meta(description=description)


class DnsConfig(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-dns`; keys and defaults as Mesos-DNS `records/config.go` has them."""

    masters: Annotated[list[str], _text("masters, each address:port")] = []
    domain: Annotated[str, _text("domain of the cluster")] = "mesos"
    port: Port = 53
    listener: Annotated[str, _text("address to answer on")] = "0.0.0.0"
    http_listener: Annotated[str, _text("address of the status pages")] = field(
        default="0.0.0.0", name="httpListener"
    )
    http_port: Annotated[Port, _text("port of the status pages, 0 for none")] = field(
        default=8123, name="httpport"
    )
    ttl: Annotated[Whole, _text("seconds that others may keep an answer")] = 60
    srv_weight: Annotated[int, Meta(ge=0, le=65535, description="weight in SRV answers")] = field(
        default=1, name="SRVRecordDefaultWeight"
    )
    refresh_s: Annotated[
        Seconds, _text("seconds between questions, where only polling is left")
    ] = field(default=30.0, name="refreshSeconds")
    state_timeout_s: Annotated[Seconds, _text("seconds for one state of a master")] = field(
        default=300.0, name="stateTimeoutSeconds"
    )
    # Differs: Mesos-DNS forwards to a public service unless told otherwise; names of a
    # company are nobody else's business.
    resolvers: Annotated[list[str], _text("servers for other names, address or address:port")] = []
    external_on: Annotated[bool, _text("whether other names are forwarded at all")] = field(
        default=True, name="externalon"
    )
    forward_clients: Annotated[list[str], _text("networks whose queries are forwarded")] = field(
        default_factory=lambda: list(PRIVATE_NETWORKS)
    )
    timeout_s: Annotated[Seconds, _text("seconds for one forwarded query")] = field(
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
    soa_mname: Annotated[str, _text("name of this server")] = field(
        default="ns1.mesos", name="SOAMname"
    )
    soa_rname: Annotated[str, _text("mailbox of who runs it")] = field(
        default="root.ns1.mesos", name="SOARname"
    )
    soa_refresh: Whole = field(default=60, name="SOARefresh")
    soa_retry: Whole = field(default=600, name="SOARetry")
    soa_expire: Whole = field(default=86400, name="SOAExpire")
    state_dir: Annotated[str, _text("where the last known cluster is kept")] = "/var/lib/cairn/dns"


def check(config: DnsConfig) -> None:
    """Raise LocalError for what the types cannot say."""
    if not config.masters:
        raise LocalError("masters: list at least one, as address:port")
    for name, value in (("domain", config.domain), ("SOAMname", config.soa_mname)):
        try:
            wire_name(value)
        except BadName as error:
            raise LocalError(f"{name}: {error}") from None
    if parse_address(config.listener) is None:
        raise LocalError(f"listener: not an address: {config.listener!r}")
    unknown = [source for source in config.ip_sources if source not in IP_SOURCES]
    if unknown or not config.ip_sources:
        raise LocalError(f"IPSources: {unknown} not among {list(IP_SOURCES)}")
    for text in config.masters + config.resolvers:
        split_place(text)
    for text in config.forward_clients:
        try:
            ip_network(text)
        except ValueError as error:
            raise LocalError(f"forward_clients: {error}") from None


def split_place(text: str, default_port: int = 53) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`.  Raises LocalError."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, default_port
    host, bracket, rest = text.partition("]")
    if not bracket:
        host, colon, port = text.partition(":")
    else:
        host, (colon, port) = host.removeprefix("["), (rest[:1], rest[1:])
    if not host or (colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise LocalError(f"not a host or host:port: {text!r}")
    return host, int(port) if port else default_port


def rules(config: DnsConfig, own_addresses: tuple[Address, ...]) -> Rules:
    """What `records` has to know."""
    masters = (parse_address(split_place(text, 5050)[0]) for text in config.masters)
    return Rules(
        domain=config.domain.lower().strip("."),
        ip_sources=tuple(config.ip_sources),
        rfc952=config.rfc952,
        masters=tuple(address for address in masters if address is not None),
        own_name=config.soa_mname.lower().strip("."),
        own_addresses=own_addresses,
    )


def zone_settings(config: DnsConfig) -> ZoneSettings:
    """What `encode` has to know."""
    return ZoneSettings(
        domain=config.domain.lower().strip("."),
        ttl=config.ttl,
        srv_weight=config.srv_weight,
        soa_mname=config.soa_mname,
        soa_rname=config.soa_rname,
        soa_refresh=config.soa_refresh,
        soa_retry=config.soa_retry,
        soa_expire=config.soa_expire,
    )
