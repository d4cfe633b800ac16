"""The one door for a daemon: a cluster view that is kept up to date and survives restarts.

It follows the node feed; at a master that has none (Apache Mesos) its event stream, and where it
may not subscribe there it polls `/state`.  What it knows is kept on disk, so that a daemon that
starts while no master answers serves what was true last; its age tells how old that is.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from cairn_core.mesos.feed_rows import BadRow, Row, decode_row, encode_row

from .feed import Delta
from .io_feed import FeedClient, NoFeed
from .io_poll import StatePoller
from .io_stream import NoStream, OperatorStream
from .view import Changes, ClusterView, Snapshot

log = logging.getLogger(__name__)

#: The file is written at most this often, seconds.
KEEP_EVERY_S = 5.0
KEPT_VERSION = 1


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What is on disk: rows by key, and the wall-clock time at which they were true."""

    version: int
    wall: float
    rows: list[tuple[str, bytes]]


def save(path: Path, snapshot: Snapshot, *, wall: float) -> None:
    """Write a snapshot, replacing the file at once.  Raises OSError."""
    rows = [(key, encode_row(row)) for key, row in snapshot.rows()]
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(msgspec.msgpack.encode(Kept(KEPT_VERSION, wall, rows)))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def load(path: Path) -> tuple[list[Row], float] | None:
    """Rows of a file and when they were true; None when there is none that can be read."""
    try:
        kept = msgspec.msgpack.decode(path.read_bytes(), type=Kept)
        rows = [decode_row(key, value) for key, value in kept.rows]
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, BadRow) as error:
        log.warning("kept state is not used file=%s reason=%s", path, error)
        return None
    return [row for row in rows if row is not None], kept.wall


class ClusterSource:
    """Keeps a ClusterView up to date.

    masters: `host:port` or base URLs. changed: called in the event loop after each change,
        and when a master first spoke.
    keep: file of the last known state; None keeps nothing. period_s: of polling.
    """

    def __init__(
        self,
        masters: Sequence[str],
        changed: Callable[[Changes], None],
        *,
        keep: Path | None = None,
        period_s: float = 30.0,
        timeout_s: float = 300.0,
    ) -> None:
        urls = [url if "://" in url else f"http://{url}" for url in masters]
        self.view = ClusterView()
        #: Whether a master has spoken since the start of this process.
        self.in_step = False
        self._changed = changed
        self._keep = keep
        self._feed = FeedClient(urls, self._on_delta)
        self._stream = OperatorStream(urls, self._on_rows, self._on_changed)
        self._poll = StatePoller(urls, self._on_rows, period_s=period_s, timeout_s=timeout_s)
        self._true_at = 0.0
        self._dirty = asyncio.Event()
        #: Version of the snapshot that is on disk.
        self._saved = 0
        self._saving = threading.Lock()

    def age_s(self) -> float:
        """Seconds since the view was known to be true; infinite when it never was."""
        heard = [
            at
            for source in (self._feed, self._stream, self._poll)
            if (at := source.heard_at) is not None
        ]
        if heard:
            return max(0.0, asyncio.get_running_loop().time() - max(heard))
        return max(0.0, time.time() - self._true_at) if self._true_at else float("inf")

    def restore(self) -> bool:
        """Show what is on disk, before any master is asked; False when there is nothing."""
        kept = load(self._keep) if self._keep is not None else None
        if kept is None:
            return False
        rows, self._true_at = kept
        changes = self.view.replace(rows)
        self._saved = self.view.snapshot.version
        log.info("kept state shown rows=%d age=%.0f s", len(rows), time.time() - self._true_at)
        if changes is not None:
            self._changed(changes)
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the masters until `stop`."""
        keeping = asyncio.create_task(self._keep_up(), name="clusterview-keep")
        try:
            try:
                await self._feed.run(stop)
            except NoFeed as error:
                log.info("%s; following its event stream instead", error)
                try:
                    await self._stream.run(stop)
                except NoStream as refused:
                    log.info("%s; polling its state instead", refused)
                    await self._poll.run(stop)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            if self.in_step:
                self._save(time.time() - self.age_s(), again=True)

    def _on_delta(self, delta: Delta) -> None:
        if self.in_step:
            self._tell(self.view.apply_values(delta.values, new_epoch=delta.new_epoch))
            return
        # What was kept may have come from another master: whatever this one does not know yet of
        # recovering agents is held.
        values: dict[str, bytes | None] = dict.fromkeys(k for k, _ in self.view.snapshot.rows())
        values.update(delta.values)
        self._first(self.view.apply_values(values, new_epoch=True))

    def _on_rows(self, rows: list[Row], another: bool) -> None:
        if self.in_step:
            self._tell(self.view.replace(rows, new_epoch=another))
        else:
            self._first(self.view.replace(rows, new_epoch=True))

    def _on_changed(self, rows: Mapping[str, Row | None]) -> None:
        self._tell(self.view.apply(rows))

    def _first(self, changes: Changes | None) -> None:
        """A master spoke for the first time: tell so even if it only confirmed what was kept."""
        self.in_step = True
        snapshot = self.view.snapshot
        self._tell(changes or Changes(snapshot, snapshot, {}))

    def _tell(self, changes: Changes | None) -> None:
        if changes is not None:
            self._dirty.set()
            self._changed(changes)

    async def _keep_up(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(KEEP_EVERY_S)
            # Encoding a large cluster and waiting for the disk would stop the event loop.
            await asyncio.to_thread(self._save, time.time() - self.age_s())

    def _save(self, wall: float, *, again: bool = False) -> None:
        """Write the file; `again` also when nothing but the time has changed."""
        # At the end the thread of `_keep_up` may still be writing.
        with self._saving:
            snapshot = self.view.snapshot
            if self._keep is None or (self._saved == snapshot.version and not again):
                return
            try:
                save(self._keep, snapshot, wall=wall)
                self._saved = snapshot.version
            except OSError as error:
                log.error("state not kept file=%s reason=%s", self._keep, error)
