"""Start reading here: cairn-dns from its settings to its sockets.

masters --feed or /state--> ClusterSource --snapshot--> records --> encode --> Answerer
                                 |                                              |
                        file of the last state                        UDP and TCP queries
"""

import asyncio
import logging
import socket
import time
from ipaddress import ip_address
from pathlib import Path

from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.clusterview.view import Changes
from cairn_core.errors import Unavailable
from cairn_core.kit.daemon import Daemon, Service, inherited_sockets
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.metrics import Metrics

from .answer import Answerer
from .config import DnsConfig, check, rules, split_place, zone_settings
from .encode import Table, empty_table, encode_zone
from .io_forward import Forwarder
from .io_hosts import HostTable
from .io_tcp import TcpServer, bind_tcp
from .io_udp import UdpServer, bind_udp
from .records import Address, Rules, Zone, generate, hosts_wanted

log = logging.getLogger(__name__)

#: Changes are collected this long before the zone is made anew, seconds; longer while making it
#: takes long, so that most of the time is left for answers.
BUILD_AFTER_S = 0.05
BUILD_SHARE = 4
#: Larger clusters are built in a thread, between whose slices queries are answered.
BUILD_IN_THREAD_TASKS = 500


class ZoneBuilder:
    """Makes the table anew when the cluster or a host's address has changed."""

    def __init__(self, config: DnsConfig, answerer: Answerer, own: tuple[Address, ...]) -> None:
        self.hosts = HostTable(self.changed)
        self.source = ClusterSource(
            config.masters,
            self.on_changes,
            keep=Path(config.state_dir) / "cluster.msgpack",
            period_s=config.refresh_s,
            timeout_s=config.state_timeout_s,
        )
        #: How long the last zone took to make, seconds.
        self.build_s = 0.0
        self._answerer = answerer
        self._rules: Rules = rules(config, own)
        self._settings = zone_settings(config)
        self._last: tuple[Zone, Table] | None = None
        self._dirty = asyncio.Event()

    def changed(self) -> None:
        """Something that records depend on has changed."""
        self._dirty.set()

    def on_changes(self, changes: Changes) -> None:
        """The cluster has changed."""
        self.hosts.want(hosts_wanted(changes.after))
        self.changed()

    def build(self) -> Table:
        """The table of the snapshot as it is now."""
        snapshot, hosts = self.source.view.snapshot, dict(self.hosts.addresses)
        zone = generate(snapshot, self._rules, hosts)
        table = encode_zone(zone, self._settings, int(time.time()), self._last)
        self._last = (zone, table)
        return table

    async def run(self, stop: asyncio.Event) -> None:
        """Build until `stop`, what is kept on disk first."""
        if self.source.restore():
            self._answerer.table = self.build()
        stopping = asyncio.create_task(stop.wait(), name="zone-stop")
        building = asyncio.create_task(self._build_on_change(), name="zone-build")
        try:
            await asyncio.wait({stopping, building}, return_when=asyncio.FIRST_COMPLETED)
            if building.done():
                building.result()
        finally:
            stopping.cancel()
            building.cancel()
            await asyncio.gather(stopping, building, return_exceptions=True)

    async def _build_on_change(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(max(BUILD_AFTER_S, BUILD_SHARE * self.build_s))
            self._dirty.clear()
            start = time.monotonic()
            if len(self.source.view.snapshot.tasks) > BUILD_IN_THREAD_TASKS:
                table = await asyncio.to_thread(self.build)
            else:
                table = self.build()
            self.build_s = time.monotonic() - start
            if table.skipped != self._answerer.table.skipped:
                log.warning("names that DNS cannot express count=%d", table.skipped)
            self._answerer.table = table


async def build(config: DnsConfig) -> Daemon[DnsConfig]:
    """The parts of the daemon."""
    check(config)
    answerer = Answerer(empty_table(config.domain), config.recurse_on, config.truncate)
    resolvers = [split_place(text) for text in config.resolvers] if config.external_on else []
    forwarder = Forwarder(resolvers, config.forward_clients, config.timeout_s)
    udp_socket, tcp_socket = _sockets(config)
    udp = UdpServer(udp_socket, answerer, forwarder)
    tcp = TcpServer(tcp_socket, answerer, forwarder)
    zone = ZoneBuilder(config, answerer, _own_addresses(config.listener))
    log.info("answering address=%s port=%d", config.listener, udp_socket.getsockname()[1])
    # The zone first: what is on disk is shown before the first query is read.
    services: list[Service] = [zone.run, zone.source.run, zone.hosts.run, udp.run, tcp.run]
    if config.http_port:
        http = _status(zone, answerer, udp, tcp)
        services.append(http.service((config.http_listener, config.http_port)))
    return Daemon(services)


def _status(zone: ZoneBuilder, answerer: Answerer, udp: UdpServer, tcp: TcpServer) -> HttpServer:
    metrics = Metrics("dns")
    queries = metrics.gauge("queries_count", "queries since the start", ("transport",))
    queries.labels("udp").set_function(lambda: udp.queries)
    queries.labels("tcp").set_function(lambda: tcp.queries)
    metrics.gauge("names_count", "names of the zone").set_function(
        lambda: len(answerer.table.names)
    )
    metrics.gauge("state_age_seconds", "how old what we know is").set_function(zone.source.age_s)
    metrics.gauge("build_seconds", "time that the last zone took").set_function(
        lambda: zone.build_s
    )
    router: Router[Handler] = Router()
    add_standard_routes(
        router,
        metrics=metrics,
        ready=lambda: None if answerer.table.loaded else "no state of the cluster yet",
        state=lambda: {
            "in_step": zone.source.in_step,
            "names": len(answerer.table.names),
            "skipped": answerer.table.skipped,
            "tasks": len(zone.source.view.snapshot.tasks),
            "held": zone.source.view.held,
        },
    )
    http = HttpServer(router)
    metrics.watch_http(http.stats)
    return http


def _sockets(config: DnsConfig) -> tuple[socket.socket, socket.socket]:
    """Sockets of the supervisor, or else of our own."""
    given = [sock for group in inherited_sockets().values() for sock in group]
    udp = next((sock for sock in given if sock.type == socket.SOCK_DGRAM), None)
    tcp = next((sock for sock in given if sock.type == socket.SOCK_STREAM), None)
    try:
        udp = udp or bind_udp(config.listener, config.port)
        return udp, tcp or bind_tcp(config.listener, udp.getsockname()[1])
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {config.listener} port {config.port}: {error.strerror}"
        ) from error


def _own_addresses(listener: str) -> tuple[Address, ...]:
    """Addresses for our own name: what we listen on, or that of the way to the outside."""
    address = ip_address(listener)
    if not address.is_unspecified:
        return (address.packed,)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    outside = "203.0.113.1" if address.version == 4 else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((outside, 53))  # sends nothing; only picks the address
        except OSError:
            return ()
        return (ip_address(probe.getsockname()[0]).packed,)
