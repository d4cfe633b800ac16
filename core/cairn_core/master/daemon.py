"""Start reading here: how `cairn-master` is put together, and in which order it starts.

    settings -> allocator, rules, shell -> HTTP server (health, redirects: every master)
             -> election -> log opened (epoch), registry read -> rules lead -> agents, frameworks

Order matters: nothing is answered or commanded before the registry was read under an epoch of our
own, because only then no other master can act.
"""

import asyncio
import contextlib
import gc
import heapq
import logging
import socket
import time
import uuid
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from cairn_core.errors import LocalError
from cairn_core.extensions import ALLOCATORS, Allocator, AllocatorSettings
from cairn_core.kit import operator_files
from cairn_core.kit.config import fields
from cairn_core.kit.daemon import Daemon, Service, inherited_sockets
from cairn_core.kit.durations import format_duration
from cairn_core.kit.feed import FeedPublisher
from cairn_core.kit.http_files import VirtualPaths, add_file_routes
from cairn_core.kit.http_server import Answer, Handler, HttpServer, Options, Request, Router
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.io_feed import FEED_PATH, FeedServer
from cairn_core.kit.listeners import Listener
from cairn_core.kit.loop_lag import BUCKETS
from cairn_core.kit.metrics import Metrics
from cairn_core.master import http_legacy, http_operator
from cairn_core.master.config import MasterConfig, read_credentials
from cairn_core.master.feed import FeedRows
from cairn_core.master.http_context import check_leader
from cairn_core.master.io_master import Master
from cairn_core.master.registry import LOG, read_registry
from cairn_core.master.state.cluster import VipTable
from cairn_core.master.state.core import MasterCore
from cairn_core.master.state.records import MasterRecord
from cairn_core.master.state.settings import Settings
from cairn_core.mesos.types import Address, Capability, MasterInfo
from cairn_core.replog.election import Candidate, Elector
from cairn_core.replog.io_sqlite import SqliteLog
from cairn_core.replog.io_standalone import StandaloneElector
from cairn_core.replog.state import KeyedStore

log = logging.getLogger(__name__)

#: The version that is answered to others. Clients compare it with versions of Apache Mesos.
COMPATIBLE_VERSION = "1.11.0"
#: Named VIPs that `/debug/state` shows.
SHOWN_VIPS = 100
CAPABILITIES = ("AGENT_UPDATE", "QUOTA_V2")


async def build(config: MasterConfig) -> Daemon[MasterConfig]:
    """Make the objects of a master and list its services."""
    inherited = [sock for sockets in inherited_sockets().values() for sock in sockets]
    listeners: list[Listener] = list(inherited) or [(config.ip or "0.0.0.0", config.port)]
    assembly = await assemble(config, listeners)
    return Daemon(services=assembly.services, on_reload=assembly.reload)


@dataclass(frozen=True, slots=True)
class Assembly:
    """A master that is put together and not started yet. secrets: by principal."""

    master: Master
    http: HttpServer
    services: list[Service]
    secrets: dict[str, str]

    def reload(self, config: MasterConfig) -> None:
        """Take over new credentials (and the log level); other settings need a restart."""
        if config.authenticates:
            fresh = read_credentials(config.credentials)
            self.secrets.clear()
            self.secrets.update(fresh)


async def assemble(config: MasterConfig, listeners: list[Listener]) -> Assembly:
    """Make the objects; raises CairnError, with one line, where that cannot be."""
    secrets = read_credentials(config.credentials) if config.authenticates else {}
    info = master_info(config)
    settings = rules_settings(config, secrets)
    allocator = load_allocator(config, info)
    core = MasterCore(MasterRecord(info, time.time(), 0.0), allocator, settings)
    master = Master(
        core,
        shown_flags(config),
        allocation_interval_s=config.allocation_interval,
        secrets=secrets if config.frameworks_authenticate else None,
        link_idle_s=settings.link_idle_s,
    )
    server = _Server(master, listeners)
    registry_log = await SqliteLog.start(Path(config.work_dir))

    async def lead(stop: asyncio.Event) -> None:
        try:
            await _lead(master, registry_log, config, info, server.feed_rows, stop)
        finally:
            master.stop()
            await registry_log.close()

    async def quiesce(stop: asyncio.Event) -> None:
        # Before the streams are closed: the end of a stream would be taken for the end of a
        # framework, and without a failover timeout that kills its tasks.
        await stop.wait()
        master.stop()

    services = [
        quiesce,
        *server.services,
        lead,
        master.allocate,
        master.schedulers.heartbeats,
        master.lag.run,
    ]
    return Assembly(master, server.http, services, secrets)


