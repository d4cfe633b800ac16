"""Settings of `cairn-l4lb`.

Names that the originals have (dcos/minuteman `src/minuteman.app.src`, dcos-net `dcos_l4lb_config`,
DC/OS `config.yaml`) are spelled as there; their durations are whole milliseconds, ours are seconds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Literal

from msgspec import Meta

from cairn_core.clusterview.masters import parse_ensemble, parse_place
from cairn_core.errors import LocalError, shorten
from cairn_core.kit.config import CommonConfig, Port, Secret
from cairn_core.vips.addresses import AddressRange, BadRange
from cairn_core.vips.reserved import is_address, network, why_not_range

from .channel import SteerSettings
from .literals import OVERLAY
from .model import Cost, Locality, Mode, Policy

MASTER_PORT = 5050
#: Settings of the originals that say nothing here: of IPVS and its device, of gossip, of pushed
#: figures, and of where Minuteman 1.7 asked for the cluster.
FOREIGN = frozenset(
    {
        "dcos_l4lb_enable_ipset", "dcos_l4lb_forward_metrics", "ipset_enabled", "iface", "cni_dir",
        "master_uri", "agent_reregistration_threshold", "metrics_interval_seconds",
        "metrics_splay_seconds",
    }
)  # fmt: skip

Seconds = Annotated[float, Meta(ge=0, le=1e6, description="seconds", extra={"cairn": "duration"})]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000, description="milliseconds")]


def _text(description: str) -> Meta:
    return Meta(description=description)


class L4lbConfig(CommonConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of `cairn-l4lb`."""

    masters: Annotated[list[str], _text("masters, each address:port, where `zk` is not set")] = []
    zk: Annotated[
        Secret, _text("where masters are found: zk://host:port,.../path, file:///path, host:port")
    ] = ""
    source: Annotated[
        Literal["auto", "feed", "stream", "poll"], _text("how the cluster is followed")
    ] = "auto"
    poll_interval: Annotated[
        Milliseconds, _text("milliseconds between two questions, where only polling is left")
    ] = 5000
    https: Annotated[bool, _text("speak TLS with masters")] = False
    ca_file: Annotated[str, _text("who may sign masters' certificates")] = ""
    cert_file: Annotated[str, _text("our certificate for masters")] = ""
    key_file: Annotated[str, _text("its key")] = ""
    authentication: Annotated[
        Literal["", "basic", "iam"], _text("how we prove who we are to masters")
    ] = ""
    principal: Annotated[str, _text("for basic authentication")] = ""
    secret: Annotated[Secret, _text("its secret")] = ""
    iam_config_file: Annotated[str, _text("service account: uid, private_key, login_endpoint")] = ""

    private_ip: Annotated[str, _text("address of this host as its agent is known by")] = ""
    zone: Annotated[str, _text("zone of this host; empty: that of its agent")] = ""

    min_named_ip: Annotated[str, _text("first address of named VIPs")] = "11.0.0.0"
    max_named_ip: Annotated[str, _text("last address of named VIPs")] = "11.255.255.254"
    min_named_ip6: Annotated[str, _text("first IPv6 address of named VIPs")] = "fd01:c::"
    max_named_ip6: Annotated[str, _text("last IPv6 address of named VIPs")] = (
        "fd01:c:0:0:ffff:ffff:ffff:ffff"
    )
    allocator: Annotated[
        Literal["nfq", "ipvs"],
        _text("which original's address a name gets, where the master gives none"),
    ] = "nfq"
    enable_ipv6: Annotated[bool, _text("serve IPv6 VIPs too")] = True
    host_networks: Annotated[
        list[str], _text("networks that a VIP given as an address may not be in")
    ] = []
    linger_s: Annotated[
        Seconds, _text("a VIP that lost its last backend refuses for so long before it is gone")
    ] = 60.0

    policy: Annotated[Policy, _text("how a backend is chosen")] = "p2c"
    cost: Annotated[Cost, _text("what makes a backend dear, for p2c")] = "pending"
    mode: Annotated[Mode, _text("who decides, and how the kernel is told")] = "auto"
    locality: Annotated[Locality, _text("which backends are preferred while they are open")] = (
        "none"
    )
    sticky_s: Annotated[Seconds, _text("a client keeps its backend for so long; 0: not")] = 0.0
    slow_start_s: Annotated[
        Seconds, _text("a new backend comes to its full share in this time")
    ] = 0.0
    hedge_ms: Annotated[
        float,
        Meta(ge=0, le=10_000, description="then an unanswered SYN goes elsewhere too; 0: not"),
    ] = 0.0
    tcp_connect_threshold: Annotated[
        Milliseconds, _text("milliseconds without an answer that count as a failure")
    ] = 400
    tcp_consecutive_failure_threshold: Annotated[
        int, Meta(ge=1, le=1000, description="failures in turn that close a backend")
    ] = 5
    tcp_failed_backend_backoff_period: Annotated[
        Milliseconds, _text("milliseconds that it stays closed before it is probed")
    ] = 30_000
    refuse_closed: Annotated[
        bool, _text("refuse while all backends are closed; false: try one of them")
    ] = True
    retry_refused: Annotated[
        bool, _text("another backend is tried before a client hears of a refusal")
    ] = True
    promote_per_s: Annotated[
        float,
        Meta(ge=0, le=1e7, description="more new connections a second: the kernel chooses; 0: no"),
    ] = 5000.0
    busy_poll_ms: Annotated[
        float,
        Meta(ge=0, le=1000, description="after a packet wait for the next without sleeping"),
    ] = 0.0

    enable_networking: Annotated[bool, _text("false: nothing of the kernel is touched")] = True
    strict: Annotated[
        bool, _text("the four rules as the original has them: no bypass, ICMP refusals")
    ] = False
    refuse_unknown: Annotated[
        bool, _text("refuse connections to addresses of named VIPs that nobody has")
    ] = True
    queue: Annotated[tuple[int, int], _text("first and last NFQUEUE number")] = (50, 58)
    queue_length: Annotated[
        int, Meta(ge=64, le=1_000_000, description="packets that may wait in a queue")
    ] = 65_536
    mark_mask: Annotated[
        int, Meta(ge=0, le=0xFFFFFFFF, description="bits of packet marks that are ours, contiguous")
    ] = 0x0FFF0000
    reconcile_timeout: Annotated[
        Milliseconds, _text("milliseconds between two looks at what the kernel really has")
    ] = 30_000
    coalesce_ms: Annotated[
        int, Meta(ge=0, le=1000, description="changes that come together are applied together")
    ] = 20

    agent_polling_enabled: Annotated[
        bool, _text("ask this host's agent for its tasks while no master answers")
    ] = True
    agent_port: Annotated[Port, _text("port of this host's agent")] = 5051
    agent_poll_interval: Annotated[Milliseconds, _text("milliseconds between two questions")] = 2000
    agent_poll_max_interval: Annotated[
        Milliseconds, _text("and at most so many while it does not answer")
    ] = 60_000
    stale_s: Annotated[Seconds, _text("the view of the cluster is stale when it is older")] = 30.0

    api_listen_ip: Annotated[str, _text("address of the HTTP API")] = "0.0.0.0"
    api_listen_port: Annotated[Port, _text("port of the HTTP API, 0 for none")] = 61421
    proxy_socket: Annotated[
        str, _text("control socket of the DNS proxy; empty: names are not pushed")
    ] = "/run/cairn/dns-proxy.sock"
    vips_socket: Annotated[
        str, _text("socket that answers /v1/vips for the DNS proxy; empty: none")
    ] = "/run/cairn/l4lb.sock"
    control_socket: Annotated[str, _text("socket for drains, root only; empty: none")] = (
        "/run/cairn/l4lb-control.sock"
    )
    run_dir: Annotated[
        str, _text("where it is noted what settings of the host were before us, until it reboots")
    ] = "/run/cairn"
    state_dir: Annotated[str, _text("where the last known cluster, drains and names are kept")] = (
        "/var/lib/cairn/l4lb"
    )

    dcos_l4lb_min_named_ip: Annotated[str, _text("the same as min_named_ip, of DC/OS")] = ""
    dcos_l4lb_max_named_ip: Annotated[str, _text("the same as max_named_ip, of DC/OS")] = ""
    dcos_l4lb_min_named_ip6: Annotated[str, _text("the same as min_named_ip6, of DC/OS")] = ""
    dcos_l4lb_max_named_ip6: Annotated[str, _text("the same as max_named_ip6, of DC/OS")] = ""
    dcos_l4lb_enable_ipv6: Annotated[bool | None, _text("the same as enable_ipv6, of DC/OS")] = None

    def __post_init__(self) -> None:
        """Check what the types cannot say, so that `--check-config` finds it too."""
        if not self.masters and not self.zk:
            raise ValueError("masters: empty, and zk is not set either")
        if self.zk.startswith("zk://"):
            _check("", lambda: parse_ensemble(self.zk))
        for master in self.masters:
            _check("masters: ", partial(parse_place, master, MASTER_PORT))
        if self.private_ip:
            _address("private_ip", self.private_ip, None)
        _address("api_listen_ip", self.api_listen_ip, None)
        for text in self.host_networks:
            try:
                network(text)
            except ValueError as error:
                raise ValueError(f"host_networks: {error}") from None
        for version in (4, 6):
            self._check_range(version)
        first, last = self.queue
        if not 0 <= first <= last <= 65535:
            raise ValueError(f"queue: not first and last number of queues: {first}, {last}")
        if self.mark_mask.bit_count() < 2 or not _contiguous(self.mark_mask):
            raise ValueError(f"mark_mask: not two or more bits in a row: {self.mark_mask:#x}")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file: needs key_file, and key_file needs cert_file")
        if self.authentication == "basic" and not self.principal:
            raise ValueError("principal: needed for basic authentication")
        if self.authentication == "iam" and not self.iam_config_file:
            raise ValueError("iam_config_file: needed for authentication iam")

    def named_range(self, version: int) -> tuple[tuple[str, str], tuple[str, str]]:
        """Name and text of the settings for the first and last address of named VIPs.

        version: 4 or 6.
        """
        six = "6" if version == 6 else ""
        found = []
        for end in ("min", "max"):
            name = f"{end}_named_ip{six}"
            theirs = f"dcos_l4lb_{name}"
            alias = getattr(self, theirs)
            found.append((theirs, alias) if alias else (name, getattr(self, name)))
        return found[0], found[1]

    def named_ranges(self) -> list[tuple[str, str]]:
        """First and last address of named VIPs, of both families."""
        return [(first, last) for (_, first), (_, last) in map(self.named_range, (4, 6))]

    def vip_range(self, version: int) -> AddressRange:
        """Addresses of named VIPs, as a name's is looked for.  version: 4 or 6."""
        (_, first), (_, last) = self.named_range(version)
        return AddressRange.parse(first, last, self.allocator if version == 4 else "ipvs")

    def not_for_vips(self) -> list[tuple[str, str]]:
        """Networks that a VIP given as an address may not be in, and what they are."""
        return [*OVERLAY, *((text, "of host_networks") for text in self.host_networks)]

    def _check_range(self, version: int) -> None:
        """Named VIPs must not take away what the host itself needs."""
        low, high = self.named_range(version)
        ends = [_address(name, text, version) for name, text in (low, high)]
        if ends[0] > ends[1]:
            raise ValueError(f"{high[0]}: {high[1]!r} is below {low[0]} {low[1]!r}")
        servers = list(self.masters)
        if self.zk.startswith("zk://"):
            servers += parse_ensemble(self.zk).hosts
        hosts = [parse_place(one, MASTER_PORT)[0] for one in servers]
        taken = self.not_for_vips()
        taken += [(host, "of a master or zk") for host in hosts if is_address(host)]
        taken += [(self.private_ip, "private_ip")] if self.private_ip else []
        try:
            self.vip_range(version)
            why = why_not_range(low[1], high[1], taken)
        except BadRange as error:
            why = str(error)
        if why:
            raise ValueError(f"{low[0]}, {high[0]}: {why}")

    @property
    def ipv6(self) -> bool:
        """Whether IPv6 VIPs are served."""
        theirs = self.dcos_l4lb_enable_ipv6
        return self.enable_ipv6 if theirs is None else theirs


