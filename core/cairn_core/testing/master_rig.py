"""A master's rules at arm's length: say facts, look at what each side was told.

Writes of the registry are durable at once unless `hold_writes` is set; the allocator runs when
`allocate` is called. Every fact is followed by the check of the invariants.
"""

from collections import defaultdict

from cairn_core.extensions import Allocator, FrameworkId
from cairn_core.master.registry import RegistryImage
from cairn_core.master.state.cluster import Cluster
from cairn_core.master.state.core import MasterCore
from cairn_core.master.state.effects import (
    Changed,
    CloseLink,
    CloseStream,
    Effect,
    Reply,
    StoreRegistry,
    ToLink,
    ToStream,
)
from cairn_core.master.state.invariants import check
from cairn_core.master.state.records import MasterRecord
from cairn_core.master.state.settings import Settings
from cairn_core.mesos import agent_api, scheduler_api, types
from cairn_core.mesos.agent_api import AgentMessage, MasterMessage
from cairn_core.mesos.scheduler_api import Call, Event
from cairn_core.mesos.types import TaskState
from cairn_core.resources import Resources

MASTER_ID = "11111111-2222-4333-8444-555555555555"
INFO = types.MasterInfo(MASTER_ID, 16777343, pid="master@127.0.0.1:5050", hostname="master1")


