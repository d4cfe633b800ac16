"""Settings of `cairn-dns-proxy`.

Keys that the original has (`/opt/mesosphere/etc/dcos-dns.json`, dcos-net `dcos_dns_config`) are
spelled as there, so that its file starts this daemon: `cairn-dns-proxy --config dcos-dns.json`.
"""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from cairn_core.errors import LocalError, shorten
from cairn_core.kit.config import Bytes, CommonConfig, Port, Seconds
from cairn_dns.wire import BadName, wire_name

from .routes import PRIVATE, PRIVATE_V6, Server, reverse_zones
from .zones import PROXY_ADDRESSES, BadZone, RecordSpec, configured

#: Who is forwarded for: loopback, private, shared and link-local addresses.
CLIENTS = ("127.0.0.0/8", *PRIVATE, "::1/128", "fc00::/7", "fe80::/10")
MASTER_PORT = 61053
#: glibc reads so much of `search`.
MAX_SEARCH_NAMES, MAX_SEARCH_CHARS = 6, 255

Place = str | list[str | int]
#: Seconds, or the original's milliseconds.
# Compat: dcos-net counts its durations in milliseconds.  A whole number of 1000 or more is one of
# them: none of these settings is meant to last a quarter of an hour.
Milliseconds = Annotated[
    Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)],
    Meta(description="seconds", extra={"cairn": "duration"}),
]
MIN_MILLISECONDS = 1000
DURATIONS_OF_THE_ORIGINAL = (
    "masters_refresh_interval_normal", "masters_refresh_interval_fail", "masters_timeout",
    "exhibitor_timeout", "mesos_dns_timeout", "push_zone_timeout",
)  # fmt: skip


def _text(description: str) -> Meta:
    return Meta(description=description)


