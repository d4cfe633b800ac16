"""Asks a master for its `/state` now and then: works with any master of Apache Mesos.

Costly for the master, hence seldom; the node feed and the event stream are the better sources.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from yarl import URL

from cairn_core.kit.http_client import CannotConnect, HttpClient

from .io_access import MasterAccess
from .io_decode import decode_told
from .io_follow import check_status
from .masters import join_place
from .state_json import BadState, Told

log = logging.getLogger(__name__)

STATE_PATH = "/master/state"
#: Compat: what the original asks with.
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "gzip", "Connection": "close"}


class StatePoller:
    """Polling as a source.

    changed: awaited with each whole cluster. period_s: from the end of one answer to the next
    question, seconds > 0. timeout_s: for one answer.
    """

    def __init__(
        self,
        access: MasterAccess,
        changed: Callable[[Told], Awaitable[None]],
        *,
        period_s: float = 30.0,
        timeout_s: float = 300.0,
    ) -> None:
        self.heard_at: float | None = None
        self._access = access
        self._changed = changed
        self._period_s = period_s
        self._timeout_s = timeout_s

    async def visit(self, http: HttpClient, url: str) -> None:
        """Ask until an answer does not come, or is none.  Raises Unavailable, RemoteError."""
        while True:
            url = await self._reload(http, url)
            await asyncio.sleep(self._period_s)

    async def _reload(self, http: HttpClient, url: str) -> str:
        """Get one state; returns the base URL that gave it."""
        told = await self._ask(http, url)
        address = told.leader[0]
        if not told.led and address and address != URL(url).host:
            # Compat: the leader is asked at the port first used, whatever port it names
            first = URL(url)
            url = f"{first.scheme}://{join_place(address, first.port or 5050)}"
            log.info("another master leads, asking url=%s", url)
            told = await self._ask(http, url)
        self.heard_at = asyncio.get_running_loop().time()
        await self._changed(told)
        return url

    async def _ask(self, http: HttpClient, url: str) -> Told:
        headers = {**_HEADERS, **await self._access.headers()}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                http.stream("GET", url + STATE_PATH, headers=headers, idle_s=None) as reply,
            ):
                # Differs: the original takes a state with any status
                check_status(reply, self._access)
                return await decode_told("state", reply.chunks())
        except TimeoutError:
            raise CannotConnect(url, f"timed out after {self._timeout_s:g} s") from None
        except BadState as error:
            raise BadState(f"{url}: {error}") from None
