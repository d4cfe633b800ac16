"""Start reading here: cairn-dns-proxy from its settings to its sockets.

config, pushed zones, this node --> Zones --> near and far tables --> Answerers
                                                                        |
UDP, TCP --> Answerer (near) --> reply                                  |
                | Foreign                                               |
                v                                                       v
             Resolver: cache, routes, races between servers, far tables
"""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cairn_core.errors import LocalError
from cairn_core.kit.daemon import Daemon, Service, inherited_sockets
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.metrics import Metrics
from cairn_dns.answer import Answerer
from cairn_dns.io_exchange import exchange
from cairn_dns.networks import Networks

from . import config as settings
from .cache import Cache, Limits
from .config import ProxyConfig
from .explain import explain, server_state
from .http_api import Api
from .http_control import Control
from .io_host import Addresses, ResolvConf, addresses_by_link
from .io_masters import MasterList
from .io_race import Asker
from .io_resolver import Resolver
from .io_serve import CachingAnswerer, Front, probe
from .io_store import Store
from .io_zones import Zones
from .metrics import ForwardMetrics, ZoneCollector, place
from .race import Servers
from .resolvconf import saved_name
from .routes import Places, Routes, Server
from .zones import built_in, configured

log = logging.getLogger(__name__)


class Proxy:
    """All parts of one proxy.

    `routes`, own zones and settings are made anew on a reload; sockets and pushed zones stay.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.store = Store(Path(config.state_dir))
        self.zones = Zones(
            self.store, self._zones_changed, turning=settings.loadbalance(config) != "none"
        )
        self.masters = MasterList(config, os.environ, self._masters_changed)
        self.metrics = ForwardMetrics()
        self.metrics.registry.register(ZoneCollector(self._zone_sizes, lambda: self.zones.push_s))
        self.servers = Servers()
        self.near = Answerer(self.zones.tables.near.table)
        self.far = Answerer(self.zones.tables.far.table)
        self.cache = Cache(_limits(config), entries=config.cache_entries, size=config.cache_bytes)
        self.resolver = Resolver(
            self.near,
            self.far,
            self._routes(()),
            self._asker(config),
            self.cache,
            limit=config.handler_limit,
            stale_after_s=config.stale_after,
            observed=self.metrics.forwarded,
        )
        self.front = Front(
            CachingAnswerer(
                self.zones.tables.near.table, self.cache, asyncio.get_running_loop().time
            ),
            self.resolver,
            Networks(settings.clients(config)),
            config.rate_limit,
        )
        self.control = Control(self.zones, self.store, self._not_pushed, own=config.control_socket)
        self.addresses = Addresses(config.proxy_addresses, config.link)
        self._jobs: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Everything but sockets: what is local is known, and the addresses are there."""
        await self._own_zones()
        await self.zones.restore(self._not_pushed())
        if self.config.add_addresses and self.config.proxy_addresses:
            await self.addresses.add()

    async def reload(self, config: ProxyConfig) -> None:
        """Take new settings; what needs new sockets is told and stays."""
        for name in ("udp_port", "tcp_port", "bind_ips", "bind_interface", "proxy_addresses",
                     "http_port", "http_listener", "control_socket", "state_dir", "resolv_conf",
                     "loadbalance", "rate_limit"):  # fmt: skip
            if getattr(config, name) != getattr(self.config, name):
                log.warning("setting needs a restart name=%s", name)
        self.config = config
        self.masters.reload(config)
        self.cache.limits = _limits(config)
        self.resolver.asker = self._asker(config)
        self.resolver.stale_after_s = config.stale_after
        self.resolver.room.limit = config.handler_limit
        self.front.set_clients(Networks(settings.clients(config)))
        await self._own_zones()
        self._route()

    def _asker(self, config: ProxyConfig) -> Asker:
        return Asker(
            exchange,
            self.servers,
            self.metrics,
            random.Random(),
            server_s=config.server_timeout,
            total_s=config.forward_timeout,
        )

    def _taken(self) -> list[str]:
        return [self.config.domain.lower().strip(".")]

    def _not_pushed(self) -> list[str]:
        """Domains that others answer for, so that no daemon of the host may."""
        config = self.config
        cluster = [f"{config.cluster_id.lower()}.dcos.directory"] if config.cluster_id else []
        return [*self._taken(), *settings.forward_zones(config), *cluster]

    async def _own_zones(self) -> None:
        hosts = [address for address, _ in self.masters.servers]
        private = [self.config.private_ip] if self.config.private_ip else _own_address(hosts)
        own = built_in(hosts, private, self.config.public_ips)
        self.zones.foreign = [*self._taken(), *settings.forward_zones(self.config)]
        await self.zones.set_own(own, configured(self.config.zones, self._taken()))

    def _masters_changed(self, servers: list[Server]) -> None:
        log.info("masters servers=%s", ",".join(map(place, servers)))
        self._route()
        job = asyncio.get_running_loop().create_task(self._own_zones())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _zones_changed(self, names: list[str]) -> None:
        self._route()

    def _routes(self, local: Sequence[str]) -> Routes:
        config = self.config
        return Routes(
            Places(
                domain=config.domain.lower().strip("."),
                masters=self.masters.servers,
                upstreams=settings.upstreams(config),
                zones=settings.forward_zones(config),
                local=local,
                cluster_id=config.cluster_id.lower(),
                reverse=settings.reverse(config),
            )
        )

    def _route(self) -> None:
        """Make the routes anew."""
        routes = self._routes(list(self.zones.tables.zones))
        self.resolver.reroute(routes)
        self.servers.keep(server for route in routes.all() for server in route.servers)

    def _zone_sizes(self) -> dict[str, int]:
        return {name: len(zone.records) for name, zone in self.zones.tables.zones.items()}

    # -- for people ------------------------------------------------------------------------------

    def explain(self, name: bytes) -> dict[str, object]:
        """See `explain`."""
        return explain(
            name,
            routes=self.resolver.routes,
            cache=self.cache,
            servers=self.servers,
            tables=self.zones.tables,
            now=asyncio.get_running_loop().time(),
        )

    def masters_http(self) -> list[str]:
        """Where masters answer over HTTP, those that live first."""
        now = asyncio.get_running_loop().time()
        dead = {server for server, state in self.servers.states.items() if state.dead(now)}
        alive = sorted(self.masters.servers, key=lambda server: server in dead)
        return [place((address, self.config.master_http)) for address, _ in alive]

    def state(self) -> dict[str, object]:
        """For `/debug/state`."""
        now = asyncio.get_running_loop().time()
        counts = self.resolver.counts
        return {
            "zones": self._zone_sizes(),
            "pushed": {name: spec.generation for name, spec in self.zones.pushed.items()},
            "mounts": self.control.mounts,
            "routes": [
                {"zone": r.zone, "kind": r.kind.value, "servers": [place(s) for s in r.servers]}
                for r in self.resolver.routes.all()
            ],
            "servers": {
                place(server): server_state(self.servers, server, now)
                for server in self.servers.states
            },
            "cache": {"entries": len(self.cache), "bytes": self.cache.bytes},
            "under_way": len(self.resolver.room),
            "counts": {name: getattr(counts, name) for name in counts.__slots__},
            "addresses_problem": self.addresses.problem,
        }

    def own_metrics(self) -> Metrics:
        """Counters that are kept anyway, read when asked."""
        metrics = Metrics("dns_proxy")
        queries = metrics.gauge("queries_count", "queries since the start", ("transport",))
        queries.labels("udp").set_function(lambda: self.front.queries(tcp=False))
        queries.labels("tcp").set_function(lambda: self.front.queries(tcp=True))
        for name, read, text in (
            ("cache_entries_count", lambda: len(self.cache), "answers kept"),
            ("cache_size_bytes", lambda: self.cache.bytes, "what kept answers take"),
            ("cache_hits_count", lambda: self.cache.hits, "answers from the cache"),
            ("cache_misses_count", lambda: self.cache.misses, "questions not in the cache"),
            ("cache_evicted_count", lambda: self.cache.evicted, "answers that made room"),
            ("stale_answers_count", lambda: self.resolver.counts.stale, "stale answers given"),
            ("shared_count", lambda: self.resolver.counts.shared, "questions asked once for many"),
            ("failed_count", lambda: self.resolver.counts.failed, "questions nobody answered"),
            ("refused_count", lambda: self.resolver.counts.refused, "questions refused"),
            ("overload_count", lambda: self.resolver.counts.overload, "questions too many"),
            ("under_way_count", lambda: len(self.resolver.room), "questions under way"),
            ("zones_count", lambda: len(self.zones.tables.zones), "local zones"),
        ):
            metrics.gauge(name, text).set_function(read)
        return metrics


