"""The agent's shell; start reading here.

`Agent.feed` gives a fact to the rules (`state`) and puts the effects they answer with into one
queue. `_act` takes everything queued, brings all its writes to disk in one go, and then carries out
the effects in their order. Whatever takes time - launching, waiting, destroying - runs in tasks
of one group and ends as the next fact.

Life: own the work directory, read what an earlier agent left, take over its containers, then
answer executors and look for the master. SIGTERM ends the agent and no container.
"""

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as package_version
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, assert_never

from msgspec.structs import replace

from cairn_core.agent import (
    checkpoint,
    io_checkpoint,
    io_containers,
    io_machine,
    io_recovery,
)
from cairn_core.agent.config import (
    AgentConfig,
    Machine,
    read_agent_attributes,
    read_credential,
    read_domain,
    read_environment,
    read_masters,
    read_resources,
    work_path,
)
from cairn_core.agent.effects import (
    CloseExecutor,
    ContainerMissing,
    ContainerRecovered,
    DestroyContainer,
    Discard,
    Disconnect,
    Effect,
    Fact,
    LaunchContainer,
    Persist,
    PersistFailed,
    Rebooted,
    Settings,
    Stop,
    Tick,
    ToExecutor,
    ToMaster,
    UpdateContainer,
)
from cairn_core.agent.garbage import Garbage
from cairn_core.agent.http_executor import ExecutorFront
from cairn_core.agent.http_legacy import Legacy, Usage
from cairn_core.agent.http_operator import Operator
from cairn_core.agent.io_containers import Containers
from cairn_core.agent.io_disk import DiskUse
from cairn_core.agent.io_garbage import Collector
from cairn_core.agent.io_master import MasterLink
from cairn_core.agent.io_recovery import AgentStopped
from cairn_core.agent.io_running import Runner
from cairn_core.agent.records import ExecutorRecord
from cairn_core.agent.sandbox_paths import SandboxPaths
from cairn_core.agent.state import AgentState
from cairn_core.errors import LocalError, cause, shorten
from cairn_core.kit.daemon import Daemon, inherited_sockets, work_dir_lock
from cairn_core.kit.http_server import Handler, HttpServer, Listener, Router
from cairn_core.mesos import agent_api
from cairn_core.mesos.types import (
    AgentID,
    AgentInfo,
)

log = logging.getLogger(__name__)

#: Path length that fits a Unix socket's address.
MAX_SOCKET_PATH = 107
CAPABILITIES = ("MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT")


