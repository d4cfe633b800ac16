"""The agent's HTTP beside the executor API: legacy JSON, files, metrics, and what every daemon has.

Source: mesos docs/endpoints/slave. All routes also answer under `/slave(1)`. Figures of containers
are at most half a second old, so that pollers cost at most two rounds a second.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from cairn_core.agent import io_machine, legacy_json, metrics_snapshot
from cairn_core.agent.config import AgentConfig, flags_of
from cairn_core.agent.io_containers import Containers
from cairn_core.agent.io_garbage import Collector
from cairn_core.agent.records import ExecutorRecord
from cairn_core.agent.sandbox_paths import SandboxPaths
from cairn_core.agent.state import AgentState
from cairn_core.errors import CairnError
from cairn_core.kit.http_files import add_file_routes
from cairn_core.kit.http_server import Answer, Handler, Request, Response, Router, Stats
from cairn_core.kit.http_standard import add_standard_routes
from cairn_core.kit.metrics import Metrics
from cairn_core.kit.routes import Options
from cairn_core.mesos.types import AgentInfo, ResourceStatistics

STATISTICS_S = 0.5
#: Containers asked for their usage at once; each reads a dozen small files.
PARALLEL = 16

_READ = Options(exact=True, jsonp=True)


class AgentContext(Protocol):
    """What the fronts see of the agent."""

    config: AgentConfig
    state: AgentState
    containers: Containers
    collector: Collector
    info: AgentInfo
    version: str
    started_wall: float
    work_dir: Path
    recovery_errors: int
    recovery_time_s: float
    paths: SandboxPaths

    @property
    def launch_errors(self) -> int:
        """Containers that could not be started."""
        ...

    @property
    def is_ready(self) -> str | None:
        """Why the agent cannot serve yet, or None."""
        ...


class Usage:
    """Figures of all containers, asked for at most twice a second."""

    def __init__(self, agent: AgentContext) -> None:
        self._agent = agent
        self._lock = asyncio.Lock()
        self._until = 0.0
        self._found: list[tuple[ExecutorRecord, ResourceStatistics]] = []

    async def all(self) -> list[tuple[ExecutorRecord, ResourceStatistics]]:
        """Executors whose containers could be measured, with the figures."""
        async with self._lock:
            if time.monotonic() >= self._until:
                limit = asyncio.Semaphore(PARALLEL)
                executors = list(self._agent.state.containers.values())
                found = await asyncio.gather(*(self._one(e, limit) for e in executors))
                self._found = [
                    (e, usage) for e, usage in zip(executors, found, strict=True) if usage
                ]
                self._until = time.monotonic() + STATISTICS_S
        return self._found

    async def _one(
        self, executor: ExecutorRecord, limit: asyncio.Semaphore
    ) -> ResourceStatistics | None:
        async with limit:
            try:
                return await self._agent.containers.usage(executor.container_id)
            except (CairnError, OSError):
                return None  # ended meanwhile, or not started yet


class Legacy:
    """Handlers of the legacy routes."""

    def __init__(self, agent: AgentContext, usage: Usage, http: Callable[[], Stats]) -> None:
        self.agent = agent
        self.usage = usage
        self.metrics = Metrics("agent", foreign=("mesos_",))
        self.metrics.registry.register(_Snapshot(self.snapshot))
        self._http = http

    def mount(self, router: Router[Handler]) -> None:
        """Add the routes."""
        routes: tuple[tuple[str, Handler], ...] = (
            ("/state", self.state),
            ("/containers", self.containers),
            ("/monitor/statistics", self.statistics),
            ("/flags", self.flags),
            ("/version", self.version),
            ("/metrics/snapshot", self.get_snapshot),
            ("/containerizer/debug", self.containerizer),
        )
        for path, handler in routes:
            router.add(path, handler, json_twin=True, options=_READ)
        add_file_routes(router, self.agent.paths)
        add_standard_routes(
            router,
            metrics=self.metrics,
            ready=lambda: self.agent.is_ready,
            state=self.debug,
        )

    # ---- state ------------------------------------------------------------------------------

    async def state(self, request: Request) -> Answer:
        """`/state`."""
        agent, state = self.agent, self.agent.state
        agent_id, work_dir = state.agent_id or "", state.settings.work_dir
        out: dict[str, Any] = {
            "version": agent.version,
            "start_time": agent.started_wall,
            "id": agent_id,
            "pid": state.settings.pid,
            "hostname": agent.info.hostname,
            "capabilities": ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT"],
            **legacy_json.resources(agent.info, state.containers.values()),
            "resource_providers": [],
            "flags": flags_of(agent.config),
            "frameworks": [
                legacy_json.framework(f, agent_id, work_dir) for f in state.frameworks.values()
            ],
            "completed_frameworks": [
                legacy_json.framework(f, agent_id, work_dir) for f in state.completed_frameworks
            ],
        }
        if agent.info.domain is not None:
            out["domain"] = agent.info.domain
        if state.master.info is not None and state.master.info.hostname is not None:
            out["master_hostname"] = state.master.info.hostname
        return Response.json(out)

    async def containers(self, request: Request) -> Answer:
        """`/containers`, of one container or executor when the query says so."""
        wanted = request.query.get("container_id")
        framework, executor = request.query.get("framework_id"), request.query.get("executor_id")
        return Response.json(
            [
                legacy_json.monitored(e)
                | {
                    "container_id": e.container_id,
                    "status": e.container_status or {},
                    "statistics": usage,
                }
                for e, usage in await self.usage.all()
                if (wanted is None or e.container_id == wanted)
                and (framework is None or e.framework_id == framework)
                and (executor is None or e.id == executor)
            ]
        )

    async def statistics(self, request: Request) -> Answer:
        """`/monitor/statistics`."""
        return Response.json(
            [legacy_json.monitored(e) | {"statistics": u} for e, u in await self.usage.all()]
        )

    async def flags(self, request: Request) -> Answer:
        """`/flags`."""
        return Response.json({"flags": flags_of(self.agent.config)})

    async def version(self, request: Request) -> Answer:
        """`/version`."""
        return Response.json({"version": self.agent.version})

    async def containerizer(self, request: Request) -> Answer:
        """`/containerizer/debug`: operations of the containerizer that hang. None is tracked."""
        return Response.json({"pending": []})

    # ---- numbers ----------------------------------------------------------------------------

    async def get_snapshot(self, request: Request) -> Answer:
        """`/metrics/snapshot`."""
        return Response.json(self.snapshot())

    def snapshot(self) -> dict[str, float]:
        """Every number, under the original's name."""
        agent = self.agent
        one, five, fifteen = io_machine.load()
        out = metrics_snapshot.snapshot(agent.state, agent.info)
        out |= {
            "slave/uptime_secs": time.time() - agent.started_wall,
            "slave/recovery_errors": float(agent.recovery_errors),
            "slave/recovery_time_secs": agent.recovery_time_s,
            "slave/container_launch_errors": float(agent.launch_errors),
            "slave/executor_directory_max_allowed_age_secs": agent.collector.max_age_s,
            "gc/path_removals_pending": float(len(agent.collector.garbage)),
            "gc/path_removals_succeeded": float(agent.collector.succeeded),
            "gc/path_removals_failed": float(agent.collector.failed),
            "containerizer/mesos/container_destroy_errors": 0.0,
            "system/cpus_total": float(io_machine.cpus()),
            "system/load_1min": one,
            "system/load_5min": five,
            "system/load_15min": fifteen,
            "system/mem_free_bytes": float(io_machine.memory_free()),
            "system/mem_total_bytes": float(io_machine.memory_total()),
        }
        return out

    def debug(self) -> dict[str, Any]:
        """`/debug/state`: the tables, without tokens."""
        state = self.agent.state
        return {
            "agent_id": state.agent_id,
            "epoch": state.epoch,
            "master": state.master.info,
            "registered": state.master.registered,
            "counters": dict(state.counters),
            "http": self._http(),
            "executors": [
                {
                    "framework_id": e.framework_id,
                    "executor_id": e.id,
                    "container_id": e.container_id,
                    "state": e.state.value,
                    "connected": e.connected,
                    "recovered": e.recovered,
                    "deadline_in_s": None if e.deadline is None else e.deadline - time.monotonic(),
                    "queued": list(e.queued),
                    "launched": {t.id: t.state for t in e.launched.values()},
                    "terminated": {t.id: t.state for t in e.terminated.values()},
                }
                for e in state.containers.values()
            ],
            "unacknowledged_updates": [
                {"framework_id": f, "task_id": t, "state": s.state, "reason": s.reason}
                for (f, t), s in state.streams.pending()
            ],
            "garbage": len(self.agent.collector.garbage),
        }


class _Snapshot(PrometheusCollector):
    """The same numbers for Prometheus, named after the original's: `mesos_slave_cpus_total`."""

    def __init__(self, snapshot: Callable[[], dict[str, float]]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """One gauge per number."""
        for name, value in self._snapshot().items():
            yield GaugeMetricFamily("mesos_" + name.replace("/", "_"), name, value)
