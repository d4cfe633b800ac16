"""Carries out what the rules want done with containers, and tells them how each one ended.

One coroutine per container stays from its launch, or from the agent's restart, to its end. All of
them live in the agent's group of tasks.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from cairn_core.agent import io_sandbox
from cairn_core.agent.containerizer.errors import ContainerizerError, UnknownContainer
from cairn_core.agent.effects import (
    ContainerLaunched,
    ContainerTerminated,
    Fact,
    LaunchContainer,
    UpdateContainer,
)
from cairn_core.agent.io_containers import Containers
from cairn_core.agent.io_disk import DiskUse
from cairn_core.errors import CairnError
from cairn_core.mesos.types import ContainerID, ContainerStatus, IPAddress, NetworkInfo, Reason

log = logging.getLogger(__name__)


class Runner:
    """Containers of one agent.

    feed: gives a fact to the rules. defer: does something once all effects decided so far are
    carried out. disk: entered while a sandbox is made. ip: of containers without a network of
    their own.
    """

    def __init__(
        self,
        containers: Containers,
        *,
        feed: Callable[[Fact], None],
        defer: Callable[[Callable[[], None]], None],
        disk: DiskUse,
        ip: str,
    ) -> None:
        self.launch_errors = 0
        self._containers = containers
        self._feed = feed
        self._defer = defer
        self._disk = disk
        self._ip = ip
        #: Launches that have not reached the containerizer, and those of them to be dropped.
        self._launching: set[str] = set()
        self._doomed: set[str] = set()

    async def launch(self, launch: LaunchContainer) -> None:
        """Make the sandbox, start the container, stay until it has ended."""
        container_id, config = launch.container_id, launch.config
        self._launching.add(container_id)
        try:
            async with self._disk.making():
                await asyncio.to_thread(io_sandbox.create, Path(config.sandbox), config.user)
        except (OSError, ValueError) as error:
            self._launching.discard(container_id)
            self._failed(container_id, f"cannot make the sandbox: {error}")
            return
        if container_id in self._doomed:
            self._doomed.discard(container_id)
            self._launching.discard(container_id)
            self._feed(ContainerTerminated(container_id))
            return
        launching = asyncio.ensure_future(self._containers.launch(container_id, config))
        self._launching.discard(container_id)
        try:
            await launching
        except UnknownContainer as error:
            self._failed(container_id, error.message)
            return
        except ContainerizerError:
            self.launch_errors += 1  # the containerizer has logged why
        else:
            self._feed(ContainerLaunched(container_id, await self.status(container_id)))
        await self.watch(container_id)

    def _failed(self, container_id: str, message: str) -> None:
        self.launch_errors += 1
        log.warning("container not launched id=%s reason=%s", container_id, message)
        reason = Reason.CONTAINER_LAUNCH_FAILED
        self._feed(ContainerTerminated(container_id, None, reason, message))

    async def watch(self, container_id: str) -> None:
        """Wait for the end of a container and tell the rules."""
        try:
            end = await self._containers.wait(container_id)
        except UnknownContainer:
            self._feed(ContainerTerminated(container_id))
            return
        self._feed(ContainerTerminated(container_id, end.status, end.reason, end.message))
        # only once what follows from it is on disk: the exit status is nowhere else
        self._defer(lambda: self._containers.forget(container_id))

    async def status(self, container_id: str) -> ContainerStatus | None:
        """What is known of a container; without a network of its own it has the agent's address."""
        try:
            status = await self._containers.status(container_id)
        except (CairnError, OSError):
            return None
        if not status.network_infos:
            protocol = "IPv6" if ":" in self._ip else "IPv4"
            own = NetworkInfo(ip_addresses=(IPAddress(protocol=protocol, ip_address=self._ip),))
            status = replace(status, network_infos=(own,))
        return replace(status, container_id=status.container_id or ContainerID(container_id))

    async def update(self, update: UpdateContainer) -> None:
        """Change what a container may use."""
        try:
            await self._containers.update(update.container_id, update.requests, update.limits)
        except UnknownContainer:
            pass  # it ended meanwhile
        except (CairnError, OSError) as error:
            log.error("container not resized id=%s reason=%s", update.container_id, error)

    async def destroy(self, container_id: str) -> None:
        """End a container, also one whose launch has just begun."""
        if container_id in self._launching:
            self._doomed.add(container_id)
            return
        try:
            await self._containers.destroy(container_id)
        except UnknownContainer:
            self._feed(ContainerTerminated(container_id))
