"""Many agents in one process, over real links to a real master; their tasks are only names.

    async with SimulatedAgents("http://127.0.0.1:5050", count=50) as agents:
        await agents.registered()
        ...
        agents.running     # ids of the tasks that run

For benchmarks and tests of masters and frameworks. A task runs after `start_s` and until it is
killed. Updates are kept until they are acknowledged and sent again with the next connection.
"""

import asyncio
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from types import TracebackType

from cairn_core.kit.io_link import Channel, LinkClient
from cairn_core.kit.link import Hello as LinkHello
from cairn_core.mesos import agent_api, types
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.mesos.types import Reason, Source, TaskState, TaskStatus
from cairn_core.resources import Resources

#: Longest wait for the registration of all, seconds.
WAIT_S = 60.0


@dataclass(slots=True)
class SimulatedTask:
    """A task; `updates` are not acknowledged yet, oldest first."""

    info: types.TaskInfo
    framework: types.FrameworkInfo
    state: TaskState = TaskState.STAGING
    updates: deque[TaskStatus] = field(default_factory=deque)


class SimulatedAgent:
    """One agent: what the master sees of it."""

    def __init__(self, owner: "SimulatedAgents", number: int) -> None:
        self.number = number
        self.agent_id: types.AgentID | None = None
        self.registered = False
        self.tasks: dict[tuple[str, str], SimulatedTask] = {}
        self._owner = owner
        self._epoch = 0
        self._session = str(uuid.uuid4())
        self.client: LinkClient[AgentMessage, MasterMessage] = LinkClient(
            MasterMessage,
            self,
            url=lambda: owner.master + agent_api.PATH,
            session=self._session,
            rng=owner.rng,
            max_backoff_s=1.0,
        )

    # The link

    def opened(
        self, channel: Channel[AgentMessage, MasterMessage], hello: LinkHello, resumed: bool
    ) -> None:
        """Connected."""
        self._hello()

    def received(
        self, channel: Channel[AgentMessage, MasterMessage], messages: list[MasterMessage]
    ) -> None:
        """The master says something."""
        for message in messages:
            self._epoch = max(self._epoch, getattr(message, "epoch", 0))
            self._take(message)

    def closed(self, channel: Channel[AgentMessage, MasterMessage], reason: str) -> None:
        """The connection is gone."""
        self.registered = False

    def _send(self, message: AgentMessage) -> None:
        if self.client.channel.is_open:
            self.client.channel.send(message)

    def _hello(self) -> None:
        number = self.number
        address = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self._send(
            agent_api.Hello(
                protocol_min=1,
                protocol_max=1,
                agent_id=self.agent_id,
                boot_id="boot",
                session=self._session,
                epoch=self._epoch,
                pid=f"slave(1)@{address}:5051",
                info=types.AgentInfo(address, resources=self._owner.resources),
                version="1.11.0",
            )
        )

    def _take(self, message: MasterMessage) -> None:
        match message:
            case agent_api.Admission(retry_after_s):
                asyncio.get_running_loop().call_later(retry_after_s, self._hello)
            case agent_api.Welcome():
                self.agent_id = message.agent_id
                self._inventory(message.agent_id)
            case agent_api.Registered(expected):
                self.registered = True
                self._owner.joined()
                for missing in expected:
                    self._missing(missing)
                for task in self.tasks.values():
                    self._forward(task)
            case agent_api.RunTask():
                self._run(message)
            case agent_api.KillTask():
                self._change((message.framework_id.value, message.task_id.value), TaskState.KILLED)
            case agent_api.Acknowledge():
                self._acknowledge(message)
            case agent_api.Ping():
                self._send(agent_api.Pong())
            case _:
                pass

    def _inventory(self, agent_id: types.AgentID) -> None:
        """List what runs."""
        frameworks = {t.framework.id: t.framework for t in self.tasks.values()}
        self._send(agent_api.Inventory(frameworks=tuple(frameworks.values())))
        for task in self.tasks.values():
            assert task.framework.id is not None
            listed = types.Task(
                task.info.name,
                task.info.task_id,
                task.framework.id,
                agent_id,
                task.state,
                resources=task.info.resources,
            )
            self._send(agent_api.Inventory(tasks=(listed,)))
        self._send(agent_api.Inventory(last=True))

    # Tasks

    def _run(self, run: agent_api.RunTask) -> None:
        assert run.framework.id is not None
        key = (run.framework.id.value, run.task.task_id.value)
        self._owner.launches[key[1]] += 1
        self.tasks[key] = SimulatedTask(run.task, run.framework)
        self._owner.running.add(key[1])
        self._owner.most = max(self._owner.most, len(self._owner.running))
        asyncio.get_running_loop().call_later(
            self._owner.start_s, self._change, key, TaskState.RUNNING
        )

    def _change(self, key: tuple[str, str], state: TaskState) -> None:
        task = self.tasks.get(key)
        if task is None or task.state.is_terminal:
            return
        task.state = state
        if state.is_terminal:
            self._owner.running.discard(key[1])
        self._report(task, state, Source.EXECUTOR, None)

    def _missing(self, expected: agent_api.Expected) -> None:
        """The master thinks that a task is here, and it is not."""
        key = (expected.framework_id.value, expected.task_id.value)
        if key in self.tasks:
            return
        state = TaskState.DROPPED if expected.partition_aware else TaskState.LOST
        info = types.TaskInfo("", expected.task_id, self.agent_id or types.AgentID(""))
        framework = types.FrameworkInfo("", "", id=expected.framework_id)
        task = self.tasks[key] = SimulatedTask(info, framework, state)
        self._report(task, state, Source.AGENT, Reason.RECONCILIATION)

    def _report(
        self, task: SimulatedTask, state: TaskState, source: Source, reason: Reason | None
    ) -> None:
        status = TaskStatus(
            task.info.task_id,
            state,
            source=source,
            reason=reason,
            agent_id=self.agent_id,
            timestamp=time.time(),
            uuid=uuid.uuid4().bytes,
        )
        task.updates.append(status)
        if len(task.updates) == 1:
            self._forward(task)

    def _forward(self, task: SimulatedTask) -> None:
        """Send the oldest update."""
        if task.updates and self.registered and task.framework.id is not None:
            self._send(agent_api.Update(task.framework.id, task.updates[0], task.state))

    def _acknowledge(self, message: agent_api.Acknowledge) -> None:
        key = (message.framework_id.value, message.task_id.value)
        task = self.tasks.get(key)
        if task is None or not task.updates or task.updates[0].uuid != message.uuid:
            return
        if task.updates.popleft().state.is_terminal:
            del self.tasks[key]
        else:
            self._forward(task)


class SimulatedAgents:
    """See the module. resources: of each agent, as a flag's text.

    launches: how often each task was started; more than once is a fault of the master.
    most: the most tasks that were there at once.
    """

    def __init__(
        self,
        master: str,
        *,
        count: int,
        resources: str = "cpus:64;mem:262144;disk:100000;ports:[31000-32000]",
        start_s: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.master = master.rstrip("/")
        self.resources = tuple(Resources.parse(resources).to_wire())
        self.start_s = start_s
        self.rng = Random(seed)
        self.running: set[str] = set()
        self.launches: Counter[str] = Counter()
        self.most = 0
        self.agents: list[SimulatedAgent] = []
        self._count = count
        self._stop = asyncio.Event()
        self._complete = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "SimulatedAgents":
        self.agents = [SimulatedAgent(self, number + 1) for number in range(self._count)]
        self._tasks = [
            asyncio.create_task(agent.client.run(self._stop), name=f"agent-{agent.number}")
            for agent in self.agents
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        await asyncio.wait(self._tasks, timeout=5.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def joined(self) -> None:
        """An agent was registered."""
        if all(agent.registered for agent in self.agents):
            self._complete.set()

    async def registered(self) -> None:
        """Wait until the master has taken all of them. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            await self._complete.wait()
