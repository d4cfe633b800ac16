"""`namespaces/pid`: a container sees and signals only its own processes.

The namespace also makes ending certain: when its first process goes, the kernel ends all others.
"""

from cairn_core.extensions import AgentSettings, ContainerConfig, Isolator, LaunchInfo, Mount


class NamespacesPid(Isolator):
    """A process namespace, and a /proc that shows it."""

    def __init__(self, settings: AgentSettings) -> None:
        pass

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "namespaces/pid"

    @property
    def supports_nesting(self) -> bool:
        """A nested container has a namespace of its own."""
        return True

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Leave the agent's namespace unless the container asks to share it."""
        linux = config.container.linux_info if config.container else None
        if linux is not None and linux.share_pid_namespace:
            return None
        proc = Mount("proc", "/proc", "proc", ("nosuid", "nodev", "noexec"))
        return LaunchInfo(namespaces=("pid", "mnt"), mounts=(proc,))
