"""Many agents in one process, each with a real link to a real master and no containers.

    python -m cairn_core.testing.sim_agents --port 5050 --agents 5000

They register, list what they were given, answer RunTask with TASK_RUNNING and KillTask with
TASK_KILLED, repeat an update until it is acknowledged, and say their tasks' health again at a
given rate, as agents with health checks do. One line of JSON with counters goes to standard
output every second; a line `rate <updates per second>` on standard input sets the rate, and the
end of the input ends the program. The messages are also what benchmarks without sockets use.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import uvloop

from cairn_core.kit.io_link import Channel, LinkClient
from cairn_core.kit.link import Hello as LinkHello
from cairn_core.mesos import agent_api, containers, types
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.mesos.types import TaskState
from cairn_core.resources import Resources

#: Tasks in one message of an inventory.
CHUNK = 50
TOTAL = Resources.parse("cpus:24;mem:65536;disk:100000;ports:[31000-32000]")
_WIRE_TOTAL = tuple(TOTAL.to_wire())


def framework_info(number: int, master_id: str) -> types.FrameworkInfo:
    """A framework that survives its scheduler."""
    return types.FrameworkInfo(
        user="nobody",
        name=f"framework{number}",
        id=types.FrameworkID(f"{master_id}-{number:04}"),
        failover_timeout=604800.0,
        checkpoint=True,
        roles=(f"role{number % 20}",),
        capabilities=(types.Capability("MULTI_ROLE"), types.Capability("PARTITION_AWARE")),
        webui_url="http://127.0.0.1:8080",
    )


def agent_hello(number: int, agent_id: str | None, epoch: int = 0) -> agent_api.Hello:
    """What an agent says first; each number has an address of its own."""
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    attributes = types.Attribute("rack", "TEXT", text=types.Text(f"r{number % 40}"))
    return agent_api.Hello(
        protocol_min=1,
        protocol_max=1,
        agent_id=types.AgentID(agent_id) if agent_id is not None else None,
        boot_id="5c1e6f4e-8f2f-4c5a-9d5e-0b1e3f5a7c9d",
        session=f"session-{number}",
        epoch=epoch,
        pid=f"slave(1)@{address}:5051",
        info=types.AgentInfo(f"host{number}", resources=_WIRE_TOTAL, attributes=(attributes,)),
        version="1.11.0",
        capabilities=("MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT"),
    )


def typical_task(
    task_id: str, agent_id: str, framework_id: types.FrameworkID, index: int, role: str = "*"
) -> types.Task:
    """A task as Marathon's are: with labels, a port, discovery, and the status it reported."""
    port = 31000 + index
    size = Resources.parse(f"cpus:0.5;mem:256;ports:[{port}-{port}]")
    return types.Task(
        "web.shop.example",
        types.TaskID(task_id),
        framework_id,
        types.AgentID(agent_id),
        TaskState.RUNNING,
        resources=tuple(size.to_wire(allocation_role=role)),
        statuses=(running(task_id, agent_id, healthy=True),),
        status_update_state=TaskState.RUNNING,
        labels=types.Labels(
            (types.Label("HAPROXY_GROUP", "external"), types.Label("VIP_0", "/web:80"))
        ),
        discovery=types.DiscoveryInfo(
            "FRAMEWORK",
            name="web.shop.example",
            ports=types.Ports((types.Port(port, name="http", protocol="tcp"),)),
        ),
    )


def running(task_id: str, agent_id: str, *, healthy: bool) -> types.TaskStatus:
    """An update that says RUNNING, with the container's address."""
    number = hash(task_id)
    address = f"9.0.{number >> 8 & 255}.{number & 255}"
    network = containers.NetworkInfo((containers.IPAddress(ip_address=address),))
    return types.TaskStatus(
        types.TaskID(task_id),
        TaskState.RUNNING,
        source="SOURCE_EXECUTOR",
        agent_id=types.AgentID(agent_id),
        timestamp=time.time(),
        uuid=uuid.uuid4().bytes,
        healthy=healthy,
        container_status=containers.ContainerStatus(network_infos=(network,)),
    )


