"""The master's end of the agents' links: messages in as facts, effects out as messages.

Each connection is a link with a number of its own, and starts with an agent's Hello; a session of
the transport is never continued, because the rules say again what matters once an agent is
registered anew.
"""

import asyncio
import itertools
import logging
from typing import Protocol

from cairn_core.kit.http_server import Answer, Handler, Router
from cairn_core.kit.http_types import Request
from cairn_core.kit.io_link import Channel, LinkServer
from cairn_core.kit.link import Hello as LinkHello
from cairn_core.kit.link import LinkFull, MessageTooLarge
from cairn_core.master.http_context import MasterContext, check_leader
from cairn_core.mesos import agent_api
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage

log = logging.getLogger(__name__)

#: A link is closed this long after its last message, so that the agent gets it.
LINGER_S = 1.0


class AgentFacts(Protocol):
    """Where the facts go."""

    def agent_message(self, link: int, message: AgentMessage) -> None:
        """An agent sent something."""

    def link_closed(self, link: int) -> None:
        """A link is closed."""


class AgentLinks:
    """All links. Made inside the loop."""

    def __init__(self, facts: AgentFacts, *, idle_s: float) -> None:
        """idle_s: silence of the transport after which a connection is cut."""
        self._facts = facts
        self._numbers = itertools.count(1)
        self._channels: dict[int, Channel[MasterMessage, AgentMessage]] = {}
        self._loop = asyncio.get_running_loop()
        self._server: LinkServer[MasterMessage, AgentMessage] = LinkServer(
            AgentMessage, self, idle_s=idle_s, resume_s=0.0
        )

    def __len__(self) -> int:
        return len(self._channels)

    def mount(self, router: Router[Handler], master: MasterContext) -> None:
        """Add the route; only a leader that has recovered takes agents."""

        async def upgrade(request: Request) -> Answer:
            check_leader(master, request)
            return await self._server.upgrade(request)

        router.add(agent_api.PATH, upgrade)

    def send(self, link: int, message: MasterMessage) -> None:
        """Queue a message; an agent that does not keep up loses its link."""
        channel = self._channels.get(link)
        if channel is None:
            return
        if isinstance(message, agent_api.Admission) and message.problem is not None:
            log.warning("agent refused link=%d reason=%s", link, message.problem)
        try:
            channel.send(message)
        except LinkFull:
            log.warning("agent does not keep up, closing its link link=%d", link)
            self._loop.call_soon(channel.close, "the agent does not take our messages")
        except MessageTooLarge as error:
            log.error("message to an agent dropped link=%d reason=%s", link, error)

    def close(self, link: int) -> None:
        """Close a link after what is queued; nothing more is taken from it."""
        channel = self._channels.pop(link, None)
        if channel is not None:
            channel.owner = None
            self._loop.call_later(LINGER_S, channel.close)

    def stop(self) -> None:
        """Close everything."""
        self._server.close()

    # What the link server tells

    def opened(
        self, channel: Channel[MasterMessage, AgentMessage], hello: LinkHello, resumed: bool
    ) -> None:
        """A connection is up."""
        if resumed:
            self._loop.call_soon(channel.close, "starting over")
            return
        link = channel.owner = next(self._numbers)
        self._channels[link] = channel

    def received(
        self, channel: Channel[MasterMessage, AgentMessage], messages: list[AgentMessage]
    ) -> None:
        """Messages of one batch."""
        for message in messages:
            if channel.owner is None:
                return
            self._facts.agent_message(channel.owner, message)

    def closed(self, channel: Channel[MasterMessage, AgentMessage], reason: str) -> None:
        """A connection is gone, and its session with it."""
        self._server.forget(channel)
        link, channel.owner = channel.owner, None
        if link is not None and self._channels.pop(link, None) is not None:
            log.info("agent link closed link=%d reason=%s", link, reason)
            self._facts.link_closed(link)
