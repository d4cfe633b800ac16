"""`namespaces/ipc`: System V and POSIX message queues and shared memory of a container's own.

`LinuxInfo.ipc_mode` PRIVATE (the default) leaves the agent's namespace, SHARE_PARENT keeps it.
"""

from cairn_core.extensions import AgentSettings, ContainerConfig, Isolator, LaunchInfo, Mount


class NamespacesIpc(Isolator):
    """An IPC namespace, and a /dev/shm when the container has its own mounts."""

    def __init__(self, settings: AgentSettings) -> None:
        pass

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "namespaces/ipc"

    @property
    def supports_nesting(self) -> bool:
        """A nested container has a namespace of its own."""
        return True

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Leave the agent's namespace unless the container asks to share it."""
        linux = config.container.linux_info if config.container else None
        if linux is not None and linux.ipc_mode == "SHARE_PARENT":
            if linux.shm_size is not None:
                raise ValueError("shm_size: only with ipc_mode PRIVATE")
            return None
        mounts: tuple[Mount, ...] = ()
        if linux is not None and linux.shm_size is not None:
            size = f"mode=1777,size={linux.shm_size}m"
            mounts = (Mount("tmpfs", "/dev/shm", "tmpfs", ("nosuid", "nodev"), size),)
        return LaunchInfo(namespaces=("ipc", "mnt") if mounts else ("ipc",), mounts=mounts)
