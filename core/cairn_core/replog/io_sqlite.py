"""The SQLite engine: one writer thread, one transaction in flight, the rest waits for the next.

The embedded default for one master.  All access to the file goes through one thread, so that the
event loop never waits for a disk; appends that came while a transaction was being committed
share the following one.  What is in the file is told in `io_sqlite_file`.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cairn_core.errors import CairnError, Unavailable

from .interface import Bounds, Entry, Record
from .io_sqlite_file import Append, SqliteFile

T = TypeVar("T")

#: Appends that may wait or be in flight; more callers are kept waiting.
MAX_PENDING = 1024
#: Appends committed in one transaction.
MAX_GROUP = 256
#: Entries read at a time; appends get their turn in between.
READ_CHUNK = 256


@dataclass(slots=True, eq=False)
class _Job:
    """Something for the thread to do; `append` may be grouped with others, `call` may not."""

    done: "asyncio.Future[Any]"
    append: Append | None = None
    call: Callable[[SqliteFile], Any] | None = None


class SqliteWriter:
    """See `interface.Writer`."""

    def __init__(self, log: "SqliteLog", name: str, epoch: int, end: int) -> None:
        self.name, self.epoch, self.end = name, epoch, end
        self._log = log
        self._appends = 0

    async def append(
        self, records: Sequence[Record], *, after: int | None = None, write_id: str | None = None
    ) -> int:
        """See `interface.Writer.append`."""
        self._appends += 1
        write_id = write_id or f"{self.epoch}.a{self._appends}"
        append = Append(self.name, self.epoch, tuple(records), write_id, after)
        end = await self._log.append(append)
        self.end = max(self.end, end)
        return end


class SqliteLog:
    """See `interface.Log`.  Make one with `start`, and `close` it."""

    def __init__(self, file: SqliteFile) -> None:
        self.path = file.path
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(MAX_PENDING)
        self._moved: dict[str, asyncio.Event] = {}
        self._closing: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._work, name="replog-writer", daemon=True)
        self._thread.start()

    @classmethod
    async def start(cls, directory: Path, *, max_bytes: int | None = None) -> "SqliteLog":
        """Lock `directory`, creating it when absent, and open the file in it.

        Raises Unavailable (another process has it, no permission), Corrupt.
        """
        return cls(await asyncio.to_thread(SqliteFile, directory, max_bytes=max_bytes))

    async def open(self, name: str) -> SqliteWriter:
        """See `interface.Log.open`."""

        def take(file: SqliteFile) -> tuple[int, Bounds]:
            return file.take_epoch(name), file.bounds(name)

        epoch, bounds = await self._call(take)
        return SqliteWriter(self, name, epoch, bounds.end)

    async def bounds(self, name: str) -> Bounds:
        """See `interface.Log.bounds`."""
        return await self._call(lambda file: file.bounds(name))

    async def read(self, name: str, start: int | None = None) -> AsyncIterator[Entry]:
        """See `interface.Log.read`."""
        bounds = await self.bounds(name)
        position = bounds.begin if start is None else start

        def chunk(file: SqliteFile) -> list[Entry]:
            return file.read(name, position, bounds.end, READ_CHUNK)

        while position < bounds.end:
            entries = await self._call(chunk)
            for entry in entries:
                yield entry
            position += len(entries)

    async def watch(self, name: str, after: int) -> AsyncIterator[int]:
        """See `interface.Log.watch`."""
        while True:
            moved = self._moved.setdefault(name, asyncio.Event())
            end = (await self.bounds(name)).end
            if end > after:
                after = end
                yield end
            else:
                await moved.wait()

    async def append(self, append: Append) -> int:
        """Commit one append, together with others; called by the writers."""
        async with self._room:
            job = _Job(self._loop.create_future(), append=append)
            self._submit(job)
            end: int = await job.done
        self._moved.pop(append.name, asyncio.Event()).set()
        return end

    async def close(self) -> None:
        """See `interface.Log.close`."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            self._jobs.put(None)
        await asyncio.shield(self._closing)
        await asyncio.to_thread(self._thread.join)

    async def _call(self, call: Callable[[SqliteFile], T]) -> T:
        job = _Job(self._loop.create_future(), call=call)
        self._submit(job)
        result: T = await job.done
        return result

    def _submit(self, job: _Job) -> None:
        if self._closing is not None:
            raise Unavailable(f"log file {self.path} is closed")
        self._jobs.put(job)

    # -- in the thread -----------------------------------------------------------------------

    def _work(self) -> None:
        next_job = self._jobs.get()
        while next_job is not None:
            if next_job.call is not None:
                self._do(next_job, next_job.call)
                next_job = self._jobs.get()
            else:
                next_job = self._do_appends(next_job)
        self._file.close()
        self._tell(self._finish)

    def _do(self, job: _Job, call: Callable[[SqliteFile], Any]) -> None:
        try:
            result = call(self._file)
        except Exception as error:
            # Whatever it is belongs to the one who asked; the thread must live on.
            self._tell(_fail, job.done, error)
        else:
            self._tell(_answer, job.done, result)

    def _do_appends(self, first: _Job) -> _Job | None:
        """Commit `first` and the appends behind it; return the job that comes after them."""
        group = [first]
        following: _Job | None = None
        waiting = True
        while len(group) < MAX_GROUP:
            try:
                following = self._jobs.get_nowait()
            except queue.Empty:
                break
            if following is None or following.append is None:
                waiting = False
                break
            group.append(following)
        results: Sequence[int | Exception]
        try:
            results = self._file.append([job.append for job in group if job.append is not None])
        except Exception as error:
            # Likewise: the callers get it, the thread lives on.
            results = [error] * len(group)
        self._tell(_settle, [job.done for job in group], results)
        return self._jobs.get() if waiting else following

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The event loop is closed: nobody waits for the answer any more.
            return

    def _finish(self) -> None:
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)


def _answer(done: "asyncio.Future[Any]", result: Any) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: "asyncio.Future[Any]", error: Exception) -> None:
    if not done.done():
        done.set_exception(error)


def _settle(
    waiting: Sequence["asyncio.Future[Any]"], results: Sequence[int | CairnError | Exception]
) -> None:
    for done, result in zip(waiting, results, strict=True):
        if isinstance(result, Exception):
            _fail(done, result)
        else:
            _answer(done, result)