class _Server:
    """Routes, and the services behind them."""

    def __init__(self, master: Master, listeners: list[Listener]) -> None:
        router: Router[Handler] = Router(twins=("/master",))
        files = VirtualPaths()
        reader = http_legacy.mount(router, master)
        streams = http_operator.mount(router, master, reader, partial(operator_files.answer, files))
        add_file_routes(router, files)
        master.schedulers.mount(router)
        master.agents.mount(router, master)
        # Its epoch only has to differ from that of every feed before it.
        feed = FeedServer(FeedPublisher(epoch=time.time_ns()))
        self.feed_rows = FeedRows(feed)
        master.listen_changes(self.feed_rows.changed)

        async def subscribe(request: Request) -> Answer:
            check_leader(master, request)
            return await feed.answer(request)

        router.add(FEED_PATH, subscribe, options=Options(timeout_s=None))
        metrics = Metrics("master")
        _export(metrics, master)
        add_standard_routes(
            router,
            metrics=metrics,
            ready=lambda: None if master.recovered() else "the registry is not read yet",
            state=lambda: _debug_state(master, feed),
        )
        self.http = HttpServer(router)
        metrics.watch_http(self.http.stats)
        self.services: list[Service] = [
            self.http.service(*listeners),
            feed.run,
            reader.watch,
            streams.heartbeats,
        ]


async def _lead(
    master: Master,
    registry_log: SqliteLog,
    config: MasterConfig,
    info: MasterInfo,
    feed_rows: FeedRows,
    stop: asyncio.Event,
) -> None:
    """Stand for election; once elected, open the log, read the registry, and lead."""
    elector: Elector = StandaloneElector()
    address = f"{_address(info)}:{info.port}"
    await elector.join(Candidate(info.id, address, msgspec.json.encode(info)))
    try:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(
                _follow(elector, master, registry_log, config, info, feed_rows, stop)
            )
            await stop.wait()
            following.cancel()
    finally:
        await elector.leave()


async def _follow(
    elector: Elector,
    master: Master,
    registry_log: SqliteLog,
    config: MasterConfig,
    info: MasterInfo,
    feed_rows: FeedRows,
    stop: asyncio.Event,
) -> None:
    writing: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as group:
        async for leadership in elector.changes():
            leader = leadership.leader
            master.followed(
                msgspec.json.decode(leader.info, type=MasterInfo) if leader is not None else None
            )
            if writing is not None and not leadership.mine:
                raise LocalError("leadership is lost: ending, to start anew as a follower")
            if leadership.mine and writing is None:
                store = await KeyedStore.open(registry_log, LOG)
                records = [(key, held.value, held.schema) for key, held in store.items()]
                # some 20 us an agent: /health is to be answered meanwhile
                image = await asyncio.to_thread(read_registry, records)
                master.lead(store.epoch, image, config.weight_table())
                feed_rows.begin(master.cluster, info)
                gc.freeze()
                log.info(
                    "leading master=%s epoch=%d agents=%d",
                    info.id, store.epoch, len(image.admitted),
                )  # fmt: skip
                writing = group.create_task(master.registry.run(store))


def load_allocator(config: MasterConfig, info: MasterInfo) -> Allocator:
    """The allocator that the configuration names; raises LocalError when there is none."""
    found = [entry for entry in entry_points(group=ALLOCATORS) if entry.name == config.allocator]
    if not found:
        names = sorted(entry.name for entry in entry_points(group=ALLOCATORS))
        raise LocalError(f"allocator '{config.allocator}' is not installed, there is {names}")
    excluded = config.fair_sharing_excluded_resource_names.split(",")
    domain = info.domain.fault_domain if info.domain is not None else None
    # Shuffles can be repeated from the log when somebody asks why a round went as it did.
    seed = uuid.UUID(info.id).int
    log.info("allocator name=%s seed=%d", config.allocator, seed)
    allocator: Allocator = found[0].load()(
        Random(seed),
        AllocatorSettings(
            interval_s=config.allocation_interval,
            min_allocatable=config.minimum(),
            fair_sharing_excluded=frozenset(name.strip() for name in excluded if name.strip()),
            filter_gpus=config.filter_gpu_resources,
            region=domain.region.name if domain is not None else None,
        ),
    )
    return allocator


def rules_settings(config: MasterConfig, secrets: dict[str, str]) -> Settings:
    """What the rules need of the configuration."""
    return Settings(
        offer_timeout_s=config.offer_timeout or None,
        agent_ping_timeout_s=config.agent_ping_timeout,
        max_agent_ping_timeouts=config.max_agent_ping_timeouts,
        agent_reregister_timeout_s=config.agent_reregister_timeout,
        roles=config.role_table(),
        root_submissions=config.root_submissions,
        authenticate_frameworks=config.frameworks_authenticate,
        agent_secrets=secrets if config.authenticate_agents else None,
        min_allocatable=config.minimum(),
        max_offers=config.max_offers_per_framework,
        port_rest_s=config.port_rest,
        registry_gc_interval_s=config.registry_gc_interval,
        registry_max_agent_age_s=config.registry_max_agent_age,
        registry_max_agent_count=config.registry_max_agent_count,
        vip_ipv4=config.vip_range(),
        vip_ipv6=config.vip_range6(),
        vip_release_s=config.vip_release,
    )