def steer_settings(
    config: L4lbConfig, own_addresses: Sequence[str], zone: str, seed: int | None = None
) -> SteerSettings:
    """What the steering process has to know.

    own_addresses: of this host. zone: of this host, as configured or as its agent says.
    """
    return SteerSettings(
        queues=config.queue,
        queue_length=config.queue_length,
        mark_mask=config.mark_mask,
        fail_open=not config.strict,
        own_addresses=tuple(own_addresses),
        zone=zone,
        policy=config.policy,
        cost=config.cost,
        mode=config.mode,
        locality=config.locality,
        sticky_s=config.sticky_s,
        slow_start_s=config.slow_start_s,
        hedge_ms=config.hedge_ms,
        connect_threshold_s=config.tcp_connect_threshold / 1000,
        failure_limit=config.tcp_consecutive_failure_threshold,
        backoff_s=config.tcp_failed_backend_backoff_period / 1000,
        refuse_closed=config.refuse_closed,
        retry_refused=config.retry_refused,
        promote_per_s=config.promote_per_s,
        busy_poll_s=config.busy_poll_ms / 1000,
        seed=seed,
    )


def _check(prefix: str, check: Callable[[], object]) -> None:
    try:
        check()
    except LocalError as error:
        raise ValueError(f"{prefix}{error}") from None


def _address(name: str, text: str, version: int | None) -> int:
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text or version not in (None, address.version):
        kind = "IP" if version is None else f"IPv{version}"
        raise ValueError(f"{name}: not an {kind} address: {shorten(text, 60)!r}")
    return int(address)


def _contiguous(mask: int) -> bool:
    low = mask & -mask
    return (mask + low) & mask == 0
