"""Who may touch the work directory when: any number make things in it, whoever prunes is alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class DiskUse:
    """Guards directories against being pruned while something is made in them.

    Invariant: nobody is inside `making` while somebody is inside `pruning`.
    """

    def __init__(self) -> None:
        self._makers = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._entrance = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def making(self) -> AsyncIterator[None]:
        """Make directories and files; waits for a pruner, not for other makers."""
        async with self._entrance:
            self._makers += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._makers -= 1
            if self._makers == 0:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def pruning(self) -> AsyncIterator[None]:
        """Remove empty directories; waits for those who make, and new ones wait meanwhile."""
        async with self._entrance:
            await self._idle.wait()
            yield