def inventory(
    frameworks: Sequence[types.FrameworkInfo], tasks: Sequence[types.Task]
) -> Iterator[agent_api.Inventory]:
    """What an agent lists, in parts."""
    yield agent_api.Inventory(frameworks=tuple(frameworks))
    for start in range(0, len(tasks), CHUNK):
        yield agent_api.Inventory(tasks=tuple(tasks[start : start + CHUNK]))
    yield agent_api.Inventory(last=True)


class SimAgents:
    """All agents, and what they have done so far. Made inside the loop."""

    def __init__(self, port: int, count: int, *, seed: int = 1) -> None:
        self.port = port
        #: Updates per second that running tasks make by themselves.
        self.rate = 0.0
        self.registrations = self.launched = self.acknowledged = self.losses = 0
        self.ids: list[tuple[_Agent, types.TaskID]] = []
        self._rng = Random(seed)
        self.agents = [_Agent(self, number, Random(seed + number)) for number in range(count)]

    def counters(self) -> dict[str, float]:
        """Figures of now."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "registered": sum(agent.registered for agent in self.agents),
            "registrations": self.registrations,
            "launched": self.launched,
            "acknowledged": self.acknowledged,
            "waiting": sum(len(agent.unacknowledged) for agent in self.agents),
            "losses": self.losses,
            "cpu_s": used.ru_utime + used.ru_stime,
        }

    async def run(self, stop: asyncio.Event) -> None:
        """A service: keeps every link up until told to stop."""
        async with asyncio.TaskGroup() as group:
            for agent in self.agents:
                group.create_task(agent.client.run(stop))
            group.create_task(self._update(stop))

    async def _update(self, stop: asyncio.Event) -> None:
        due = 0.0
        stopping = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            await asyncio.wait({stopping}, timeout=0.05)
            due = min(due + self.rate * 0.05, self.rate)
            while due >= 1 and self.ids:
                due -= 1
                agent, task_id = self._rng.choice(self.ids)
                agent.say_health(task_id)


class _Agent:
    """One agent: its tasks survive its links."""

    def __init__(self, owner: SimAgents, number: int, rng: Random) -> None:
        self.owner = owner
        self.number = number
        self.agent_id: types.AgentID | None = None
        self.epoch = 0
        self.registered = False
        self.frameworks: dict[types.FrameworkID, types.FrameworkInfo] = {}
        self.tasks: dict[types.TaskID, types.Task] = {}
        #: Oldest first; the head was sent.
        self.unacknowledged: dict[types.TaskID, deque[types.TaskStatus]] = {}
        self.client: LinkClient[AgentMessage, MasterMessage] = LinkClient(
            MasterMessage,
            self,
            url=lambda: f"http://127.0.0.1:{owner.port}{agent_api.PATH}",
            session=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            rng=rng,
            min_backoff_s=0.5,
            max_backoff_s=4.0,
        )

    # What the link tells

    def opened(
        self, channel: Channel[AgentMessage, MasterMessage], hello: LinkHello, resumed: bool
    ) -> None:
        self._hello()

    def closed(self, channel: Channel[AgentMessage, MasterMessage], reason: str) -> None:
        self.registered = False
        self.owner.losses += 1

    def received(
        self, channel: Channel[AgentMessage, MasterMessage], messages: list[MasterMessage]
    ) -> None:
        for message in messages:
            match message:
                case agent_api.Admission(retry_after_s):
                    asyncio.get_running_loop().call_later(retry_after_s, self._hello)
                case agent_api.Welcome():
                    self.agent_id, self.epoch = message.agent_id, message.epoch
                    for part in inventory([*self.frameworks.values()], [*self.tasks.values()]):
                        channel.send(part)
                case agent_api.Registered():
                    self.registered = True
                    self.owner.registrations += 1
                    for task_id in self.unacknowledged:
                        self._forward(task_id)
                case agent_api.RunTask():
                    self._launch(message)
                case agent_api.KillTask(task_id=task_id):
                    self._end(task_id)
                case agent_api.Acknowledge():
                    self._acknowledged(message)
                case agent_api.Ping():
                    channel.send(agent_api.Pong())
                case agent_api.ShutdownFramework(framework_id=framework_id):
                    for gone in [
                        t for t, x in self.tasks.items() if x.framework_id == framework_id
                    ]:
                        self._forget(gone)
                case _:
                    continue

    def _hello(self) -> None:
        if self.client.channel.is_open and not self.registered:
            agent_id = self.agent_id.value if self.agent_id is not None else None
            self.client.channel.send(agent_hello(self.number, agent_id, self.epoch))

    # Tasks

    def _launch(self, run: agent_api.RunTask) -> None:
        assert self.agent_id is not None
        assert run.framework.id is not None
        task_id = run.task.task_id
        if task_id in self.tasks:
            return
        self.frameworks[run.framework.id] = run.framework
        status = running(task_id.value, self.agent_id.value, healthy=True)
        self.tasks[task_id] = types.Task(
            run.task.name,
            task_id,
            run.framework.id,
            self.agent_id,
            TaskState.RUNNING,
            resources=run.task.resources,
            statuses=(status,),
            status_update_state=TaskState.RUNNING,
            labels=run.task.labels,
            discovery=run.task.discovery,
        )
        self.owner.launched += 1
        self.owner.ids.append((self, task_id))
        self._report(task_id, status)

    def say_health(self, task_id: types.TaskID) -> None:
        """The task's health changed; nothing happens while its last update waits."""
        task = self.tasks.get(task_id)
        if task is None or self.agent_id is None or self.unacknowledged.get(task_id):
            return
        healthy = not task.statuses[-1].healthy
        self._report(task_id, running(task_id.value, self.agent_id.value, healthy=healthy))

    def _end(self, task_id: types.TaskID) -> None:
        if task_id in self.tasks:
            status = types.TaskStatus(
                task_id,
                TaskState.KILLED,
                source="SOURCE_EXECUTOR",
                agent_id=self.agent_id,
                timestamp=time.time(),
                uuid=uuid.uuid4().bytes,
            )
            self._report(task_id, status)

    def _report(self, task_id: types.TaskID, status: types.TaskStatus) -> None:
        waiting = self.unacknowledged.setdefault(task_id, deque())
        waiting.append(status)
        if len(waiting) == 1:
            self._forward(task_id)

    def _forward(self, task_id: types.TaskID) -> None:
        task, waiting = self.tasks.get(task_id), self.unacknowledged.get(task_id)
        if task is not None and waiting and self.registered:
            self.client.channel.send(
                agent_api.Update(task.framework_id, waiting[0], waiting[-1].state)
            )

    def _acknowledged(self, message: agent_api.Acknowledge) -> None:
        waiting = self.unacknowledged.get(message.task_id)
        if not waiting or waiting[0].uuid != message.uuid:
            return
        self.owner.acknowledged += 1
        if waiting.popleft().state.is_terminal:
            self._forget(message.task_id)
        elif waiting:
            self._forward(message.task_id)
        else:
            del self.unacknowledged[message.task_id]

    def _forget(self, task_id: types.TaskID) -> None:
        self.tasks.pop(task_id, None)
        self.unacknowledged.pop(task_id, None)


async def serve(port: int, count: int) -> None:
    """The program: see the module."""
    agents = SimAgents(port, count)
    stop = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )

    async def obey() -> None:
        while line := await reader.readline():
            word, _, value = line.decode().partition(" ")
            if word == "rate":
                agents.rate = float(value)
        stop.set()

    async def tell() -> None:
        stopping: asyncio.Task[Any] = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            print(json.dumps(agents.counters()), flush=True)
            await asyncio.wait({stopping}, timeout=1.0)

    async with asyncio.TaskGroup() as group:
        group.create_task(agents.run(stop))
        group.create_task(obey())
        group.create_task(tell())


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Many simulated agents for one master.")
    parser.add_argument("--port", type=int, required=True, help="of the master on 127.0.0.1")
    parser.add_argument("--agents", type=int, required=True, help="how many")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.agents))


if __name__ == "__main__":
    main()
