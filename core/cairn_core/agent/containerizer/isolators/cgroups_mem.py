"""`cgroups/mem`: soft and hard memory limits, and who went over them (cgroups(7)).

Values as the original's: at least 32 MB; the request is the soft limit, the limit (else the
request) the hard one, which is raised at any time but lowered only before the container runs, for
lowering it under a running process invites the killer.
"""

import asyncio
import contextlib
import os
import select
from collections.abc import Mapping, Sequence

from cairn_core.agent.containerizer.cgroups import (
    LEAF,
    CgroupError,
    Cgroups,
    find_hierarchies,
    parse_table,
)
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
    Limitation,
    NoLimit,
)
from cairn_core.mesos.types import Reason

MIB = 1 << 20
MIN_BYTES = 32 * MIB
#: Version 1 prints "no limit" as the largest multiple of a page.
V1_UNLIMITED = 1 << 62


class CgroupsMem(Isolator):
    """Keeps each container in a group of the memory controller."""

    def __init__(self, settings: AgentSettings, cgroups: Cgroups | None = None) -> None:
        self._sharing: set[str] = set()  # nested containers in the groups of their parents
        self._cgroups = cgroups or Cgroups(find_hierarchies(), settings.cgroups_root)
        self._version = self._cgroups.version("memory")
        if not self._version:
            raise LocalError("isolation: cgroups/mem: no hierarchy has the memory controller")
        self._limit_swap = settings.flags.get("cgroups_limit_swap", "false") == "true"
        self._requested: dict[str, int] = {}  # bytes
        self._running: set[str] = set()

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "cgroups/mem"

    @property
    def supports_nesting(self) -> bool:
        """A nested container is in its parent's group, or has one of its own below it."""
        return True

    async def recover(self, known: Sequence[ContainerState], orphans: Sequence[str]) -> None:
        """Remember what was requested."""
        self._sharing |= {s.container_id for s in known if shares_group(s.container_id, s.config)}
        for state in known:
            self._requested[state.container_id] = to_bytes(state.config.requests.mem_mib)
            self._running.add(state.container_id)

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Make the group and set the limits."""
        if shares_group(container_id, config):
            self._sharing.add(container_id)
            return None
        self._cgroups.create("memory", self._group(container_id))
        await self.update(container_id, config.requests, config.limits)
        return None

    def _group(self, container_id: str) -> str:
        if container_id in self._sharing:
            container_id = container_id.rpartition(".")[0]
            return self._group(container_id)
        return group_of(container_id)

    async def isolate(self, container_id: str, pid: int) -> None:
        """Move the first process in."""
        self._cgroups.add("memory", self._group(container_id), pid)
        self._running.add(container_id)

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """Soft limit of the request, hard limit of the limit or the request."""
        if container_id in self._sharing:
            return
        group = self._group(container_id)
        soft = to_bytes(requests.mem_mib)
        hard = soft if limits is None else to_bytes(limits.mem_mib)
        self._requested[container_id] = soft
        if self._version == 2:
            self._cgroups.write("memory", group, "memory.low", str(soft))
            if self._may_set(container_id, hard, "memory.max"):
                text = "max" if hard == UNLIMITED else str(hard)
                self._cgroups.write("memory", group, "memory.max", text)
            return
        self._cgroups.write("memory", group, "memory.soft_limit_in_bytes", str(soft))
        if self._may_set(container_id, hard, "memory.limit_in_bytes"):
            # The limit with swap may never be the smaller one, so it is raised first.
            if self._limit_swap:
                with contextlib.suppress(CgroupError):
                    self._cgroups.write("memory", group, "memory.memsw.limit_in_bytes", str(hard))
            self._cgroups.write("memory", group, "memory.limit_in_bytes", str(hard))
            if self._limit_swap:
                self._cgroups.write("memory", group, "memory.memsw.limit_in_bytes", str(hard))

    def _may_set(self, container_id: str, hard: int, name: str) -> bool:
        if container_id not in self._running or hard == UNLIMITED:
            return True
        text = self._cgroups.read("memory", self._group(container_id), name).strip()
        return text != "max" and hard > int(text)

    async def watch(self, container_id: str) -> Limitation:
        """Return once the kernel's killer has struck in the group."""
        if container_id in self._sharing:
            raise NoLimit
        if self._version == 1:
            await self._notified(container_id)
        else:
            await self._events_changed(container_id)
        return self._describe(container_id)

    async def _events_changed(self, container_id: str) -> None:
        """Wait for the killer in memory.events, of which the kernel tells by POLLPRI."""
        path = self._cgroups.path("memory", self._events(container_id)) / "memory.events"
        loop = asyncio.get_running_loop()
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with select.epoll() as changes:  # the loop itself cannot wait for POLLPRI
                changes.register(fd, select.EPOLLPRI)
                ready = asyncio.Event()
                loop.add_reader(changes, ready.set)
                try:
                    # Reading through this descriptor is what takes note of a change.
                    while not parse_table(os.pread(fd, 4096, 0).decode()).get("oom_kill"):
                        await ready.wait()
                        ready.clear()
                finally:
                    loop.remove_reader(changes)
        finally:
            os.close(fd)

    def _events(self, container_id: str) -> str:
        """Group whose counters tell of the container alone: not of nested ones, which have groups
        of their own below it, and whose counters the kernel adds to those above.
        """
        return f"{self._group(container_id)}/{LEAF}"

    async def _notified(self, container_id: str) -> None:
        """Wait for an eventfd that the kernel signals when the group is out of memory."""
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            path = self._cgroups.path("memory", self._group(container_id))
            control = os.open(path / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._cgroups.write(
                    "memory",
                    self._group(container_id),
                    "cgroup.event_control",
                    f"{event} {control}",
                )
            finally:
                os.close(control)
            loop = asyncio.get_running_loop()
            ready = asyncio.Event()
            loop.add_reader(event, ready.set)
            try:
                # It may have struck before we listened, and it also fires when the group goes.
                while self._kills(container_id) == 0:
                    await ready.wait()
                    ready.clear()
                    os.read(event, 8)
            finally:
                loop.remove_reader(event)
        finally:
            os.close(event)

    def _kills(self, container_id: str) -> int:
        if self._version == 1:
            group, name = self._group(container_id), "memory.oom_control"
        else:
            group, name = self._events(container_id), "memory.events"
        return self._cgroups.table("memory", group, name).get("oom_kill", 0)

    async def limitation(self, container_id: str) -> Limitation | None:
        """Whether the killer struck before anybody was told."""
        if container_id in self._sharing:
            return None
        return self._describe(container_id) if self._kills(container_id) else None

    def _describe(self, container_id: str) -> Limitation:
        """The original's message: the request, the most that was used, the statistics."""
        group = self._group(container_id)
        requested = self._requested.get(container_id, 0)
        names = (
            ["memory.max_usage_in_bytes"] if self._version == 1 else ["memory.peak", "memory.max"]
        )
        most = 0
        for name in names:
            with contextlib.suppress(CgroupError, ValueError):
                most = int(self._cgroups.read("memory", group, name))
                break
        statistics = ""
        with contextlib.suppress(CgroupError):
            statistics = self._cgroups.read("memory", group, "memory.stat")
        message = (
            f"Memory limit exceeded: Requested: {requested // MIB}MB "
            f"Maximum Used: {most // MIB}MB\n\nMEMORY STATISTICS: \n{statistics}"
        )
        return Limitation(
            Reason.CONTAINER_LIMITATION_MEMORY, message, {"mem": requested * 1000 // MIB}
        )

    async def usage(self, container_id: str) -> Mapping[str, float | int]:
        """Bytes in use by kind."""
        group = self._group(container_id)
        stat = self._cgroups.table("memory", group, "memory.stat")
        v1 = self._version == 1
        found: dict[str, float | int] = {}
        for key, name in (
            ("mem_total_bytes", "memory.usage_in_bytes" if v1 else "memory.current"),
            ("mem_limit_bytes", "memory.limit_in_bytes" if v1 else "memory.max"),
            ("mem_soft_limit_bytes", "memory.soft_limit_in_bytes" if v1 else "memory.low"),
        ):
            with contextlib.suppress(CgroupError, ValueError):
                value = int(self._cgroups.read("memory", group, name))
                if value < V1_UNLIMITED:
                    found[key] = value
        names = V1_STAT if v1 else V2_STAT
        found |= {key: stat[name] for key, name in names.items() if name in stat}
        return found

    async def cleanup(self, container_id: str) -> None:
        """Remove the group."""
        if container_id in self._sharing:
            self._sharing.discard(container_id)
            return
        self._requested.pop(container_id, None)
        self._running.discard(container_id)
        await asyncio.to_thread(self._cgroups.remove, "memory", self._group(container_id))


V1_STAT = {
    "mem_rss_bytes": "total_rss",
    "mem_anon_bytes": "total_rss",
    "mem_cache_bytes": "total_cache",
    "mem_file_bytes": "total_cache",
    "mem_mapped_file_bytes": "total_mapped_file",
    "mem_swap_bytes": "total_swap",
    "mem_unevictable_bytes": "total_unevictable",
}
V2_STAT = {
    "mem_rss_bytes": "anon",
    "mem_anon_bytes": "anon",
    "mem_cache_bytes": "file",
    "mem_file_bytes": "file",
    "mem_mapped_file_bytes": "file_mapped",
    "mem_unevictable_bytes": "unevictable",
}


def to_bytes(mem_mib: int) -> int:
    """Bytes of an amount, at least the minimum; UNLIMITED stays UNLIMITED."""
    return UNLIMITED if mem_mib == UNLIMITED else max(mem_mib * MIB, MIN_BYTES)
