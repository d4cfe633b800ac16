"""The one door for a daemon: a cluster view that is kept up to date and survives restarts.

It follows the node feed; at a master that has none (Apache Mesos) its event stream, and where it
may not subscribe there it polls `/state`.  Which master that is, a list or ZooKeeper says.  What
it knows is kept on disk, so that a daemon that starts while no master answers serves what was true
last; its age tells how old that is.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from cairn_core.mesos.feed_rows import Row

from .feed import Delta
from .io_access import MasterAccess
from .io_detect import Masters, find_masters
from .io_feed import FeedSource
from .io_follow import Follower, Source
from .io_kept import KeptFile
from .io_poll import StatePoller
from .io_stream import OperatorStream
from .state_json import Told
from .view import STEP_ROWS, Changes, ClusterView, Replacement

log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["feed", "stream", "poll", "disk", "none"]
#: Which sources may be used; `auto` takes the best that a master has.
Wanted: TypeAlias = Literal["auto", "feed", "stream", "poll"]

#: Changes are written to the file at most this often, seconds.
KEEP_EVERY_S = 0.5
#: That nothing changes is written this often, seconds.
CONFIRM_EVERY_S = 60.0


class ClusterSource:
    """Keeps a ClusterView up to date.

    masters: `host:port` or base URLs, or who finds them (which `run` runs too). changed: called
    in the event loop after each change, and when a master first spoke. access: how masters are
    talked to. wanted: one kind of source, or `auto`.
    keep: file of the last known state; None keeps nothing. period_s, timeout_s: of polling.
    """

    def __init__(
        self,
        masters: Masters | Sequence[str],
        changed: Callable[[Changes], None],
        *,
        access: MasterAccess | None = None,
        wanted: Wanted = "auto",
        keep: Path | None = None,
        period_s: float = 30.0,
        timeout_s: float = 300.0,
    ) -> None:
        access = access or MasterAccess()
        self.masters = find_masters(masters) if isinstance(masters, Sequence) else masters
        self.view = ClusterView()
        #: Whether a master has spoken since the start of this process.
        self.in_step = False
        #: Where what the view shows comes from.
        self.kind: Kind = "none"
        self._changed = changed
        self._kept = KeptFile(keep) if keep is not None else None
        #: What `_kept` has to be told.
        self._pending: dict[str, Row | None] = {}
        self._dirty = asyncio.Event()
        self._feed = FeedSource(access, self._on_delta)
        self._stream = OperatorStream(access, partial(self._on_told, "stream"), self._on_changed)
        self._poll = StatePoller(
            access, partial(self._on_told, "poll"), period_s=period_s, timeout_s=timeout_s
        )
        sources: list[tuple[Wanted, Source]] = [
            ("feed", self._feed), ("stream", self._stream), ("poll", self._poll),
        ]  # fmt: skip
        self._follower = Follower(
            self.masters, access, [s for s in sources if wanted in ("auto", s[0])],
            better=self._feed.serves if wanted == "auto" else None,
        )  # fmt: skip
        self._true_at = 0.0
        self._master_id: str | None = None
        self._poll_skipped: Counter[str] = Counter()

    @property
    def heard_at(self) -> float | None:
        """Loop time of the last good message of a master; None before the first."""
        sources = (self._feed, self._stream, self._poll)
        return max((at for one in sources if (at := one.heard_at) is not None), default=None)

    def age_s(self) -> float:
        """Seconds since the view was known to be true; infinite when it never was."""
        heard_at = self.heard_at
        if heard_at is not None and self.in_step:
            return max(0.0, asyncio.get_running_loop().time() - heard_at)
        return max(0.0, time.time() - self._true_at) if self._true_at else float("inf")

    @property
    def skipped(self) -> "Counter[str]":
        """What made no sense and was left out since the last whole state, by kind."""
        match self.kind:
            case "stream":
                return self._stream.tables.skipped.copy()
            case "poll":
                return self._poll_skipped.copy()
            case _:
                return self.view.skipped.copy()

    def restore(self) -> bool:
        """Show what is on disk, before any master is asked; False when there is nothing."""
        kept = self._kept.load() if self._kept is not None else None
        if kept is None:
            return False
        rows, self._true_at = kept
        changes = self.view.replace(rows)
        self.kind = "disk"
        log.info("kept state shown rows=%d age=%.0f s", len(rows), time.time() - self._true_at)
        if changes is not None:
            self._changed(changes)
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the masters until `stop`."""
        finding = asyncio.create_task(self.masters.run(stop), name="clusterview-masters")
        keeping = asyncio.create_task(self._keep_up(), name="clusterview-keep")
        following = asyncio.create_task(self._follower.run(stop), name="clusterview-follow")
        try:
            done, _ = await asyncio.wait(
                {finding, keeping, following}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            await stop.wait()
        finally:
            keeping.cancel()
            # Both end with `stop`; when something else ends us they have to be told.
            if not stop.is_set():
                finding.cancel()
                following.cancel()
            await asyncio.gather(finding, keeping, following, return_exceptions=True)
            if self.in_step:
                self._write(time.time() - self.age_s())

    def _on_delta(self, delta: Delta) -> None:
        if self.kind == "feed":
            self._tell(self.view.apply_values(delta.values, new_epoch=delta.new_epoch))
            return
        # What is shown came from somewhere else: whatever this master does not know yet of
        # recovering agents is held.
        values: dict[str, bytes | None] = dict.fromkeys(k for k, _ in self.view.snapshot.rows())
        values.update(delta.values)
        self.view.skipped.clear()
        self._speaks("feed", self.view.apply_values(values, new_epoch=True))

    async def _on_told(self, kind: Kind, told: Told) -> None:
        replacement = Replacement(self.view, told.rows)
        for _ in replacement.steps():
            await asyncio.sleep(0)
        another = self.kind != kind or self._master_id != told.master_id
        self._master_id = told.master_id
        if kind == "poll":
            self._poll_skipped = told.skipped
        self._speaks(kind, replacement.finish(new_epoch=another))
        # Giving back the memory of many rows takes its time too.
        while told.rows:
            del told.rows[-STEP_ROWS:]
            await asyncio.sleep(0)

    def _on_changed(self, rows: Mapping[str, Row | None]) -> None:
        self._tell(self.view.apply(rows))

    def _speaks(self, kind: Kind, changes: Changes | None) -> None:
        """A master told everything; the first time that is news even if it confirms the file."""
        if self.kind == "feed" and kind != "feed":
            self._feed.forget()
        if self.kind != kind:
            log.info("cluster known from=%s rows=%d", kind, self.view.snapshot.size)
        self.kind = kind
        first, self.in_step = not self.in_step, True
        snapshot = self.view.snapshot
        if changes is None and first:
            changes = Changes(snapshot, snapshot, {})
        self._tell(changes)

    def _tell(self, changes: Changes | None) -> None:
        if changes is not None:
            if self._kept is not None:
                self._pending.update((key, new) for key, (_, new) in changes.rows.items())
            self._dirty.set()
            self._changed(changes)

    async def _keep_up(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_EVERY_S):
                    await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(KEEP_EVERY_S)
            if self.in_step and self._kept is not None:
                # Waiting for the disk would stop the event loop.
                pending, self._pending = self._pending, {}
                wall = time.time() - self.age_s()
                await asyncio.to_thread(self._kept.write, pending, self.view.snapshot, wall)

    def _write(self, wall: float) -> None:
        """The last words; waits for a thread that is still writing."""
        if self._kept is not None:
            pending, self._pending = self._pending, {}
            self._kept.write(pending, self.view.snapshot, wall)
