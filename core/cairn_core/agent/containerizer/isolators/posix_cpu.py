"""`posix/cpu`: counts processor time from /proc and enforces nothing (works without cgroups)."""

from collections.abc import Mapping, Sequence

from cairn_core.agent.containerizer import processes
from cairn_core.extensions import AgentSettings, ContainerState, Isolator


class PosixCpu(Isolator):
    """Sums the processes below a container's first one."""

    def __init__(self, settings: AgentSettings) -> None:
        self._pids: dict[str, int] = {}

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "posix/cpu"

    async def recover(self, known: Sequence[ContainerState], orphans: Sequence[str]) -> None:
        """Remember the first processes."""
        self._pids |= {state.container_id: state.pid for state in known}

    async def isolate(self, container_id: str, pid: int) -> None:
        """Remember the first process."""
        self._pids[container_id] = pid

    async def usage(self, container_id: str) -> Mapping[str, float | int]:
        """Processor seconds, numbers of processes and threads."""
        members = processes.descendants([self._pids.get(container_id, 0)])
        stats = [stat for pid in members if (stat := processes.read_stat(pid)) is not None]
        return {
            "processes": len(stats),
            "threads": sum(stat.threads for stat in stats),
            "cpus_user_time_secs": sum(stat.user for stat in stats) / processes.TICKS,
            "cpus_system_time_secs": sum(stat.system for stat in stats) / processes.TICKS,
        }

    async def cleanup(self, container_id: str) -> None:
        """Forget it."""
        self._pids.pop(container_id, None)
