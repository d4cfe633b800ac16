"""What an agent needs around it in a test: a master that speaks its link, and containers of air.

    async with FakeAgentMaster() as master, FakeContainers() as containers:
        agent = Agent(config(master.port, tmp_path), containers, ...)
        ...
        await master.registered()
        master.run_task(framework, task)
        update = await master.update("TASK_RUNNING")

The master admits everybody, remembers what it was told and acknowledges only when asked to. The
containers live in this object and survive the agents of one test, as real ones do.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from cairn_core.agent.containerizer.errors import LaunchFailed, UnknownContainer
from cairn_core.agent.containerizer.runtime_dir import ContainerTermination
from cairn_core.extensions import Amounts, ContainerConfig, Limitation
from cairn_core.kit.http_server import Handler, HttpServer, Router
from cairn_core.kit.io_link import Channel, LinkServer
from cairn_core.kit.link import Hello as LinkHello
from cairn_core.mesos import agent_api
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.mesos.types import (
    AgentID,
    ContainerID,
    ContainerStatus,
    FrameworkInfo,
    KillPolicy,
    MasterInfo,
    Resource,
    ResourceStatistics,
    Scalar,
    TaskID,
    TaskInfo,
    TaskStatus,
)

#: Longest wait of a test, seconds.
WAIT_S = 20.0
AGENT_ID = "11111111-2222-4333-8444-555555555555-S0"
MASTER_INFO = MasterInfo(id="11111111-2222-4333-8444-555555555555", ip=16777343, hostname="master")


async def until(condition: Callable[[], Any], what: str = "condition") -> Any:
    """Wait for a condition with a deadline; gives its value."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not (value := condition()):  # noqa: ASYNC110 - conditions come from anywhere
                await asyncio.sleep(0.005)
            return value
    except TimeoutError:
        raise AssertionError(f"waited {WAIT_S:g} s for {what}") from None


def scalars(**amounts: float) -> tuple[Resource, ...]:
    """Wire resources: `scalars(cpus=0.5, mem=32)`."""
    return tuple(
        Resource(name=name, type="SCALAR", scalar=Scalar(value)) for name, value in amounts.items()
    )


