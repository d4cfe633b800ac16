"""The election of a master that is alone: it always wins.

That there is really only one is the business of the lock on the work directory (`io_sqlite`).
"""

import asyncio
from collections.abc import AsyncIterator

from .election import Candidate, Leadership


class StandaloneElector:
    """See `election.Elector`."""

    def __init__(self) -> None:
        self._candidate: Candidate | None = None
        self._changed = asyncio.Event()

    async def join(self, candidate: Candidate) -> None:
        """See `election.Elector.join`."""
        self._set(candidate)

    async def leave(self) -> None:
        """See `election.Elector.leave`."""
        self._set(None)

    async def changes(self) -> AsyncIterator[Leadership]:
        """See `election.Elector.changes`."""
        while True:
            changed = self._changed
            only = self._candidate
            yield Leadership(only, (only,) if only else (), only is not None)
            await changed.wait()

    def _set(self, candidate: Candidate | None) -> None:
        self._candidate = candidate
        self._changed.set()
        self._changed = asyncio.Event()
