"""Asks a master for its `/state` now and then: works with any master of Apache Mesos.

Costly for the master, hence seldom; the node feed and the event stream are the better sources.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random, SystemRandom

from cairn_core.errors import RemoteError, Unavailable, shorten
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.http_client import HttpClient
from cairn_core.mesos.feed_rows import Row

from .state_json import read_state

log = logging.getLogger(__name__)

STATE_PATH = "/master/state"
#: Bytes of one `/state` that are read.
MAX_STATE_BYTES = 512 * 1024 * 1024
#: Decoding more than this would stop the event loop for too long, so a thread does it.
DECODE_IN_THREAD_BYTES = 64 * 1024
RETRY_MIN_S = 0.5


class StatePoller:
    """Asks masters in turn; whoever redirects to the leader or leads will do.

    changed: called in the event loop with all rows, and whether another master speaks than
    before. period_s: from the end of one answer to the next question, seconds > 0.
    """

    def __init__(
        self,
        masters: Sequence[str],
        changed: Callable[[list[Row], bool], None],
        *,
        period_s: float = 30.0,
        timeout_s: float = 300.0,
        rng: Random | None = None,
    ) -> None:
        #: Loop time of the last good answer; None before the first.
        self.heard_at: float | None = None
        self._masters = [url.rstrip("/") for url in masters]
        self._changed = changed
        self._period_s = period_s
        self._timeout_s = timeout_s
        self._backoff = Backoff(RETRY_MIN_S, max(RETRY_MIN_S, period_s), rng or SystemRandom())
        self._master_id: str | None = None
        self._turn = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop`."""
        async with HttpClient(total_s=self._timeout_s) as http:
            while not stop.is_set():
                wait_s = await self._ask(http)
                try:
                    async with asyncio.timeout(wait_s):
                        await stop.wait()
                except TimeoutError:
                    continue

    async def _ask(self, http: HttpClient) -> float:
        """Ask once and return how long to wait."""
        master = self._masters[self._turn % len(self._masters)]
        try:
            reply = await http.request("GET", master + STATE_PATH, limit=MAX_STATE_BYTES)
            body = reply.expect(200).body
            if len(body) > DECODE_IN_THREAD_BYTES:
                master_id, rows = await asyncio.to_thread(read_state, body)
            else:
                master_id, rows = read_state(body)
        except (Unavailable, RemoteError) as error:
            self._turn += 1
            wait_s = self._backoff.next()
            log.warning("no state from=%s reason=%s next in %.1f s", master,
                        shorten(str(error)), wait_s)  # fmt: skip
            return wait_s
        self._backoff.reset()
        self.heard_at = asyncio.get_running_loop().time()
        another = self._master_id not in (None, master_id)
        self._master_id = master_id
        self._changed(rows, another)
        return self._period_s