class FakeAgentMaster:
    """The master's end of the agent link. agent_id: given to agents without one."""

    def __init__(self, *, epoch: int = 1, agent_id: str = AGENT_ID, port: int = 0) -> None:
        self.epoch = epoch
        self.agent_id = agent_id
        #: Everything that agents said, oldest first.
        self.said: list[AgentMessage] = []
        self.expected: tuple[agent_api.Expected, ...] = ()
        #: Answer to Hello instead of Welcome.
        self.admission: agent_api.Admission | None = None
        self._port = port
        self._operations = itertools.count()
        self._acknowledged: set[bytes] = set()
        self._channel: Channel[MasterMessage, AgentMessage] | None = None
        self._links: LinkServer[MasterMessage, AgentMessage] | None = None
        self._server: HttpServer | None = None

    async def __aenter__(self) -> "FakeAgentMaster":
        self._links = LinkServer(AgentMessage, self)
        router: Router[Handler] = Router()
        router.add(agent_api.PATH, self._links.upgrade)
        self._server = HttpServer(router)
        await self._server.start(("127.0.0.1", self._port))
        self._port = self._server.port
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Cut everything and listen no more; harmless twice."""
        if self._links is not None:
            self._links.close()
            self._links = None
        if self._server is not None:
            await self._server.drain(0.0)
            self._server = None
        self._channel = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    # ---- the link ---------------------------------------------------------------------------

    def opened(
        self, channel: Channel[MasterMessage, AgentMessage], hello: LinkHello, resumed: bool
    ) -> None:
        self._channel = channel

    def received(
        self, channel: Channel[MasterMessage, AgentMessage], messages: list[AgentMessage]
    ) -> None:
        for message in messages:
            self.said.append(message)
            if isinstance(message, agent_api.Hello):
                agent_id = message.agent_id or AgentID(self.agent_id)
                welcome = agent_api.Welcome(agent_id, self.epoch, 75.0, MASTER_INFO)
                channel.send(self.admission or welcome)
            elif isinstance(message, agent_api.Inventory) and message.last:
                channel.send(agent_api.Registered(self.expected))
            elif (
                isinstance(message, agent_api.Update) and message.status.uuid in self._acknowledged
            ):
                self.acknowledge(message)  # as a scheduler does with what it knows

    def closed(self, channel: Channel[MasterMessage, AgentMessage], reason: str) -> None:
        if self._channel is channel:
            self._channel = None

    def cut(self) -> None:
        """Drop the connection of the agent."""
        if self._channel is not None:
            self._channel.close("cut by the test")

    # ---- commands ---------------------------------------------------------------------------

    def send(self, message: MasterMessage) -> None:
        """Say something to the agent."""
        assert self._channel is not None, "no agent is connected"
        self._channel.send(message)

    def run_task(self, framework: FrameworkInfo, task: TaskInfo) -> None:
        """Launch a task."""
        operation = f"op-{next(self._operations)}"
        self.send(agent_api.RunTask(self.epoch, operation, framework, task))

    def kill_task(
        self, framework: FrameworkInfo, task_id: str, policy: KillPolicy | None = None
    ) -> None:
        """End a task."""
        assert framework.id is not None
        operation = f"op-{next(self._operations)}"
        self.send(agent_api.KillTask(self.epoch, operation, framework.id, TaskID(task_id), policy))

    def acknowledge(self, update: agent_api.Update) -> None:
        """Confirm an update."""
        assert update.status.uuid is not None
        self._acknowledged.add(update.status.uuid)
        self.send(
            agent_api.Acknowledge(
                self.epoch, update.framework_id, update.status.task_id, update.status.uuid
            )
        )

    # ---- what was said ----------------------------------------------------------------------

    async def registered(self, times: int = 1) -> None:
        """Wait until an agent has listed what it has, for the n-th time."""
        await until(
            lambda: sum(isinstance(m, agent_api.Inventory) and m.last for m in self.said) >= times,
            f"registration number {times}",
        )

    async def update(self, state: str, task_id: str | None = None) -> agent_api.Update:
        """Wait for an update of this state."""

        def found() -> agent_api.Update | None:
            for message in self.said:
                if (
                    isinstance(message, agent_api.Update)
                    and message.status.state == state
                    and task_id in (None, message.status.task_id.value)
                ):
                    return message
            return None

        update = await until(found, f"{state} of {task_id or 'any task'}")
        assert isinstance(update, agent_api.Update)
        return update

    async def acknowledged(self, state: str, task_id: str | None = None) -> TaskStatus:
        """Wait for an update and confirm it."""
        update = await self.update(state, task_id)
        self.acknowledge(update)
        return update.status

    def inventory(self) -> list[agent_api.Inventory]:
        """Parts of the newest inventory."""
        parts: list[agent_api.Inventory] = []
        for message in self.said:
            if isinstance(message, agent_api.Hello):
                parts = []
            elif isinstance(message, agent_api.Inventory):
                parts.append(message)
        return parts


class FakeContainers:
    """A containerizer that starts nothing; the test ends containers by hand."""

    def __init__(self) -> None:
        self.configs: dict[str, ContainerConfig] = {}
        self.ended: dict[str, asyncio.Future[ContainerTermination]] = {}
        self.updates: list[tuple[str, Amounts]] = []
        self.destroyed: list[str] = []
        self.forgotten: list[str] = []
        #: Message with which the next launches fail.
        self.refusal: str | None = None
        #: Limits that containers have gone over.
        self.limitations: dict[str, Limitation] = {}
        #: What `wait` answers after a destruction.
        self.on_destroy = ContainerTermination(9)

    def traces(self) -> set[str]:
        """Every container that ever started."""
        return set(self.configs)

    def running(self) -> list[str]:
        """Ids of containers that have not ended."""
        return [cid for cid, future in self.ended.items() if not future.done()]

    def end(self, container_id: str, termination: ContainerTermination) -> None:
        """A container ends by itself."""
        self.ended[container_id].set_result(termination)

    async def recover(self, known: Mapping[str, ContainerConfig | None]) -> set[str]:
        """Keep what is known, end all others."""
        strangers = {cid for cid in self.running() if cid not in known}
        for cid in strangers:
            await self.destroy(cid)
        return strangers

    async def launch(self, container_id: str, config: ContainerConfig) -> int:
        """Start a container."""
        self.configs[container_id] = config
        future = self.ended[container_id] = asyncio.get_running_loop().create_future()
        if self.refusal is not None:
            future.set_result(
                ContainerTermination(None, "REASON_CONTAINER_LAUNCH_FAILED", self.refusal)
            )
            raise LaunchFailed(container_id, self.refusal)
        return 4711

    def decorated(self, framework_id: str, status: TaskStatus) -> TaskStatus:
        """Without hooks."""
        return status

    async def limitation(self, container_id: str) -> Limitation | None:
        """As the test set it."""
        return self.limitations.get(container_id)

    async def update(self, container_id: str, requests: Amounts, limits: Amounts | None) -> None:
        """Note what was asked for."""
        self.updates.append((container_id, requests))

    async def destroy(
        self, container_id: str, reason: str | None = None, message: str = ""
    ) -> ContainerTermination:
        """End a container."""
        future = self.ended.get(container_id)
        if future is None:
            raise UnknownContainer(container_id)
        self.destroyed.append(container_id)
        if not future.done():
            future.set_result(self.on_destroy)
        return future.result()

    async def wait(self, container_id: str) -> ContainerTermination:
        """Wait for the end."""
        if container_id not in self.ended:
            raise UnknownContainer(container_id)
        return await asyncio.shield(self.ended[container_id])

    async def usage(self, container_id: str) -> ResourceStatistics:
        """Figures that are easy to recognise."""
        if container_id not in self.running():
            raise UnknownContainer(container_id)
        return ResourceStatistics(timestamp=1.0, cpus_limit=0.6, mem_rss_bytes=4096)

    async def status(self, container_id: str) -> ContainerStatus:
        """A process and nothing else."""
        if container_id not in self.running():
            raise UnknownContainer(container_id)
        return ContainerStatus(container_id=ContainerID(container_id), executor_pid=4711)

    def forget(self, container_id: str) -> None:
        """Note that the agent needs it no more."""
        self.forgotten.append(container_id)