def master_info(config: MasterConfig) -> MasterInfo:
    """Who this master is; the id is new in each process, as in the original."""
    hostname = config.hostname or socket.getfqdn()
    ip = config.advertise_ip or config.ip
    if not ip or ip == "0.0.0.0":
        ip = _own_address(hostname)
    try:
        number = int.from_bytes(ip_address(ip).packed[:4], "little")
    except ValueError:
        raise LocalError(f"ip: not an address: {ip[:60]!r}") from None
    port = config.advertise_port or config.port
    return MasterInfo(
        id=str(uuid.uuid4()),
        ip=number,
        port=port,
        pid=f"master@{ip}:{port}",
        hostname=hostname,
        version=COMPATIBLE_VERSION,
        address=Address(port, hostname, ip),
        domain=config.domain_info(),
        capabilities=tuple(Capability(name) for name in CAPABILITIES),
    )


def _own_address(hostname: str) -> str:
    """The address that the machine's name has, else that of the way out, else loopback."""
    with contextlib.suppress(OSError):
        found = socket.gethostbyname(hostname)
        if not found.startswith("127."):
            return found
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # Nothing is sent: connecting a datagram socket only chooses the source address.
        sock.connect(("203.0.113.1", 9))
        return str(sock.getsockname()[0])
    return "127.0.0.1"


def _address(info: MasterInfo) -> str:
    return str(info.pid).partition("@")[2].rpartition(":")[0]


def shown_flags(config: MasterConfig) -> dict[str, str]:
    """The settings as `/flags` shows them: text by name, as the original writes them."""
    values = msgspec.to_builtins(config)
    shown = {}
    for one in fields(MasterConfig):
        value: Any = values[one.key]
        if isinstance(value, bool):
            shown[one.name] = "true" if value else "false"
        elif one.kind == "duration":
            shown[one.name] = format_duration(value)
        elif value not in ("", None):
            shown[one.name] = str(value)
    return shown


def _export(metrics: Metrics, master: Master) -> None:
    """Gauges for Prometheus; `/metrics/snapshot` has the original's names."""
    cluster = master.cluster
    gauges = {
        "agents_connected_count": lambda: sum(a.connected for a in cluster.agents.values()),
        "agents_unreachable_count": lambda: len(cluster.unreachable_agents),
        "frameworks_connected_count": lambda: sum(f.connected for f in cluster.frameworks.values()),
        "offers_outstanding_count": lambda: len(cluster.offers),
        "tasks_live_count": lambda: sum(len(f.tasks) for f in cluster.frameworks.values()),
        "vips_named_count": lambda: len(cluster.vips.addresses),
        "vips_idle_count": lambda: len(cluster.vips.idle),
        "vips_without_address_count": lambda: len(cluster.vips.refused),
        "leading_info": lambda: int(master.leads() and master.recovered()),
        "allocation_round_seconds": lambda: master.round_s,
        "registry_store_seconds": lambda: master.registry.append_s,
    }
    master.lag.histogram = metrics.histogram(
        "loop_lag_seconds", "by how much the event loop was late", buckets=BUCKETS
    )
    for name, read in gauges.items():
        metrics.gauge(name, f"see {name.replace('_', ' ')}").set_function(read)


def _vips(vips: VipTable) -> dict[str, Any]:
    """Names and addresses, the first of each."""
    names = heapq.nsmallest(SHOWN_VIPS, vips.addresses)
    return {
        "named": len(vips.addresses),
        "idle": len(vips.idle),
        "storing": len(vips.storing),
        "without_address": len(vips.refused),
        "addresses": {name: " ".join(vips.addresses.of(name) or ()).strip() for name in names},
        "reasons": dict(islice(vips.refused.items(), SHOWN_VIPS)),
    }


def _debug_state(master: Master, feed: FeedServer) -> dict[str, Any]:
    """Sizes and places of the tables, for people."""
    cluster = master.cluster
    return {
        "master": cluster.master.master_id,
        "epoch": cluster.epoch,
        "leads": master.leads(),
        "recovered": master.recovered(),
        "frameworks": {
            framework_id: {
                "name": framework.info.name,
                "connected": framework.connected,
                "recovered": framework.recovered,
                "tasks": len(framework.tasks),
                "offers": len(framework.offers),
            }
            for framework_id, framework in cluster.frameworks.items()
        },
        "agents": len(cluster.agents),
        "agents_connected": sum(agent.connected for agent in cluster.agents.values()),
        "agents_recovered": len(cluster.recovered_agents),
        "agents_unreachable": len(cluster.unreachable_agents),
        "agents_joining": len(cluster.joining),
        "transitions": sorted(cluster.transitions),
        "offers": len(cluster.offers),
        "streams": len(master.schedulers),
        "links": len(master.agents),
        "registry_queue": len(master.registry),
        "vips": _vips(cluster.vips),
        "feed_rows": len(feed.publisher),
        "feed_subscribers": feed.subscribers,
    }