async def build(config: ProxyConfig) -> Daemon[ProxyConfig]:
    """The parts of the daemon."""
    proxy = Proxy(config)
    await proxy.start()
    own = await _addresses(config)
    services: list[Service] = [
        *proxy.front.listen(
            own,
            [address for address in own if address not in config.bind_ips],
            (config.udp_port, config.tcp_port),
            _inherited(),
        ),
        proxy.resolver.run,
        proxy.masters.run,
    ]
    if config.http_port:
        services.append(_http(proxy).service((config.http_listener, config.http_port)))
    if config.control_socket:
        path = Path(config.control_socket)
        path.parent.mkdir(parents=True, exist_ok=True)
        services.append(proxy.control.server().service(path))
    services += _host(proxy)
    return Daemon(services, on_reload=proxy.reload)


def _host(proxy: Proxy) -> list[Service]:
    """What changes the host, in the order in which it is put back: resolv.conf first."""
    config = proxy.config

    async def answers(address: str) -> bool:
        return await probe((address, config.udp_port))

    keeper = ResolvConf(
        Path(config.resolv_conf),
        Path(config.state_dir) / saved_name(config.resolv_conf),
        config.proxy_addresses or config.bind_ips,
        config.search,
        answers,
    )

    async def host(stop: asyncio.Event) -> None:
        try:
            if config.resolv_conf:
                await keeper.run(stop)
            else:
                await stop.wait()
        finally:
            if config.add_addresses and config.remove_addresses:
                await proxy.addresses.remove()

    return [host]


