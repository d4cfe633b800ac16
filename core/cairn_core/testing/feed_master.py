"""A master that has nothing but the node feed, in a thread, for programs under test.

    with FeedMaster(rows) as master:
        start_a_daemon(master.address)
        master.put(row)
        master.delete(row.key)

The daemon is a process of its own; who uses the master needs no event loop.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

from cairn_core.kit.feed import FeedPublisher
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.io_feed import FEED_PATH, FeedServer
from cairn_core.kit.listeners import Listener
from cairn_core.mesos.feed_rows import Row, encode_row

START_S = 10.0


class FeedMaster:
    """rows: what it knows at first.  listener: where it listens; a free port of 127.0.0.1 or a
    socket, which may be one of another network namespace.
    """

    def __init__(self, rows: Iterable[Row] = (), listener: Listener = ("127.0.0.1", 0)) -> None:
        self._listener = listener
        self._publisher = FeedPublisher(1)
        for row in rows:
            self._publisher.put(row.key, encode_row(row))
        self._feed = FeedServer(self._publisher)
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "FeedMaster":
        self._thread.start()
        if not self._started.wait(START_S):
            raise TimeoutError(f"the feed is not served after {START_S} s")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._stop.set)
        self._thread.join(START_S)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._port}"

    def put(self, *rows: Row) -> None:
        """Set rows; returns before they are sent."""
        for row in rows:
            self._call(self._feed.put, row.key, encode_row(row))

    def delete(self, *keys: str) -> None:
        """Remove rows likewise."""
        for key in keys:
            self._call(self._feed.delete, key)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        router: Router[Handler] = Router()
        router.add(FEED_PATH, self._feed.answer)
        http = HttpServer(router)
        await http.start(self._listener)
        self._port = http.port
        self._started.set()
        try:
            await self._feed.run(self._stop)
        finally:
            await http.drain(0)

    def _call(self, work: Callable[..., object], *arguments: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(work, *arguments)
