"""`cgroups/cpu`: shares, and a hard quota where it is switched on (cgroups-v1/cpu, cgroup-v2).

Values as the original's: 1024 shares per processor (at least 2), in version 2 a weight of 100 per
processor (1 to 10000); with `cgroups_enable_cfs` a quota per period of 100 ms (at least 1 ms).
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from cairn_core.agent.containerizer.cgroups import CgroupError, Cgroups, find_hierarchies
from cairn_core.agent.containerizer.launcher import group_of, shares_group
from cairn_core.errors import LocalError
from cairn_core.extensions import (
    UNLIMITED,
    AgentSettings,
    Amounts,
    ContainerConfig,
    ContainerState,
    Isolator,
    LaunchInfo,
)

SHARES_PER_CPU = 1024
MIN_SHARES = 2
WEIGHT_PER_CPU = 100
PERIOD_US = 100_000
MIN_QUOTA_US = 1_000


def shares(cpus_milli: int) -> int:
    """cpu.shares of version 1."""
    return max(SHARES_PER_CPU * cpus_milli // 1000, MIN_SHARES)


def weight(cpus_milli: int) -> int:
    """cpu.weight of version 2."""
    return min(max(WEIGHT_PER_CPU * cpus_milli // 1000, 1), 10_000)


def quota_us(cpus_milli: int) -> int:
    """Microseconds per period; UNLIMITED stays UNLIMITED."""
    if cpus_milli == UNLIMITED:
        return UNLIMITED
    return max(PERIOD_US * cpus_milli // 1000, MIN_QUOTA_US)


class CgroupsCpu(Isolator):
    """Keeps each container in a group of the cpu controller."""

    def __init__(self, settings: AgentSettings, cgroups: Cgroups | None = None) -> None:
        self._sharing: set[str] = set()  # nested containers in the groups of their parents
        self._cgroups = cgroups or Cgroups(find_hierarchies(), settings.cgroups_root)
        self._version = self._cgroups.version("cpu")
        if not self._version:
            raise LocalError("isolation: cgroups/cpu: no hierarchy has the cpu controller")
        self._cfs = settings.flags.get("cgroups_enable_cfs", "false") == "true"
        self._controllers = ["cpu"]
        if self._version == 1 and "cpuacct" in self._cgroups.hierarchies.v1:
            self._controllers.append("cpuacct")

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "cgroups/cpu"

    @property
    def supports_nesting(self) -> bool:
        """A nested container is in its parent's group, or has one of its own below it."""
        return True

    async def recover(self, known: Sequence[ContainerState], orphans: Sequence[str]) -> None:
        """Remember who shares; of the rest the groups say it all."""
        self._sharing |= {s.container_id for s in known if shares_group(s.container_id, s.config)}

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Make the groups and set the amounts."""
        if shares_group(container_id, config):
            self._sharing.add(container_id)
            return None
        for controller in self._controllers:
            self._cgroups.create(controller, self._group(container_id))
        await self.update(container_id, config.requests, config.limits)
        return None

    def _group(self, container_id: str) -> str:
        if container_id in self._sharing:
            container_id = container_id.rpartition(".")[0]
            return self._group(container_id)
        return group_of(container_id)

    async def isolate(self, container_id: str, pid: int) -> None:
        """Move the first process in."""
        for controller in self._controllers:
            self._cgroups.add(controller, self._group(container_id), pid)

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """Shares of the request; a quota of the limit, where one is given or CFS is on."""
        if container_id in self._sharing:
            return
        group = self._group(container_id)
        hard = UNLIMITED
        if limits is not None:
            hard = limits.cpus_milli
        elif self._cfs:
            hard = requests.cpus_milli
        quota = quota_us(hard)
        if self._version == 1:
            self._cgroups.write("cpu", group, "cpu.shares", str(shares(requests.cpus_milli)))
            if self._cfs or limits is not None:
                self._cgroups.write("cpu", group, "cpu.cfs_period_us", str(PERIOD_US))
                self._cgroups.write("cpu", group, "cpu.cfs_quota_us", str(quota))
        else:
            self._cgroups.write("cpu", group, "cpu.weight", str(weight(requests.cpus_milli)))
            text = "max" if quota == UNLIMITED else str(quota)
            self._cgroups.write("cpu", group, "cpu.max", f"{text} {PERIOD_US}")

    async def usage(self, container_id: str) -> Mapping[str, float | int]:
        """Processor seconds, throttling, numbers of processes."""
        group = self._group(container_id)
        stat = self._cgroups.table("cpu", group, "cpu.stat")
        found: dict[str, float | int] = {"processes": len(self._cgroups.pids("cpu", group))}
        if self._version == 1:
            throttled_s = stat.get("throttled_time", 0) / 1e9
            for name, key in (
                ("cpuacct.usage_user", "cpus_user_time_secs"),
                ("cpuacct.usage_sys", "cpus_system_time_secs"),
            ):
                with contextlib.suppress(CgroupError, ValueError):
                    found[key] = int(self._cgroups.read("cpuacct", group, name)) / 1e9
        else:
            throttled_s = stat.get("throttled_usec", 0) / 1e6
            found["cpus_user_time_secs"] = stat.get("user_usec", 0) / 1e6
            found["cpus_system_time_secs"] = stat.get("system_usec", 0) / 1e6
        if self._cfs:
            found |= {
                "cpus_nr_periods": stat.get("nr_periods", 0),
                "cpus_nr_throttled": stat.get("nr_throttled", 0),
                "cpus_throttled_time_secs": throttled_s,
            }
        return found

    async def cleanup(self, container_id: str) -> None:
        """Remove the groups."""
        if container_id in self._sharing:
            self._sharing.discard(container_id)
            return
        for controller in self._controllers:
            await asyncio.to_thread(self._cgroups.remove, controller, self._group(container_id))