class Agent:
    """One agent process. containers: entered already, or a fake."""

    def __init__(
        self,
        config: AgentConfig,
        containers: Containers,
        *,
        traces: Callable[[], set[str]],
        ip: str,
        listeners: tuple[Listener, ...] = (),
        machine: Machine | None = None,
        rng: Random | None = None,
        boot_id: str | None = None,
    ) -> None:
        """traces: ids of containers that left something. ip: where others reach us.

        machine, rng, boot_id: of this machine unless a test gives others.
        """
        self.config = config
        self.containers = containers
        self.ip = ip
        self.work_dir = Path(work_path(config))
        self.started_wall = time.time()
        self.boot_id = boot_id or io_checkpoint.boot_id()
        self.version = package_version("cairn")
        self._traces = traces
        self._rng = rng or SystemRandom()
        self._session = uuid.uuid4().hex
        self._listeners = listeners
        #: What `/files` shows, by its virtual path.
        self.paths = SandboxPaths(self.work_dir)
        self._masters = read_masters(config)
        self._principal, self._secret = read_credential(config)
        self.work_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._socket_path = self._find_socket_path()
        self.machine = machine or io_machine.machine(self.work_dir)
        self.info = AgentInfo(
            hostname=config.hostname or io_machine.hostname(),
            port=config.port,
            resources=read_resources(config, self.machine),
            attributes=read_agent_attributes(config),
            domain=read_domain(config),
        )
        self.state = AgentState(self._settings(config.port), self._rng)
        self.store = io_checkpoint.Store(self.work_dir)
        self.front: ExecutorFront = ExecutorFront(
            self.state,
            self.feed,
            containers.limitation,
            containers.decorated,
            require_token=config.authenticate_http_executors,
        )
        self.link: MasterLink | None = None
        #: TCP port once listening.
        self.port = config.port
        self.recovery_errors = 0
        self.recovery_time_s = 0.0
        self._disk = DiskUse()
        # A thread of its own: launches may have all others wait for the kernel.
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.runner = Runner(containers, feed=self.feed, defer=self._defer, disk=self._disk, ip=ip)
        self.collector = Collector(
            self.work_dir,
            Garbage(config.gc_delay, config.gc_disk_headroom),
            interval_s=config.disk_watch_interval,
            disk=self._disk,
            in_use=self._in_use,
        )
        # Not bounded: one entry per fact, and facts come from a master and from executors that
        # wait for our answers, so it stays short unless the disk stands still.
        self._queue: list[Effect | Callable[[], None]] = []
        self._work = asyncio.Event()
        self._timer = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def _settings(self, port: int) -> Settings:
        config = self.config
        endpoint = f"[{self.ip}]:{port}" if ":" in self.ip else f"{self.ip}:{port}"
        return Settings(
            info=self.info,
            work_dir=str(self.work_dir),
            endpoint=endpoint,
            pid=f"slave(1)@{endpoint}",
            domain_socket=str(self._socket_path) if self._socket_path else "",
            switch_user=config.switch_user and os.geteuid() == 0,
            executor_registration_timeout_s=config.executor_registration_timeout,
            executor_reregistration_timeout_s=config.executor_reregistration_timeout,
            executor_shutdown_grace_s=config.executor_shutdown_grace_period,
            recovery_timeout_s=config.recovery_timeout,
            executor_environment=read_environment(config),
        )

    def _find_socket_path(self) -> Path | None:
        if not self.config.http_executor_domain_sockets:
            return None
        location = self.config.domain_socket_location
        path = Path(location) if location else Path(self.config.runtime_dir) / "agent.sock"
        path = path.absolute()
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise LocalError(
                f"domain_socket_location: path is longer than {MAX_SOCKET_PATH} bytes: "
                f"{shorten(str(path))}"
            )
        return path

    @property
    def is_ready(self) -> str | None:
        """Why the agent cannot serve yet, or None."""
        if not self.front.ready:
            return "recovering"
        return None if self.state.master.registered else "not registered with a master"

    @property
    def launch_errors(self) -> int:
        """Containers that could not be started."""
        return self.runner.launch_errors

    # ---- facts and effects ------------------------------------------------------------------

    def feed(self, fact: Fact) -> None:
        """Give a fact to the rules; what they want done follows soon."""
        effects = self.state.handle(fact, now=time.monotonic(), wall=time.time())
        self._queue += effects
        self._work.set()
        self._timer.set()

    def _defer(self, action: Callable[[], None]) -> None:
        """Do something once all effects that were decided so far are carried out."""
        self._queue.append(action)
        self._work.set()

    async def _act(self) -> None:
        """Carry out effects for ever."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._queue = self._queue, []
            await self._carry_out(batch)

    async def _carry_out(self, batch: list[Effect | Callable[[], None]]) -> None:
        persists = [effect for effect in batch if isinstance(effect, Persist)]
        results: list[OSError | None] = []
        if persists:
            async with self._disk.making():
                results = await asyncio.get_running_loop().run_in_executor(
                    self._writing, self.store.apply, [p.writes for p in persists]
                )
        failures = iter(results)
        self._log_failures(persists, results)
        for effect in batch:
            if not isinstance(effect, Persist):
                self._do(effect)
                continue
            failure = next(failures)
            if failure is None:
                for then in effect.then:
                    self._do(then)
                continue
            problem = failure.strerror or str(failure)
            if effect.failed is not None:
                self.feed(PersistFailed(effect.failed, problem))

    @staticmethod
    def _log_failures(persists: list[Persist], results: list[OSError | None]) -> None:
        """One line per cause, for a full disk fails everything at once."""
        paths: dict[str, list[str]] = {}
        for persist, failure in zip(persists, results, strict=True):
            if failure is not None:
                paths.setdefault(cause(failure), []).append(persist.writes[0].path)
        for problem, failed in paths.items():
            log.error(
                "checkpoints not written count=%d reason=%s first=%s",
                len(failed), problem, failed[0],
            )  # fmt: skip

    def _do(self, effect: Effect | Callable[[], None]) -> None:
        match effect:
            case LaunchContainer():
                self._show(self.state.containers[effect.container_id])
                self._spawn(self.runner.launch(effect))
            case UpdateContainer():
                self._spawn(self.runner.update(effect))
            case DestroyContainer():
                self._spawn(self.runner.destroy(effect.container_id))
            case ToExecutor():
                self.front.send(
                    effect.framework_id, effect.executor_id, effect.stream, effect.event
                )
            case CloseExecutor():
                self.front.close(effect.framework_id, effect.executor_id)
            case ToMaster():
                if self.link is not None:
                    self.link.send(effect.message)
            case Discard():
                self.paths.detach(str(self.work_dir / effect.sandbox))
                self.collector.add(effect.sandbox, wall=time.time())
                if effect.meta:
                    self.collector.add(f"{checkpoint.META}/{effect.meta}", wall=time.time())
            case Disconnect():
                if self.link is not None:
                    self.link.disconnect(effect.reason)
            case Stop():
                if not self._ended.done():
                    self._ended.set_result(effect.message)
            case Persist():
                raise AssertionError("a Persist inside of a Persist")
            case _ if callable(effect):
                effect()
            case _:
                assert_never(effect)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None
        self._group.create_task(work)

    # ---- recovery ---------------------------------------------------------------------------

    async def _recover(self) -> None:
        began = time.monotonic()
        found = await io_recovery.recover(
            self.state,
            self.store,
            self.containers,
            self.config,
            info=self.info,
            boot_id=self.boot_id,
            traces=self._traces(),
        )
        self.recovery_errors = found.errors
        for executor in self.state.containers.values():
            self._show(executor)
        self.paths.agent_id = self.state.agent_id
        if found.rebooted:
            self.feed(Rebooted())
        else:
            await self._adopt(found.known)
        await self.collector.scan()
        self.recovery_time_s = time.monotonic() - began
        log.info(
            "recovered agent=%s executors=%d orphans=%d rebooted=%s seconds=%.3f",
            self.state.agent_id, len(self.state.containers), found.orphans, found.rebooted,
            self.recovery_time_s,
        )  # fmt: skip

    async def _adopt(self, known: frozenset[str]) -> None:
        for container_id in list(self.state.containers):
            if container_id not in known:
                self.feed(ContainerMissing(container_id))
                continue
            status = await self.runner.status(container_id)
            self.feed(ContainerRecovered(container_id, status))
            self._spawn(self.runner.watch(container_id))

    async def _late(self) -> None:
        """Say which executors have not come back soon after a restart. They are waited for."""
        await asyncio.sleep(self.config.executor_reregistration_timeout)
        for executor in self.state.containers.values():
            if executor.recovered:
                log.warning(
                    "executor not back yet, waiting up to %gs framework=%s executor=%s",
                    self.config.recovery_timeout, executor.framework_id, executor.id,
                )  # fmt: skip

    def _show(self, executor: ExecutorRecord) -> None:
        """Put a sandbox into the table of `/files/debug`."""
        self.paths.agent_id = self.state.agent_id
        real = self.work_dir / executor.sandbox
        self.paths.attach(str(real), real)

    def _in_use(self) -> set[str]:
        """Runs that must stay: path below the work directory."""
        return {e.sandbox for e in self.state.containers.values()}

    # ---- life -------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """The service: returns when `stop` is set; raises AgentStopped when the agent ends."""
        with work_dir_lock(self.work_dir):
            server, local = self._servers()
            await self._listen(server, local)
            try:
                await self._live(stop)
            finally:
                self.front.ready = False
                await server.drain(1.0)
                if local is not None:
                    await local.drain(0.0)
                await asyncio.to_thread(self._writing.shutdown)

    def _servers(self) -> tuple[HttpServer, HttpServer | None]:
        router: Router[Handler] = Router(twins=("/slave(1)",))
        self.front.mount(router)
        server = HttpServer(router)
        usage = Usage(self)
        legacy = Legacy(self, usage, lambda: server.stats)
        legacy.mount(router)
        legacy.metrics.watch_http(server.stats)
        Operator(self, legacy, usage).mount(router)
        if self._socket_path is None:
            return server, None
        # tasks of any user can connect to it, so nothing but the executor API is there
        narrow: Router[Handler] = Router(twins=("/slave(1)",))
        self.front.mount(narrow)
        return server, HttpServer(narrow)

    async def _listen(self, server: HttpServer, local: HttpServer | None) -> None:
        listeners = self._listeners or ((self.config.ip or "0.0.0.0", self.config.port),)
        await server.start(*listeners)
        self.port = server.port
        if self.port != self.config.port:
            # port 0 or an inherited socket: what others are told must be what is
            self.info = replace(self.info, port=self.port)
            self.state.settings = self._settings(self.port)
        if local is not None and self._socket_path is not None:
            self._socket_path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            await local.start(self._socket_path)
            self._socket_path.chmod(0o666)
        log.info("agent listening addresses=%s", ",".join(server.addresses))

    async def _live(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._recover()
                self.link = MasterLink(
                    self._masters,
                    hello=self._hello,
                    feed=self.feed,
                    session=self._session,
                    rng=self._rng,
                    min_backoff_s=self.config.registration_backoff_factor,
                )
                self.front.ready = True
                for service in (self.link.run, self.front.heartbeats, self.collector.run):
                    group.create_task(service(stop))
                for endless in (self._act(), self._tick(), self._late()):
                    group.create_task(endless)
                stopping = asyncio.ensure_future(stop.wait())
                ends: set[asyncio.Future[Any]] = {stopping, self._ended}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if self._ended.done():
                    raise AgentStopped(self._ended.result())
                raise _Done
        except* _Done:
            pass

    def _hello(self) -> agent_api.Hello:
        agent_id = self.state.agent_id
        return agent_api.Hello(
            protocol_min=agent_api.PROTOCOL,
            protocol_max=agent_api.PROTOCOL,
            agent_id=AgentID(agent_id) if agent_id is not None else None,
            boot_id=self.boot_id,
            session=self._session,
            epoch=self.state.epoch,
            pid=self.state.settings.pid,
            info=self.info,
            version=self.version,
            capabilities=CAPABILITIES,
            principal=self._principal,
            secret=self._secret,
        )

    async def _tick(self) -> None:
        """Wake the rules when one of their deadlines is reached."""
        while True:
            self._timer.clear()
            deadline = self.state.next_deadline()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self.feed(Tick())
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._timer.wait()


class _Done(Exception):
    """Ends the group of `_live` in the ordinary way."""


async def build(config: AgentConfig) -> Daemon[AgentConfig]:
    """The agent of these settings, for `kit.daemon.main`."""
    host, port = read_masters(config)[0]
    ip = config.advertise_ip or config.ip
    if ip in ("", "0.0.0.0", "::"):
        ip = io_machine.address_towards(host, port)
    sockets = inherited_sockets()
    listeners = tuple(sock for group in sockets.values() for sock in group)

    async def agent(stop: asyncio.Event) -> None:
        async with io_containers.make(config) as containers:
            await Agent(
                config,
                containers,
                traces=lambda: io_containers.traces(config),
                ip=ip,
                listeners=listeners,
            ).run(stop)

    return Daemon([agent])
