"""The line to the Mesos master: events become facts, effects become calls, in order.

A call that fails without the subscription ending leaves open whether it arrived; then `lost` is
told, and the rules ask the master how things are. After a disconnection they do so anyway.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import assert_never

from msgspec.structs import replace

from cairn_core.errors import RemoteError, Unavailable, shorten
from cairn_core.framework.io_client import Notice, NotSubscribed, SchedulerClient
from cairn_core.mesos.scheduler_api import Launch, Operation
from cairn_core.mesos.types import AgentID, Capability, FrameworkID, FrameworkInfo, OfferID, TaskID
from cairn_scheduler.marathon.config import MarathonConfig
from cairn_scheduler.marathon.effects import (
    AcceptOffer,
    AcknowledgeUpdate,
    Call,
    DeclineOffers,
    ReconcileTasks,
    ReviveOffers,
    SendKill,
    SuppressOffers,
    UseRoles,
)

log = logging.getLogger(__name__)

#: Calls that may wait before the master's events are not read any more.
MAX_WAITING = 4096
#: Acknowledgements that are on their way at once; their order does not matter.
MAX_ACKNOWLEDGING = 16


def framework_info(
    config: MarathonConfig, framework_id: str | None, roles: tuple[str, ...], user: str, url: str
) -> FrameworkInfo:
    """How we register. user: of tasks that name none. url: of our pages."""
    capabilities = ["MULTI_ROLE", "PARTITION_AWARE", "REGION_AWARE"]
    if "task_killing" in config.enable_features:
        capabilities.append("TASK_KILLING_STATE")
    if "gpu_resources" in config.enable_features:
        capabilities.append("GPU_RESOURCES")
    return FrameworkInfo(
        user=user,
        name=config.framework_name,
        id=FrameworkID(framework_id) if framework_id is not None else None,
        failover_timeout=config.failover_timeout,
        checkpoint=config.checkpoint,
        roles=roles,
        hostname=config.hostname or None,
        principal=config.mesos_authentication_principal or None,
        webui_url=config.webui_url or url,
        capabilities=tuple(Capability(name) for name in capabilities),
    )


class MesosLine:
    """Queue of calls and the client that makes them. lost: a call's fate is not known."""

    def __init__(
        self,
        config: MarathonConfig,
        framework: FrameworkInfo,
        handle: Callable[[Notice], Awaitable[None]],
        lost: Callable[[], None],
    ) -> None:
        principal = config.mesos_authentication_principal
        self.client = SchedulerClient(
            config.masters(),
            framework,
            handle,
            credential=(principal, config.secret()) if principal else None,
        )
        self.sent = 0
        self.failed = 0
        self._framework = framework
        self._lost = lost
        self._waiting: deque[Call] = deque()
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._turn = asyncio.Semaphore(MAX_ACKNOWLEDGING)
        self._acknowledging: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, call: Call) -> None:
        """Queue a call."""
        self._waiting.append(call)
        if len(self._waiting) >= MAX_WAITING:
            self._room.clear()
        self._work.set()

    async def room(self) -> None:
        """Wait until there is room for more."""
        await self._room.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Stay subscribed and make the calls until `stop`. Raises FrameworkEnded."""
        calling = asyncio.create_task(self._call_all(), name="mesos-calls")
        subscribed = asyncio.create_task(self.client.run(stop), name="mesos-client")
        try:
            done, _ = await asyncio.wait({calling, subscribed}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks = (calling, subscribed, *self._acknowledging)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _call_all(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._waiting:
                call = self._waiting.popleft()
                if isinstance(call, AcknowledgeUpdate):
                    await self._turn.acquire()
                    task = asyncio.create_task(self._acknowledge(call), name="mesos-acknowledge")
                    self._acknowledging.add(task)
                    task.add_done_callback(self._acknowledging.discard)
                else:
                    await self._make(call)
                if len(self._waiting) < MAX_WAITING:
                    self._room.set()

    async def _acknowledge(self, call: AcknowledgeUpdate) -> None:
        try:
            await self._make(call)
        finally:
            self._turn.release()

    async def _make(self, call: Call) -> None:
        try:
            await self._send(call)
            self.sent += 1
        except NotSubscribed:
            # A new subscription asks for everything again.
            self.failed += 1
        except (Unavailable, RemoteError) as error:
            self.failed += 1
            log.warning("call failed call=%s reason=%s", type(call).__name__, shorten(str(error)))
            # An update that is not acknowledged comes again by itself.
            if self.client.subscribed and not isinstance(call, UseRoles | AcknowledgeUpdate):
                self._lost()

    async def _send(self, call: Call) -> None:
        client = self.client
        match call:
            case AcceptOffer(offer_id, tasks, refuse_s):
                launch = Operation(type="LAUNCH", launch=Launch(tasks))
                await client.accept([OfferID(offer_id)], [launch], refuse_s)
            case DeclineOffers(offer_ids, refuse_s):
                await client.decline([OfferID(o) for o in offer_ids], refuse_s)
            case SendKill(task_id, agent_id):
                agent = AgentID(agent_id) if agent_id is not None else None
                await client.kill(TaskID(task_id), agent)
            case AcknowledgeUpdate(status):
                await client.acknowledge(status)
            case ReviveOffers(roles):
                await client.revive(roles)
            case SuppressOffers(roles):
                await client.suppress(roles)
            case ReconcileTasks(body):
                await client.reconcile(body)
            case UseRoles(roles):
                self._framework = replace(self._framework, roles=roles)
                await client.update_framework(self._framework)
            case _:
                assert_never(call)
