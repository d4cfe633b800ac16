"""`disk/du`: measures sandboxes from time to time, and enforces a limit when told to.

Counts allocated blocks as du(1) does, each file once. Flags: `container_disk_watch_interval`
(seconds, 15) and `enforce_container_disk_quota` (false), as the original's.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence

from cairn_core.extensions import (
    UNLIMITED,
    AgentSettings,
    Amounts,
    ContainerConfig,
    ContainerState,
    Isolator,
    LaunchInfo,
    Limitation,
)
from cairn_core.mesos.types import Reason

MIB = 1 << 20
INTERVAL_S = 15.0
#: Sandboxes measured at the same time; more only makes the disk seek.
MAX_WALKS = 2
BLOCK = 512


def used_bytes(directory: str) -> int:
    """Bytes allocated below a directory, on its file system alone. Vanishing files are fine."""
    total = 0
    seen: set[tuple[int, int]] = set()
    try:
        device = os.lstat(directory).st_dev
    except OSError:
        return 0
    ahead = [directory]
    while ahead:
        try:
            entries = list(os.scandir(ahead.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
                folder = entry.is_dir(follow_symlinks=False)
            except OSError:
                continue
            if info.st_dev != device:
                continue  # a volume, which is not the sandbox's
            if info.st_nlink > 1 and not folder:
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            total += info.st_blocks * BLOCK
            if folder:
                ahead.append(entry.path)
    return total


class DiskDu(Isolator):
    """Measures each sandbox in a thread."""

    def __init__(self, settings: AgentSettings) -> None:
        self._interval_s = float(settings.flags.get("container_disk_watch_interval", INTERVAL_S))
        self._enforce = settings.flags.get("enforce_container_disk_quota", "false") == "true"
        self._sandboxes: dict[str, str] = {}
        self._limits: dict[str, int] = {}  # bytes, or UNLIMITED
        self._used: dict[str, int] = {}
        self._walks = asyncio.Semaphore(MAX_WALKS)

    @property
    def name(self) -> str:
        """As in `--isolation`."""
        return "disk/du"

    async def recover(self, known: Sequence[ContainerState], orphans: Sequence[str]) -> None:
        """Take note of sandboxes and amounts."""
        for state in known:
            await self.prepare(state.container_id, state.config)

    async def prepare(self, container_id: str, config: ContainerConfig) -> LaunchInfo | None:
        """Take note of sandbox and amount."""
        self._sandboxes[container_id] = config.sandbox
        await self.update(container_id, config.requests, config.limits)
        return None

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """The limit, else the request; without any there is no limit."""
        amount = requests.disk_mib if limits is None else limits.disk_mib
        self._limits[container_id] = amount * MIB if amount > 0 else UNLIMITED

    async def watch(self, container_id: str) -> Limitation:
        """Measure for as long as the container runs; return when it is over and we enforce."""
        while True:
            async with self._walks:
                used = await asyncio.to_thread(used_bytes, self._sandboxes[container_id])
            self._used[container_id] = used
            limit = self._limits[container_id]
            if self._enforce and limit != UNLIMITED and used > limit:
                message = f"Disk usage ({used // MIB}MB) exceeds quota ({limit // MIB}MB)"
                return Limitation(
                    Reason.CONTAINER_LIMITATION_DISK, message, {"disk": used * 1000 // MIB}
                )
            await asyncio.sleep(self._interval_s)

    async def usage(self, container_id: str) -> Mapping[str, float | int]:
        """What was measured last."""
        found: dict[str, float | int] = {}
        if container_id in self._used:
            found["disk_used_bytes"] = self._used[container_id]
        if (limit := self._limits.get(container_id, UNLIMITED)) != UNLIMITED:
            found["disk_limit_bytes"] = limit
        return found

    async def cleanup(self, container_id: str) -> None:
        """Forget it."""
        for table in (self._sandboxes, self._limits, self._used):
            table.pop(container_id, None)