def _http(proxy: Proxy) -> HttpServer:
    router: Router[Handler] = Router()
    metrics = proxy.own_metrics()
    api = Api(
        proxy.resolver,
        proxy.explain,
        lambda: proxy.zones.tables.zones,
        proxy.masters_http,
        proxy.control.mounts,
        {"dns": proxy.metrics.text, "default": metrics.text},
    )
    api.add_routes(router)
    add_standard_routes(
        router, metrics=metrics, ready=lambda: proxy.addresses.problem, state=proxy.state
    )
    http = HttpServer(router)
    metrics.watch_http(http.stats)
    return http


def _limits(config: ProxyConfig) -> Limits:
    return Limits(max_ttl=config.cache_ttl, cluster_s=config.cluster_ttl, stale_s=config.stale)


def _inherited() -> list[socket.socket]:
    return [sock for group in inherited_sockets().values() for sock in group]


async def _addresses(config: ProxyConfig) -> list[str]:
    """What to answer on.  Raises LocalError, Unavailable."""
    found = [*config.proxy_addresses, *config.bind_ips]
    if config.bind_interface:
        links = await addresses_by_link()
        if config.bind_interface not in links:
            raise LocalError(f"bind_interface: no such link: {config.bind_interface!r}")
        found += links[config.bind_interface]
    kept = {str(ip_address(one)): None for one in found}
    for address in config.bind_ip_blacklist:
        kept.pop(str(ip_address(address)), None)
    if not kept:
        raise LocalError("proxy_addresses, bind_ips: no address to answer on")
    return list(kept)


def _own_address(masters: Sequence[str]) -> list[str]:
    """The address of this node: that of the way to a master, or to the outside."""
    for outside in (*masters[:1], "203.0.113.1"):
        family = socket.AF_INET6 if ":" in outside else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((outside, 53))  # sends nothing; only picks the address
            except OSError:
                continue
            return [str(sock.getsockname()[0])]
    return []
