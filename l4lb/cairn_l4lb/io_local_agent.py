"""Asks this host's agent for its tasks while the view of the cluster is stale.

In the original each node asked its own agent all the time, and told the others; here masters tell
all, and the agent is what is left when none of them answers: what starts and ends on this host is
still seen here.  Source: dcos/minuteman `src/minuteman_mesos_poller.erl`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from cairn_core.clusterview.io_access import MasterAccess
from cairn_core.clusterview.state_json import BadState, read_state
from cairn_core.errors import RemoteError, Unavailable, shorten
from cairn_core.kit.backoff import Backoff
from cairn_core.kit.http_client import HttpClient
from cairn_core.mesos.feed_rows import AgentRow, FrameworkRow, Row, TaskRow

log = logging.getLogger(__name__)

STATE_PATH = "/state"
#: A larger answer is no agent's, bytes.
MAX_BYTES = 64 * 1024 * 1024
#: How often the age of the view is looked at, at least, seconds.
LOOK_S = 1.0

#: Told the id of the agent and its rows, or None when it is not to speak for itself any more.
Told: TypeAlias = Callable[[str, Sequence[Row] | None], None]


class _Executor(Struct, gc=False):
    tasks: list[Raw] = []
    queued_tasks: list[Raw] = []


class _Framework(Struct, gc=False):
    id: str
    name: str = ""
    executors: list[_Executor] = []


class _Agent(Struct, gc=False):
    id: str
    frameworks: list[_Framework]
    pid: str = ""
    hostname: str = ""
    domain: Raw = Raw(b"null")


_decoder = msgspec.json.Decoder(_Agent)


def read_agent_state(body: bytes) -> tuple[str, list[Row]]:
    """The id of an agent and the rows of its `/state`: its tasks, their frameworks, and itself.

    Raises BadState.  Tasks that make no sense are left out, as those of a master are.
    """
    try:
        agent = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadState(f"state of an agent: {shorten(str(error))}") from None
    if not agent.id or not agent.pid:
        raise BadState("state of an agent: it has no id yet")
    # A master's state has the same tasks, only not below executors; so there is one reader.
    place = {"id": agent.id, "pid": agent.pid, "hostname": agent.hostname, "domain": agent.domain}
    frameworks = [
        {
            "id": framework.id,
            "name": framework.name,
            "tasks": [task for executor in framework.executors for task in executor.tasks],
        }
        for framework in agent.frameworks
    ]
    told = {"id": agent.id, "leader": agent.pid, "slaves": [place], "frameworks": frameworks}
    rows = read_state(msgspec.json.encode(told)).rows
    return agent.id, [row for row in rows if isinstance(row, TaskRow | FrameworkRow | AgentRow)]


class LocalAgent:
    """Asks while the view is stale.

    url: of the agent, without a path. age_s: of the view, seconds, infinite while there is none.
    told: called in the event loop with what changed. stale_s: the view may be so old.
    period_s: between two questions; max_period_s: at most, while no answer comes.
    """

    def __init__(
        self,
        url: str,
        age_s: Callable[[], float],
        told: Told,
        rng: Random,
        *,
        access: MasterAccess | None = None,
        stale_s: float = 30.0,
        period_s: float = 2.0,
        max_period_s: float = 60.0,
        timeout_s: float = 10.0,
    ) -> None:
        #: The agent that speaks for itself; empty while none does.
        self.agent_id = ""
        #: Why the last question had no answer; empty when it had one, or none was asked.
        self.problem = ""
        self.questions = 0
        #: Whether it was asked, or need not be.
        self.tried = asyncio.Event()
        self._url = url.rstrip("/")
        self._age_s = age_s
        self._told = told
        self._access = access or MasterAccess()
        self._stale_s = stale_s
        self._period_s = period_s
        self._timeout_s = timeout_s
        self._backoff = Backoff(period_s, max(period_s, max_period_s), rng)
        self._rows: list[Row] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Look after the view until `stop`."""
        stopping = asyncio.create_task(stop.wait(), name="agent-stop")
        turning = asyncio.create_task(self._turns(), name="agent-turns")
        try:
            # an agent that does not answer holds up nobody's end
            await asyncio.wait({stopping, turning}, return_when=asyncio.FIRST_COMPLETED)
            if turning.done():
                turning.result()
        finally:
            stopping.cancel()
            turning.cancel()
            await asyncio.gather(turning, return_exceptions=True)

    async def _turns(self) -> None:
        async with self._access.client(total_s=self._timeout_s) as http:
            while True:
                wait_s = await self._turn(http)
                self.tried.set()
                await asyncio.sleep(wait_s)

    async def _turn(self, http: HttpClient) -> float:
        """Ask if need be; seconds to the next turn."""
        if self._age_s() < self._stale_s:
            self._end()
            return min(LOOK_S, max(0.01, self._stale_s / 10))
        try:
            agent_id, rows = await self._ask(http)
        except (RemoteError, Unavailable) as error:
            # Differs: Minuteman withdraws all backends of an agent that is silent for a minute;
            # its tasks outlive it, so what is known holds until somebody knows better.
            if str(error) != self.problem:
                log.warning("agent does not answer url=%s reason=%s", self._url, error)
            self.problem = str(error)
            return self._backoff.next()
        self.problem = ""
        self._backoff.reset()
        # The view may have become fresh in the meantime.
        if self._age_s() >= self._stale_s:
            self._speaks(agent_id, rows)
        return self._period_s

    async def _ask(self, http: HttpClient) -> tuple[str, list[Row]]:
        self.questions += 1
        reply = await http.request(
            "GET", self._url + STATE_PATH, headers=await self._access.headers(), limit=MAX_BYTES
        )
        if reply.status == 401:
            self._access.refused()
        return read_agent_state(reply.expect(200).body)

    def _speaks(self, agent_id: str, rows: list[Row]) -> None:
        if agent_id != self.agent_id:
            self._end()
            log.warning("view of the cluster is stale, following the agent id=%s", agent_id)
        elif rows == self._rows:
            return
        self.agent_id, self._rows = agent_id, rows
        self._told(agent_id, rows)

    def _end(self) -> None:
        """The agent does not speak for itself any more."""
        self.problem = ""
        if not self.agent_id:
            return
        log.info("agent is not followed any more id=%s", self.agent_id)
        agent_id, self.agent_id, self._rows = self.agent_id, "", []
        self._backoff.reset()
        self._told(agent_id, None)
