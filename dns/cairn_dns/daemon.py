"""Start reading here: cairn-dns from its settings to its sockets.

    masters --> ClusterSource --> Names (ClusterZone, Encoder) --> Workers --> serving processes
                     |               |
                state_dir         HttpApi, explanations, metrics

This process follows the cluster and never answers a query; `server` does, in processes of its own.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path

import msgspec

from cairn_core.clusterview.io_access import MasterAccess, master_access
from cairn_core.clusterview.io_detect import find_masters
from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.clusterview.masters import parse_place
from cairn_core.errors import LocalError
from cairn_core.kit.daemon import Daemon, Service, enter_state_dir, inherited_sockets
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.http_standard import add_standard_routes

from .addresses import Address, parse_address
from .cluster_zone import ClusterZone
from .config import DnsConfig, record_rules, server_settings, zone_settings
from .encode import Encoder
from .http_api import HttpApi, as_the_original
from .http_state import State
from .io_hosts import own_addresses, resolv_conf_servers
from .io_names import Names
from .io_serial import Serials
from .io_workers import Workers, bind_listeners
from .metrics import DnsMetrics, merged
from .table import Update

log = logging.getLogger(__name__)

#: Serving processes when the settings leave it to us.
MAX_PROCESSES = 4
#: How long the start waits for the first of them to answer, seconds.
START_S = 30.0
#: What this process leaves to the serving ones when all want the processor.
NICENESS, NICE_EVERY_S = 5, 1.0
#: What is kept on disk may lack what came last.  So for this long after the start, unless a master
#: has spoken, nobody is told that a name does not exist; seconds.
TRUST_AFTER_S = 10.0
#: Settings that hold from the start on until a restart.
FIXED = (
    "zk", "masters", "refresh_s", "state_timeout_s", "mesos_https_on", "ca_cert_file", "cert_file",
    "key_file", "mesos_authentication", "mesos_credentials", "iam_config_file", "source", "port",
    "listener", "http_listener", "http_port", "dns_on", "http_on", "processes", "state_dir",
)  # fmt: skip


class DnsServer:
    """All parts.  file: path of the configuration, for those who ask."""

    def __init__(self, config: DnsConfig, file: str = "") -> None:
        self.config = config
        self._stack = ExitStack()
        self._own = own_addresses(config.listeners())
        self.workers: Workers | None = None
        if config.dns_on:
            count = config.processes or min(os.cpu_count() or 1, MAX_PROCESSES)
            sockets = listening_sockets(config, count)
            self.workers = Workers(
                count, server_settings(config, _resolvers(config)), sockets, self._table
            )
            log.info(
                "answering addresses=%s port=%d processes=%d",
                ",".join(config.listeners()), sockets[0].getsockname()[1], count,
            )  # fmt: skip
        folder = enter_state_dir(self._stack, Path(config.state_dir))
        self.names = Names(
            *self._zone(config),
            self._send,
            self._refresh,
            serials=Serials(folder and folder / "serial"),
            sure=self._sure,
        )
        #: Whether what was kept on disk counts as all that there is.
        self._trusting = False
        self.source = ClusterSource(
            find_masters(config.zk or config.masters),
            self.names.on_changes,
            access=_access(config),
            wanted=config.source,
            keep=folder and folder / "cluster.msgpack",
            period_s=config.refresh_s,
            timeout_s=config.state_timeout_s,
        )
        self.source.masters.watch(self._masters_changed)
        self.state = State(self.names, self.source, lambda: self.config)
        self.http = self._http(file) if config.http_on and config.http_port else None

    def services(self) -> list[Service]:
        """What runs, in the order of its start."""
        services: list[Service] = [
            self.names.run, self.names.hosts.run, self.source.run, self._trust_what_is_kept,
        ]  # fmt: skip
        if self.http is not None:
            services.append(self.http.service((self.config.http_listener, self.config.http_port)))
        return services

    async def show_what_is_kept(self) -> None:
        """Know what is on disk, before anybody asks."""
        self._masters_changed()
        if self.source.restore():
            await self.names.apply()

    def _sure(self) -> bool:
        return self._trusting or self.source.in_step

    async def _trust_what_is_kept(self, stop: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(TRUST_AFTER_S):
                await stop.wait()
        self._trusting = True
        self.names.look_again()
        await stop.wait()

    # -- ways between the parts ----------------------------------------------------------------

    def _zone(self, config: DnsConfig) -> tuple[ClusterZone, Encoder]:
        zone = ClusterZone(record_rules(config, self._own))
        return zone, Encoder(zone_settings(config))

    def _table(self) -> Iterable[Update]:
        return self.names.table()

    async def _send(self, update: Update) -> None:
        if self.workers is not None:
            await self.workers.send(update)

    def _refresh(self) -> None:
        if self.workers is not None:
            self.workers.refresh()

    def _masters_changed(self) -> None:
        hosts = [_host(place) for place in self.source.masters.current]
        if self.config.zk:
            # Differs: the original numbers them anew, at random, with each leader
            hosts.sort(key=lambda host: (parse_address(host) or b"", host))
        self.names.on_masters(hosts)

    # -- other settings ------------------------------------------------------------------------

    async def reload(self, config: DnsConfig) -> None:
        """Take what can change without other sockets or another source."""
        fixed = [name for name in FIXED if getattr(config, name) != getattr(self.config, name)]
        if fixed:
            log.warning(
                "changed setting needs a restart, the old one holds settings=%s", ",".join(fixed)
            )
        old = self.config
        # none of the fixed ones is checked together with one that may change, but `source`
        # and its like were, so what we have stays right
        new = msgspec.structs.replace(config, **{x: getattr(old, x) for x in FIXED})
        settings = server_settings(new, _resolvers(new))
        self.config = new
        if self.workers is not None:
            self.workers.reconfigure(settings)
        if _zone_parts(new, self._own) != _zone_parts(old, self._own):
            await self.names.rebuild(*self._zone(new), lambda: self.source.view.snapshot)

    # -- HTTP ----------------------------------------------------------------------------------

    def _http(self, file: str) -> HttpServer:
        router: Router[Handler] = Router()
        api = HttpApi(self.state, lambda: self.config, version=package_version("cairn"), file=file)
        api.add_routes(router)
        metrics = self._metrics()
        add_standard_routes(
            router, metrics=metrics.metrics, ready=self._not_ready, state=self._tables
        )
        http = HttpServer(router, filters=[as_the_original])
        metrics.metrics.watch_http(http.stats)
        return http

    def _metrics(self) -> DnsMetrics:
        made, names, source = DnsMetrics(), self.names, self.source
        names.on_sent = made.sent.observe
        made.metrics.watch_source(lambda: source.kind, source.age_s)
        made.watch_names(
            counts=lambda: names.records.counts,
            names=lambda: len(names.records),
            skipped=self._skipped,
            table_changes=lambda: (names.table_changes, names.names_changed),
            serial=lambda: names.serial,
        )
        if (workers := self.workers) is not None:
            made.watch_servers(workers.stats, lambda: workers.deaths)
        return made

    def _skipped(self) -> Mapping[str, int]:
        zone, encoder = self.names.zone, self.names.encoder
        return merged(
            ("row", self.source.skipped),
            ("record", zone.skipped),
            ("wire", {"name": encoder.skipped}),
        )

    def _not_ready(self) -> str | None:
        if self.workers is not None and not self.workers.alive:
            return "no serving process answers"
        return self.state.not_ready()

    def _tables(self) -> dict[str, object]:
        workers = self.workers
        serving = {} if workers is None else {"alive": workers.alive, "pids": workers.pids}
        return {**self.state.tables(), "serving": serving}


async def build(config: DnsConfig, file: str = "") -> Daemon[DnsConfig]:
    """The parts of the daemon, when its serving processes answer what is kept on disk."""
    server = DnsServer(config, file)
    await server.show_what_is_kept()
    services = server.services()
    if server.workers is not None:
        services.append(await _started(server.workers))
        services.append(partial(_stay_nice, server.workers, server.names))
    return Daemon(services, on_reload=server.reload)


async def _started(workers: Workers) -> Service:
    """Start serving before the supervisor is told that we are ready; the service goes on."""
    ended = asyncio.Event()
    running = asyncio.create_task(workers.run(ended), name="workers")
    answering = asyncio.create_task(workers.serving(), name="workers-serving")
    await asyncio.wait({running, answering}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
    if not answering.done():
        answering.cancel()
        log.error("no serving process answers yet waited=%.0f s", START_S)

    async def serving(stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait(), name="workers-stop")
        try:
            await asyncio.wait({stopping, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            ended.set()
            await running

    return serving


async def _stay_nice(workers: Workers, names: Names, stop: asyncio.Event) -> None:
    """Answers come first, once there are any: following the cluster waits for them."""
    nice = False
    while not stop.is_set():
        if names.known and not nice:
            nice = True
            with suppress(OSError):
                os.nice(NICENESS)
        for pid in workers.pids:
            # those started later would have it from us
            with suppress(OSError):
                if os.getpriority(os.PRIO_PROCESS, pid) > 0:
                    os.setpriority(os.PRIO_PROCESS, pid, 0)
        with suppress(TimeoutError):
            async with asyncio.timeout(NICE_EVERY_S):
                await stop.wait()


def listening_sockets(config: DnsConfig, count: int) -> list[socket.socket]:
    """Sockets of the supervisor, or else our own.  Raises LocalError and Unavailable."""
    given = [sock for group in inherited_sockets().values() for sock in group]
    if not given:
        return bind_listeners(config.listeners(), config.port, count)
    for sock in given:
        port = sock.getsockname()[1] if sock.family in (socket.AF_INET, socket.AF_INET6) else None
        if port != config.port:
            raise LocalError(
                f"port: {config.port} is set, but the supervisor gave a socket "
                f"of {sock.getsockname()!r}: both must name the same port"
            )
    if {sock.type for sock in given} != {socket.SOCK_DGRAM, socket.SOCK_STREAM}:
        raise LocalError("port: the supervisor must give sockets for UDP and for TCP")
    return given


def _access(config: DnsConfig) -> MasterAccess:
    credentials = config.credentials()
    return master_access(
        https=config.mesos_https_on,
        ca_file=config.ca_cert_file,
        cert_file=config.cert_file,
        key_file=config.key_file,
        authentication=config.mesos_authentication,
        principal=credentials.principal,
        secret=credentials.secret,
        iam_file=config.iam_config_file,
    )


def _resolvers(config: DnsConfig) -> list[str]:
    """Servers for other names."""
    if not config.external_on:
        return []
    if config.resolvers is None:
        log.info("names of others are refused: no resolvers are set")
        return []
    return config.resolvers or resolv_conf_servers()


def _host(place: str) -> str:
    return parse_place(place.partition("://")[2] or place, 5050)[0]


def _zone_parts(config: DnsConfig, own: Sequence[Address]) -> object:
    return record_rules(config, own), zone_settings(config)
