"""`posix/mem`: sums resident memory from /proc and enforces nothing (works without cgroups)."""

from collections.abc import Mapping, Sequence

from cairn_core.agent.containerizer import processes
from cairn_core.extensions import AgentSettings, ContainerState, Isolator


class PosixMem(Isolator):
    """Sums the processes below a container's first one; shared pages count in each."""

    def __init__(self, settings: AgentSettings) -> None:
        self._pids: dict[str, int] = {}

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "posix/mem"

    async def recover(self, known: Sequence[ContainerState], orphans: Sequence[str]) -> None:
        """Remember the first processes."""
        self._pids |= {state.container_id: state.pid for state in known}

    async def isolate(self, container_id: str, pid: int) -> None:
        """Remember the first process."""
        self._pids[container_id] = pid

    async def usage(self, container_id: str) -> Mapping[str, float | int]:
        """Resident bytes."""
        members = processes.descendants([self._pids.get(container_id, 0)])
        stats = [stat for pid in members if (stat := processes.read_stat(pid)) is not None]
        rss = sum(stat.rss_pages for stat in stats) * processes.PAGE
        return {"mem_rss_bytes": rss, "mem_total_bytes": rss}

    async def cleanup(self, container_id: str) -> None:
        """Forget it."""
        self._pids.pop(container_id, None)
