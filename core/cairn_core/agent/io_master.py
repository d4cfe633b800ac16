"""The agent's side of its connection to the master: found, kept, found again.

One `LinkClient` that tries the configured masters in turn; a follower sends us on to the leader. On
every new connection the agent says Hello; what the rules decide then goes out, and what the master
says goes to the rules. Without a connection nothing is queued: the rules send again what matters
once they are registered.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import cycle
from random import Random

from cairn_core.agent.effects import Fact, MasterDisconnected
from cairn_core.kit.io_link import Channel, LinkClient
from cairn_core.kit.link import Hello as LinkHello
from cairn_core.kit.link import LinkFull, MessageTooLarge
from cairn_core.mesos import agent_api
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage

log = logging.getLogger(__name__)

#: Until the master names its own time.
PING_TIMEOUT_S = 75.0
#: A quarter of the original's: for that long a host is missed after its cable is back.
MAX_BACKOFF_S = 15.0


class MasterLink:
    """Speaks to whoever leads.

    hello: makes the first message of a connection. feed: gives a fact to the rules. Must be made
    inside the loop.
    """

    def __init__(
        self,
        masters: list[tuple[str, int]],
        *,
        hello: Callable[[], agent_api.Hello],
        feed: Callable[[Fact], None],
        session: str,
        rng: Random,
        min_backoff_s: float = 1.0,
    ) -> None:
        self._hello = hello
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._ping_timeout_s = PING_TIMEOUT_S
        self._watch: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._stop: asyncio.Event | None = None
        urls: Iterator[str] = cycle(_url(host, port) for host, port in masters)
        self._client: LinkClient[AgentMessage, MasterMessage] = LinkClient(
            MasterMessage,
            self,
            url=lambda: next(urls),
            session=session,
            rng=rng,
            min_backoff_s=min(min_backoff_s, MAX_BACKOFF_S),
            max_backoff_s=MAX_BACKOFF_S,
        )

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._client.channel.is_open

    async def run(self, stop: asyncio.Event) -> None:
        """A service: connects until told to stop."""
        self._stop = stop
        try:
            await self._client.run(stop)
        finally:
            self._cancel_timers()

    def send(self, message: AgentMessage) -> bool:
        """Send when there is a connection; False when the message was dropped."""
        channel = self._client.channel
        if not channel.is_open:
            return False
        try:
            channel.send(message)
            return True
        except LinkFull:
            # the master does not keep up; a new connection starts with a fresh inventory
            self.disconnect("the master does not take our messages")
            return False
        except MessageTooLarge as error:
            log.error("message to the master dropped reason=%s", error)
            return False

    def disconnect(self, reason: str) -> None:
        """Drop the connection; the next attempt follows."""
        log.warning("dropping the connection to the master reason=%s", reason)
        self._client.channel.close(reason)

    # ---- what the link tells ----------------------------------------------------------------

    def opened(
        self, channel: Channel[AgentMessage, MasterMessage], hello: LinkHello, resumed: bool
    ) -> None:
        log.info("connected to a master resumed=%s", resumed)
        self._arm()
        self.send(self._hello())

    def received(
        self, channel: Channel[AgentMessage, MasterMessage], messages: list[MasterMessage]
    ) -> None:
        for message in messages:
            match message:
                case agent_api.Admission():
                    self._admission(message)
                case agent_api.Welcome():
                    self._ping_timeout_s = message.ping_timeout_s
                    log.info(
                        "welcomed by the master agent=%s epoch=%d", message.agent_id, message.epoch
                    )
                case agent_api.Registered():
                    log.info("registered expected=%d", len(message.expected))
                case _:
                    pass
            self._arm()
            self._feed(message)

    def closed(self, channel: Channel[AgentMessage, MasterMessage], reason: str) -> None:
        self._cancel_timers()
        if self._stop is None or not self._stop.is_set():
            log.warning("connection to the master lost reason=%s", reason)
        self._feed(MasterDisconnected())

    def _admission(self, admission: agent_api.Admission) -> None:
        delay = max(0.0, min(admission.retry_after_s, 600.0))
        if admission.problem is not None:
            log.warning(
                "not admitted, trying again delay=%.1fs reason=%s", delay, admission.problem
            )
        if self._again is not None:
            self._again.cancel()
        self._again = self._loop.call_later(delay, self._say_hello)

    def _say_hello(self) -> None:
        self._again = None
        self.send(self._hello())

    def _arm(self) -> None:
        """A master that leads pings; silence means that it does not, or that packets get lost."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_later(self._ping_timeout_s, self._silent)

    def _silent(self) -> None:
        self._watch = None
        self.disconnect(f"no message for {self._ping_timeout_s:g} s")

    def _cancel_timers(self) -> None:
        for handle in (self._watch, self._again):
            if handle is not None:
                handle.cancel()
        self._watch = self._again = None


def _url(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}{agent_api.PATH}"
