"""Probes of health and readiness checks: HTTP, HTTPS without verifying, TCP.

At most `limit` are at work at once; more wait their turn, so that an app with many instances
cannot take all descriptors.
"""

import asyncio
import ssl
from collections.abc import Callable
from types import TracebackType

import aiohttp
from yarl import URL

from cairn_core.errors import cause
from cairn_scheduler.marathon.effects import Probe, Probed

#: Longest answer that is read, bytes.
MAX_BODY_BYTES = 65536


class Prober:
    """Runs probes; use it as a context. found: called with each result."""

    def __init__(self, found: Callable[[Probed], None], limit: int = 256) -> None:
        self._found = found
        self._turn = asyncio.Semaphore(limit)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Prober":
        # What is probed has whatever certificate it likes, as in the original.
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=trusting, force_close=True),
            headers={"User-Agent": "cairn-marathon"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def start(self, probe: Probe) -> None:
        """Run a probe when it is its turn."""
        task = asyncio.create_task(self._run(probe), name="probe")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, probe: Probe) -> None:
        async with self._turn:
            try:
                async with asyncio.timeout(probe.timeout_s):
                    result = await self._ask(probe)
            except TimeoutError:
                result = Probed(probe.key, False, failure=f"timeout after {probe.timeout_s:g} s")
            except (aiohttp.ClientError, OSError, ValueError) as error:
                result = Probed(probe.key, False, failure=cause(error))
        self._found(result)

    async def _ask(self, probe: Probe) -> Probed:
        if probe.scheme == "tcp":
            _, writer = await asyncio.open_connection(probe.host, probe.port)
            writer.close()
            return Probed(probe.key, True)
        assert self._session is not None
        host = f"[{probe.host}]" if ":" in probe.host else probe.host
        path = probe.path if probe.path.startswith("/") else f"/{probe.path}"
        url = URL(f"{probe.scheme}://{host}:{probe.port}{path}")
        async with self._session.get(url, allow_redirects=False) as answer:
            status = answer.status
            good = 200 <= status < 400 if probe.statuses is None else status in probe.statuses
            body, kind = "", ""
            if probe.keep_body:
                raw = await answer.content.read(MAX_BODY_BYTES)
                body, kind = raw.decode(errors="replace"), answer.content_type
        failure = "" if good else f"status {status}"
        return Probed(probe.key, good, status, failure, kind, body)
