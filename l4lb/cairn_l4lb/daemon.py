"""Start reading here: cairn-l4lb from its settings to the kernel.

    masters --> ClusterSource --> Table --> Balancer --> Applier --> kernel, steering process
                    |   LocalAgent --^          |            '--> Names --> DNS proxy
                state_dir          drains    HttpApi, metrics

`apply` says how a change becomes work; the steering process is in `io_steer_server`.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import msgspec

from cairn_core.clusterview.io_access import MasterAccess, master_access
from cairn_core.clusterview.io_detect import find_masters
from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.clusterview.view import Changes
from cairn_core.errors import CairnError, LocalError, Unavailable, cause
from cairn_core.kit.daemon import Daemon, Service, enter_state_dir
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.mesos.feed_rows import AGENT, Row
from cairn_core.vips.reserved import why_not_range

from . import io_host, io_kernel, io_names, io_own
from .apply import Balancer, Work
from .config import L4lbConfig, steer_settings
from .drains import Drains, matching
from .http_api import HttpApi
from .http_control import Control
from .http_state import State
from .http_watch import Watchers
from .io_addresses import NodeAddresses, NotKept
from .io_apply import Applier
from .io_local_agent import LocalAgent
from .io_names import Names
from .literals import Guard
from .metrics import L4lbMetrics
from .notices import Notices
from .rules import KernelSettings
from .slots import Slots
from .table import Table, TableChange
from .vips import VipRules, canonical

log = logging.getLogger(__name__)

#: How often time passes for the tables, and how often the host is looked at, seconds.
EXPIRE_S, LOOK_S = 1.0, 5.0
#: How often the addresses of this host are read, a fraction of a millisecond, seconds.
OWN_S = 2.0
#: How often addresses that nobody wants are looked for, seconds.
RELEASE_EVERY_S = 600.0
#: How long a table that was kept waits for a master, or for this host's agent, seconds.
FIRST_S = 1.5
#: How long a dry run waits for a master, seconds.
DRY_RUN_S = 10.0
#: Settings that hold at once on a reload; others need a restart.
LIVE = (
    "log_level", "log_format", "policy", "cost", "mode", "locality", "sticky_s", "slow_start_s",
    "hedge_ms", "tcp_connect_threshold", "tcp_consecutive_failure_threshold",
    "tcp_failed_backend_backoff_period", "refuse_closed", "promote_per_s", "busy_poll_ms", "zone",
)  # fmt: skip


class L4lb:
    """All parts.  dry: for a dry run, so nothing is written."""

    def __init__(self, config: L4lbConfig, *, dry: bool = False) -> None:
        self.config = config
        self._stack = ExitStack()
        self._rng = Random()
        #: A master has spoken.
        self._heard = asyncio.Event()
        #: Before the first table was applied.
        self._waited = False
        self._folder = folder = (
            None if dry else enter_state_dir(self._stack, Path(config.state_dir))
        )
        self.own = io_own.read() or io_own.OwnAddresses()
        if config.enable_networking and (why := self._why_cut_off()):
            raise LocalError(why)
        own = self._own_addresses()
        guard = Guard(own, self.own.networks, config.not_for_vips(), config.named_ranges())
        rules = VipRules(own_addresses=own, ipv6=config.ipv6)
        self.table = Table(rules, guard, linger_s=config.linger_s)
        self.addresses = NodeAddresses(
            config.vip_range(4), config.vip_range(6) if config.ipv6 else None,
            folder and folder / "addresses.json",
        )  # fmt: skip
        self.source = ClusterSource(
            find_masters(config.zk or config.masters),
            self._on_changes,
            access=(access := _access(config)),
            wanted=config.source,
            keep=folder and folder / "cluster.msgpack",
            period_s=config.poll_interval / 1000,
        )
        self._shown: Mapping[str, tuple[str, str]] = {}
        self._zone = config.zone
        self._own = own
        self._settings = kernel_settings(config, self.own)
        self._metrics = L4lbMetrics()
        self.applier = Applier(
            Balancer(Slots(_slots(config))),
            self._settings,
            steer_settings(config, sorted(own), self._zone),
            self._on_applied,
            self._metrics.kernel.observe,
            prepare=self._choose,
            coalesce_s=config.coalesce_ms / 1000,
            resync_s=config.reconcile_timeout / 1000,
            rng=self._rng,
            memory=Path(config.run_dir) / io_kernel.MEMORY.name,
        )
        balancer = self.applier.balancer
        self.state = State(self.applier, self.table, self.source, lambda: self.config)
        self.state.own = own
        self.watchers = Watchers(lambda: balancer.services, balancer.stats)
        mount = Path(config.vips_socket) if config.vips_socket else None
        self.names = (
            Names(Path(config.proxy_socket), mount, folder and folder / "generation", self._rng)
            if config.proxy_socket
            else None
        )
        self.agent = (
            LocalAgent(
                self._agent_url(), self._age_s, self._on_agent, self._rng,
                access=access,
                stale_s=config.stale_s,
                period_s=config.agent_poll_interval / 1000,
                max_period_s=config.agent_poll_max_interval / 1000,
            )
            if config.agent_polling_enabled and config.agent_port
            else None
        )  # fmt: skip
        self.state.names, self.state.agent = self.names, self.agent
        self.control = Control(
            folder and folder / "drains.json", self._on_drains, self._uninstall,
            lambda target: matching(target, balancer.services.values()),
        )  # fmt: skip
        self._note(self.table.drain(self.control.drains.drained, time.monotonic()))
        self.state.drained = self.control.drains.drained

    # -- facts, as they come -------------------------------------------------------------------

    def _on_changes(self, changes: Changes) -> None:
        if self.source.in_step:
            self._heard.set()
        if not self.config.zone and any(key.startswith(AGENT) for key in changes.rows):
            self._find_zone()
        self._note(self.table.apply(changes, time.monotonic()))

    def _on_agent(self, agent_id: str, rows: Sequence[Row] | None) -> None:
        self._note(self.table.override(agent_id, rows, time.monotonic()))

    async def _on_drains(self, drains: Drains) -> None:
        self.state.drained = drains.drained
        self._note(self.table.drain(drains.drained, time.monotonic()))

    def _note(self, change: TableChange) -> None:
        self.applier.balancer.note(change, time.monotonic())
        self.applier.wake(known=self.source.kind != "none")

    def _find_zone(self) -> None:
        """Be in the zone of our agent."""
        agents = self.source.view.snapshot.agents.values()
        zone = next((one.zone for one in agents if one.ip in self._own and one.zone), "")
        if zone != self._zone:
            self._zone = zone
            self._configure()

    def _own_addresses(self) -> frozenset[str]:
        known = canonical(self.config.private_ip)
        return frozenset({*self.own.addresses, *([known] if known else [])})

    def _why_cut_off(self) -> str:
        """Why named VIPs would take this host's own network from it; empty where they do not."""
        networks = [(text, "of this host") for text in self.own.everything]
        for version in (4, 6) if self.config.ipv6 else (4,):
            (low, first), (high, last) = self.config.named_range(version)
            if why := why_not_range(first, last, networks):
                return f"{low}, {high}: {why}"
        return ""

    async def _follow_own(self, stop: asyncio.Event) -> None:
        """Know which addresses this host has: links come and go, and some only after us."""
        while not await _within(stop, OWN_S):
            found = await asyncio.to_thread(io_own.read)
            if found is None or found == self.own:
                continue
            log.info(
                "addresses of this host changed addresses=%s", ",".join(found.everything)[:400]
            )
            self.own = found
            if self.config.enable_networking and (why := self._why_cut_off()):
                log.error("named VIPs cover our own network, restarts will fail reason=%s", why)
            self._own = self.state.own = self._own_addresses()
            self._note(self.table.set_own(self._own, found.networks, time.monotonic()))
            if not self.config.zone:
                self._find_zone()
            self._configure()

    def _configure(self) -> None:
        if self.applier.steering is not None:
            self.applier.steering.configure(
                steer_settings(self.config, sorted(self._own), self._zone)
            )

    async def _choose(self) -> None:
        """Give names addresses where no master does.  Raises NotKept."""
        await self._moment()
        now = time.monotonic()
        if self.source.kind == "feed":
            self._show({}, now)
            return
        if self.source.kind in ("stream", "poll") and (names := self.table.unnamed()):
            await asyncio.to_thread(self.addresses.give, names, now)
            self.state.refused_names = self.addresses.refused
        self._show(self.addresses.given, now)

    def _show(self, given: Mapping[str, tuple[str, str]], now: float) -> None:
        """These are the addresses that this host gave."""
        if given != self._shown:
            self._shown = given
            self._note(self.table.choose(given, now))

    def _on_applied(self, work: Work, took_s: float) -> None:
        if work.changed or work.gone:
            self._metrics.applied.observe(took_s)
            self._metrics.vips.observe(took_s)
            self.state.tell_changed()
            self.watchers.table_changed(self.state.index, work.changed, work.gone)
        if self.names is not None and (work.names or not self.names.known):
            # also without a change, for the proxy may have names of before our start
            self.names.set(self.table.names())

    def _age_s(self) -> float:
        """Of the view, also of one that was kept; where there is none, masters have some time after
        the start before the agent is asked."""
        age_s = self.source.age_s()
        return age_s if self.source.kind != "none" else min(age_s, self.state.uptime_s())

    async def _moment(self) -> None:
        """Give who knows better a moment to speak before what was kept is applied: it may lack the
        last half second, and tasks of this host may have ended since.  That is a master, and where
        the masters are silent for long already, the agent.  The kernel goes on meanwhile."""
        if self._waited:
            return
        self._waited = True
        events = [self._heard]
        if self.agent is not None and self._age_s() > self.config.stale_s:
            events.append(self.agent.tried)
        waiting = [asyncio.create_task(one.wait(), name="moment") for one in events]
        await asyncio.wait(waiting, timeout=FIRST_S, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()

    # -- what runs -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Set up the kernel, and know what is on disk."""
        await self.applier.start()
        for text in io_host.complaints(self._settings) if self._settings is not None else ():
            log.warning("%s", text)
        await asyncio.to_thread(self.addresses.load)
        self.source.restore()

    def services(self) -> list[Service]:
        """In the order of their start."""
        config = self.config
        found: list[Service] = [self.source.run, self.applier.run, self._pass_time, self._look]
        found.append(self._follow_own)
        if self.agent is not None:
            found.append(self.agent.run)
        if self.names is not None:
            found.append(self.names.run)
        api, router = self._api()
        if config.api_listen_port:
            server = HttpServer(router)
            self._metrics.metrics.watch_http(server.stats)
            found.append(self.watchers.run)
            found.append(server.service((config.api_listen_ip, config.api_listen_port)))
        if config.vips_socket:
            mounted: Router[Handler] = Router()
            api.add_mounted_routes(mounted)
            found.append(_service(HttpServer(mounted), config.vips_socket))
        if config.control_socket:
            found.append(_service(self.control.server(), config.control_socket))
        return found

    async def _pass_time(self, stop: asyncio.Event) -> None:
        """Time passes for tables, slots, counts, and addresses that nobody wants any more."""
        released, notices = time.monotonic(), Notices()
        while not await _within(stop, EXPIRE_S):
            now, balancer = time.monotonic(), self.applier.balancer
            balancer.expire(now)
            problems = [
                (one.get("task") or one["vip"], one["reason"]) for one in self.state.problems()[1]
            ]
            for line in notices.look(problems, balancer.stats.closed, now):
                log.warning("%s", line)
            self.state.minute.look(balancer.stats.counters(), now)
            self._note(self.table.expire(now))
            if now - released >= RELEASE_EVERY_S and self.source.kind in ("stream", "poll"):
                released = now
                with suppress(NotKept):
                    await asyncio.to_thread(self.addresses.release, list(self.table.names()), now)

    async def _look(self, stop: asyncio.Event) -> None:
        """Look at the host for what goes wrong around us."""
        queues = self.config.queue
        while not await _within(stop, LOOK_S):
            reading = await asyncio.to_thread(io_host.read, queues)
            counters = {**self.applier.balancer.stats.counters(), **reading.counters}
            told = self.state.alarms.look(counters, reading.used, reading.most, time.monotonic())
            for alarm in told:
                log.warning("%s alarm=%s", alarm.text, alarm.name)

    async def _uninstall(self) -> list[str]:
        removed = await self.applier.uninstall()
        if self.names is not None:
            self.names.rest()
            try:
                await io_names.forget(Path(self.config.proxy_socket))
                removed.append("names of the DNS proxy")
            except CairnError as error:
                removed.append(f"nothing more: names of the DNS proxy: {cause(error)}")
        return removed

    async def reload(self, config: L4lbConfig) -> None:
        """Take what can change while we run."""
        fixed = [
            name
            for name in L4lbConfig.__struct_fields__
            if name not in LIVE and getattr(config, name) != getattr(self.config, name)
        ]
        if fixed:
            log.warning(
                "changed setting needs a restart, the old one holds settings=%s", ",".join(fixed)
            )
        self.config = msgspec.structs.replace(
            self.config, **{name: getattr(config, name) for name in LIVE}
        )
        self._zone = self.config.zone
        if not self._zone:
            self._find_zone()
        self._configure()

    # -- parts ---------------------------------------------------------------------------------

    def _api(self) -> tuple[HttpApi, Router[Handler]]:
        self._metrics.watch(self.state)
        source = self.source
        self._metrics.metrics.watch_source(lambda: source.kind, source.age_s)
        router: Router[Handler] = Router()
        api = HttpApi(self.state, self.watchers, self._metrics, socket.gethostname())
        api.add_routes(router, self.state.not_ready, self.state.tables)
        return api, router

    def _agent_url(self) -> str:
        host = self.config.private_ip or self.own.first(4) or "127.0.0.1"
        scheme = "https" if self.config.https else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.config.agent_port}"

    async def plan(self) -> list[str]:
        """What a start would change in the kernel, as commands; changes nothing.

        Raises Unavailable when neither a master answers nor anything was kept.
        """
        await asyncio.to_thread(self.addresses.load)
        stop = asyncio.Event()
        following = asyncio.create_task(self.source.run(stop), name="follow")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(DRY_RUN_S):
                    await self._heard.wait()
        finally:
            stop.set()
            await following
        if not self.source.in_step:
            kept = ClusterSource(
                [], self._on_changes, keep=Path(self.config.state_dir) / "cluster.msgpack"
            )
            if not kept.restore():
                raise Unavailable("no master answers, and no state of the cluster was kept")
        self._show(self.addresses.given, time.monotonic())
        return await self.applier.preview()


