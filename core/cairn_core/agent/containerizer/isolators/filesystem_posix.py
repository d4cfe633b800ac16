"""`filesystem/posix`: containers see the host's files; volumes are links in the sandbox."""

import os
import stat

from cairn_core.agent.containerizer.volumes import host_volumes
from cairn_core.extensions import AgentSettings, ContainerConfig, Isolator, LaunchInfo


class FilesystemPosix(Isolator):
    """Checks what it cannot give, and links what it can."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "filesystem/posix"

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Put a link for each volume with a relative path into the sandbox."""
        for volume in host_volumes(config):
            if os.path.isabs(volume.container_path):
                raise ValueError(
                    f"volume {volume.container_path}: an absolute path needs filesystem/linux"
                )
            link = os.path.join(config.sandbox, volume.container_path)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if not (os.path.lexists(link) and stat.S_ISLNK(os.lstat(link).st_mode)):
                os.symlink(volume.source, link)
        return LaunchInfo(environment={"MESOS_SANDBOX": config.sandbox})
