"""`filesystem/linux`: a private mount namespace with the volumes of the container in it.

Containers see the host's files (images come with the provisioner). With `filesystem_private_tmp`
each has a /tmp of its own inside its sandbox, which its disk limit then covers.
"""

import os

from cairn_core.agent.containerizer.volumes import host_volumes
from cairn_core.extensions import AgentSettings, ContainerConfig, Isolator, LaunchInfo, Mount


class FilesystemLinux(Isolator):
    """Mounts instead of links; nothing it mounts is seen outside the container."""

    def __init__(self, settings: AgentSettings) -> None:
        self._private_tmp = settings.flags.get("filesystem_private_tmp", "false") == "true"

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "filesystem/linux"

    @property
    def supports_nesting(self) -> bool:
        """A nested container has mounts of its own."""
        return True

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """A mount namespace, one bind mount per volume, perhaps a /tmp."""
        mounts: list[Mount] = []
        for volume in host_volumes(config):
            target = volume.container_path
            if not os.path.isabs(target):
                target = os.path.join(config.sandbox, target)
                # Made while the sandbox is empty, so no link of the task can lead it astray.
                os.makedirs(target, exist_ok=True)
            flags = ("bind", "rec", "ro") if volume.read_only else ("bind", "rec")
            mounts.append(Mount(volume.source, target, "", flags))
        if self._private_tmp:
            private = os.path.join(config.sandbox, ".tmp")
            os.makedirs(private, exist_ok=True)
            os.chmod(private, 0o1777)
            mounts.append(Mount(private, "/tmp", "", ("bind", "nosuid", "nodev")))
        return LaunchInfo(
            environment={"MESOS_SANDBOX": config.sandbox},
            namespaces=("mnt",),
            mounts=tuple(mounts),
        )
