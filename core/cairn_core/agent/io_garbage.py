"""Removes the directories of ended executors when their time has come."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from cairn_core.agent import checkpoint, io_sandbox
from cairn_core.agent.garbage import Garbage
from cairn_core.agent.io_disk import DiskUse

log = logging.getLogger(__name__)


class Collector:
    """The disk's side of `Garbage`.

    disk: entered while directories above a removed one are pruned, so that nobody makes a new run
    in them at the same moment. in_use: sandboxes that must stay, below the work directory.
    """

    def __init__(
        self,
        work_dir: Path,
        garbage: Garbage,
        *,
        interval_s: float,
        disk: DiskUse,
        in_use: Callable[[], set[str]],
    ) -> None:
        self.work_dir = work_dir
        self.garbage = garbage
        self.succeeded = 0
        self.failed = 0
        #: Longest age allowed at the last look, seconds.
        self.max_age_s = garbage.delay_s
        self._interval_s = interval_s
        self._disk = disk
        self._in_use = in_use

    def add(self, path: str, *, wall: float) -> None:
        """A directory below the work directory that nobody needs since `wall`."""
        self.garbage.add(path, wall=wall)

    async def scan(self) -> None:
        """After a start: whatever lies around and belongs to nobody alive waits for its removal."""
        in_use = self._in_use()
        for path, changed in await asyncio.to_thread(io_sandbox.runs, self.work_dir):
            if path.removeprefix(f"{checkpoint.META}/") not in in_use:
                self.garbage.add(path, wall=changed)

    async def run(self, stop: asyncio.Event) -> None:
        """A service: looks at the disk again and again."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await stop.wait()
                    return
            await self.collect()

    async def collect(self) -> None:
        """Remove what is due now."""
        usage = await asyncio.to_thread(io_sandbox.usage, self.work_dir)
        self.max_age_s = self.garbage.max_age_s(usage)
        for path in self.garbage.due(usage, wall=time.time()):
            full = self.work_dir / path
            try:
                await asyncio.to_thread(io_sandbox.remove, full)
            except OSError as error:
                self.failed += 1
                log.warning("directory not removed path=%s reason=%s", full, error)
                continue
            self.succeeded += 1
            root = self.work_dir
            if path.startswith(f"{checkpoint.META}/"):
                root = self.work_dir / checkpoint.META
            async with self._disk.pruning():
                await asyncio.to_thread(io_sandbox.prune, root / "slaves", full)
