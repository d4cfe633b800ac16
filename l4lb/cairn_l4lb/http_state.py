"""What the HTTP API, the metrics and the status page show, drawn from the parts of the daemon."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from cairn_core.clusterview.io_source import ClusterSource
from cairn_core.clusterview.view import Snapshot

from .alarms import Alarms
from .config import L4lbConfig
from .exometer import LastMinute
from .io_apply import Applier
from .io_local_agent import LocalAgent
from .io_names import Names
from .model import Service, Vip
from .shapes import decided_by, full_name
from .stats import Stats
from .table import Table
from .vips import RUNNING

#: Problems that /debug/state lists.
MAX_SHOWN = 200


class State:
    """Implements `http_api.Known` and `metrics.Shown`, and says whether we are ready."""

    def __init__(
        self,
        applier: Applier,
        table: Table,
        source: ClusterSource,
        config: Callable[[], L4lbConfig],
    ) -> None:
        self._applier, self._table, self._source, self._config = applier, table, source, config
        self._balancer = applier.balancer
        self._started = time.monotonic()
        self._changed = asyncio.Event()
        self.alarms = Alarms()
        self.minute = LastMinute()
        self.own: frozenset[str] = frozenset()
        self.names: Names | None = None
        self.agent: LocalAgent | None = None
        self.drained: tuple[str, ...] = ()
        #: Names that got no address on this host, with the reason.
        self.refused_names: Mapping[str, str] = {}

    # -- http_api.Known ------------------------------------------------------------------------

    @property
    def services(self) -> Mapping[Vip, Service]:
        return self._balancer.services

    @property
    def stats(self) -> Stats:
        return self._balancer.stats

    @property
    def index(self) -> int:
        return self._balancer.index

    @property
    def snapshot(self) -> Snapshot:
        return self._source.view.snapshot

    def now(self) -> float:
        return time.monotonic()

    def uptime_s(self) -> float:
        return time.monotonic() - self._started

    def served(self) -> dict[str, Any]:
        config = self._config()
        return {
            "policy": config.policy,
            "cost": config.cost,
            "mode": config.mode,
            "locality": config.locality,
            "sticky_s": config.sticky_s,
            "slow_start_s": config.slow_start_s,
            "hedge_ms": config.hedge_ms,
        }

    def source(self) -> dict[str, Any]:
        age, masters = self._source.age_s(), self._source.masters
        return {
            "kind": self._source.kind,
            "master": masters.leader or next(iter(masters.current), None),
            "masters": list(masters.current),
            "age_s": None if age == float("inf") else round(age, 3),
        }

    def problems(self) -> tuple[int, list[dict[str, str]]]:
        listed = [
            {key: value for key, value in one._asdict().items() if value}
            for one in self._table.problems(MAX_SHOWN)
        ]
        refused = [
            {"vip": name, "reason": reason}
            for name, reason in list(self.refused_names.items())[:MAX_SHOWN]
        ]
        return self._table.problem_count + len(self.refused_names), listed + refused

    async def explain(self, service: Service, client: str, port: int) -> dict[str, Any]:
        backend, reasons, recent = await self._applier.explain(service.vip, client, port)
        return {
            "vip": service.vip.text,
            "protocol": service.vip.protocol,
            "name": full_name(service) if service.name else None,
            "decided_by": decided_by(service.vip, self.stats),
            "backend": backend,
            "reasons": reasons,
            "left_out": left_out(service),
            "recent": recent,
        }

    async def changed(self, index: int) -> None:
        while self.index == index:
            await self._changed.wait()

    def tell_changed(self) -> None:
        """Wake who waits for another table."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- metrics.Shown -------------------------------------------------------------------------

    def unreachable_nodes(self) -> int:
        agents = self.snapshot.agents.values()
        return sum(not one.active or one.recovering for one in agents)

    def local_tasks(self) -> tuple[int, int]:
        agents = self.snapshot.agents.values()
        here = {one.id for one in agents if one.ip in self.own}
        states = [one.state for one in self.snapshot.tasks.values() if one.agent_id in here]
        return len(states), states.count(RUNNING)

    def reconciled(self) -> Mapping[str, int]:
        return self._applier.reconciled

    def own_addresses(self) -> frozenset[str]:
        return self.own

    def gauges(self) -> Mapping[str, tuple[float, str]]:
        steering, names = self._applier.steering, self.names
        found = {
            "steering_up_count": (
                float(steering is not None and steering.ready),
                "1 while the steering process reads the queues",
            ),
            "alarms_count": (len(self.alarms.on), "what goes wrong around us"),
            "without_slot_count": (
                sum(self._balancer.left_out().values()),
                "backends for which there is no mark left",
            ),
            "overridden_agents_count": (
                len(self._table.overridden),
                "agents that speak for themselves, for no master does",
            ),
        }
        if names is not None:
            found["names_in_step_count"] = (
                float(names.in_step),
                "1 when the DNS proxy has the newest names",
            )
            found["names_records_count"] = (names.count, "records of the zone of names")
        return found

    def counts(self) -> Mapping[str, tuple[float, str]]:
        steering, names = self._applier.steering, self.names
        return {
            "steering_deaths_total": (
                steering.deaths if steering is not None else 0,
                "steering processes that ended unasked",
            ),
            "kernel_repairs_total": (
                self._applier.repaired,
                "changes of others to the kernel that were put right",
            ),
            "names_pushes_total": (
                names.pushes if names is not None else 0,
                "zones that the DNS proxy took",
            ),
        }

    # -- /ready and /debug/state ---------------------------------------------------------------

    def not_ready(self) -> str | None:
        """Why VIPs are not served as they should be."""
        applier = self._applier
        if applier.uninstalled:
            return "uninstalled by an operator, until a restart"
        if applier.problem is not None:
            return f"kernel not changed: {applier.problem}"
        if not applier.begun:
            return "no state of the cluster is known yet"
        if applier.steering is not None and not applier.steering.ready:
            return "the steering process does not run: the kernel chooses"
        return None

    def tables(self) -> dict[str, Any]:
        """What is inside, and what is not as somebody wants it."""
        applier, snapshot, steering = self._applier, self.snapshot, self._applier.steering
        return {
            "source": self.source(),
            "rows": {
                "tasks": len(snapshot.tasks),
                "agents": len(snapshot.agents),
                "frameworks": len(snapshot.frameworks),
                "masters": len(snapshot.masters),
                "skipped": dict(self._source.skipped),
            },
            "index": self.index,
            "vips": len(self.services),
            "problems": self.problems()[1],
            "refused_names": dict(list(self.refused_names.items())[:MAX_SHOWN]),
            "without_slot": {str(vip): count for vip, count in self._balancer.left_out().items()},
            "closed": sorted(f"{p}/{a}:{n}" for p, a, n in self.stats.closed)[:MAX_SHOWN],
            "decided_by_kernel": sorted(str(vip) for vip in self.stats.promoted)[:MAX_SHOWN],
            "drained": self.drained,
            "overrides": self._table.overridden,
            "agent_problem": (self.agent.problem or None) if self.agent is not None else None,
            "alarms": [
                {"name": one.name, "text": one.text, "for_s": round(self.now() - one.since, 1)}
                for one in self.alarms.on.values()
            ],
            "steering": None
            if steering is None
            else {"pid": steering.pid, "ready": steering.ready, "deaths": steering.deaths},
            "kernel": {
                "problem": applier.problem,
                "problems": applier.kernel_problems,
                "repaired": applier.repaired,
                "last_repairs": applier.repairs,
                "uninstalled": applier.uninstalled,
            },
            "names": None
            if self.names is None
            else {
                "in_step": self.names.in_step,
                "problem": self.names.problem,
                "generation": self.names.generation,
                "records": self.names.count,
                "left_out": self.names.left_out,
            },
        }


def left_out(service: Service) -> list[str]:
    """Backends that take no new connections on purpose, one line for each reason."""
    found: dict[str, list[str]] = {}
    for one in service.backends:
        if one.why:
            found.setdefault(one.why, []).append(one.text)
    return [
        f"{why}: {', '.join(places[:5])}"
        + (f" and {len(places) - 5} more" if len(places) > 5 else "")
        for why, places in sorted(found.items())
    ]