class MasterRig:
    """One master with hand-made frameworks and agents."""

    def __init__(
        self,
        allocator: Allocator,
        settings: Settings | None = None,
        registry: RegistryImage | None = None,
        *,
        epoch: int = 1,
    ) -> None:
        self.now = 1000.0
        self.wall = 1_800_000_000.0
        self.hold_writes = False
        self.held: list[StoreRegistry] = []
        self.stored: list[StoreRegistry] = []
        self.events: defaultdict[str, list[Event]] = defaultdict(list)
        self.messages: defaultdict[int, list[MasterMessage]] = defaultdict(list)
        self.closed_streams: list[str] = []
        self.closed_links: list[int] = []
        self.replies: dict[int, Reply] = {}
        self.changes: list[Changed] = []
        self.core = MasterCore(
            MasterRecord(INFO, self.wall, self.wall), allocator, settings or Settings()
        )
        self.do(
            self.core.lead(
                epoch, registry or RegistryImage(), default_weights={}, now=self.now, wall=self.wall
            )
        )

    @property
    def cluster(self) -> Cluster:
        """The tables."""
        return self.core.cluster

    def do(self, effects: list[Effect]) -> None:
        """Take note of effects."""
        check(self.cluster)
        for effect in effects:
            match effect:
                case ToStream(stream_id, event):
                    self.events[stream_id].append(event)
                case ToLink(link, message):
                    self.messages[link].append(message)
                case CloseStream(stream_id):
                    self.closed_streams.append(stream_id)
                case CloseLink(link):
                    self.closed_links.append(link)
                case Reply(request):
                    self.replies[request] = effect
                case StoreRegistry():
                    self.held.append(effect)
                case _:
                    self.changes.append(effect)  # type: ignore[arg-type]  # all else are changes
        if not self.hold_writes:
            self.write()

    def write(self) -> None:
        """Make durable what waits for it."""
        while self.held:
            effect = self.held.pop(0)
            self.stored.append(effect)
            self.do(self.core.stored(effect.operation, now=self.now, wall=self.wall))

    def allocate(self) -> None:
        """A round of the allocator."""
        self.pass_time(1.0)
        self.cluster.allocator.tick(now=self.now)
        more = True
        while more:
            result = self.cluster.allocator.step(now=self.now, max_agents=100)
            more = result.more
            self.do(self.core.allocated(result.allocations, now=self.now, wall=self.wall))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; timers ring when they are due."""
        end = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.wall += max(0.0, due - self.now)
            self.now = max(self.now, due)
            self.do(self.core.expire(now=self.now, wall=self.wall))
        self.wall += end - self.now
        self.now = end

    # Frameworks

    def subscribe(
        self, stream_id: str, call: scheduler_api.Subscribe, principal: str | None = None
    ) -> list[Event]:
        """Open a stream; returns what came on it."""
        self.do(self.core.subscribe(stream_id, call, principal, now=self.now, wall=self.wall))
        return self.events[stream_id]

    def framework(self, name: str = "web", **fields: object) -> str:
        """Subscribe a framework on the stream `name`; returns its id."""
        info = types.FrameworkInfo(user="nobody", name=name, **fields)  # type: ignore[arg-type]  # by name
        events = self.subscribe(name, scheduler_api.Subscribe(info))
        subscribed = events[-1].subscribed
        assert subscribed is not None, events[-1]
        return subscribed.framework_id.value

    def call(self, framework_id: str, kind: str, **body: object) -> list[Event]:
        """A call of a framework; returns the events that it led to."""
        framework = self.cluster.frameworks[FrameworkId(framework_id)]
        stream_id = framework.stream_id or ""
        before = len(self.events[stream_id])
        call = Call(type=kind, framework_id=types.FrameworkID(framework_id), **body)  # type: ignore[arg-type]  # by name
        self.do(self.core.call(framework_id, call, now=self.now, wall=self.wall))
        return self.events[stream_id][before:]

    def accept(
        self,
        framework_id: str,
        *tasks: types.TaskInfo,
        offers: list[str] | None = None,
        operations: tuple[scheduler_api.Operation, ...] | None = None,
        refuse_s: float = 5.0,
    ) -> list[Event]:
        """Launch tasks on all outstanding offers, or on those named."""
        framework = self.cluster.frameworks[FrameworkId(framework_id)]
        chosen = list(framework.offers) if offers is None else offers
        if operations is None:
            launch = scheduler_api.Launch(tasks)
            operations = (scheduler_api.Operation("LAUNCH", launch=launch),)
        body = scheduler_api.Accept(
            tuple(types.OfferID(o) for o in chosen), operations, types.Filters(refuse_s)
        )
        return self.call(framework_id, "ACCEPT", accept=body)

    # Agents

    def say(self, link: int, *messages: AgentMessage) -> list[MasterMessage]:
        """An agent says something; returns what the master answered."""
        before = len(self.messages[link])
        for message in messages:
            self.do(self.core.agent_message(link, message, now=self.now, wall=self.wall))
        return self.messages[link][before:]

    def hello(
        self,
        link: int,
        *,
        agent_id: str | None = None,
        resources: str = "cpus:4;mem:4096;ports:[31000-32000]",
        **fields: object,
    ) -> agent_api.Hello:
        """A Hello; by default the agents of two links are two agents."""
        values: dict[str, object] = {
            "protocol_min": 1,
            "protocol_max": 1,
            "agent_id": types.AgentID(agent_id) if agent_id is not None else None,
            "boot_id": "boot",
            "session": f"session-{link}",
            "epoch": 0,
            "pid": f"slave(1)@10.0.0.{link}:5051",
            "info": types.AgentInfo(
                f"host{link}", resources=tuple(Resources.parse(resources).to_wire())
            ),
            "version": "1.11.0",
        }
        return agent_api.Hello(**{**values, **fields})  # type: ignore[arg-type]  # by name

    def agent(self, link: int = 1, **fields: object) -> str:
        """Register an agent that runs nothing; returns its id."""
        answers = self.say(link, self.hello(link, **fields))  # type: ignore[arg-type]  # by name
        welcome = answers[-1]
        assert isinstance(welcome, agent_api.Welcome), welcome
        registered = self.say(link, agent_api.Inventory(last=True))
        assert isinstance(registered[0], agent_api.Registered)
        return welcome.agent_id.value

    def close_link(self, link: int) -> None:
        """The connection breaks."""
        self.do(self.core.link_closed(link, now=self.now, wall=self.wall))

    def update(
        self,
        link: int,
        framework_id: str,
        task_id: str,
        state: TaskState,
        *,
        uuid: bytes | None = None,
        latest: TaskState | None = None,
        **fields: object,
    ) -> bytes:
        """The agent sends a status update; returns its uuid."""
        uuid = uuid or state.encode().ljust(16)[-16:]
        status = types.TaskStatus(
            types.TaskID(task_id),
            state,
            uuid=uuid,
            timestamp=self.wall,
            agent_id=types.AgentID(self.cluster.links[link]),
            **fields,  # type: ignore[arg-type]  # by name
        )
        self.say(link, agent_api.Update(types.FrameworkID(framework_id), status, latest or state))
        return uuid


def task(
    task_id: str, agent_id: str, resources: str = "cpus:1;mem:128", **fields: object
) -> types.TaskInfo:
    """A task with a command, unless `fields` say otherwise."""
    values: dict[str, object] = {
        "command": types.CommandInfo(value="sleep 1000"),
        "resources": tuple(Resources.parse(resources).to_wire()),
    }
    return types.TaskInfo(
        f"name of {task_id}",
        types.TaskID(task_id),
        types.AgentID(agent_id),
        **{**values, **fields},  # type: ignore[arg-type]  # by name
    )
