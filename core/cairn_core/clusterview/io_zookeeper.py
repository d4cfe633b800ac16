"""Follows the masters that are registered in ZooKeeper, and which of them leads.

The client library runs threads of its own; what they notice is only a reason to look again, and
looking happens in the event loop.  ZooKeeper may be away at the start or at any time: what was
known stays, and we come back by ourselves.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler

from cairn_core.errors import RemoteError, shorten

from .io_detect import KnownMasters
from .masters import BadMasterNode, Ensemble, master_nodes, master_place

log = logging.getLogger(__name__)

#: Compat: session time-out of the original, seconds.
SESSION_S = 60.0
#: Servers that do not answer are given up after this, so that the next one has its turn, seconds.
CONNECT_S = 3.0
#: A server that has begun to listen but does not serve yet answers nothing, seconds.
EXCHANGE_S = 5.0
#: Longest pause between two rounds over all servers, seconds.
RECONNECT_MAX_S = 5.0
#: Compat: changes are told at most this often, seconds.
EVERY_S = 1.0
#: One answer of ZooKeeper may take so long, seconds.
ANSWER_S = 10.0
#: We look this often even if nobody told us to, seconds.
LOOK_AGAIN_S = 60.0
#: A client of the library that was away for so long is replaced by another, seconds.
GIVE_UP_S = 120.0
#: Bytes of one node that are read.
MAX_NODE_BYTES = 64 * 1024


class ZooKeeperMasters(KnownMasters):
    """Masters that an ensemble knows; none until it has answered."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self._ensemble = ensemble
        self._look = asyncio.Event()
        self._told = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop`; nothing that ZooKeeper does ends it sooner."""
        stopping = asyncio.create_task(stop.wait(), name="zookeeper-stop")
        try:
            while not stop.is_set():
                following = asyncio.create_task(self._one_client(), name="zookeeper-follow")
                try:
                    await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    if following.done():
                        following.result()
                finally:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
        finally:
            stopping.cancel()

    async def _one_client(self) -> None:
        """Follow with one client, until it has been away for so long that another may do better."""
        loop = asyncio.get_running_loop()

        def look(*_: object) -> None:
            # The loop may be closed already when a thread of the library wakes up.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._look.set)

        client = _client(self._ensemble)
        client.add_listener(look)
        client.start_async()
        try:
            seen_at = loop.time()
            while loop.time() - seen_at < GIVE_UP_S:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S if client.connected else ANSWER_S):
                        await self._look.wait()
                self._look.clear()
                if client.connected:
                    seen_at = loop.time()
                    await self._try_to_read(client, look)
                    await asyncio.sleep(EVERY_S)
                else:
                    self._tell(f"no answer from {self._ensemble}")
        finally:
            ending = threading.Thread(target=_end, args=(client,), daemon=True)
            ending.start()
            await asyncio.to_thread(ending.join, CONNECT_S)

    async def _try_to_read(self, client: Any, look: Callable[..., None]) -> None:
        try:
            await self._read(client, look)
        except (KazooException, KazooTimeoutError, TimeoutError, OSError) as error:
            self._tell(f"{self._ensemble}: {type(error).__name__} {shorten(str(error))}")
            self._look.set()

    async def _read(self, client: Any, look: Callable[..., None]) -> None:
        """Look once, and leave watches behind."""
        path = self._ensemble.path
        try:
            children = await _answer(client.get_children_async(path, watch=look))
        except NoNodeError:
            children = []
            if await _answer(client.exists_async(path, watch=look)) is not None:
                self._look.set()  # it has come in between
        places = []
        leader = None
        for number, node in enumerate(nodes := master_nodes(children)):
            try:
                place = await self._place(client, node)
            except NoNodeError:
                self._look.set()  # gone in between
                continue
            except RemoteError as error:
                self._tell(str(error))
                continue
            if number == 0:
                leader = place
            if place not in places:
                places.append(place)
        if places:
            if leader is not None and (leader != self.leader or self.current != tuple(places)):
                log.info("masters found leader=%s of=%d", leader, len(places))
                self._told = ""
            self.became(places, leader)
        else:
            # Those that led last may still be there, without ZooKeeper.
            self.became(self.current, None)
            if not nodes:
                self._tell(f"no master at {self._ensemble}")

    async def _place(self, client: Any, node: str) -> str:
        path = self._ensemble.path.rstrip("/")
        data, _ = await _answer(client.get_async(f"{path}/{node}"))
        if len(data) > MAX_NODE_BYTES:
            raise BadMasterNode(f"node {shorten(node)}: has {len(data)} bytes")
        return master_place(node, data)

    def _tell(self, problem: str) -> None:
        """Log a problem, once while it lasts."""
        if problem != self._told:
            log.warning("masters not known anew reason=%s", problem)
        self._told = problem


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]  # the library has no types
    """Gives up servers that do not answer long before a session would end."""

    def create_connection(self, *args: Any, **named: Any) -> Any:
        named["timeout"] = min(CONNECT_S, named.get("timeout", CONNECT_S))
        return super().create_connection(*args, **named)

    def select(
        self, read: Sequence[Any], write: Sequence[Any], other: Sequence[Any], timeout: float
    ) -> Any:
        # A socket alone is waited for in the middle of an exchange only.
        if len(read) + len(write) == 1:
            timeout = min(EXCHANGE_S, timeout)
        return super().select(read, write, other, timeout)


def _client(ensemble: Ensemble) -> Any:
    quiet = logging.getLogger("kazoo")
    quiet.setLevel(logging.CRITICAL)  # it reports each attempt; we report each change
    return KazooClient(
        hosts=",".join(ensemble.hosts),
        timeout=SESSION_S,
        handler=_Handler(),
        auth_data=[("digest", ":".join(ensemble.credentials))] if ensemble.credentials else None,
        connection_retry={
            "max_tries": -1, "delay": 0.25, "backoff": 2, "max_delay": RECONNECT_MAX_S,
        },
        logger=quiet,
    )  # fmt: skip


def _end(client: Any) -> None:
    """Takes as long as the attempt to connect that is under way."""
    with contextlib.suppress(Exception):
        client.stop()
    with contextlib.suppress(Exception):
        client.close()


async def _answer(result: Any) -> Any:
    """The value of an asynchronous result of the library, waited for in the event loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def hand_over(_: Any) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)

    def settle() -> None:
        if not future.done():
            if result.exception is not None:
                future.set_exception(result.exception)
            else:
                future.set_result(result.value)

    result.rawlink(hand_over)
    async with asyncio.timeout(ANSWER_S):
        return await future
