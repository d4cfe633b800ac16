"""Which directories of the host a container asks for (`ContainerInfo.volumes`, HOST_PATH)."""

import os
from dataclasses import dataclass

from cairn_core.extensions import ContainerConfig


@dataclass(frozen=True, slots=True)
class HostVolume:
    """One directory: where it is, and where the container wants it."""

    source: str  #: absolute path on the host
    container_path: str  #: absolute, or relative to the sandbox
    read_only: bool


def host_volumes(config: ContainerConfig) -> list[HostVolume]:
    """All volumes, checked. Raises ValueError for one that cannot be had or leads out."""
    found = []
    for volume in config.container.volumes if config.container else ():
        path = volume.container_path
        source = volume.host_path
        if volume.source is not None and volume.source.host_path is not None:
            source = volume.source.host_path.path
        if source is None:
            kind = volume.source.type if volume.source else "without host_path"
            raise ValueError(f"volume {path}: {kind or 'unknown'} is not supported here")
        if not path or ".." in path.split("/"):
            raise ValueError(f"volume {path!r}: container_path leads out of the sandbox")
        if not os.path.isabs(source):
            raise ValueError(f"volume {path}: host_path {source!r} is not absolute")
        if not os.path.exists(source):
            raise ValueError(f"volume {path}: host_path {source!r} does not exist")
        found.append(HostVolume(source, path, volume.mode == "RO"))
    return found
