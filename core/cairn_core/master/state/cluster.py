"""Everything the master knows, in tables of records, and the invariants that hold between them.

Readers may look at the tables between two facts; only this package writes. The methods are what
all rules share: emitting effects, timers, storing in the registry.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cairn_core.extensions import AgentId, Allocator, FrameworkId
from cairn_core.master.state.effects import (
    AllocationNeeded,
    Effect,
    StoreRegistry,
    ToLink,
    ToStream,
)
from cairn_core.master.state.records import (
    AgentRecord,
    FrameworkRecord,
    KnownAgent,
    MasterRecord,
    OfferRecord,
    Quota,
)
from cairn_core.master.state.settings import Settings
from cairn_core.mesos.agent_api import Hello, Inventory, MasterMessage
from cairn_core.mesos.scheduler_api import Event
from cairn_core.replog.interface import Record
from cairn_core.resources import Resources
from cairn_core.vips.addresses import Addresses
from cairn_core.vips.shares import Shares


@dataclass(slots=True, eq=False)
class Joining:
    """A link whose agent is not registered yet: it said Hello and sends its inventory.

    A new agent has its id here before it is told, which is once the registry has it.
    deadline: monotonic seconds when its place goes to another.
    """

    link: int
    hello: Hello
    agent_id: AgentId
    deadline: float
    parts: list[Inventory] = field(default_factory=list)
    tasks: int = 0


@dataclass(slots=True)
class VipTable:
    """Named VIPs; see `vips`, which alone writes here.

    addresses: of all names that have some, also of those in `storing` and `leaving`.
    names_of: what a task asks for, by framework id and task id; without tasks that ask for nothing.
    uses: how many tasks ask for a name. askers: the framework of one of them. shares: the framework
        that each name of `addresses` counts for, the first that asked for it as far as is known.
    idle: names with addresses that none asks for, and since when (monotonic seconds), the oldest
        first.
    wanted: names that the fact being handled asks for first. refused: names that are asked for and
        got no address, and why. storing, leaving: names of which a record is on its way.
    timer: when the oldest idle name is looked at.
    """

    addresses: Addresses
    shares: Shares[str]
    names_of: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    askers: dict[str, str] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    wanted: dict[str, None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    storing: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)
    timer: float | None = None


@dataclass(slots=True)
class Cluster:
    """The tables.

    frameworks: connected ones, those waited for, and recovered ones, by id.
    completed_frameworks: ended ones, oldest first.
    agents: registered with this master, connected or not, by id.
    recovered_agents: in the registry as admitted, not back yet since this master was elected.
    unreachable_agents, gone_agents: as the registry has them.
    transitions: agents of which a change is on its way to the registry.
    offers: all outstanding ones, by id.
    quotas, weights: as the registry has them, by role; a role that is absent has the default.
    vips: names of VIPs and their addresses.
    counts: events since start under the names of the original's metrics (`master/...`).
    pids: pid to agent id, of `agents`. unheard: agent process (session) to the id that it was
        given and has not used yet. queue_end: when the last place in the queue of joiners is.
    streams: stream id to framework id. links: link to agent id. joining: links before that.
    port_changes: agents whose resting ports the fact being handled changed; what rested before.
    now, wall: time of the fact that is being handled. out: its effects so far.
    """

    master: MasterRecord
    epoch: int
    allocator: Allocator
    settings: Settings = field(default_factory=Settings)
    frameworks: dict[str, FrameworkRecord] = field(default_factory=dict)
    completed_frameworks: OrderedDict[str, FrameworkRecord] = field(default_factory=OrderedDict)
    agents: dict[str, AgentRecord] = field(default_factory=dict)
    recovered_agents: dict[str, KnownAgent] = field(default_factory=dict)
    unreachable_agents: dict[str, KnownAgent] = field(default_factory=dict)
    gone_agents: dict[str, KnownAgent] = field(default_factory=dict)
    transitions: set[str] = field(default_factory=set)
    offers: dict[str, OfferRecord] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    streams: dict[str, FrameworkId] = field(default_factory=dict)
    links: dict[int, AgentId] = field(default_factory=dict)
    joining: dict[int, Joining] = field(default_factory=dict)
    pids: dict[str, AgentId] = field(default_factory=dict)
    unheard: dict[str, AgentId] = field(default_factory=dict)
    vips: VipTable = field(init=False)
    queue_end: float = 0.0
    port_changes: dict[str, Resources] = field(default_factory=dict)
    now: float = 0.0
    wall: float = 0.0
    out: list[Effect] = field(default_factory=list)
    _timers: list[tuple[float, int, str, str]] = field(default_factory=list)
    _numbers: Counter[str] = field(default_factory=Counter)
    _storing: dict[int, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.settings
        self.vips = VipTable(
            Addresses(settings.vip_ipv4, settings.vip_ipv6),
            Shares(settings.max_vips, settings.max_vips_of_framework, "names"),
        )

    def number(self, what: str) -> int:
        """The next number of a kind, from 0 on; ids are unique because the master's id is."""
        number = self._numbers[what]
        self._numbers[what] += 1
        return number

    def operation_id(self) -> str:
        """An id for one command to an agent, never used again, by whichever master."""
        return f"{self.epoch}.{self.number('operation')}"

    def emit(self, effect: Effect) -> None:
        """Add an effect of the current fact."""
        self.out.append(effect)

    def allocate_soon(self) -> None:
        """The allocator has something new to look at."""
        self.out.append(AllocationNeeded())

    def tell(self, framework: FrameworkRecord, event: Event) -> None:
        """Send an event to a framework; dropped when it is not connected."""
        if framework.stream_id is not None:
            self.out.append(ToStream(framework.stream_id, event))

    def command(self, agent: AgentRecord, message: MasterMessage) -> bool:
        """Send a message to a registered agent; False when it is not connected."""
        if agent.link is None:
            return False
        self.out.append(ToLink(agent.link, message))
        return True

    def wake_at(self, deadline: float, what: str, key: str) -> None:
        """Call the rule for `what` at `deadline`; it checks for itself that it still applies."""
        heapq.heappush(self._timers, (deadline, self.number("timer"), what, key))

    def due(self) -> tuple[str, str] | None:
        """Take out one timer that is due now."""
        if self._timers and self._timers[0][0] <= self.now:
            _, _, what, key = heapq.heappop(self._timers)
            return what, key
        return None

    def next_deadline(self) -> float | None:
        """When the next timer is due."""
        return self._timers[0][0] if self._timers else None

    def store(self, records: Sequence[Record], then: Callable[[], None]) -> None:
        """Write to the registry; `then` runs once the write is durable, in a fact of its own."""
        operation = self.number("store")
        self._storing[operation] = then
        self.out.append(StoreRegistry(operation, tuple(records)))

    def stored(self, operation: int) -> None:
        """A write is durable."""
        self._storing.pop(operation)()