async def build(config: L4lbConfig) -> Daemon[L4lbConfig]:
    """The parts of the daemon, when the kernel is set up and shows what was kept."""
    made = L4lb(config)
    await made.start()
    return Daemon(made.services(), on_reload=made.reload)


def kernel_settings(config: L4lbConfig, own: io_own.OwnAddresses) -> KernelSettings | None:
    """What the kernel's part has to know; None where nothing of it is touched."""
    if not config.enable_networking:
        return None
    (_, first), (_, last) = config.named_range(4)
    (_, first6), (_, last6) = config.named_range(6)
    private = config.private_ip
    return KernelSettings(
        queues=config.queue,
        mark_mask=config.mark_mask,
        queue_bypass=not config.strict,
        reject="icmp-port-unreachable" if config.strict else "tcp-reset",
        ipv6=config.ipv6,
        retry_refused=config.retry_refused,
        refuse_unknown=config.refuse_unknown,
        named=(first, last),
        named6=(first6, last6) if config.ipv6 else None,
        source=private if private and ":" not in private else own.first(4),
        source6=private if ":" in private else own.first(6),
    )


def _slots(config: L4lbConfig) -> int:
    """The largest number that the bits of the mark hold."""
    return (1 << config.mark_mask.bit_count()) - 1


def _access(config: L4lbConfig) -> MasterAccess:
    return master_access(
        https=config.https,
        ca_file=config.ca_file,
        cert_file=config.cert_file,
        key_file=config.key_file,
        authentication=config.authentication,
        principal=config.principal,
        secret=config.secret,
        iam_file=config.iam_config_file,
    )


def _service(server: HttpServer, path: str) -> Service:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return server.service(Path(path))


async def _within(stop: asyncio.Event, seconds: float) -> bool:
    """Whether `stop` is set within so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()