class ProxyConfig(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-dns-proxy`."""

    masters: Annotated[list[str], _text("masters' cairn-dns, address or address:port")] = []
    master_port: Annotated[Port, _text("port of the masters' cairn-dns")] = MASTER_PORT
    master_http: Annotated[Port, _text("port of the masters' DNS over HTTP, for people")] = 8123
    domain: Annotated[str, _text("domain of the cluster")] = "mesos"
    cluster_id: Annotated[str, _text("label of the cluster below dcos.directory")] = ""
    # Differs: the original asks public services unless told otherwise; names of a company are
    # nobody else's business.
    upstream_resolvers: Annotated[
        list[str], _text("servers for other names, address or address:port; none: refused")
    ] = []
    forward_zones: Annotated[
        dict[str, list[Place]] | list[tuple[str, list[Place]]],
        _text("zones with servers of their own"),
    ] = {}
    zones: Annotated[
        dict[str, list[RecordSpec]], _text("zones answered here: name, type, value of each record")
    ] = {}
    reverse: Annotated[
        list[str],
        _text("networks or reverse zones whose names the masters know; `private` for all of them"),
    ] = []
    udp_port: Annotated[Port, _text("port for UDP")] = 53
    tcp_port: Annotated[Port, _text("port for TCP")] = 53
    bind_ips: Annotated[list[str], _text("addresses to answer on, beside the proxy's own")] = []
    bind_interface: Annotated[str, _text("answer on all addresses of this interface as well")] = ""
    bind_ip_blacklist: Annotated[list[str], _text("addresses never to answer on")] = field(
        default_factory=lambda: ["198.51.100.4"]
    )
    proxy_addresses: Annotated[
        list[str], _text("addresses that every host has for its proxy; empty for none")
    ] = field(default_factory=lambda: list(PROXY_ADDRESSES))
    add_addresses: Annotated[bool, _text("put the proxy's addresses on a link")] = True
    remove_addresses: Annotated[bool, _text("take them away on a clean stop")] = True
    link: Annotated[str, _text("dummy link for them; `lo` where there are no dummy links")] = (
        "spartan"
    )
    handler_limit: Annotated[int, Meta(ge=1, le=65536, description="questions under way")] = 1024
    loadbalance: Annotated[str, _text("order of answers: round_robin, random, or none")] = (
        "round_robin"
    )
    udp_recbuf: Annotated[Bytes, _text("accepted and not used: buffers are 4 MB")] = 1024 * 1024
    forward_clients: Annotated[list[str], _text("networks whose queries are forwarded")] = field(
        default_factory=lambda: list(CLIENTS)
    )
    rate_limit: Annotated[
        int, Meta(ge=0, description="UDP answers a second for each network of others; 0: any")
    ] = 1000
    server_timeout: Annotated[Seconds, _text("one server is waited for so long")] = 5.0
    forward_timeout: Annotated[Seconds, _text("all servers together")] = 10.0
    cache_entries: Annotated[int, Meta(ge=0, description="answers kept; 0 for none")] = 20_000
    cache_bytes: Annotated[Bytes, _text("what kept answers may take")] = 64 << 20
    cache_ttl: Annotated[Seconds, _text("no answer is kept longer")] = 3600.0
    cluster_ttl: Annotated[Seconds, _text("names of the cluster are kept so long")] = 0.1
    stale: Annotated[Seconds, _text("answers are given so long after, while nobody answers")] = (
        86400.0
    )
    stale_after: Annotated[Seconds, _text("a stale answer is given when none came so long")] = 0.5
    private_ip: Annotated[str, _text("address of this node; found by itself when empty")] = ""
    public_ips: Annotated[list[str], _text("addresses of this node for the outside")] = []
    resolv_conf: Annotated[str, _text("file to keep pointed at the proxy; empty: left alone")] = ""
    search: Annotated[list[str], _text("search domains written there")] = []
    http_listener: Annotated[str, _text("address of the HTTP interface")] = "127.0.0.1"
    http_port: Annotated[Port, _text("port of the HTTP interface, 0 for none")] = 62080
    control_socket: Annotated[str, _text("socket for other daemons, root only; empty: none")] = (
        "/run/cairn/dns-proxy.sock"
    )
    state_dir: Annotated[str, _text("where pushed zones are kept")] = "/var/lib/cairn/dns-proxy"
    mesos_resolvers: Annotated[list[Place], _text("the same as masters, of the original")] = []
    masters_refresh_interval_normal: Annotated[
        Milliseconds, _text("Exhibitor is asked so often for the masters")
    ] = 120.0
    masters_refresh_interval_fail: Annotated[Milliseconds, _text("and so soon after a failure")] = (
        5.0
    )
    masters_timeout: Annotated[Milliseconds, _text("refused here: nothing is asked of masters")] = (
        5.0
    )
    exhibitor_timeout: Annotated[Milliseconds, _text("for one answer of Exhibitor")] = 30.0
    mesos_dns_timeout: Annotated[Milliseconds, _text("refused here: nothing is copied")] = 30.0
    push_zone_timeout: Annotated[Milliseconds, _text("refused here: zones are not replicated")] = (
        1.0
    )

    def __post_init__(self) -> None:
        """Make seconds of milliseconds, and check what the types cannot say, so that
        `--check-config` finds it too."""
        for name in DURATIONS_OF_THE_ORIGINAL:
            value = getattr(self, name)
            whole = isinstance(value, int) and value >= MIN_MILLISECONDS
            msgspec.structs.force_setattr(self, name, value / 1000 if whole else float(value))
        try:
            _check(self)
        except LocalError as error:
            raise ValueError(str(error)) from None


#: Settings of the original that have nothing to set here, and why.
REFUSED = {
    "masters_timeout": "masters are configured, or named by Exhibitor",
    "mesos_dns_timeout": "mesos.thisdcos.directory is forwarded, never copied",
    "push_zone_timeout": "zones of this host are not replicated",
}


def _check(config: ProxyConfig) -> None:
    """Raise LocalError for the first problem, with its field."""
    defaults = {one.name: one.default for one in msgspec.structs.fields(config)}
    for name, reason in REFUSED.items():
        if getattr(config, name) != defaults[name]:
            raise LocalError(f"{name}: cannot be set here: {reason}")
    _check_name("domain", config.domain)
    if config.cluster_id and (
        not config.cluster_id.isascii()
        or not config.cluster_id.isalnum()
        or len(config.cluster_id) > 63
    ):
        raise LocalError(f"cluster_id: not one label: {shorten(config.cluster_id, 80)!r}")
    masters(config)
    upstreams(config)
    forward_zones(config)
    for name in ("bind_ips", "bind_ip_blacklist", "proxy_addresses", "public_ips"):
        for text in getattr(config, name):
            _check_address(name, text)
    if config.private_ip:
        _check_address("private_ip", config.private_ip)
    _check_address("http_listener", config.http_listener)
    for text in config.forward_clients:
        try:
            ip_network(text)
        except ValueError:
            raise LocalError(f"forward_clients: not a network: {shorten(text, 60)!r}") from None
    for text in reverse(config):
        try:
            reverse_zones(text)
        except ValueError as error:
            raise LocalError(f"reverse: {shorten(str(error))}") from None
    try:
        configured(config.zones, [config.domain.lower().strip(".")])
    except BadZone as error:
        raise LocalError(str(error)) from None
    for text in config.search:
        _check_name("search", text)
    if len(config.search) > MAX_SEARCH_NAMES or len(" ".join(config.search)) > MAX_SEARCH_CHARS:
        raise LocalError(
            f"search: more than {MAX_SEARCH_NAMES} names or {MAX_SEARCH_CHARS} characters"
        )
    if not 0 < len(config.link) < 16 or not config.link.isascii() or not config.link.isalnum():
        raise LocalError(f"link: not a name of a link: {config.link!r}")


def masters(config: ProxyConfig) -> list[Server]:
    """The masters' DNS servers.  Raises LocalError."""
    named = [_server("masters", text, config.master_port) for text in config.masters]
    return named or [
        _server("mesos_resolvers", place, config.master_port) for place in config.mesos_resolvers
    ]


def upstreams(config: ProxyConfig) -> list[Server]:
    """Servers for names that are nobody else's.  Raises LocalError."""
    found = [_server("upstream_resolvers", text, 53) for text in config.upstream_resolvers]
    for address, _ in found:
        if address in config.proxy_addresses:
            raise LocalError(f"upstream_resolvers: that is this proxy itself: {address!r}")
    return found


def forward_zones(config: ProxyConfig) -> dict[str, list[Server]]:
    """Servers by zone, from both shapes of the setting.  Raises LocalError."""
    pairs: Sequence[tuple[str, list[Place]]] = (
        list(config.forward_zones.items())
        if isinstance(config.forward_zones, dict)
        else config.forward_zones
    )
    found: dict[str, list[Server]] = {}
    for zone, places in pairs:
        _check_name("forward_zones", zone)
        if not places:
            raise LocalError(f"forward_zones: no server for {shorten(zone, 80)!r}")
        found[zone.lower().strip(".")] = [_server("forward_zones", one, 53) for one in places]
    return found


def clients(config: ProxyConfig) -> list[str]:
    """Networks whose queries are forwarded: what is set, and this host, which asks the proxy
    from the address that it asks."""
    return [*config.forward_clients, *config.proxy_addresses, *config.bind_ips]


def reverse(config: ProxyConfig) -> list[str]:
    """Networks and zones whose reverse names go to the masters; `private` stands for all those."""
    return [
        one
        for text in config.reverse
        for one in ((*PRIVATE, *PRIVATE_V6) if text == "private" else (text,))
    ]


Loadbalance = Literal["round_robin", "random", "none"]


def loadbalance(config: ProxyConfig) -> Loadbalance:
    """Order of answers.

    # Compat: whatever the original does not know means none.  `random` turns answers as
    # `round_robin` does: the turn depends on the id of the query, which is random.
    """
    match config.loadbalance:
        case "round_robin":
            return "round_robin"
        case "random":
            return "random"
        case _:
            return "none"


def _server(name: str, place: Place, default_port: int) -> Server:
    """`1.2.3.4`, `1.2.3.4:53`, `::1`, `[::1]:53`, or Spartan's `["1.2.3.4", 53]`."""
    if isinstance(place, list):
        address, port = (place[0], place[1]) if len(place) == 2 else ("", 0)
        if not isinstance(address, str) or not isinstance(port, int) or not 0 < port < 65536:
            raise LocalError(f"{name}: not an address and a port: {shorten(str(place), 80)!r}")
        _check_address(name, address)
        return str(ip_address(address)), port
    host, port_text = place, ""
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise LocalError(f"{name}: not an address or address:port: {shorten(place, 80)!r}")
        port_text = rest
    elif place.count(":") == 1:
        host, colon, port_text = place.partition(":")
        port_text = colon + port_text
    digits = port_text[1:]
    if port_text and not (digits.isascii() and digits.isdigit() and 0 < int(digits[:6]) < 65536):
        raise LocalError(f"{name}: not a port: {shorten(place, 80)!r}")
    _check_address(name, host)
    return str(ip_address(host)), int(digits) if digits else default_port


def _check_address(name: str, text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise LocalError(f"{name}: not an address: {shorten(text, 60)!r}") from None


def _check_name(name: str, text: str) -> None:
    try:
        wire_name(text.strip("."))
    except BadName as error:
        raise LocalError(f"{name}: {error}") from None
